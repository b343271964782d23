//! The one shape of every refusal.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The answer to every request that was refused.
///
/// Shape: `{"error":{"code":"unknown_agent","message":"…","hint":"…"}}`. A client tells it from a success by the
/// presence of `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorReply {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong, for a program (`code`) and for a person (`message`, `hint`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
pub struct ErrorBody {
    /// The stable name of the fault.
    pub code: ErrorCode,
    /// The object and the reason, one sentence without a full stop.
    pub message: String,
    /// The next step, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The stable names of faults. New ones may be added: treat an unknown one as [`ErrorCode::Internal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The payload is not JSON.
    InvalidJson,
    /// The payload is JSON of the wrong shape.
    InvalidMessage,
    /// An id breaks the rule.
    InvalidId,
    /// No agent of that name exists.
    UnknownAgent,
    /// An agent of that name exists already.
    DuplicateAgent,
    /// The agent's state does not allow the request.
    IllegalState,
    /// The agent has no running process.
    NotRunning,
    /// The program to run does not exist or may not be executed.
    MissingProgram,
    /// The working directory does not exist.
    MissingDirectory,
    /// The payload is larger than allowed.
    TooLarge,
    /// A bounded queue is full; try again later.
    QueueFull,
    /// The credential does not permit it.
    Denied,
    /// The thing asked of did not answer in time.
    Timeout,
    /// The disk is full or cannot be written.
    StorageFailed,
    /// The agent's kind cannot do this.
    Unsupported,
    /// A fault of ours; the daemon's log says more.
    #[serde(other)]
    Internal,
}

impl ErrorReply {
    /// A refusal without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { error: ErrorBody { code, message: message.into(), hint: None } }
    }

    /// The same refusal with the next step for the person.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }
}

impl From<ErrorBody> for ErrorReply {
    fn from(error: ErrorBody) -> Self {
        Self { error }
    }
}

/// Reads a payload as `T`, or says which of the two faults it has and where.
///
/// # Errors
///
/// [`ErrorCode::InvalidJson`] when the bytes are no JSON, [`ErrorCode::InvalidMessage`] when the shape is wrong; the
/// reply names `what` and the position, and is ready to be sent.
pub fn read_json<'a, T: Deserialize<'a>>(what: &str, payload: &'a [u8]) -> Result<T, ErrorReply> {
    let refuse = |code, reason: String| {
        ErrorReply::new(code, format!("{what} cannot be read: {reason}"))
            .hint("docs/protocol.md describes every message; schemas/ has its JSON Schema")
    };
    // Derived readers also take an array of a message's fields in order, which nobody means to send.
    if payload.trim_ascii_start().starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        return Err(refuse(ErrorCode::InvalidMessage, "an array, expected an object".to_owned()));
    }
    serde_json::from_slice(payload).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => refuse(ErrorCode::InvalidMessage, error.to_string()),
        _ => refuse(ErrorCode::InvalidJson, error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_json_and_wrong_shape_are_told_apart() {
        let broken = read_json::<ErrorReply>("the reply", b"{\"error\":").unwrap_err();
        assert_eq!(broken.error.code, ErrorCode::InvalidJson);
        let wrong = read_json::<ErrorReply>("the reply", b"{\"error\":7}").unwrap_err();
        assert_eq!(wrong.error.code, ErrorCode::InvalidMessage);
        assert!(wrong.error.message.contains("column"), "{}", wrong.error.message);
    }

    #[test]
    fn a_code_of_a_newer_version_reads_as_internal() {
        let reply: ErrorReply =
            serde_json::from_str(r#"{"error":{"code":"moon_phase","message":"m","extra":1}}"#).unwrap();
        assert_eq!(reply.error.code, ErrorCode::Internal);
    }
}
