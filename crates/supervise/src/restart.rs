//! Whether and when to start again after an end nobody asked for: pure functions of history, policy and time.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::exit::Exit;

/// The life after which an incarnation counts as stable, unless the specification says otherwise.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Which ends lead to a new start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// None.
    Never,
    /// Any but exit code 0. The default.
    #[default]
    OnFailure,
    /// Every one, exit code 0 too (which counts for the crash loop as well: a loop of successes burns as much).
    Always,
}

impl RestartPolicy {
    /// Returns the policy's name as [`FromStr`] reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            RestartPolicy::Never => "never",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Always => "always",
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RestartPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

/// A restart policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown restart policy `{0}`: use never, on-failure or always")]
pub struct UnknownPolicy(pub String);

/// How long to wait before the next start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before the first restart. **Default** 500 ms.
    pub initial: Duration,
    /// Never longer than this, jitter apart. **Default** 30 s.
    pub max: Duration,
    /// Each wait is this many times the one before. **Default** 2.
    pub factor: f64,
    /// Up to this share of the wait is added at random, so that many agents hit by one outage do not return in
    /// step. 0 to 0.25. **Default** 0.25.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            factor: 2.0,
            jitter: 0.25,
        }
    }
}

impl Backoff {
    /// Returns the wait before restart number `attempt` (0 = the first); `random_unit` is in `[0, 1)`.
    pub fn delay(&self, attempt: u32, random_unit: f64) -> Duration {
        let max = self.max.as_secs_f64();
        // 64 doublings exceed every duration; the clamp keeps a huge attempt from becoming infinite.
        let grown = self.initial.as_secs_f64() * self.factor.max(1.0).powi(attempt.min(64).cast_signed());
        let jitter = self.jitter.clamp(0.0, 0.25) * random_unit.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(grown.min(max) * (1.0 + jitter)).unwrap_or(self.max)
    }
}

/// When restarting is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashLoop {
    /// This many restarts inside the window are allowed; the next end is final. **Default** 5.
    pub restarts_max: u32,
    /// **Default** 60 s.
    pub window: Duration,
}

impl Default for CrashLoop {
    fn default() -> Self {
        CrashLoop { restarts_max: 5, window: Duration::from_secs(60) }
    }
}

/// All restart rules of a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Which ends lead to a new start.
    pub policy: RestartPolicy,
    /// How long to wait.
    pub backoff: Backoff,
    /// When to give up.
    pub crash_loop: CrashLoop,
    /// An incarnation that lived this long wipes the history. **Default** 10 s.
    pub stable_after: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            policy: RestartPolicy::default(),
            backoff: Backoff::default(),
            crash_loop: CrashLoop::default(),
            stable_after: STABLE_AFTER,
        }
    }
}

/// The ends that still count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Restarts in a row without a stable incarnation.
    attempt: u32,
    /// When restarts were decided, oldest first; never longer than `restarts_max`.
    recent: VecDeque<Instant>,
}

/// What to do after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start again after this wait.
    RestartAfter(Duration),
    /// It succeeded and is not wanted again.
    Done,
    /// It failed and is not wanted again.
    Failed,
    /// It failed too often.
    CrashLoop {
        /// Restarts made inside the window.
        restarts: u32,
        /// The window.
        window: Duration,
    },
}

