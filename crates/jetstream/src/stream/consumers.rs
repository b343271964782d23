//! A stream and its consumers: who is served when, and which messages go because everybody is done with them.

use super::chores::Progress;
use super::{Retention, Stream};
use ostler_broker_store::Error;

use crate::advisory::{AckSample, Action, Advisory, ConsumerAction, Unwanted};
use crate::bus::{Bus, Incoming};
use crate::consumer::{AckKind, AckSubject, CONSUMER_PREFIX, Consumer, Ground};
use crate::options::Context;

impl Stream {
    /// Reads the consumers back.
    pub(super) fn load_consumers(&mut self, now: i64) {
        let names = self.store.checkpoints();
        for checkpoint in names.iter().filter(|name| name.starts_with(CONSUMER_PREFIX)) {
            if let Some(consumer) = Consumer::load(checkpoint, &self.config.name, &mut self.store, now) {
                self.consumers.insert(consumer.name.clone(), consumer);
            }
        }
        self.wake = true;
    }

    /// Whether a consumer would be given a message on this subject.
    pub(super) fn is_wanted(&self, subject: &[u8]) -> bool {
        self.takers.want(subject) || self.consumers.values().any(|consumer| consumer.config.wants(subject))
    }

    /// Serves everybody who waits, from what is written.
    pub(super) fn serve(&mut self, now: i64, bus: &mut impl Bus, context: &Context) {
        self.wake = false;
        self.new_messages = false;
        let mut more = false;
        let mut done = Vec::new();
        for consumer in self.consumers.values_mut() {
            let mut ground = Ground {
                stream: &self.config.name,
                max_msg_size: self.config.max_msg_size,
                store: &mut self.store,
                bus: &mut *bus,
                context,
                now,
                done: std::mem::take(&mut done),
            };
            more |= consumer.serve(&mut ground);
            done = ground.done;
        }
        self.lagging = more;
        self.done_with(&done);
    }

    /// Does for the consumers what time asks for.
    pub(crate) fn tick_consumers(&mut self, now: i64, bus: &mut impl Bus, context: &Context) {
        let mut inactive = Vec::new();
        for consumer in self.consumers.values_mut() {
            let mut ground = Ground {
                stream: &self.config.name,
                max_msg_size: self.config.max_msg_size,
                store: &mut self.store,
                bus: &mut *bus,
                context,
                now,
                done: Vec::new(),
            };
            consumer.tick(&mut ground);
            if consumer.is_inactive(now) {
                inactive.push(consumer.name.clone());
            }
            self.dirty |= consumer.is_save_due(now);
        }
        for name in inactive {
            self.remove_consumer(&name, now, bus, context, None);
        }
        self.wake |= !self.consumers.is_empty();
    }

    /// Saves the states that are due; what the disk refuses is tried again later.
    pub(super) fn save_consumers(&mut self, now: i64) -> Result<(), Error> {
        let mut outcome = Ok(());
        for consumer in self.consumers.values_mut().filter(|consumer| consumer.is_save_due(now)) {
            let saved = consumer.save_state(&mut self.store, now);
            if saved.is_err() {
                consumer.save_later(now);
            }
            outcome = outcome.and(saved);
        }
        outcome
    }

    /// Saves where everybody stands, and writes and syncs everything.
    pub(crate) fn close(mut self, now: i64) -> Result<(), Error> {
        self.consumers.values_mut().for_each(|consumer| consumer.save_now |= consumer.unsaved);
        let saved = self.save_consumers(now);
        saved.and(self.store.close())
    }

    /// When something has to be done for a consumer.
    pub(crate) fn next_consumer_due(&self, now: i64) -> Option<i64> {
        let lagging = self.lagging.then_some(now);
        self.consumers.values().filter_map(Consumer::next_due).chain(lagging).min()
    }

    /// Takes a request for messages; false when there is no such consumer.
    pub(crate) fn request(
        &mut self,
        name: &str,
        payload: &[u8],
        reply: &[u8],
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) -> bool {
        let Some(consumer) = self.consumers.get_mut(name) else { return false };
        let stream = &self.config.name;
        let max_msg_size = self.config.max_msg_size;
        let store = &mut self.store;
        let mut ground = Ground { stream, max_msg_size, store, bus, context, now, done: Vec::new() };
        consumer.request(payload, reply, &mut ground);
        self.wake = true;
        true
    }

