//! How fast a consumer may push: bytes come in steadily up to the size of the largest message, and go out with messages.
//! It knows no clock.

use crate::time::SECOND;

/// The largest message of a stream that does not say: a broker's default.
const BURST: u64 = 1 << 20;

/// Bytes that may be pushed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    left: u64,
    at: i64,
}

/// What a rate is limited to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    bytes_per_second: u64,
    burst: u64,
}

impl Limit {
    /// Bits a second, for messages of at most so many bytes; `None` when there is no limit.
    pub(super) fn new(bits_per_second: u64, max_msg_size: i64) -> Option<Self> {
        let burst = u64::try_from(max_msg_size).ok().filter(|size| *size > 0).unwrap_or(BURST);
        (bits_per_second > 0).then_some(Self { bytes_per_second: (bits_per_second / 8).max(1), burst })
    }

    fn nanos(self, bytes: u64) -> i64 {
        let nanos = u128::from(bytes) * SECOND as u128 / u128::from(self.bytes_per_second);
        i64::try_from(nanos).unwrap_or(i64::MAX)
    }
}

impl Rate {
    /// As much as may be at once.
    pub(super) fn new(now: i64) -> Self {
        Self { left: u64::MAX, at: now }
    }

    /// How many bytes may go now; any message when there are as many as there can be.
    pub(super) fn room(&mut self, limit: Limit, now: i64) -> u64 {
        let passed = now.saturating_sub(self.at).max(0) as u128;
        let gained = passed * u128::from(limit.bytes_per_second) / SECOND as u128;
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(gained).min(limit.burst);
        // What is not a whole byte yet counts next time.
        self.at = self.at.saturating_add(limit.nanos(gained)).min(now);
        if self.left == limit.burst { u64::MAX } else { self.left }
    }

    /// A message went.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// When a message that had no room has it.
    pub(super) fn ready_at(&self, bytes: u64, limit: Limit) -> i64 {
        let missing = bytes.min(limit.burst).saturating_sub(self.left);
        // A nanosecond more than the whole bytes take.
        self.at.saturating_add(limit.nanos(missing)).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let limit = Limit::new(16_000, 1000).unwrap();
        let (mut rate, mut now, mut sent) = (Rate::new(0), 0, Vec::new());
        while sent.len() < 5 {
            if rate.room(limit, now) >= 440 {
                rate.spend(440);
                sent.push(now);
            } else {
                now = rate.ready_at(440, limit);
            }
        }
        let millis: Vec<i64> = sent.iter().map(|at| at / 1_000_000).collect();
        assert_eq!(millis, [0, 0, 160, 380, 600]);
    }

    #[test]
    fn a_message_larger_than_the_burst_goes_when_nothing_went_for_long_enough() {
        let limit = Limit::new(8_000, 100).unwrap();
        let mut rate = Rate::new(0);
        assert_eq!(rate.room(limit, 0), u64::MAX);
        rate.spend(5000);
        assert_eq!(rate.room(limit, 0), 0);
        let ready = rate.ready_at(5000, limit);
        assert_eq!(rate.room(limit, ready), u64::MAX);
        assert!(Limit::new(0, 100).is_none());
    }
}
