//! How each agent CLI is launched, spoken to and read; it starts no process and does no I/O itself.
//!
//! An [`Adapter`] is a translator between one program and the bus. Its owner (the host) feeds it the lines the program
//! writes and performs the [`Effect`]s that come back; for a prompt it asks for the bytes to write to the program's
//! stdin. There is no clock, no randomness and no async in here: the same bytes always give the same effects, so a
//! recorded session is a test.
//!
//! ```
//! use ostler_agents::{Effect, LaunchContext, Stream, adapter};
//! use ostler_wire::{AgentKind, SpawnRequest};
//!
//! let spawn = SpawnRequest { command: vec!["cat".into()], ..SpawnRequest::default() };
//! let mut adapter = adapter(AgentKind::Plain);
//! let launch = adapter.launch(&LaunchContext { spawn: &spawn, session: None })?;
//! assert_eq!(launch.program, "cat");
//! assert_eq!(adapter.started(), []);
//! assert_eq!(adapter.turn("input-1", "hello")?, b"hello\n");
//! assert_eq!(adapter.line(Stream::Stdout, b"hello", false), [Effect::Line]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The life of an adapter
//!
//! One adapter serves one run of an agent, through all restarts of its process:
//!
//! ```text
//! launch  the program's command line, for every start of the process (with the session to go on with)
//! started the process runs: forget the half-read state of the last one, perhaps greet it
//! line    zero or more times, as the lines come; exactly one effect of each call carries the line
//! turn, interrupt, raw   the bytes to write; a refusal says why there are none
//! exited  the process is gone: what was under way has failed
//! ```
//!
//! # Known limits
//!
//! * A line longer than the host's limit arrives in pieces; an adapter that must parse it joins them up to 32 MiB and
//!   says so when it has to give up.
#![forbid(unsafe_code)]

mod claude;
mod effect;
mod launch;
mod plain;

use ostler_wire::AgentKind;

pub use claude::{Claude, Decider, PermissionAnswer, PermissionQuestion, TESTED_VERSION};
pub use effect::{Activity, Effect, Refusal, Stream};
pub use launch::{Launch, LaunchContext, LaunchError, Readiness, StopAction, StopRung};
pub use plain::Plain;

/// The translator between one agent CLI and the bus. See the crate's documentation for the order of calls.
pub trait Adapter: Send {
    /// Says how the process is started; asked before every start.
    ///
    /// # Errors
    ///
    /// [`LaunchError`] when the request cannot become a command line; the same request will fail again.
    fn launch(&self, context: &LaunchContext<'_>) -> Result<Launch, LaunchError>;

    /// A new process runs. Its predecessor's half-read lines and open questions are forgotten.
    fn started(&mut self) -> Vec<Effect>;

    /// Reads one line, without its line feed. `partial` is true for a piece of a line that goes on in the next call for
    /// the same stream.
    ///
    /// Exactly one of the returned effects carries the line to the bus: [`Effect::Line`], or an [`Effect::Event`] with
    /// `raw`.
    fn line(&mut self, stream: Stream, line: &[u8], partial: bool) -> Vec<Effect>;

    /// The bytes that put one prompt before the agent. Once they are written, the turn is under way until
    /// [`Effect::TurnEnded`], if [`Adapter::serialises_turns`].
    ///
    /// # Errors
    ///
    /// [`Refusal`] says why the agent cannot take it; nothing was changed.
    fn turn(&mut self, input_id: &str, text: &str) -> Result<Vec<u8>, Refusal>;

    /// The bytes that break off the running turn; `None` when this kind of agent has no such request.
    fn interrupt(&mut self) -> Option<Vec<u8>>;

    /// The bytes to write for raw input.
    ///
    /// # Errors
    ///
    /// [`Refusal::RawNotTaken`] for every kind but plain.
    fn raw(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Refusal>;

    /// True when the next turn may only be given once [`Effect::TurnEnded`] has come for the last.
    fn serialises_turns(&self) -> bool;

    /// The process is gone and all its lines were read. A turn that was under way ends as failed; to say so on the bus
    /// is the owner's part, who knows whether the process was asked to end.
    fn exited(&mut self) -> Vec<Effect>;
}

/// The adapter for a kind of agent, with its default policy: what needs a person's permission is denied.
pub fn adapter(kind: AgentKind) -> Box<dyn Adapter> {
    match kind {
        AgentKind::Plain => Box::new(Plain),
        AgentKind::Claude => Box::new(Claude::new()),
    }
}
