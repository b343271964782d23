//! Output on its way to the engine: numbered, kept until acknowledged, sent again when it was lost. It sends nothing
//! itself and reads no clock.
//!
//! ```text
//!   entries   | acknowledged | in flight (`sent`) | not yet sent |
//!                 (gone)      ^ oldest             ^ next
//! ```
//!
//! The engine acknowledges cumulatively: everything up to `recorded` is on disk. Happy path: every message is handed
//! to the bus once, as soon as it exists. Failures:
//!
//! * **The connection was lost**: after reconnecting everything unacknowledged goes again from the oldest (go-back-N),
//!   at most [`WINDOW_MESSAGES`] or [`WINDOW_BYTES`] ahead of the acknowledgements, until it has caught up.
//! * **The engine sees a gap** and answers `rewind`: the same, from `recorded + 1`.
//! * **Silence**: when nothing was acknowledged for [`RESEND_FIRST`] (doubling to [`RESEND_LONGEST`]), the oldest window
//!   is sent again, later only the oldest message, as a probe. New messages still go out at once.
//! * **The buffer is full.** While the engine acknowledges, the agent is slowed down ([`Outbox::hold_change`]), and for
//!   [`BUS_PATIENCE`] while the bus is away. After that the agent must not wait for it: the oldest entries are dropped
//!   and one [`AgentEvent::Dropped`] takes their place.
//!
//! # The rule for gaps
//!
//! An output whose event is `Dropped { from_seq, to_seq }` has `seq == to_seq` and stands for every number from
//! `from_seq` to `to_seq`. The engine takes an output when the numbers it stands for begin at or before
//! `recorded + 1` and end behind `recorded`; it may thus have recorded some of the numbers that are told as dropped (only
//! their acknowledgement was lost). Anything that ends at or before `recorded` is a duplicate; anything else is a gap and
//! is answered with `rewind`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ostler_wire::{AgentEvent, AgentId, OutputAck, OutputMessage, OutputStream, RunId, Timestamp};

/// How far a resend runs ahead of the acknowledgements, in messages: some milliseconds of an engine's work.
pub(crate) const WINDOW_MESSAGES: usize = 512;
/// The same in bytes, for large messages.
pub(crate) const WINDOW_BYTES: usize = 2 * 1024 * 1024;
/// How long silence lasts before the first resend: many times the engine's commit.
pub(crate) const RESEND_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two resends.
pub(crate) const RESEND_LONGEST: Duration = Duration::from_secs(5);
/// Silence after which the engine counts as away, so that the agent is no longer slowed down for it.
pub(crate) const ENGINE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a bus that is away, or was not there yet, counts as about to be there: a restarted daemon takes less.
pub(crate) const BUS_PATIENCE: Duration = Duration::from_secs(3);
/// What an entry costs besides its payload, about.
const ENTRY_BYTES: usize = 96;

/// One message with the numbers it stands for: `from..=seq`.
#[derive(Debug, Clone)]
struct Entry {
    from: u64,
    seq: u64,
    payload: Bytes,
    /// For a `Dropped`, the bytes it tells about.
    dropped_bytes: Option<u64>,
}

impl Entry {
    fn cost(&self) -> usize {
        self.payload.len() + ENTRY_BYTES
    }
}

/// The acknowledged output buffer of one run.
#[derive(Debug)]
pub(crate) struct Outbox {
    agent_id: AgentId,
    run_id: RunId,
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    last_seq: u64,
    up: bool,
    /// When the bus went away; the start for one that was not there yet.
    away_since: Instant,
    /// Entries at the front that were handed to the bus since the last go-back.
    sent: usize,
    sent_bytes: usize,
    /// True from a go-back until everything is sent again: the window applies.
    catching_up: bool,
    /// Entries `again.0..again.1` of the sent ones go once more, because of silence.
    again: (usize, usize),
    /// Resends without an acknowledgement in between.
    resends: u32,
    /// When the present wait for an acknowledgement began.
    armed_at: Option<Instant>,
    /// When silence began; resends do not end it.
    silent_since: Option<Instant>,
    /// The last go-back that a `rewind` asked for: when, and from which number.
    rewound: Option<(Instant, u64)>,
    held: bool,
}

impl Outbox {
    /// An empty buffer of at most about `bytes_max` bytes.
    pub(crate) fn new(agent_id: AgentId, run_id: RunId, bytes_max: usize, now: Instant) -> Self {
        Self {
            agent_id,
            run_id,
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
            last_seq: 0,
            up: false,
            away_since: now,
            sent: 0,
            sent_bytes: 0,
            catching_up: false,
            again: (0, 0),
            resends: 0,
            armed_at: None,
            silent_since: None,
            rewound: None,
            held: false,
        }
    }

    /// The last number given.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// True when everything is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The highest number that was handed to the bus, or needs not be any more.
    pub(crate) fn sent_seq(&self) -> u64 {
        self.entries.get(self.sent).map_or(self.last_seq, |next| next.from - 1)
    }

