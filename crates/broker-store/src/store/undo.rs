//! Taking back what was done since the last write, when the write fails: nothing that was acknowledged is lost, because
//! a removal is taken back like an addition.

use super::Store;
use crate::index::Entry;

/// One thing that was done, with what it replaced.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    Appended {
        seq: u64,
        subject_last: u64,
        last_seq: u64,
        last_time: Option<i64>,
        first_seq: u64,
        segment_max_time: i64,
    },
    Removed {
        seq: u64,
        entry: Entry,
        first_seq: u64,
        subject_first: u64,
        subject_last: u64,
    },
    Skipped {
        last_seq: u64,
        first_seq: u64,
    },
}

impl Store {
    /// Undoes everything since the last write. The bytes of the log are the caller's.
    pub(super) fn take_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Appended { seq, subject_last, last_seq, last_time, first_seq, segment_max_time } => {
                    let Some((index, position, entry)) = self.find(seq) else { continue };
                    self.msgs -= 1;
                    self.bytes -= self.counted(entry.size);
                    let segment = &mut self.segments[index];
                    debug_assert_eq!(position + 1, segment.entries.len(), "the last one appended goes first");
                    segment.entries.pop();
                    segment.live -= 1;
                    segment.physical -= 1;
                    segment.live_bytes -= u64::from(entry.size.record());
                    segment.last = last_seq.max(segment.base.saturating_sub(1));
                    segment.max_time = segment_max_time;
                    self.subjects.count_down(entry.subject);
                    self.subjects.get_mut(entry.subject).last = subject_last;
                    (self.last_seq, self.last_time, self.first_seq) = (last_seq, last_time, first_seq);
                }
                Undo::Removed { seq, entry, first_seq, subject_first, subject_last } => {
                    self.restore(seq, entry, subject_first, subject_last);
                    self.first_seq = first_seq;
                }
                Undo::Skipped { last_seq, first_seq } => {
                    (self.last_seq, self.first_seq) = (last_seq, first_seq);
                }
            }
        }
        self.removed.clear();
        self.erased.clear();
        self.erasing.clear();
        self.head_moved = false;
        self.first_time = None;
        if self.refused_after.is_some() {
            self.removed = self.gaps();
            self.head_moved = true;
        }
        let last_seq = self.last_seq;
        self.expiries.extend(self.expiries_seen.drain(..));
        self.expiries.retain(|due| due.0.1 <= last_seq);
    }

    fn restore(&mut self, seq: u64, entry: Entry, subject_first: u64, subject_last: u64) {
        let Some(index) = self.segment_of(seq) else { return };
        let segment = &mut self.segments[index];
        let Some(position) = segment.entries.position(seq) else { return };
        let slot = segment.entries.get_mut(position);
        *slot = entry;
        // Links made meanwhile pass it by.
        slot.next = 0;
        segment.live += 1;
        segment.live_bytes += u64::from(entry.size.record());
        self.msgs += 1;
        self.bytes += self.counted(entry.size);
        self.subjects.count_up(entry.subject);
        let subject = self.subjects.get_mut(entry.subject);
        (subject.first, subject.last) = (subject_first, subject_last);
        if seq > subject_first {
            self.previous_on_subject(entry.subject, seq);
        }
    }

    /// Everything done so far is written: nothing of it is taken back any more.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
        // A burst keeps its room for the next one, up to a bound.
        self.undo.shrink_to(1 << 16);
        self.removed.clear();
        if let Some(files) = &mut self.files {
            files.erasures.append(&mut self.erasing);
        }
        self.expiries_seen.clear();
        self.refused_after = None;
        self.head_moved = false;
        self.subjects.settle();
        if std::mem::take(&mut self.emptied) {
            self.drop_dead_front();
        }
    }
}
