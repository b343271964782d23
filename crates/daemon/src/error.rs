//! Why the daemon did not start or had to end; each says what to do.

use std::path::PathBuf;

/// A fault that ends the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another daemon owns the state directory.
    #[error("a daemon runs already for {} (pid {})", .dir.display(), .pid.map_or("unknown".to_owned(), |pid| pid.to_string()))]
    AlreadyRunning {
        /// The state directory.
        dir: PathBuf,
        /// Its process id, when it could be read.
        pid: Option<u32>,
    },
    /// A file or directory of the daemon cannot be used.
    #[error("{} cannot be {verb}: {source}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A credential cannot be used.
    #[error(transparent)]
    Key(#[from] ostler_client::KeyError),
    /// The bus cannot be started.
    #[error("the bus cannot be started: {0}")]
    Bus(#[from] ostler_broker::Error),
    /// The certificate of the bus cannot be used.
    #[error("the bus cannot be started with TLS: {0}")]
    Tls(Box<ostler_broker::TlsError>),
    /// The bus refuses an identity of ours.
    #[error("an identity cannot be admitted to the bus: {0}")]
    Identity(String),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] ostler_store::Error),
    /// The bus of somebody else's servers carries too little.
    #[error("the bus at {url} carries messages of {bytes_max} bytes at most; at least {needed} are needed")]
    SmallPayload {
        /// Its addresses.
        url: String,
        /// Its `max_payload`.
        bytes_max: usize,
        /// What the daemon needs.
        needed: usize,
    },
    /// Another daemon of the same name is on the bus already.
    #[error("a daemon called {} is on this bus already: pid {}, state directory {}", .0.node, .0.pid, .0.state_dir)]
    NameTaken(Box<ostler_wire::NodeInfo>),
    /// The daemon's own connection to its bus failed.
    #[error("the daemon cannot use its bus: {0}")]
    Client(#[from] ostler_client::Error),
    /// The engine ended without being asked.
    #[error("the engine ended: {}", chain(.0))]
    Engine(#[from] ostler_engine::Error),
    /// The operating system refuses threads or signal handlers.
    #[error("the runtime cannot be started: {0}")]
    Runtime(std::io::Error),
}

impl Error {
    /// What the person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyRunning { .. } => {
                Some("`ostler status` shows it, `ostler down` stops it; another one needs its own --state-dir".into())
            }
            Self::File { path, .. } => Some(format!("check the owner, the mode and the free space of {}", path.display())),
            Self::Bus(error) if error.is_retryable() => Some(
                "another program listens there: choose a port with `ostler up --listen 127.0.0.1:PORT` (0 picks a free one)"
                    .into(),
            ),
            Self::SmallPayload { .. } => {
                Some("set max_payload: 8MB in the configuration of the nats-server and reload it".into())
            }
            Self::Tls(_) => Some("check `cert` and `key` of `tls` in [bus]".into()),
            Self::NameTaken(_) => Some("give this one another name: [node] name in its configuration".into()),
            Self::Client(ostler_client::Error::Refused { .. }) => Some(
                "check `credentials` in [bus] and the users in the nats-server's configuration: docs/guide/external-bus.md"
                    .into(),
            ),
            Self::Client(ostler_client::Error::BadAddress { .. }) => Some("correct `url` in [bus]".into()),
            Self::Client(ostler_client::Error::Denied(_))
            | Self::Engine(ostler_engine::Error::Bus(ostler_client::Error::Denied(_))) => Some(
                "correct the permissions of the user that `credentials` in [bus] stands for: \
                 docs/guide/external-bus.md lists them"
                    .into(),
            ),
            Self::Store(ostler_store::Error::NotWritable(_)) => Some("free some disk space and start again".into()),
            _ => None,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
