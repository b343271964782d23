//! Adding: one record into the buffer, one entry into the index.

use std::cmp::Reverse;

use super::undo::Undo;
use super::{Begun, Segment, Store};
use crate::error::Error;
use crate::format::record;
use crate::index::Entry;
use crate::message::NewMessage;

/// More than this is not gathered before a write.
const PENDING_MAX: u32 = 1 << 20;
/// The largest message: what fits into a record of 29 bits with room to spare.
const RECORD_MAX: u64 = (record::MAX - 1024) as u64;

impl Store {
    /// Stores a message under the next sequence and says which. It can be read at once; what it survives is decided by
    /// the calls that follow: see [`Durability`](super::Durability).
    ///
    /// Costs a copy, a checksum and, amortised, 16 bytes of memory. Writes only when a segment is full or a megabyte
    /// is waiting.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::BadSubject`] concern this message only. After a disk error, everything since
    /// the last successful write is undone; see [`Error`].
    pub fn append(&mut self, message: &NewMessage<'_>) -> Result<u64, Error> {
        self.append_at(self.last_seq + 1, message)
    }

    /// Stores a message under a sequence above the last one: what a mirror does. The sequences between are skipped.
    ///
    /// # Errors
    /// [`Error::UsedSequence`], and those of [`Store::append`].
    pub fn append_at(&mut self, seq: u64, message: &NewMessage<'_>) -> Result<u64, Error> {
        if message.subject.is_empty() || message.subject.len() > usize::from(u16::MAX) {
            return Err(Error::BadSubject { bytes: message.subject.len() });
        }
        let len = record::message_len(message, true);
        if len > RECORD_MAX {
            return Err(Error::TooLarge { bytes: len, max: RECORD_MAX });
        }
        self.check_unused(seq)?;
        self.make_room(len as u32, seq)?;
        let active = self.segments.len() - 1;
        let segment = &mut self.segments[active];
        let offset = segment.len;
        let size = match &mut self.files {
            None => record::put_message(&mut segment.data, message, seq, None, None),
            Some(files) => files.put_message(segment.id, offset, message, seq),
        };
        segment.len += size.record();
        segment.fold.add(size.record());
        let (last_seq, last_time, first_seq) = (self.last_seq, self.last_time, self.first_seq);
        let segment_max_time = segment.max_time;
        let subject = self.subjects.intern(message.subject);
        let subject_last = self.index(active, seq, Entry::new(offset, size, subject), message.time_ns);
        if let Some(expires) = message.expires_ns {
            self.expiries.push(Reverse((expires, seq)));
        }
        // In memory nothing can fail later.
        if self.files.is_some() {
            self.undo.push(Undo::Appended {
                seq,
                subject_last,
                last_seq,
                last_time,
                first_seq,
                segment_max_time,
            });
        }
        Ok(seq)
    }

    /// Uses up sequences without storing anything: `seq` is the last one used afterwards.
    ///
    /// # Errors
    /// [`Error::UsedSequence`], and those of [`Store::append`].
    pub fn skip(&mut self, seq: u64) -> Result<(), Error> {
        self.check_unused(seq)?;
        self.make_room(64, seq)?;
        let undo = Undo::Skipped { last_seq: self.last_seq, first_seq: self.first_seq };
        if let (Some(files), Some(segment)) = (&mut self.files, self.segments.last_mut()) {
            files.put(segment, &record::Record::Skip(seq));
            self.undo.push(undo);
        }
        if self.msgs == 0 {
            self.first_seq = seq + 1;
        }
        self.last_seq = seq;
        if let Some(segment) = self.segments.last_mut() {
            segment.last = segment.last.max(seq);
        }
        Ok(())
    }

    fn check_unused(&self, seq: u64) -> Result<(), Error> {
        if seq <= self.last_seq || seq == u64::MAX {
            return Err(Error::UsedSequence { asked: seq, next: self.last_seq + 1 });
        }
        Ok(())
    }

