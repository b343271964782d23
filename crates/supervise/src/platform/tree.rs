//! The processes of one run: how they are found and signalled, all of them or none of anybody else.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::process::Signal;

use super::{Cgroup, Identity, Process, sys};
use crate::spec::MARKER_VARIABLE;

/// What is known of one run's processes, enough to find all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The process everything started from.
    pub leader: Option<Identity>,
    /// The directory they were put in.
    pub cgroup: Option<Cgroup>,
    /// The value of `OSTLER_RUN` in their environment.
    pub marker: String,
    /// The guard above this process; everything below it but this process belongs to the run.
    pub reaper: Option<Identity>,
}

impl Tree {
    /// Returns the live processes of the run, parents before children. Never this process or its guard.
    ///
    /// A listing of a moving tree is never exact: repeat until nothing new is found.
    ///
    /// # Errors
    /// When processes cannot be listed (no `/proc`, out of file descriptors).
    pub fn members(&self) -> io::Result<Vec<Identity>> {
        Ok(self.processes()?.into_iter().map(|process| process.identity).collect())
    }

    pub(crate) fn processes(&self) -> io::Result<Vec<Process>> {
        let all = self.listing()?;
        let inside = self.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        let variable = format!("{MARKER_VARIABLE}={}", self.marker).into_bytes();
        // Below a guard ancestry finds everything, so neither the rest of the machine nor the environments need be read.
        let guarded = self.guard_above(&all).is_some();
        let marked = |process: &Process| {
            !guarded && !self.marker.is_empty() && sys::has_variable(process.identity.pid, &variable)
        };
        Ok(self.select(&all, &inside, marked))
    }

    /// Lists the processes among which the run's are: below a guard only its family, which is a small part of a busy
    /// machine.
    fn listing(&self) -> io::Result<Vec<Process>> {
        if let Some(guard) = self.reaper
            && guard.pid == std::os::unix::process::parent_id()
            && let Some(family) = sys::family(guard.pid)?
        {
            return Ok(family);
        }
        sys::processes()
    }

    /// Picks the run's processes out of a listing.
    fn select(
        &self,
        all: &[Process],
        inside: &[Identity],
        marked: impl Fn(&Process) -> bool,
    ) -> Vec<Process> {
        let own = std::process::id();
        let mut children: HashMap<u32, Vec<&Process>> = HashMap::new();
        for process in all {
            children.entry(process.parent).or_default().push(process);
        }
        let guard = self.guard_above(all);
        let excluded = |pid: u32| pid == own || guard.is_some_and(|guard| guard.pid == pid);
        let inside: HashSet<Identity> = inside.iter().copied().collect();
        let mut level: Vec<&Process> = all
            .iter()
            .filter(|process| {
                Some(process.identity) == self.leader
                    || guard.is_some_and(|guard| process.parent == guard.pid || process.parent == own)
                    || inside.contains(&process.identity)
                    || (!process.is_dead() && marked(process))
            })
            .filter(|process| !excluded(process.identity.pid))
            .collect();
        let mut seen: HashSet<u32> = level.iter().map(|process| process.identity.pid).collect();
        let mut found = Vec::new();
        // Breadth first: parents come before their children, so a stop reaches a parent before it can react.
        while !level.is_empty() {
            let next: Vec<&Process> = level
                .iter()
                .flat_map(|process| children.get(&process.identity.pid).into_iter().flatten().copied())
                .filter(|child| !excluded(child.identity.pid) && seen.insert(child.identity.pid))
                .collect();
            found.extend(level.iter().copied().filter(|process| !process.is_dead()).copied());
            level = next;
        }
        found
    }

    /// Returns the guard if it still is our parent: only then do its descendants belong to us.
    fn guard_above(&self, all: &[Process]) -> Option<Identity> {
        let guard = self.reaper?;
        let own = std::process::id();
        let is_parent = all.iter().any(|process| process.identity.pid == own && process.parent == guard.pid);
        let is_alive = all.iter().any(|process| process.identity == guard && !process.is_dead());
        (is_parent && is_alive).then_some(guard)
    }

    /// Sends SIGKILL to everything once and returns how many were alive.
    pub(crate) fn kill_once(&self) -> io::Result<usize> {
        let mut alive = 0;
        if let Some(cgroup) = &self.cgroup {
            alive += usize::from(!cgroup.is_empty());
            // What the kernel could not reach this way is reached one by one below.
            let _ = cgroup.kill();
        }
        let listed = self.members()?;
        alive += listed.len();
        for identity in listed {
            let _ = sys::signal(identity, Signal::KILL);
        }
        Ok(alive)
    }
}

/// Kills every process that carries `OSTLER_RUN=<marker>` in its environment, and everything below those, until none
/// is left or `rounds_max` passes have been made; returns who was killed. For whoever cleans up after a supervisor
/// and its guard were killed together.
///
/// Processes of other users are not seen. An empty marker matches nothing. Blocks for some milliseconds.
///
/// # Errors
/// When processes cannot be listed.
pub fn sweep(marker: &str) -> io::Result<Vec<u32>> {
    let tree = Tree { leader: None, cgroup: None, marker: marker.to_owned(), reaper: None };
    let mut killed = Vec::new();
    for _ in 0..SWEEP_ROUNDS_MAX {
        let alive = tree.members()?;
        if alive.is_empty() {
            break;
        }
        for identity in alive {
            sys::signal(identity, Signal::KILL)?;
            if !killed.contains(&identity.pid) {
                killed.push(identity.pid);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(killed)
}

/// A tree that forks faster than this many passes kill is left to the caller.
const SWEEP_ROUNDS_MAX: usize = 2000;
