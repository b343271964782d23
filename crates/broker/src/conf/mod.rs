//! The configuration files of nats-server, read into the settings that this server has. What it does not have is an
//! error with its place, its reason and a remedy, never ignored.
//!
//! ```
//! use std::path::Path;
//! # struct Memory;
//! # impl ostler_broker::conf::Outside for Memory {
//! #     fn read(&self, _: &Path) -> std::io::Result<Vec<u8>> { Ok(b"port: 4333, max_payload: 64KB".to_vec()) }
//! #     fn variable(&self, _: &str) -> Option<String> { None }
//! # }
//! # let outside = Memory; // `conf::System` for the real files
//! use ostler_broker::conf::Settings;
//!
//! let settings = Settings::load(Path::new("broker.conf"), &outside)?;
//! assert_eq!((settings.port, settings.limits.payload_bytes_max), (Some(4333), 64 * 1024));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three layers: [`parse`] knows the language and no settings, the reader of fields knows types and no meaning,
//! [`Settings`] knows the meaning. Files and the environment come in through [`Outside`], so that all of it is pure.

mod error;
mod fields;
mod jetstream;
mod parse;
mod refused;
mod settings;
mod text;
mod units;
mod users;
mod value;

pub use error::{Invalid, Problem};
pub use jetstream::{Durability, JetStreamAccountLimits, JetStreamLimits, JetStreamSettings};
pub use parse::{Outside, System, parse};
pub use settings::{Handshake, LogSettings, MonitorSettings, Settings, TlsSettings, WebSocketSettings};
pub use value::{Block, Entry, Kind, Position, Value};

use crate::auth::Credential;

impl Settings {
    /// The credential of a token or of a password, which may be a bcrypt hash: it is recognised by its beginning.
    pub fn token(secret: impl Into<String>) -> Credential {
        users::secret(secret.into())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_jetstream;
#[cfg(test)]
mod tests_users;
