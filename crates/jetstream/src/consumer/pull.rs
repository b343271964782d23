//! Requests for messages: which are taken, in which order they are served, and what they are told when they end.
//!
//! They take turns: each gets a message and goes to the end of the queue.

use serde::Deserialize;

use super::Consumer;
use super::deliver::{Delivered, Ground, Next};
use super::priority::Claim;
use crate::api::read_ignoring_nulls;
use crate::bus::{Bus, publish};
use crate::headers::{append, status};
use crate::time::write_duration;

/// More is not sent to the requests of one consumer before others have their turn.
const BYTES_PER_TURN: u64 = 4 << 20;

/// Between two looks at whether those who asked are behind.
const BYTES_PER_LOOK: u64 = 64 << 10;

/// A request as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NextRequest {
    batch: i64,
    expires: i64,
    max_bytes: i64,
    no_wait: bool,
    idle_heartbeat: i64,
    pub(super) group: String,
    pub(super) min_pending: i64,
    pub(super) min_ack_pending: i64,
    pub(super) id: String,
    pub(super) priority: i64,
    /// It is no JSON.
    #[serde(skip)]
    pub(super) is_short: bool,
}

impl NextRequest {
    /// Reads a payload: nothing is one message, a number so many, JSON the rest.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, String> {
        let payload = payload.trim_ascii();
        if payload.first() == Some(&b'{') {
            return read_ignoring_nulls(payload).map_err(|error| error.to_string());
        }
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        Ok(Self { batch: number.unwrap_or(1), is_short: true, ..Self::default() })
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    reply: Box<[u8]>,
    /// Messages it still wants.
    left: u64,
    got: u64,
    /// Bytes it still takes, when it said so.
    bytes: Option<u64>,
    expires: Option<i64>,
    no_wait: bool,
    /// How often it wants to hear something, and when next.
    heartbeat: Option<(i64, i64)>,
    /// What it says of its place, of a consumer with groups.
    pub(super) claim: Option<Box<Claim>>,
}

impl Waiting {
    pub(super) fn next_due(&self) -> Option<i64> {
        let heartbeat = self.heartbeat.map(|(_, at)| at);
        match (self.expires, heartbeat) {
            (Some(expires), Some(heartbeat)) => Some(expires.min(heartbeat)),
            (expires, heartbeat) => expires.or(heartbeat),
        }
    }

    fn end(&self, text: &str, bus: &mut impl Bus) {
        publish(bus, &self.reply, &status(text), b"");
    }

    pub(super) fn end_with_rest(&self, text: &str, bus: &mut impl Bus) {
        let mut headers = status(text);
        append(&mut headers, "Nats-Pending-Messages", self.left);
        append(&mut headers, "Nats-Pending-Bytes", self.bytes.unwrap_or(0));
        publish(bus, &self.reply, &headers, b"");
    }

