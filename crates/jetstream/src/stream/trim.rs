//! Keeping to the limits on count and bytes: with each message, and in turns after a limit was lowered, so that the
//! removal of a million messages holds up nobody.

use super::Stream;
use super::publish::limit;
use crate::time::SECOND;

/// At most so many go in one turn: some milliseconds' work.
const MESSAGES_PER_TURN: usize = 10_000;
/// At most so many subjects are looked at in one turn.
const SUBJECTS_PER_TURN: u32 = 200_000;
/// While turns are under way, a message that is stored takes no more than so many with it: they see to the rest.
const MESSAGES_PER_PUBLISH: usize = 64;

/// What does not fit yet.
#[derive(Debug, Default)]
pub(super) struct Trim {
    /// Subjects at or above this place in the store's list may have too many messages.
    subjects: Option<u32>,
    /// There may be too many in all.
    totals: bool,
    /// Not before, because the disk refused.
    at: i64,
}

impl Stream {
    /// Everything is to be looked at, after a limit changed.
    pub(super) fn trim_all(&mut self) {
        let per_subject = limit(self.config.max_msgs_per_subject).is_some();
        self.trim = Trim { subjects: per_subject.then_some(0), totals: true, at: 0 };
    }

    /// What was removed may be there again, as the disk refused.
    pub(super) fn trim_later(&mut self) {
        self.trim_all();
        self.trim.at = self.now + SECOND;
    }

    /// Looks whether the last run of the server left something to do.
    pub(super) fn recall_trim(&mut self) {
        let max = limit(self.config.max_msgs_per_subject);
        let is_crowded = max.is_some_and(|max| self.store.find_crowded(0, u32::MAX, max).1.is_some());
        self.trim = Trim { subjects: is_crowded.then_some(0), totals: self.is_over(), at: 0 };
    }

    /// When there is a turn to take.
    pub(crate) fn next_trim(&self, now: i64) -> Option<i64> {
        (self.trim.subjects.is_some() || self.trim.totals).then(|| self.trim.at.max(now))
    }

    /// Removes what does not fit, as much as a turn may.
    pub(crate) fn trim(&mut self, now: i64) {
        if self.next_trim(now).is_none_or(|due| due > now) {
            return;
        }
        let mut budget = MESSAGES_PER_TURN;
        self.trim_subjects(&mut budget);
        // What a subject has too many of goes before older ones of others do.
        if self.trim.subjects.is_none() {
            self.trim.totals = self.trim_totals(&mut budget);
        }
    }

    fn trim_subjects(&mut self, budget: &mut usize) {
        let Some(mut place) = self.trim.subjects else { return };
        let Some(max) = limit(self.config.max_msgs_per_subject) else {
            self.trim.subjects = None;
            return;
        };
        while *budget > 0 {
            let (at, subject) = self.store.find_crowded(place, SUBJECTS_PER_TURN, max);
            place = at;
            let Some(subject) = subject.map(<[u8]>::to_vec) else { break };
            if !self.trim_subject(&subject, max, budget) {
                place += 1;
            }
        }
        self.trim.subjects = (place != u32::MAX).then_some(place);
    }

    /// Removes the oldest of a subject, and says whether there are too many left.
    fn trim_subject(&mut self, subject: &[u8], max: u64, budget: &mut usize) -> bool {
        while let Some((first, _)) = self.store.first_on(subject).filter(|&(_, count)| count > max) {
            if *budget == 0 {
                return true;
            }
            if !self.drop_message(first) {
                return false;
            }
            *budget -= 1;
        }
        false
    }

    /// Removes the oldest, and says whether there are too many left.
    fn trim_totals(&mut self, budget: &mut usize) -> bool {
        while self.is_over() {
            if *budget == 0 {
                return true;
            }
            if !self.drop_message(self.store.first_seq()) {
                return false;
            }
            *budget -= 1;
        }
        false
    }

    fn is_over(&self) -> bool {
        let (max_msgs, max_bytes) = (limit(self.config.max_msgs), limit(self.config.max_bytes));
        self.store.msgs() > 0
            && (max_msgs.is_some_and(|max| self.store.msgs() > max)
                || max_bytes.is_some_and(|max| self.store.bytes() > max))
    }

    /// Makes a subject fit again, after a message was stored on it.
    pub(super) fn enforce_subject(&mut self, subject: &[u8]) {
        let Some(max) = limit(self.config.max_msgs_per_subject) else { return };
        let under_way = self.trim.subjects.is_some();
        let mut budget = if under_way { MESSAGES_PER_PUBLISH } else { usize::MAX };
        self.trim_subject(subject, max, &mut budget);
    }

    /// Makes count and bytes fit again, after messages were stored.
    pub(crate) fn enforce_totals(&mut self) {
        if self.is_over() {
            let mut budget = if self.trim.totals { MESSAGES_PER_PUBLISH } else { MESSAGES_PER_TURN };
            self.trim.totals = self.trim_totals(&mut budget);
        }
    }
}
