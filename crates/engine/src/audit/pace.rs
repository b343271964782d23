//! How much of one agent's doing is told: so much that nothing of an honest one is left out, and so little that a mad one
//! cannot drive everybody's history out of the stream, which has a size.

use ostler_wire::Timestamp;

/// Entries about one agent of one [`Source`] in a minute. Of what is recorded as an event only launches and states of a
/// live agent count: ends and alerts are bounded by what processes can do.
const MINUTE_MAX: u32 = 600;
const MINUTE_MS: i64 = 60_000;

/// Where an entry about an agent comes from. Each has a number of its own: what an agent does as often as it likes must
/// not leave out what others do to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// What others ask of it.
    Others,
    /// What it asks of itself, or nobody knows who.
    Itself,
    /// Its hooks and questions.
    Hooks,
    /// What its CLI tells.
    Tools,
    /// Its launches and the states it goes through.
    States,
}

/// The pace of one agent.
#[derive(Debug, Default)]
pub(crate) struct Pace([Minute; 5]);

/// What came from one source.
#[derive(Debug, Default)]
struct Minute {
    /// When it began; absent while nothing was told.
    since: Option<Timestamp>,
    told: u32,
    left_out: u64,
}

impl Pace {
    /// Whether one more is told at `now`.
    pub(super) fn admits(&mut self, source: Source, now: Timestamp) -> bool {
        self.0[source as usize].admits(now)
    }

    /// What was left out in minutes that are over, once.
    pub(super) fn take_left_out(&mut self, now: Timestamp) -> u64 {
        self.0.iter_mut().filter(|minute| minute.is_over(now)).map(Minute::take_left_out).sum()
    }

    /// What was left out and not told, as nobody asks again.
    pub(super) fn take_rest(&mut self) -> u64 {
        self.0.iter_mut().map(Minute::take_left_out).sum()
    }
}

impl Minute {
    fn admits(&mut self, now: Timestamp) -> bool {
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

    fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
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
        let told = (0..1000).filter(|ms| pace.admits(Source::Hooks, at(*ms))).count();
        assert_eq!(told, MINUTE_MAX as usize);
        assert!(pace.admits(Source::Others, at(1000)), "a number of its own");
        assert_eq!(pace.take_left_out(at(2000)), 0, "the minute is not over");
        assert_eq!(pace.take_left_out(at(MINUTE_MS)), 400);
        assert_eq!(pace.take_left_out(at(MINUTE_MS)), 0);
        assert!(pace.admits(Source::Hooks, at(MINUTE_MS)));
        assert!(pace.admits(Source::Hooks, at(0)), "a clock that was set back begins a new minute");
        let left_out = (0..1000).filter(|ms| !pace.admits(Source::Tools, at(*ms))).count();
        assert_eq!(pace.take_rest(), left_out as u64);
    }
}
