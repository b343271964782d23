//! A guard's duties towards its children: reaping, passing SIGTERM on, killing everything below.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use super::{Process, sys};
use crate::exit::Exit;

/// Reaps whoever has ended; returns how `child` ended once it is among them.
pub(crate) fn reap(child: u32) -> Option<Exit> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if same(pid, child) => return Some(exit_of(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return None,
            // No child at all: it was reaped by somebody else, which only a bug can do.
            Err(_) => return Some(Exit::Code(1)),
        }
    }
}

/// Passes SIGTERM on to a child that has not been reaped.
pub(crate) fn terminate_child(child: u32) {
    if let Some(pid) = sys::raw_pid(child) {
        // Ended already: then there is nobody to tell.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Sends SIGKILL to everything below this process and reaps; returns `true` once nothing is left.
///
/// With orphans adopted ([`sys::adopt_orphans`]) the kernel's "no child" is the proof: everything below us has a chain
/// of parents that ends here.
pub(crate) fn kill_descendants() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return true,
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let own = std::process::id();
    let family = match sys::family(own) {
        Ok(Some(family)) => family,
        // A failed look is repeated by the caller.
        _ => below(own, sys::processes().unwrap_or_default()),
    };
    for process in family.iter().filter(|process| process.identity.pid != own && !process.is_dead()) {
        // Gone or not ours to signal: the next round will tell.
        let _ = sys::signal(process.identity, Signal::KILL);
    }
    false
}

/// Waits for the end of a pipe nobody writes to.
pub(crate) async fn end_of_file(pipe: &OwnedFd) {
    use tokio::net::unix::pipe::Receiver;
    let watched = pipe.as_fd().try_clone_to_owned().and_then(Receiver::from_owned_fd);
    // A pipe that cannot be watched is taken for a lost one: the caller then errs towards cleaning up.
    let Ok(watched) = watched else { return };
    let mut byte = [0];
    while watched.readable().await.is_ok() {
        match watched.try_read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Picks a process and everything below it out of a listing.
fn below(top: u32, all: Vec<Process>) -> Vec<Process> {
    let parents: HashMap<u32, u32> =
        all.iter().map(|process| (process.identity.pid, process.parent)).collect();
    let descends = |process: &Process| {
        // A chain of parents longer than the listing is a circle, which only reused ids can make.
        std::iter::successors(Some(process.identity.pid), |pid| parents.get(pid).copied())
            .take(parents.len() + 1)
            .any(|pid| pid == top)
    };
    all.iter().copied().filter(descends).collect()
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}

fn same(pid: Pid, child: u32) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()) == Ok(child)
}
