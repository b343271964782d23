//! The shard as JetStream's bus: who listens, who is behind, and the way of what it sends.

use std::cell::RefCell;

use ostler_broker_proto::codec::Decimal;
use ostler_jetstream::Bus;

use super::super::Shard;
use super::super::message::Msg;
use super::super::verdicts::Hashed;
use super::is_ours;
use crate::link::Subscription;

/// More than this waits for a client: nothing is pushed to it before it took some.
const CONGESTED_BYTES: usize = 4 << 20;

/// A shard, lent to JetStream for a call. A cell, because looking at a route may mean to learn it.
pub(super) struct ShardBus<'a>(pub(super) RefCell<&'a mut Shard>);

impl Bus for ShardBus<'_> {
    fn has_interest(&self, subject: &[u8]) -> bool {
        let mut shard = self.0.borrow_mut();
        let index = shard.index;
        let account = shard.shared.jetstream.place();
        let route = shard.routes[account].get(Hashed::new(subject), index);
        // A stream listens like anybody else, as in nats-server; what is asked of JetStream is not listened to.
        // Only its events are for streams; the rest are requests, also those of a domain.
        let is_request = subject.starts_with(b"$JS.") && !subject.starts_with(b"$JS.EVENT.");
        let is_sealed = shard.streams.0.as_ref().is_some_and(|room| room.store.is_sealed(subject));
        let listens = |target: &Subscription| {
            !(is_sealed || target.has_ended() || target.link.is_closed() || is_request && is_ours(target))
        };
        let local = route.local.iter();
        let remote = route.remote.iter().flat_map(|(_, targets)| targets.iter());
        local.chain(remote).chain(route.groups.iter().flatten()).any(|target| listens(target))
    }

    fn has_group_interest(&self, subject: &[u8], group: &[u8]) -> bool {
        let mut shard = self.0.borrow_mut();
        let index = shard.index;
        let account = shard.shared.jetstream.place();
        let route = shard.routes[account].get(Hashed::new(subject), index);
        let listens = |target: &Subscription| {
            target.queue.as_deref() == Some(group) && !target.has_ended() && !target.link.is_closed()
        };
        route.groups.iter().flatten().any(|target| listens(target))
    }

    fn is_congested(&self, subject: &[u8]) -> bool {
        let mut shard = self.0.borrow_mut();
        let index = shard.index;
        let account = shard.shared.jetstream.place();
        let route = shard.routes[account].get(Hashed::new(subject), index);
        let most = CONGESTED_BYTES.min(shard.limits.stall_bytes() / 2);
        let queued = shard.streams.0.as_ref().map_or(0, |room| room.queued_bytes);
        let mut is_behind = |target: &Subscription| {
            if is_ours(target) {
                return queued > most;
            }
            let is_full = target.link.shard != index && {
                let shards = &shard.shared.shards;
                shards[target.link.shard].inbox.is_full()
                    || shard.outboxes[target.link.shard].len_bytes() > most
            };
            let waiting = shard.conn(&target.link).map_or(0, |conn| conn.outbound.len());
            is_full || target.link.is_stalled() || waiting > most
        };
        route.local.iter().any(|target| is_behind(target))
            || route.remote.iter().flat_map(|(_, targets)| targets.iter()).any(|target| is_behind(target))
            // Another member takes it.
            || route.groups.iter().any(|members| members.iter().all(|target| is_behind(target)))
    }

    fn send(&mut self, to: &[u8], subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        self.0.get_mut().send_for_streams(to, subject, reply, headers, payload);
    }
}

impl Shard {
    /// Delivers a message of JetStream to whoever subscribed to `to`. Nobody waits for a subscriber that is behind.
    fn send_for_streams(&mut self, to: &[u8], subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        let place = Hashed::new(to);
        let account = self.shared.jetstream.place();
        let route = self.routes[account].get(place, self.index);
        if route.local.is_empty() && route.remote.is_empty() && route.groups.is_empty() {
            return;
        }
        let Some(room) = self.streams.0.as_deref_mut().filter(|room| !room.store.is_sealed(to)) else {
            return;
        };
        let mut tail = std::mem::take(&mut room.scratch);
        tail.clear();
        let body = write_tail(&mut tail, reply, headers, payload);
        let subject = if subject == to { place } else { Hashed::new(subject) };
        let message = Msg {
            subject,
            to: Some(place.subject).filter(|to| *to != subject.subject),
            reply: Some(reply).filter(|reply| !reply.is_empty()),
            header_len: Some(headers.len()).filter(|len| *len > 0),
            body_crlf: &tail[body..],
            tail: Some(&tail),
            frame: None,
        };
        let wait_for = self.wait_for.take();
        let mut shared_body = None;
        for target in &route.local {
            self.deliver(target, &message, &mut shared_body, route.local.len() > 1);
        }
        for (shard, targets) in &route.remote {
            self.outboxes[*shard].push(&message, targets);
        }
        for members in &route.groups {
            self.deliver_to_group(members, None, 0, &message, &mut shared_body);
        }
        self.wait_for = wait_for;
        if let Some(room) = self.streams.0.as_deref_mut() {
            room.scratch = tail;
        }
    }
}

/// Writes what follows the sid in MSG or HMSG; returns where the body begins.
fn write_tail(tail: &mut Vec<u8>, reply: &[u8], headers: &[u8], payload: &[u8]) -> usize {
    if !reply.is_empty() {
        tail.extend_from_slice(reply);
        tail.push(b' ');
    }
    if !headers.is_empty() {
        tail.extend_from_slice(Decimal::new(headers.len()).as_bytes());
        tail.push(b' ');
    }
    tail.extend_from_slice(Decimal::new(headers.len() + payload.len()).as_bytes());
    tail.extend_from_slice(b"\r\n");
    let body = tail.len();
    for part in [headers, payload, b"\r\n"] {
        tail.extend_from_slice(part);
    }
    body
}
