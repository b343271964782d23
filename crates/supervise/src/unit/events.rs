//! What a unit tells its owner, and the queue between them; nothing here decides.
//!
//! The queue itself is unbounded, what fills it is not: the unit stops reading the pipes and stops launching while
//! more than [`QUEUED_BYTES_MAX`] bytes or [`QUEUED_EVENTS_MAX`] events wait, so a slow owner blocks the agent on
//! its own pipe, as in a shell. Facts that do not come from a pipe are few per launch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::exit::Exit;
use crate::unit::Snapshot;

/// Output bytes that may wait for the owner: a few reads of a full pipe; one line longer than this may exceed it.
pub const QUEUED_BYTES_MAX: usize = 1024 * 1024;

/// Events that may wait for the owner; bounds the cost of very short lines.
pub const QUEUED_EVENTS_MAX: usize = 8192;

/// One of the two pipes an agent writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// One fact about a unit, in the order it happened. Lines of one stream are in order; two streams are two pipes, so
/// their order among each other is only roughly right.
#[derive(Debug, Clone)]
pub enum UnitEvent {
    /// The state changed.
    Changed(Snapshot),
    /// The process wrote a line.
    Output {
        /// The incarnation that wrote it, from 1.
        generation: u32,
        /// Where.
        stream: Stream,
        /// The bytes, without the line feed; not necessarily UTF-8.
        line: Bytes,
        /// The line was too long and goes on in the next event of this stream.
        partial: bool,
        /// When it was read.
        time: SystemTime,
    },
    /// An incarnation ended: its leader is reaped, its tree is gone, its output was all delivered before.
    Exited {
        /// The incarnation, from 1.
        generation: u32,
        /// How its leader ended.
        exit: Exit,
        /// How long it lived.
        uptime: Duration,
    },
    /// Something an operator may want to read; the unit goes on.
    Note(String),
}

/// The owner's end: ends (`None`) after the last `Changed`, when the unit's task is over.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::UnboundedReceiver<UnitEvent>,
    flow: Arc<Flow>,
}

impl Events {
    /// Waits for the next event; `None` = the unit is over and nothing runs.
    ///
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<UnitEvent> {
        let event = self.receiver.recv().await?;
        self.flow.taken(&event);
        Some(event)
    }

    /// Returns the next event if one is waiting.
    pub fn try_recv(&mut self) -> Option<UnitEvent> {
        let event = self.receiver.try_recv().ok()?;
        self.flow.taken(&event);
        Some(event)
    }
}

/// The unit's end.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::UnboundedSender<UnitEvent>,
    flow: Arc<Flow>,
}

impl Outbox {
    /// Queues an event; an owner who dropped [`Events`] hears nothing.
    pub(crate) fn send(&self, event: UnitEvent) {
        self.flow.put(&event);
        if let Err(unsent) = self.sender.send(event) {
            self.flow.taken(&unsent.0);
        }
    }

    /// Waits until the owner has dropped [`Events`].
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// How much waits, and whether reading is wanted.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    bytes: AtomicUsize,
    events: AtomicUsize,
    held: AtomicBool,
    changed: Notify,
}

impl Flow {
    /// Returns whether more output may be read.
    pub(crate) fn may_read(&self) -> bool {
        !self.held.load(Ordering::Acquire) && self.has_room()
    }

    /// Returns whether the owner keeps up.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < QUEUED_BYTES_MAX
            && self.events.load(Ordering::Acquire) < QUEUED_EVENTS_MAX
    }

    /// Waits until the answers above may have changed. A change between asking and waiting is not missed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Holds reading back, or lets it go on.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Release);
        self.changed.notify_one();
    }

    fn put(&self, event: &UnitEvent) {
        self.events.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(weight(event), Ordering::AcqRel);
    }

    fn taken(&self, event: &UnitEvent) {
        let was_full = !self.has_room();
        self.events.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(weight(event), Ordering::AcqRel);
        if was_full && self.has_room() {
            self.changed.notify_one();
        }
    }
}

fn weight(event: &UnitEvent) -> usize {
    match event {
        UnitEvent::Output { line, .. } => line.len(),
        UnitEvent::Changed(_) | UnitEvent::Exited { .. } | UnitEvent::Note(_) => 0,
    }
}

/// Builds both ends.
pub(crate) fn queue() -> (Outbox, Events, Arc<Flow>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let flow = Arc::new(Flow::default());
    let outbox = Outbox { sender, flow: Arc::clone(&flow) };
    (outbox, Events { receiver, flow: Arc::clone(&flow) }, flow)
}
