//! Reading a stream back: in requests of many with and without acknowledgements, pushed in order, key by key. Every
//! message must come once and in its place.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::Flow;
use super::client::{Client, INBOX, decimal, number};
use super::publish::STREAM;
use crate::bench::broker::process::{PATIENCE, Server};

/// Messages in one request.
pub(super) const BATCH: u64 = 500;
/// Deliveries that may be out unacknowledged: more than two requests.
const ACKS_PENDING: u64 = 4 * BATCH;
const CONSUMER: &str = "c";
/// Where messages are pushed to.
const PUSHED: &str = "bench.pushed";
/// Everything it is asked for, and the requests a client has in flight.
pub(super) const KEYS: u64 = 1000;
const WINDOW: u64 = 500;

/// Whether deliveries are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acks {
    None,
    /// Each one.
    Explicit,
}

/// Fetches what the stream holds, as often as it takes `seconds`.
pub(super) fn fetch(server: &Server, acks: Acks, seconds: f64) -> anyhow::Result<Flow> {
    repeated(seconds, || {
        let mut client = Client::new(server)?;
        let (count, _) = client.state(STREAM)?;
        let policy = if acks == Acks::None { "none" } else { "explicit" };
        let mut config = json!({ "ack_policy": policy, "durable_name": CONSUMER });
        if acks == Acks::Explicit {
            config["max_ack_pending"] = ACKS_PENDING.into();
        }
        create(&mut client, CONSUMER, config)?;
        let flow = Flow::measure(server, count, || fetch_all(&mut client, acks, count))?;
        settled(&mut client, acks)?;
        Ok(flow)
    })
}

fn create(client: &mut Client, name: &str, config: Value) -> anyhow::Result<()> {
    client.delete(&format!("$JS.API.CONSUMER.DELETE.{STREAM}.{name}"))?;
    client.create_consumer(STREAM, name, config)
}

/// One request at a time, and the next with the acknowledgements of the last.
fn fetch_all(client: &mut Client, acks: Acks, count: u64) -> anyhow::Result<()> {
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}");
    let body = format!(r#"{{"batch":{BATCH},"expires":{}}}"#, Duration::from_secs(10).as_nanos());
    let (mut taken, mut requests) = (0, 0u64);
    let mut replies: Vec<Vec<u8>> = Vec::new();
    while taken < count {
        for reply in replies.drain(..) {
            client.put(&reply, b"", b"+ACK");
        }
        requests += 1;
        let inbox = format!("{INBOX}fetch.{requests}");
        client.put(next.as_bytes(), inbox.as_bytes(), body.as_bytes());
        client.flush()?;
        for _ in 0..BATCH.min(count - taken) {
            let frame = client.next().with_context(|| format!("{taken} of {count} messages came"))?;
            ensure!(frame.headers.is_empty(), "no message: {}", frame.headers.escape_ascii());
            let (seq, pending) = delivered(frame.reply)?;
            ensure!(seq == taken + 1, "message {} came as {seq}", taken + 1);
            ensure!(pending == count - seq, "{pending} are said to be behind {seq} of {count}");
            if acks == Acks::Explicit {
                replies.push(frame.reply.to_vec());
            }
            taken += 1;
        }
    }
    for reply in replies {
        client.put(&reply, b"", b"+ACK");
    }
    client.flush()
}

/// The sequence of a delivery and how many are behind it:
/// `$JS.ACK.<stream>.<consumer>.<count>.<seq>.<delivery>.<time>.<pending>`.
fn delivered(reply: &[u8]) -> anyhow::Result<(u64, u64)> {
    let mut tokens = reply.rsplit(|byte| *byte == b'.');
    let mut token = || tokens.next().with_context(|| format!("no delivery: {}", reply.escape_ascii()));
    let pending = number(token()?)?;
    token()?;
    token()?;
    Ok((number(token()?)?, pending))
}

/// Waits until the consumer has nothing to deliver and nothing out.
fn settled(client: &mut Client, acks: Acks) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info = client.ask(&format!("$JS.API.CONSUMER.INFO.{STREAM}.{CONSUMER}"), &Value::Null)?;
        let of = |name: &str| info[name].as_u64();
        ensure!(of("num_pending") == Some(0), "not everything was delivered: {info}");
        if acks == Acks::None || of("num_ack_pending") == Some(0) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not everything is acknowledged: {info}");
    }
}

