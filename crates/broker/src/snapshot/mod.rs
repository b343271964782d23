//! What a server holds at this moment, for programs that embed it: connections, closed ones, subscriptions, accounts.
//! Counters are in [`stats`](crate::stats); texts and JSON are made of both in [`monitor`](crate::monitor).
//!
//! Each shard answers between two batches, in portions, so that nobody's messages wait for long. What different shards
//! say belongs to slightly different moments.

pub(crate) mod gather;
mod reason;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::reason::CloseReason;
use crate::server::Server;

/// Entries of one page, if the query does not say: nats-server's number.
pub(crate) const LIMIT_DEFAULT: usize = 1024;
/// Most entries of one page. Asking for more gives this many: one answer must not take all memory.
pub(crate) const LIMIT_MAX: usize = 16_384;
/// Most subscriptions listed in one page of connections.
pub(crate) const LISTED_MAX: usize = 65_536;
/// How long the blocking calls wait for all shards.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The server did not answer: it is shut down, or busy beyond measure. Ask again, or look at
/// [`Server::is_running`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server did not answer: it is shut down or overloaded; see Server::is_running")]
pub struct Unanswered;

/// Which connections to list, and how much of each.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConnectionsQuery {
    /// Live ones (the default), ended ones, or both.
    pub state: StateFilter,
    /// Only the connection with this id.
    pub id: Option<u64>,
    /// Only those of this user, as in [`ConnectionInfo::user`].
    pub user: Option<String>,
    /// Only those of this account.
    pub account: Option<String>,
    /// The order. Default by id.
    pub sort: SortBy,
    /// Entries to leave out at the beginning.
    pub offset: usize,
    /// Entries at most; default 1,024, at most 16,384.
    pub limit: Option<usize>,
    /// Whether to list their subscriptions too, at most 65,536 in one answer.
    pub subscriptions: bool,
}

impl ConnectionsQuery {
    pub(crate) fn limit(&self) -> usize {
        self.limit.filter(|limit| *limit > 0).unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }
}

/// Which connections to list by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StateFilter {
    /// Those that live.
    #[default]
    Open,
    /// Those that ended and are still remembered, see
    /// [`Builder::closed_connections_max`](crate::Builder::closed_connections_max).
    Closed,
    /// Both.
    All,
}

/// The order of a list of connections. Ties are in the order of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortBy {
    /// The oldest id first.
    #[default]
    Id,
    /// The earliest first.
    Start,
    /// Most subscriptions first.
    Subscriptions,
    /// Most waiting bytes first.
    Pending,
    /// Most messages to the client first.
    MessagesTo,
    /// Most messages from the client first.
    MessagesFrom,
    /// Most bytes to the client first.
    BytesTo,
    /// Most bytes from the client first.
    BytesFrom,
    /// The latest activity first.
    LastActivity,
    /// The longest silence first.
    Idle,
    /// The longest life first.
    Uptime,
    /// The last to end first.
    Stop,
    /// By the text of the reason; live ones first.
    Reason,
    /// The longest round trip first.
    RoundTrip,
}

/// Messages and bytes of one connection. The bytes are those of headers and payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Messages from the client.
    pub in_msgs: u64,
    /// Their headers and payloads, in bytes.
    pub in_bytes: u64,
    /// Messages to the client, those included that still wait for it.
    pub out_msgs: u64,
    /// Their headers and payloads, in bytes.
    pub out_bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, other: Traffic) {
        self.in_msgs += other.in_msgs;
        self.in_bytes += other.in_bytes;
        self.out_msgs += other.out_msgs;
        self.out_bytes += other.out_bytes;
    }
}

/// How a connection's bytes travel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportInfo {
    /// Over a WebSocket.
    pub is_websocket: bool,
    /// Inside this process, without a socket.
    pub is_in_process: bool,
    /// The TLS version, `1.3` say, if it is encrypted.
    pub tls_version: Option<String>,
    /// The cipher suite's registered name, if it is encrypted.
    pub tls_cipher: Option<String>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Unique in the server; the client knows it as `client_id`.
    pub id: u64,
    /// Where the client is.
    pub peer: SocketAddr,
    /// How its bytes travel.
    pub transport: TransportInfo,
    /// Who it is: its identity's name, if it gave a credential.
    pub identity: Option<String>,
    /// The public part of its credential: the user, or the public nkey. Never a secret. Of one that was refused whom it
    /// claimed to be.
    pub user: Option<String>,
    /// The account it is in, once it is known.
    pub account: Option<String>,
    /// What it called itself in CONNECT.
    pub name: Option<String>,
    /// The client library's language, from CONNECT.
    pub lang: Option<String>,
    /// The client library's version, from CONNECT.
    pub version: Option<String>,
    /// When it connected.
    pub start: SystemTime,
    /// When bytes last came from it or were sent to it.
    pub last_activity: SystemTime,
    /// The last measured round trip.
    pub round_trip: Option<Duration>,
    /// How long it has lived, or lived.
    pub uptime: Duration,
    /// How long it has been silent, or was when it ended.
    pub idle: Duration,
    /// Bytes that wait for it, or were left when it ended.
    pub pending_bytes: u64,
    /// What went in and out.
    pub traffic: Traffic,
    /// How many subscriptions it has, or had.
    pub subscriptions: u64,
    /// Their list, if it was asked for and the connection lives.
    pub subscriptions_list: Vec<SubscriptionInfo>,
    /// When and why it ended, if it did.
    pub ended: Option<(SystemTime, CloseReason)>,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// The connection it belongs to.
    pub connection: u64,
    /// The account it is in, once it is known.
    pub account: Option<String>,
    /// The filter, bytes that are no text replaced.
    pub filter: String,
    /// The queue group.
    pub queue: Option<String>,
    /// What the client calls it.
    pub sid: String,
    /// Messages delivered since it began.
    pub delivered: u64,
    /// Messages after which it ends.
    pub max: Option<u64>,
}

