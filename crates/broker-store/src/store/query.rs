//! Questions that the index answers without reading a message.

use super::Store;
use crate::index::Entry;
use crate::selection::{Selection, Shape};

/// A part of a list and how long the whole is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The whole list's length.
    pub total: usize,
    /// The part asked for.
    pub items: Vec<T>,
}

/// Where the next wanted message is, as far as it was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There.
    At(u64),
    /// Not below this sequence: go on there.
    NotBelow(u64),
    /// There is none.
    End,
}

impl Store {
    /// The first wanted sequence at or after `from`; `None` when there is none up to the last.
    ///
    /// For one subject, walking from message to message costs a step each. Otherwise it costs about a nanosecond per
    /// message passed over: a reader that finds nothing should go on at `last_seq() + 1` next time.
    pub fn next(&mut self, selection: &mut Selection, from: u64) -> Option<u64> {
        let from = from.max(self.first_seq);
        if from > self.last_seq || self.msgs == 0 {
            return None;
        }
        selection.attune(&self.subjects);
        match selection.shape() {
            Shape::All => self.next_any(from),
            Shape::One(name) => {
                let id = self.subjects.find(name)?;
                let subject = self.subjects.get(id);
                if from <= subject.first {
                    return Some(subject.first);
                }
                if from > subject.last {
                    return None;
                }
                match self.find(from - 1) {
                    Some((_, _, entry)) if entry.subject == id => self.next_on_subject(id, from - 1),
                    _ => self.scan_subject(id, from),
                }
            }
            Shape::Some(_) => {
                let subjects = &self.subjects;
                self.scan_entries(from, |entry| selection.wants(subjects, entry.subject))
            }
        }
    }

    /// As [`Store::next`], but passes over no more than about so many messages.
    pub fn next_within(&mut self, selection: &mut Selection, from: u64, most: usize) -> Next {
        let from = from.max(self.first_seq);
        let found = |seq: Option<u64>| seq.map_or(Next::End, Next::At);
        if from > self.last_seq || self.msgs == 0 || !matches!(selection.shape(), Shape::Some(_)) {
            return found(self.next(selection, from));
        }
        selection.attune(&self.subjects);
        let mut left = most;
        let start = self.segment_of(from).unwrap_or(0);
        for segment in self.segments[start..].iter().filter(|segment| segment.live > 0) {
            let first = segment.entries.lower_bound(from);
            let slots = &segment.entries.slots()[first..];
            let part = &slots[..slots.len().min(left)];
            let wanted = |entry: &Entry| entry.is_live() && selection.wants(&self.subjects, entry.subject);
            if let Some(at) = part.iter().position(wanted) {
                return Next::At(segment.entries.seq(first + at));
            }
            if part.len() < slots.len() {
                return Next::NotBelow(segment.entries.seq(first + part.len()));
            }
            left -= part.len();
        }
        Next::End
    }

    /// The wanted message that so many less one follow: the first of the last `count`. `None` when there are not so
    /// many. Costs a step for each message behind it.
    pub fn nth_last(&self, selection: &mut Selection, count: u64) -> Option<u64> {
        selection.attune(&self.subjects);
        let mut left = count;
        for segment in self.segments.iter().rev().filter(|segment| segment.live > 0) {
            for (position, entry) in segment.entries.slots().iter().enumerate().rev() {
                if entry.is_live() && selection.wants(&self.subjects, entry.subject) {
                    left = left.checked_sub(1)?;
                    if left == 0 {
                        return Some(segment.entries.seq(position));
                    }
                }
            }
        }
        None
    }

    /// The last message on a subject, at or below `up_to`.
    pub fn last_on(&self, subject: &[u8], up_to: u64) -> Option<u64> {
        let id = self.subjects.find(subject)?;
        self.last_of(id, up_to)
    }

    /// The first message on a subject and how many there are: what a limit per subject needs.
    pub fn first_on(&self, subject: &[u8]) -> Option<(u64, u64)> {
        let subject = self.subjects.get(self.subjects.find(subject)?);
        Some((subject.first, subject.count))
    }

    /// How many messages a subject has.
    pub fn count_on(&self, subject: &[u8]) -> u64 {
        self.first_on(subject).map_or(0, |(_, count)| count)
    }

