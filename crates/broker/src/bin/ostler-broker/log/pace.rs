//! How often the same warning is written: clients can cause warnings as fast as they connect. Pure.

use std::time::{Duration, Instant};

/// How many of one kind are written in a second.
const LINES_MAX: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// The count of one kind of warning.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the second began in which `written` were written.
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// What becomes of a warning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Write,
    /// So many were left out, which is to be told first.
    WriteAfter {
        left_out: u64,
    },
    /// It is the last one of this second.
    LastOne,
    LeaveOut,
}

impl Pace {
    pub(super) fn judge(&mut self, now: Instant) -> Verdict {
        let is_over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND);
        if is_over {
            (self.since, self.written) = (Some(now), 1);
            return match std::mem::take(&mut self.left_out) {
                0 => Verdict::Write,
                left_out => Verdict::WriteAfter { left_out },
            };
        }
        if self.written == LINES_MAX {
            self.left_out += 1;
            return Verdict::LeaveOut;
        }
        self.written += 1;
        if self.written == LINES_MAX { Verdict::LastOne } else { Verdict::Write }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let verdicts: Vec<Verdict> = (0..100).map(|_| pace.judge(start)).collect();
        let (written, rest) = verdicts.split_at(LINES_MAX as usize);
        let (last, before) = written.split_last().unwrap();
        assert!(before.iter().all(|verdict| *verdict == Verdict::Write) && *last == Verdict::LastOne);
        assert!(rest.iter().all(|verdict| *verdict == Verdict::LeaveOut));
        assert_eq!(pace.judge(start + SECOND), Verdict::WriteAfter { left_out: 80 });
        assert_eq!(pace.judge(start + SECOND), Verdict::Write);
    }

    #[test]
    fn what_comes_slowly_is_all_written() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for tenth in 0..1000 {
            assert_eq!(pace.judge(start + SECOND * tenth / 10), Verdict::Write);
        }
    }
}
