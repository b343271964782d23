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
