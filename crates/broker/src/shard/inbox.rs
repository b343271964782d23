//! What other threads leave for a shard: new connections, messages for its subscribers, word of changed identities.
//!
//! A sender collects a whole read batch before it pushes, and only the push that finds the inbox empty wakes the
//! shard: one wake per batch, not per message.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::look::Question;
use super::message::Msg;
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
            Self::Connection(_) | Self::UsersChanged | Self::LimitsChanged | Self::LameDuck | Self::SendAway(_) | Self::Question(_) | Self::Shutdown => 0,
        }
    }
}

/// A shard's letter box. A std mutex, held for a push or a swap.
pub(crate) struct Inbox {
    bytes_max: AtomicUsize,
    waiting: Mutex<Vec<Envelope>>,
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
        self.bytes.fetch_add(envelope.len_bytes(), Ordering::AcqRel);
        let was_empty = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(envelope);
            waiting.len() == 1
        };
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Waits for something to arrive and takes all of it. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<Envelope> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                // Not set to nothing: a push counts its bytes before it puts them here.
                let bytes = taken.iter().map(Envelope::len_bytes).sum();
                self.bytes.fetch_sub(bytes, Ordering::AcqRel);
                self.drained.notify_waiters();
                return taken;
            }
            self.arrived.notified().await;
        }
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
    targets: Vec<Arc<Subscription>>,
}

/// Lengths of the pieces of one message in [`Batch::bytes`], in this order.
struct Packed {
    subject: usize,
    reply: Option<usize>,
    header: Option<usize>,
    body_crlf: usize,
    targets: usize,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn len_bytes(&self) -> usize {
        self.bytes.len() + self.targets.len() * size_of::<Arc<Subscription>>()
    }

    /// Adds `message` for all of `targets`.
    pub(crate) fn push(&mut self, message: &Msg<'_>, targets: &[Arc<Subscription>]) {
        self.bytes.extend_from_slice(message.subject);
        self.bytes.extend_from_slice(message.reply.unwrap_or_default());
        self.bytes.extend_from_slice(message.body_crlf);
        self.targets.extend_from_slice(targets);
        self.messages.push(Packed {
            subject: message.subject.len(),
            reply: message.reply.map(<[u8]>::len),
            header: message.header_len,
            body_crlf: message.body_crlf.len(),
            targets: targets.len(),
        });
    }

    /// Hands each message to `deliver` with its targets, in order.
    pub(crate) fn unpack(&self, mut deliver: impl FnMut(&Msg<'_>, &[Arc<Subscription>])) {
        let (mut bytes, mut targets) = (self.bytes.as_slice(), self.targets.as_slice());
        for packed in &self.messages {
            let mut take = |len| {
                let (piece, rest) = bytes.split_at(len);
                bytes = rest;
                piece
            };
            let message = Msg {
                subject: take(packed.subject),
                reply: packed.reply.map(&mut take),
                header_len: packed.header,
                body_crlf: take(packed.body_crlf),
                tail: None,
                tail: None,
                frame: None,
            };
            let (mine, rest) = targets.split_at(packed.targets);
            targets = rest;
            deliver(&message, mine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize) -> Envelope {
        let body = vec![b'x'; bytes];
        let message = Msg { subject: b"", reply: None, header_len: None, body_crlf: &body, tail: None, frame: None };
        let mut batch = Batch::default();
        batch.push(&message, &[]);
        Envelope::Batch(batch)
    }

    #[tokio::test]
    async fn bytes_that_are_still_on_their_way_in_stay_counted() {
        let inbox = Inbox::new(8000);
        inbox.push(batch(600));
        // What a push has done when another thread interrupts it: counted, not yet put down.
        inbox.bytes.fetch_add(1200, Ordering::AcqRel);
        assert!(inbox.is_full());
        assert_eq!(inbox.take().await.len(), 1);
        assert!(inbox.is_full(), "the other batch is as large as it was");
        inbox.waiting.lock().unwrap().push(batch(1200));
        assert_eq!(inbox.take().await.len(), 1);
        assert!(!inbox.is_full());
        assert_eq!(inbox.bytes.load(Ordering::Acquire), 0);
        inbox.until_drained().await;
    }
}
