//! A stream that is filled from a backup: it is there for nobody until it is complete, and gone after a crash before.

use std::path::Path;

use ostler_broker_proto::subject;
use ostler_broker_store::{Error, NewMessage};

use super::{Stream, StreamConfig, disk_refusal};
use crate::api::ApiError;
use crate::consumer::Consumer;
use crate::headers::{PublishHeaders, Ttl};
use crate::options::Context;

/// A file in the directory of a stream that was begun from a backup. As long as the stream's configuration is not saved,
/// which is the last thing a restore does, the stream is not complete.
pub(super) const MARKER: &str = "restoring";

/// Whether what is in a directory without a configuration is the beginning of a restore.
pub(super) fn is_restoring(dir: &Path, context: &Context) -> bool {
    context.disk.open_read_only(&dir.join(MARKER)).is_ok()
}

impl Stream {
    /// Says that it is not complete yet.
    pub(super) fn mark_restoring(&self, context: &Context) -> Result<(), Error> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let path = dir.join(MARKER);
        let marked = context.disk.open(&path, true).and_then(|_| context.disk.sync_dir(dir));
        marked.map_err(|source| Error::Io { operation: "create", path, source })
    }

    /// Begins a stream whose sequences start at `first_seq`.
    pub(crate) fn begin_restore(
        config: StreamConfig,
        first_seq: u64,
        now: i64,
        context: &Context,
    ) -> Result<Self, ApiError> {
        Self::begin(config, first_seq, true, now, context)
    }

    /// Puts a message in under the sequence and with the time it had. One whose time to live has passed only uses its
    /// sequence.
    pub(crate) fn restore_message(
        &mut self,
        seq: u64,
        message: &NewMessage<'_>,
        now: i64,
    ) -> Result<(), ApiError> {
        let size = message.headers.len() + message.payload.len();
        if self.config.max_msg_size >= 0 && size as u64 > self.config.max_msg_size as u64 {
            return Err(ApiError::message_too_large());
        }
        if !subject::is_literal(message.subject) {
            return Err(ApiError::bad_request());
        }
        let ttl = match PublishHeaders::read(message.headers).ttl {
            Some(value) if self.config.allow_msg_ttl => Some(Ttl::parse(value)?),
            _ => None,
        };
        let expires_ns = match ttl {
            Some(Ttl::After(nanos)) => Some(message.time_ns.saturating_add(nanos)),
            _ => None,
        };
        if expires_ns.is_some_and(|at| at <= now) {
            return self.store.skip(seq).map_err(|error| disk_refusal(&error));
        }
        let appended = self.store.append_at(seq, &NewMessage { expires_ns, ..*message });
        appended.map_err(|error| disk_refusal(&error))?;
        // A backup may hold more than the stream may.
        self.enforce_subject(message.subject);
        self.enforce_totals();
        Ok(())
    }

    /// Writes out what came, so that memory stays bounded.
    pub(crate) fn restore_written(&mut self) -> Result<(), ApiError> {
        self.store.write_out().map_err(|error| disk_refusal(&error))
    }

    /// Adds a consumer; it is saved at the end.
    pub(crate) fn restore_consumer(&mut self, consumer: Consumer) {
        self.consumers.insert(consumer.name.clone(), consumer);
    }

    /// Uses the sequences up to `last_seq`, saves everything, and makes it a stream like any other.
    pub(crate) fn finish_restore(&mut self, last_seq: u64, now: i64) -> Result<(), ApiError> {
        let finish = |stream: &mut Self| -> Result<(), Error> {
            if last_seq > stream.store.last_seq() {
                stream.store.skip(last_seq)?;
            }
            for consumer in stream.consumers.values_mut() {
                consumer.save(&mut stream.store, now)?;
            }
            stream.store.write_out()?;
            stream.save_meta()
        };
        finish(self).map_err(|error| disk_refusal(&error))?;
        self.refill_window(now);
        self.recall_schedules(self.store.last_seq());
        self.recall_feeds();
        self.trim_all();
        self.trim(now);
        (self.dirty, self.wake) = (true, true);
        Ok(())
    }
}
