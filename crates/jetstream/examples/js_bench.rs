//! Measures JetStream's decisions without sockets: publishing in each class of durability, fetching with and without
//! acknowledgements, many streams, many consumers, keys that are replaced. It checks only that every answer came.
//!
//! `cargo run --release -p ostler-jetstream --example js_bench [messages] [directory] [words of the names]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ostler_jetstream::{Bus, Durability, Incoming, JetStream, Options, SyncJob, SyncResult};

/// What a publisher has in flight, and what one read of its socket brings.
const WINDOW: u64 = 500;
const SUBJECTS: u64 = 10_000;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("js-bench-{}", std::process::id()));
    let only: Vec<String> = arguments.collect();
    let outcome = Bench { count, dir: dir.clone(), only }.run();
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    outcome
}

struct Bench {
    count: u64,
    dir: PathBuf,
    only: Vec<String>,
}

impl Bench {
    fn run(&self) -> Outcome {
        for payload in [16, 128, 1024] {
            self.publish(&format!("publish memory {payload}"), MEMORY, Durability::Async, payload)?;
            self.publish(&format!("publish process {payload}"), FILE, Durability::Process, payload)?;
            self.publish(&format!("publish group {payload}"), FILE, Durability::Group, payload)?;
        }
        let spread = (0..SUBJECTS).map(|number| format!("S.{number}")).collect::<Vec<_>>();
        self.measure("publish subjects-10k 128", FILE, Durability::Process, |rig| {
            rig.publish_to(&spread, self.count, 128)
        })?;
        self.measure("publish keys-10k 128", KEYS, Durability::Process, |rig| {
            rig.publish_to(&spread, self.count, 128)
        })?;
        self.measure("publish streams-1000 128", FILE, Durability::Process, |rig| {
            let names: Vec<_> = (0..1000).map(|number| format!("many{number}")).collect();
            for name in &names {
                let config = format!(r#"{{"name":"{name}","subjects":["{name}.>"],"storage":"memory"}}"#);
                rig.ask(&format!("$JS.API.STREAM.CREATE.{name}"), &config)?;
            }
            rig.started = Instant::now();
            let subjects: Vec<_> = names.iter().map(|name| format!("{name}.a")).collect();
            rig.publish_to(&subjects, self.count, 128)
        })?;
        self.measure("publish consumers-1000 128", FILE, Durability::Process, |rig| {
            for number in 0..1000 {
                rig.consumer(&format!("c{number}"), &format!(r#""filter_subject":"S.other{number}""#))?;
            }
            rig.started = Instant::now();
            rig.publish_to(&["S.a".to_owned()], self.count, 128)
        })?;
        for (acks, policy) in [(false, "none"), (true, "explicit")] {
            for (name, filter) in [("", "S.>"), (" filtered", "S.a")] {
                self.measure(&format!("fetch acks-{policy}{name} 128"), FILE, Durability::Process, |rig| {
                    rig.publish_to(&["S.a".to_owned(), "S.b".to_owned()], self.count, 128)?;
                    let policy = format!(r#""ack_policy":"{policy}","filter_subject":"{filter}""#);
                    rig.consumer("c", &policy)?;
                    rig.started = Instant::now();
                    rig.done = 0;
                    rig.fetch("c", acks, self.count / if filter == "S.a" { 2 } else { 1 })
                })?;
            }
        }
        self.measure("consumer-info", FILE, Durability::Process, |rig| {
            rig.publish_to(&spread, self.count, 16)?;
            rig.consumer("c", r#""filter_subject":"S.*""#)?;
            rig.started = Instant::now();
            rig.done = 1000;
            (0..1000).try_for_each(|_| rig.ask("$JS.API.CONSUMER.INFO.S.c", ""))
        })
    }

    fn publish(&self, name: &str, storage: &str, durability: Durability, payload: usize) -> Outcome {
        self.measure(name, storage, durability, |rig| {
            rig.publish_to(&["S.a".to_owned()], self.count, payload)
        })
    }

    fn measure(
        &self,
        name: &str,
        config: &str,
        durability: Durability,
        run: impl FnOnce(&mut Rig) -> Outcome,
    ) -> Outcome {
        if !self.only.iter().all(|word| name.contains(&**word)) {
            return Ok(());
        }
        let mut rig = Rig::new(&self.dir, durability)?;
        rig.ask("$JS.API.STREAM.CREATE.S", config)?;
        rig.started = Instant::now();
        run(&mut rig)?;
        let took = rig.started.elapsed();
        let each = took.as_nanos() as f64 / rig.done.max(1) as f64;
        let syncs = if rig.syncs > 0 { format!(", {} syncs", rig.syncs) } else { String::new() };
        println!("{name:<32} {:>8.3} M/s {each:>8.0} ns each{syncs}", 1000.0 / each);
        drop(rig);
        std::fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

const MEMORY: &str = r#"{"name":"S","subjects":["S.>"],"storage":"memory"}"#;
const FILE: &str = r#"{"name":"S","subjects":["S.>"]}"#;
const KEYS: &str = r#"{"name":"S","subjects":["S.>"],"max_msgs_per_subject":1}"#;

/// Keeps the replies of what was delivered, counts the rest.
#[derive(Default)]
struct Sink {
    messages: u64,
    bytes: usize,
    replies: Vec<u8>,
    ends: Vec<usize>,
    keep: bool,
}

impl Bus for Sink {
    fn has_interest(&self, _subject: &[u8]) -> bool {
        true
    }

    fn send(&mut self, to: &[u8], subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        // Advisories are nobody's answer.
        self.messages += u64::from(to.starts_with(b"_INBOX."));
        self.bytes += subject.len() + headers.len() + payload.len();
        if self.keep && !reply.is_empty() {
            self.replies.extend_from_slice(reply);
            self.ends.push(self.replies.len());
        }
    }
}

/// JetStream with a thread that syncs, as the broker has one.
struct Rig {
    jetstream: JetStream,
    bus: Sink,
    jobs: SyncSender<SyncJob>,
    results: Receiver<SyncResult>,
    out: usize,
    syncs: u64,
    done: u64,
    started: Instant,
    clock: Instant,
}

impl Rig {
    fn new(dir: &Path, durability: Durability) -> Result<Self, Box<dyn Error>> {
        let (jetstream, _) = JetStream::open(Options { durability, ..Options::new(dir) }, 1)?;
        let (jobs, to_do) = sync_channel::<SyncJob>(16);
        let (done, results) = sync_channel(16);
        std::thread::spawn(move || {
            while let Ok(job) = to_do.recv() {
                if done.send(job.run()).is_err() {
                    return;
                }
            }
        });
        let (bus, clock) = (Sink::default(), Instant::now());
        Ok(Self { jetstream, bus, jobs, results, out: 0, syncs: 0, done: 0, started: clock, clock })
    }

    fn now(&self) -> i64 {
        1_700_000_000_000_000_000 + self.clock.elapsed().as_nanos() as i64
    }

    fn give(&mut self, subject: &[u8], reply: &[u8], payload: &[u8], now: i64) {
        let message = Incoming { subject, reply, headers: b"", payload };
        self.jetstream.on_message(&message, now, &mut self.bus);
    }

    fn end_of_batch(&mut self) -> Outcome {
        let jobs = self.jetstream.end_of_batch(&mut self.bus);
        self.hand_out(jobs)?;
        while self.out > 0
            && let Ok(result) = self.results.try_recv()
        {
            self.take(result)?;
        }
        // The shard asks after every flush.
        std::hint::black_box(self.jetstream.next_due());
        Ok(())
    }

    fn hand_out(&mut self, jobs: impl IntoIterator<Item = SyncJob>) -> Outcome {
        for job in jobs {
            (self.out, self.syncs) = (self.out + 1, self.syncs + 1);
            self.jobs.send(job)?;
        }
        Ok(())
    }

    fn take(&mut self, result: SyncResult) -> Outcome {
        self.out -= 1;
        let next = self.jetstream.synced(result, &mut self.bus);
        self.hand_out(next)
    }

    /// Waits until so many messages were sent in all.
    fn wait_for(&mut self, messages: u64) -> Outcome {
        while self.bus.messages < messages {
            let result = self.results.recv_timeout(Duration::from_secs(20))?;
            self.take(result)?;
        }
        Ok(())
    }

    fn ask(&mut self, subject: &str, payload: &str) -> Outcome {
        let sent = self.bus.messages;
        let now = self.now();
        self.give(subject.as_bytes(), b"_INBOX.api", payload.as_bytes(), now);
        self.end_of_batch()?;
        self.wait_for(sent + 1)
    }

    fn consumer(&mut self, name: &str, more: &str) -> Outcome {
        let config = format!(
            r#"{{"stream_name":"S","config":{{"durable_name":"{name}","max_ack_pending":2000,{more}}}}}"#
        );
        self.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.S.{name}"), &config)
    }

    fn publish_to(&mut self, subjects: &[String], count: u64, payload: usize) -> Outcome {
        let payload = vec![7; payload];
        let before = self.bus.messages;
        let mut sent = 0;
        while sent < count {
            // The window is full: as a publisher waits for acknowledgements.
            if sent >= WINDOW {
                self.wait_for(before + sent - WINDOW + 1)?;
            }
            let room = (WINDOW - (sent - (self.bus.messages - before))).min(count - sent);
            let now = self.now();
            for _ in 0..room {
                let subject = subjects[(sent % subjects.len() as u64) as usize].as_bytes();
                self.give(subject, b"_INBOX.bench.acks", &payload, now);
                sent += 1;
            }
            self.end_of_batch()?;
        }
        self.wait_for(before + count)?;
        self.done = count;
        Ok(())
    }

    /// Asks for 500 at a time, and acknowledges them in one batch with the next request.
    fn fetch(&mut self, consumer: &str, acks: bool, count: u64) -> Outcome {
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.S.{consumer}");
        self.bus.keep = acks;
        while self.done < count {
            let now = self.now();
            let replies = std::mem::take(&mut self.bus.replies);
            let mut start = 0;
            for end in std::mem::take(&mut self.bus.ends) {
                self.give(&replies[start..end], b"", b"+ACK", now);
                start = end;
            }
            self.give(next.as_bytes(), b"_INBOX.bench.fetch", br#"{"batch":500,"expires":1000000000}"#, now);
            let before = self.bus.messages;
            self.end_of_batch()?;
            let got = self.bus.messages - before;
            if got == 0 {
                return Err(format!("{} of {count} messages came", self.done).into());
            }
            self.done += got;
        }
        Ok(())
    }
}
