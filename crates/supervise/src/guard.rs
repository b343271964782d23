//! A small parent that outlives its child by one task: when the child ends, however it ends, everything left below it
//! is killed. It reads no messages and keeps no state.
//!
//! ```text
//!   guard (the old process)      adopts orphans, waits, clears away
//!     `- host (the new process)  returns from `enter` and does the work
//!          `- agent ...          its tools, in sessions of their own or not
//! ```
//!
//! Happy path: the host ends, the guard finds nothing, removes the run's cgroup and ends with the host's status.
//! Failures: the host is killed, then the guard kills the rest until the kernel says it has no child left (orphans
//! become its children, so "no child" means "nobody"). The guard is killed, then [`GuardHandle::lost`] tells the host,
//! which kills the tree itself and ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::platform::{self, Cgroup, Fork, Identity, Waiting};

/// What the guard needs to know to clear away.
#[derive(Debug, Clone, Default)]
pub struct GuardOptions {
    /// The run's cgroup directory, the same as in [`UnitSpec::cgroup`](crate::spec::UnitSpec::cgroup); killed and
    /// removed at the end. It need not exist.
    pub cgroup: Option<PathBuf>,
}

/// The host's view of its guard. Dropping it changes nothing: the guard stays.
#[derive(Debug)]
pub struct GuardHandle {
    identity: Identity,
    alive: OwnedFd,
}

impl GuardHandle {
    /// Returns who the guard is: the value for [`UnitSpec::reaper`](crate::spec::UnitSpec::reaper).
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Waits until the guard is gone. Nobody would clean up after us then: kill the tree and end.
    ///
    /// Cancel-safe.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub async fn lost(&self) {
        platform::end_of_file(&self.alive).await;
    }
}

/// Splits this process in two: the parent becomes the guard and **never returns**, the child returns from here.
///
/// Call it first thing in `main`, before any thread and any runtime. SIGTERM sent to the guard is passed on to the host;
/// what a terminal sends (SIGHUP, SIGINT, SIGQUIT, SIGTSTP) is ignored by the guard. The guard ends with the host's exit
/// code, or 128 plus the signal that ended it.
///
/// # Errors
/// When other threads run already, or the system is out of processes or file descriptors.
pub fn enter(options: GuardOptions) -> io::Result<GuardHandle> {
    let (alive, held_by_guard) = io::pipe()?;
    platform::adopt_orphans()?;
    let identity = Identity::own()?;
    match platform::fork_with_signals_held()? {
        Fork::Child => {
            drop(held_by_guard);
            Ok(GuardHandle { identity, alive: alive.into() })
        }
        Fork::Parent { child } => {
            drop(alive);
            platform::become_guard();
            let code = guard(child, options.cgroup.as_deref().map(Cgroup::existing).as_ref());
            // `held_by_guard` lives until here: its end is what tells the host.
            drop(held_by_guard);
            std::process::exit(code);
        }
    }
}

/// Waits for the host's end, then clears away. Returns the exit code.
fn guard(host: u32, cgroup: Option<&Cgroup>) -> i32 {
    let code = loop {
        if let Some(exit) = platform::reap(host) {
            break exit.shell_code();
        }
        match Waiting::next() {
            Waiting::Child => {}
            Waiting::Terminate => platform::terminate_child(host),
        }
    };
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(cgroup) = cgroup {
            // What it cannot reach is reached through its parentage below.
            let _ = cgroup.kill();
        }
        if platform::kill_descendants() {
            break;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    if let Some(cgroup) = cgroup {
        // A process that entered it from outside keeps it; that is not ours to end.
        let _ = cgroup.remove();
    }
    code
}