    /// Gives the next number to a message and keeps it. `write` serialises the message with that number.
    pub(crate) fn push(&mut self, now: Instant, wall: Timestamp, write: impl FnOnce(u64) -> Vec<u8>) {
        let seq = self.last_seq + 1;
        let payload = Bytes::from(write(seq).into_boxed_slice());
        self.last_seq = seq;
        let entry = Entry { from: seq, seq, payload, dropped_bytes: None };
        self.bytes += entry.cost();
        self.entries.push_back(entry);
        self.enforce_limit(now, wall);
    }

    /// The bus is there: everything unacknowledged goes again.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.up = true;
        self.silent_since = None;
        self.resends = 0;
        self.rewound = None;
        self.go_back(now);
    }

    /// The bus is away: nothing is handed out.
    pub(crate) fn disconnected(&mut self, now: Instant, wall: Timestamp) {
        if self.up {
            self.up = false;
            self.away_since = now;
        }
        self.unsend();
        self.enforce_limit(now, wall);
    }

    /// Hands out the next message for the bus; `None` when there is none, or the window is full.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(u64, Bytes)> {
        if !self.up {
            return None;
        }
        if self.again.0 < self.again.1 {
            let entry = &self.entries[self.again.0];
            self.again.0 += 1;
            return Some((entry.seq, entry.payload.clone()));
        }
        let entry = self.entries.get(self.sent)?;
        if self.catching_up && (self.sent >= WINDOW_MESSAGES || self.sent_bytes >= WINDOW_BYTES) {
            return None;
        }
        let message = (entry.seq, entry.payload.clone());
        self.sent += 1;
        self.sent_bytes += entry.cost();
        self.armed_at.get_or_insert(now);
        self.silent_since.get_or_insert(now);
        if self.sent == self.entries.len() {
            self.catching_up = false;
        }
        Some(message)
    }

    /// True when [`Outbox::next`] would hand something out.
    pub(crate) fn has_next(&self) -> bool {
        self.up
            && (self.again.0 < self.again.1
                || self.sent < self.entries.len()
                    && !(self.catching_up
                        && (self.sent >= WINDOW_MESSAGES || self.sent_bytes >= WINDOW_BYTES)))
    }

    /// Takes the engine's acknowledgement.
    pub(crate) fn acknowledged(&mut self, ack: &OutputAck, now: Instant, wall: Timestamp) {
        // A number never given is a fault of the other side; believing it would lose output.
        if ack.run_id != self.run_id || ack.recorded > self.last_seq {
            return;
        }
        let suspected = self.resends > 0;
        let mut progress = false;
        while self.entries.front().is_some_and(|entry| entry.seq <= ack.recorded) {
            self.pop_front();
            progress = true;
        }
        if progress {
            self.resends = 0;
            self.again = (0, 0);
            self.armed_at = (self.sent > 0).then_some(now);
        }
        self.silent_since = (!self.entries.is_empty()).then_some(now);
        if ack.rewind {
            self.rewind(ack.recorded, now, wall);
        } else if progress && suspected {
            // It was silent and lives again: what followed the resent part may be lost as well.
            self.go_back(now);
        }
    }

    /// Puts a `Dropped` in the place of a message that the bus does not carry.
    pub(crate) fn refused(&mut self, seq: u64, wall: Timestamp) {
        let Some(index) = self.entries.iter().position(|entry| entry.seq == seq) else { return };
        let old = &self.entries[index];
        if old.dropped_bytes.is_some() {
            return;
        }
        let new = self.dropped_entry(old.from, old.seq, old.payload.len() as u64, wall);
        self.bytes = self.bytes - old.cost() + new.cost();
        if index < self.sent {
            self.sent_bytes = self.sent_bytes.saturating_sub(old.cost()) + new.cost();
        }
        self.entries[index] = new;
        // Whatever was sent behind it came as a gap; the engine's rewind or the timer starts again from here.
        if index < self.sent {
            self.entries_unsent_from(index);
        }
    }

    /// When [`Outbox::due`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if !self.up {
            // Noticed when output comes; only who is held back waits for it.
            return self.held.then_some(self.away_since + BUS_PATIENCE);
        }
        let resend = (self.sent > 0).then_some(self.armed_at).flatten().map(|at| at + self.resend_wait());
        let give_up = (self.held || self.bytes > self.bytes_max)
            .then_some(self.silent_since)
            .flatten()
            .map(|since| since + ENGINE_PATIENCE);
        resend.into_iter().chain(give_up).min()
    }

    /// Time has passed.
    pub(crate) fn due(&mut self, now: Instant, wall: Timestamp) {
        self.enforce_limit(now, wall);
        let Some(armed_at) = self.armed_at else { return };
        if !self.up || self.sent == 0 || now < armed_at + self.resend_wait() {
            return;
        }
        self.again = (0, if self.resends == 0 { self.window_of_sent() } else { 1 });
        self.resends = self.resends.saturating_add(1);
        self.armed_at = Some(now);
    }

    /// `Some(true)` when the agent's output is to be held back from now on, `Some(false)` when it may flow again.
    pub(crate) fn hold_change(&mut self, now: Instant) -> Option<bool> {
        let wanted = self.flows(now)
            && if self.held { self.bytes > self.bytes_max / 2 } else { self.bytes > self.bytes_max / 4 * 3 };
        if wanted == self.held {
            return None;
        }
        self.held = wanted;
        Some(wanted)
    }

    /// What was not acknowledged, oldest first: one JSON document each.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().map(|entry| &entry.payload)
    }

    /// True while the bus is there and the engine answers, or the bus is about to be there.
    fn flows(&self, now: Instant) -> bool {
        if !self.up {
            return now.saturating_duration_since(self.away_since) < BUS_PATIENCE;
        }
        let silence = self.silent_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        silence < ENGINE_PATIENCE
    }

    fn resend_wait(&self) -> Duration {
        (RESEND_FIRST * 2u32.pow(self.resends.min(8))).min(RESEND_LONGEST)
    }

    /// How many of the sent entries one resend takes.
    fn window_of_sent(&self) -> usize {
        let mut bytes = 0;
        let window = self.entries.iter().take(self.sent.min(WINDOW_MESSAGES)).take_while(|entry| {
            bytes += entry.cost();
            bytes <= WINDOW_BYTES
        });
        window.count().max(1)
    }

    fn rewind(&mut self, recorded: u64, now: Instant, wall: Timestamp) {
        let oldest = self.entries.front().map_or(self.last_seq + 1, |entry| entry.from);
        if oldest > recorded + 1 {
            // The engine has forgotten what it had acknowledged. It cannot be had again; say so, or it asks for ever.
            let lost = self.dropped_entry(recorded + 1, oldest - 1, 0, wall);
            self.bytes += lost.cost();
            self.entries.push_front(lost);
            return self.go_back(now);
        }
        // Every message behind a gap is answered with the same rewind; going back once is enough.
        let repeated = self
            .rewound
            .is_some_and(|(at, from)| from == oldest && now.saturating_duration_since(at) < RESEND_FIRST);
        if !repeated && self.sent > 0 {
            self.rewound = Some((now, oldest));
            self.go_back(now);
        }
    }

    fn go_back(&mut self, now: Instant) {
        self.unsend();
        self.catching_up = !self.entries.is_empty();
        self.armed_at = self.catching_up.then_some(now);
    }

    fn unsend(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
        self.again = (0, 0);
        self.armed_at = None;
        self.catching_up = false;
    }

    fn entries_unsent_from(&mut self, index: usize) {
        self.sent = index;
        self.sent_bytes = self.entries.iter().take(index).map(Entry::cost).sum();
        self.again = (self.again.0.min(index), self.again.1.min(index));
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost();
        if self.sent > 0 {
            self.sent -= 1;
            self.sent_bytes = self.sent_bytes.saturating_sub(entry.cost());
        }
        self.again = (self.again.0.saturating_sub(1), self.again.1.saturating_sub(1));
        Some(entry)
    }

    /// Drops the oldest entries when there are too many and nobody takes them.
    fn enforce_limit(&mut self, now: Instant, wall: Timestamp) {
        if self.bytes <= self.bytes_max || self.flows(now) {
            return;
        }
        // An eighth below the limit, so that not every further line costs a drop.
        let target = self.bytes_max / 8 * 7;
        let was_sent = self.sent > 0;
        let Some(from) = self.entries.front().map(|entry| entry.from) else { return };
        let (mut to, mut bytes) = (from, 0);
        while self.bytes > target {
            let Some(entry) = self.pop_front() else { break };
            to = entry.seq;
            bytes += entry.dropped_bytes.unwrap_or(entry.payload.len() as u64);
        }
        let entry = self.dropped_entry(from, to, bytes, wall);
        self.bytes += entry.cost();
        if was_sent {
            // It counts as sent, so that what follows keeps its place; the next probe carries it.
            self.sent += 1;
            self.sent_bytes += entry.cost();
        }
        self.entries.push_front(entry);
        self.again = (0, 0);
    }

    fn dropped_entry(&self, from: u64, to: u64, bytes: u64, wall: Timestamp) -> Entry {
        let message = OutputMessage {
            agent_id: self.agent_id.clone(),
            run_id: self.run_id,
            generation: 0,
            seq: to,
            stream: OutputStream::Event,
            data: None,
            data_base64: None,
            partial: false,
            event: Some(AgentEvent::Dropped { from_seq: from, to_seq: to, bytes }),
            raw: None,
            input_id: None,
            timestamp: wall,
        };
        let payload = serde_json::to_vec(&message).expect("a message of plain fields always serialises");
        Entry { from, seq: to, payload: payload.into(), dropped_bytes: Some(bytes) }
    }
}

#[cfg(test)]
mod tests;
