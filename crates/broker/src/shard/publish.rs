//! A message from its publisher to its subscribers: permission, route, one append per subscriber.

use std::sync::Arc;

use bytes::Bytes;
use ostler_broker_proto::codec::{Decimal, tail_of};
use ostler_broker_proto::{Publish, headers, subject};

use super::conn::Conn;
use super::ingest::SHARE_BYTES_MIN;
use super::message::Msg;
use super::outbound::Pool;
use super::verdicts::Hashed;
use super::{End, Shard};
use crate::link::{Delivery, Subscription};
use crate::snapshot::CloseReason;

/// Checks that subscribers can read what they would get.
fn check_readable(publish: &Publish<'_>) -> Result<(), String> {
    if !subject::is_readable(publish.subject) {
        return Err("the subject must be UTF-8 text without white space".into());
    }
    if !publish.reply.is_none_or(subject::is_readable) {
        return Err("the reply subject must be UTF-8 text without white space".into());
    }
    if publish.header_len.is_some() {
        headers::check(publish.headers()).map_err(|problem| problem.to_string())?;
    }
    Ok(())
}

/// Appends a message whose line must be made anew: large, written unusually, or for a client that takes no headers.
/// Returns the bytes of its headers and payload.
fn append_in_pieces(
    conn: &mut Conn,
    pool: &mut Pool,
    target: &Subscription,
    message: &Msg<'_>,
    shared_body: &mut Option<Bytes>,
    to_several: bool,
) -> usize {
    let headers = message.header_len.filter(|_| conn.says.headers);
    // A client that did not declare headers gets the payload alone.
    let skipped = if headers.is_none() { message.header_len.unwrap_or(0) } else { 0 };
    let body = &message.body_crlf[skipped..];
    let size = Decimal::new(body.len() - 2);
    let header_size = Decimal::new(headers.unwrap_or(0));
    let verb: &[u8] = if headers.is_some() { b"HMSG " } else { b"MSG " };
    let (header_size, header_gap): (&[u8], &[u8]) =
        if headers.is_some() { (header_size.as_bytes(), b" ") } else { (b"", b"") };
    let (reply, reply_gap): (&[u8], &[u8]) = message.reply.map_or((b"", b""), |reply| (reply, b" "));
    let (subject, sid, size) = (message.subject.subject, target.spaced_sid(), size.as_bytes());
    let is_shared = body.len() >= SHARE_BYTES_MIN && (message.frame.is_some() || to_several);
    let copied = if is_shared { &[] } else { body };
    conn.outbound
        .append(pool, [verb, subject, sid, reply, reply_gap, header_size, header_gap, size, b"\r\n", copied]);
    if is_shared {
        conn.outbound.append_shared(match message.frame {
            Some(frame) => frame.slice_ref(body),
            None => {
                shared_body.get_or_insert_with(|| Bytes::copy_from_slice(message.body_crlf)).slice(skipped..)
            }
        });
    }
    body.len() - 2
}

/// A client asks who it is; clients rely on it.
const USER_INFO: &[u8] = b"$SYS.REQ.USER.INFO";