    /// Adds an entry to the index and says which was the last on its subject.
    pub(super) fn index(&mut self, segment: usize, seq: u64, entry: Entry, time: i64) -> u64 {
        let counted = self.counted(entry.size);
        let subject = self.subjects.get_mut(entry.subject);
        let before = if subject.count > 0 { subject.last } else { 0 };
        if before == 0 {
            subject.first = seq;
        }
        subject.last = seq;
        self.subjects.count_up(entry.subject);
        if before != 0 {
            self.link(before, seq);
        }
        let segment = &mut self.segments[segment];
        segment.entries.push(seq, entry);
        segment.live += 1;
        segment.physical += 1;
        segment.live_bytes += u64::from(entry.size.record());
        segment.last = seq;
        segment.max_time = segment.max_time.max(time);
        if self.msgs == 0 {
            self.first_seq = seq;
            self.first_time = Some(time);
        }
        self.msgs += 1;
        self.bytes += counted;
        self.last_seq = seq;
        self.last_time = Some(time);
        before
    }

    /// Remembers that the message after `before` on its subject is `seq`.
    pub(super) fn link(&mut self, before: u64, seq: u64) {
        let Some(index) = self.segment_of(before) else { return };
        let entries = &mut self.segments[index].entries;
        if let Some(position) = entries.position(before) {
            entries.get_mut(position).next = u32::try_from(seq - before).unwrap_or(Entry::FAR);
        }
    }

    /// Forgets what follows a message on its subject.
    pub(super) fn unlink(&mut self, seq: u64) {
        let Some(index) = self.segment_of(seq) else { return };
        let entries = &mut self.segments[index].entries;
        if let Some(position) = entries.position(seq) {
            entries.get_mut(position).next = 0;
        }
    }

    /// Sees to it that the last segment is open and takes a record of this length for this sequence.
    pub(super) fn make_room(&mut self, len: u32, seq: u64) -> Result<(), Error> {
        let limit = self.options.segment_bytes();
        if let Some(active) = self.segments.last_mut().filter(|segment| !segment.closed) {
            active.rebase(seq);
            let fits = active.len.saturating_add(len) <= limit || active.entries.len() == 0;
            if fits && active.entries.reaches(seq) {
                if self.files.as_ref().is_some_and(|files| files.pending(active) > PENDING_MAX) {
                    self.write_out()?;
                }
                return Ok(());
            }
            self.close_segment()?;
        }
        self.begin_segment(seq)
    }

    /// Ends the open segment: its last record says what it holds.
    pub(super) fn close_segment(&mut self) -> Result<(), Error> {
        if self.files.is_some() {
            self.put_removals()?;
            if let (Some(files), Some(segment)) = (&mut self.files, self.segments.last_mut()) {
                let seal =
                    record::Record::Seal { records: segment.fold.records, checksum: segment.fold.value };
                files.put(segment, &seal);
            }
            self.write_out()?;
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.closed = true;
            segment.entries.shrink();
            segment.data.shrink_to_fit();
        }
        if let Some(files) = &mut self.files {
            files.retire_active();
        }
        Ok(())
    }

    /// Begins a segment. Nothing may be waiting to be written.
    pub(super) fn begin_segment(&mut self, base: u64) -> Result<(), Error> {
        let begun = Begun {
            first_seq: self.first_seq,
            last_seq: self.refused_after.unwrap_or(self.last_seq),
            last_time: self.last_time,
        };
        let mut segment = match &mut self.files {
            None => {
                let id = self.segments.last().map_or(1, |segment| segment.id + 1);
                Segment::new(id, base, begun)
            }
            Some(files) => files.begin(base, begun)?,
        };
        if let Some(before) = self.segments.last() {
            // About as many will come: growing step by step would copy all of them, and leave holes in the heap.
            segment.entries.reserve(before.entries.len());
            if self.files.is_none() {
                segment.data.reserve(before.data.len());
            }
        }
        self.segments.push(segment);
        if self.refused_after.is_some() {
            self.removed = self.gaps();
            self.head_moved = true;
        }
        Ok(())
    }
}
