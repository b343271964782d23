//! Who an in-process connection is, and what it says about itself.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::json;

use super::InProcessError;
use crate::permissions::Permissions;

/// How an in-process connection proves who it is. Secrets do not show in `Debug`.
#[derive(Clone, Default)]
pub enum Login {
    /// No credential: for servers that let everybody in.
    #[default]
    None,
    /// A shared secret.
    Token(String),
    /// A name and a shared secret.
    Password {
        /// The name.
        user: String,
        /// The secret.
        password: String,
    },
    /// The seed of a user nkey (`SU...`).
    Nkey(String),
    /// No proof at all: this process vouches for it. It is nobody of [`Users`](crate::Users), and stays what it is
    /// until it hangs up.
    Trusted {
        /// What it may do.
        permissions: Permissions,
        /// The account it belongs to, `$G` for that of everybody.
        account: String,
    },
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::Nkey(_) => f.write_str("Nkey(..)"),
            Self::Trusted { permissions, account } => {
                f.debug_struct("Trusted").field("permissions", permissions).field("account", account).finish()
            }
        }
    }
}

/// Options of an in-process connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InProcessOptions {
    /// How it is called in logs and in the monitor. Default empty.
    pub name: String,
    /// Who it is.
    pub login: Login,
    /// Whether it gets what it published itself, if it subscribed to it. Default true.
    pub echo: bool,
    /// What the reply subjects of its requests begin with. Default `_INBOX`.
    pub inbox_prefix: String,
}

impl Default for InProcessOptions {
    fn default() -> Self {
        Self { name: String::new(), login: Login::None, echo: true, inbox_prefix: "_INBOX".into() }
    }
}

impl InProcessOptions {
    /// A connection with this proof of identity.
    pub fn login(name: impl Into<String>, login: Login) -> Self {
        Self { name: name.into(), login, ..Self::default() }
    }

    /// A connection in the account `$G` that this process vouches for.
    pub fn trusted(name: impl Into<String>, permissions: Permissions) -> Self {
        Self::login(name, Login::Trusted { permissions, account: "$G".into() })
    }

    /// Sets [`echo`](Self::echo) to false.
    pub fn no_echo(mut self) -> Self {
        self.echo = false;
        self
    }

    /// Sets [`inbox_prefix`](Self::inbox_prefix).
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = prefix.into();
        self
    }

    /// CONNECT and a PING, whose PONG says that it was taken.
    pub(super) fn greeting(&self, info: &ServerInfo) -> Result<Vec<u8>, InProcessError> {
        super::check_subject(self.inbox_prefix.as_bytes())?;
        let mut connect = json!({
            "verbose": false, "pedantic": false, "echo": self.echo, "headers": true, "no_responders": true,
            "protocol": 1, "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": self.name,
        });
        match &self.login {
            Login::None | Login::Trusted { .. } => {}
            Login::Token(token) => connect["auth_token"] = json!(token),
            Login::Password { user, password } => {
                connect["user"] = json!(user);
                connect["pass"] = json!(password);
            }
            Login::Nkey(seed) => {
                let pair = KeyPair::from_seed(seed).map_err(|_| InProcessError::Seed)?;
                let signature = pair.sign(info.nonce.as_bytes()).map_err(|_| InProcessError::Seed)?;
                connect["nkey"] = json!(pair.public_key());
                connect["sig"] = json!(BASE64URL_NOPAD.encode(&signature));
            }
        }
        Ok(format!("CONNECT {connect}\r\nPING\r\n").into_bytes())
    }
}

/// What a client needs of INFO.
#[derive(Debug, Deserialize)]
pub(super) struct ServerInfo {
    pub(super) max_payload: usize,
    #[serde(default)]
    pub(super) nonce: String,
}
