//! What an adapter asks its owner to do; data, so that a test can read it.

use ostler_wire::{AgentEvent, AgentKind, Usage};

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The process's standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// What an agent is busy with while it is active; the wire's free-text `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activity {
    /// A turn runs.
    Working,
    /// It waits for a prompt.
    Idle,
    /// It waits for an answer to a question of its own.
    Waiting,
}

impl Activity {
    /// The wire's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
        }
    }
}

/// One thing to do, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Publish the line that was just read, as it is, on the stream it came from.
    Line,
    /// Publish a typed event.
    Event {
        /// The event.
        event: AgentEvent,
        /// True when the line that was just read travels with it, untouched.
        raw: bool,
    },
    /// Write these bytes to the process's stdin, before any input that waits.
    Write(Vec<u8>),
    /// The process takes input from now on.
    Ready,
    /// A turn began. The events up to the matching [`Effect::TurnEnded`] belong to it.
    TurnStarted {
        /// The input that caused it; `None` when the agent began it by itself.
        input_id: Option<String>,
    },
    /// A turn ended.
    TurnEnded {
        /// The input that caused it; `None` when the agent began it by itself.
        input_id: Option<String>,
        /// True when it failed.
        is_error: bool,
        /// What it used; add it to the run's sum.
        usage: Usage,
    },
    /// The CLI's session has this id now: give it to the next launch.
    Session(String),
    /// The CLI does not know the session it was told to go on with: forget it and start without one, once.
    SessionLost,
    /// What the agent is busy with has changed.
    Activity(Activity),
}

/// Why an agent cannot take an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Raw bytes would break the protocol this kind speaks.
    #[error("a {kind} agent takes prompts, not raw input")]
    RawNotTaken {
        /// The agent's kind.
        kind: AgentKind,
    },
    /// The prompt has no text.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The agent is in the middle of another turn: wait for its end and try again.
    #[error("the turn of input {input_id:?} is still running")]
    TurnRunning {
        /// The input of that turn.
        input_id: String,
    },
}

impl Refusal {
    /// True when the same input may be taken later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TurnRunning { .. })
    }
}