    /// Takes an acknowledgement.
    pub(crate) fn on_ack(
        &mut self,
        ack: &AckSubject<'_>,
        message: &Incoming<'_>,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) {
        let Some(consumer) = self.consumers.get_mut(ack.consumer) else { return };
        let unwanted = |terminated, reason| Unwanted {
            terminated,
            stream: ack.stream,
            consumer: ack.consumer,
            consumer_seq: ack.delivery,
            stream_seq: ack.seq,
            deliveries: ack.count,
            reason,
        };
        let mut request = None;
        let acked = match AckKind::parse(message.payload) {
            AckKind::Done => consumer.acknowledge(ack, now),
            AckKind::Next(rest) => {
                request = Some(rest);
                consumer.acknowledge(ack, now)
            }
            AckKind::Terminate(reason) => {
                let acked = consumer.acknowledge(ack, now);
                if acked.taken {
                    unwanted(true, std::str::from_utf8(reason).unwrap_or("")).say(context, now, bus);
                }
                acked
            }
            AckKind::Again(delay) => {
                let acked = consumer.again(ack, delay, now);
                if acked.taken {
                    unwanted(false, "").say(context, now, bus);
                }
                acked
            }
            AckKind::Working | AckKind::Unknown => consumer.working(ack, now),
        };
        let percent = u64::from(consumer.config.sampling().unwrap_or(0));
        if percent > 0 && !acked.done.is_empty() && context.salt() % 100 < percent {
            let sample = AckSample {
                stream: ack.stream,
                consumer: ack.consumer,
                consumer_seq: ack.delivery,
                stream_seq: ack.seq,
                ack_time: acked.took,
                deliveries: ack.count,
            };
            sample.send(context, now, bus);
        }
        self.wake = true;
        if let Some(request) = request {
            self.done_with(&acked.done);
            self.request(ack.consumer, request, message.reply, now, bus, context);
            return;
        }
        // Who asks to be told is told when it is as safe as a message of the stream.
        if acked.taken && !message.reply.is_empty() {
            if let Some(consumer) = self.consumers.get_mut(ack.consumer) {
                consumer.save_now |= consumer.unsaved;
            }
            self.done_with(&acked.done);
            self.answer(message.reply, b"", None, bus);
        } else {
            self.done_with(&acked.done);
        }
    }

    /// Takes the answer to a request of flow control.
    pub(crate) fn on_flow_control(&mut self, consumer: &str, subject: &[u8]) {
        if let Some(consumer) = self.consumers.get_mut(consumer) {
            self.wake |= consumer.flow_answered(subject);
        }
    }

    /// Removes messages that a consumer is done with, as far as retention says so.
    pub(crate) fn done_with(&mut self, done: &[u64]) {
        if done.is_empty() || self.config.retention == Retention::Limits {
            return;
        }
        for &seq in done {
            let held = match self.config.retention {
                Retention::WorkQueue => self.hold_for_takers(seq),
                _ => self.is_needed(seq),
            };
            if !held {
                self.drop_message(seq);
                self.done_unwritten.push(seq);
            }
        }
    }

    pub(super) fn is_needed(&mut self, seq: u64) -> bool {
        let Ok(Some(message)) = self.store.get(seq) else { return false };
        let subject = message.subject;
        self.consumers.values().any(|consumer| consumer.needs(seq, subject)) || self.takers.need(seq, subject)
    }

    /// Takes a consumer out, tells those who wait, and removes what only it wanted; `None` when there is no such consumer.
    pub(crate) fn remove_consumer(
        &mut self,
        name: &str,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
        asked: Option<&Incoming<'_>>,
    ) -> Option<Progress<()>> {
        let mut consumer = self.consumers.remove(name)?;
        consumer.end_requests("409 Consumer Deleted", bus);
        self.dirty = true;
        let advisory = ConsumerAction { stream: &self.config.name, consumer: name, action: Action::Delete };
        advisory.send(context, now, bus);
        if self.config.retention == Retention::Interest {
            return Some(self.release(consumer, asked));
        }
        consumer.forget(&mut self.store);
        Some(Progress::Done(()))
    }

    /// Takes all consumers out, as the stream goes.
    pub(crate) fn remove_consumers(&mut self, now: i64, bus: &mut impl Bus, context: &Context) {
        for (name, mut consumer) in std::mem::take(&mut self.consumers) {
            consumer.end_requests("409 Consumer Deleted", bus);
            let advisory =
                ConsumerAction { stream: &self.config.name, consumer: &name, action: Action::Delete };
            advisory.send(context, now, bus);
        }
    }
}
