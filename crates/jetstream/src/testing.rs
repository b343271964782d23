//! A bus for tests: it notes what is sent and lets the test say who listens.

use ostler_broker_store::disk::SimulatedDisk;
use serde_json::Value;

use crate::bus::{Bus, Incoming};
use crate::jetstream::{JetStream, Recovered};
use crate::options::Options;
use crate::time::SECOND;

/// A message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) headers: String,
    pub(crate) payload: String,
}

/// Notes everything; everybody listens unless named.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) sent: Vec<Sent>,
    /// When set, people listen on subjects that begin with it and nowhere else.
    pub(crate) only: Option<Vec<String>>,
    /// Then nobody is in any group but these.
    pub(crate) groups: Vec<String>,
    /// Those who listen have enough.
    pub(crate) congested: bool,
}

impl Recorder {
    /// Where messages went and what was in them, since the last call.
    pub(crate) fn take_text(&mut self) -> Vec<(String, String)> {
        self.take().into_iter().map(|sent| (sent.to, sent.payload)).collect()
    }

    pub(crate) fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }
}

impl Bus for Recorder {
    fn has_interest(&self, subject: &[u8]) -> bool {
        let subject = &*String::from_utf8_lossy(subject);
        self.only.as_ref().is_none_or(|only| only.iter().any(|only| subject.starts_with(&**only)))
    }

    fn has_group_interest(&self, subject: &[u8], group: &[u8]) -> bool {
        let group = &*String::from_utf8_lossy(group);
        self.has_interest(subject) && (self.only.is_none() || self.groups.iter().any(|its| its == group))
    }

    fn is_congested(&self, _subject: &[u8]) -> bool {
        self.congested
    }

    fn send(&mut self, to: &[u8], subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.sent.push(Sent {
            to: text(to),
            subject: text(subject),
            reply: text(reply),
            headers: text(headers).replace("\r\n", "|"),
            payload: text(payload),
        });
    }
}

/// A JetStream in a directory of its own with a clock that the test moves.
pub(crate) struct Rig {
    pub(crate) jetstream: Option<JetStream>,
    pub(crate) bus: Recorder,
    pub(crate) now: i64,
    dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = 1_795_224_779 * SECOND;
        let mut rig = Self { jetstream: None, bus: Recorder::default(), now, dir };
        rig.restart();
        rig
    }

    /// Where the streams are.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// On a disk that can fill up and fail; nothing there comes back after a restart.
    pub(crate) fn on(disk: &SimulatedDisk) -> Self {
        let mut rig = Self::new();
        let mut options = Options::new(rig.dir.path());
        options.disk = std::sync::Arc::new(disk.clone());
        rig.jetstream = Some(JetStream::open(options, rig.now).unwrap().0);
        rig
    }

    /// As after a crash: what was not written out is gone.
    pub(crate) fn restart(&mut self) -> Vec<Recovered> {
        self.jetstream = None;
        let (jetstream, recovered) = JetStream::open(Options::new(self.dir.path()), self.now).unwrap();
        self.jetstream = Some(jetstream);
        recovered
    }

    /// In order: nothing is gone.
    pub(crate) fn close_and_restart(&mut self) -> Vec<Recovered> {
        if let Some(jetstream) = self.jetstream.take() {
            jetstream.close().unwrap();
        }
        self.restart()
    }

    pub(crate) fn jetstream(&mut self) -> &mut JetStream {
        self.jetstream.as_mut().unwrap()
    }

    /// A batch of one message, synced.
    pub(crate) fn send(&mut self, message: &Incoming<'_>) {
        self.now += 1_000;
        let Self { jetstream, bus, now, .. } = &mut *self;
        jetstream.as_mut().unwrap().on_message(message, *now, bus);
        self.settle();
    }

    /// Ends the batch and does every sync.
    pub(crate) fn settle(&mut self) {
        let Self { jetstream, bus, .. } = self;
        let jetstream = jetstream.as_mut().unwrap();
        let mut jobs = jetstream.end_of_batch(bus);
        // The broker ends the batch again after a sync.
        while let Some(job) = jobs.pop() {
            let result = job.run();
            jobs.extend(jetstream.synced(result, bus));
            jobs.extend(jetstream.end_of_batch(bus));
        }
    }

    /// Sends a message and says what was answered.
    pub(crate) fn ask(&mut self, subject: &str, payload: &str) -> Vec<Sent> {
        self.ask_with(subject, "", payload)
    }

    /// Sends a message and leaves what was answered where it is.
    pub(crate) fn send_to(&mut self, subject: &str, reply: &str, payload: &str) {
        self.send(&Incoming {
            subject: subject.as_bytes(),
            reply: reply.as_bytes(),
            headers: b"",
            payload: payload.as_bytes(),
        });
    }

    pub(crate) fn ask_with(&mut self, subject: &str, headers: &str, payload: &str) -> Vec<Sent> {
        let headers =
            if headers.is_empty() { String::new() } else { format!("NATS/1.0\r\n{headers}\r\n\r\n") };
        self.send(&Incoming {
            subject: subject.as_bytes(),
            reply: b"_I",
            headers: headers.as_bytes(),
            payload: payload.as_bytes(),
        });
        self.bus.take()
    }

    /// The one answer to a request, as JSON; a refusal is the test's failure.
    pub(crate) fn api(&mut self, subject: &str, payload: &str) -> Value {
        let answers = self.ask(&format!("$JS.API.{subject}"), payload);
        let answer = answers.iter().find(|sent| sent.to == "_I").expect("an answer");
        let answer: Value = serde_json::from_str(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{subject} {payload}: {answer}");
        answer
    }

    /// Lets time pass, and what is due happen.
    pub(crate) fn pass(&mut self, nanos: i64) {
        self.now += nanos;
        let Self { jetstream, bus, now, .. } = &mut *self;
        for job in jetstream.as_mut().unwrap().on_tick(*now, bus) {
            let result = job.run();
            let _ = jetstream.as_mut().unwrap().synced(result, bus).map(crate::jetstream::SyncJob::run);
        }
        self.settle();
    }

    /// Lets time pass as it does: what is due happens when it is due.
    pub(crate) fn pass_through(&mut self, nanos: i64) {
        let end = self.now + nanos;
        while let Some(due) = self.jetstream().next_due().filter(|due| *due <= end) {
            let step = (due - self.now).max(1_000);
            self.pass(step);
        }
        self.now = end.max(self.now);
    }
}
