//! An append-only message log with subjects whose acknowledgement means what it says.
#![forbid(unsafe_code)]

pub mod disk;
mod error;
mod message;

pub use error::Error;
pub use message::{Message, NewMessage, State};
