//! One incarnation: the leader, its three pipes and its tree, from launch to the moment the tree is seen empty.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, SystemTime};

use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::{Instant, sleep, timeout_at};

use crate::exit::Exit;
use crate::output::{Line, Splitter};
use crate::platform::{self, Cgroup, Identity, SpawnError, Tree};
use crate::spec::{CommandSpec, Signal, UnitSpec};
use crate::unit::Stream;
use crate::unit::stdin::Stdin;

/// How long leftover output is waited for once the tree is empty: only a process outside the tree that was handed the
/// pipe can keep it open.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// After this long an unkillable process (stuck in the kernel) is worth a note.
const CLEARING_NOTE_AFTER: Duration = Duration::from_secs(5);

/// A running incarnation.
#[derive(Debug)]
pub(crate) struct Live {
    child: Child,
    watch: AsyncFd<OwnedFd>,
    pub(crate) pid: u32,
    pub(crate) started_at: SystemTime,
    pub(crate) tree: Tree,
    pub(crate) stdin: Stdin,
    pub(crate) stdout: OutPipe,
    pub(crate) stderr: OutPipe,
    /// Whom a pause without cgroup has stopped, in that order.
    stopped: Vec<Identity>,
}

/// What clearing found.
#[derive(Debug)]
pub(crate) struct Cleared {
    pub(crate) exit: Exit,
    pub(crate) lines: Vec<(Stream, Line)>,
    pub(crate) notes: Vec<String>,
}

impl Live {
    /// Launches. The second value says why it is not in its cgroup, if it should be.
    pub(crate) fn launch(
        command: &CommandSpec,
        spec: &UnitSpec,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Self, Option<io::Error>), SpawnError> {
        let spawned = platform::spawn(command, &spec.marker, cgroup)?;
        let mut child = spawned.child;
        let pid = child.id();
        let cgroup = if spawned.outside.is_none() { cgroup.cloned() } else { None };
        let tree =
            Tree { leader: Identity::of(pid), cgroup, marker: spec.marker.clone(), reaper: spec.reaper };
        match attach(&mut child, spec.line_bytes_max) {
            Ok((watch, stdin, stdout, stderr)) => {
                let started_at = SystemTime::now();
                let live =
                    Live { child, watch, pid, started_at, tree, stdin, stdout, stderr, stopped: Vec::new() };
                Ok((live, spawned.outside))
            }
            Err(error) => {
                kill_unwatched(&mut child, &tree);
                Err(SpawnError::System { program: command.program.clone(), message: error.to_string() })
            }
        }
    }

    /// Waits until the leader has ended; it is not reaped by this. Cancel-safe.
    pub(crate) async fn leader_exited(&self) {
        // A descriptor the runtime cannot watch any more (it is shutting down) is left to `Drop`.
        if platform::readable(&self.watch).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends a signal to the leader's group.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        platform::signal_group(self.pid, signal)
    }

    /// Freezes the whole tree; on failure everything is thawed again.
    pub(crate) async fn freeze(&mut self) -> io::Result<()> {
        match platform::freeze(&self.tree).await {
            Ok(stopped) => {
                self.stopped = stopped;
                Ok(())
            }
            Err(failed) => {
                self.stopped = failed.stopped;
                self.thaw();
                Err(failed.error)
            }
        }
    }

    /// Thaws the whole tree, frozen or not. Those that had been stopped before the pause stay stopped.
    pub(crate) fn thaw(&mut self) {
        platform::thaw(&self.tree, &std::mem::take(&mut self.stopped));
    }

    /// Kills whatever is left, reaps the leader, waits until the tree is seen empty and drains the pipes.
    ///
    /// Not cancel-safe. Waits as long as the kernel needs to let the last process go: an end is never told of a tree
    /// that may be alive.
    pub(crate) async fn clear(&mut self) -> Cleared {
        let mut notes = Vec::new();
        let exit = self.kill_and_reap(&mut notes).await;
        let lines = self.drain(&mut notes).await;
        Cleared { exit, lines, notes }
    }

