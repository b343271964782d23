//! Reading for the API: one message as JSON, or any number of them directly, their facts in headers.

use data_encoding::BASE64;
use ostler_broker_proto::subject::{self, Filter};
use ostler_broker_store::{Message, Selection};

use super::Stream;
use crate::api::{ApiError, DirectGet, MessageGet, StoredMessage};
use crate::bus::{Bus, publish};
use crate::headers::{append, status};
use crate::readers::{Wanted, Wish};
use crate::time::Time;

/// About what a message takes on the wire beside what is in it.
const FRAME_BYTES: usize = 32;
/// More subjects than this are not answered at once.
const MULTI_LAST_MAX: usize = 1024;

impl Stream {
    /// The message asked for, for an answer in JSON.
    pub(crate) fn message_get(&mut self, request: &MessageGet) -> Result<StoredMessage, ApiError> {
        let by_start = !request.start_time.is_none();
        let ways =
            usize::from(!request.last_by_subj.is_empty()) + usize::from(!request.next_by_subj.is_empty());
        let direct_only = request.batch > 0
            || request.max_bytes > 0
            || !request.multi_last.is_empty()
            || request.up_to_seq > 0
            || !request.up_to_time.is_none();
        let nothing = request.seq == 0 && ways == 0 && !by_start;
        let last_and_seq = !request.last_by_subj.is_empty() && (request.seq > 0 || by_start);
        if direct_only || nothing || ways > 1 || last_and_seq || (request.seq > 0 && by_start) {
            return Err(ApiError::bad_request());
        }
        let seq = if !request.last_by_subj.is_empty() {
            self.last_by_subject(&request.last_by_subj)
        } else {
            let from = self.start(request.seq, request.start_time)?;
            match &*request.next_by_subj {
                "" if by_start => self.store.next(&mut Selection::all(), from),
                "" => Some(from),
                filter => self.store.next(&mut selection(&[filter.to_owned()])?, from),
            }
        };
        let seq = seq.ok_or_else(ApiError::no_message_found)?;
        let message = self.store.get(seq).map_err(|error| ApiError::store_failed(error.to_string()))?;
        let message = message.ok_or_else(ApiError::no_message_found)?;
        Ok(StoredMessage {
            subject: String::from_utf8_lossy(message.subject).into_owned(),
            seq,
            hdrs: if request.no_hdr { String::new() } else { BASE64.encode(message.headers) },
            data: BASE64.encode(message.payload),
            time: Time::from_nanos(message.time_ns),
        })
    }

    /// Sends the message asked for to `reply`; when it is more than one, says which, to be sent in turns.
    pub(crate) fn direct_get(
        &mut self,
        request: &DirectGet,
        reply: &[u8],
        bus: &mut impl Bus,
    ) -> Option<Wish> {
        self.direct(request, reply, bus).unwrap_or_else(|refused| {
            publish(bus, reply, &status(refused), b"");
            None
        })
    }

