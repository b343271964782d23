//! Subject spaces. Each account has subscriptions of its own, and a message is matched against those of its
//! publisher's account only: that is the whole of the isolation, there is no way across.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ostler_broker_proto::Sublist;

use crate::link::Subscription;

/// The account of everybody who was given none.
pub(crate) const GLOBAL_ACCOUNT: &str = "$G";
/// The account that system events are published into, unless the builder names another.
pub(crate) const SYSTEM_ACCOUNT: &str = "$SYS";

/// Removals for which the trie is locked at a time.
const REMOVALS_PER_LOCK: usize = 1024;

/// What [`is_account`] asks for.
pub(crate) const ACCOUNT_RULE: &str = "it must not be empty nor contain white space, `.`, `*` or `>`";

/// Whether this can be the name of an account: it stands as a token in the subjects of system events.
pub(crate) fn is_account(name: &str) -> bool {
    let is_odd = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '.' | '*' | '>');
    !name.is_empty() && !name.contains(is_odd)
}

/// One subject space.
pub(crate) struct Account {
    pub(crate) name: Box<str>,
    /// Written on SUB and UNSUB, read when a route is not in a shard's cache: a lock is off the path of messages.
    sublist: RwLock<Sublist<Arc<Subscription>>>,
    /// [`Sublist::generation`], readable without the lock: one load validates a cached route.
    generation: AtomicU64,
    /// How many subscriptions there are, readable without the lock.
    subscriptions: AtomicUsize,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.name).finish()
    }
}

impl Account {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            sublist: RwLock::default(),
            generation: AtomicU64::new(0),
            subscriptions: AtomicUsize::new(0),
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Live subscriptions.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Acquire)
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
        self.subscriptions.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends them and removes all of them from the trie, a part at a time: other shards wait for the lock. Each must have
    /// been given to [`subscribe`](Self::subscribe) here, once.
    pub(crate) fn unsubscribe<'a>(&self, subscriptions: impl IntoIterator<Item = &'a Arc<Subscription>>) {
        let mut subscriptions = subscriptions.into_iter().peekable();
        while subscriptions.peek().is_some() {
            let mut removed = 0;
            self.change_subscriptions(|sublist| {
                for subscription in subscriptions.by_ref().take(REMOVALS_PER_LOCK) {
                    subscription.end();
                    sublist.remove(&subscription.filter, subscription.queue.as_deref(), subscription.id);
                    removed += 1;
                }
            });
            self.subscriptions.fetch_sub(removed, Ordering::AcqRel);
        }
    }

    fn change_subscriptions(&self, change: impl FnOnce(&mut Sublist<Arc<Subscription>>)) {
        let mut sublist = self.sublist.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut sublist);
        self.generation.store(sublist.generation(), Ordering::Release);
    }
}

/// The accounts of a server. One is made when somebody is first admitted to it and stays: there are as many as
/// identities ever named.
pub(crate) struct Accounts {
    by_name: RwLock<BTreeMap<Box<str>, Arc<Account>>>,
    global: Arc<Account>,
    system: Arc<Account>,
}

impl Accounts {
    /// The global account and the system account of this name.
    pub(crate) fn new(system: &str) -> Self {
        let global = Account::new(GLOBAL_ACCOUNT);
        let system = if system == GLOBAL_ACCOUNT { Arc::clone(&global) } else { Account::new(system) };
        let by_name = [&global, &system].map(|account| (account.name.clone(), Arc::clone(account)));
        Self { by_name: RwLock::new(BTreeMap::from(by_name)), global, system }
    }

    pub(crate) fn global(&self) -> &Arc<Account> {
        &self.global
    }

    /// The account that system events are published into.
    pub(crate) fn system(&self) -> &Arc<Account> {
        &self.system
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The account of this name, which is made if need be. For CONNECT, not for messages.
    pub(crate) fn get(&self, name: &str) -> Arc<Account> {
        if let Some(account) = self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(account);
        }
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(by_name.entry(name.into()).or_insert_with(|| Account::new(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;

    fn subscription(id: u64, filter: &[u8]) -> Arc<Subscription> {
        Arc::new(Subscription::new(id, Arc::new(Link::new(id, 0, 0)), filter, None, b"1", false))
    }

    fn listeners(account: &Account, subject: &[u8]) -> usize {
        account.read_subscriptions(|sublist| sublist.matches(subject)).1.plain.len()
    }

    #[test]
    fn a_subscription_is_known_in_its_own_account_only() {
        let accounts = Accounts::new(SYSTEM_ACCOUNT);
        let (a, b) = (accounts.get("A"), accounts.get("B"));
        let everything = subscription(1, b">");
        a.subscribe(&everything);
        assert_eq!([&a, &b].map(|account| listeners(account, b"x")), [1, 0]);
        assert_eq!(listeners(accounts.system(), b"x") + listeners(accounts.global(), b"x"), 0);
        assert_eq!((a.subscriptions(), b.subscriptions()), (1, 0));
        a.unsubscribe([&everything]);
        assert_eq!((a.subscriptions(), listeners(&a, b"x")), (0, 0));
        assert!(everything.has_ended());
    }

    #[test]
    fn a_name_is_always_the_same_account() {
        let accounts = Accounts::new("ADMIN");
        assert!(Arc::ptr_eq(&accounts.get("A"), &accounts.get("A")));
        assert!(Arc::ptr_eq(&accounts.get(GLOBAL_ACCOUNT), accounts.global()));
        assert!(Arc::ptr_eq(&accounts.get("ADMIN"), accounts.system()));
        let names: Vec<_> = accounts.all().iter().map(|account| account.name.to_string()).collect();
        assert_eq!(names, [GLOBAL_ACCOUNT, "A", "ADMIN"]);
        let one = Accounts::new(GLOBAL_ACCOUNT);
        assert!(Arc::ptr_eq(one.global(), one.system()));
    }
}
