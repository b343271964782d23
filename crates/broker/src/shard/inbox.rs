//! What other threads leave for a shard: new connections, messages for its subscribers, word of changed identities.
//!
//! A sender collects a whole read batch before it pushes, and only the push that finds the inbox empty wakes the
//! shard: one wake per batch, not per message.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[cfg(feature = "jetstream")]
use super::jetstream::Synced;
use super::look::Question;
use super::message::Msg;
use super::verdicts::Hashed;
#[cfg(feature = "jetstream")]
use crate::jetstream::Look;
use crate::link::Subscription;
use crate::listen::Incoming;

/// An inbox is full at this fraction of `max_pending`: publishers are then not read, each having added at most the
/// batch it had read already. All of an inbox may be for one subscriber, and must not carry it from "not yet stalled"
/// (three quarters of `max_pending`) over the edge at once.
const FULL_FRACTION: usize = 8;

/// One thing left for a shard.
pub(crate) enum Envelope {
    /// A connection that was given to this shard.
    Connection(Box<Incoming>),
    /// Messages published in another shard.
    Batch(Batch),
    /// An identity was changed or removed.
    UsersChanged,
    /// Somebody wants to know what the shard holds.
    Question(Question),
    /// A sync of a stream is done.
    #[cfg(feature = "jetstream")]
    Synced(Synced),
    /// Somebody listens on this filter in the account of everybody.
    #[cfg(feature = "jetstream")]
    Interest(Box<[u8]>),
    /// Somebody wants to look at JetStream.
    #[cfg(feature = "jetstream")]
    Look(Look),
    /// Other limits are in force.
    LimitsChanged,
    /// Nobody new is let in, and the clients are to be told that the server will end.
    LameDuck,
    /// So many connections are to be closed.
    SendAway(usize),
    /// The server ends.
    Shutdown,
}

impl Envelope {
    /// What it counts against the inbox: messages only, the rest is rare and small.
    fn len_bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.len_bytes(),
            Self::Connection(_)
            | Self::UsersChanged
            | Self::LimitsChanged
            | Self::LameDuck
            | Self::SendAway(_)
            | Self::Question(_)
            | Self::Shutdown => 0,
            #[cfg(feature = "jetstream")]
            Self::Synced(_) | Self::Interest(_) | Self::Look(_) => 0,
        }
    }
}

#[derive(Default)]
struct Waiting {
    envelopes: Vec<Envelope>,
    /// Emptied batches, for those who send: growing a new one copies it several times over.
    spares: Vec<Batch>,
}

/// A shard's letter box. A std mutex, held for a push or a swap.
pub(crate) struct Inbox {
    bytes_max: AtomicUsize,
    waiting: Mutex<Waiting>,
    bytes: AtomicUsize,
    arrived: Notify,
    drained: Notify,
}

