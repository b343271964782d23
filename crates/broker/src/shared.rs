//! What the shards of one server have in common: the accounts, the identities, the inboxes. No socket, no
//! connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use crate::accounts::{Accounts, GLOBAL_ACCOUNT};
use crate::auth::{Entry, Turns, Users};
use crate::connect::{CLAIMED_VERSION, Info};
use crate::ending::{Doors, Ending};
use crate::limits::Limits;
use crate::listen::Listening;
use crate::monitor::varz;
use crate::options::Builder;
use crate::shard::inbox::{Envelope, Inbox};
use crate::stats::ShardCounters;
use crate::time::Moment;

/// Hashes computed at a time, if the machine has so many cores to spare.
const HASHES_AT_A_TIME_MAX: usize = 4;

/// One per server, behind an `Arc` in every shard.
pub(crate) struct Shared {
    pub(crate) server_id: String,
    pub(crate) server_name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) listening: Listening,
    /// Swapped whole; each shard holds those that it was told of last.
    limits: RwLock<Arc<Limits>>,
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
    /// Of the hashes that must be computed: they take a whole core for a tenth of a second each.
    pub(crate) hashing: Arc<Turns>,
    pub(crate) ending: Ending,
    pub(crate) doors: watch::Sender<Doors>,
    event_ids: AtomicU64,
    pub(crate) jetstream: Announced,
}

/// What clients are told of JetStream before they ask.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) is_on: bool,
    pub(crate) domain: Option<String>,
    pub(crate) api_level: Option<u8>,
    /// Whose users have streams, if not those of the account of everybody.
    pub(crate) account: Option<String>,
}

impl Announced {
    /// The account whose users have streams.
    pub(crate) fn account(&self) -> &str {
        self.account.as_deref().unwrap_or(GLOBAL_ACCOUNT)
    }

    /// Its place in every shard: the account of everybody is the first, and another one the second.
    #[cfg(feature = "jetstream")]
    pub(crate) fn place(&self) -> usize {
        usize::from(self.account.is_some())
    }
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
            listening: Listening::new(options),
            limits: RwLock::new(Arc::new(options.limits.clone())),
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
            hashing: Turns::new(hashes_at_a_time()),
            ending: Ending::default(),
            doors: watch::Sender::new(Doors::Open),
            event_ids: AtomicU64::new(1),
            jetstream: options.announced(),
        }
    }

    /// INFO for a client that is no connection and will be none.
    pub(crate) fn info_before_anything(&self, client: IpAddr) -> String {
        #[cfg(feature = "tls")]
        let allows_plain = self.listening.tls().map(|tls| tls.allows_plain);
        #[cfg(not(feature = "tls"))]
        let allows_plain = None;
        let info = Info {
            server_id: &self.server_id,
            server_name: &self.server_name,
            version: CLAIMED_VERSION,
            proto: 1,
            host: self.listen.ip(),
            port: self.listen.port(),
            headers: true,
            jetstream: self.jetstream.is_on,
            domain: self.jetstream.domain.as_deref(),
            api_lvl: self.jetstream.api_level,
            tls_required: allows_plain == Some(false),
            tls_verify: false,
            tls_available: allows_plain == Some(true),
            max_payload: self.limits().payload_bytes_max,
            client_id: self.next_client_id(),
            client_ip: client,
            auth_required: self.auth_required(),
            nonce: None,
            ldm: self.is_lame_duck(),
            connect_info: false,
            remote_account: None,
            acc_is_sys: false,
        };
        serde_json::to_string(&info).expect("INFO has string keys and plain values only")
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
        if self.connections() >= self.limits().connections_max {
            return None;
        }
        let shard = (0..self.shards.len()).min_by_key(|shard| self.connections_of(*shard))?;
        self.shards[shard].connections.fetch_add(1, Ordering::AcqRel);
        Some(shard)
    }

    /// Connections, those on their way to their shard included.
    pub(crate) fn connections(&self) -> usize {
        (0..self.shards.len()).map(|shard| self.connections_of(shard)).sum()
    }

    pub(crate) fn connections_of(&self, shard: usize) -> usize {
        self.shards[shard].connections.load(Ordering::Acquire)
    }

    /// The limits in force. For whoever comes seldom; a shard has its own copy.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other limits in force and has every shard apply them.
    pub(crate) fn set_limits(&self, limits: Limits) {
        let limits = Arc::new(limits);
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&limits);
        for shard in &self.shards {
            shard.inbox.set_bytes_max(limits.pending_bytes_max);
            shard.inbox.push(Envelope::LimitsChanged);
        }
    }

    /// The number of a system event.
    pub(crate) fn next_event_id(&self) -> u64 {
        self.event_ids.fetch_add(1, Ordering::Relaxed)
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
