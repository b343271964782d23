//! How often an agent may be frozen, thawed and started again at nobody's known request: so often that no honest one
//! notices, and so seldom that a mad one, which can have thousands of orders to itself on their way before the first is
//! carried out, fills neither the history nor the machine. Ends are never held back.

use std::time::{Duration, Instant};

/// Orders that may come at once; a rest of [`REFILL`] allows one more.
const ORDERS_MAX: u32 = 20;
const REFILL: Duration = Duration::from_millis(500);

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is carried out.
    Admitted,
    /// It is not, and it is the first since one was.
    RefusedFirst,
    /// It is not, like the one before.
    Refused,
}

/// The pace of one agent's orders to itself.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    /// Since when `left` counts.
    since: Instant,
    is_refusing: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: ORDERS_MAX, since: now, is_refusing: false }
    }

    /// Whether one more is carried out at `now`.
    pub(super) fn admits(&mut self, now: Instant) -> Admission {
        let rests = now.saturating_duration_since(self.since).as_millis() / REFILL.as_millis();
        let rests = u32::try_from(rests).unwrap_or(u32::MAX);
        if rests >= ORDERS_MAX - self.left {
            (self.left, self.since) = (ORDERS_MAX, now);
        } else {
            self.left += rests;
            self.since += REFILL * rests;
        }
        if self.left > 0 {
            self.left -= 1;
            self.is_refusing = false;
            return Admission::Admitted;
        }
        if std::mem::replace(&mut self.is_refusing, true) {
            Admission::Refused
        } else {
            Admission::RefusedFirst
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_to_its_pace_and_told_once_in_a_while() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let answers: Vec<_> = (0..1000).map(|n| pace.admits(at(n / 10))).collect();
        let count = |wanted| answers.iter().filter(|answer| **answer == wanted).count();
        assert_eq!(count(Admission::Admitted), ORDERS_MAX as usize);
        assert_eq!(count(Admission::RefusedFirst), 1);
        // Asked every millisecond for ten seconds more.
        let admitted = (100..10_100).filter(|ms| pace.admits(at(*ms)) == Admission::Admitted).count();
        assert_eq!(admitted, 20);
        let after_a_rest = at(60_000);
        let admitted = (0..100).filter(|_| pace.admits(after_a_rest) == Admission::Admitted).count();
        assert_eq!(admitted, ORDERS_MAX as usize);
    }
}
