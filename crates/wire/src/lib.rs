//! What travels between Ostler's processes: subjects, messages and the rules for both.
//!
//! This crate is for authors of agents, tools and user interfaces. It knows no socket and no NATS client: bring your
//! own, build the subject here, serialise the message here, and the daemon understands you.
//!
//! ```
//! use ostler_wire::{AgentId, InputMessage, Subject};
//!
//! let agent = AgentId::parse("reviewer")?;
//! let subject = Subject::input(&agent).to_string();
//! let payload = serde_json::to_vec(&InputMessage::prompt("review the last commit"))?;
//! assert_eq!(subject, "agent.reviewer.input");
//! assert!(payload.starts_with(b"{"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//!
//! * JSON names never change; fields may be added. Unknown fields are ignored on input.
//! * Timestamps are RFC 3339 in UTC.
//! * Every `{id}` in a subject is `[A-Za-z0-9_-]{1,64}`; see [`AgentId`].
//! * A refused request is answered with [`ErrorReply`], never with silence.
#![forbid(unsafe_code)]

mod agent;
mod approval;
mod audit;
mod channel;
mod control;
mod dashboard;
mod error;
mod event;
mod id;
mod node;
#[cfg(feature = "schema")]
pub mod page;
pub mod protocol;
mod run;
#[cfg(feature = "schema")]
pub mod schema;
mod subject;
mod task;
mod tool;

pub use agent::*;
pub use approval::*;
pub use audit::*;
pub use channel::*;
pub use control::*;
pub use dashboard::*;
pub use error::*;
pub use event::*;
pub use id::*;
pub use node::*;
pub use run::*;
pub use subject::*;
pub use task::*;
pub use tool::*;

/// A point in time: RFC 3339, UTC, on the wire.
pub type Timestamp = jiff::Timestamp;

/// A JSON object whose keys Ostler does not interpret.
pub type JsonMap = serde_json::Map<String, serde_json::Value>;
