//! What a connection is made with.

use std::path::PathBuf;

use crate::{Bus, Role};

/// What a connection needs.
#[derive(Debug, Clone)]
pub struct Options {
    /// A name for the broker's connection list.
    pub name: String,
    /// Where the bus is.
    pub bus: Bus,
    /// The file with the credential: an nkey seed, a creds file, a user and password, or a token. Read anew for every
    /// connection.
    pub key_file: PathBuf,
    /// Who connects. On a bus that is not the daemon's own its endpoint file names a credential for some, which is used
    /// instead of `key_file`. Default [`Role::Other`].
    pub role: Role,
    /// The prefix of this client's inboxes; must be allowed by its permissions. Default `_INBOX`.
    pub inbox_prefix: String,
    /// Whether a lost connection is made again. Default true.
    pub reconnect: bool,
    /// Who asks, told with every request ([`ostler_wire::BY_HEADER`]). Default: nobody is named.
    pub by: Option<String>,
}

impl Options {
    /// Options with the default inbox prefix.
    pub fn new(name: impl Into<String>, bus: Bus, key_file: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            bus,
            key_file: key_file.into(),
            role: Role::Other,
            inbox_prefix: "_INBOX".to_owned(),
            reconnect: true,
            by: None,
        }
    }

    /// The same for somebody whom the endpoint file may name a credential for.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// The same with another inbox prefix.
    #[must_use]
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = prefix.into();
        self
    }

    /// The same for somebody who says who asks.
    #[must_use]
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// The same for one connection: once it is lost, [`crate::Client::connection`] says so and the client is of no more use.
    /// For an owner who makes a new one, because the bus may have moved: the library underneath looks an address up only
    /// while it is connected.
    #[must_use]
    pub fn without_reconnect(mut self) -> Self {
        self.reconnect = false;
        self
    }
}
