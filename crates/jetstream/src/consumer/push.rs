//! Delivering unasked: to a subject, as long as somebody listens there, with heartbeats and flow control.
//!
//! Flow control keeps a window of bytes. When half of it is out, a request goes with the messages; nothing more goes
//! once all of it is out. The client answers the request when it has come to it, which opens the window again, wider.

use super::deliver::{Delivered, Ground, Next};
use super::rate::{Limit, Rate};
use super::{Consumer, ConsumerConfig};
use crate::advisory::{Advisory, ConsumerPause};
use crate::bus::{Bus, publish};
use crate::headers::{append, status};
use crate::time::MILLISECOND;

/// The widest window.
const WINDOW_MAX: u64 = 32 << 20;
/// The window at the beginning.
const WINDOW: u64 = WINDOW_MAX / 16;
/// More is not pushed by one consumer before others have their turn.
const BYTES_PER_TURN: u64 = 1 << 20;
/// When to look again at a client that cannot take more.
const CONGESTED: i64 = 5 * MILLISECOND;

/// What is known of the receiving side.
#[derive(Debug)]
pub(super) struct Push {
    heartbeat_at: i64,
    /// Bytes that may be out.
    window: u64,
    /// Bytes that are out, as far as is known.
    out: u64,
    /// The request that is not answered yet, and how many bytes its answer is about.
    asked: Option<(Box<[u8]>, u64)>,
    /// Nothing goes before: the rate is limited, or the client is behind.
    not_before: Option<i64>,
    rate: Rate,
}

impl Push {
    pub(super) fn new(now: i64) -> Self {
        Self {
            heartbeat_at: now,
            window: WINDOW,
            out: 0,
            asked: None,
            not_before: None,
            rate: Rate::new(now),
        }
    }

    pub(super) fn next_due(&self, config: &ConsumerConfig) -> Option<i64> {
        let heartbeat =
            (config.idle_heartbeat > 0).then(|| self.heartbeat_at.saturating_add(config.idle_heartbeat));
        [heartbeat, self.not_before].into_iter().flatten().min()
    }
}

impl Consumer {
    /// Pushes what there is; true when there is more than one turn's worth.
    pub(super) fn serve_push<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> bool {
        let Some(mut push) = self.push.take() else { return false };
        let more = self.push_messages(&mut push, ground);
        self.push = Some(push);
        more
    }

    fn push_messages<B: Bus>(&mut self, push: &mut Push, ground: &mut Ground<'_, B>) -> bool {
        if push.not_before.is_some_and(|at| at > ground.now) {
            return false;
        }
        push.not_before = None;
        if !self.is_bound(ground.bus) {
            return false;
        }
        let to = std::mem::take(&mut self.config.deliver_subject);
        let more = self.push_to(to.as_bytes(), push, ground);
        self.config.deliver_subject = to;
        more
    }

    fn push_to<B: Bus>(&mut self, to: &[u8], push: &mut Push, ground: &mut Ground<'_, B>) -> bool {
        self.active_at = ground.now;
        let limit = Limit::new(self.config.rate_limit_bps, ground.max_msg_size);
        let mut sent = 0;
        loop {
            if self.config.flow_control && push.out > push.window {
                return false;
            }
            if sent >= BYTES_PER_TURN {
                return true;
            }
            if ground.bus.is_congested(to) {
                push.not_before = Some(ground.now + CONGESTED);
                return false;
            }
            let Next::Message(chosen) = self.choose(ground) else { return false };
            let room = limit.map(|limit| push.rate.room(limit, ground.now));
            match self.deliver(chosen, to, room, ground) {
                Delivered::Sent(size) => {
                    sent += size;
                    push.heartbeat_at = ground.now;
                    if self.config.flow_control {
                        self.count_out(to, size, push, ground);
                    }
                    push.rate.spend(size);
                }
                Delivered::TooLarge(size) => {
                    push.not_before = limit.map(|limit| push.rate.ready_at(size, limit));
                    return false;
                }
                Delivered::Lost => {}
                Delivered::Later => return false,
            }
        }
    }

    fn count_out<B: Bus>(&mut self, to: &[u8], size: u64, push: &mut Push, ground: &mut Ground<'_, B>) {
        push.out += size;
        match &mut push.asked {
            None if push.out > push.window / 2 => {
                let reply = format!("$JS.FC.{}.{}.{}", ground.stream, self.name, ground.context.id(4));
                ground.bus.send(to, to, reply.as_bytes(), &status("100 FlowControl Request"), b"");
                push.asked = Some((reply.into_bytes().into(), push.out));
            }
            None | Some(_) => {}
        }
    }

    /// Takes the answer to a request of flow control; false when it answers none.
    pub(crate) fn flow_answered(&mut self, subject: &[u8]) -> bool {
        let Some(push) = &mut self.push else { return false };
        match push.asked.take() {
            Some((asked, bytes)) if *asked == *subject => {
                push.out = push.out.saturating_sub(bytes);
                push.window = (push.window * 2).min(WINDOW_MAX);
                true
            }
            other => {
                push.asked = other;
                false
            }
        }
    }

    /// Says that it is still there when nothing was pushed for a while, and what it waits for.
    pub(super) fn beat_push<B: Bus>(&mut self, ground: &mut Ground<'_, B>) {
        let every = self.config.idle_heartbeat;
        let bound = self.is_bound(ground.bus);
        let Some(push) = &mut self.push else { return };
        if every <= 0 || push.heartbeat_at.saturating_add(every) > ground.now {
            return;
        }
        push.heartbeat_at = ground.now;
        if !bound {
            return;
        }
        let mut headers = status("100 Idle Heartbeat");
        append(&mut headers, "Nats-Last-Consumer", self.delivered.delivery);
        append(&mut headers, "Nats-Last-Stream", self.delivered.seq);
        if let Some((asked, _)) = push.asked.as_ref().filter(|_| push.out > push.window) {
            append(&mut headers, "Nats-Consumer-Stalled", String::from_utf8_lossy(asked));
        }
        publish(ground.bus, self.config.deliver_subject.as_bytes(), &headers, b"");
    }

    /// Does everything that there is to do: true when there is more than one turn's worth.
    pub(crate) fn serve<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> bool {
        if self.rests(ground.now) || self.is_for_stream() {
            return false;
        }
        self.queue_due(ground.now);
        if self.push.is_some() { self.serve_push(ground) } else { self.serve_requests(ground) }
    }

    /// Does what time asks for: requests expire, those who wait hear that somebody is there.
    pub(crate) fn tick<B: Bus>(&mut self, ground: &mut Ground<'_, B>) {
        self.queue_due(ground.now);
        self.expire_pin(ground);
        self.expire_replay(ground.now);
        if self.pause_ends.is_some_and(|until| until <= ground.now) {
            self.pause_ends = None;
            ConsumerPause::of(ground.stream, self, ground.now).send(ground.context, ground.now, ground.bus);
        }
        if self.push.is_some() {
            if self.is_bound(ground.bus) {
                self.active_at = ground.now;
            }
            self.beat_push(ground);
        } else {
            if !self.waiting.is_empty() {
                self.active_at = ground.now;
            }
            self.drop_ended(ground);
            self.beat_requests(ground);
        }
    }
}