    /// The last message of each wanted subject at or below `up_to`, in the order of their sequences. Costs a step per
    /// subject of the stream.
    pub fn last_per_subject(&self, selection: &mut Selection, up_to: u64) -> Vec<u64> {
        selection.attune(&self.subjects);
        let wanted = self.subjects.iter().filter(|(id, _)| selection.wants(&self.subjects, *id));
        let mut last: Vec<u64> = wanted.filter_map(|(id, _)| self.last_of(id, up_to)).collect();
        last.sort_unstable();
        last
    }

    /// How many wanted messages there are at or after `from`; with `last_per_subject`, how many of those are the last
    /// on their subject.
    pub fn num_pending(&self, selection: &mut Selection, from: u64, last_per_subject: bool) -> u64 {
        let from = from.max(self.first_seq);
        if from > self.last_seq || self.msgs == 0 {
            return 0;
        }
        selection.attune(&self.subjects);
        let subjects = &self.subjects;
        if last_per_subject {
            let wanted = subjects
                .iter()
                .filter(|(id, subject)| subject.last >= from && selection.wants(subjects, *id));
            return wanted.count() as u64;
        }
        if let Shape::All = selection.shape() {
            return self.count_all_from(from);
        }
        if let Shape::One(name) = selection.shape() {
            let Some(id) = subjects.find(name) else { return 0 };
            let subject = subjects.get(id);
            return match subject {
                subject if from <= subject.first => subject.count,
                subject if from > subject.last => 0,
                _ => self.count_from(from, |entry| entry.subject == id),
            };
        }
        if from <= self.first_seq {
            let wanted = subjects.iter().filter(|(id, _)| selection.wants(subjects, *id));
            return wanted.map(|(_, subject)| subject.count).sum();
        }
        self.count_from(from, |entry| selection.wants(subjects, entry.subject))
    }

    /// The wanted subjects and how many messages each has, by name. Costs a step or two per subject, and sorting those
    /// of the part.
    pub fn subjects(&self, selection: &mut Selection, offset: usize, limit: usize) -> Page<(Box<[u8]>, u64)> {
        selection.attune(&self.subjects);
        let wanted = self.subjects.iter().filter(|(id, _)| selection.wants(&self.subjects, *id));
        let mut found: Vec<(u64, &[u8], u64)> =
            wanted.map(|(_, subject)| (0, &*subject.name, subject.count)).collect();
        let total = found.len();
        // Names begin alike; what follows tells most of them apart without reading them again.
        let alike = common_prefix(found.iter().map(|(_, name, _)| *name));
        for (key, name, _) in &mut found {
            *key = sort_key(&name[alike..]);
        }
        let (start, end) = (offset.min(total), offset.saturating_add(limit).min(total));
        if end < total {
            found.select_nth_unstable(end);
            found.truncate(end);
        }
        if 0 < start && start < found.len() {
            found.select_nth_unstable(start);
        }
        let part = &mut found[start..];
        part.sort_unstable();
        Page { total, items: part.iter().map(|&(_, name, count)| (name.into(), count)).collect() }
    }

    /// The next subject with more than `max` messages among so many places of the list of subjects, and where it
    /// stands; or else where to go on, `u32::MAX` at the end of the list. A subject that comes later may get a place
    /// before one that was looked at.
    pub fn find_crowded(&self, place: u32, places: u32, max: u64) -> (u32, Option<&[u8]>) {
        let bound = self.subjects.bound();
        let end = place.saturating_add(places).min(bound);
        for id in place..end {
            let subject = self.subjects.get(id);
            if subject.count > max {
                return (id, Some(&subject.name));
            }
        }
        (if end >= bound { u32::MAX } else { end }, None)
    }

    /// Sequences between the first and the last without a message, at most `limit`.
    pub fn deleted(&self, limit: usize) -> Vec<u64> {
        let mut deleted = Vec::new();
        let mut expected = self.first_seq;
        let mut add = |from: u64, to: u64| {
            let room = limit - deleted.len();
            deleted.extend((from..to).take(room));
            deleted.len() < limit
        };
        for segment in &self.segments {
            let mut position = segment.entries.lower_bound(expected);
            while let Some(live) = segment.entries.next_live(position) {
                let seq = segment.entries.seq(live);
                if !add(expected, seq) {
                    return deleted;
                }
                expected = expected.max(seq + 1);
                position = live + 1;
            }
        }
        add(expected, self.last_seq + 1);
        deleted
    }

