//! What shards know of each other's connections and subscriptions: enough to route to them and to wait for them.
//! The connection itself never leaves its shard.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use crate::accounts::Account;

/// The place of a link that is no connection: JetStream's.
pub(crate) const NO_SLOT: usize = usize::MAX;

/// The part of a connection that other shards see.
#[derive(Debug)]
pub(crate) struct Link {
    /// Unique in the server; INFO calls it `client_id`.
    pub(crate) id: u64,
    /// The shard that owns the connection.
    pub(crate) shard: usize,
    /// Its place there; valid while the place still holds this very link.
    pub(crate) slot: usize,
    closed: AtomicBool,
    stalled: AtomicBool,
    released: Notify,
}

impl Link {
    pub(crate) fn new(id: u64, shard: usize, slot: usize) -> Self {
        Self {
            id,
            shard,
            slot,
            closed: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            released: Notify::new(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether so much waits for this client that its publishers should pause.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(crate) fn stall(&self) {
        self.stalled.store(true, Ordering::Release);
    }

    /// Lets waiting publishers go on.
    pub(crate) fn release(&self) {
        if self.stalled.swap(false, Ordering::AcqRel) {
            self.released.notify_waiters();
        }
    }

    /// Marks the end of the connection. Publishers that waited for it go on: nobody else would ever wake them.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.stalled.store(false, Ordering::Release);
        self.released.notify_waiters();
    }

    /// Waits until the client took enough of what waits for it, or is gone. Cancel-safe.
    pub(crate) async fn until_released(&self) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Registered before looking, so that a release in between is not missed.
            released.as_mut().enable();
            if !self.is_stalled() {
                return;
            }
            released.await;
        }
    }
}

/// One subscription, shared by the trie, the route caches and its connection.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Unique in the server; what the trie knows it by.
    pub(crate) id: u64,
    pub(crate) link: Arc<Link>,
    pub(crate) filter: Box<[u8]>,
    pub(crate) queue: Option<Box<[u8]>>,
    /// Where other members of its queue group are found. Weak, because the account has it in its trie.
    account: Weak<Account>,
    /// ` <sid> `, the way it stands in MSG.
    spaced_sid: Box<[u8]>,
    /// Messages delivered since SUB. Written by the owning shard only, hence plain loads and stores.
    delivered: AtomicU64,
    /// Deliveries after which it ends; 0 for never. Written by the owning shard only.
    max: AtomicU64,
    /// UNSUB, a withdrawn permission or the end of the connection: what is on its way is not delivered any more.
    ended: AtomicBool,
    /// Whether the permissions deny part of the filter, so that each delivery is looked at.
    partly_denied: AtomicBool,
}

impl Subscription {
    pub(crate) fn new(
        id: u64,
        link: Arc<Link>,
        filter: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        partly_denied: bool,
    ) -> Self {
        Self {
            id,
            link,
            filter: filter.into(),
            queue: queue.map(Into::into),
            account: Weak::new(),
            spaced_sid: [b" ", sid, b" "].concat().into(),
            delivered: AtomicU64::new(0),
            max: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            partly_denied: AtomicBool::new(partly_denied),
        }
    }

    pub(crate) fn in_account(self, account: &Arc<Account>) -> Self {
        Self { account: Arc::downgrade(account), ..self }
    }

    /// The account it was made in.
    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.account.upgrade()
    }

    pub(crate) fn sid(&self) -> &[u8] {
        &self.spaced_sid[1..self.spaced_sid.len() - 1]
    }

    pub(crate) fn spaced_sid(&self) -> &[u8] {
        &self.spaced_sid
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whoever still holds it - a cached route, a batch in an inbox - delivers to it no more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn is_partly_denied(&self) -> bool {
        self.partly_denied.load(Ordering::Relaxed)
    }

    pub(crate) fn set_partly_denied(&self, denied: bool) {
        self.partly_denied.store(denied, Ordering::Relaxed);
    }

    /// Sets the number of deliveries since SUB after which it ends; returns whether that many were made already.
    pub(crate) fn set_max(&self, max: u64) -> bool {
        self.max.store(max, Ordering::Relaxed);
        self.delivered.load(Ordering::Relaxed) >= max
    }

    /// Deliveries so far, and after how many it ends.
    pub(crate) fn progress(&self) -> (u64, Option<u64>) {
        let max = self.max.load(Ordering::Relaxed);
        (self.delivered.load(Ordering::Relaxed), Some(max).filter(|max| *max != 0))
    }

    /// Counts one delivery.
    pub(crate) fn count_delivery(&self) -> Delivery {
        if self.has_ended() {
            return Delivery::Ended;
        }
        let delivered = self.delivered.load(Ordering::Relaxed) + 1;
        let max = self.max.load(Ordering::Relaxed);
        if max != 0 && delivered > max {
            return Delivery::Ended;
        }
        self.delivered.store(delivered, Ordering::Relaxed);
        if delivered == max { Delivery::Last } else { Delivery::Normal }
    }
}

/// What a delivery is to its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One of many.
    Normal,
    /// The one that uses up the maximum; still made.
    Last,
    /// One too many: not made.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delivery_number_max_is_the_last() {
        let sub = Subscription::new(1, Arc::new(Link::new(1, 0, 0)), b"a", None, b"7", false);
        assert_eq!(sub.count_delivery(), Delivery::Normal);
        assert!(!sub.set_max(2));
        assert_eq!(sub.count_delivery(), Delivery::Last);
        assert_eq!(sub.count_delivery(), Delivery::Ended);
        assert!(sub.set_max(2));
        assert_eq!(sub.sid(), b"7");
    }

    #[test]
    fn nothing_is_delivered_after_the_end() {
        let sub = Subscription::new(1, Arc::new(Link::new(1, 0, 0)), b"a", None, b"7", false);
        assert_eq!(sub.count_delivery(), Delivery::Normal);
        sub.end();
        assert_eq!(sub.count_delivery(), Delivery::Ended);
    }

    /// Then its last delivery would end whatever has its sid by now.
    #[test]
    fn an_ended_subscription_has_no_last_delivery() {
        let sub = Subscription::new(1, Arc::new(Link::new(1, 0, 0)), b"a", None, b"7", false);
        assert!(!sub.set_max(1));
        sub.end();
        assert_eq!(sub.count_delivery(), Delivery::Ended);
    }
}
