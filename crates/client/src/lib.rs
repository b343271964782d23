//! The one door to the bus: typed requests, publications and subscriptions over NATS.
//!
//! Everything but the broker goes through here, so a real nats-server or a cluster takes the embedded broker's place
//! without a line changing. Nothing outside this crate names the NATS library underneath.
//!
//! A connection reconnects for ever to the address it was made with, with a jittered back-off of 100 ms to 10 s (1 s
//! for the daemon of this machine). A daemon may come back at another address: [`Client::moved`] tells, and whoever
//! follows it makes a new connection then. A process that lives through many of them asks for single connections
//! ([`Options::without_reconnect`]) and makes the next one when one is lost.
//!
//! ```no_run
//! # async fn example() -> Result<(), ostler_client::Error> {
//! use ostler_client::{Bus, Client, Options};
//! use ostler_wire::{AgentId, InputMessage, InputReply, Subject};
//!
//! let client = Client::connect(Options::new("example", Bus::File("state/daemon.json".into()), "state/operator.nk")).await?;
//! let agent = AgentId::parse("reviewer").expect("the literal follows the rule");
//! let reply: InputReply = client.request(&Subject::input(&agent), &InputMessage::prompt("hello")).await?;
//! assert!(reply.delivered);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod connection;
mod credential;
mod denied;
mod error;
mod inbox;
mod key;
mod message;
mod options;
mod place;
mod stream;

pub use connection::{Client, Connection, REQUEST_TIMEOUT};
pub use credential::check_credential;
pub use denied::{Denied, Verb};
pub use error::Error;
pub use inbox::{Inboxes, InvalidInbox};
pub use key::{KeyError, create_key, read_public_key};
pub use message::{Message, Subscription};
pub use options::Options;
pub use place::{Bus, Role};
pub use stream::{From, Narrower, Page, Stored, StreamState};
