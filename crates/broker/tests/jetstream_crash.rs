//! A server that is killed at random moments under load: what it acknowledged is there, in order, once; what it was told
//! twice is stored once; what was acknowledged to it with an answer does not come again.
//!
//! `OSTLER_CRASH_ROUNDS` says how often it is killed, 30 times in the suite; `OSTLER_CRASH_PROGRAM` names another build of
//! the program, whose file must be called `ostler-broker`.
#![cfg(test)]
#![cfg(all(unix, feature = "bin"))]

mod common;
mod crash;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crash::{Client, Process};
use serde_json::{Value, json};

const PUBLISHERS: usize = 3;
/// Messages on their way at once.
const WINDOW: usize = 48;
/// Messages of one publisher in one round at most.
const ROUND_MAX: u64 = 600;
/// Messages a worker asks for.
const REQUEST: usize = 40;
const STREAMS: [(&str, &str); 2] = [("SAFE", "group"), ("FAST", "process")];

fn rounds() -> usize {
    std::env::var("OSTLER_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// What one publisher knows. Its messages are numbered; the number is the message's id too.
#[derive(Debug, Default)]
struct Publisher {
    stream: &'static str,
    number: usize,
    /// Sent and not acknowledged, the oldest first: sent again after the kill, before anything else.
    unsure: VecDeque<u64>,
    last: u64,
    /// Acknowledged in this round: number and sequence.
    acknowledged: Vec<(u64, u64)>,
    duplicates: u64,
}

impl Publisher {
    /// Publishes until the server is gone.
    fn run(&mut self, address: SocketAddr) {
        let Some(mut client) = Client::connect(address, &format!("_P.{}.{}", self.stream, self.number))
        else {
            return;
        };
        let again: Vec<u64> = self.unsure.iter().copied().collect();
        let most = self.last + ROUND_MAX;
        let mut next_again = 0;
        let mut on_the_way = 0;
        loop {
            let mut batch = String::new();
            while on_the_way < WINDOW {
                let number = if next_again < again.len() {
                    next_again += 1;
                    again[next_again - 1]
                } else if self.last < most {
                    self.last += 1;
                    self.unsure.push_back(self.last);
                    self.last
                } else {
                    break;
                };
                on_the_way += 1;
                self.write(number, &mut batch);
            }
            if !batch.is_empty() && client.send(&batch).is_none() {
                return;
            }
            let Some(came) = client.next() else { return };
            on_the_way -= 1;
            let answer: Value = serde_json::from_slice(&came.payload).expect("an acknowledgement is JSON");
            let seq = answer["seq"].as_u64().filter(|_| answer.get("error").is_none());
            let seq = seq.unwrap_or_else(|| panic!("{} refused: {answer}", came.subject));
            let number: u64 =
                came.subject.rsplit('.').next().and_then(|text| text.parse().ok()).expect("a number");
            assert_eq!(self.unsure.pop_front(), Some(number), "acknowledged out of order");
            self.duplicates += u64::from(answer["duplicate"] == true);
            self.acknowledged.push((number, seq));
        }
    }

    fn write(&self, number: u64, out: &mut String) {
        let (stream, publisher) = (self.stream, self.number);
        let headers = format!("NATS/1.0\r\nNats-Msg-Id: {publisher}-{number}\r\n\r\n");
        let payload = payload(publisher, number);
        let (head, total) = (headers.len(), headers.len() + payload.len());
        let reply = format!("_P.{stream}.{publisher}.{number}");
        out.push_str(&format!("HPUB {stream}.{publisher} {reply} {head} {total}\r\n{headers}{payload}\r\n"));
    }
}

fn payload(publisher: usize, number: u64) -> String {
    format!("{publisher} {number} {}", "x".repeat((number % 97) as usize * 5))
}

/// What a consumer knows: sequences.
#[derive(Debug, Default)]
struct Worker {
    stream: &'static str,
    /// Acknowledged, and that was answered.
    confirmed: HashSet<u64>,
    /// Acknowledged, with or without an answer.
    hoped: HashSet<u64>,
    delivered: u64,
}

impl Worker {
    /// Takes messages until the server is gone.
    fn run(&mut self, address: SocketAddr) {
        let Some(mut client) = Client::connect(address, &format!("_W.{}", self.stream)) else { return };
        let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
        let request = json!({ "batch": REQUEST, "expires": 200_000_000 }).to_string();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.c", self.stream);
        loop {
            let inbox = client.new_inbox();
            if client.send(&format!("PUB {subject} {inbox} {}\r\n{request}\r\n", request.len())).is_none() {
                return;
            }
            let mut left = REQUEST;
            // A request that got all it asked for ends without a word.
            while left > 0 {
                let Some(came) = client.next() else { return };
                if let Some(seq) = waiting.remove(&came.subject) {
                    self.confirmed.insert(seq);
                } else if let Some(seq) = sequence(&came.reply) {
                    self.delivered += 1;
                    left -= 1;
                    assert!(
                        !self.confirmed.contains(&seq),
                        "{} {seq} came again after its acknowledgement was confirmed",
                        self.stream
                    );
                    self.hoped.insert(seq);
                    let (reply, sure) = (client.new_inbox(), seq % 3 > 0);
                    let ack = if sure {
                        waiting.insert(reply.clone(), seq);
                        format!("PUB {} {reply} 0\r\n\r\n", came.reply)
                    } else {
                        format!("PUB {} 0\r\n\r\n", came.reply)
                    };
                    if client.send(&ack).is_none() {
                        return;
                    }
                } else if came.subject == inbox && came.headers.starts_with("NATS/1.0 4") {
                    // It has ended before.
                    break;
                }
            }
        }
    }
}

/// The sequence in the subject that acknowledges a message.
fn sequence(reply: &str) -> Option<u64> {
    reply.strip_prefix("$JS.ACK.")?.split('.').nth(3)?.parse().ok()
}

fn create(client: &mut Client) {
    for (name, durability) in STREAMS {
        let config = json!({
            "name": name, "subjects": [format!("{name}.*")], "allow_direct": true,
            "metadata": { "ostler.durability": durability },
        });
        client.api(&format!("STREAM.CREATE.{name}"), &config.to_string());
        let consumer = json!({ "stream_name": name, "config": {
            "durable_name": "c", "ack_policy": "explicit", "ack_wait": 1_000_000_000, "max_ack_pending": 500 } });
        client.api(&format!("CONSUMER.CREATE.{name}.c"), &consumer.to_string());
    }
}

/// Where each publisher stands in what was looked at.
type Seen = BTreeMap<(&'static str, usize), u64>;

/// Reads a stream from a sequence on: each publisher's messages stand there once and in order.
fn verify(
    client: &mut Client,
    stream: &'static str,
    from: u64,
    seen: &mut Seen,
) -> BTreeMap<u64, (usize, u64)> {
    let mut found = BTreeMap::new();
    let mut at = from;
    loop {
        let inbox = client.new_inbox();
        let request = json!({ "seq": at, "next_by_subj": ">", "batch": 500 }).to_string();
        let len = request.len();
        client
            .send(&format!("PUB $JS.API.DIRECT.GET.{stream} {inbox} {len}\r\n{request}\r\n"))
            .expect("alive");
        let before = found.len();
        loop {
            let came = client.next().expect("it answers");
            if came.headers.starts_with("NATS/1.0 ") {
                break;
            }
            let header =
                |name: &str| came.headers.split_once(name)?.1.split("\r\n").next()?.trim().parse().ok();
            let seq: u64 = header("Nats-Sequence:").expect("a sequence");
            let text = String::from_utf8(came.payload).expect("text");
            let mut words = text.split(' ').map(str::parse::<u64>);
            let (Some(Ok(publisher)), Some(Ok(number))) = (words.next(), words.next()) else {
                panic!("{stream} {seq} holds {text}");
            };
            let publisher = publisher as usize;
            assert_eq!(text, payload(publisher, number), "{stream} {seq} was changed");
            let last = seen.entry((stream, publisher)).or_default();
            assert_eq!(number, *last + 1, "{stream} {seq}: publisher {publisher} after {last}");
            *last = number;
            found.insert(seq, (publisher, number));
            at = seq + 1;
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The consumer's numbers fit the stream's.
fn is_plausible(client: &mut Client, stream: &str) {
    let state = &client.api(&format!("STREAM.INFO.{stream}"), "")["state"];
    let info = client.api(&format!("CONSUMER.INFO.{stream}.c"), "");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {info}"));
    let last = number(&state["last_seq"]);
    let (delivered, floor) =
        (number(&info["delivered"]["stream_seq"]), number(&info["ack_floor"]["stream_seq"]));
    assert!(floor <= delivered && delivered <= last, "{info} of {last}");
    assert!(
        number(&info["num_ack_pending"]) <= 500 && number(&info["num_pending"]) <= number(&state["messages"])
    );
}

#[test]
fn a_server_that_is_killed_keeps_what_it_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = fastrand::Rng::new();
    let mut publishers: Vec<Publisher> = STREAMS
        .iter()
        .flat_map(|(stream, _)| {
            (0..PUBLISHERS).map(|number| Publisher { stream, number, ..Publisher::default() })
        })
        .collect();
    let mut workers: Vec<Worker> =
        STREAMS.iter().map(|(stream, _)| Worker { stream, ..Worker::default() }).collect();
    let mut seen = Seen::new();
    let mut next: BTreeMap<&str, u64> = STREAMS.iter().map(|(stream, _)| (*stream, 1)).collect();
    let mut total = 0;
    let rounds = rounds();
    let mut process = Process::start(directory.path());
    create(&mut Client::connect(process.address, "_S").expect("it listens"));
    for round in 0..rounds {
        let address = process.address;
        let pause = Duration::from_micros(random.u64(2_000..120_000));
        thread::scope(|scope| {
            for publisher in &mut publishers {
                scope.spawn(|| publisher.run(address));
            }
            for worker in &mut workers {
                scope.spawn(|| worker.run(address));
            }
            // Not a wait for something: the moment of the kill is what is random here.
            thread::sleep(pause);
            process.kill();
        });
        process = Process::start(directory.path());
        let mut client = Client::connect(process.address, "_V").expect("it listens");
        for (stream, _) in STREAMS {
            let found = verify(&mut client, stream, next[stream], &mut seen);
            for publisher in publishers.iter_mut().filter(|publisher| publisher.stream == stream) {
                for (number, seq) in publisher.acknowledged.drain(..) {
                    total += 1;
                    // One that was stored before an earlier kill was looked at then.
                    let there = seq < next[stream] || found.get(&seq) == Some(&(publisher.number, number));
                    assert!(there, "round {round}: {stream} {seq} is not {number} of {}", publisher.number);
                }
            }
            if let Some((last, _)) = found.last_key_value() {
                next.insert(stream, last + 1);
            }
            is_plausible(&mut client, stream);
            if round % 10 == 9 {
                shorten(&mut client, stream, next[stream]);
            }
        }
        if round % 50 == 49 {
            println!("{} rounds, {total} acknowledged", round + 1);
        }
    }
    finish(&mut process, &mut publishers, &mut workers, &mut seen, &next);
    let [duplicates, deliveries] = [
        publishers.iter().map(|publisher| publisher.duplicates).sum::<u64>(),
        workers.iter().map(|worker| worker.delivered).sum(),
    ];
    let confirmed: usize = workers.iter().map(|worker| worker.confirmed.len()).sum();
    println!(
        "{rounds} kills: {total} messages acknowledged, {duplicates} refused a second time, {deliveries} deliveries, \
         {confirmed} acknowledgements confirmed"
    );
}

/// Gives space back, so that a long run does not read everything again and again. The last messages stay.
fn shorten(client: &mut Client, stream: &str, next: u64) {
    let before = next.saturating_sub(2000).max(1);
    client.api(&format!("STREAM.PURGE.{stream}"), &json!({ "seq": before }).to_string());
    let first = client.api(&format!("STREAM.INFO.{stream}"), "")["state"]["first_seq"].as_u64();
    assert!(first >= Some(before), "{stream} begins at {first:?} after a purge up to {before}");
}

/// A last round without a kill: what was unsure becomes sure, and whatever nobody acknowledged is delivered.
fn finish(
    process: &mut Process,
    publishers: &mut [Publisher],
    workers: &mut [Worker],
    seen: &mut Seen,
    next: &BTreeMap<&str, u64>,
) {
    for publisher in publishers.iter_mut() {
        let mut client = Client::connect(process.address, "_P").expect("it listens");
        let mut batch = String::new();
        publisher.unsure.iter().for_each(|number| publisher.write(*number, &mut batch));
        client.send(&batch).expect("alive");
        while !publisher.unsure.is_empty() {
            let came = client.next().expect("an answer");
            if came.subject.starts_with(&format!("_P.{}.{}.", publisher.stream, publisher.number)) {
                publisher.unsure.pop_front();
            }
        }
    }
    let mut client = Client::connect(process.address, "_E").expect("it listens");
    for worker in workers {
        let stream = worker.stream;
        verify(&mut client, stream, next[stream], seen);
        for publisher in publishers.iter().filter(|publisher| publisher.stream == stream) {
            let last = seen.get(&(stream, publisher.number)).copied().unwrap_or(0);
            assert_eq!(last, publisher.last, "{stream}: publisher {} is not whole", publisher.number);
        }
        let state = &client.api(&format!("STREAM.INFO.{stream}"), "")["state"];
        let (first, last) = (state["first_seq"].as_u64().expect("a number"), state["last_seq"].as_u64());
        let mut missing: HashSet<u64> =
            (first..=last.expect("a number")).filter(|seq| !worker.hoped.contains(seq)).collect();
        let started = Instant::now();
        while !missing.is_empty() {
            if started.elapsed() > common::DEADLINE {
                let info = client.api(&format!("CONSUMER.INFO.{stream}.c"), "");
                let mut some: Vec<_> = missing.iter().take(20).collect();
                some.sort_unstable();
                panic!("{stream}: {} are never delivered, such as {some:?}: {info}", missing.len());
            }
            let inbox = client.new_inbox();
            let request = json!({ "batch": 500, "expires": 300_000_000 }).to_string();
            let (subject, len) = (format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.c"), request.len());
            client.send(&format!("PUB {subject} {inbox} {len}\r\n{request}\r\n")).expect("alive");
            let mut left = 500;
            while left > 0 {
                let came = client.next().expect("alive");
                let Some(seq) = sequence(&came.reply) else {
                    if came.subject == inbox {
                        break;
                    }
                    continue;
                };
                left -= 1;
                assert!(!worker.confirmed.contains(&seq), "{stream} {seq} came again");
                missing.remove(&seq);
                client.send(&format!("PUB {} 0\r\n\r\n", came.reply)).expect("alive");
            }
        }
    }
}
