//! What the permissions said of subjects, so that the rules are walked once per subject and not once per message.
//!
//! One table per shard for all identities: a fixed number of places, each subject has one, and whoever comes later takes
//! it over. So it is bounded however many clients and subjects there are, and asking allocates nothing once a place was
//! used. A permission set that changes gets another id, which leaves its old verdicts behind.

use std::hash::Hasher as _;

use super::routes::SubjectHasher;

/// Places, a power of two.
const PLACES: usize = 4096;
/// Longer subjects are decided each time: their verdicts would take more memory than they are worth.
const SUBJECT_BYTES_MAX: usize = 256;

/// What can be asked of a permission set about a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// May be published to.
    Publish,
    /// May be named as the place for answers.
    Reply,
    /// Must be left out when delivering.
    Denied,
}

/// A subject with its hash, which the routes need too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed<'a> {
    pub(crate) subject: &'a [u8],
    pub(crate) hash: u64,
}

impl<'a> Hashed<'a> {
    #[inline]
    pub(crate) fn new(subject: &'a [u8]) -> Self {
        let mut hasher = SubjectHasher::default();
        hasher.write(subject);
        Self { subject, hash: hasher.finish() }
    }
}

/// Verdicts by permission set, question and subject.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// Empty until the first question: where everybody may do everything there is none.
    places: Vec<Place>,
}

struct Place {
    access: u64,
    question: Question,
    verdict: bool,
    subject: Vec<u8>,
    /// Empty for who is in no queue group: their names are not.
    queue: Vec<u8>,
}

impl Verdicts {
    /// The verdict of the permission set `access`, which `decide` knows.
    #[inline]
    pub(crate) fn on(
        &mut self,
        access: u64,
        question: Question,
        hashed: Hashed<'_>,
        decide: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        self.on_member(access, question, hashed, None, decide)
    }

    /// The same for a member of `queue`.
    #[inline]
    pub(crate) fn on_member(
        &mut self,
        access: u64,
        question: Question,
        hashed: Hashed<'_>,
        queue: Option<&[u8]>,
        decide: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        // Ids are small and follow each other: spread, so that two identities with one subject have two places.
        let spread = access.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let spread = spread ^ queue.map_or(0, |queue| Hashed::new(queue).hash.rotate_left(7));
        let index = (hashed.hash ^ spread ^ question as u64) as usize % PLACES;
        match self.places.get(index) {
            Some(place)
                if place.access == access
                    && place.question == question
                    && place.subject == hashed.subject
                    && place.queue == queue.unwrap_or_default() =>
            {
                place.verdict
            }
            _ => self.decide(index, access, question, hashed.subject, queue, decide),
        }
    }

    #[cold]
    fn decide(
        &mut self,
        index: usize,
        access: u64,
        question: Question,
        subject: &[u8],
        queue: Option<&[u8]>,
        decide: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        let verdict = decide(subject);
        if subject.len() > SUBJECT_BYTES_MAX || queue.is_some_and(|queue| queue.len() > SUBJECT_BYTES_MAX) {
            return verdict;
        }
        if self.places.is_empty() {
            // Ids begin at 1: no place holds a verdict yet.
            let empty =
                || Place { access: 0, question, verdict: false, subject: Vec::new(), queue: Vec::new() };
            self.places.resize_with(PLACES, empty);
        }
        let place = &mut self.places[index];
        place.subject.clear();
        place.subject.extend_from_slice(subject);
        place.queue.clear();
        place.queue.extend_from_slice(queue.unwrap_or_default());
        (place.access, place.question, place.verdict) = (access, question, verdict);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it was decided anew.
    fn is_asked(
        verdicts: &mut Verdicts,
        access: u64,
        question: Question,
        subject: &str,
        verdict: bool,
    ) -> bool {
        let mut asked = false;
        let said = verdicts.on(access, question, Hashed::new(subject.as_bytes()), |_| {
            asked = true;
            verdict
        });
        assert_eq!(said, verdict);
        asked
    }

    #[test]
    fn each_question_about_a_subject_is_decided_once_per_permission_set() {
        let mut verdicts = Verdicts::default();
        for round in 0..3 {
            for (access, question, subject, verdict) in [
                (1, Question::Publish, "a.b", true),
                (1, Question::Reply, "a.b", false),
                (2, Question::Publish, "a.b", false),
                (2, Question::Denied, "a.c", true),
            ] {
                let asked = is_asked(&mut verdicts, access, question, subject, verdict);
                assert_eq!(asked, round == 0, "{access} {question:?} {subject} in round {round}");
            }
        }
    }

    #[test]
    fn a_verdict_that_lost_its_place_is_decided_again_and_is_never_anothers() {
        let mut verdicts = Verdicts::default();
        let mut asked = [0; 2];
        for asked in &mut asked {
            for n in 0..3 * PLACES {
                let access = 1 + n as u64 % 3;
                // Compares what it says with what it should say.
                let now =
                    is_asked(&mut verdicts, access, Question::Publish, &format!("subject.{n}"), n % 2 == 0);
                *asked += usize::from(now);
            }
        }
        assert!(asked[0] == 3 * PLACES && asked[1] > 0, "{asked:?}");
        assert_eq!(verdicts.places.len(), PLACES);
    }

    #[test]
    fn members_of_queue_groups_have_verdicts_of_their_own() {
        let mut verdicts = Verdicts::default();
        let hashed = Hashed::new(b"jobs.a");
        for round in 0..2 {
            for (queue, verdict) in [(None, false), (Some(&b"wrk"[..]), true), (Some(b"else"), false)] {
                let decide = |_: &[u8]| verdict ^ (round > 0);
                assert_eq!(verdicts.on_member(1, Question::Denied, hashed, queue, decide), verdict);
            }
        }
    }

    #[test]
    fn long_subjects_are_not_kept() {
        let mut verdicts = Verdicts::default();
        let long = "x".repeat(SUBJECT_BYTES_MAX + 1);
        assert!(is_asked(&mut verdicts, 1, Question::Publish, &long, true));
        assert!(is_asked(&mut verdicts, 1, Question::Publish, &long, false));
    }
}
