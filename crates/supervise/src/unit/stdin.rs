//! The writing end of an agent's stdin: whole messages in order, one at a time; it never waits by itself.

use std::collections::VecDeque;
use std::io;

use tokio::net::unix::pipe::Sender;
use tokio::sync::oneshot;

use crate::state::StateName;
use crate::unit::WriteError;

/// Who waits for a message to be written.
pub(crate) type Answer = oneshot::Sender<Result<(), WriteError>>;

/// What is to be done with stdin, in order.
#[derive(Debug)]
enum Item {
    Message {
        bytes: Vec<u8>,
        written: usize,
        /// `None`: a step of the stop ladder, nobody waits.
        answer_tx: Option<Answer>,
    },
    Close,
}

/// One incarnation's stdin. The queue holds at most one message of a writer (the next is taken only when it is empty)
/// and the steps of a stop ladder.
#[derive(Debug)]
pub(crate) struct Stdin {
    pipe: Option<Sender>,
    queue: VecDeque<Item>,
}

impl Stdin {
    pub(crate) fn new(pipe: Option<Sender>) -> Self {
        Stdin { pipe, queue: VecDeque::new() }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a message and writes what fits.
    pub(crate) fn write(&mut self, bytes: Vec<u8>, answer_tx: Option<Answer>) {
        self.queue.push_back(Item::Message { bytes, written: 0, answer_tx });
        self.advance();
    }

    /// Closes after what is queued.
    pub(crate) fn close(&mut self) {
        self.queue.push_back(Item::Close);
        self.advance();
    }

    /// Waits until [`Stdin::advance`] can do something. Cancel-safe.
    pub(crate) async fn writable(&self) {
        match (&self.pipe, self.queue.is_empty()) {
            // An error shows again, and is handled, when writing.
            (Some(pipe), false) => drop(pipe.writable().await),
            _ => std::future::pending().await,
        }
    }

    /// Writes what fits into the pipe.
    pub(crate) fn advance(&mut self) {
        while let Some(item) = self.queue.front_mut() {
            let (outcome, closes) = match (item, &self.pipe) {
                (Item::Close, _) => (Ok(()), true),
                (Item::Message { .. }, None) => (Err(WriteError::Closed), false),
                (Item::Message { bytes, written, .. }, Some(pipe)) => {
                    match write_some(pipe, bytes, written) {
                        Ok(true) => (Ok(()), false),
                        Ok(false) => return,
                        // EPIPE, normally: the reader closed its end or ended.
                        Err(_) => (Err(WriteError::Closed), true),
                    }
                }
            };
            if closes {
                self.pipe = None;
            }
            if let Some(Item::Message { answer_tx: Some(answer_tx), .. }) = self.queue.pop_front() {
                // Who stopped waiting needs no answer.
                let _ = answer_tx.send(outcome);
            }
        }
    }

    /// Answers everybody who still waits: the reader is gone.
    pub(crate) fn give_up(self, state: StateName) {
        for item in self.queue {
            if let Item::Message { written, answer_tx: Some(answer_tx), .. } = item {
                let error = if written > 0 { WriteError::Closed } else { WriteError::NotRunning { state } };
                let _ = answer_tx.send(Err(error));
            }
        }
    }
}

/// Writes as much as fits; `true` when all is written.
fn write_some(pipe: &Sender, bytes: &[u8], written: &mut usize) -> io::Result<bool> {
    while *written < bytes.len() {
        match pipe.try_write(&bytes[*written..]) {
            Ok(count) => *written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
