//! What can go wrong when a server is started or an identity is added. Nothing here happens to a running connection:
//! clients are told in the protocol's own words.

use std::io;
use std::net::SocketAddr;

use ostler_broker_proto::subject::InvalidSubject;
#[cfg(feature = "jetstream")]
use ostler_broker_store::LockError;

/// Why [`Builder::start`](crate::Builder::start) did not give a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on. Fix the address, or the one who holds it.
    #[error("cannot listen on {address}: {}", remedy(source))]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address of the HTTP monitor cannot be listened on. Fix the address, or the one who holds it.
    #[error("cannot serve monitoring on {address}: {}", remedy(source))]
    Monitor {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Two options contradict each other or one is out of range.
    #[error("option {option}: {problem}")]
    Option {
        /// The builder's method.
        option: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The directory of the streams cannot be used. Fix it, or stop who holds it.
    #[cfg(feature = "jetstream")]
    #[error("cannot start JetStream")]
    JetStream(#[source] JetStreamError),
    /// The system refused a thread, a timer or random bytes.
    #[error("cannot start a broker thread")]
    Start(#[source] io::Error),
}

impl Error {
    /// Whether trying again later may help, without changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Listen { source, .. } | Self::Monitor { source, .. } => {
                source.kind() == io::ErrorKind::AddrInUse
            }
            #[cfg(feature = "jetstream")]
            Self::JetStream(error) => matches!(error, JetStreamError::InUse(LockError::Held { .. })),
            Self::Start(_) => true,
            Self::Option { .. } => false,
        }
    }
}

/// Why JetStream could not be started.
#[cfg(feature = "jetstream")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JetStreamError {
    /// The directory cannot be created, or the streams in it cannot be listed.
    #[error(transparent)]
    Open(#[from] ostler_jetstream::OpenError),
    /// Another server has the directory, or it cannot be locked.
    #[error(transparent)]
    InUse(#[from] LockError),
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop the program that holds it, choose another, or take port 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => {
            "not allowed; ports below 1024 need privileges, choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; 127.0.0.1 always works",
        _ => "the system refused",
    }
}

/// Why [`Users::set`](crate::Users::set) refused an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIdentity {
    /// The name is how it is replaced and removed.
    #[error("an identity needs a name")]
    NoName,
    /// Not the public part of a user nkey.
    #[error("identity {name}: {key:?} is not a public user nkey (56 characters that begin with U)")]
    Nkey {
        /// The identity.
        name: String,
        /// What was given.
        key: String,
    },
    /// An empty token, user or password would let anybody in.
    #[error("identity {name}: an empty secret protects nothing")]
    EmptySecret {
        /// The identity.
        name: String,
    },
    /// Whom would a connection with it be?
    #[error("identity {name}: the same credential belongs to {other}")]
    Duplicate {
        /// The identity that was refused.
        name: String,
        /// The one that has the credential.
        other: String,
    },
    /// Not a bcrypt hash that can be used.
    #[error("identity {name}: no usable bcrypt hash: {problem}")]
    Hash {
        /// The identity.
        name: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Which of the two is a client that gives a token? Only trying all of them would tell.
    #[error(
        "identity {name}: {other} has a hashed token already; give one of them a user name, or a plain token"
    )]
    SecondHashedToken {
        /// The identity that was refused.
        name: String,
        /// The one that has such a token.
        other: String,
    },
    /// A set was given with two identities of one name.
    #[error("identity {name}: given twice; names are unique")]
    NameTwice {
        /// The identity.
        name: String,
    },
    /// The account cannot stand in the subjects of system events.
    #[error("identity {name}: {account:?} is no account: {}", crate::accounts::ACCOUNT_RULE)]
    Account {
        /// The identity.
        name: String,
        /// What was given.
        account: String,
    },
    /// A permission is no filter.
    #[error("identity {name}: permission {filter:?}: {problem}")]
    Filter {
        /// The identity.
        name: String,
        /// What was given.
        filter: String,
        /// The rule that was broken.
        problem: InvalidSubject,
    },
}
