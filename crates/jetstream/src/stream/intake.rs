//! Taking messages in from other streams: how they are stored, and how it is known again after a restart what was taken.

use std::ops::ControlFlow;

use ostler_broker_proto::headers::HeaderBlock;
use ostler_broker_store::{Message, NewMessage, Selection};
use serde::{Deserialize, Serialize};

use super::feed::{Feed, Position};
use super::publish::{Refusal, Rollup};
use super::source::FeedKind;
use super::{Discard, Retention, Stream, disk_refusal};
use crate::api::ApiError;
use crate::bus::{Bus, Incoming};
use crate::headers::{PublishHeaders, Ttl, append, without};

/// The checkpoint that holds how far sources were taken.
const CHECKPOINT: &str = "feeds";
const VERSION: u16 = 1;
/// Where a message that was taken is from.
pub(super) const LABEL: &str = "Nats-Stream-Source";
/// What concerned only the stream it is from.
const NOT_TAKEN: [&str; 3] = [LABEL, "Nats-Expected-", "Nats-Batch-"];

/// How far sources were taken when a stream had so many messages.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    last_seq: u64,
    feeds: Vec<(String, Position)>,
    /// How far it was when the log was last sure: a power cut may keep this and take messages that it tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sure: Option<Box<Self>>,
}

impl Saved {
    /// What is true of a log that ends with a sequence.
    fn true_at(self, last_seq: u64) -> Option<Self> {
        let sure = self.sure.map(|sure| *sure);
        if self.last_seq <= last_seq {
            return Some(Self { sure: None, ..self });
        }
        sure.filter(|sure| sure.last_seq <= last_seq)
    }
}

/// What became of a message of another stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is here, or was here before, or nobody wants it.
    Done,
    /// It cannot be here at the moment.
    Later(ApiError),
}

impl Stream {
    /// Prepares what the configuration says of other streams; what was taken already is known again.
    pub(super) fn prepare_feeds(&mut self) {
        let mut before = std::mem::take(&mut self.feeds);
        let mirror = self.config.mirror.iter().map(|config| Feed::new(FeedKind::Mirror, config));
        let sources = self.config.sources.iter().map(|config| Feed::new(FeedKind::Source, config));
        let (mut kept, mut fresh) = (Vec::new(), Vec::new());
        for feed in mirror.chain(sources) {
            match before.iter().position(|old| old.is_like(&feed)) {
                Some(index) => kept.push(before.swap_remove(index)),
                None => fresh.push(feed),
            }
        }
        if !fresh.is_empty() {
            self.recall(&mut fresh, 1);
        }
        kept.append(&mut fresh);
        let order = |feed: &Feed| self.config.origins().position(|config| feed.is_of(config));
        kept.sort_by_key(order);
        self.feeds = kept;
    }

    /// Knows again how far other streams were taken: after a restart, and when something was undone.
    pub(crate) fn recall_feeds(&mut self) {
        let mut feeds = std::mem::take(&mut self.feeds);
        if feeds.is_empty() {
            return;
        }
        let last_seq = self.store.last_seq();
        let before = self.saved_feeds();
        // It may tell of messages that a power cut took.
        let is_outdated = before.as_ref().is_some_and(|saved| saved.last_seq > last_seq);
        let saved = before.and_then(|saved| saved.true_at(last_seq));
        let saved = saved.unwrap_or_default();
        for feed in &mut feeds {
            let key = feed.key();
            feed.through.detach();
            let known = saved.feeds.iter().find(|(of, _)| *of == key);
            feed.move_to(known.map(|(_, position)| position.clone()).unwrap_or_default());
        }
        self.recall(&mut feeds, saved.last_seq + 1);
        self.feeds = feeds;
        if is_outdated {
            // It would be believed when there are as many messages again.
            self.store.remove_checkpoint(CHECKPOINT);
            self.save_feeds();
        }
    }

    /// Reads from a sequence on where messages are from.
    fn recall(&mut self, feeds: &mut [Feed], from: u64) {
        let last_seq = self.store.last_seq();
        for feed in feeds.iter_mut().filter(|feed| feed.kind == FeedKind::Mirror) {
            feed.move_to(Position { seq: last_seq, identity: String::new() });
        }
        if feeds.iter().all(|feed| feed.kind == FeedKind::Mirror) {
            return;
        }
        // What cannot be read is reported where it is read; the position of the next message counts for it too.
        let _ = self.store.scan(&mut Selection::all(), from, |message| {
            let block = HeaderBlock::parse(message.headers).ok();
            let label = block.and_then(|block| block.get(LABEL));
            if let Some(label) = label.and_then(|label| std::str::from_utf8(label).ok()) {
                let _ = feeds.iter_mut().any(|feed| feed.recall(label));
            }
            ControlFlow::Continue(())
        });
    }

    fn saved_feeds(&self) -> Option<Saved> {
        let (_, saved) = self.store.checkpoint(CHECKPOINT)?;
        serde_json::from_slice(saved).ok()
    }

    /// Keeps how far sources were taken after every write, where what was taken may soon be gone.
    pub(super) fn save_hasty_feeds(&mut self) {
        let is_hasty = self.config.retention != Retention::Limits || self.config.allow_msg_ttl;
        if is_hasty && self.store.is_file() {
            self.save_feeds();
        }
    }