    fn direct(
        &mut self,
        request: &DirectGet,
        reply: &[u8],
        bus: &mut impl Bus,
    ) -> Result<Option<Wish>, &'static str> {
        const BAD: &str = "408 Bad Request";
        const NOT_FOUND: &str = "404 Message Not Found";
        let by_start = !request.start_time.is_none();
        let (last, next) = (!request.last_by_subj.is_empty(), !request.next_by_subj.is_empty());
        if !request.multi_last.is_empty() {
            return self.multi_last(request).map(Some);
        }
        if request.seq == 0 && !last && !next && !by_start {
            return Err("408 Empty Request");
        }
        if (last && (request.seq > 0 || next || by_start)) || (request.seq > 0 && by_start) {
            return Err(BAD);
        }
        if last {
            let seq = self.last_by_subject(&request.last_by_subj).ok_or(NOT_FOUND)?;
            return self.send_one(seq, request.no_hdr, reply, bus).ok_or(NOT_FOUND).map(|()| None);
        }
        let from = self.start(request.seq, request.start_time).map_err(|_| NOT_FOUND)?;
        let filters = if next { vec![request.next_by_subj.clone()] } else { Vec::new() };
        let mut wanted = selection(&filters).map_err(|_| BAD)?;
        if request.batch == 0 {
            let exact = !next && !by_start;
            let seq = if exact { Some(from) } else { self.store.next(&mut wanted, from) };
            let sent = seq.and_then(|seq| self.send_one(seq, request.no_hdr, reply, bus));
            return sent.ok_or(NOT_FOUND).map(|()| None);
        }
        let first = self.store.next(&mut wanted, from).ok_or(NOT_FOUND)?;
        let pending = self.store.num_pending(&mut wanted, first, false);
        Ok(Some(Wish {
            wanted: Wanted::Range(wanted, first, self.store.last_seq()),
            pending,
            most: request.batch,
            max_bytes: request.max_bytes,
            no_headers: request.no_hdr,
            up_to: None,
        }))
    }

    fn multi_last(&mut self, request: &DirectGet) -> Result<Wish, &'static str> {
        if request.up_to_seq > 0 && !request.up_to_time.is_none() {
            return Err("408 Bad Request");
        }
        let mut wanted = selection(&request.multi_last).map_err(|_| "408 Bad Request")?;
        let up_to = match request.up_to_time.nanos() {
            Some(time) => match self.store.first_at(time) {
                Ok(Some(after)) => after.saturating_sub(1),
                _ => self.store.last_seq(),
            },
            None if request.up_to_seq > 0 => request.up_to_seq,
            None => self.store.last_seq(),
        };
        let mut found = self.store.last_per_subject(&mut wanted, up_to);
        if found.is_empty() {
            return Err("404 No Results");
        }
        if found.len() > MULTI_LAST_MAX && request.batch == 0 {
            return Err("413 Too Many Results");
        }
        found.retain(|seq| *seq >= request.seq);
        let pending = found.len() as u64;
        Ok(Wish {
            most: if request.batch == 0 { pending } else { request.batch },
            wanted: Wanted::These(found.into_iter()),
            pending,
            max_bytes: request.max_bytes,
            no_headers: request.no_hdr,
            up_to: Some(up_to),
        })
    }

    fn start(&mut self, seq: u64, time: Time) -> Result<u64, ApiError> {
        match time.nanos() {
            None => Ok(seq),
            Some(nanos) => {
                let found = self.store.first_at(nanos).ok().flatten();
                found.ok_or_else(ApiError::no_message_found)
            }
        }
    }

    fn last_by_subject(&self, filter: &str) -> Option<u64> {
        if subject::has_wildcard(filter.as_bytes()) {
            self.last_on_filter(filter.as_bytes())
        } else {
            self.store.last_on(filter.as_bytes(), u64::MAX)
        }
    }

    fn send_one(&mut self, seq: u64, no_headers: bool, reply: &[u8], bus: &mut impl Bus) -> Option<()> {
        let message = self.store.get(seq).ok().flatten()?;
        let headers = if no_headers { Vec::new() } else { facts(&self.config.name, &message) };
        publish(bus, reply, &headers, message.payload);
        Some(())
    }

    /// Sends one of many, with how many follow and which came before if that is to be said; says how many bytes the
    /// message has, and how many went. `None` when there is no such message, or it cannot be read.
    pub(crate) fn send_direct(
        &mut self,
        seq: u64,
        place: Option<(u64, u64)>,
        reply: &[u8],
        bus: &mut impl Bus,
    ) -> Option<(u64, u64)> {
        let message = self.store.get(seq).ok().flatten()?;
        let mut headers = Vec::new();
        if let Some((pending, before)) = place {
            headers = facts(&self.config.name, &message);
            append(&mut headers, "Nats-Num-Pending", pending);
            append(&mut headers, "Nats-Last-Sequence", before);
        }
        publish(bus, reply, &headers, message.payload);
        let bytes = message.subject.len() + message.headers.len() + message.payload.len();
        let sent = FRAME_BYTES + reply.len() + headers.len() + message.payload.len();
        Some((bytes as u64, sent as u64))
    }
}

/// The message's own headers and where it is from.
fn facts(stream: &str, message: &Message<'_>) -> Vec<u8> {
    let mut headers = message.headers.to_vec();
    append(&mut headers, "Nats-Stream", stream);
    append(&mut headers, "Nats-Subject", String::from_utf8_lossy(message.subject));
    append(&mut headers, "Nats-Sequence", message.seq);
    append(&mut headers, "Nats-Time-Stamp", Time::from_nanos(message.time_ns));
    headers
}

fn selection(filters: &[String]) -> Result<Selection, ApiError> {
    let parsed: Result<Vec<Filter>, _> = filters.iter().map(Filter::parse).collect();
    parsed.map(Selection::new).map_err(|_| ApiError::bad_request())
}
