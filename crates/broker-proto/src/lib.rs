//! The NATS client protocol without I/O: no socket, no clock, no randomness, no async.
//!
//! Four things live here, each usable alone:
//!
//! * [`subject`] - which byte strings are subjects and filters, and which filter covers what;
//! * [`codec`] - bytes to [`ClientOp`] / [`ServerOp`] and back, incremental and without a copy;
//! * [`headers`] - the `NATS/1.0` header block;
//! * [`Sublist`] - the trie from filters to subscribers and queue groups.
//!
//! ```
//! use ostler_broker_proto::{ClientOp, Limits, Parsed, parse_client};
//!
//! let input = b"PUB greet.joe 5\r\nhello\r\n";
//! match parse_client(input, &Limits::default()) {
//!     Ok(Parsed::Op { op: ClientOp::Pub(publish), consumed }) => {
//!         assert_eq!((publish.subject, publish.body, consumed), (&b"greet.joe"[..], &b"hello"[..], input.len()));
//!     }
//!     other => panic!("unexpected {other:?}"),
//! }
//! ```
//!
//! **Theory of operation.** The parser is a function of a buffer that begins at a frame border; it either yields one
//! operation borrowing from the buffer, or says how many bytes the frame needs at least. It keeps no state, so a
//! server parses in place whatever one `read` delivered and copies only a frame that straddles two reads.
//!
//! **Known limits.** Server-to-server verbs (RMSG, RS+, ...) are not spoken. Subjects are bytes: UTF-8 is not required
//! of them, as nats-server does not require it.
#![forbid(unsafe_code)]

pub mod codec;
pub mod headers;
mod op;
pub mod subject;
mod sublist;

pub use codec::{Limits, Parsed, ProtocolError, parse_client, parse_server};
pub use op::{ClientOp, Message, Publish, ServerOp};
pub use sublist::{Matches, QueueMatch, Sublist};