impl Shard {
    /// Routes a message of the connection in `slot`; returns whether that is still there.
    ///
    /// `bytes` is the whole operation, and `frame` what owns it if that is a buffer of its own.
    pub(super) fn publish(
        &mut self,
        slot: usize,
        publish: &Publish<'_>,
        bytes: &[u8],
        frame: Option<&Bytes>,
    ) -> bool {
        self.stats.in_msgs += 1;
        self.stats.in_bytes += publish.body.len() as u64;
        let Some(conn) = self.conns[slot].as_deref_mut() else {
            return false;
        };
        conn.traffic.in_msgs += 1;
        conn.traffic.in_bytes += publish.body.len() as u64;
        let says = conn.says;
        if self.shared.strict_messages
            && let Err(problem) = check_readable(publish)
        {
            tracing::info!(client = conn.link.id, peer = %conn.peer, problem, "unreadable message refused");
            self.close(slot, End::Told(&format!("Invalid Message: {problem}")));
            return false;
        }
        if publish.header_len.is_some() && !says.headers {
            // Known when it is executed, not when it is parsed: CONNECT may be in the same read.
            self.close_because(slot, End::Quiet, CloseReason::MessageHeaderViolation);
            return false;
        }
        if publish.subject.first() == Some(&b'$') && publish.subject == USER_INFO {
            return self.answer_user_info(slot, publish);
        }
        let subject = Hashed::new(publish.subject);
        let permitted = conn.may_publish(subject, &mut self.verdicts, self.now);
        let refused_reply =
            publish.reply.filter(|reply| permitted && !conn.may_name_reply(reply, &mut self.verdicts));
        if says.pedantic && !subject::is_literal(publish.subject) {
            // Said, and the message goes on all the same (client.go processPub).
            self.complain(slot, "Invalid Publish Subject");
        }
        if !permitted {
            return self.refuse_publish(slot, "Publish to", publish.subject);
        }
        if let Some(reply) = refused_reply {
            return self.refuse_publish(slot, "Publish with Reply of", reply);
        }
        if says.verbose {
            self.acknowledge(slot);
        }
        let message = Msg {
            subject,
            to: None,
            reply: publish.reply,
            header_len: publish.header_len,
            body_crlf: publish.body_crlf,
            tail: tail_of(bytes, publish),
            frame,
        };
        let mut delivered = self.route(slot, says.echo, &message);
        if publish.subject.first() == Some(&b'$') {
            delivered |= self.answer_system(slot, publish.subject, publish.reply, publish.payload());
        }
        if !delivered
            && says.no_responders
            && let Some(reply) = publish.reply
        {
            self.send_no_responders(slot, reply, publish.subject);
        }
        // It may have been its own slow consumer.
        self.conns[slot].is_some()
    }

    /// Tells the client; returns whether it is still there.
    #[cold]
    fn refuse_publish(&mut self, slot: usize, what: &str, subject: &[u8]) -> bool {
        if let Some(conn) = self.at(slot) {
            conn.log_refusal(what, subject);
        }
        let subject = String::from_utf8_lossy(subject);
        self.complain(slot, &format!("Permissions Violation for {what} \"{subject}\""));
        self.conns[slot].is_some()
    }

    /// Gives `message` to everyone it is for; returns whether anyone got it.
    fn route(&mut self, from: usize, echo: bool, message: &Msg<'_>) -> bool {
        let Some(account) = self.conns[from].as_deref().map(|conn| conn.account) else {
            return false;
        };
        let route = self.routes[account].get(message.subject, self.index);
        let skipped = if echo { None } else { self.conns[from].as_deref().map(|conn| conn.link.id) };
        let from_id = self.conns[from].as_deref().map_or(0, |conn| conn.link.id);
        let mut delivered = false;
        let mut shared_body = None;
        for target in &route.local {
            if Some(target.link.id) != skipped {
                delivered |= self.deliver(target, message, &mut shared_body, route.local.len() > 1);
                self.note_stalled(target, from_id);
            }
        }
        for (shard, targets) in &route.remote {
            delivered |= targets.iter().any(|target| !target.link.is_closed());
            for target in &**targets {
                self.note_stalled(target, from_id);
            }
            self.outboxes[*shard].push(message, targets);
        }
        for members in &route.groups {
            delivered |= self.deliver_to_group(members, skipped, from_id, message, &mut shared_body);
        }
        delivered
    }

    /// One member gets it: from a random start the first that can take it, one that lags behind only if all do.
    pub(super) fn deliver_to_group(
        &mut self,
        members: &[Arc<Subscription>],
        skipped: Option<u64>,
        from_id: u64,
        message: &Msg<'_>,
        shared_body: &mut Option<Bytes>,
    ) -> bool {
        let start = if members.len() > 1 { self.random.usize(..members.len()) } else { 0 };
        for accept_stalled in [false, true] {
            for offset in 0..members.len() {
                let target = &members[(start + offset) % members.len()];
                let link = &target.link;
                let is_gone = link.is_closed() || target.has_ended();
                if is_gone || Some(link.id) == skipped || link.is_stalled() != accept_stalled {
                    continue;
                }
                let taken = if link.shard == self.index {
                    self.deliver(target, message, shared_body, false)
                } else {
                    self.outboxes[link.shard].push_one(message, target);
                    true
                };
                self.note_stalled(target, from_id);
                if taken {
                    return true;
                }
            }
        }
        false
    }

