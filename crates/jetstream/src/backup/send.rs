//! Sending a backup: chunk after chunk, as fast as the receiver acknowledges them.
//!
//! ```text
//! waiting for interest ──> sending ──> all acknowledged or not, the rest and 204
//!        │ 2 s                │ 5 s without an acknowledgement
//!        └─ 408 No Interest   └─ 408 No Flow Response
//! ```

use std::fmt;

use super::archive::{Entry, MAGIC};
use super::{CONSUMERS, STATE, TURN_BYTES, frames};
use crate::api::StreamState;
use crate::bus::{Bus, publish};
use crate::headers::status;
use crate::stream::Stream;
use crate::time::{MILLISECOND, SECOND};

const CHUNK: i64 = 128 << 10;
const CHUNK_MIN: i64 = 1 << 10;
const CHUNK_MAX: i64 = 1 << 20;
const WINDOW: i64 = 8 << 20;
const WINDOW_MAX: i64 = 32 << 20;
/// How long the receiver may take to listen.
const INTEREST_WAIT: i64 = 2 * SECOND;
/// How often it is looked whether it does.
const INTEREST_INTERVAL: i64 = 20 * MILLISECOND;
/// How long it may take to acknowledge anything.
const STALL: i64 = 5 * SECOND;

/// What comes next in the archive.
#[derive(Debug)]
enum Stage {
    /// These consumers, the last first.
    Consumers(Vec<Box<str>>),
    /// The first message at or above this.
    Messages(u64),
    /// Nothing.
    Complete,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Time or an acknowledgement must come.
    Waits,
    /// Another turn can go on.
    More,
    /// Everything was sent.
    Done,
}

/// Why a backup ends before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    NoInterest,
    NoFlowResponse,
    /// The stream cannot be read, or is gone.
    Source(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterest => f.write_str("no interest"),
            Self::NoFlowResponse => f.write_str("no flow response"),
            Self::Source(reason) => f.write_str(reason),
        }
    }
}

/// A backup that is being sent.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The number of its stream.
    pub(crate) stream: usize,
    pub(crate) name: String,
    pub(crate) started: i64,
    deliver: Box<[u8]>,
    /// `$JS.SNAPSHOT.ACK.<stream>.<id>.`
    ack_prefix: String,
    chunk: usize,
    window: u64,
    sent: u64,
    acked: u64,
    interested: bool,
    /// When the last full chunk was sent, or the receiver was seen.
    moved_at: i64,
    last_seq: u64,
    stage: Stage,
    /// The end of the archive that is not compressed yet, and of the stream that is not sent yet.
    plain: Vec<u8>,
    packed: Vec<u8>,
    can_go_on: bool,
}

/// What the receiver asks for; 0 is the default.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    pub(crate) chunk_bytes: i64,
    pub(crate) window_bytes: i64,
}

impl Snapshot {
    /// Begins with what the stream holds at this moment.
    pub(crate) fn new(
        number: usize,
        stream: &Stream,
        state: &StreamState,
        consumers: bool,
        (deliver, id): (&str, &str),
        pace: Pace,
        now: i64,
    ) -> Self {
        let or_default = |given: i64, default: i64| if given == 0 { default } else { given };
        let chunk = or_default(pace.chunk_bytes, CHUNK).clamp(CHUNK_MIN, CHUNK_MAX);
        let window = or_default(pace.window_bytes, WINDOW).clamp(chunk, WINDOW_MAX);
        let mut names: Vec<Box<str>> = Vec::new();
        if consumers {
            names.extend(stream.consumers.keys().rev().cloned());
        }
        let mut plain = MAGIC.to_vec();
        let state = StreamState { consumer_count: names.len(), subjects: None, ..state.clone() };
        let text = serde_json::to_vec(&state).unwrap_or_default();
        Entry { name: STATE.as_bytes(), time: now, payload: &text, ..Entry::default() }.put(&mut plain);
        let mut packed = Vec::new();
        frames::begin(&mut packed);
        Self {
            stream: number,
            name: stream.config.name.clone(),
            started: now,
            deliver: deliver.as_bytes().into(),
            ack_prefix: format!("$JS.SNAPSHOT.ACK.{}.{id}.", stream.config.name),
            chunk: chunk as usize,
            window: (window / chunk) as u64,
            sent: 0,
            acked: 0,
            interested: false,
            moved_at: now,
            last_seq: state.last_seq,
            stage: Stage::Consumers(names),
            plain,
            packed,
            can_go_on: true,
        }
    }

    /// Takes an acknowledgement if it is one of this.
    pub(crate) fn on_ack(&mut self, subject: &[u8]) -> bool {
        let ours = subject.starts_with(self.ack_prefix.as_bytes());
        if ours {
            self.acked = (self.acked + 1).min(self.sent);
            self.can_go_on = true;
        }
        ours
    }

    /// When there is something to do.
    pub(crate) fn next_due(&self, now: i64) -> i64 {
        if self.can_go_on {
            now
        } else if self.interested {
            self.moved_at + STALL
        } else {
            now + INTEREST_INTERVAL
        }
    }

