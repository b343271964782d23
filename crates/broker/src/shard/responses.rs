//! The requests a connection may answer, for identities with `allow_responses`. Bounded; the clock is the caller's.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::permissions::AllowResponses;

/// Open requests a responder may have. Those nobody ever answers must not keep it from answering new ones: beyond
/// this the oldest is forgotten.
const OPEN_MAX: usize = 4096;

/// Open requests by their reply subject.
///
/// One rule holds for all of them until [`clear`](Self::clear), so they expire in the order they came in.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    open: HashMap<Rc<[u8]>, Response>,
    /// By age. An entry whose number is not the request's any more is a leftover: answered, or asked again.
    by_age: VecDeque<(u64, Rc<[u8]>)>,
    last_number: u64,
}

#[derive(Debug)]
struct Response {
    number: u64,
    left: u32,
    until: Instant,
}

impl Responses {
    /// Notes a request with this reply subject. Costs the same on average however many are open.
    pub(crate) fn expect(&mut self, reply: &[u8], rule: AllowResponses, now: Instant) {
        if rule.max == 0 {
            return;
        }
        self.forget_old(now);
        self.last_number += 1;
        let number = self.last_number;
        let until = now.checked_add(rule.ttl).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        let reply: Rc<[u8]> = reply.into();
        self.open.insert(Rc::clone(&reply), Response { number, left: rule.max, until });
        self.by_age.push_back((number, reply));
        if self.by_age.len() > 2 * OPEN_MAX {
            // At least half are leftovers behind an old request; this happens once per so many requests.
            let open = &self.open;
            self.by_age.retain(|(number, reply)| is_open(open, *number, reply));
        }
    }

    /// Whether `subject` may be answered on; counts it as an answer.
    pub(crate) fn may_answer(&mut self, subject: &[u8], now: Instant) -> bool {
        let Some(response) = self.open.get_mut(subject) else {
            return false;
        };
        let in_time = now <= response.until;
        response.left = response.left.saturating_sub(1);
        if response.left == 0 || !in_time {
            self.open.remove(subject);
        }
        in_time
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.by_age.clear();
    }

    /// Makes room for one more: drops leftovers and expired requests at the old end, and the oldest if it must.
    fn forget_old(&mut self, now: Instant) {
        while let Some((number, reply)) = self.by_age.front() {
            let is_open = is_open(&self.open, *number, reply);
            let in_time = self.open.get(reply).is_some_and(|response| now <= response.until);
            if is_open && in_time && self.open.len() < OPEN_MAX {
                return;
            }
            if is_open {
                self.open.remove(reply);
            }
            self.by_age.pop_front();
        }
    }
}

fn is_open(open: &HashMap<Rc<[u8]>, Response>, number: u64, reply: &[u8]) -> bool {
    open.get(reply).is_some_and(|response| response.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: AllowResponses = AllowResponses { max: 2, ttl: Duration::from_secs(60) };

    fn inbox(n: usize) -> Vec<u8> {
        format!("_INBOX.{n}").into_bytes()
    }

    #[test]
    fn a_request_is_answered_so_often_and_so_long() {
        let start = Instant::now();
        let mut responses = Responses::default();
        responses.expect(b"a", RULE, start);
        responses.expect(b"b", RULE, start);
        assert!(responses.may_answer(b"a", start) && responses.may_answer(b"a", start));
        assert!(!responses.may_answer(b"a", start), "twice is enough");
        assert!(responses.may_answer(b"b", start + RULE.ttl));
        assert!(!responses.may_answer(b"b", start + RULE.ttl + Duration::from_nanos(1)));
        responses.expect(b"c", AllowResponses { max: 0, ..RULE }, start);
        assert!(!responses.may_answer(b"c", start));
    }

    #[test]
    fn requests_that_nobody_answers_do_not_keep_new_ones_from_being_answered() {
        let start = Instant::now();
        let mut responses = Responses::default();
        for n in 0..3 * OPEN_MAX {
            responses.expect(&inbox(n), RULE, start);
            assert!(responses.open.len() <= OPEN_MAX);
        }
        assert!(!responses.may_answer(&inbox(0), start), "the oldest made room");
        assert!(responses.may_answer(&inbox(3 * OPEN_MAX - 1), start));
        responses.expect(b"later", RULE, start + RULE.ttl * 2);
        assert_eq!((responses.open.len(), responses.by_age.len()), (1, 1), "the expired are gone");
    }

    #[test]
    fn leftovers_behind_an_old_request_do_not_pile_up() {
        let start = Instant::now();
        let mut responses = Responses::default();
        responses.expect(b"old", RULE, start);
        for n in 0..10 * OPEN_MAX {
            responses.expect(b"again", RULE, start);
            responses.expect(&inbox(n), AllowResponses { max: 1, ..RULE }, start);
            assert!(responses.may_answer(&inbox(n), start));
            assert!(responses.by_age.len() <= 2 * OPEN_MAX);
        }
        assert!(responses.may_answer(b"old", start) && responses.may_answer(b"again", start));
    }
}
