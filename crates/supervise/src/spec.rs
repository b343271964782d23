//! What to run and how to treat it: the specification of a unit. It holds no state and starts nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::platform::Identity;
use crate::restart::{Backoff, CrashLoop, RestartPolicy, Rules, STABLE_AFTER};

/// Name of the environment variable that marks every process of a run: `OSTLER_RUN=<marker>`.
pub const MARKER_VARIABLE: &str = "OSTLER_RUN";

/// The longest line that is delivered whole, in bytes: 8 MiB, the size of the largest message elsewhere.
pub const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSpec {
    /// The program: a path, or a name looked up in the `PATH` of [`CommandSpec::env`].
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// The directory it starts in; must exist.
    pub dir: PathBuf,
    /// The **whole** environment: nothing of our own is inherited. The marker variable is added at start.
    pub env: Vec<(OsString, OsString)>,
}

/// A signal a stop ladder may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGHUP.
    Hup,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Term,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGKILL.
    Kill,
}

/// One polite way of asking a process to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopStep {
    /// Write these bytes to its stdin (after a message already being written).
    Write(Vec<u8>),
    /// Close its stdin (after a message already being written).
    CloseStdin,
    /// Send a signal to the leader's process group.
    Signal(Signal),
}

/// How a unit is asked to end. After the last step, and whenever the leader has ended, the whole tree is killed.
///
/// **Default**: SIGTERM, then 10 s of grace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The steps, each with the time to wait after it. Empty = kill at once.
    pub ladder: Vec<(StopStep, Duration)>,
}

impl Default for Stop {
    fn default() -> Self {
        Stop { ladder: vec![(StopStep::Signal(Signal::Term), Duration::from_secs(10))] }
    }
}

/// When a started process counts as active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ready {
    /// As soon as it runs. The default; suits programs without a readiness sign.
    #[default]
    OnSpawn,
    /// When [`Handle::ready`](crate::unit::Handle::ready) is called. Not told in time = a failed start: the tree
    /// is killed and the restart policy decides.
    WhenTold {
        /// How long to wait.
        timeout: Duration,
    },
}

/// Everything a unit needs to know.
#[derive(Debug, Clone)]
pub struct UnitSpec {
    /// What to run.
    pub command: CommandSpec,
    /// Whether to start again after an end nobody asked for. **Default** `OnFailure`.
    pub restart: RestartPolicy,
    /// How long to wait before starting again.
    pub backoff: Backoff,
    /// When to give up starting again.
    pub crash_loop: CrashLoop,
    /// An incarnation that lived this long counts as stable: its end starts backoff and crash-loop counting
    /// afresh. **Default** 10 s.
    pub stable_after: Duration,
    /// How to ask for an end.
    pub stop: Stop,
    /// When it counts as active.
    pub ready: Ready,
    /// A cgroup v2 directory to create for this run (its parent must exist and be writable), removed at the end.
    /// When it cannot be used the unit says so in a [`UnitEvent::Note`](crate::unit::UnitEvent::Note) and goes on
    /// without. **Default** `None`. [`platform::cgroup_parent`](crate::platform::cgroup_parent) finds a parent.
    pub cgroup: Option<PathBuf>,
    /// The run's id; every process of the tree carries `OSTLER_RUN=<marker>` unless it drops it on purpose.
    pub marker: String,
    /// The guard above this process ([`GuardHandle::identity`](crate::guard::GuardHandle::identity)), when there
    /// is one. All its descendants except this process then belong to this unit, so even a process that left its
    /// session, its parent, its cgroup and its environment is found: **at most one unit per guarded process**, and
    /// that process starts no other children. **Default** `None`.
    pub reaper: Option<Identity>,
    /// Longest line delivered whole, in bytes; longer ones come in pieces flagged `partial`. **Default**
    /// [`LINE_BYTES_MAX`].
    pub line_bytes_max: usize,
}

impl UnitSpec {
    /// Builds a specification with every default.
    pub fn new(command: CommandSpec, marker: impl Into<String>) -> Self {
        UnitSpec {
            command,
            restart: RestartPolicy::default(),
            backoff: Backoff::default(),
            crash_loop: CrashLoop::default(),
            stable_after: STABLE_AFTER,
            stop: Stop::default(),
            ready: Ready::default(),
            cgroup: None,
            marker: marker.into(),
            reaper: None,
            line_bytes_max: LINE_BYTES_MAX,
        }
    }

    /// Returns the restart rules on their own.
    pub fn rules(&self) -> Rules {
        Rules {
            policy: self.restart,
            backoff: self.backoff,
            crash_loop: self.crash_loop,
            stable_after: self.stable_after,
        }
    }
}
