//! The time that JetStream is told: the wall clock's, but one that never goes back, because deadlines are told by it too.
//! Reads no clock itself.

use std::time::{Duration, Instant};

/// When the wall clock was set back, time goes slower by this part until the two agree. Deadlines come that much later.
const SLOWER: u32 = 10;
/// A clock that was set back by this much is worth a word.
const TOLD: Duration = Duration::from_secs(1);

/// Nanoseconds since 1970, looked at once per batch. Messages of one batch are a nanosecond apart, so that none has the
/// time of another.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: Option<(Instant, i64)>,
    is_ahead: bool,
}

impl Clock {
    /// The time of a batch that began at `batch`, where `wall` reads the wall clock.
    pub(super) fn now(&mut self, batch: Instant, wall: impl FnOnce() -> i64) -> i64 {
        let nanos = match self.last {
            Some((last, nanos)) if last == batch => nanos + 1,
            Some((last, nanos)) => {
                let passed = batch.saturating_duration_since(last);
                self.follow(wall(), nanos, passed).max(nanos + 1)
            }
            None => wall(),
        };
        self.last = Some((batch, nanos));
        nanos
    }

    /// Forward at once, back slowly.
    fn follow(&mut self, wall: i64, nanos: i64, passed: Duration) -> i64 {
        let nanos_of = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let steady = nanos.saturating_add(nanos_of(passed));
        let ahead = steady.saturating_sub(wall);
        if ahead > nanos_of(TOLD) && !self.is_ahead {
            tracing::warn!(
                seconds = ahead / 1_000_000_000,
                "the wall clock was set back; times of messages follow it slowly, a restart takes it over"
            );
        }
        self.is_ahead = ahead > nanos_of(TOLD);
        if ahead <= 0 { wall } else { steady - ahead.min(nanos_of(passed / SLOWER)) }
    }

    /// How long it is from `instant` until `nanos`; nothing when that is past.
    pub(super) fn until(&self, nanos: i64, instant: Instant) -> Duration {
        let Some((last, now)) = self.last else { return Duration::ZERO };
        let from_last = Duration::from_nanos(u64::try_from(nanos.saturating_sub(now)).unwrap_or(0));
        from_last.saturating_sub(instant.saturating_duration_since(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const STEP: Duration = Duration::from_secs(1);

    #[test]
    fn messages_of_a_batch_have_times_of_their_own() {
        let (mut clock, batch) = (Clock::default(), Instant::now());
        let times = [10, 20, 30].map(|wall| clock.now(batch, || wall));
        assert_eq!(times, [10, 11, 12]);
        let later = clock.now(batch + Duration::from_nanos(2), || 12);
        assert_eq!(later, 14, "what passed since");
    }

    #[test]
    fn it_follows_the_wall_clock_forward_at_once() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        assert_eq!(clock.now(start, || SECOND), SECOND);
        assert_eq!(clock.now(start + STEP, || 100 * SECOND), 100 * SECOND);
    }

    #[test]
    fn it_follows_the_wall_clock_back_slowly_and_deadlines_come() {
        let (mut clock, mut at) = (Clock::default(), Instant::now());
        let mut wall = 1000 * SECOND;
        let mut last = clock.now(at, || wall);
        let deadline = last + 30 * SECOND;
        wall -= 60 * SECOND;
        let mut passed = 0;
        while last > wall {
            (at, wall, passed) = (at + STEP, wall + SECOND, passed + 1);
            let now = clock.now(at, || wall);
            assert!(now > last && now - last <= SECOND, "{now} after {last}");
            assert!(passed < 34 || now >= deadline, "{now} after {passed} s");
            last = now;
        }
        assert!((600..=601).contains(&passed), "{passed} s until they agree");
    }

    #[test]
    fn it_tells_how_long_it_is() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        clock.now(start, || 5 * SECOND);
        assert_eq!(clock.until(8 * SECOND, start + STEP), 2 * STEP);
        assert_eq!(clock.until(4 * SECOND, start), Duration::ZERO);
        assert_eq!(clock.until(8 * SECOND, start + 9 * STEP), Duration::ZERO);
    }
}