/// A page of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// The page.
    pub connections: Vec<ConnectionInfo>,
    /// How many fit the query, on all pages.
    pub matching: usize,
    /// How many there are of the queried state and account, whatever else was asked.
    pub total: usize,
    /// Bytes that wait for those that fit, on all pages.
    pub pending_bytes: u64,
}

/// Which subscriptions to list.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SubscriptionsQuery {
    /// Only those of this account.
    pub account: Option<String>,
    /// Only those that get messages on this subject.
    pub subject: Option<String>,
    /// Entries to leave out at the beginning.
    pub offset: usize,
    /// Entries at most; default 1,024, at most 16,384.
    pub limit: Option<usize>,
}

impl SubscriptionsQuery {
    pub(crate) fn limit(&self) -> usize {
        self.limit.filter(|limit| *limit > 0).unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }
}

/// A page of subscriptions, in the order in which they began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscriptions {
    /// The page.
    pub subscriptions: Vec<SubscriptionInfo>,
    /// How many fit the query, on all pages.
    pub matching: usize,
}

/// What one account has and had. Totals count since the server started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountInfo {
    /// The account.
    pub name: String,
    /// Its live connections.
    pub connections: u64,
    /// Connections it ever had.
    pub connections_total: u64,
    /// Its live subscriptions.
    pub subscriptions: u64,
    /// What its connections sent and got, those that ended included.
    pub traffic: Traffic,
    /// Its clients that were closed because they did not take what waited for them.
    pub slow_consumers: u64,
}

impl Server {
    /// Lists connections. Blocks until every shard answered, at most 5 s: in async code call it from
    /// `spawn_blocking`.
    ///
    /// Costs each shard some 100 ns per connection, 4,096 connections at a time.
    ///
    /// # Errors
    /// [`Unanswered`] if the server is shut down or does not answer in time.
    pub fn connections(&self, query: &ConnectionsQuery) -> Result<Connections, Unanswered> {
        gather::within(ANSWER_MAX, gather::connections(self.shared(), query)).ok_or(Unanswered)?
    }

    /// Lists subscriptions. Blocks as [`connections`](Self::connections) does.
    ///
    /// # Errors
    /// [`Unanswered`] if the server is shut down or does not answer in time.
    pub fn subscriptions(&self, query: &SubscriptionsQuery) -> Result<Subscriptions, Unanswered> {
        gather::within(ANSWER_MAX, gather::subscriptions(self.shared(), query)).ok_or(Unanswered)?
    }

    /// What each account has and had, by name. Blocks as [`connections`](Self::connections) does.
    ///
    /// # Errors
    /// [`Unanswered`] if the server is shut down or does not answer in time.
    pub fn accounts(&self) -> Result<Vec<AccountInfo>, Unanswered> {
        gather::within(ANSWER_MAX, gather::accounts(self.shared())).ok_or(Unanswered)?
    }

    /// When it started, and for how long it has run by a clock that nobody sets.
    pub fn uptime(&self) -> (SystemTime, Duration) {
        let started = self.shared().started;
        (started.wall, started.instant.elapsed())
    }
}

/// What shards remember of the routes of subjects.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Routing {
    pub(crate) subjects: u64,
    pub(crate) fanout_max: u64,
    pub(crate) fanout_sum: u64,
    /// Subjects that had to be looked up.
    pub(crate) misses: u64,
}

impl Routing {
    pub(crate) fn add(&mut self, other: Routing) {
        self.subjects += other.subjects;
        self.fanout_max = self.fanout_max.max(other.fanout_max);
        self.fanout_sum += other.fanout_sum;
        self.misses += other.misses;
    }
}

/// What a client said about itself in CONNECT, kept for lists only.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) lang: String,
    pub(crate) version: String,
}

/// A connection as its shard tells of it: numbers and shared texts, cheap to make.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    /// Its place in the shard, for a second question.
    pub(crate) slot: usize,
    pub(crate) peer: SocketAddr,
    pub(crate) transport: TransportInfo,
    pub(crate) entry: Option<Arc<crate::auth::Entry>>,
    /// Whom it claimed to be in vain.
    pub(crate) claim: Option<Box<str>>,
    pub(crate) about: Option<Arc<About>>,
    pub(crate) start: Instant,
    pub(crate) last_activity: Instant,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) pending_bytes: u64,
    pub(crate) traffic: Traffic,
    pub(crate) subscriptions: u64,
    pub(crate) ended: Option<(Instant, CloseReason)>,
}

impl Seen {
    pub(crate) fn user(&self) -> Option<&str> {
        if let Some(claim) = self.claim.as_deref() {
            return Some(claim).filter(|claim| !claim.is_empty());
        }
        self.entry.as_deref().filter(|entry| !entry.is_anonymous()).and_then(|entry| entry.public_name())
    }

    pub(crate) fn account(&self) -> Option<&str> {
        self.entry.as_deref().map(account_of)
    }

    /// The address without the dressing of IPv4 in IPv6.
    pub(crate) fn peer(&self) -> SocketAddr {
        match self.peer.ip() {
            IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), self.peer.port()),
            IpAddr::V4(_) => self.peer,
        }
    }
}

/// The account of an identity.
pub(crate) fn account_of(entry: &crate::auth::Entry) -> &str {
    &entry.identity.account
}
