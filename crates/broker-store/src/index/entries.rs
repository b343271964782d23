//! The messages of one segment by sequence: 16 bytes each, an array while sequences follow each other, a sorted list
//! when they do not.

use crate::format::record::Size;

/// No message: removed, skipped, never there.
const GONE: u32 = u32::MAX;
/// Filling a gap costs 16 bytes per sequence, a list 4 bytes per message; small gaps are filled.
const GAP_FILLED_MAX: u64 = 64;

/// Where a message is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    offset: u32,
    /// Of the record.
    pub(crate) size: Size,
    /// The subject's number in [`Subjects`](super::Subjects).
    pub(crate) subject: u32,
    /// How far the next message on the same subject is: 0 when there is none, [`Entry::FAR`] when further than fits.
    /// It may lead to one that is gone; then one follows on from there.
    pub(crate) next: u32,
}

impl Entry {
    /// The next message on the subject is more than four billion sequences away.
    pub(crate) const FAR: u32 = u32::MAX;
    const EMPTY: Self = Self { offset: GONE, size: Size::ZERO, subject: u32::MAX, next: 0 };

    pub(crate) fn new(offset: u32, size: Size, subject: u32) -> Self {
        Self { offset, size, subject, next: 0 }
    }

    /// Where its record begins, unless it is gone.
    pub(crate) fn offset(&self) -> Option<u32> {
        (self.offset != GONE).then_some(self.offset)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.offset != GONE
    }

    pub(crate) fn forget(&mut self) {
        self.offset = GONE;
    }
}

/// The messages of a segment.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    base: u64,
    slots: Vec<Entry>,
    /// The distance of each slot's sequence from the base, when it is not the slot's number.
    distances: Option<Vec<u32>>,
}

impl Entries {
    pub(crate) fn new(base: u64) -> Self {
        Self { base, slots: Vec::new(), distances: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether `seq` can be added: it is near enough to the base.
    pub(crate) fn reaches(&self, seq: u64) -> bool {
        seq - self.base < u64::from(u32::MAX)
    }

    /// Adds the entry of a sequence above all others.
    pub(crate) fn push(&mut self, seq: u64, entry: Entry) {
        if self.slots.is_empty() && self.distances.is_none() && seq - self.base > GAP_FILLED_MAX {
            self.distances = Some(Vec::new());
        }
        if self.distances.is_none() {
            let gap = seq - self.base - self.slots.len() as u64;
            if gap > GAP_FILLED_MAX {
                self.distances = Some((0..self.slots.len() as u32).collect());
            } else {
                for _ in 0..gap {
                    self.slots.push(Entry::EMPTY);
                }
            }
        }
        if let Some(distances) = &mut self.distances {
            distances.push((seq - self.base) as u32);
        }
        self.slots.push(entry);
    }

    /// Takes back the last push, with the gap it filled.
    pub(crate) fn pop(&mut self) {
        self.slots.pop();
        if let Some(distances) = &mut self.distances {
            distances.truncate(self.slots.len());
        }
        while self.slots.last().is_some_and(|slot| slot.subject == u32::MAX) {
            self.slots.pop();
            if let Some(distances) = &mut self.distances {
                distances.pop();
            }
        }
    }

    /// The slot of exactly this sequence.
    pub(crate) fn position(&self, seq: u64) -> Option<usize> {
        let distance = seq.checked_sub(self.base)?;
        match &self.distances {
            None => (distance < self.slots.len() as u64).then_some(distance as usize),
            Some(distances) => distances.binary_search(&u32::try_from(distance).ok()?).ok(),
        }
    }

    /// The first slot whose sequence is not lower; the number of slots when there is none.
    pub(crate) fn lower_bound(&self, seq: u64) -> usize {
        let distance = seq.saturating_sub(self.base);
        match &self.distances {
            None => distance.min(self.slots.len() as u64) as usize,
            Some(distances) => distances.partition_point(|&other| u64::from(other) < distance),
        }
    }

    /// The sequence of a slot.
    pub(crate) fn seq(&self, position: usize) -> u64 {
        self.base
            + self.distances.as_ref().map_or(position as u64, |distances| u64::from(distances[position]))
    }

    pub(crate) fn get(&self, position: usize) -> &Entry {
        &self.slots[position]
    }

    pub(crate) fn get_mut(&mut self, position: usize) -> &mut Entry {
        &mut self.slots[position]
    }

    pub(crate) fn slots(&self) -> &[Entry] {
        &self.slots
    }

    /// The highest sequence with a slot.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        self.slots.len().checked_sub(1).map(|position| self.seq(position))
    }

    /// Forgets all slots; the base stays.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.base);
    }

    /// The first message at or after a slot.
    pub(crate) fn next_live(&self, position: usize) -> Option<usize> {
        let slots = self.slots.get(position..)?;
        slots.iter().position(Entry::is_live).map(|found| found + position)
    }

    /// Makes room for so many more slots.
    pub(crate) fn reserve(&mut self, slots: usize) {
        self.slots.reserve(slots);
    }

    /// Gives back what was reserved for more.
    pub(crate) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        if let Some(distances) = &mut self.distances {
            distances.shrink_to_fit();
        }
    }

    /// What it takes in memory.
    pub(crate) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Entry>()
            + self.distances.as_ref().map_or(0, |distances| distances.capacity() * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(seqs: &[u64]) -> Entries {
        let mut entries = Entries::new(seqs[0]);
        for &seq in seqs {
            entries.push(seq, Entry::new(seq as u32, Size::ZERO, 0));
        }
        entries
    }

    #[test]
    fn a_sequence_is_found_whether_gaps_are_filled_or_not() {
        for seqs in [&[5u64, 6, 7][..], &[5, 9, 60], &[5, 500, 501, 4_000_000_000]] {
            let entries = entries(seqs);
            for &seq in seqs {
                let position = entries.position(seq).unwrap();
                assert_eq!((entries.seq(position), entries.get(position).offset), (seq, seq as u32));
                assert_eq!(entries.lower_bound(seq), position);
            }
            assert_eq!(entries.position(4), None);
            let second = entries.next_live(entries.lower_bound(seqs[0] + 1)).unwrap();
            assert_eq!(entries.seq(second), seqs[1]);
        }
    }

    #[test]
    fn a_large_gap_costs_no_memory() {
        assert!(entries(&[1, 3_000_000_000]).memory() < 1024);
    }
}
