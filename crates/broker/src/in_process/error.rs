//! What can go wrong on a connection inside this process.

use std::time::Duration;

/// Why something did not work on an in-process connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InProcessError {
    /// The server did not take the connection: wrong credential, too many connections, shutting down.
    #[error("the server refused the connection: {0}")]
    Refused(String),
    /// The connection ended; the server's last words, if it had any. Connect again.
    #[error("the connection is closed{}", said(.0))]
    Closed(Option<String>),
    /// White space in a subject, a filter or a queue group would be read as something else.
    #[error("{0:?} cannot be a subject: it must not be empty and holds no white space")]
    Subject(String),
    /// The message is larger than the server takes. Send less, or raise `max_payload`.
    #[error("{len} bytes of headers and payload are more than max_payload ({max} bytes)")]
    TooLarge {
        /// What was to be sent.
        len: usize,
        /// What the server takes.
        max: usize,
    },
    /// The server has more to read than it may; wait and try again.
    #[error("the server has too much to read from this connection already")]
    Full,
    /// Nobody listens to the subject of a request.
    #[error("nobody listens to {0:?}")]
    NoResponders(String),
    /// No answer came. The request may have been executed all the same.
    #[error("no answer to {subject:?} within {after:?}")]
    Timeout {
        /// The subject of the request.
        subject: String,
        /// How long was waited.
        after: Duration,
    },
    /// The secret is not the seed of a user nkey.
    #[error("this is not the seed of a user nkey (58 characters that begin with SU)")]
    Seed,
    /// The permissions of a trusted identity are not what they should be.
    #[error("the trusted identity cannot be: {0}")]
    Identity(#[from] crate::InvalidIdentity),
}

impl InProcessError {
    /// Whether trying the same again later may help, without changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::NoResponders(_) | Self::Timeout { .. })
    }
}

fn said(words: &Option<String>) -> String {
    words.as_deref().map(|words| format!("; the server said: {words}")).unwrap_or_default()
}
