//! Requests that wait for their answers: all of a connection share one inbox subscription. Does not send anything.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::message::Message;

/// The subscription of the inbox, made with the first request.
pub(super) const SID: u64 = 1;

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    /// What the reply subjects begin with, the dot at its end included.
    prefix: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_subscribed: bool,
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Message>>,
    is_over: bool,
}

/// A request on its way. Dropping it forgets the request.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    requests: &'a Requests,
    number: u64,
    pub(super) reply: String,
    pub(super) answer: oneshot::Receiver<Message>,
}

impl Requests {
    pub(super) fn new(inbox_prefix: &str) -> Self {
        let mut unique = [0; 16];
        // Who can guess an inbox could answer in place of who was asked.
        getrandom::fill(&mut unique).expect("the system gave random bytes when the server started");
        let unique = data_encoding::HEXLOWER.encode(&unique);
        Self { prefix: format!("{inbox_prefix}.{unique}."), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request. `subscribe` is called with the inbox's filter for the first one, before anything is sent.
    pub(super) fn begin(&self, subscribe: impl FnOnce(&str)) -> Ticket<'_> {
        let (answer_tx, answer) = oneshot::channel();
        let mut state = self.lock();
        if !std::mem::replace(&mut state.is_subscribed, true) {
            subscribe(&format!("{}*", self.prefix));
        }
        let number = state.next;
        state.next += 1;
        if !state.is_over {
            state.waiting.insert(number, answer_tx);
        }
        Ticket { requests: self, number, reply: format!("{}{number}", self.prefix), answer }
    }

    /// Gives an answer to who waits for it; a late one, or a second, is nobody's.
    pub(super) fn answer(&self, message: Message) {
        let number = message.subject().get(self.prefix.len()..).and_then(|number| {
            let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
            self.lock().waiting.remove(&number)
        });
        if let Some(waiting) = number {
            // Who does not wait any more has no use for it.
            let _ = waiting.send(message);
        }
    }

    /// The connection ended: nobody is answered any more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.waiting = HashMap::new();
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.requests.lock().waiting.remove(&self.number);
    }
}
