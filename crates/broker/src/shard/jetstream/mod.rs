//! JetStream in its shard: what is routed to it, when it is called, and what becomes of what it sends. It decides
//! everything itself and does nothing itself; see [`ostler_jetstream`].
//!
//! ```text
//!  a message on a subject of ours -> deliver -> on_message ---.
//!  end of a batch                 -> flush   -> end_of_batch -+-> send -> deliver to the subscribers
//!  something is due               -> tick    -> on_tick ------+           `-> to ourselves: queued, handed in afterwards
//!  a sync came back               -> receive -> synced -------'
//! ```
//!
//! For the routing table JetStream is a client of shard 0 with a place that no connection has: its filters stand there as
//! ordinary subscriptions of a link without a socket. While it is called it is out of its place ([`Lent`]), and a message
//! to it is queued. It is handed messages one by one, inside the batch of whoever published them.
//!
//! Failures: a panic in a call ends the server, because nobody would answer for the streams any more. A sync that takes
//! long stalls the link, so that publishers wait as for any slow subscriber.

mod bus;
mod clock;
mod syncs;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_jetstream::{Incoming, JetStream, RouteChange};

use self::bus::ShardBus;
use self::clock::Clock;
pub(super) use self::syncs::Synced;
use self::syncs::Syncs;
use super::Shard;
use super::inbox::Inbox;
use super::message::Msg;
use crate::jetstream::{Look, OWNER, Opened, Store};
use crate::link::{Link, NO_SLOT, Subscription};
use crate::time::unix_nanos;

/// Its number among the clients: theirs begin at 1 and never come so far.
const ID: u64 = u64::MAX;
/// Messages that JetStream sent itself and that are handed in during one batch. Streams that feed each other in a
/// circle must not keep the shard.
const QUEUED_PER_BATCH: usize = 1024;
/// The longest sleep while something is due: the wall clock, which says when, may be set.
const SLEEP_MAX: Duration = Duration::from_secs(2);
/// How long publishers that wait for the disk are waited for when the server ends.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// How long it is not asked again what it waits for. Nothing of that is promised more exactly.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Publishers wait when answers that wait for the disk take this part of what may wait for one client: hundreds of
/// thousands of them.
const STALL_FRACTION: usize = 4;
/// What must not happen before, to keep a clock that is always late from spinning.
const SLEEP_MIN: Duration = Duration::from_micros(200);

/// JetStream's room in a shard; empty in all but one.
#[derive(Default)]
pub(crate) struct Streams(Option<Box<Room>>);

struct Room {
    /// `None` while it is called, and after a call that panicked.
    jetstream: Option<Box<JetStream>>,
    store: Store,
    link: Arc<Link>,
    /// What is routed here, by filter: how often it was added, and its subscription.
    routed: HashMap<Box<[u8]>, (usize, Arc<Subscription>)>,
    /// What JetStream sent to itself.
    queue: VecDeque<Queued>,
    /// Bytes in it, what each message takes beside its own included.
    queued_bytes: usize,
    /// It was called in this batch.
    is_touched: bool,
    syncs: Syncs,
    clock: Clock,
    due: Option<Instant>,
    /// When it was last asked what it waits for.
    looked_at: Option<Instant>,
    /// Where messages are put together.
    scratch: Vec<u8>,
    /// Nothing more is taken: the server ends.
    is_ending: bool,
}

/// A message on its way from JetStream to itself.
struct Queued {
    bytes: Vec<u8>,
    /// Where it is sent, when that is not its subject; else empty.
    to: usize,
    subject: usize,
    reply: usize,
    headers: usize,
}

impl Streams {
    /// The room of an open JetStream.
    pub(crate) fn new(opened: Option<Opened>) -> Self {
        Self(opened.map(|Opened { jetstream, store }| {
            Box::new(Room {
                jetstream: Some(jetstream),
                store,
                link: Arc::new(Link::new(ID, OWNER, NO_SLOT)),
                routed: HashMap::new(),
                queue: VecDeque::new(),
                queued_bytes: 0,
                is_touched: true,
                syncs: Syncs::default(),
                clock: Clock::default(),
                due: None,
                looked_at: None,
                scratch: Vec::new(),
                is_ending: false,
            })
        }))
    }

    /// When JetStream has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.as_ref()?.due
    }
}

/// Whether a subscription is JetStream's.
pub(super) fn is_ours(target: &Subscription) -> bool {
    target.link.slot == NO_SLOT
}

/// JetStream out of its place for a call, and the shard as its bus. Back in its place when dropped - unless the call
/// panicked: what it was about to do is half done, and the server ends.
struct Lent<'a> {
    jetstream: Option<Box<JetStream>>,
    bus: ShardBus<'a>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let shard = self.bus.0.get_mut();
        if std::thread::panicking() {
            tracing::error!("JetStream failed; the server ends");
            shard.shared.stop();
        } else if let Some(room) = &mut shard.streams.0 {
            room.jetstream = self.jetstream.take();
        }
    }
}

