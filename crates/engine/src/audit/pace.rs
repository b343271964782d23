//! How much of one agent's doing is told: so much that nothing of an honest one is left out, and so little that a mad one
//! cannot drive everybody's history out of the stream, which has a size.

use ostler_wire::Timestamp;

/// Entries of one agent's commands, tool calls and hooks in a minute. What is recorded as an event does not count: it is
/// bounded by what processes can do.
const MINUTE_MAX: u32 = 600;
const MINUTE_MS: i64 = 60_000;

/// The pace of one agent.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the minute began; absent while nothing was told.
    since: Option<Timestamp>,
    told: u32,
    left_out: u64,
}

impl Pace {
    /// Whether one more is told at `now`.
    pub(super) fn admits(&mut self, now: Timestamp) -> bool {
        if self.is_over(now) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told < MINUTE_MAX {
            self.told += 1;
            return true;
        }
        self.left_out += 1;
        false
    }

    /// What was left out in a minute that is over, once.
    pub(super) fn take_left_out(&mut self, now: Timestamp) -> Option<u64> {
        (self.left_out > 0 && self.is_over(now)).then(|| std::mem::take(&mut self.left_out))
    }

    fn is_over(&self, now: Timestamp) -> bool {
        // Also when the clock was set back: waiting for it to come round again would leave out for hours.
        self.since
            .is_none_or(|since| !(0..MINUTE_MS).contains(&(now.as_millisecond() - since.as_millisecond())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_its_number_and_the_rest_is_counted() {
        let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
        let mut pace = Pace::default();
        let told = (0..1000).filter(|ms| pace.admits(at(*ms))).count();
        assert_eq!(told, MINUTE_MAX as usize);
        assert_eq!(pace.take_left_out(at(2000)), None, "the minute is not over");
        assert_eq!(pace.take_left_out(at(MINUTE_MS)), Some(400));
        assert_eq!(pace.take_left_out(at(MINUTE_MS)), None);
        assert!(pace.admits(at(MINUTE_MS)));
        assert!(pace.admits(at(0)), "a clock that was set back begins a new minute");
    }
}
