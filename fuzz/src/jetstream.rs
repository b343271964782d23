//! A JetStream on a disk in memory, with a bus that keeps what is sent and a clock that is moved by hand.

use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_jetstream::{Bus, Incoming, JetStream, Options};

/// Where answers go.
pub const INBOX: &str = "_INBOX.fuzz";
/// Where messages go that were asked for: they may come much later than the request.
const MESSAGES: &str = "_INBOX.messages";

/// What was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    pub to: Vec<u8>,
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Keeps everything; everybody listens.
#[derive(Debug, Default)]
pub struct Recorder(Vec<Sent>);

impl Bus for Recorder {
    fn has_interest(&self, _: &[u8]) -> bool {
        true
    }

    fn send(&mut self, to: &[u8], _: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        self.0.push(Sent {
            to: to.to_vec(),
            reply: reply.to_vec(),
            headers: headers.to_vec(),
            payload: payload.to_vec(),
        });
    }
}

/// The whole.
pub struct House {
    jetstream: JetStream,
    bus: Recorder,
    disk: SimulatedDisk,
    now: i64,
}

impl Default for House {
    fn default() -> Self {
        let (disk, now) = (SimulatedDisk::new(), 1_800_000_000_000_000_000);
        Self { jetstream: open(&disk, now), bus: Recorder::default(), disk, now }
    }
}

fn open(disk: &SimulatedDisk, now: i64) -> JetStream {
    let mut options = Options::new("store");
    options.disk = Arc::new(disk.clone());
    let (jetstream, recovered) = JetStream::open(options, now).expect("a simulated disk can be read");
    assert!(recovered.iter().all(|found| found.served && found.findings.is_empty()), "{recovered:?}");
    jetstream
}

impl House {
    /// Sends one message as a batch of its own and returns what came of it. Messages on the subjects of streams that
    /// JetStream sends are not handed in again.
    pub fn ask(&mut self, subject: &[u8], headers: &[u8], payload: &[u8]) -> Vec<Sent> {
        self.now += 1_000;
        let requests: [&[u8]; 2] = [b"$JS.API.CONSUMER.MSG.NEXT.", b"$JS.ACK."];
        let reply =
            if requests.iter().any(|request| subject.starts_with(request)) { MESSAGES } else { INBOX };
        let message = Incoming { subject, reply: reply.as_bytes(), headers, payload };
        self.jetstream.on_message(&message, self.now, &mut self.bus);
        self.settle();
        std::mem::take(&mut self.bus.0)
    }

    /// Lets time pass.
    pub fn pass(&mut self, nanos: i64) -> Vec<Sent> {
        self.now += nanos;
        let jobs = self.jetstream.on_tick(self.now, &mut self.bus);
        self.finish(jobs);
        self.settle();
        let _ = self.jetstream.next_due();
        std::mem::take(&mut self.bus.0)
    }

    fn settle(&mut self) {
        let jobs = self.jetstream.end_of_batch(&mut self.bus);
        self.finish(jobs);
        let _ = self.jetstream.route_changes();
    }

    fn finish(&mut self, mut jobs: Vec<ostler_jetstream::SyncJob>) {
        while let Some(job) = jobs.pop() {
            jobs.extend(self.jetstream.synced(job.run(), &mut self.bus));
        }
    }

    /// Kills it and starts it again; what was on disk is whole, or it panics.
    pub fn restart(&mut self) {
        let disk = self.disk.after(Crash::KeepAll);
        self.jetstream = open(&disk, self.now);
        self.disk = disk;
    }

    /// The answer to a request that is known to work, as JSON.
    pub fn api(&mut self, subject: &str, payload: &str) -> serde_json::Value {
        let answers = self.ask(format!("$JS.API.{subject}").as_bytes(), b"", payload.as_bytes());
        let answer = answers.iter().find(|sent| sent.to == INBOX.as_bytes()).expect("an answer");
        serde_json::from_slice(&answer.payload).expect("answers are JSON")
    }
}
