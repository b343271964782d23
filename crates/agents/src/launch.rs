//! How an agent's process is started and asked to end; nothing here starts anything.

use ostler_wire::SpawnRequest;

/// What a command line is made from.
#[derive(Debug, Clone, Copy)]
pub struct LaunchContext<'a> {
    /// What the person asked for.
    pub spawn: &'a SpawnRequest,
    /// The CLI's session to go on with; `None` starts a new one.
    pub session: Option<&'a str>,
}

/// How to start the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program: a path, or a name to be looked up in `PATH`.
    pub program: String,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Variables to add to the agent's environment. None of them is one the person set in the spawn request.
    pub env: Vec<(String, String)>,
    /// When the process counts as ready.
    pub ready: Readiness,
    /// How it is asked to end, in this order; what is left after the last rung is killed with its whole tree. The waits
    /// together are the grace period of the spawn request.
    pub stop: Vec<StopRung>,
}

/// When a process counts as ready for input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// As soon as it runs.
    AtOnce,
    /// When the adapter returns [`crate::Effect::Ready`]; a process that does not get there in time has failed to start.
    AfterHandshake {
        /// How long that may take, in milliseconds.
        timeout_ms: u64,
    },
}

/// One step on the way to the end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopRung {
    /// What is done.
    pub action: StopAction,
    /// How long the process has, after it, before the next step; in milliseconds.
    pub wait_ms: u64,
}

/// What asks a process to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopAction {
    /// These bytes on its stdin.
    Write(Vec<u8>),
    /// The end of its stdin.
    CloseStdin,
    /// SIGTERM to its process group.
    Terminate,
}

/// Why a spawn request is no command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A plain agent has no program of its own.
    #[error("a plain agent needs a command: give the program and its arguments after `--`")]
    NoProgram,
    /// The argument would take away the protocol the adapter speaks.
    #[error("the argument {argument:?} is not allowed for a claude agent: {reason}")]
    ReservedArgument {
        /// The argument as it was given.
        argument: String,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
    /// The text cannot be an argument or a program's name on any system.
    #[error("the command contains a NUL character in {argument:?}")]
    NulInArgument {
        /// The argument as it was given.
        argument: String,
    },
}

/// Grace period when the spawn request names none, in milliseconds; the wire documents it.
pub(crate) const STOP_GRACE_MS_DEFAULT: u64 = 10_000;

/// The grace period of a spawn request, in milliseconds.
pub(crate) fn stop_grace_ms(spawn: &SpawnRequest) -> u64 {
    spawn.stop_grace_ms.unwrap_or(STOP_GRACE_MS_DEFAULT)
}

/// Refuses what no operating system takes as an argument.
pub(crate) fn check_arguments(arguments: &[String]) -> Result<(), LaunchError> {
    match arguments.iter().find(|argument| argument.contains('\0')) {
        Some(argument) => Err(LaunchError::NulInArgument { argument: argument.clone() }),
        None => Ok(()),
    }
}
