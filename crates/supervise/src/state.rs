//! The life of a run as a pure state machine: events in, effects out, no clock, no process, no randomness.
//!
//! ```text
//!               Spawned            Ready                 Frozen
//!   Waiting ------------> Warming --------> Active ---------------> Paused
//!   ^  |  (Ready::OnSpawn: straight to Active) |  <-----------------  |
//!   |  |                    |                  |         Thawed       |
//!   |  | Stop, Kill         | Stop, Restart, Kill, LeaderExited, Due  |
//!   |  v                    v                  v                      v
//!   | Terminated          Stopping: Ladder step 0, 1, ... --> Clearing (whole tree killed, pipes drained)
//!   |                                                           | Emptied
//!   +-------- restart wanted -----------------------------------+----> Terminated | Error
//! ```
//!
//! `Waiting` and `Warming` are both *starting* to the outside. The happy path is Waiting, Active, Stopping,
//! Terminated. Failures: a leader that ends by itself is cleared and the restart rules decide (Waiting again,
//! Terminated or Error); a program that cannot be started is an Error at once the first time, because waiting does
//! not repair a typing mistake, and a failed attempt later, because a file may be missing for a moment during an
//! upgrade. Nothing leaves `Terminated` and `Error`.
//!
//! A request already granted is accepted and ignored (an empty list of effects); one no longer possible is refused
//! with its reason.

mod machine;

use std::fmt;
use std::time::{Duration, Instant};

pub use machine::Machine;

use crate::exit::{Cause, Exit};
use crate::platform::SpawnError;

/// Where a run is in its life, to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateName {
    /// Not yet active: about to be launched, waiting out a backoff, or not told ready yet.
    Starting,
    /// Running.
    Active,
    /// Frozen.
    Paused,
    /// Asked to end, or ended and its tree is being cleared away.
    Stopping,
    /// Over, as somebody wanted it.
    Terminated,
    /// Over, as nobody wanted it.
    Error,
}

impl StateName {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            StateName::Starting => "starting",
            StateName::Active => "active",
            StateName::Paused => "paused",
            StateName::Stopping => "stopping",
            StateName::Terminated => "terminated",
            StateName::Error => "error",
        }
    }

    /// Returns whether nothing can follow.
    pub fn is_final(self) -> bool {
        matches!(self, StateName::Terminated | StateName::Error)
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A live leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its process id, also its process group.
    pub pid: u32,
    /// When it was spawned.
    pub since: Instant,
}

/// What comes after the tree is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The end; somebody asked for it (`Killed` = without grace).
    Stop {
        /// Whether the grace was skipped or cut short.
        killed: bool,
    },
    /// A new start at once; somebody asked for it.
    Restart,
    /// What the restart rules say.
    Decide {
        /// Whether the end came because it was not ready in time.
        not_ready: bool,
    },
}

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This step of the ladder was taken; the next follows at `until`.
    Ladder {
        /// Index into the ladder.
        index: usize,
        /// When its wait is over.
        until: Instant,
    },
    /// The tree is being killed and its pipes drained.
    Clearing,
}

/// Where a run is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// To be launched at `until`: at once, or after a backoff.
    Waiting {
        /// When.
        until: Instant,
    },
    /// Launched, to be told ready by `until`.
    Warming {
        /// The leader.
        run: Running,
        /// When it counts as failed.
        until: Instant,
    },
    /// At work.
    Active {
        /// The leader.
        run: Running,
    },
    /// Frozen.
    Paused {
        /// The leader.
        run: Running,
    },
    /// On its way out.
    Stopping {
        /// The leader.
        run: Running,
        /// How far.
        step: Step,
        /// What comes then.
        then: Then,
    },
    /// Over, as wanted.
    Terminated {
        /// How the last incarnation ended, if there was one.
        exit: Option<Exit>,
        /// Why.
        cause: Cause,
    },
    /// Over, as not wanted.
    Error {
        /// How the last incarnation ended, if there was one.
        exit: Option<Exit>,
        /// Why.
        reason: Cause,
    },
}

