//! A subscription of an in-process connection: a bounded queue of runs of frames between the connection's reader and
//! whoever takes the messages.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::frame::Run;
use super::message::Message;
use super::{Alive, Inner};

/// Bytes that wait for one subscriber before the connection is read no further.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// What the reader and the subscriber share.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    runs: VecDeque<Arc<Run>>,
    bytes: usize,
    /// Nothing more will come.
    is_over: bool,
    subscriber: Option<Waker>,
    reader: Option<Waker>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a run; returns whether the reader should wait for [`room`](Self::room).
    pub(super) fn push(&self, run: Arc<Run>) -> bool {
        let mut waiting = self.lock();
        if waiting.is_over {
            return false;
        }
        waiting.bytes += run.bytes.len();
        let is_full = waiting.bytes > WAITING_BYTES_MAX;
        waiting.runs.push_back(run);
        let subscriber = waiting.subscriber.take();
        drop(waiting);
        if let Some(subscriber) = subscriber {
            subscriber.wake();
        }
        is_full
    }

    /// Waits until the subscriber took what waits, or is gone.
    pub(super) async fn room(&self) {
        poll_fn(|cx| {
            let mut waiting = self.lock();
            if waiting.bytes <= WAITING_BYTES_MAX || waiting.is_over {
                return Poll::Ready(());
            }
            waiting.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Nothing more will come; what waits can still be taken.
    pub(super) fn end(&self) {
        let mut waiting = self.lock();
        waiting.is_over = true;
        let wakers = [waiting.subscriber.take(), waiting.reader.take()];
        drop(waiting);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Swaps all that waits with the empty `runs`. Ready with false at the end.
    fn poll_take(&self, runs: &mut VecDeque<Arc<Run>>, cx: &mut Context<'_>) -> Poll<bool> {
        let mut waiting = self.lock();
        if waiting.runs.is_empty() {
            if waiting.is_over {
                return Poll::Ready(false);
            }
            match &mut waiting.subscriber {
                Some(known) if known.will_wake(cx.waker()) => {}
                subscriber => *subscriber = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut waiting.runs, runs);
        waiting.bytes = 0;
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(true)
    }
}

/// The messages of one subscription, in order. Dropping it unsubscribes.
///
/// What is not taken waits: up to 4 MiB here, then the whole connection is read no further, and at last the server
/// takes it for a slow consumer, as it would a socket. A task that does not take its messages for long, or that waits
/// in between for an answer on the same connection, should have a connection of its own.
pub struct Subscription {
    sid: u64,
    inbox: Arc<Inbox>,
    /// Taken from the inbox, not yet looked at.
    runs: VecDeque<Arc<Run>>,
    /// The run that is being handed out, and how many of its messages were.
    run: Option<Arc<Run>>,
    handed_out: usize,
    inner: Arc<Inner>,
    _alive: Arc<Alive>,
}

impl Subscription {
    pub(super) fn new(sid: u64, inbox: Arc<Inbox>, inner: Arc<Inner>, alive: Arc<Alive>) -> Self {
        Self { sid, inbox, runs: VecDeque::new(), run: None, handed_out: 0, inner, _alive: alive }
    }

    /// Waits for the next message; `None` when the connection is closed and everything was taken.
    ///
    /// Cancel-safe: a message is either returned or still there.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "it waits; an iterator cannot, and a stream calls it the same"
    )]
    pub fn next(&mut self) -> impl Future<Output = Option<Message>> + Send {
        poll_fn(|cx| self.poll_next(cx))
    }

    /// The next message if it is at hand. Does not look whether others arrived since the last wait.
    #[inline]
    pub fn try_next(&mut self) -> Option<Message> {
        loop {
            if let Some(run) = self.run.as_ref().filter(|run| self.handed_out < run.frames.len()) {
                self.handed_out += 1;
                return Some(Message::new(run, self.handed_out - 1));
            }
            let run = self.runs.pop_front()?;
            self.handed_out = 0;
            if let Some(spent) = self.run.replace(run).and_then(Arc::into_inner) {
                self.inner.recycle(spent.bytes);
            }
        }
    }

    /// The same for hand-written futures and streams.
    #[inline]
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            if let Some(message) = self.try_next() {
                return Poll::Ready(Some(message));
            }
            match self.inbox.poll_take(&mut self.runs, cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Has the server send no more, and waits for that; what came until then can still be taken.
    ///
    /// # Errors
    /// [`InProcessError::Closed`](super::InProcessError::Closed).
    pub async fn drain(&mut self) -> Result<(), super::InProcessError> {
        self.inner.unsubscribe(self.sid);
        let flushed = self.inner.flush().await;
        self.inbox.end();
        flushed
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("sid", &self.sid).finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inner.forget(self.sid);
        self.inbox.end();
    }
}