    /// Makes and sends as much as a turn may. The stream is `None` when it is gone.
    pub(crate) fn turn(
        &mut self,
        stream: Option<&mut Stream>,
        now: i64,
        bus: &mut impl Bus,
    ) -> Result<Progress, Failure> {
        let progress = self.advance(stream, now, bus);
        self.can_go_on = progress == Ok(Progress::More);
        progress
    }

    fn advance(
        &mut self,
        stream: Option<&mut Stream>,
        now: i64,
        bus: &mut impl Bus,
    ) -> Result<Progress, Failure> {
        let Some(stream) = stream else {
            return Err(Failure::Source(format!("stream {} was deleted", self.name)));
        };
        if !self.interested {
            if !bus.has_interest(&self.deliver) {
                let late = now - self.started >= INTEREST_WAIT;
                return if late { Err(Failure::NoInterest) } else { Ok(Progress::Waits) };
            }
            (self.interested, self.moved_at) = (true, now);
        }
        let mut budget = TURN_BYTES;
        loop {
            while self.packed.len() >= self.chunk {
                if self.sent - self.acked >= self.window {
                    let stalled = now - self.moved_at >= STALL;
                    return if stalled { Err(Failure::NoFlowResponse) } else { Ok(Progress::Waits) };
                }
                if budget == 0 {
                    return Ok(Progress::More);
                }
                self.send_chunk(now, bus);
                budget = budget.saturating_sub(self.chunk);
            }
            if matches!(self.stage, Stage::Complete) && self.plain.is_empty() {
                if !self.packed.is_empty() {
                    publish(bus, &self.deliver, b"", &self.packed);
                }
                publish(bus, &self.deliver, &status("204"), b"");
                return Ok(Progress::Done);
            }
            if budget == 0 {
                return Ok(Progress::More);
            }
            let made = self.make(stream)?;
            budget = budget.saturating_sub(made);
        }
    }

    fn send_chunk(&mut self, now: i64, bus: &mut impl Bus) {
        self.sent += 1;
        self.moved_at = now;
        let reply = format!("{}{}.{}", self.ack_prefix, self.chunk, self.sent);
        bus.send(&self.deliver, &self.deliver, reply.as_bytes(), b"", &self.packed[..self.chunk]);
        self.packed.drain(..self.chunk);
    }

    /// Fills a block and compresses it, and says how much it was.
    fn make(&mut self, stream: &mut Stream) -> Result<usize, Failure> {
        while self.plain.len() < frames::BLOCK && !matches!(self.stage, Stage::Complete) {
            self.make_entry(stream)?;
        }
        let len = self.plain.len();
        for block in self.plain.chunks(frames::BLOCK) {
            frames::put(&mut self.packed, block);
        }
        self.plain.clear();
        Ok(len)
    }

    fn make_entry(&mut self, stream: &mut Stream) -> Result<(), Failure> {
        match &mut self.stage {
            Stage::Consumers(names) => match names.pop() {
                None => self.stage = Stage::Messages(1),
                Some(name) => {
                    let consumer = stream.consumers.get(&name).ok_or_else(|| {
                        Failure::Source(format!("consumer {name} was deleted meanwhile; ask again"))
                    })?;
                    let mut kept = consumer.kept();
                    kept.clamp(self.last_seq);
                    let text = serde_json::to_vec(&kept).unwrap_or_default();
                    let name = format!("{CONSUMERS}{name}");
                    let entry = Entry {
                        name: name.as_bytes(),
                        time: self.started,
                        payload: &text,
                        ..Entry::default()
                    };
                    entry.put(&mut self.plain);
                }
            },
            Stage::Messages(from) => {
                match stream.store.next(&mut ostler_broker_store::Selection::all(), *from) {
                    Some(seq) if seq <= self.last_seq => {
                        *from = seq + 1;
                        let message = stream.store.get(seq);
                        let message = message.map_err(|error| Failure::Source(error.to_string()))?;
                        if let Some(message) = message {
                            let entry = Entry {
                                name: message.subject,
                                time: message.time_ns,
                                seq,
                                headers: message.headers,
                                payload: message.payload,
                            };
                            entry.put(&mut self.plain);
                        }
                    }
                    _ => {
                        Entry::default().put(&mut self.plain);
                        self.stage = Stage::Complete;
                    }
                }
            }
            Stage::Complete => {}
        }
        Ok(())
    }

    /// Tells the receiver why nothing follows.
    pub(crate) fn fail(&self, failure: &Failure, bus: &mut impl Bus) {
        let text = match failure {
            Failure::NoInterest => "408 No Interest".to_owned(),
            Failure::NoFlowResponse => "408 No Flow Response".to_owned(),
            Failure::Source(reason) => format!("500 {}", reason.replace(['\r', '\n'], " ")),
        };
        publish(bus, &self.deliver, &status(&text), b"");
    }
}
