//! Taking messages out: one by one, by limits, or many at once.

use super::files::Erasure;
use super::undo::Undo;
use super::{Segment, Store};
use crate::error::Error;
use crate::format::record::{Record, erase as overwrite};
use crate::index::Entry;
use crate::selection::Selection;

/// More ranges than this are not put into one record.
const RANGES_PER_RECORD: usize = 1 << 15;

/// What becomes of a removed message's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erase {
    /// They are overwritten: in memory at once, on disk by [`Store::maintain`] once it is durable that they were removed
    /// and durable themselves: after one or two more syncs.
    Yes,
    /// They stay until their segment is rewritten.
    No,
}

/// What to remove at once. The default removes everything.
#[derive(Debug, Default)]
pub struct Purge<'a> {
    /// Only these; `None` for all.
    pub selection: Option<&'a mut Selection>,
    /// Only sequences below this one.
    pub before: Option<u64>,
    /// Leaves the last so many of those chosen.
    pub keep: u64,
}

impl Store {
    /// Removes a message, and says whether it was there. Takes effect at once and is undone when the next write fails;
    /// it is on disk when the next write, or sync, is.
    ///
    /// Removing the first message costs nothing on disk but a few bytes per batch; another costs 2 to 20 bytes.
    ///
    /// # Errors
    /// None today; a store that had to read to remove would report that here.
    pub fn remove(&mut self, seq: u64, erase: Erase) -> Result<bool, Error> {
        let Some((segment, position, entry)) = self.find(seq) else { return Ok(false) };
        let subject = self.subjects.get(entry.subject);
        let undo = Undo::Removed {
            seq,
            entry,
            first_seq: self.first_seq,
            subject_first: subject.first,
            subject_last: subject.last,
        };
        if self.files.is_some() {
            self.undo.push(undo);
            self.note_removal(seq, segment, &entry, erase);
        } else if let (Erase::Yes, Some(offset)) = (erase, entry.offset()) {
            let bytes = &mut self.segments[segment].data[offset as usize..];
            overwrite(&mut bytes[..entry.size.record() as usize], seq, 0);
        }
        self.forget(segment, position, seq);
        Ok(true)
    }

    fn note_removal(&mut self, seq: u64, segment: usize, entry: &Entry, erase: Erase) {
        match (erase, entry.offset()) {
            (Erase::Yes, Some(offset)) => self.erased.push(Erasure {
                seq,
                segment: self.segments[segment].id,
                offset,
                len: entry.size.record(),
                after: self.files.as_ref().map_or(0, |files| files.tickets + 1),
            }),
            _ if seq == self.first_seq => self.head_moved = true,
            _ => match self.removed.last_mut() {
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ => self.removed.push((seq, seq)),
            },
        }
    }

