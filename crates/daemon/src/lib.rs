//! The composition root: what the daemon is made of and in which order it starts and stops. It holds no rules.
//!
//! ```text
//! start   config -> lock -> credentials -> bus -> database -> engine (reconciles) -> endpoint file -> ready
//! stop    engine (stops or keeps the agents) -> endpoint file -> bus -> database -> lock
//! ```
//!
//! On a bus that is not its own the daemon waits for it, visibly, where it would start it.
//!
//! Nothing is bound before the whole configuration is checked, and nobody finds the daemon before it can answer: the
//! endpoint file is written last and removed first.
#![forbid(unsafe_code)]

pub mod config;
mod error;
mod external;
mod files;
mod identities;
mod machine;
mod run;
mod signals;

pub use error::Error;
pub use files::{StateDir, Waiting};
pub use run::main;
