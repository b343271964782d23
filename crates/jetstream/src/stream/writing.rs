//! The end of a batch: one write, the sync that acknowledgements wait for, and what is undone when the disk refuses either.
//! What is in the batch is decided before.

use ostler_broker_store::{Durability, Error, SyncJob, SyncResult};

use super::{Stream, disk_refusal};
use crate::bus::Bus;
use crate::options::Context;
use crate::time::SECOND;

impl Stream {
    /// Writes out what the batch brought, answers what may be answered, and hands out the sync that the rest needs.
    pub(crate) fn end_of_batch(
        &mut self,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) -> Option<SyncJob> {
        let job = if self.dirty { self.write_batch(now, bus) } else { None };
        self.serve_woken(now, bus, context).or(job)
    }

    /// Serves consumers that may have something to do, and writes what that brought.
    fn serve_woken(&mut self, now: i64, bus: &mut impl Bus, context: &Context) -> Option<SyncJob> {
        if !self.acks.has_api_answers() {
            for consumer in self.consumers.values_mut().filter(|consumer| consumer.held) {
                consumer.held = false;
                self.wake = true;
            }
        }
        if self.wake || self.new_messages {
            self.serve(now, bus, context);
        }
        if self.dirty { self.write_batch(now, bus) } else { None }
    }

    fn write_batch(&mut self, now: i64, bus: &mut impl Bus) -> Option<SyncJob> {
        self.dirty = false;
        for seq in std::mem::take(&mut self.done_unwritten) {
            // There only when a failed write brought it back.
            self.drop_message(seq);
            self.done_unwritten.push(seq);
        }
        self.dirty = false;
        let written = self.store.write_out();
        if written.is_ok() {
            self.done_unwritten.clear();
            // Not before: after a crash the log has at least what this tells of.
            self.save_hasty_feeds();
            self.dirty = false;
        }
        // Who asked to be told that a state is saved is not told when it is not.
        match written.and_then(|()| self.save_consumers(now)) {
            Ok(()) => self.acks.written(),
            Err(error) => {
                self.write_failed(&error, bus);
                self.dirty = false;
            }
        }
        if self.durability != Durability::Group {
            self.acks.release(bus);
            return None;
        }
        // A disk that refuses is not asked in a circle for what nobody waits for.
        if self.ailing && self.acks.is_empty() { None } else { self.next_sync(bus) }
    }

    fn next_sync(&mut self, bus: &mut impl Bus) -> Option<SyncJob> {
        if self.syncing {
            return None;
        }
        match self.store.sync_ticket() {
            Ok(Some(job)) => {
                self.syncing = true;
                self.schedules.unsynced = false;
                self.acks.cover();
                Some(job)
            }
            // Everything is durable already.
            Ok(None) => {
                self.acks.release(bus);
                None
            }
            Err(error) => {
                self.ailing = true;
                self.write_failed(&error, bus);
                None
            }
        }
    }

    /// A sync for its own sake: what was freed is given back by it.
    pub(crate) fn idle_sync(&mut self, bus: &mut impl Bus) -> Option<SyncJob> {
        self.save_feeds();
        if self.dir.is_none() || self.store.maintain(8 << 20).is_err() {
            return None;
        }
        self.next_sync(bus)
    }

    /// Takes note of a sync: answers what it made true, and hands out the next one if something waits.
    pub(crate) fn synced(
        &mut self,
        result: SyncResult,
        bus: &mut impl Bus,
        context: &Context,
    ) -> Option<SyncJob> {
        self.syncing = false;
        let synced = self.store.synced(result);
        self.ailing = synced.is_err();
        match synced {
            Ok(_) => self.acks.release_covered(bus),
            Err(error) => {
                self.take_back(&error, true, bus);
                let now = self.now;
                self.feeds.iter_mut().for_each(|feed| feed.try_later(now));
            }
        }
        let served = self.serve_woken(self.now, bus, context);
        // Others take only what is on the disk, whether anybody waits for an answer or not. A disk that fails is left
        // alone until its time comes.
        let behind = self.store.durable_seq() < self.store.last_seq();
        let taken = !self.ailing && behind && (self.is_origin || !self.feeds.is_empty());
        let remembered = !self.ailing && self.schedules.unsynced;
        let awaited = !self.acks.is_empty() || taken || remembered;
        if served.is_none() && awaited { self.next_sync(bus) } else { served }
    }

    /// The disk refused: everything since the last write is undone, and so are its answers.
    pub(super) fn write_failed(&mut self, error: &Error, bus: &mut impl Bus) {
        self.take_back(error, false, bus);
    }

    /// Refuses what the store took back.
    fn take_back(&mut self, error: &Error, covered_too: bool, bus: &mut impl Bus) {
        let kept = match error {
            // The sequences above stay used, but nothing is there.
            Error::NotDurable { durable, .. } => *durable,
            _ => self.store.last_seq(),
        };
        let reason = disk_refusal(error);
        if covered_too || matches!(error, Error::NotDurable { .. }) {
            self.acks.refuse_above(kept, &reason, bus);
        } else {
            self.acks.refuse_unwritten(kept, &reason, bus);
        }
        // They go on counting from what is not there.
        for reply in self.fast_batches.take_above(kept) {
            self.refuse(&reply, &reason, bus);
        }
        self.dirty = true;
        self.dedupe.forget_above(kept);
        self.undone += 1;
        self.recall_schedules(kept);
        self.recall_feeds();
        for feed in &mut self.feeds {
            feed.retry_at = Some(self.now + SECOND);
        }
        self.age_cursor = 0;
        self.trim_later();
        self.recount();
    }
}
