//! Direct answers of many messages: sent in turns and as fast as the reader takes them, so that neither a large answer
//! nor a slow reader holds up anything else.

use std::collections::VecDeque;

use ostler_broker_store::Selection;

use crate::bus::{Bus, publish};
use crate::headers::{append, status};
use crate::jetstream::JetStream;
use crate::stream::Stream;
use crate::time::{MILLISECOND, SECOND};

/// Readers at a time. Who comes when there are so many gets one turn, and is told what is left to ask for.
const READERS_MAX: usize = 256;
/// What a reader is sent in one turn, headers included: well under a millisecond's work.
const TURN_BYTES: u64 = 128 << 10;
/// What all readers together are sent before the server sees to its other work.
const TICK_BYTES: u64 = 512 << 10;
/// More is not sent for one request, headers included; what is left can be asked for next.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// How often it is looked whether a reader that was behind took something.
const LOOK_INTERVAL: i64 = 5 * MILLISECOND;
/// How long a reader may take nothing. Then it is told what is left, and not waited for.
const STALL: i64 = 10 * SECOND;

/// Which messages an answer is made of.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Those selected, between two sequences.
    Range(Selection, u64, u64),
    /// These.
    These(std::vec::IntoIter<u64>),
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) wanted: Wanted,
    /// How many there are, also of those that are not sent any more.
    pub(crate) pending: u64,
    /// How many may be sent.
    pub(crate) most: u64,
    /// When these bytes are sent, headers of ours not counted, nothing more is; 0 for no such limit.
    pub(crate) max_bytes: u64,
    pub(crate) no_headers: bool,
    /// What the end says of the last sequence that was looked at.
    pub(crate) up_to: Option<u64>,
}

/// An answer that is being sent.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: usize,
    reply: Box<[u8]>,
    wish: Wish,
    /// The last that was sent.
    before: u64,
    /// Bytes of messages, and those that really went.
    bytes: u64,
    sent: u64,
    moved_at: i64,
    can_go_on: bool,
}

impl Reader {
    pub(crate) fn new(stream: usize, reply: &[u8], wish: Wish, now: i64) -> Self {
        let (before, bytes, sent) = (0, 0, 0);
        Self { stream, reply: reply.into(), wish, before, bytes, sent, moved_at: now, can_go_on: true }
    }

    fn next_due(&self, now: i64) -> i64 {
        if self.can_go_on { now } else { now + LOOK_INTERVAL }
    }

    /// Sends as much as a turn may, and says whether that was the end.
    fn turn(&mut self, stream: &mut Stream, now: i64, bus: &mut impl Bus) -> bool {
        self.can_go_on = false;
        if bus.is_congested(&self.reply) {
            if now - self.moved_at < STALL {
                return false;
            }
            self.end(bus);
            return true;
        }
        self.moved_at = now;
        let until = self.sent + TURN_BYTES;
        while self.sent < until {
            if !self.send_next(stream, bus) {
                self.end(bus);
                return true;
            }
        }
        self.can_go_on = true;
        false
    }

    /// Sends a message; false when there is none any more, or it was the last.
    fn send_next(&mut self, stream: &mut Stream, bus: &mut impl Bus) -> bool {
        let wish = &mut self.wish;
        let is_full = (wish.max_bytes > 0 && self.bytes >= wish.max_bytes) || self.sent >= ANSWER_BYTES_MAX;
        if wish.most == 0 || is_full {
            return false;
        }
        let seq = match &mut wish.wanted {
            Wanted::Range(selection, from, last) => {
                let seq = stream.store.next(selection, *from).filter(|seq| seq <= last);
                *from = seq.map_or(*from, |seq| seq + 1);
                seq
            }
            Wanted::These(seqs) => seqs.next(),
        };
        let Some(seq) = seq else {
            // What was counted is gone meanwhile.
            wish.pending = 0;
            return false;
        };
        wish.most -= 1;
        wish.pending = wish.pending.saturating_sub(1);
        let facts = (!wish.no_headers).then_some((wish.pending, self.before));
        // One that cannot be read, or is gone meanwhile, is left out.
        if let Some((bytes, sent)) = stream.send_direct(seq, facts, &self.reply, bus) {
            (self.before, self.bytes, self.sent) = (seq, self.bytes + bytes, self.sent + sent);
        }
        true
    }

    /// Says what is left to ask for.
    fn end(&self, bus: &mut impl Bus) {
        let mut headers = status("204 EOB");
        append(&mut headers, "Nats-Num-Pending", self.wish.pending);
        append(&mut headers, "Nats-Last-Sequence", self.before);
        if let Some(up_to) = self.wish.up_to {
            append(&mut headers, "Nats-UpTo-Sequence", up_to);
        }
        publish(bus, &self.reply, &headers, b"");
    }
}

/// The answers that are being sent, in the order of their turns.
#[derive(Debug, Default)]
pub(crate) struct Readers(VecDeque<Reader>);

impl Readers {
    /// When one has something to do.
    pub(crate) fn next_due(&self, now: i64) -> Option<i64> {
        self.0.iter().map(|reader| reader.next_due(now)).min()
    }
}

impl JetStream {
    /// Begins an answer, and ends it when it is small.
    pub(crate) fn begin_reader(&mut self, mut reader: Reader, now: i64, bus: &mut impl Bus) {
        let Some(stream) = self.stream_mut(reader.stream) else { return };
        if reader.turn(stream, now, bus) {
            return;
        }
        if self.readers.0.len() < READERS_MAX {
            self.readers.0.push_back(reader);
        } else {
            reader.end(bus);
        }
    }

    /// Gives readers their turns.
    pub(crate) fn turn_readers(&mut self, now: i64, bus: &mut impl Bus) {
        let mut spent = 0;
        for _ in 0..self.readers.0.len() {
            if spent >= TICK_BYTES {
                return;
            }
            let Some(mut reader) = self.readers.0.pop_front() else { return };
            let Some(stream) = self.stream_mut(reader.stream) else { continue };
            // Who went away needs no more.
            if !bus.has_interest(&reader.reply) {
                continue;
            }
            let before = reader.sent;
            let ended = reader.turn(stream, now, bus);
            spent += reader.sent - before;
            if !ended {
                self.readers.0.push_back(reader);
            }
        }
    }
}
