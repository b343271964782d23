//! What can go wrong on the bus, cut by what the caller can do about it.

use std::path::PathBuf;

use ostler_wire::{ErrorBody, ErrorCode};

/// A fault of a bus operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No daemon has left its address: start one.
    #[error("no daemon runs for this state directory: {} does not exist", .0.display())]
    NoEndpoint(PathBuf),
    /// The file with the daemon's address cannot be read.
    #[error("the daemon's address in {} cannot be read: {reason}", .path.display())]
    BadEndpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The credential cannot be used: check the file.
    #[error(transparent)]
    Key(#[from] crate::KeyError),
    /// Nobody listens at the address: the daemon is gone, or starting.
    #[error("the bus at {url} cannot be reached: {reason}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// Why.
        reason: String,
    },
    /// The bus refused the credential: it is not, or no longer, known.
    #[error("the bus at {url} refused the credential: {reason}")]
    Refused {
        /// The address that was tried.
        url: String,
        /// The bus's own words.
        reason: String,
    },
    /// The bus knows us and does not let us: correct the permissions of the credential's user.
    #[error("{0}")]
    Denied(crate::Denied),
    /// An address cannot be used: correct it.
    #[error("{url:?} cannot be used as the address of a bus: {reason}")]
    BadAddress {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A prefix of inboxes cannot be used: correct it.
    #[error(transparent)]
    Inbox(#[from] crate::InvalidInbox),
    /// The other side refused the request and says why.
    #[error(transparent)]
    Reply(#[from] ErrorBody),
    /// Nobody serves the subject.
    #[error("nobody answers on {subject}")]
    NoResponders {
        /// The subject asked on.
        subject: String,
    },
    /// Somebody serves the subject but did not answer in time: the request may have been carried out.
    #[error("no answer on {subject} within {millis} ms")]
    Timeout {
        /// The subject asked on.
        subject: String,
        /// The patience.
        millis: u128,
    },
    /// The answer is not what the protocol says: versions differ.
    #[error("the answer on {subject} cannot be read: {reason}")]
    BadReply {
        /// The subject asked on.
        subject: String,
        /// Why.
        reason: String,
    },
    /// The message is larger than the bus carries.
    #[error("the message for {subject} is too large: {bytes} bytes, the bus carries {bytes_max}")]
    TooLarge {
        /// The subject it was for.
        subject: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The bus keeps nothing there: it has no streams, or none that takes the subject.
    #[error("the bus keeps nothing on {subject}: it has no JetStream for this account, or no stream there")]
    NoStreams {
        /// The subject asked on.
        subject: String,
    },
    /// A stream refused, and says why.
    #[error("the bus refused on {subject}: {reason}")]
    Stream {
        /// The subject asked on.
        subject: String,
        /// The server's number of the fault, or the status of its answer.
        err_code: u64,
        /// Its words.
        reason: String,
    },
    /// The bus is away, and as much waits for it as is kept: the message is dropped.
    #[error("the bus is away and too much waits for it already: the message for {subject} is dropped")]
    Away {
        /// The subject it was for.
        subject: String,
    },
    /// The connection is closed for good.
    #[error("the connection to the bus is closed: {0}")]
    Closed(String),
}

impl Error {
    /// True when the same call may succeed later without anything being changed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NoEndpoint(_)
                | Self::Unreachable { .. }
                | Self::NoResponders { .. }
                | Self::Timeout { .. }
                | Self::Away { .. }
        )
    }

    /// The code of a refusal, when it is one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Reply(body) => Some(body.code),
            _ => None,
        }
    }
}
