//! The composition root: what the daemon is made of and in which order it starts and stops. It holds no rules.
//!
//! ```text
//! start   config -> lock -> credentials -> bus -> database -> engine (reconciles) -> endpoint file -> ready
//! stop    engine (stops or keeps the agents) -> endpoint file -> bus -> database -> lock
//! ```
//!
//! Nothing is bound before the whole configuration is checked, and nobody finds the daemon before it can answer: the
//! endpoint file is written last and removed first.
#![forbid(unsafe_code)]

pub mod config;
mod error;
mod files;
mod identities;
mod machine;
mod run;
mod signals;

pub use error::Error;
pub use files::StateDir;
pub use run::main;
