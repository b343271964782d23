//! An embedded NATS server: core NATS and JetStream as a library, with identities and permissions that change while it
//! runs.
//!
//! ```
//! use ostler_broker::{Credential, Identity, Permissions, Rules, Server, Users};
//!
//! let users = Users::new();
//! let permissions = Permissions {
//!     publish: Rules::allow(["results.>"]),
//!     subscribe: Rules::allow(["jobs.*", "_INBOX.>"]),
//!     allow_responses: None,
//! };
//! users.set(Identity::new("worker", Credential::Token("s3cret".into()), permissions))?;
//! let server = Server::builder().listen("127.0.0.1:0".parse()?).users(users.clone()).start()?;
//! println!("clients connect to {}", server.url());
//! users.remove("worker"); // its connections end
//! server.shutdown();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Theory of operation.** A server is N reactor threads, *shards*, each with a current-thread runtime and connections
//! of its own. The thread that reads a message also parses it, looks the subscribers up, appends to their buffers, and
//! at the end of the read writes each of them once: no message is handed from task to task inside a shard. Messages
//! for another shard travel in batches, with one wake each. What waits for a client is bounded: at three quarters its
//! publishers are read more slowly, at the limit it is closed. The invariant that is nowhere in the code: *no path from
//! a socket to a subscriber's buffer awaits.*
//!
//! **Security.** A credential is required unless [`Builder::allow_anonymous`] says otherwise; a server without users
//! refuses everybody. Permissions permit nothing by default. Traffic is not encrypted unless
//! `Builder::tls` says so: listen on loopback without it.
//!
//! **Ways in.** TCP, plain or with TLS (feature `tls`, rustls: certificates of clients, the handshake before or after
//! INFO, terms that change while it runs: `Server::set_tls`); WebSocket with and without TLS (feature `websocket`); and
//! inside the process, without a socket: [`Server::connect_in_process`] gives a client, [`Server::open_pipe`] the bare
//! bytes. All carry the same protocol to the same code. Both features are on by default.
//!
//! **Accounts.** Each identity belongs to an account, `$G` unless it names another. Messages stay inside an account; there
//! are no imports and exports. System events ([`Builder::system_account`]) are published into `$SYS`: connects,
//! disconnects and refused logins, and its users may ask `$SYS.REQ.SERVER.PING.VARZ` and the like.
//!
//! **While it runs**, [`Users`] and [`Server::set_limits`] change who may do what and how much; [`Server::lame_duck`] ends
//! it gently.
//!
//! **Seeing into it.** [`Server::stats`] costs nothing to the data path; [`Server::connections`],
//! [`Server::subscriptions`] and [`Server::accounts`] ask every shard. [`Server::monitor`] gives the documents that
//! dashboards of nats-server read, and with the feature `monitor`, `Builder::monitor` serves them over HTTP.
//!
//! **As a program.** With the feature `bin` there is `ostler-broker`, with nats-server's flags, configuration files and
//! signals. The feature `conf` gives the reader of those files alone, as typed settings.
//!
//! **JetStream** (feature `jetstream`, on by default; off until `Builder::jetstream` names a directory). Streams,
//! consumers, key-value and object stores for one account; an acknowledgement means that the message is on disk:
//!
//! ```
//! use std::time::Duration;
//! use ostler_broker::{InProcessOptions, JetStreamOptions, Permissions, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let server =
//!     Server::builder().listen("127.0.0.1:0".parse()?).jetstream(JetStreamOptions::new(dir.path())).start()?;
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let client = server.connect_in_process(InProcessOptions::trusted("me", Permissions::all())).await?;
//! let stream = r#"{"name":"ORDERS","subjects":["orders.>"]}"#;
//! client.request("$JS.API.STREAM.CREATE.ORDERS", stream, Duration::from_secs(5)).await?;
//! let ack = client.request("orders.new", "two of those", Duration::from_secs(5)).await?;
//! assert_eq!(ack.payload(), br#"{"stream":"ORDERS","seq":1}"#);
//! # Ok::<(), ostler_broker::InProcessError>(())
//! # })?;
//! # Ok(())
//! # }
//! ```
//!
//! It lives in the first shard, which calls it like a subscriber; only syncs wait on other threads. What it decides, and
//! what exactly an acknowledgement promises, is in `jetstream`. `Server::jetstream` tells what was found on start.
//!
//! **Known limits.** No clustering, and streams in one account. WebSocket frames are not compressed, and cookies and
//! client certificates are not taken for credentials. Subscriptions take a server-wide lock for a moment, so clients that
//! subscribe per request are slower than those that use one inbox.
#![forbid(unsafe_code)]

mod accounts;
mod auth;
#[cfg(feature = "conf")]
pub mod conf;
mod connect;
mod ending;
mod error;
mod in_process;
#[cfg(feature = "jetstream")]
pub mod jetstream;
mod limits;
mod link;
mod listen;
mod monitor;
mod options;
mod permissions;
mod process;
mod server;
mod shard;
mod shared;
mod snapshot;
mod stats;
mod time;
#[cfg(feature = "tls")]
mod tls;
mod transport;
#[cfg(feature = "websocket")]
mod websocket;

pub use auth::{Credential, Identity, Users};
pub use connect::CLAIMED_VERSION as COMPATIBLE_VERSION;
pub use ending::LameDuck;
#[cfg(feature = "jetstream")]
pub use error::JetStreamError;
pub use error::{Error, InvalidIdentity};
pub use in_process::{InProcess, InProcessError, InProcessOptions, Login, Message, Pipe, Subscription};
#[cfg(feature = "jetstream")]
pub use jetstream::Options as JetStreamOptions;
pub use limits::Limits;
pub use monitor::MonitorAnswer;
pub use options::Builder;
pub use permissions::{AllowResponses, Permissions, Rules};
pub use process::ProcessUsage;
pub use server::Server;
pub use snapshot::{
    AccountInfo, CloseReason, ConnectionInfo, Connections, ConnectionsQuery, SortBy, StateFilter,
    SubscriptionInfo, Subscriptions, SubscriptionsQuery, Traffic, TransportInfo, Unanswered,
};
pub use stats::Stats;
#[cfg(feature = "tls")]
pub use tls::{HandshakeFirst, Tls, TlsError};
#[cfg(feature = "websocket")]
pub use websocket::WebSocket;