/// Decides what follows an end that nobody asked for and notes it in the history.
///
/// `exit` is `None` when no process came to be, which counts as a failure. `random_unit` in `[0, 1)` feeds the
/// jitter.
pub fn decide(
    history: &mut History,
    rules: &Rules,
    exit: Option<Exit>,
    uptime: Duration,
    now: Instant,
    random_unit: f64,
) -> Decision {
    let success = exit.is_some_and(Exit::is_success);
    match (rules.policy, success) {
        (RestartPolicy::Never | RestartPolicy::OnFailure, true) => return Decision::Done,
        (RestartPolicy::Never, false) => return Decision::Failed,
        (RestartPolicy::OnFailure, false) | (RestartPolicy::Always, _) => {}
    }
    if uptime >= rules.stable_after {
        *history = History::default();
    }
    let window = rules.crash_loop.window;
    history.recent.retain(|at| now.saturating_duration_since(*at) < window);
    let restarts = u32::try_from(history.recent.len()).unwrap_or(u32::MAX);
    if restarts >= rules.crash_loop.restarts_max {
        return Decision::CrashLoop { restarts, window };
    }
    let delay = rules.backoff.delay(history.attempt, random_unit);
    history.attempt = history.attempt.saturating_add(1);
    history.recent.push_back(now);
    Decision::RestartAfter(delay)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILURE: Option<Exit> = Some(Exit::Code(1));
    const SUCCESS: Option<Exit> = Some(Exit::Code(0));

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let waits: Vec<u128> = (0..8).map(|attempt| backoff.delay(attempt, 0.9).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn a_success_is_final_unless_the_policy_is_always() {
        assert_eq!(first(RestartPolicy::Never, SUCCESS), Decision::Done);
        assert_eq!(first(RestartPolicy::OnFailure, SUCCESS), Decision::Done);
        assert_eq!(first(RestartPolicy::Always, SUCCESS), Decision::RestartAfter(Duration::from_millis(500)));
    }

    #[test]
    fn a_failure_is_final_only_with_the_policy_never() {
        assert_eq!(first(RestartPolicy::Never, FAILURE), Decision::Failed);
        for policy in [RestartPolicy::OnFailure, RestartPolicy::Always] {
            for exit in [FAILURE, Some(Exit::Signal(9)), None] {
                assert_eq!(first(policy, exit), Decision::RestartAfter(Duration::from_millis(500)));
            }
        }
    }

    #[test]
    fn the_end_after_the_last_allowed_restart_is_a_crash_loop() {
        let mut history = History::default();
        let now = Instant::now();
        for _ in 0..5 {
            let decision =
                decide(&mut history, &rules(RestartPolicy::Always), SUCCESS, Duration::ZERO, now, 0.0);
            assert!(matches!(decision, Decision::RestartAfter(_)));
        }
        let decision = decide(&mut history, &rules(RestartPolicy::Always), SUCCESS, Duration::ZERO, now, 0.0);
        assert_eq!(decision, Decision::CrashLoop { restarts: 5, window: Duration::from_secs(60) });
    }

    #[test]
    fn ends_outside_the_window_do_not_count() {
        let mut history = History::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            now += Duration::from_secs(13);
            let decision =
                decide(&mut history, &rules(RestartPolicy::OnFailure), FAILURE, Duration::ZERO, now, 0.0);
            assert!(matches!(decision, Decision::RestartAfter(_)), "four ends a minute are allowed");
        }
    }

    #[test]
    fn a_stable_life_wipes_the_history() {
        let mut history = History::default();
        let now = Instant::now();
        let rules = rules(RestartPolicy::OnFailure);
        for _ in 0..5 {
            decide(&mut history, &rules, FAILURE, Duration::ZERO, now, 0.0);
        }
        let decision = decide(&mut history, &rules, FAILURE, STABLE_AFTER, now, 0.0);
        assert_eq!(decision, Decision::RestartAfter(Duration::from_millis(500)));
    }

    #[test]
    fn names_read_back_and_unknown_ones_are_told_apart() {
        for policy in [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always] {
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        let error = "sometimes".parse::<RestartPolicy>().expect_err("no such policy");
        assert_eq!(error.to_string(), "unknown restart policy `sometimes`: use never, on-failure or always");
    }

    proptest! {
        #[test]
        fn a_wait_stays_between_its_bounds(attempt: u32, random_unit in 0.0..1.0f64, factor in 0.0..100.0f64) {
            let backoff = Backoff { factor, ..Backoff::default() };
            let wait = backoff.delay(attempt, random_unit);
            prop_assert!(wait >= backoff.initial && wait <= backoff.max.mul_f64(1.25));
        }

        /// However ends fall, never more than the allowed restarts lie within one window.
        #[test]
        fn no_window_holds_more_restarts_than_allowed(gaps in prop::collection::vec(0u64..30, 1..80)) {
            let (mut history, mut now, mut granted) = (History::default(), Instant::now(), Vec::new());
            for gap in gaps {
                now += Duration::from_secs(gap);
                let decision = decide(&mut history, &rules(RestartPolicy::Always), SUCCESS, Duration::ZERO, now, 0.5);
                if matches!(decision, Decision::RestartAfter(_)) {
                    granted.push(now);
                }
                let recent = granted.iter().filter(|at| now - **at < Duration::from_secs(60)).count();
                prop_assert!(recent <= 5);
            }
        }
    }

    fn first(policy: RestartPolicy, exit: Option<Exit>) -> Decision {
        decide(&mut History::default(), &rules(policy), exit, Duration::ZERO, Instant::now(), 0.0)
    }

    fn rules(policy: RestartPolicy) -> Rules {
        Rules { policy, ..Rules::default() }
    }
}