    /// Keeps how far sources were taken, for when the messages that say so are gone.
    pub(crate) fn save_feeds(&mut self) {
        if !self.feeds.iter().any(|feed| feed.kind == FeedKind::Source) {
            return;
        }
        let feeds: Vec<_> = self.feeds.iter().map(|feed| (feed.key(), feed.position.clone())).collect();
        let before = self.saved_feeds();
        if before.as_ref().is_some_and(|before| before.feeds == feeds) {
            return;
        }
        let sure = before.and_then(|before| before.true_at(self.last_sure())).map(Box::new);
        let saved = Saved { last_seq: self.store.last_seq(), feeds, sure };
        let Ok(bytes) = serde_json::to_vec(&saved) else { return };
        self.dirty = true;
        // What cannot be kept is read back from the messages, as far as they are there.
        let _ = self.store.save_checkpoint(CHECKPOINT, VERSION, &bytes);
    }

    /// Stores a message of another stream.
    pub(crate) fn take_in(
        &mut self,
        feed: &Feed,
        message: &Message<'_>,
        now: i64,
        bus: &mut impl Bus,
    ) -> Taken {
        if self.config.sealed {
            return Taken::Later(ApiError::stream_sealed());
        }
        let Some(subject) = feed.subject(message.subject, message.seq) else { return Taken::Done };
        let outcome = match feed.kind {
            FeedKind::Mirror => self.take_mirrored(&subject, message, bus),
            FeedKind::Source => {
                let label = feed.label(message.seq, message.subject);
                self.take_sourced(&subject, message, (&feed.origin, &label), now, bus)
            }
        };
        match outcome {
            Ok(()) => Taken::Done,
            // It will not become smaller, nor a counter.
            Err(Refusal::Request(error)) if is_final(&error) => Taken::Done,
            Err(Refusal::Request(error)) => Taken::Later(error),
            Err(Refusal::Disk(error)) => {
                self.write_failed(&error, bus);
                Taken::Later(disk_refusal(&error))
            }
        }
    }

    /// As it is, under the sequence it has there.
    fn take_mirrored(
        &mut self,
        subject: &[u8],
        message: &Message<'_>,
        bus: &mut impl Bus,
    ) -> Result<(), Refusal> {
        if message.seq <= self.store.last_seq() {
            return Ok(());
        }
        self.dirty = true;
        let incoming = Incoming { subject, reply: b"", headers: message.headers, payload: message.payload };
        self.check_size(&incoming)?;
        if self.config.retention == Retention::Interest && !self.is_wanted(subject) {
            return self.store.skip(message.seq).map_err(Refusal::Disk);
        }
        if self.config.discard == Discard::New {
            self.check_limits(&incoming, Rollup::None)?;
        }
        let last_on_subject = self.last_for_republish(subject);
        let stored = NewMessage {
            subject,
            headers: message.headers,
            payload: message.payload,
            time_ns: message.time_ns,
            expires_ns: message.expires_ns.filter(|_| self.config.allow_msg_ttl),
        };
        self.store.append_at(message.seq, &stored).map_err(Refusal::of)?;
        self.new_messages = true;
        self.republish(&incoming, message.seq, last_on_subject, message.time_ns, bus);
        self.enforce_subject(subject);
        self.enforce_totals();
        Ok(())
    }

    /// As if it had been published here, with a word of where it is from.
    fn take_sourced(
        &mut self,
        subject: &[u8],
        message: &Message<'_>,
        (origin, label): (&str, &str),
        now: i64,
        bus: &mut impl Bus,
    ) -> Result<(), Refusal> {
        self.dirty = true;
        let transformed = self.transformed(subject);
        let subject = transformed.as_deref().unwrap_or(subject);
        let mut headers = without(message.headers, &NOT_TAKEN);
        append(&mut headers, LABEL, label);
        let mut payload = message.payload;
        let counted = if self.config.allow_msg_counter {
            Some(self.count_sourced(subject, &headers, payload, (origin, message.subject))?)
        } else {
            None
        };
        if let Some(counted) = &counted {
            headers.clone_from(&counted.headers);
            payload = &counted.payload;
        }
        let incoming = Incoming { subject, reply: b"", headers: &headers, payload };
        let asked = PublishHeaders::read(&headers);
        if asked.msg_id.is_some_and(|id| self.dedupe.find(id).is_some()) {
            return Ok(());
        }
        let ttl = match asked.ttl.filter(|_| self.config.allow_msg_ttl) {
            Some(value) => Ttl::parse(value).ok(),
            None => None,
        };
        let rollup = self.rollup(&asked).unwrap_or(Rollup::None);
        let last_on_subject = self.last_for_republish(subject);
        let seq = self.store_passed(&incoming, &asked, ttl, rollup, now)?;
        self.new_messages = true;
        self.republish(&incoming, seq, last_on_subject, now, bus);
        Ok(())
    }
}

fn is_final(error: &ApiError) -> bool {
    [ApiError::message_too_large(), ApiError::header_too_large(), ApiError::counter_broken()].contains(error)
}