    /// Removes many messages at once and says how many. When it returns, the removal is written.
    ///
    /// # Errors
    /// A disk error: then nothing was removed.
    pub fn purge(&mut self, purge: Purge<'_>) -> Result<u64, Error> {
        self.write_out()?;
        let before = purge.before.unwrap_or(u64::MAX).min(self.last_seq + 1);
        let mut all = Selection::all();
        let selection = purge.selection.unwrap_or(&mut all);
        if selection.is_all() && before > self.last_seq && purge.keep == 0 {
            return self.clear();
        }
        let mut victims = Vec::new();
        let mut at = self.first_seq;
        while let Some(seq) = self.next(selection, at).filter(|&seq| seq < before) {
            victims.push(seq);
            at = seq + 1;
        }
        // What is kept counts from the end of all chosen ones, also those not below `before`.
        let above = self.num_pending(selection, before, false);
        let kept = purge.keep.saturating_sub(above) as usize;
        victims.truncate(victims.len().saturating_sub(kept));
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &seq in &victims {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ => ranges.push((seq, seq)),
            }
        }
        self.write_removal(ranges)?;
        for &seq in &victims {
            if let Some((segment, position, _)) = self.find(seq) {
                self.forget(segment, position, seq);
            }
        }
        self.keep();
        Ok(victims.len() as u64)
    }

    fn clear(&mut self) -> Result<u64, Error> {
        let purged = self.msgs;
        self.write_removal(vec![(self.first_seq.min(self.last_seq), self.last_seq)])?;
        for segment in &mut self.segments {
            segment.live = 0;
            segment.live_bytes = 0;
            segment.entries.clear();
        }
        if self.files.is_none() {
            self.segments.clear();
        }
        self.subjects = crate::index::Subjects::default();
        self.expiries.clear();
        self.lost.clear();
        (self.msgs, self.bytes) = (0, 0);
        self.first_seq = self.last_seq + 1;
        self.first_time = None;
        self.emptied = true;
        self.keep();
        Ok(purged)
    }

    fn write_removal(&mut self, ranges: Vec<(u64, u64)>) -> Result<(), Error> {
        if self.files.is_some() && self.last_seq > 0 {
            self.removed = ranges;
            self.write_out()?;
        }
        Ok(())
    }

    /// Removes every message above `seq`, which becomes the last sequence: what follows uses the sequences again. When
    /// it returns it is written; it is final with the next sync.
    ///
    /// # Errors
    /// A disk error: then the messages may be removed already, but their sequences are not used again.
    pub fn truncate(&mut self, seq: u64) -> Result<(), Error> {
        if seq >= self.last_seq {
            return self.write_out();
        }
        self.purge_above(seq)?;
        if self.segments.last().is_some_and(|segment| !segment.closed) {
            self.close_segment()?;
        }
        self.drop_above(seq);
        self.last_seq = seq;
        self.first_seq = self.first_seq.min(seq + 1);
        self.begin_segment(seq + 1)?;
        // What the dropped segments said of removals in others is said again.
        self.removed = self.gaps();
        self.head_moved = true;
        self.write_out()?;
        if let Some(files) = &mut self.files {
            let written = (files.active_id, files.written);
            files.synced_seq = files.synced_seq.min(seq);
            files.write_mark(files.synced_seq, written, false);
        }
        Ok(())
    }

    /// Lets go of everything above a sequence that is to be used again. All messages there are gone already.
    pub(super) fn drop_above(&mut self, seq: u64) {
        let kept = self.segments.partition_point(|segment| segment.base <= seq);
        for segment in self.segments.split_off(kept) {
            if let Some(files) = &mut self.files {
                files.discard(segment.id);
            }
        }
        for segment in &mut self.segments {
            // Its dead records would come back to life if the segment that follows were lost.
            segment.suspect |= segment.last > seq;
            segment.last = segment.last.min(seq).max(segment.base.saturating_sub(1));
            while segment.entries.last_seq().is_some_and(|last| last > seq) {
                segment.entries.pop();
            }
        }
        self.expiries.retain(|due| due.0.1 <= seq);
    }

    fn purge_above(&mut self, seq: u64) -> Result<(), Error> {
        self.write_out()?;
        self.write_removal(vec![(seq + 1, self.last_seq)])?;
        let mut at = seq + 1;
        while let Some(found) = self.next(&mut Selection::all(), at) {
            if let Some((segment, position, _)) = self.find(found) {
                self.forget(segment, position, found);
            }
            at = found + 1;
        }
        self.keep();
        Ok(())
    }

    /// Takes an entry out of the index and the counts. Nothing is recorded.
    pub(super) fn forget(&mut self, segment: usize, position: usize, seq: u64) {
        let owner = &mut self.segments[segment];
        let entry = *owner.entries.get(position);
        owner.entries.get_mut(position).forget();
        owner.live -= 1;
        owner.live_bytes -= u64::from(entry.size.record());
        self.emptied |= owner.live == 0;
        self.msgs -= 1;
        self.bytes -= self.counted(entry.size);
        self.subjects.count_down(entry.subject);
        let subject = self.subjects.get(entry.subject);
        if subject.count > 0 {
            let (first, last) = (subject.first, subject.last);
            if seq == first
                && let Some(next) = self.next_on_subject(entry.subject, seq)
            {
                self.subjects.get_mut(entry.subject).first = next;
            }
            if seq == last
                && let Some(before) = self.previous_on_subject(entry.subject, seq)
            {
                self.subjects.get_mut(entry.subject).last = before;
            }
        }
        if seq == self.first_seq {
            self.advance_first();
        }
    }

    /// Moves the first sequence to the first message that is there.
    pub(super) fn advance_first(&mut self) {
        self.first_time = None;
        self.first_seq = match self.msgs {
            0 => self.last_seq + 1,
            _ => self.next_any(self.first_seq).unwrap_or(self.last_seq + 1),
        };
    }

    /// Puts the records of what was removed since the last write into the buffer.
    pub(super) fn put_removals(&mut self) -> Result<(), Error> {
        if self.removed.is_empty() && self.erased.is_empty() && !self.head_moved {
            return Ok(());
        }
        if self.segments.last().is_none_or(|segment| segment.closed) {
            self.begin_segment(self.last_seq + 1)?;
        }
        let head =
            Record::Head { first_seq: self.first_seq, last_seq: self.last_seq, last_time: self.last_time };
        let (Some(files), Some(segment)) = (&mut self.files, self.segments.last_mut()) else {
            return Ok(());
        };
        let removed = merged(&mut self.removed);
        for ranges in removed.chunks(RANGES_PER_RECORD) {
            files.put(segment, &Record::Removed { ranges: ranges.to_vec(), erase: false });
        }
        let mut erased: Vec<(u64, u64)> =
            self.erased.iter().map(|erasure| (erasure.seq, erasure.seq)).collect();
        let erased = merged(&mut erased);
        for ranges in erased.chunks(RANGES_PER_RECORD) {
            files.put(segment, &Record::Removed { ranges: ranges.to_vec(), erase: true });
        }
        if self.head_moved {
            files.put(segment, &head);
        }
        self.removed.clear();
        self.head_moved = false;
        // The places stay until the write succeeded, but they are recorded only once.
        self.erasing.append(&mut self.erased);
        Ok(())
    }

    /// Lets go of closed segments at the front that hold no message. Their removals concern nothing that is left.
    pub(super) fn drop_dead_front(&mut self) {
        let dead = |segment: &&Segment| segment.closed && segment.live == 0 && !segment.damaged;
        let count = self.segments.iter().take_while(dead).count();
        for segment in self.segments.drain(..count) {
            if let Some(files) = &mut self.files {
                files.discard(segment.id);
            }
        }
        if count > 0 {
            self.lost = self.lost.split_off(&self.first_seq.min(self.segments.first().map_or(0, |s| s.base)));
        }
    }
}

/// Ranges in order, without overlap: the order of removal does not matter inside a batch.
fn merged(ranges: &mut [(u64, u64)]) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges.iter() {
        match merged.last_mut() {
            Some((_, until)) if first <= until.saturating_add(1) => *until = last.max(*until),
            _ => merged.push((first, last)),
        }
    }
    merged
}