    async fn kill_and_reap(&mut self, notes: &mut Vec<String>) -> Exit {
        let began = Instant::now();
        let mut pause = Duration::from_micros(500);
        let mut ended = None;
        // A listing is not atomic. A cgroup knows for sure; without one it takes a second look to believe the first.
        let mut looks_left = if self.tree.cgroup.is_some() { 1 } else { 2 };
        loop {
            if ended.is_none() {
                // While the leader is unreaped its id cannot mean another group.
                let _ = self.signal(Signal::Kill);
            }
            let killed = self.tree.kill_once();
            if ended.is_none() {
                ended = self.reap();
            }
            if let (Some(exit), Ok(0)) = (ended, &killed) {
                looks_left -= 1;
                if looks_left == 0 {
                    // A kill ends a frozen process too, but leaves the group set to freeze the next incarnation.
                    self.thaw();
                    return exit;
                }
                continue;
            }
            if notes.is_empty() && began.elapsed() > CLEARING_NOTE_AFTER {
                let leader = self.pid;
                notes.push(match killed {
                    Ok(alive) => {
                        format!("{alive} processes below process {leader} took long to end once killed")
                    }
                    Err(error) => {
                        format!("the tree of process {leader} could not be listed for a while: {error}")
                    }
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Reaps the leader if it has ended.
    fn reap(&mut self) -> Option<Exit> {
        use std::os::unix::process::ExitStatusExt;
        match self.child.try_wait() {
            Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or_default()),
            }),
            Ok(None) => None,
            // Somebody else reaped it (an ignored SIGCHLD, say): it is gone, but how is lost.
            Err(_) => Some(Exit::Code(1)),
        }
    }

    async fn drain(&mut self, notes: &mut Vec<String>) -> Vec<(Stream, Line)> {
        let deadline = Instant::now() + DRAIN_MAX;
        let mut lines = Vec::new();
        for (stream, pipe) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            while pipe.is_open() && timeout_at(deadline, pipe.readable()).await.is_ok() {
                pipe.read(|line| lines.push((stream, line)));
            }
            if pipe.is_open() {
                notes.push(format!(
                    "a process outside the tree holds {stream:?} open; its output is given up"
                ));
            }
            pipe.close(|line| lines.push((stream, line)));
        }
        lines
    }
}

impl Drop for Live {
    /// The unit's task was dropped half-way (its runtime is shutting down): leave nothing running.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_unwatched(&mut self.child, &self.tree);
        }
    }
}

/// Kills a tree whose end cannot be waited for asynchronously. Blocks for some milliseconds.
fn kill_unwatched(child: &mut Child, tree: &Tree) {
    let _ = platform::signal_group(child.id(), Signal::Kill);
    for _ in 0..UNWATCHED_ROUNDS_MAX {
        if matches!(tree.kill_once(), Ok(0)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Killed, it ends within a moment; not waiting would leave a zombie.
    let _ = child.wait();
}

/// A tree that outlives this many passes is left to the guard.
const UNWATCHED_ROUNDS_MAX: usize = 200;

type Attached = (AsyncFd<OwnedFd>, Stdin, OutPipe, OutPipe);

fn attach(child: &mut Child, line_bytes_max: usize) -> io::Result<Attached> {
    let watch = platform::watch_child(child.id())?;
    let stdin = child.stdin.take().map(|pipe| Sender::from_owned_fd(pipe.into())).transpose()?;
    let stdout = child.stdout.take().map(|pipe| Receiver::from_owned_fd(pipe.into())).transpose()?;
    let stderr = child.stderr.take().map(|pipe| Receiver::from_owned_fd(pipe.into())).transpose()?;
    Ok((watch, Stdin::new(stdin), OutPipe::new(stdout, line_bytes_max), OutPipe::new(stderr, line_bytes_max)))
}

/// One of the two pipes we read.
#[derive(Debug)]
pub(crate) struct OutPipe {
    pipe: Option<Receiver>,
    splitter: Splitter,
}

impl OutPipe {
    fn new(pipe: Option<Receiver>, line_bytes_max: usize) -> Self {
        OutPipe { pipe, splitter: Splitter::new(line_bytes_max) }
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits until a read would give something, the end included. Never, once closed. Cancel-safe.
    pub(crate) async fn readable(&self) {
        match &self.pipe {
            // An error shows again, and is handled, when reading.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Reads once and hands out the lines that are complete.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Line)) {
        let Some(pipe) = &self.pipe else { return };
        match pipe.try_read_buf(self.splitter.room()) {
            Ok(0) => self.close(&mut each),
            Ok(_) => {
                while let Some(line) = self.splitter.next_line() {
                    each(line);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.close(&mut each),
        }
    }

    fn close(&mut self, mut each: impl FnMut(Line)) {
        self.pipe = None;
        if let Some(line) = self.splitter.finish() {
            each(line);
        }
    }
}
