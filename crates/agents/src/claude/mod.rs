//! Claude Code as one persistent process that speaks stream-json on stdin and stdout.

use ostler_wire::AgentKind;
use serde_json::Value;

use crate::{Adapter, Effect, Launch, LaunchContext, LaunchError, Refusal, Stream};

/// A question of the CLI whether a tool may run.
#[derive(Debug, Clone, Copy)]
pub struct PermissionQuestion<'a> {
    /// The tool's name as the CLI spells it.
    pub tool: &'a str,
    /// Its arguments.
    pub input: &'a Value,
}

/// The answer to a [`PermissionQuestion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermissionAnswer {
    /// It may run.
    Allow {
        /// Why, for the record.
        reason: String,
    },
    /// It may not.
    Deny {
        /// Why; the model reads it.
        reason: String,
    },
}

/// Answers permission questions at once, without waiting for anybody.
pub type Decider = Box<dyn FnMut(PermissionQuestion<'_>) -> PermissionAnswer + Send>;

/// The adapter for Claude Code.
pub struct Claude {
    decider: Decider,
}

impl Claude {
    /// The kind this adapter is for.
    pub const KIND: AgentKind = AgentKind::Claude;

    /// An adapter that denies every permission the CLI asks for.
    pub fn new() -> Self {
        Self::with_decider(Box::new(|_| PermissionAnswer::Deny {
            reason: "no approver is configured".to_owned(),
        }))
    }

    /// An adapter that answers permission questions with `decider`.
    pub fn with_decider(decider: Decider) -> Self {
        Self { decider }
    }
}

impl Default for Claude {
    fn default() -> Self {
        Self::new()
    }
}

impl Adapter for Claude {
    fn launch(&self, _context: &LaunchContext<'_>) -> Result<Launch, LaunchError> {
        Err(LaunchError::NoProgram)
    }

    fn started(&mut self) -> Vec<Effect> {
        Vec::new()
    }

    fn line(&mut self, _stream: Stream, _line: &[u8], _partial: bool) -> Vec<Effect> {
        let _ = (self.decider)(PermissionQuestion { tool: "", input: &Value::Null });
        vec![Effect::Line]
    }

    fn turn(&mut self, _input_id: &str, _text: &str) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::EmptyPrompt)
    }

    fn interrupt(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn raw(&mut self, _bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::RawNotTaken { kind: Self::KIND })
    }

    fn serialises_turns(&self) -> bool {
        true
    }

    fn exited(&mut self) -> Vec<Effect> {
        Vec::new()
    }
}
