//! How a command ends: the stable exit codes, and the failure that picks one, says what is wrong and what to do.

use ostler_client::Error as BusError;
use ostler_wire::{ErrorBody, ErrorCode, InvalidId};
use serde::Serialize;

/// The part of `ostler --help` that documents the codes; [`Exit`] is their definition.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done
  1  the operation failed
  2  the command line is wrong
  3  no daemon runs for this state directory
  4  no agent of that name
  5  refused: wrong state, name taken, not permitted
  6  not done in time
  7  the configuration is wrong
  8  bad input: a missing program or directory, a bad name
  9  the audit is not intact
  `ostler run` ends with the agent's own code, or 128 + the signal that ended it.";

/// The stable exit codes of every verb but `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The operation failed; the message says why.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon runs for this state directory.
    NoDaemon = 3,
    /// No agent of that name exists.
    UnknownAgent = 4,
    /// The daemon or the agent's host said no.
    Refused = 5,
    /// It was not done in time; it may still happen.
    Timeout = 6,
    /// The configuration is wrong.
    BadConfig = 7,
    /// Something the person named does not exist or breaks a rule.
    BadInput = 8,
    /// The audit was changed, or parts of it are gone.
    Broken = 9,
}

/// The name of the fault that there is no audit.
const NO_AUDIT: &str = "no_audit";

/// A command that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The fault's name for programs.
    code: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// The JSON form of a failure on standard error: the shape of an `ErrorReply`, with the codes of this side added.
#[derive(Serialize)]
struct FailureDocument<'a> {
    error: FailureBody<'a>,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Failure {
    /// A failure without a hint, named after its exit code.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let code = match exit {
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::NoDaemon => "no_daemon",
            Exit::UnknownAgent => "unknown_agent",
            Exit::Refused => "refused",
            Exit::Timeout => "timeout",
            Exit::BadConfig => "bad_config",
            Exit::BadInput => "bad_input",
            Exit::Broken => "audit_broken",
        };
        Self { exit, code: code.to_owned(), message: message.into(), hint: None }
    }

    /// There is no audit to read.
    pub(crate) fn no_audit(message: impl Into<String>) -> Self {
        Self { code: NO_AUDIT.to_owned(), ..Self::new(Exit::Failed, message) }
    }

    /// True when there is no audit to read; there may be one later.
    pub(crate) fn is_unreadable_audit(&self) -> bool {
        self.code == NO_AUDIT
    }

    /// The same failure with the next step.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// True when there may be an answer once the daemon is back.
    pub(crate) fn is_daemon_away(&self) -> bool {
        matches!(self.exit, Exit::NoDaemon | Exit::Timeout)
    }

    /// The operation failed for a reason of the operating system.
    pub(crate) fn io(operation: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Exit::Failed, format!("{operation}: {error}"))
    }

    /// One JSON line in the shape of an `ErrorReply`.
    pub(crate) fn to_json(&self) -> String {
        let body = FailureBody { code: &self.code, message: &self.message, hint: self.hint.as_deref() };
        serde_json::to_string(&FailureDocument { error: body }).expect("three texts always serialise")
    }
}

/// What a command returns: nothing more to say, or why not.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// The refusal's code picks the exit code; its words are passed on.
impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let exit = match body.code {
            ErrorCode::UnknownAgent => Exit::UnknownAgent,
            ErrorCode::DuplicateAgent
            | ErrorCode::IllegalState
            | ErrorCode::NotRunning
            | ErrorCode::QueueFull
            | ErrorCode::Denied
            | ErrorCode::Unsupported => Exit::Refused,
            ErrorCode::InvalidJson
            | ErrorCode::InvalidMessage
            | ErrorCode::InvalidId
            | ErrorCode::MissingProgram
            | ErrorCode::MissingDirectory
            | ErrorCode::TooLarge => Exit::BadInput,
            ErrorCode::Timeout => Exit::Timeout,
            ErrorCode::StorageFailed | ErrorCode::Internal => Exit::Failed,
        };
        // The wire's own name of the code is the stable one for programs.
        let code = serde_json::to_value(body.code).ok().and_then(|value| value.as_str().map(str::to_owned));
        let code = code.unwrap_or_else(|| "internal".to_owned());
        Self { exit, code, message: body.message, hint: body.hint }
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        let message = error.to_string();
        match error {
            BusError::Reply(body) => body.into(),
            BusError::NoEndpoint(_) => Self::new(Exit::NoDaemon, message).hint(START_HINT),
            BusError::Unreachable { .. } | BusError::Closed(_) => Self::new(Exit::NoDaemon, message)
                .hint(format!("the daemon is gone or starting; {START_HINT}")),
            BusError::BadEndpoint { .. } => Self::new(Exit::NoDaemon, message)
                .hint("restart the daemon; it writes the file anew: ostler up"),
            BusError::NoResponders { .. } => Self::new(Exit::NoDaemon, message)
                .hint(format!("the daemon is starting or ending; {START_HINT}")),
            BusError::Key(_) => Self::new(Exit::Refused, message)
                .hint("the daemon makes its credential at the first start; check --state-dir"),
            BusError::Refused { .. } => Self::new(Exit::Refused, message)
                .hint("the credential in the state directory is not this daemon's; check --state-dir"),
            BusError::Timeout { .. } => Self::new(Exit::Timeout, message)
                .hint("it may still happen: look with `ostler ps`; `ostler doctor` checks the daemon"),
            BusError::TooLarge { .. } => Self::new(Exit::BadInput, message)
                .hint("send it in parts, or put it into a file and name the file to the agent"),
            BusError::BadReply { .. } => Self::new(Exit::Failed, message)
                .hint("the daemon and this command are of different versions? compare with: ostler doctor"),
            _ => Self::new(Exit::Failed, message),
        }
    }
}

impl From<InvalidId> for Failure {
    fn from(error: InvalidId) -> Self {
        Self::new(Exit::BadInput, error.to_string())
    }
}

/// How to start a daemon, as every verb that needs one says it.
pub(crate) const START_HINT: &str = "start one with: ostler up -d";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_words_and_picks_the_exit_code() {
        let body = ErrorBody {
            code: ErrorCode::DuplicateAgent,
            message: "agent `a` exists already".into(),
            hint: Some("choose another name".into()),
        };
        let failure = Failure::from(body);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.to_json(),
            r#"{"error":{"code":"duplicate_agent","message":"agent `a` exists already","hint":"choose another name"}}"#
        );
    }

    #[test]
    fn a_missing_daemon_says_how_to_start_one() {
        let failure = Failure::from(BusError::NoEndpoint("/s/daemon.json".into()));
        assert_eq!(failure.exit, Exit::NoDaemon);
        assert_eq!(failure.hint.as_deref(), Some("start one with: ostler up -d"));
        assert!(failure.to_json().contains("\"no_daemon\""));
    }

    #[test]
    fn every_exit_code_is_in_the_help_and_in_the_guide() {
        let guide = include_str!("../../../docs/guide/command-line.md");
        for line in EXIT_CODES_HELP.lines().filter(|line| line.starts_with("  ") && !line.contains('`')) {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            assert!(guide.contains(&format!("| {code} | {meaning} |")), "{line}");
        }
        for exit in [
            Exit::Failed,
            Exit::Usage,
            Exit::NoDaemon,
            Exit::UnknownAgent,
            Exit::Refused,
            Exit::Timeout,
            Exit::BadConfig,
            Exit::BadInput,
            Exit::Broken,
        ] {
            assert!(EXIT_CODES_HELP.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
