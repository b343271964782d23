//! What goes by itself: messages past the stream's age, messages past their own time to live, and the markers left in
//! the place of a subject's last message.

use ostler_broker_store::NewMessage;

use super::Stream;
use super::publish::limit;
use crate::bus::Bus;
use crate::headers::{PublishHeaders, append};
use crate::time::write_duration;

/// At most so many go at once: the rest when the server has seen to its other work.
const EXPIRED_PER_TICK: usize = 10_000;
const MARKER: &[u8] = b"\r\nNats-Marker-Reason:";

impl Stream {
    /// When something goes by itself next.
    pub(crate) fn next_expiry(&mut self) -> Option<i64> {
        let own = self.store.next_expiry();
        let age = self.age_due();
        match (own, age) {
            (Some(own), Some((_, age))) => Some(own.min(age)),
            (own, age) => own.or(age.map(|(_, due)| due)),
        }
    }

    /// Removes what has passed at `now`; true when there is more.
    pub(crate) fn expire(&mut self, now: i64, bus: &mut impl Bus) -> bool {
        self.dedupe.forget_before(now - self.config.duplicate_window);
        for _ in 0..EXPIRED_PER_TICK {
            let due = match self.age_due() {
                Some((seq, due)) if due <= now => Some(seq),
                _ => self.store.next_expired(now),
            };
            let Some(seq) = due else { return false };
            if !self.expire_message(seq, now, bus) {
                return false;
            }
        }
        true
    }

    /// The oldest message that age takes, and when.
    fn age_due(&mut self) -> Option<(u64, i64)> {
        let age = limit(self.config.max_age)? as i64;
        if !self.config.allow_msg_ttl {
            let (seq, time) = self.store.oldest()?;
            return Some((seq, time.saturating_add(age)));
        }
        // Some of the oldest may be there for ever, and need not be looked at again.
        let mut at = self.age_cursor.max(self.store.first_seq());
        let mut all = ostler_broker_store::Selection::all();
        while let Some(seq) = self.store.next(&mut all, at) {
            self.age_cursor = seq;
            at = seq + 1;
            let Ok(Some(message)) = self.store.get(seq) else { continue };
            let stays = PublishHeaders::read(message.headers).ttl == Some(b"never");
            if !stays {
                return Some((seq, message.time_ns.saturating_add(age)));
            }
        }
        self.age_cursor = at;
        None
    }

    fn expire_message(&mut self, seq: u64, now: i64, bus: &mut impl Bus) -> bool {
        let ttl = self.config.subject_delete_marker_ttl;
        let mut last_of = None;
        if ttl > 0
            && let Ok(Some(message)) = self.store.get(seq)
            && memchr_block(message.headers).is_none()
        {
            last_of = Some(message.subject.to_vec());
        }
        if !self.drop_message(seq) {
            return false;
        }
        if let Some(subject) = last_of
            && self.store.count_on(&subject) == 0
        {
            self.mark(&subject, ttl, now, bus);
        }
        true
    }

    /// Leaves word that the subject's last message went.
    fn mark(&mut self, subject: &[u8], ttl: i64, now: i64, bus: &mut impl Bus) {
        let mut headers = Vec::new();
        append(&mut headers, "Nats-Marker-Reason", "MaxAge");
        append(&mut headers, "Nats-TTL", write_duration(ttl));
        append(&mut headers, "Nats-Rollup", "sub");
        let marker = NewMessage {
            subject,
            headers: &headers,
            payload: b"",
            time_ns: now,
            expires_ns: Some(now.saturating_add(ttl)),
        };
        match self.store.append(&marker) {
            Ok(_) => self.new_messages = true,
            Err(error) if error.is_disk() => self.write_failed(&error, bus),
            Err(_) => {}
        }
    }
}

/// Where a block says that it is a marker.
fn memchr_block(headers: &[u8]) -> Option<usize> {
    headers.windows(MARKER.len()).position(|window| window == MARKER)
}