    /// The publisher of this batch will wait for a subscriber that is far behind - unless that is itself.
    fn note_stalled(&mut self, target: &Subscription, from_id: u64) {
        if target.link.is_stalled() && target.link.id != from_id {
            self.wait_for = Some(Arc::clone(&target.link));
        }
    }

    /// Appends `message` to what waits for a subscriber of this shard; returns whether it was taken.
    ///
    /// `shared_body` holds the body once it was copied for several subscribers.
    pub(super) fn deliver(
        &mut self,
        target: &Arc<Subscription>,
        message: &Msg<'_>,
        shared_body: &mut Option<Bytes>,
        to_several: bool,
    ) -> bool {
        let slot = target.link.slot;
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_deref_mut) else {
            return self.deliver_to_streams(target, message);
        };
        if conn.link.id != target.link.id
            || (target.is_partly_denied() && conn.may_not_have(message, target, &mut self.verdicts))
        {
            return false;
        }
        let delivery = target.count_delivery();
        if delivery == Delivery::Ended {
            return false;
        }
        if let Some(reply) = message.reply
            && conn.entry.as_ref().is_some_and(|entry| entry.access.responses.is_some())
        {
            conn.expect_response(reply, self.now);
        }

        let sent = match message.tail {
            Some(tail)
                if tail.len() < SHARE_BYTES_MIN && (message.header_len.is_none() || conn.says.headers) =>
            {
                let verb: &[u8] = if message.header_len.is_some() { b"HMSG " } else { b"MSG " };
                conn.outbound
                    .append(&mut self.pool, [verb, message.subject.subject, target.spaced_sid(), tail]);
                message.body_crlf.len() - 2
            }
            _ => append_in_pieces(conn, &mut self.pool, target, message, shared_body, to_several),
        };
        self.stats.out_msgs += 1;
        self.stats.out_bytes += sent as u64;
        conn.traffic.out_msgs += 1;
        conn.traffic.out_bytes += sent as u64;
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(slot);
        }
        if conn.outbound.len() > self.flush_early_bytes {
            self.bound(slot);
        }
        if delivery == Delivery::Last {
            self.end_subscription(slot, target.sid());
        }
        true
    }

    /// Tells a requester that nobody listens - if it asked with a subscription of its own (client.go). The server's own
    /// word and no message: it is counted where the client counts it too, by the subscription, and nowhere else.
    #[cold]
    fn send_no_responders(&mut self, slot: usize, reply: &[u8], subject: &[u8]) {
        let mut block = Vec::with_capacity(64);
        headers::write_no_responders(&mut block, subject);
        let len = Decimal::new(block.len());
        let reply = Hashed::new(reply);
        for target in self.own_subscriptions(slot, reply) {
            let delivery = target.count_delivery();
            if delivery == Delivery::Ended {
                continue;
            }
            let (sid, len) = (target.spaced_sid(), len.as_bytes());
            self.send_with(slot, |out| {
                for part in [b"HMSG ", reply.subject, sid, len, b" ", len, b"\r\n", &block, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            });
            if delivery == Delivery::Last {
                self.end_subscription(slot, target.sid());
            }
        }
    }

    /// Delivers to the connection's own plain subscriptions only, so that a client cannot have the server speak to
    /// others. To all of them: one that listens to everything must not miss the answer in its inbox.
    pub(super) fn send_to_self(
        &mut self,
        slot: usize,
        subject: &[u8],
        header_len: Option<usize>,
        body_crlf: &[u8],
    ) {
        let subject = Hashed::new(subject);
        let message = Msg { subject, to: None, reply: None, header_len, body_crlf, tail: None, frame: None };
        for target in self.own_subscriptions(slot, subject) {
            self.deliver(&target, &message, &mut None, false);
        }
    }

    /// The plain subscriptions that a connection has to `subject`.
    fn own_subscriptions(&mut self, slot: usize, subject: Hashed<'_>) -> Vec<Arc<Subscription>> {
        let Some((account, id)) = self.conns[slot].as_deref().map(|conn| (conn.account, conn.link.id)) else {
            return Vec::new();
        };
        let route = self.routes[account].get(subject, self.index);
        route.local.iter().filter(|target| target.link.id == id).cloned().collect()
    }
}
