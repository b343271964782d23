//! Everything that touches the operating system's processes, and the only place with `unsafe`: spawning, finding and
//! signalling trees, freezing, measuring. It decides nothing about when.
//!
//! Processes are named by [`Identity`] (process id **and** start time); a signal goes out through a pidfd opened and
//! checked against both, so a reused id is never hit.

mod cgroup;
mod detach;
mod fork;
mod freeze;
mod lock;
mod reap;
mod spawn;
mod tree;
mod watch;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as sys;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
use macos as sys;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use cgroup::{Cgroup, cgroup_parent};
pub use detach::{reap_orphans, spawn_detached};
pub(crate) use fork::{Fork, Waiting, become_guard, fork_with_signals_held};
pub(crate) use freeze::{freeze, thaw};
pub use lock::{FileLock, LockError, lock_file};
pub(crate) use reap::{end_of_file, kill_descendants, reap, terminate_child};
pub(crate) use spawn::{signal_group, spawn};
pub use sys::adopt_orphans;
pub(crate) use sys::watch_child;
pub use tree::{Tree, sweep};
pub(crate) use watch::readable;

/// A process that cannot be confused with a later one of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When the kernel started it, in the system's own unit since boot (Linux: clock ticks). Only good for
    /// comparing.
    pub start_time: u64,
}

impl Identity {
    /// Returns the identity of a live process.
    pub fn of(pid: u32) -> Option<Self> {
        process_identity(pid).map(|start_time| Identity { pid, start_time })
    }

    /// Returns the identity of this process.
    ///
    /// # Errors
    /// When the system does not tell (no `/proc`).
    pub fn own() -> io::Result<Self> {
        let own = std::process::id();
        Identity::of(own).ok_or_else(|| {
            io::Error::other("the system does not tell our own start time (is /proc mounted?)")
        })
    }

    /// Returns whether that very process still runs (a zombie does not).
    pub fn is_alive(self) -> bool {
        sys::process(self.pid).is_some_and(|found| found.identity == self && !found.is_dead())
    }
}

/// One process as the system lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pub(crate) parent: u32,
    /// The letter `ps` shows.
    pub(crate) state: u8,
    /// Own processor time and that of its reaped children.
    pub(crate) cpu_time: Duration,
    pub(crate) rss_bytes: u64,
}

impl Process {
    /// Ended and not reaped yet.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Stopped by a signal or a debugger.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// Waiting in the kernel where no signal reaches it.
    pub(crate) fn is_uninterruptible(&self) -> bool {
        self.state == b'D'
    }
}

/// What a set of processes uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Processor time, user and system, of the processes and of their children that have ended and been reaped.
    pub cpu_time: Duration,
    /// Resident memory in bytes, summed: pages shared between processes count once for each.
    pub rss_bytes: u64,
    /// How many processes.
    pub process_count: usize,
}

/// Measures a set of processes; those that are gone count as nothing.
pub fn facts(processes: &[Identity]) -> Facts {
    let mut facts = Facts::default();
    let found = processes
        .iter()
        .filter_map(|identity| sys::process(identity.pid).filter(|p| p.identity == *identity));
    for process in found.filter(|process| !process.is_dead()) {
        facts.cpu_time += process.cpu_time;
        facts.rss_bytes += process.rss_bytes;
        facts.process_count += 1;
    }
    facts
}

/// Returns the start time of a process (a zombie included), or `None` if there is none with this id.
pub fn process_identity(pid: u32) -> Option<u64> {
    sys::process(pid).map(|process| process.identity.start_time)
}

/// Waits until a process, not necessarily a child, has ended; at once if it has already, or if the id belongs to
/// another process by now.
///
/// Cancel-safe.
///
/// # Errors
/// When the system cannot watch it (out of file descriptors, say).
pub async fn pidfd_exited(pid: u32, start_time: u64) -> io::Result<()> {
    sys::exited(Identity { pid, start_time }).await
}

/// Why a program could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// There is no such program.
    #[error("program `{}` not found: check the name, or give the full path (looked in PATH={path})", program.display())]
    ProgramNotFound {
        /// As specified.
        program: PathBuf,
        /// Where it was looked for.
        path: String,
    },
    /// There is such a file, but it cannot be run.
    #[error("program `{}` cannot be run: {message}; check that it is executable", program.display())]
    NotExecutable {
        /// As specified.
        program: PathBuf,
        /// What the system says.
        message: String,
    },
    /// The directory to start in is not there.
    #[error("directory `{}` does not exist or is no directory: create it or name another", dir.display())]
    DirMissing {
        /// As specified.
        dir: PathBuf,
    },
    /// The system could not do it at the moment.
    #[error("could not start `{}`: {message}", program.display())]
    System {
        /// As specified.
        program: PathBuf,
        /// What the system says.
        message: String,
    },
}

impl SpawnError {
    /// Returns whether trying again later may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, SpawnError::System { .. })
    }
}

/// Ends one process at once; does nothing when it has ended, also when its id is somebody else's by now.
///
/// # Errors
/// When it is not ours to end.
pub fn kill(process: Identity) -> io::Result<()> {
    sys::signal(process, rustix::process::Signal::KILL)
}

/// Asks one process to end, with SIGTERM; does nothing when it has ended, also when its id is somebody else's by now.
///
/// # Errors
/// When it is not ours to ask.
pub fn ask_to_end(process: Identity) -> io::Result<()> {
    sys::signal(process, rustix::process::Signal::TERM)
}
