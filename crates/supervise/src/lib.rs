//! Keeps one process tree as its specification says; it knows nothing of agents, buses or files of state.
//!
//! ```no_run
//! use ostler_supervise::guard::{self, GuardOptions};
//! use ostler_supervise::spec::{CommandSpec, UnitSpec};
//! use ostler_supervise::unit::{self, UnitEvent};
//!
//! # fn main() -> std::io::Result<()> {
//! // First thing in `main`, while there is one thread: a guard that clears the tree away if this process is killed.
//! let guard = guard::enter(GuardOptions::default())?;
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! runtime.block_on(async {
//!     let command = CommandSpec {
//!         program: "cat".into(),
//!         args: vec![],
//!         dir: "/".into(),
//!         env: vec![("PATH".into(), "/usr/bin:/bin".into())],
//!     };
//!     let mut spec = UnitSpec::new(command, "run-1");
//!     spec.reaper = Some(guard.identity());
//!     let (handle, mut events) = unit::start(spec);
//!     handle.write(b"hello\n".to_vec()).await.expect("cat reads its stdin");
//!     while let Some(event) = events.recv().await {
//!         if let UnitEvent::Output { .. } = event {
//!             let _ = handle.stop(false).await;
//!         }
//!     }
//! });
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//! [`unit::start`] spawns one task that owns one [`state::Machine`] and at most one live process tree. Requests,
//! timers and facts from the kernel become [`state::Event`]s; the machine answers with [`state::Effect`]s; the task
//! carries them out. Every incarnation ends with its whole tree gone, however its leader ended.
//!
//! What belongs to the tree is found four ways, because agents' tools leave their group, session and parent:
//! ancestry (below the leader; with a [`guard`] below the guard, which adopts orphans), a cgroup v2 directory where
//! one can be made, the marker `OSTLER_RUN=<run>` in the environment, and never a name. Each signal goes through a
//! pidfd or is checked against the start time, so that a reused process id is never hit.
//!
//! Three nets catch the tree when the supervising process itself is killed: the [`guard`] (its parent), the
//! parent-death signal on the leader, and [`platform::sweep`] by marker for whoever starts next.
//!
//! # Known limits
//! - Linux 5.3 or later (pidfds); a kill through the cgroup alone needs 5.14, before that its members are killed one by
//!   one.
//! - Output is lines: a prompt without a line feed is delivered with what follows it, or at the end.
//! - Without a guard and without a cgroup, a process that left its parent **and** cleaned its environment is lost.
//! - A pause without a cgroup is SIGSTOP for each process: a parent outside the tree could notice.
//! - The parent-death signal follows the *thread* that spawned: run the unit on a runtime whose threads live as
//!   long as the process (current-thread, or the workers of a multi-thread one).
//! - macOS has no subreaper and no parent-death signal: what leaves the process group there is found by ancestry
//!   only while its parent lives.

pub mod exit;
pub mod guard;
mod output;
pub mod platform;
pub mod restart;
pub mod spec;
pub mod state;
pub mod unit;