impl Shard {
    /// Calls JetStream, and does what that changes in the routes. `None` where there is none, or it is being called.
    fn call<R>(&mut self, call: impl FnOnce(&mut JetStream, &mut ShardBus<'_>, i64) -> R) -> Option<R> {
        let batch = self.now;
        let room = self.streams.0.as_deref_mut()?;
        let jetstream = room.jetstream.take()?;
        let now = room.clock.now(batch, unix_nanos);
        room.is_touched = true;
        let mut lent = Lent { jetstream: Some(jetstream), bus: ShardBus(RefCell::new(self)) };
        let (result, changes) = {
            let Lent { jetstream, bus } = &mut lent;
            let jetstream = jetstream.as_deref_mut()?;
            (call(jetstream, bus, now), jetstream.route_changes())
        };
        drop(lent);
        changes.into_iter().for_each(|change| self.change_route(change));
        Some(result)
    }

    fn change_route(&mut self, change: RouteChange) {
        let Some(room) = self.streams.0.as_deref_mut() else { return };
        let account = &self.shared.accounts.get(self.shared.jetstream.account());
        match change {
            RouteChange::Add(filter) => {
                let (times, _) = room.routed.entry(filter.as_bytes().into()).or_insert_with_key(|filter| {
                    let id = self.shared.next_subscription_id();
                    let link = Arc::clone(&room.link);
                    let subscription =
                        Subscription::new(id, link, filter, None, b"1", false).in_account(account);
                    let subscription = Arc::new(subscription);
                    account.subscribe(&subscription);
                    (0, subscription)
                });
                *times += 1;
            }
            RouteChange::Remove(filter) => {
                let Some((times, _)) = room.routed.get_mut(filter.as_bytes()) else { return };
                *times -= 1;
                if *times == 0
                    && let Some((_, subscription)) = room.routed.remove(filter.as_bytes())
                {
                    account.unsubscribe([&subscription]);
                    self.sweep_soon();
                }
            }
        }
    }

    /// Delivers to a subscription that no connection has: to JetStream, or to nobody.
    #[inline(never)]
    pub(super) fn deliver_to_streams(&mut self, target: &Subscription, message: &Msg<'_>) -> bool {
        if !is_ours(target) || target.has_ended() {
            return false;
        }
        let Some(room) = self.streams.0.as_deref_mut().filter(|room| !room.is_ending) else {
            return false;
        };
        let incoming = incoming_of(message);
        if room.jetstream.is_none() {
            // It is being called: this is what it says itself.
            room.enqueue(Queued::new(message.to.unwrap_or(incoming.subject), &incoming));
            return true;
        }
        self.call(|jetstream, bus, now| jetstream.on_message(&incoming, now, bus)).is_some()
    }

    /// Ends a batch for JetStream: hands in what it sent itself, writes, and has synced what must be.
    pub(super) fn end_batch_of_streams(&mut self) {
        if self.streams.0.as_ref().is_none_or(|room| !room.is_touched) {
            return;
        }
        let mut queued = 0;
        loop {
            while queued < QUEUED_PER_BATCH
                && let Some(message) = self.streams.0.as_mut().and_then(|room| room.dequeue())
            {
                queued += 1;
                let (to, incoming) = message.parts();
                // For streams to store, and never a request: nobody's rights were looked at.
                self.call(|jetstream, bus, now| jetstream.on_delivery(to, &incoming, now, bus));
            }
            let Some(jobs) = self.call(|jetstream, bus, _| jetstream.end_of_batch(bus)) else { return };
            self.begin_syncs(jobs);
            let is_more = self.streams.0.as_ref().is_some_and(|room| !room.queue.is_empty());
            if !is_more || queued >= QUEUED_PER_BATCH {
                break;
            }
        }
        self.take_stock();
    }

    /// Looks at what JetStream waits for: time, then the clock is told; the disk, then publishers may have to wait too.
    ///
    /// It asks every stream, so under load not after each batch, but so many times a second.
    fn take_stock(&mut self) {
        let stall_bytes = self.limits.pending_bytes_max / STALL_FRACTION;
        let Some(room) = self.streams.0.as_deref_mut() else { return };
        room.is_touched = false;
        let Some(jetstream) = room.jetstream.as_deref_mut() else { return };
        let now = Instant::now();
        let again = room.looked_at.map(|at| at + LOOK_PAUSE).filter(|again| *again > now);
        let due = match again {
            Some(again) => Some(room.due.map_or(again, |due| due.min(again))),
            None => {
                room.looked_at = Some(now);
                let waiting = jetstream.waiting_bytes();
                if waiting > stall_bytes {
                    room.link.stall();
                } else if waiting <= stall_bytes / 2 {
                    room.link.release();
                }
                let due = jetstream.next_due();
                due.map(|due| now + room.clock.until(due, now).clamp(SLEEP_MIN, SLEEP_MAX))
            }
        };
        let due = if room.queue.is_empty() { due } else { Some(now + SLEEP_MIN) };
        let is_sooner = due.is_some_and(|due| room.due.is_none_or(|before| due < before));
        room.due = due;
        if is_sooner {
            self.timers_changed.notify_one();
        }
    }

    /// Does what time asks JetStream for. The batch must be ended afterwards.
    pub(super) fn tick_streams(&mut self, now: Instant) {
        let Some(room) = self.streams.0.as_deref_mut().filter(|room| room.due.is_some_and(|due| due <= now))
        else {
            return;
        };
        room.is_touched = true;
        room.looked_at = None;
        let time = room.clock.now(now, unix_nanos);
        let Some(jetstream) = room.jetstream.as_deref_mut() else { return };
        if jetstream.next_due().is_some_and(|due| due <= time) {
            let jobs = self.call(|jetstream, bus, now| jetstream.on_tick(now, bus));
            self.begin_syncs(jobs.unwrap_or_default());
        }
    }

    /// Somebody began to listen.
    pub(super) fn note_interest(&mut self, account: usize, filter: &[u8]) {
        if account != self.shared.jetstream.place() || !self.shared.jetstream.is_on {
            return;
        }
        if self.streams.0.is_some() {
            self.call(|jetstream, _, _| jetstream.interest_changed(filter));
        } else {
            use super::inbox::Envelope;
            let owner = &self.shared.shards[OWNER];
            owner.inbox.push(Envelope::Interest(filter.into()));
        }
    }

    /// Shows JetStream to somebody outside.
    pub(super) fn show_streams(&mut self, look: Look) {
        let room = self.streams.0.as_deref_mut();
        look(room.and_then(|room| Some((room.jetstream.as_deref_mut()?, &room.store))));
    }
}

/// What JetStream is told of a message.
fn incoming_of<'a>(message: &Msg<'a>) -> Incoming<'a> {
    let body = &message.body_crlf[..message.body_crlf.len() - 2];
    let (headers, payload) = body.split_at(message.header_len.unwrap_or(0));
    Incoming { subject: message.subject.subject, reply: message.reply.unwrap_or_default(), headers, payload }
}