    fn is_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Consumer {
    /// Takes a request, or says why not.
    pub(crate) fn request<B: Bus>(&mut self, payload: &[u8], reply: &[u8], ground: &mut Ground<'_, B>) {
        if let Err(refused) = self.take_request(payload, reply, ground)
            && !refused.is_empty()
        {
            publish(ground.bus, reply, &status(&refused), b"");
        }
    }

    fn take_request<B: Bus>(
        &mut self,
        payload: &[u8],
        reply: &[u8],
        ground: &mut Ground<'_, B>,
    ) -> Result<(), String> {
        if reply.is_empty() {
            return Ok(());
        }
        if self.config.is_push() {
            return Err("409 Consumer is push based".to_owned());
        }
        let request = NextRequest::parse(payload).map_err(|error| format!("400 Bad Request - {error}"))?;
        let batch = request.batch.max(1);
        let config = &self.config;
        if request.idle_heartbeat > 0 && request.idle_heartbeat.saturating_mul(2) > request.expires.max(0) {
            return Err("400 Bad Request - heartbeat value too large".to_owned());
        }
        if config.max_batch > 0 && batch > config.max_batch {
            return Err(format!("409 Exceeded MaxRequestBatch of {}", config.max_batch));
        }
        if config.max_expires > 0 && request.expires > config.max_expires {
            return Err(format!("409 Exceeded MaxRequestExpires of {}", write_duration(config.max_expires)));
        }
        if config.max_bytes > 0 && request.max_bytes > config.max_bytes {
            return Err(format!("409 Exceeded MaxRequestMaxBytes of {}", config.max_bytes));
        }
        let claim = self.claim(&request, ground.now)?;
        self.active_at = ground.now;
        if self.waiting.len() as i64 >= self.config.max_waiting {
            self.drop_ended(ground);
            if self.waiting.len() as i64 >= self.config.max_waiting {
                // Who asked for heartbeats notices without being told.
                let told = request.idle_heartbeat == 0;
                return Err(if told { "409 Exceeded MaxWaiting".to_owned() } else { String::new() });
            }
        }
        let mut no_wait = request.no_wait;
        if no_wait {
            let there = self.num_pending(ground.store) + self.num_again();
            let wanted = self.waiting.iter().map(|waiting| waiting.left).fold(0, u64::saturating_add);
            match there {
                0 if request.expires == 0 => return Err("404 No Messages".to_owned()),
                // Nothing is there: it waits for as long as it said.
                0 => no_wait = false,
                _ if there < wanted => return Err("408 Requests Pending".to_owned()),
                _ => {}
            }
        }
        let every = request.idle_heartbeat;
        self.enqueue(Waiting {
            reply: reply.into(),
            left: batch as u64,
            got: 0,
            bytes: u64::try_from(request.max_bytes).ok().filter(|bytes| *bytes > 0),
            expires: (request.expires != 0).then(|| ground.now.saturating_add(request.expires)),
            no_wait,
            heartbeat: (every > 0).then(|| (every, ground.now.saturating_add(every))),
            claim,
        });
        Ok(())
    }

    /// Ends requests that have expired, drops those nobody waits for any more.
    pub(super) fn drop_ended<B: Bus>(&mut self, ground: &mut Ground<'_, B>) {
        let (now, bus) = (ground.now, &mut *ground.bus);
        self.waiting.retain_mut(|waiting| {
            if waiting.is_expired(now) {
                waiting.end_with_rest("408 Request Timeout", bus);
                return false;
            }
            bus.has_interest(&waiting.reply)
        });
    }

    /// Serves the requests that wait, in turn; true when there is more than one turn's worth.
    pub(super) fn serve_requests<B: Bus>(&mut self, ground: &mut Ground<'_, B>) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        self.active_at = ground.now;
        self.drop_ended(ground);
        let (mut sent, mut look_at) = (0, 0);
        while !self.waiting.is_empty() {
            if sent >= BYTES_PER_TURN {
                return true;
            }
            if sent >= look_at {
                look_at = sent + BYTES_PER_LOOK;
                // Who asked for more than it takes is not cut off for it.
                if self.waiting.iter().all(|waiting| ground.bus.is_congested(&waiting.reply)) {
                    return true;
                }
            }
            let chosen = match self.choose(ground) {
                Next::Message(chosen) => chosen,
                Next::Blocked => break,
                Next::Nothing => {
                    self.end_impatient(ground.bus);
                    break;
                }
            };
            let Some(mut waiting) = self.take_turn(&chosen, ground) else {
                self.end_impatient(ground.bus);
                break;
            };
            match self.deliver(chosen, &waiting.reply, waiting.bytes, ground) {
                Delivered::Sent(size) => {
                    sent += size;
                    waiting.left -= 1;
                    waiting.got += 1;
                    waiting.bytes = waiting.bytes.map(|bytes| bytes - size);
                    if let Some((every, at)) = &mut waiting.heartbeat {
                        *at = ground.now.saturating_add(*every);
                    }
                    if waiting.left > 0 {
                        self.enqueue(waiting);
                    } else if waiting.bytes.is_some_and(|bytes| bytes > 0) {
                        waiting.end_with_rest("409 Batch Completed", ground.bus);
                    }
                }
                Delivered::TooLarge(_) => {
                    waiting.end_with_rest("409 Message Size Exceeds MaxBytes", ground.bus);
                }
                Delivered::Lost => self.waiting.push_front(waiting),
                Delivered::Later => {
                    self.waiting.push_front(waiting);
                    break;
                }
            }
        }
        false
    }

    /// Nothing is left: those who do not wait go.
    fn end_impatient(&mut self, bus: &mut impl Bus) {
        self.waiting.retain(|waiting| {
            if !waiting.no_wait {
                return true;
            }
            match waiting.expires {
                None => waiting.end("404 No Messages", bus),
                Some(_) => waiting.end_with_rest("408 Request Timeout", bus),
            }
            false
        });
    }

    /// Says that it is still there to those who want to hear it.
    pub(super) fn beat_requests<B: Bus>(&mut self, ground: &mut Ground<'_, B>) {
        for waiting in &mut self.waiting {
            let Some((every, at)) = &mut waiting.heartbeat else { continue };
            if *at > ground.now {
                continue;
            }
            *at = ground.now.saturating_add(*every);
            let mut headers = status("100 Idle Heartbeat");
            append(&mut headers, "Nats-Last-Consumer", self.delivered.delivery);
            append(&mut headers, "Nats-Last-Stream", self.delivered.seq);
            publish(ground.bus, &waiting.reply, &headers, b"");
        }
    }

    /// Tells everybody who waits that it is over.
    pub(crate) fn end_requests(&mut self, text: &str, bus: &mut impl Bus) {
        for waiting in self.waiting.drain(..) {
            waiting.end(text, bus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_nothing_a_number_or_json() {
        let batch = |payload: &[u8]| NextRequest::parse(payload).map(|request| request.batch).ok();
        assert_eq!(
            [batch(b""), batch(b"7"), batch(b"abc"), batch(b"{\"batch\":3,\"bogus\":1}")],
            [1, 7, 1, 3].map(Some)
        );
        assert_eq!(batch(b"{bad"), None);
    }
}
