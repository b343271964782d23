//! What the engine needs done by the machine it runs on: starting hosts, finding them again, clearing up after them.
//!
//! The daemon implements it; the engine's tests do too. Every method may block for some milliseconds and is called on
//! a blocking thread, except [`Node::check`] and
//! [`Node::rss_bytes`].

use ostler_wire::{AgentId, ErrorReply, HostRecord, OutputMessage, RunId, SpawnRequest};

/// What a host is to be started for.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchPlan {
    /// The agent.
    pub agent_id: AgentId,
    /// The new run.
    pub run_id: RunId,
    /// How the agent is to be run.
    pub spawn: SpawnRequest,
    /// True when the first prompt was given to an earlier run, if it was given at all.
    pub prompted: bool,
}

/// What is left of a run whose host ended.
#[derive(Debug, Clone, PartialEq)]
pub struct HostGone {
    /// The agent.
    pub agent_id: AgentId,
    /// The run.
    pub run_id: RunId,
    /// The host's last words; absent when it had none.
    pub record: Option<HostRecord>,
    /// Output that was not acknowledged when it ended, in order.
    pub spool: Vec<OutputMessage>,
}

/// What was found of a run of an earlier daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Adoption {
    /// Its host runs, and is watched from here on.
    Alive(Box<HostRecord>),
    /// It is gone, and nothing of its process tree is left.
    Gone(Box<HostGone>),
}

/// Something the machine reports by itself.
#[derive(Debug)]
pub enum Notice {
    /// A watched host ended; its process tree is gone.
    HostGone(Box<HostGone>),
}

/// The machine.
pub trait Node: Send + Sync + 'static {
    /// Whether the program and the directory of a request exist; a few system calls, never blocking for long.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    fn check(&self, spawn: &SpawnRequest) -> Result<(), ErrorReply>;

    /// Gives the agent its credentials, starts its host and watches it.
    ///
    /// # Errors
    ///
    /// The reason, ready to be shown; nothing is left running.
    fn launch(&self, plan: &LaunchPlan) -> Result<(), ErrorReply>;

    /// Looks for the host of an earlier daemon's run: watches it when it lives, clears up behind it when not.
    fn adopt(&self, agent: &AgentId, run: RunId) -> Adoption;

    /// The resident memory of this process, in bytes; 0 where it cannot be read.
    fn rss_bytes(&self) -> u64;

    /// Takes the agent's credentials back and deletes its directory.
    fn forget(&self, agent: &AgentId);
}
