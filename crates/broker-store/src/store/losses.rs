//! What is lost after damage: told from what was removed, once everything that is left was read.

use std::collections::BTreeMap;

use super::Store;
use super::files::segment_name;
use super::recover::Recovery;
use crate::report::Severity;

impl Recovery<'_> {
    /// Says which messages are lost, now that everything that is left was read.
    pub(super) fn finish(&mut self) {
        if let Some((_, earlier)) = self.store.segments.split_last_mut() {
            for segment in earlier {
                segment.closed = true;
            }
        }
        let last_read = self.store.last_seq;
        if !self.end.truncated && self.end.cut.is_none() {
            if let Some(id) = self.evidence.unknown_segment {
                self.found(
                    Severity::Damage,
                    format!("segment {id}"),
                    segment_name(id),
                    "the file is missing; it was the one written to",
                    "put the file back from a backup, or run a repair to go on without it",
                );
            }
            if self.evidence.last_seq > last_read
                && self.suspects.last().is_none_or(|suspect| suspect.1 != u64::MAX)
            {
                self.suspects.push((last_read + 1, u64::MAX, "the end of the log".to_owned()));
            }
            self.store.last_seq = last_read.max(self.evidence.last_seq);
        }
        self.excuse_erasures();
        self.store.subjects.settle();
        if self.store.msgs == 0 {
            self.store.first_seq = self.store.last_seq + 1;
        }
        let suspects = std::mem::take(&mut self.suspects);
        if suspects.is_empty() {
            return;
        }
        self.removed.sort_unstable();
        for (from, to, place) in suspects {
            self.lose(from, to.min(self.store.last_seq), &place);
        }
        let lost = self.store.lost_count();
        if lost > 0 {
            self.found(
                Severity::Damage,
                format!("{lost} messages"),
                self.store.files.as_ref().map(|files| files.dir.display().to_string()).unwrap_or_default(),
                format!("they are lost: {}", ranges(&self.store.lost)),
                "they are named when asked for and passed over otherwise; take them from a backup",
            );
        }
    }

    /// Bytes that cannot be read because they were being overwritten are no damage: the message was removed before.
    fn excuse_erasures(&mut self) {
        for (erasure, finding, suspect) in std::mem::take(&mut self.unreadable) {
            // A changed sequence may name another message that was erased, but that one was read elsewhere.
            let asked = self.erased.iter().any(|&(first, last)| (first..=last).contains(&erasure.seq))
                && !self.overwritten.contains(&erasure.seq)
                && !self.store.was_read(erasure.seq);
            let segment = self.store.segments.iter_mut().find(|segment| segment.id == erasure.segment);
            let (true, Some(segment), Some(files)) = (asked, segment, &mut self.store.files) else {
                continue;
            };
            let finding = &mut self.store.findings[finding];
            finding.severity = Severity::Info;
            finding.object = format!("message {}, which was removed", erasure.seq);
            finding.reason = "its erasure was cut short, or what it left was changed".to_owned();
            finding.remedy = "it is erased again; nothing needs to be done".to_owned();
            segment.physical += 1;
            files.erasures.push(erasure);
            // An empty range: nothing else was there.
            self.suspects[suspect] = (1, 0, String::new());
            if let Some(holes) = self.holes.get_mut(&erasure.segment) {
                *holes -= 1;
                segment.damaged = *holes > 0;
            }
        }
    }

    /// Counts as lost what is in a range, is not there, was not removed, and was not counted before.
    fn lose(&mut self, from: u64, to: u64, place: &str) {
        let mut at = from;
        while at <= to {
            // A gap ends where the next message is: what follows that was read.
            let next = self.store.next_any(at).filter(|&next| next <= to);
            let gap_end = next.map_or(to, |next| next - 1);
            let mut start = at;
            for &(first, last) in &self.removed {
                if start > gap_end {
                    break;
                }
                if last < start || first > gap_end {
                    continue;
                }
                if first > start {
                    self.store.add_lost(start, first - 1, place);
                }
                start = start.max(last + 1);
            }
            if start <= gap_end {
                self.store.add_lost(start, gap_end, place);
            }
            match next {
                // Only the gap right behind the damage is its doing.
                Some(_) => return,
                None => at = gap_end.saturating_add(1),
            }
            if gap_end == u64::MAX {
                return;
            }
        }
    }
}

impl Store {
    /// Notes a range as lost, without what was noted before.
    fn add_lost(&mut self, mut from: u64, to: u64, place: &str) {
        while from <= to {
            match self.lost.range(..=from).next_back() {
                Some((_, (last, _))) if *last >= from => from = last.saturating_add(1),
                _ => {
                    let next = self.lost.range(from..).next().map_or(u64::MAX, |(first, _)| *first);
                    let end = to.min(next - 1);
                    self.lost.insert(from, (end, place.to_owned()));
                    from = end.saturating_add(1);
                }
            }
        }
    }

    /// Whether a record of a message was read, also when it was removed later.
    fn was_read(&self, seq: u64) -> bool {
        let Some(segment) = self.segment_of(seq).map(|index| &self.segments[index]) else { return false };
        segment.entries.position(seq).is_some_and(|slot| segment.entries.get(slot).subject != u32::MAX)
    }

    /// The highest sequence that has a slot in the index.
    pub(super) fn last_in_index(&self) -> u64 {
        self.segments.iter().rev().find_map(|segment| segment.entries.last_seq()).unwrap_or(0)
    }
}

fn ranges(lost: &BTreeMap<u64, (u64, String)>) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> = lost
        .iter()
        .take(SHOWN)
        .map(|(first, (last, _))| if first == last { format!("{first}") } else { format!("{first}-{last}") })
        .collect();
    let more = if lost.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