    /// The first message and when it was stored: what limits by age and count look at. Reads its record when it is not
    /// known; a damaged one is passed over.
    pub fn oldest(&mut self) -> Option<(u64, i64)> {
        while self.msgs > 0 {
            let seq = self.first_seq;
            if let Some(time) = self.first_time {
                return Some((seq, time));
            }
            let time = self.get(seq).ok().flatten().map(|message| message.time_ns);
            // A damaged one is counted as lost by the read, and the first is another one afterwards.
            if time.is_none() && self.first_seq == seq {
                return None;
            }
            if self.first_seq == seq {
                self.first_time = time;
            }
        }
        None
    }

    /// The first message stored at or after a time. Costs a step per segment and reads at most one segment.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when a file cannot be read.
    pub fn first_at(&mut self, time_ns: i64) -> Result<Option<u64>, crate::Error> {
        for index in 0..self.segments.len() {
            let segment = &self.segments[index];
            if segment.live == 0 || segment.max_time < time_ns {
                continue;
            }
            let last = segment.entries.last_seq().unwrap_or(segment.last);
            let mut found = None;
            self.scan(&mut Selection::all(), segment.base, |message| {
                if message.seq > last {
                    return std::ops::ControlFlow::Break(());
                }
                if message.time_ns >= time_ns {
                    found = Some(message.seq);
                    return std::ops::ControlFlow::Break(());
                }
                std::ops::ControlFlow::Continue(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A message whose own time to live has passed at `now_ns`; it is still there. `None` when there is none.
    pub fn next_expired(&mut self, now_ns: i64) -> Option<u64> {
        match self.soonest() {
            Some((due, seq)) if due <= now_ns => Some(seq),
            _ => None,
        }
    }

    /// When the next message's own time to live passes.
    pub fn next_expiry(&mut self) -> Option<i64> {
        self.soonest().map(|(due, _)| due)
    }

    fn soonest(&mut self) -> Option<(i64, u64)> {
        while let Some(&due) = self.expiries.peek() {
            if self.find(due.0.1).is_some() {
                return Some(due.0);
            }
            self.expiries.pop();
            // A removal that is taken back brings it back.
            if !self.undo.is_empty() {
                self.expiries_seen.push(due);
            }
        }
        None
    }

    /// The first message at or after `from`.
    pub(super) fn next_any(&self, from: u64) -> Option<u64> {
        self.scan_entries(from, |_| true)
    }

    fn scan_subject(&self, id: u32, from: u64) -> Option<u64> {
        self.scan_entries(from, |entry| entry.subject == id)
    }

    fn scan_entries(&self, from: u64, mut wanted: impl FnMut(&Entry) -> bool) -> Option<u64> {
        let start = self.segment_of(from).unwrap_or(0);
        for segment in self.segments.get(start..)? {
            if segment.live == 0 {
                continue;
            }
            let first = segment.entries.lower_bound(from);
            let slots = &segment.entries.slots()[first..];
            if let Some(found) = slots.iter().position(|entry| entry.is_live() && wanted(entry)) {
                return Some(segment.entries.seq(first + found));
            }
        }
        None
    }

    fn count_from(&self, from: u64, mut wanted: impl FnMut(&Entry) -> bool) -> u64 {
        let Some(start) = self.segment_of(from) else { return self.msgs };
        let mut count = 0;
        let first = self.segments[start].entries.lower_bound(from);
        for (index, segment) in self.segments[start..].iter().enumerate() {
            let slots = &segment.entries.slots()[if index == 0 { first } else { 0 }..];
            count += slots.iter().filter(|entry| entry.is_live() && wanted(entry)).count() as u64;
        }
        count
    }

    /// All messages at or after a sequence: whole segments are counted already.
    fn count_all_from(&self, from: u64) -> u64 {
        let Some(start) = self.segment_of(from) else { return self.msgs };
        let ahead: u64 = self.segments[start + 1..].iter().map(|segment| u64::from(segment.live)).sum();
        let entries = &self.segments[start].entries;
        let slots = &entries.slots()[entries.lower_bound(from)..];
        ahead + slots.iter().filter(|entry| entry.is_live()).count() as u64
    }

    /// The message after `seq` on its subject. `seq` itself may be gone already.
    pub(super) fn next_on_subject(&mut self, id: u32, seq: u64) -> Option<u64> {
        let last = self.subjects.get(id).last;
        if seq >= last {
            return None;
        }
        let mut at = seq;
        let next = loop {
            let Some(entry) = self.entry(at).filter(|entry| entry.subject == id) else { break None };
            if entry.next == 0 || entry.next == Entry::FAR {
                break None;
            }
            at += u64::from(entry.next);
            if self.entry(at).is_some_and(|entry| entry.subject == id && entry.is_live()) {
                break Some(at);
            }
        };
        let next = next.or_else(|| self.scan_subject(id, seq + 1))?;
        self.link(seq, next);
        Some(next)
    }

    pub(super) fn previous_on_subject(&mut self, id: u32, seq: u64) -> Option<u64> {
        let before = self.last_of_before(id, seq.checked_sub(1)?)?;
        // What followed is gone: the link is made anew by the next message.
        self.unlink(before);
        Some(before)
    }

    /// The slot of a sequence, also of one that is gone.
    fn entry(&self, seq: u64) -> Option<&Entry> {
        let segment = &self.segments[self.segment_of(seq)?];
        Some(segment.entries.get(segment.entries.position(seq)?))
    }

    fn last_of(&self, id: u32, up_to: u64) -> Option<u64> {
        let subject = self.subjects.get(id);
        if subject.last <= up_to {
            return Some(subject.last);
        }
        if subject.first > up_to {
            return None;
        }
        self.last_of_before(id, up_to)
    }

    /// Walks back from a sequence to a message on a subject.
    fn last_of_before(&self, id: u32, from: u64) -> Option<u64> {
        let start = self.segment_of(from)?;
        for segment in self.segments[..=start].iter().rev().filter(|segment| segment.live > 0) {
            let end = segment.entries.lower_bound(from.saturating_add(1));
            let slots = &segment.entries.slots()[..end];
            let found = slots.iter().rposition(|entry| entry.is_live() && entry.subject == id);
            if let Some(position) = found {
                return Some(segment.entries.seq(position));
            }
        }
        None
    }
}

/// How many bytes all names begin with.
fn common_prefix<'a>(mut names: impl Iterator<Item = &'a [u8]>) -> usize {
    let Some(mut prefix) = names.next() else { return 0 };
    for name in names {
        if !name.starts_with(prefix) {
            let same = prefix.iter().zip(name).take_while(|(one, other)| one == other).count();
            prefix = &prefix[..same];
        }
    }
    prefix.len()
}

/// Sorts as the bytes do, as far as eight of them go.
fn sort_key(bytes: &[u8]) -> u64 {
    let mut key = [0; 8];
    let len = bytes.len().min(8);
    key[..len].copy_from_slice(&bytes[..len]);
    u64::from_be_bytes(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NewMessage, Options};

    #[test]
    fn pages_of_subjects_are_parts_of_the_sorted_list() {
        let mut store = Store::memory(Options::default());
        let mut names: Vec<String> = (0..50).map(|number| format!("all.{}", number * 37 % 50)).collect();
        names.extend([
            "all".to_owned(),
            "all.long.name.that.goes.on".to_owned(),
            "all.long.name.a".to_owned(),
        ]);
        for name in &names {
            let message = NewMessage {
                subject: name.as_bytes(),
                headers: b"",
                payload: b"",
                time_ns: 1,
                expires_ns: None,
            };
            store.append(&message).unwrap();
        }
        names.sort_unstable();
        for (offset, limit) in [(0, 100), (0, 7), (7, 7), (52, 7), (53, 7), (60, 7), (0, 0), (3, usize::MAX)]
        {
            let page = store.subjects(&mut Selection::all(), offset, limit);
            let found = page.items.iter().map(|(name, _)| &**name);
            let expected = names.iter().skip(offset).take(limit).map(String::as_bytes);
            assert!(found.eq(expected) && page.total == names.len(), "{offset} {limit}: {page:?}");
        }
    }
}
