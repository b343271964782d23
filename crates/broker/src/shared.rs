//! What the shards of one server have in common: the subscription trie, the identities, the inboxes. No socket, no
//! connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ostler_broker_proto::Sublist;

use crate::auth::{Entry, Users};
use crate::limits::Limits;
use crate::link::Subscription;
use crate::options::Builder;
use crate::shard::inbox::Inbox;
use crate::stats::ShardCounters;

/// Removals for which the trie is locked at a time.
const REMOVALS_PER_LOCK: usize = 1024;

/// One per server, behind an `Arc` in every shard.
pub(crate) struct Shared {
    pub(crate) server_id: String,
    pub(crate) server_name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) users: Users,
    /// Who is a connection without credential; `None` refuses it.
    pub(crate) anonymous: Option<Arc<Entry>>,
    /// Whether messages that clients cannot read are refused.
    pub(crate) strict_messages: bool,
    pub(crate) shards: Vec<ShardLink>,
    pub(crate) stopping: AtomicBool,
    client_ids: AtomicU64,
    subscription_ids: AtomicU64,
    /// Written on SUB and UNSUB, read when a route is not in a shard's cache: a lock is off the path of messages.
    sublist: RwLock<Sublist<Arc<Subscription>>>,
    /// [`Sublist::generation`], readable without the lock: one load validates a cached route.
    generation: AtomicU64,
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
            client_ids: AtomicU64::new(1),
            subscription_ids: AtomicU64::new(1),
            sublist: RwLock::default(),
            generation: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_client_id(&self) -> u64 {
        self.client_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// What the trie calls a subscription.
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

    pub(crate) fn auth_required(&self) -> bool {
        self.anonymous.is_none()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the trie; with the generation the answer belongs to.
    pub(crate) fn read_subscriptions<R>(
        &self,
        read: impl FnOnce(&Sublist<Arc<Subscription>>) -> R,
    ) -> (u64, R) {
        let sublist = self.sublist.read().unwrap_or_else(PoisonError::into_inner);
        (sublist.generation(), read(&sublist))
    }

    pub(crate) fn subscribe(&self, subscription: &Arc<Subscription>) {
        self.change_subscriptions(|sublist| {
            let (filter, queue) = (&subscription.filter, subscription.queue.as_deref());
            sublist.insert(filter, queue, subscription.id, Arc::clone(subscription));
        });
    }

    /// Ends them and removes all of them from the trie, a part at a time: other shards wait for the lock.
    pub(crate) fn unsubscribe<'a>(&self, subscriptions: impl IntoIterator<Item = &'a Arc<Subscription>>) {
        let mut subscriptions = subscriptions.into_iter().peekable();
        while subscriptions.peek().is_some() {
            self.change_subscriptions(|sublist| {
                for subscription in subscriptions.by_ref().take(REMOVALS_PER_LOCK) {
                    subscription.end();
                    sublist.remove(&subscription.filter, subscription.queue.as_deref(), subscription.id);
                }
            });
        }
    }

    fn change_subscriptions(&self, change: impl FnOnce(&mut Sublist<Arc<Subscription>>)) {
        let mut sublist = self.sublist.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut sublist);
        self.generation.store(sublist.generation(), Ordering::Release);
    }
}