impl Inbox {
    pub(crate) fn new(pending_bytes_max: usize) -> Self {
        Self {
            bytes_max: AtomicUsize::new(pending_bytes_max / FULL_FRACTION),
            waiting: Mutex::default(),
            bytes: AtomicUsize::new(0),
            arrived: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Applies another `max_pending`.
    pub(crate) fn set_bytes_max(&self, pending_bytes_max: usize) {
        self.bytes_max.store(pending_bytes_max / FULL_FRACTION, Ordering::Release);
        self.drained.notify_waiters();
    }

    pub(crate) fn push(&self, envelope: Envelope) {
        self.put(|_| envelope);
    }

    /// Leaves `batch`, which is empty afterwards.
    pub(crate) fn push_batch(&self, batch: &mut Batch) {
        self.put(|waiting| {
            let spare = waiting.spares.pop().unwrap_or_default();
            Envelope::Batch(std::mem::replace(batch, spare))
        });
    }

    fn put(&self, envelope: impl FnOnce(&mut Waiting) -> Envelope) {
        let was_empty = {
            let mut waiting = self.lock();
            let envelope = envelope(&mut waiting);
            self.bytes.fetch_add(envelope.len_bytes(), Ordering::AcqRel);
            waiting.envelopes.push(envelope);
            waiting.envelopes.len() == 1
        };
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Keeps a batch that was delivered for the next sender.
    pub(crate) fn give_back(&self, mut batch: Batch) {
        batch.clear();
        let mut waiting = self.lock();
        if waiting.spares.len() < SPARES_MAX && batch.bytes.capacity() <= SPARE_BYTES_MAX {
            waiting.spares.push(batch);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to arrive and takes all of it. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<Envelope> {
        loop {
            let taken = std::mem::take(&mut self.lock().envelopes);
            if !taken.is_empty() {
                // Not set to nothing: another push may have counted its bytes meanwhile.
                let bytes = taken.iter().map(Envelope::len_bytes).sum();
                self.bytes.fetch_sub(bytes, Ordering::AcqRel);
                self.drained.notify_waiters();
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    /// Whether messages are waiting.
    pub(crate) fn has_messages(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > 0
    }

    /// Takes the messages, and leaves everything else where it is.
    pub(crate) fn take_batches(&self) -> Vec<Batch> {
        let mut batches = Vec::new();
        {
            let mut waiting = self.lock();
            let others = Vec::with_capacity(waiting.envelopes.len());
            for envelope in std::mem::replace(&mut waiting.envelopes, others) {
                match envelope {
                    Envelope::Batch(batch) => batches.push(batch),
                    other => waiting.envelopes.push(other),
                }
            }
        }
        let bytes = batches.iter().map(Batch::len_bytes).sum();
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.drained.notify_waiters();
        batches
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > self.bytes_max.load(Ordering::Relaxed)
    }

    /// Waits until the shard emptied its inbox. Cancel-safe.
    pub(crate) async fn until_drained(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if !self.is_full() {
                return;
            }
            drained.await;
        }
    }
}

/// Messages for subscribers of another shard, packed into three allocations however many they are.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    messages: Vec<Packed>,
    targets: Vec<Targets>,
}

/// Subscribers of messages. Counting references is what threads would get in each other's way with: a list is counted
/// once per batch, not once per message.
enum Targets {
    All(Arc<[Arc<Subscription>]>),
    One(Arc<Subscription>),
}

/// How one message lies in [`Batch::bytes`]: its subject, and then what follows the sid in `MSG`, or the reply and the
/// body alone; and then whom it is for, if that is not its subject.
struct Packed {
    hash: u64,
    subject: usize,
    to: Option<usize>,
    reply: Option<usize>,
    header: Option<usize>,
    body_crlf: usize,
    tail: Option<usize>,
    /// Its place in [`Batch::targets`].
    targets: usize,
}

/// Lists looked through for one that is there already: the members of a queue group take turns.
const TARGETS_LOOKED_AT: usize = 8;
/// Spare batches an inbox keeps, and how large.
const SPARES_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 1 << 20;

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(self.messages.as_slice()) + size_of_val(self.targets.as_slice())
    }

    /// Adds `message` for all of `targets`.
    pub(crate) fn push(&mut self, message: &Msg<'_>, targets: &Arc<[Arc<Subscription>]>) {
        let is_same = |known: &Targets| matches!(known, Targets::All(known) if Arc::ptr_eq(known, targets));
        let place = self.place_of(is_same, || Targets::All(Arc::clone(targets)));
        self.pack(message, place);
    }

    /// Adds `message` for one subscriber.
    pub(crate) fn push_one(&mut self, message: &Msg<'_>, target: &Arc<Subscription>) {
        let is_same = |known: &Targets| matches!(known, Targets::One(known) if Arc::ptr_eq(known, target));
        let place = self.place_of(is_same, || Targets::One(Arc::clone(target)));
        self.pack(message, place);
    }

    fn place_of(&mut self, is_same: impl Fn(&Targets) -> bool, new: impl FnOnce() -> Targets) -> usize {
        let first = self.targets.len().saturating_sub(TARGETS_LOOKED_AT);
        if let Some(at) = self.targets[first..].iter().rposition(is_same) {
            return first + at;
        }
        self.targets.push(new());
        self.targets.len() - 1
    }

    fn pack(&mut self, message: &Msg<'_>, targets: usize) {
        self.bytes.extend_from_slice(message.subject.subject);
        match message.tail {
            Some(tail) => self.bytes.extend_from_slice(tail),
            None => {
                self.bytes.extend_from_slice(message.reply.unwrap_or_default());
                self.bytes.extend_from_slice(message.body_crlf);
            }
        }
        self.bytes.extend_from_slice(message.to.unwrap_or_default());
        self.messages.push(Packed {
            hash: message.subject.hash,
            subject: message.subject.subject.len(),
            to: message.to.map(<[u8]>::len),
            reply: message.reply.map(<[u8]>::len),
            header: message.header_len,
            body_crlf: message.body_crlf.len(),
            tail: message.tail.map(<[u8]>::len),
            targets,
        });
    }

    /// Hands each message to `deliver` with its targets, in order.
    pub(crate) fn unpack(&self, mut deliver: impl FnMut(&Msg<'_>, &[Arc<Subscription>])) {
        let mut bytes = self.bytes.as_slice();
        for packed in &self.messages {
            let (subject, rest) = bytes.split_at(packed.subject);
            let reply_len = packed.reply.unwrap_or(0);
            let (tail, rest) = rest.split_at(packed.tail.unwrap_or(reply_len + packed.body_crlf));
            let (to, rest) = rest.split_at(packed.to.unwrap_or(0));
            bytes = rest;
            // Both begin with the reply and end with the body.
            let message = Msg {
                subject: Hashed { subject, hash: packed.hash },
                to: packed.to.map(|_| to),
                reply: packed.reply.map(|len| &tail[..len]),
                header_len: packed.header,
                body_crlf: &tail[tail.len() - packed.body_crlf..],
                tail: packed.tail.map(|_| tail),
                frame: None,
            };
            match &self.targets[packed.targets] {
                Targets::All(targets) => deliver(&message, targets),
                Targets::One(target) => deliver(&message, std::slice::from_ref(target)),
            }
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
        self.targets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;

    fn target(id: u64) -> Arc<Subscription> {
        Arc::new(Subscription::new(id, Arc::new(Link::new(id, 1, 0)), b"a", None, b"1", false))
    }

    fn message<'a>(reply: Option<&'a [u8]>, body_crlf: &'a [u8], tail: Option<&'a [u8]>) -> Msg<'a> {
        let header_len = reply.map(|_| 2);
        Msg { subject: Hashed::new(b"a.b"), to: None, reply, header_len, body_crlf, tail, frame: None }
    }

    fn batch(bytes: usize) -> Batch {
        let mut batch = Batch::default();
        batch.push_one(&message(None, &vec![b'x'; bytes], None), &target(1));
        batch
    }

    #[tokio::test]
    async fn bytes_that_are_still_on_their_way_in_stay_counted() {
        let inbox = Inbox::new(8000);
        inbox.push_batch(&mut batch(600));
        // What a push has done when another thread interrupts it: counted, not yet put down.
        let late = Envelope::Batch(batch(1200));
        inbox.bytes.fetch_add(late.len_bytes(), Ordering::AcqRel);
        assert!(inbox.is_full());
        assert_eq!(inbox.take().await.len(), 1);
        assert!(inbox.is_full(), "the other batch is as large as it was");
        inbox.lock().envelopes.push(late);
        assert_eq!(inbox.take().await.len(), 1);
        assert!(!inbox.is_full());
        assert_eq!(inbox.bytes.load(Ordering::Acquire), 0);
        inbox.until_drained().await;
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let (first, second): (Arc<[_]>, _) = ([target(1), target(2)].into(), target(3));
        let tail: &[u8] = b"R 2 4\r\nhhpp\r\n";
        let messages = [
            message(Some(b"R"), b"hhpp\r\n", Some(tail)),
            message(Some(b"R"), b"hhpp\r\n", None),
            message(None, b"p\r\n", Some(b"1\r\np\r\n")),
            message(None, b"\r\n", None),
        ];
        let mut batch = Batch::default();
        for message in &messages {
            batch.push(message, &first);
            batch.push_one(message, &second);
        }
        assert_eq!(batch.targets.len(), 2, "a list is counted once");
        let mut seen = Vec::new();
        batch.unpack(|message, targets| {
            let ids: Vec<_> = targets.iter().map(|target| target.id).collect();
            seen.push((format!("{message:?}"), ids));
        });
        let expected: Vec<_> = messages
            .iter()
            .flat_map(|message| [vec![1, 2], vec![3]].map(|ids| (format!("{message:?}"), ids)))
            .collect();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn a_delivered_batch_serves_the_next_sender() {
        let inbox = Inbox::new(1 << 20);
        let mut outbox = batch(1000);
        inbox.push_batch(&mut outbox);
        assert!(outbox.is_empty());
        let Some(Envelope::Batch(delivered)) = inbox.take().await.pop() else {
            panic!("a batch was left");
        };
        inbox.give_back(delivered);
        inbox.push_batch(&mut outbox);
        assert!(outbox.is_empty() && outbox.bytes.capacity() >= 1000);
    }
}
