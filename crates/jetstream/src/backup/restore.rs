//! Taking a backup: chunks come in, a stream comes out that nobody sees before it is complete.
//!
//! ```text
//! state ──> consumers ──> messages ──> end
//!   └──────────┴─────────────┴─ failed: what was begun is removed, chunks are acknowledged and forgotten
//! ```

use std::collections::VecDeque;

use ostler_broker_store::NewMessage;

use super::archive::{self, Entry, MAGIC};
use super::consumers::Kept;
use super::{CONSUMERS, Extent, STATE, TURN_BYTES, frames};
use crate::api::ApiError;
use crate::bus::{Bus, Incoming, publish};
use crate::consumer::Consumer;
use crate::options::Context;
use crate::stream::{Storage, Stream, StreamConfig};
use crate::time::SECOND;

/// How long nothing may come.
const IDLE: i64 = 5 * SECOND;
/// What may wait unread: more than a client sends that waits for acknowledgements.
const WAITING_MAX: usize = 64 << 20;

/// What is expected next.
#[derive(Debug)]
enum Stage {
    Magic,
    State,
    /// So many consumers, then messages.
    Consumers(i64),
    Messages,
    Complete,
    Failed(ApiError),
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Taken {
    /// More must come.
    Waits,
    /// Another turn can go on.
    More,
    /// The client said that this was all: the stream, or why there is none; and where the answer goes.
    Ended(Result<Box<Stream>, ApiError>, Vec<u8>),
    /// The client went away, or does not keep to the protocol. What was begun is removed.
    Abandoned,
}

/// A backup that is coming in.
#[derive(Debug)]
pub(crate) struct Restore {
    pub(crate) started: i64,
    /// Bytes that came.
    pub(crate) received: u64,
    config: StreamConfig,
    /// What it may hold: what all streams may use, without the others and what is being restored beside it.
    room: Option<u64>,
    /// Where the chunks go.
    subject: String,
    heard_at: i64,
    unpacker: frames::Unpacker,
    plain: Vec<u8>,
    /// What of it is done with.
    read: usize,
    /// Chunks whose sender waits to be told that they were taken.
    replies: VecDeque<Vec<u8>>,
    end: Option<Vec<u8>>,
    broken: bool,
    stage: Stage,
    extent: Extent,
    stream: Option<Box<Stream>>,
    can_go_on: bool,
}

impl Restore {
    /// Waits for the chunks of a backup. The configuration is complete.
    pub(crate) fn new(config: StreamConfig, id: &str, now: i64) -> Self {
        Self {
            started: now,
            received: 0,
            subject: format!("$JS.SNAPSHOT.RESTORE.{}.{id}", config.name),
            config,
            room: None,
            heard_at: now,
            unpacker: frames::Unpacker::default(),
            plain: Vec::new(),
            read: 0,
            replies: VecDeque::new(),
            end: None,
            broken: false,
            stage: Stage::Magic,
            extent: Extent::default(),
            stream: None,
            can_go_on: false,
        }
    }

    /// The stream's name.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Where its chunks go.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// Bytes of the messages that were taken in.
    pub(crate) fn bytes(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.store.bytes())
    }

