//! Freezing a tree until it is seen frozen, and thawing it.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Cgroup, Identity, Tree, sys};

/// A tree that cannot be frozen in this time is not going to be: something is stuck in the kernel.
const FREEZE_MAX: Duration = Duration::from_secs(2);

/// A freeze that did not work out.
#[derive(Debug)]
pub(crate) struct FreezeFailed {
    pub(crate) error: io::Error,
    /// Whom it had stopped by then.
    pub(crate) stopped: Vec<Identity>,
}

/// Freezes the whole tree and returns whom it stopped by signal, in that order.
///
/// What is in the cgroup is frozen by the kernel, the rest gets SIGSTOP: parents before children, so that no parent
/// runs to see its child stop, pass after pass until one finds nobody new (a process may fork while it is looked for).
pub(crate) async fn freeze(tree: &Tree) -> Result<Vec<Identity>, FreezeFailed> {
    let deadline = Instant::now() + FREEZE_MAX;
    let mut stopped = Vec::new();
    match freeze_all(tree, &mut stopped, deadline).await {
        Ok(()) => Ok(stopped),
        Err(error) => Err(FreezeFailed { error, stopped }),
    }
}

/// Thaws the cgroup and continues who was stopped, the last stopped first: a parent never finds a child of its still
/// stopped.
pub(crate) fn thaw(tree: &Tree, stopped: &[Identity]) {
    for identity in stopped.iter().rev() {
        // One that is gone needs no waking.
        let _ = sys::signal(*identity, Signal::CONT);
    }
    if let Some(cgroup) = &tree.cgroup {
        // Only a removed group refuses, and then nothing is frozen in it.
        let _ = cgroup.freeze(false);
    }
}

async fn freeze_all(tree: &Tree, stopped: &mut Vec<Identity>, deadline: Instant) -> io::Result<()> {
    if let Some(cgroup) = &tree.cgroup {
        cgroup.freeze(true)?;
        poll(deadline, || Ok(cgroup.is_frozen())).await?;
    }
    poll(deadline, || stop_pass(tree, stopped)).await
}

/// Sends SIGSTOP to whoever runs outside the cgroup; returns whether nobody new was found and all have stopped.
fn stop_pass(tree: &Tree, stopped: &mut Vec<Identity>) -> io::Result<bool> {
    let frozen: HashSet<Identity> =
        tree.cgroup.as_ref().map(Cgroup::members).unwrap_or_default().into_iter().collect();
    let running = tree.processes()?.into_iter().filter(|p| !p.is_stopped() && !frozen.contains(&p.identity));
    let mut settled = true;
    for process in running {
        if !stopped.contains(&process.identity) {
            sys::signal(process.identity, Signal::STOP)?;
            stopped.push(process.identity);
            settled = false;
        } else if !process.is_uninterruptible() {
            // Signalled, but not there yet. One waiting in the kernel (for a vfork child that is stopped, say) runs
            // nothing of its own and stops on its way out.
            settled = false;
        }
    }
    Ok(settled)
}

async fn poll(deadline: Instant, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    while !done()? {
        if Instant::now() >= deadline {
            return Err(io::Error::other("some process could not be frozen in time; all go on"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}
