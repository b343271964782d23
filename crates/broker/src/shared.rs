//! What the shards of one server have in common: the accounts, the identities, the inboxes. No socket, no
//! connection.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::accounts::Accounts;
use crate::auth::{Entry, Users};
use crate::limits::Limits;
use crate::monitor::varz;
use crate::options::Builder;
use crate::shard::inbox::Inbox;
use crate::stats::ShardCounters;
use crate::time::Moment;

/// Hashes computed at a time, if the machine has so many cores to spare.
const HASHES_AT_A_TIME_MAX: usize = 4;

/// One per server, behind an `Arc` in every shard.
pub(crate) struct Shared {
    pub(crate) server_id: String,
    pub(crate) server_name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) users: Users,
    /// Who everybody is, where that was allowed.
    anonymous: Option<Arc<Entry>>,
    /// Whether messages that clients cannot read are refused.
    pub(crate) strict_messages: bool,
    pub(crate) shards: Vec<ShardLink>,
    pub(crate) stopping: AtomicBool,
    pub(crate) started: Moment,
    /// What monitoring remembers.
    pub(crate) monitored: varz::Seen,
    /// Where monitoring is served over HTTP, if it is.
    pub(crate) monitor_addr: OnceLock<SocketAddr>,
    /// Ended connections that are remembered, by all shards together.
    pub(crate) closed_connections_max: usize,
    client_ids: AtomicU64,
    subscription_ids: AtomicU64,
    pub(crate) accounts: Accounts,
    /// Who is a connection without credential, by the name of its identity.
    no_auth_user: Option<String>,
    /// One permit per hash that may be computed: they take a whole core for a tenth of a second each.
    pub(crate) hashing: Semaphore,
}

/// How to reach a shard from outside of it.
pub(crate) struct ShardLink {
    pub(crate) inbox: Inbox,
    pub(crate) counters: ShardCounters,
    /// Its connections, those on their way to it included.
    connections: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(options: &Builder, server_id: String, listen: SocketAddr) -> Self {
        let link = |_| ShardLink {
            inbox: Inbox::new(options.limits.pending_bytes_max),
            counters: ShardCounters::default(),
            connections: AtomicUsize::new(0),
        };
        let shards = (0..options.shard_count()).map(link).collect();
        Self {
            server_id,
            server_name: options.server_name.clone(),
            listen,
            limits: options.limits.clone(),
            users: options.users.clone(),
            anonymous: options.allow_anonymous.then(|| Arc::new(Entry::anonymous())),
            strict_messages: options.strict_messages,
            shards,
            stopping: AtomicBool::new(false),
            started: Moment::now(),
            monitored: varz::Seen::default(),
            monitor_addr: OnceLock::new(),
            closed_connections_max: options.remembered(),
            client_ids: AtomicU64::new(1),
            subscription_ids: AtomicU64::new(1),
            accounts: Accounts::new(&options.system_account),
            no_auth_user: options.no_auth_user.clone(),
            hashing: Semaphore::new(hashes_at_a_time()),
        }
    }

    pub(crate) fn next_client_id(&self) -> u64 {
        self.client_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// What a trie calls a subscription.
    pub(crate) fn next_subscription_id(&self) -> u64 {
        self.subscription_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes in one more connection, unless there are too many: returns the shard with the fewest.
    pub(crate) fn admit(&self) -> Option<usize> {
        let loads = || self.shards.iter().map(|shard| shard.connections.load(Ordering::Acquire));
        if loads().sum::<usize>() >= self.limits.connections_max {
            return None;
        }
        let (shard, _) = loads().enumerate().min_by_key(|(_, load)| *load)?;
        self.shards[shard].connections.fetch_add(1, Ordering::AcqRel);
        Some(shard)
    }

    /// A connection that was admitted ended.
    pub(crate) fn dismiss(&self, shard: usize) {
        self.shards[shard].connections.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a client must prove who it is.
    pub(crate) fn auth_required(&self) -> bool {
        self.anonymous().is_none()
    }

    /// Whether clients are given something to sign. Where nobody needs to, some still may.
    pub(crate) fn needs_nonce(&self) -> bool {
        self.auth_required() || self.users.has_nkeys()
    }

    /// Who a connection without credential is; `None` refuses it.
    pub(crate) fn anonymous(&self) -> Option<Arc<Entry>> {
        match &self.no_auth_user {
            Some(name) => self.users.get(name),
            None => self.anonymous.clone(),
        }
    }
}

/// All cores but one: the shards must not wait for them.
fn hashes_at_a_time() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(1).clamp(1, HASHES_AT_A_TIME_MAX)
}