impl State {
    /// Returns the state's outside name.
    pub fn name(&self) -> StateName {
        match self {
            State::Waiting { .. } | State::Warming { .. } => StateName::Starting,
            State::Active { .. } => StateName::Active,
            State::Paused { .. } => StateName::Paused,
            State::Stopping { .. } => StateName::Stopping,
            State::Terminated { .. } => StateName::Terminated,
            State::Error { .. } => StateName::Error,
        }
    }

    /// Returns the live leader, if there is one.
    pub fn running(&self) -> Option<Running> {
        match self {
            State::Warming { run, .. }
            | State::Active { run }
            | State::Paused { run }
            | State::Stopping { run, .. } => Some(*run),
            State::Waiting { .. } | State::Terminated { .. } | State::Error { .. } => None,
        }
    }
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// End by the stop ladder, then no new start.
    Stop,
    /// End at once, then no new start.
    Kill,
    /// Freeze the whole tree.
    Pause,
    /// Thaw it.
    Resume,
    /// End by the stop ladder, then start; while waiting out a backoff: start at once.
    Restart,
    /// It is ready.
    Ready,
}

impl Request {
    /// Returns the verb.
    pub fn as_str(self) -> &'static str {
        match self {
            Request::Stop => "stop",
            Request::Kill => "kill",
            Request::Pause => "pause",
            Request::Resume => "resume",
            Request::Restart => "restart",
            Request::Ready => "ready",
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants something.
    Request(Request),
    /// [`Machine::deadline`] has passed.
    Due,
    /// [`Effect::Launch`] worked.
    Spawned {
        /// The leader.
        pid: u32,
    },
    /// [`Effect::Launch`] did not work.
    SpawnFailed {
        /// Why.
        error: SpawnError,
        /// In `[0, 1)`, for the jitter.
        random_unit: f64,
    },
    /// [`Effect::Freeze`] worked.
    Frozen,
    /// [`Effect::Thaw`] worked.
    Thawed,
    /// The leader was seen to have ended by itself.
    LeaderExited,
    /// [`Effect::Clear`] is done: leader reaped, tree empty, pipes drained.
    Emptied {
        /// How the leader ended.
        exit: Exit,
        /// In `[0, 1)`, for the jitter.
        random_unit: f64,
    },
}

impl Event {
    /// Returns a short name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Event::Request(request) => request.as_str(),
            Event::Due => "due",
            Event::Spawned { .. } => "spawned",
            Event::SpawnFailed { .. } => "spawn-failed",
            Event::Frozen => "frozen",
            Event::Thawed => "thawed",
            Event::LeaderExited => "leader-exited",
            Event::Emptied { .. } => "emptied",
        }
    }
}

/// What the loop must do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start an incarnation; answer `Spawned` or `SpawnFailed`.
    Launch,
    /// Freeze the tree; answer `Frozen`, or nothing if it cannot be done.
    Freeze,
    /// Thaw the tree so that it can be talked to; answer `Thawed`.
    Thaw,
    /// Take this step of the stop ladder.
    Take(usize),
    /// Kill whatever is left of the tree, wait until it is empty, drain the pipes; answer `Emptied`.
    Clear,
    /// Tell the outside how an incarnation ended.
    AnnounceExit {
        /// How.
        exit: Exit,
        /// How long it lived.
        uptime: Duration,
    },
    /// Tell the outside about the new state.
    Announce,
    /// Nothing will run again.
    End,
}

/// A request, or a fact, that does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{request} refused while {state}: {reason}")]
pub struct Refusal {
    /// What was asked, or what was said to have happened.
    pub request: &'static str,
    /// The state it met.
    pub state: StateName,
    /// Why it cannot be, and what can.
    pub reason: String,
}

/// Why nothing can be asked of a run that is over.
pub(crate) const OVER: &str = "the run is over; start a new one";
