//! Publishing into a stream: many in flight, or one at a time. Every acknowledgement is looked at: its place, its
//! sequence; and the stream must hold afterwards what was acknowledged.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Flow;
use super::client::{Client, INBOX, acknowledged, decimal};
use crate::bench::broker::latency::Latency;
use crate::bench::broker::process::Server;
use crate::bench::broker::statistics::quantile;

/// The stream everything is published to, and what its subjects begin with.
pub(super) const STREAM: &str = "BENCH";
pub(super) const SUBJECTS: &str = "bench.js.";
/// Messages that are out unacknowledged.
pub(super) const WINDOW: u64 = 500;
/// Publishes before those that count.
const WARM_UP: usize = 200;

/// What is published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) payload: usize,
    /// Different subjects, in turns.
    pub(super) subjects: u64,
    /// Consumers that want none of it.
    pub(super) consumers: u64,
}

impl Load {
    pub(super) fn new(payload: usize) -> Self {
        Self { payload, subjects: 1, consumers: 0 }
    }

    pub(super) fn with_subjects(self, subjects: u64) -> Self {
        Self { subjects, ..self }
    }

    pub(super) fn with_consumers(self, consumers: u64) -> Self {
        Self { consumers, ..self }
    }
}

/// Publishes into a new stream for about `seconds`.
pub(super) fn run(server: &Server, load: Load, stream: &Value, seconds: f64) -> anyhow::Result<Flow> {
    let mut trial = 2_000;
    loop {
        let flow = run_counted(server, load, stream, trial)?;
        // Long enough to tell how many messages a measured run takes.
        if flow.seconds() >= seconds / 8.0 || trial > 1 << 24 {
            let count = (flow.rate * seconds) as u64;
            return if flow.seconds() >= seconds / 1.5 {
                Ok(flow)
            } else {
                run_counted(server, load, stream, count.max(trial))
            };
        }
        trial *= 4;
    }
}

/// Publishes so many messages into a new stream.
pub(super) fn run_counted(server: &Server, load: Load, stream: &Value, count: u64) -> anyhow::Result<Flow> {
    let mut client = Client::new(server)?;
    client.create_stream(STREAM, &format!("{SUBJECTS}>"), stream.clone())?;
    for number in 0..load.consumers {
        let config =
            json!({ "ack_policy": "explicit", "filter_subject": format!("{SUBJECTS}other.{number}") });
        client.create_consumer(STREAM, &format!("c{number}"), config)?;
    }
    let flow = Flow::measure(server, count, || publish(&mut client, load, count))?;
    let state = client.state(STREAM)?;
    let replaces = !stream["max_msgs_per_subject"].is_null();
    let kept = if replaces { count.min(load.subjects) } else { count };
    ensure!(state == (kept, count), "{count} messages were acknowledged, the stream says {state:?}");
    Ok(flow)
}

/// Publishes and takes the acknowledgements, which come in order: there is one publisher.
fn publish(client: &mut Client, load: Load, count: u64) -> anyhow::Result<()> {
    let (mut sent, mut taken) = (0, 0);
    let mut frame = Template::new(load.payload);
    while taken < count {
        while sent < count && sent - taken < WINDOW {
            frame.put(client, sent % load.subjects, sent);
            sent += 1;
        }
        client.flush()?;
        take_acknowledgement(client, &mut taken)?;
        while let Some(arrived) = client.next_here()? {
            check(arrived.subject, arrived.payload, taken)?;
            taken += 1;
        }
    }
    Ok(())
}

fn take_acknowledgement(client: &mut Client, taken: &mut u64) -> anyhow::Result<()> {
    let arrived = client.next().with_context(|| format!("{taken} messages were acknowledged"))?;
    check(arrived.subject, arrived.payload, *taken)?;
    *taken += 1;
    Ok(())
}

fn check(subject: &[u8], payload: &[u8], taken: u64) -> anyhow::Result<()> {
    let mut digits = [0; 20];
    let own = subject.strip_prefix(INBOX.as_bytes()) == Some(decimal(FIRST + taken, &mut digits));
    ensure!(own, "the acknowledgement of another message: {}", subject.escape_ascii());
    let seq = acknowledged(payload)?;
    ensure!(seq == taken + 1, "message {} was acknowledged as {seq}", taken + 1);
    Ok(())
}

/// Inboxes are numbered from here, so that all are equally long.
const FIRST: u64 = 1_000_000_000;

/// A publish whose numbers are filled in: every message has an inbox of its own, as clients do it.
struct Template {
    payload: Vec<u8>,
}

impl Template {
    fn new(payload: usize) -> Self {
        Self { payload: vec![b'x'; payload] }
    }

    fn put(&mut self, client: &mut Client, subject: u64, number: u64) {
        let (mut one, mut two, mut three) = ([0; 20], [0; 20], [0; 20]);
        let parts: [&[u8]; 9] = [
            b"PUB ",
            SUBJECTS.as_bytes(),
            decimal(subject, &mut one),
            b" ",
            INBOX.as_bytes(),
            decimal(FIRST + number, &mut two),
            b" ",
            decimal(self.payload.len() as u64, &mut three),
            b"\r\n",
        ];
        parts.into_iter().for_each(|part| client.out.extend_from_slice(part));
        client.out.extend_from_slice(&self.payload);
        client.out.extend_from_slice(b"\r\n");
    }
}

/// Publishes one at a time into a new stream.
pub(super) fn latency(
    server: &Server,
    payload: usize,
    stream: &Value,
    count: usize,
) -> anyhow::Result<Latency> {
    let mut client = Client::new(server)?;
    client.create_stream(STREAM, &format!("{SUBJECTS}>"), stream.clone())?;
    let mut frame = Template::new(payload);
    let mut times = Vec::with_capacity(count);
    let mut taken = 0;
    for number in 0..WARM_UP + count {
        let started = Instant::now();
        frame.put(&mut client, 0, number as u64);
        client.flush()?;
        take_acknowledgement(&mut client, &mut taken)?;
        if number >= WARM_UP {
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    let state = client.state(STREAM)?;
    ensure!(state == (taken, taken), "{taken} messages were acknowledged, the stream says {state:?}");
    Ok(Latency { p50: quantile(&times, 0.5), p99: quantile(&times, 0.99) })
}
