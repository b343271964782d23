//! How a process ended and why a run is over: plain values, no policy.

use std::fmt;
use std::time::Duration;

use crate::platform::SpawnError;

/// How the leader of a process tree ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It called `exit` with this code, 0 to 255.
    Code(i32),
    /// This signal ended it (number as in `kill -l`).
    Signal(i32),
}

impl Exit {
    /// Returns whether the process ended with code 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }

    /// Returns the exit code, if it ended by itself.
    pub fn code(self) -> Option<i32> {
        match self {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        }
    }

    /// Returns the signal number, if a signal ended it.
    pub fn signal(self) -> Option<i32> {
        match self {
            Exit::Code(_) => None,
            Exit::Signal(signal) => Some(signal),
        }
    }

    /// Returns the code a shell would report: the exit code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Why a run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked for a stop.
    Requested,
    /// Somebody asked for a kill, or for a stop without grace.
    Killed,
    /// The process ended by itself and the restart policy wants no new one.
    OwnExit,
    /// It kept ending: the next restart would have been one too many inside the window.
    CrashLoop {
        /// Restarts made inside the window.
        restarts: u32,
        /// The window they were counted in.
        window: Duration,
    },
    /// It was started but not told ready in time.
    NotReady {
        /// How long it was given.
        timeout: Duration,
    },
    /// It could not be started at all.
    SpawnFailed(SpawnError),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Requested => f.write_str("stopped on request"),
            Cause::Killed => f.write_str("killed on request"),
            Cause::OwnExit => f.write_str("ended by itself"),
            Cause::CrashLoop { restarts, window } => {
                write!(f, "crash loop: {restarts} restarts within {} s", window.as_secs_f64())
            }
            Cause::NotReady { timeout } => write!(f, "not ready within {} s", timeout.as_secs_f64()),
            Cause::SpawnFailed(error) => error.fmt(f),
        }
    }
}