impl Room {
    fn enqueue(&mut self, message: Queued) {
        self.queued_bytes += message.size();
        self.queue.push_back(message);
    }

    fn dequeue(&mut self) -> Option<Queued> {
        let message = self.queue.pop_front()?;
        self.queued_bytes -= message.size();
        Some(message)
    }
}

impl Queued {
    fn new(to: &[u8], message: &Incoming<'_>) -> Self {
        let Incoming { subject, reply, headers, payload } = *message;
        let bytes = [to, subject, reply, headers, payload].concat();
        Self { bytes, to: to.len(), subject: subject.len(), reply: reply.len(), headers: headers.len() }
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }

    fn parts(&self) -> (&[u8], Incoming<'_>) {
        let (to, rest) = self.bytes.split_at(self.to);
        let (subject, rest) = rest.split_at(self.subject);
        let (reply, rest) = rest.split_at(self.reply);
        let (headers, payload) = rest.split_at(self.headers);
        (to, Incoming { subject, reply, headers, payload })
    }
}

/// Takes no more messages and waits for the syncs that publishers wait for, so that they are still told.
pub(super) async fn settle(shard: &RefCell<Shard>, inbox: &Inbox) {
    if let Some(room) = &mut shard.borrow_mut().streams.0 {
        room.is_ending = true;
    }
    let settled = tokio::time::timeout(SETTLE_MAX, async {
        while shard.borrow().streams.0.as_ref().is_some_and(|room| !room.syncs.is_idle()) {
            let envelopes = inbox.take().await;
            shard.borrow_mut().receive(envelopes);
        }
    });
    if settled.await.is_err() {
        tracing::warn!("the disk did not answer in time; publishers that wait are not told");
    }
}

/// Closes every stream. Takes as long as the disk does.
pub(super) async fn close(shard: &RefCell<Shard>) {
    let Some(room) = shard.borrow_mut().streams.0.take() else { return };
    room.link.close();
    let Room { jetstream, store, .. } = *room;
    let closed = tokio::task::spawn_blocking(move || jetstream.map_or(Ok(()), |jetstream| jetstream.close()));
    match closed.await {
        Ok(Ok(())) => tracing::info!(directory = %store.dir.display(), "JetStream is closed"),
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "a stream was not closed in order; what was acknowledged is on disk");
        }
        Err(error) => tracing::error!(%error, "closing JetStream failed; what was acknowledged is on disk"),
    }
}