    /// Messages that were taken in.
    #[cfg(test)]
    pub(super) fn stored(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.store.msgs())
    }

    /// When there is something to do.
    pub(crate) fn next_due(&self, now: i64) -> i64 {
        if self.can_go_on { now } else { self.heard_at + IDLE }
    }

    /// Takes a chunk; an empty one is the end.
    pub(crate) fn on_chunk(&mut self, message: &Incoming<'_>, now: i64) {
        self.heard_at = now;
        self.can_go_on = true;
        if message.payload.is_empty() {
            self.end = Some(message.reply.to_vec());
            return;
        }
        self.received += message.payload.len() as u64;
        // Who is not told that a chunk was taken cannot know how fast to go on.
        self.broken |= message.reply.is_empty() || self.unpacker.waiting() > WAITING_MAX;
        if self.broken {
            return;
        }
        if !matches!(self.stage, Stage::Failed(_) | Stage::Complete) {
            self.unpacker.feed(message.payload);
        }
        self.replies.push_back(message.reply.to_vec());
    }

    /// Takes in as much as a turn may, and holds no more than there is room for.
    pub(crate) fn turn(
        &mut self,
        room: Option<u64>,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) -> Taken {
        self.can_go_on = false;
        self.room = room;
        if self.broken || (now - self.heard_at >= IDLE && self.end.is_none()) {
            self.drop_stream(context);
            return Taken::Abandoned;
        }
        let more = self.take_in(now, context).unwrap_or_else(|refusal| {
            self.drop_stream(context);
            self.unpacker = frames::Unpacker::default();
            (self.plain, self.read) = (Vec::new(), 0);
            self.stage = Stage::Failed(refusal);
            false
        });
        if more {
            self.can_go_on = true;
            return Taken::More;
        }
        for reply in self.replies.drain(..) {
            publish(bus, &reply, b"", b"");
        }
        match self.end.take() {
            None => Taken::Waits,
            Some(reply) => Taken::Ended(self.conclude(now, context), reply),
        }
    }

    fn conclude(&mut self, now: i64, context: &Context) -> Result<Box<Stream>, ApiError> {
        match std::mem::replace(&mut self.stage, Stage::Complete) {
            Stage::Failed(refusal) => Err(refusal),
            Stage::Complete => {
                let mut stream = self.stream.take().ok_or_else(cut_short)?;
                match stream.finish_restore(self.extent.last_seq, now) {
                    Ok(()) => Ok(stream),
                    Err(refusal) => {
                        let _ = stream.destroy(context);
                        Err(ApiError::restore_failed(refusal.description))
                    }
                }
            }
            _ => {
                self.drop_stream(context);
                Err(cut_short())
            }
        }
    }

    /// Removes what was begun.
    pub(crate) fn drop_stream(&mut self, context: &Context) {
        if let Some(stream) = self.stream.take() {
            // What cannot be removed now is when the server starts again: it says of itself that it is not complete.
            let _ = stream.destroy(context);
        }
    }

    /// Reads entries, or unpacks a block when there is none; says whether there may be more.
    fn take_in(&mut self, now: i64, context: &Context) -> Result<bool, ApiError> {
        let mut budget = TURN_BYTES;
        while budget > 0 {
            let before = self.read;
            if self.take_entry(now, context)? {
                // A small entry costs about as much as some hundred bytes.
                budget = budget.saturating_sub((self.read - before).max(128));
                continue;
            }
            self.plain.drain(..self.read);
            self.read = 0;
            let len = self.plain.len();
            let unpacked = self.unpacker.next(&mut self.plain);
            if !unpacked.map_err(|_| ApiError::restore_failed("s2: corrupt input"))? {
                self.written()?;
                return Ok(false);
            }
            budget = budget.saturating_sub(self.plain.len() - len);
        }
        self.written()?;
        Ok(true)
    }

    fn written(&mut self) -> Result<(), ApiError> {
        let written = self.stream.as_mut().map_or(Ok(()), |stream| stream.restore_written());
        written.map_err(|refusal| ApiError::restore_failed(refusal.description))
    }

    fn check_room(&self, bytes: u64) -> Result<(), ApiError> {
        match self.config.storage {
            _ if self.room.is_none_or(|room| bytes <= room) => Ok(()),
            Storage::File => Err(ApiError::insufficient_storage()),
            Storage::Memory => Err(ApiError::insufficient_memory()),
        }
    }

    /// Takes the next entry; false when it is not complete yet.
    fn take_entry(&mut self, now: i64, context: &Context) -> Result<bool, ApiError> {
        let bytes = &self.plain[self.read..];
        if matches!(self.stage, Stage::Magic) {
            if bytes.len() < MAGIC.len() {
                return Ok(false);
            }
            if !bytes.starts_with(MAGIC) {
                return Err(ApiError::restore_failed(
                    "not a backup of nats-server 2.15 or later; older ones can be restored there and backed up again",
                ));
            }
            self.read += MAGIC.len();
            self.stage = Stage::State;
            return Ok(true);
        }
        let Some((entry, len)) = archive::read(bytes).map_err(|_| invalid())? else { return Ok(false) };
        self.stage = match std::mem::replace(&mut self.stage, Stage::Complete) {
            Stage::State => {
                self.extent = read_extent(&entry)?;
                // What the client says may be wrong: what comes is counted too.
                self.check_room(self.extent.bytes)?;
                let stream = Stream::begin_restore(self.config.clone(), self.extent.first_seq, now, context)
                    .map_err(|refusal| ApiError::restore_failed(refusal.description))?;
                self.stream = Some(Box::new(stream));
                after(self.extent.consumer_count)
            }
            Stage::Consumers(left) => {
                let stream = self.stream.as_mut().ok_or_else(invalid)?;
                take_consumer(stream, &entry, now)?;
                after(left - 1)
            }
            Stage::Messages if entry.is_end() => Stage::Complete,
            Stage::Messages => {
                let stream = self.stream.as_mut().ok_or_else(invalid)?;
                let last = self.extent.last_seq;
                if entry.seq <= stream.store.last_seq() || entry.seq > last {
                    return Err(ApiError::restore_failed(format!(
                        "message {} is out of order or beyond the last, which is {last}",
                        entry.seq
                    )));
                }
                let message = NewMessage {
                    subject: entry.name,
                    headers: entry.headers,
                    payload: entry.payload,
                    time_ns: entry.time,
                    expires_ns: None,
                };
                stream.restore_message(entry.seq, &message, now).map_err(|refusal| {
                    ApiError::restore_failed(format!("message {}: {}", entry.seq, refusal.description))
                })?;
                self.check_room(self.bytes())?;
                Stage::Messages
            }
            Stage::Magic | Stage::Complete | Stage::Failed(_) => return Err(invalid()),
        };
        self.read += len;
        Ok(true)
    }
}