/// Has the stream pushed, as an ordered consumer asks for it, as often as it takes `seconds`.
pub(super) fn push(server: &Server, seconds: f64) -> anyhow::Result<Flow> {
    repeated(seconds, || {
        let mut client = Client::new(server)?;
        let (count, _) = client.state(STREAM)?;
        // By its own name: who listens with a wildcard is nobody whom nats-server pushes to.
        client.listen(PUSHED)?;
        Flow::measure(server, count, || {
            let config = json!({ "ack_policy": "none", "deliver_subject": PUSHED, "flow_control": true,
                "idle_heartbeat": Duration::from_secs(5).as_nanos() as u64, "max_deliver": 1, "mem_storage": true,
                "num_replicas": 1, "inactive_threshold": Duration::from_secs(60).as_nanos() as u64 });
            // The answer comes among the messages, which begin at once.
            let body = json!({ "stream_name": STREAM, "config": config });
            let body = serde_json::to_vec(&body)?;
            let subject = format!("$JS.API.CONSUMER.CREATE.{STREAM}");
            client.put(subject.as_bytes(), format!("{INBOX}created").as_bytes(), &body);
            client.flush()?;
            pushed(&mut client, count)
        })
    })
}

fn pushed(client: &mut Client, count: u64) -> anyhow::Result<()> {
    let mut taken = 0;
    let mut answer = Vec::new();
    while taken < count {
        let frame = client.next().with_context(|| format!("{taken} of {count} messages came"))?;
        if frame.subject.ends_with(b".created") {
            let refused = memchr::memmem::find(frame.payload, b"\"error\":").is_some();
            ensure!(!refused, "{}", frame.payload.escape_ascii());
            continue;
        }
        if !frame.headers.is_empty() {
            ensure!(frame.headers.starts_with(b"NATS/1.0 100"), "{}", frame.headers.escape_ascii());
            answer.extend_from_slice(frame.reply);
        } else {
            let (seq, _) = delivered(frame.reply)?;
            ensure!(seq == taken + 1, "message {} came as {seq}", taken + 1);
            taken += 1;
        }
        if !answer.is_empty() {
            // Flow control: the server goes on when it hears that all before was taken.
            client.put(&answer, b"", b"");
            client.flush()?;
            answer.clear();
        }
    }
    Ok(())
}

/// Asks for the last value of key after key.
pub(super) fn get(server: &Server, subjects: &str, seconds: f64) -> anyhow::Result<Flow> {
    let count = (seconds * 100_000.0) as u64;
    repeated(seconds, || {
        let mut client = Client::new(server)?;
        Flow::measure(server, count, || {
            let (mut sent, mut taken) = (0, 0);
            let mut subject = Vec::new();
            while taken < count {
                while sent < count && sent - taken < WINDOW {
                    subject.clear();
                    subject.extend_from_slice(format!("$JS.API.DIRECT.GET.{STREAM}.{subjects}").as_bytes());
                    subject.extend_from_slice(decimal(sent % KEYS, &mut [0; 20]));
                    let inbox = format!("{INBOX}{sent}");
                    client.put(&subject, inbox.as_bytes(), b"");
                    sent += 1;
                }
                client.flush()?;
                got(client.next()?, taken)?;
                taken += 1;
                while let Some(frame) = client.next_here()? {
                    got(frame, taken)?;
                    taken += 1;
                }
            }
            Ok(())
        })
    })
}

fn got(frame: super::client::Frame<'_>, taken: u64) -> anyhow::Result<()> {
    let mut digits = [0; 20];
    let own = frame.subject.strip_prefix(INBOX.as_bytes()) == Some(decimal(taken, &mut digits));
    ensure!(own, "the answer to another question: {}", frame.subject.escape_ascii());
    if frame.payload.is_empty() {
        bail!("no value: {}", frame.headers.escape_ascii());
    }
    Ok(())
}

/// Does it until it took so long, and says how it went in all.
fn repeated(seconds: f64, mut once: impl FnMut() -> anyhow::Result<Flow>) -> anyhow::Result<Flow> {
    let mut all = once()?;
    while all.seconds() < seconds {
        all = all.and(&once()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_says_its_sequence_and_what_is_behind() {
        assert_eq!(delivered(b"$JS.ACK.S.c.1.17.4.1795224779176874806.3").unwrap(), (17, 3));
        assert!(delivered(b"inbox").is_err());
    }
}
