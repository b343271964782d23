//! Which message is next, and sending it: redeliveries first, then what was not delivered yet, within what may be out
//! unacknowledged.

use ostler_broker_store::{Error, Store};

use super::{AckPolicy, Consumer, Pending, Position};
use crate::acks::write_number;
use crate::advisory::{Advisory, MaxDeliveries};
use crate::bus::Bus;
use crate::headers::append;
use crate::options::Context;

/// What a delivery needs beside the consumer.
pub(crate) struct Ground<'a, B> {
    pub(crate) stream: &'a str,
    /// Of the stream's configuration.
    pub(crate) max_msg_size: i64,
    pub(crate) store: &'a mut Store,
    pub(crate) bus: &'a mut B,
    pub(crate) context: &'a Context,
    pub(crate) now: i64,
    /// Messages that are done with by being delivered.
    pub(crate) done: Vec<u64>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Message(Chosen),
    /// As much as may be is out already.
    Blocked,
    Nothing,
}

/// A message that is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    seq: u64,
    from: From,
}

impl Chosen {
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether it was not delivered before.
    pub(super) fn is_new(&self) -> bool {
        !matches!(self.from, From::Redelivery { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Redelivery { count: u32 },
    Upcoming,
    Stream,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It is out; so many bytes of subject, reply, headers and payload.
    Sent(u64),
    /// It has so many bytes, more than there is room for.
    TooLarge(u64),
    /// It cannot be read: passed over.
    Lost,
    /// The disk does not answer: tried again later.
    Later,
}

impl Consumer {
    /// Queues what was not acknowledged in time.
    pub(super) fn queue_due(&mut self, now: i64) {
        let due = self.pending.take_due(now);
        self.redeliver.extend(due);
    }

    /// Finds the next message without taking it.
    pub(super) fn choose<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> Next {
        if let Some(chosen) = self.choose_again(ground) {
            return Next::Message(chosen);
        }
        let most = self.config.max_ack_pending;
        if self.config.ack_policy != AckPolicy::None && most > 0 && self.pending.len() as i64 >= most {
            return Next::Blocked;
        }
        let chosen = match self.upcoming.front() {
            Some(seq) => Some(Chosen { seq: *seq, from: From::Upcoming }),
            None => {
                let next = ground.store.next(&mut self.selection, self.next_seq);
                next.map(|seq| Chosen { seq, from: From::Stream })
            }
        };
        match chosen {
            Some(chosen) if self.is_early(chosen.seq, ground.store, ground.now) => Next::Blocked,
            Some(chosen) => Next::Message(chosen),
            None => {
                self.end_replay();
                // Nothing up to here has to be looked at again.
                self.next_seq = self.next_seq.max(ground.store.last_seq() + 1);
                (self.ahead, self.counted_to) = (Some(0), ground.store.last_seq());
                Next::Nothing
            }
        }
    }

    fn choose_again<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> Option<Chosen> {
        while let Some(seq) = self.redeliver.front().copied() {
            let Some(entry) = self.pending.get(seq).copied().filter(|entry| entry.queued) else {
                self.redeliver.pop_front();
                continue;
            };
            let most = self.config.max_deliver;
            if most <= 0 || i64::from(entry.count) < most {
                return Some(Chosen { seq, from: From::Redelivery { count: entry.count } });
            }
            // It stays in the stream: somebody has to see why nobody could handle it.
            self.redeliver.pop_front();
            self.give_up(seq);
            let advisory = MaxDeliveries {
                stream: ground.stream,
                consumer: &self.name,
                stream_seq: seq,
                deliveries: u64::from(entry.count),
            };
            advisory.send(ground.context, ground.now, ground.bus);
        }
        None
    }

    /// Takes a message out of what waits to be acknowledged.
    fn give_up(&mut self, seq: u64) {
        self.pending.remove(seq);
        self.raise_floor();
        self.unsaved = true;
    }

    /// Sends the message that is next, unless it has more than `room` bytes.
    pub(super) fn deliver<B: Bus>(
        &mut self,
        chosen: Chosen,
        to: &[u8],
        room: Option<u64>,
        ground: &mut Ground<'_, B>,
    ) -> Delivered {
        let pending = self.num_pending(ground.store).saturating_sub(u64::from(chosen.is_new()));
        let count = match chosen.from {
            From::Redelivery { count } => u64::from(count) + 1,
            From::Upcoming | From::Stream => 1,
        };
        let message = match ground.store.get(chosen.seq) {
            Ok(Some(message)) => message,
            Ok(None) | Err(Error::Damaged { .. }) => {
                self.pass_over(chosen);
                return Delivered::Lost;
            }
            Err(_) => return Delivered::Later,
        };
        let reply = &mut self.scratch.reply;
        reply.clear();
        reply.extend_from_slice(&self.ack_prefix);
        let time = message.time_ns.max(0) as u64;
        for (index, number) in
            [count, chosen.seq, self.delivered.delivery + 1, time, pending].into_iter().enumerate()
        {
            if index > 0 {
                reply.push(b'.');
            }
            write_number(reply, number);
        }
        let (mut headers, mut payload) = (message.headers, message.payload);
        if self.config.headers_only {
            self.scratch.headers.clear();
            self.scratch.headers.extend_from_slice(message.headers);
            append(&mut self.scratch.headers, "Nats-Msg-Size", payload.len());
            (headers, payload) = (&self.scratch.headers, b"");
        }
        if let Some(pin) = &self.pin {
            if !self.config.headers_only {
                self.scratch.headers.clear();
                self.scratch.headers.extend_from_slice(message.headers);
            }
            append(&mut self.scratch.headers, "Nats-Pin-Id", &pin.id);
            headers = &self.scratch.headers;
        }
        let size = (message.subject.len() + reply.len() + headers.len() + payload.len()) as u64;
        if room.is_some_and(|room| size > room) {
            return Delivered::TooLarge(size);
        }
        ground.bus.send(to, message.subject, reply, headers, payload);
        if chosen.is_new() {
            self.replayed(message.time_ns, ground.now);
        }
        self.take(chosen, ground.now);
        if self.config.ack_policy == AckPolicy::None {
            ground.done.push(chosen.seq);
        }
        Delivered::Sent(size)
    }

    /// Notes that it is out.
    pub(super) fn take(&mut self, chosen: Chosen, now: i64) {
        self.advance(chosen);
        self.delivered.delivery += 1;
        self.delivered.seq = self.delivered.seq.max(chosen.seq);
        self.delivered.at = Some(now);
        self.unsaved = true;
        let delivery = self.delivered.delivery;
        let wait = |count| self.config.wait_after(count);
        match chosen.from {
            From::Redelivery { count } => {
                let due = now.saturating_add(wait(count + 1));
                self.pending.update(chosen.seq, |entry| {
                    (entry.count, entry.due, entry.queued) = (count + 1, due, false);
                });
            }
            From::Upcoming | From::Stream if self.config.ack_policy == AckPolicy::None => {
                self.floor = Position { at: None, ..self.delivered };
            }
            From::Upcoming | From::Stream => {
                let due = now.saturating_add(wait(1));
                self.pending.push(Pending { seq: chosen.seq, delivery, due, count: 1, queued: false });
            }
        }
    }

    fn pass_over(&mut self, chosen: Chosen) {
        self.advance(chosen);
        if let From::Redelivery { .. } = chosen.from {
            self.give_up(chosen.seq);
        }
    }

    /// It is not next any more.
    fn advance(&mut self, chosen: Chosen) {
        match chosen.from {
            From::Redelivery { .. } => {
                self.redeliver.pop_front();
            }
            From::Upcoming => {
                self.upcoming.pop_front();
            }
            From::Stream => {
                self.next_seq = chosen.seq + 1;
                if chosen.seq <= self.counted_to {
                    self.ahead = self.ahead.map(|ahead| ahead.saturating_sub(1));
                }
            }
        }
    }
}