/// What follows when so many consumers are still to come.
fn after(left: i64) -> Stage {
    if left > 0 { Stage::Consumers(left) } else { Stage::Messages }
}

fn read_extent(entry: &Entry<'_>) -> Result<Extent, ApiError> {
    let extent = serde_json::from_slice::<Extent>(entry.payload);
    let extent = extent.ok().filter(|_| entry.name == STATE.as_bytes()).filter(Extent::holds_together);
    extent.ok_or_else(|| ApiError::restore_failed("its state cannot be read"))
}

fn take_consumer(stream: &mut Stream, entry: &Entry<'_>, now: i64) -> Result<(), ApiError> {
    let name = std::str::from_utf8(entry.name).ok().and_then(|name| name.strip_prefix(CONSUMERS));
    let name = name.ok_or_else(invalid)?;
    let failed =
        |reason: &dyn std::fmt::Display| ApiError::restore_failed(format!("consumer {name}: {reason}"));
    let kept: Kept = serde_json::from_slice(entry.payload).map_err(|error| failed(&error))?;
    if kept.config.name != name && kept.config.durable_name != name {
        return Err(failed(&"its configuration has another name"));
    }
    let config = kept.config.completed(&stream.config).map_err(|refusal| failed(&refusal.description))?;
    let (of, store) = (&stream.config.name, &mut stream.store);
    let consumer = Consumer::from_kept(name, config, &kept.state, of, store, now);
    stream.restore_consumer(consumer.map_err(|refusal| failed(&refusal.description))?);
    Ok(())
}

fn invalid() -> ApiError {
    ApiError::restore_failed("archive: invalid archive stream")
}

fn cut_short() -> ApiError {
    ApiError::restore_failed("unexpected EOF")
}
