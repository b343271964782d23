//! The one door to the bus: typed requests, publications and subscriptions over NATS.
//!
//! Everything but the broker goes through here, so a real nats-server or a cluster takes the embedded broker's place
//! without a line changing. Nothing outside this crate names the NATS library underneath.
//!
//! A connection is either *eager* ([`Client::connect`]: it works now or the caller learns why not, for a person at a
//! terminal) or *patient* ([`Client::patient`]: it is handed out at once and connects for as long as it takes, for
//! processes that outlive the bus). Both reconnect for ever, with a jittered back-off of 100 ms to 10 s (1 s for the
//! daemon of this machine), and look the
//! bus up again before every attempt, because a restarted daemon may listen elsewhere.
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
mod error;
mod key;
mod message;

pub use connection::{Bus, Client, Connection, Options, REQUEST_TIMEOUT};
pub use error::Error;
pub use key::{KeyError, create_key, read_public_key};
pub use message::{Message, Subscription};
