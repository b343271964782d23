//! The task that reads an in-process connection: cuts what the server sent into runs of frames for one subscriber each,
//! and answers what is for the connection itself. It looks at frames, and copies only those that came in two pieces.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ostler_broker_proto::{Parsed, parse_server};

use super::Inner;
use super::frame::{Found, Frame, Run, find, plain_message};
use super::message::Message;

/// Room that is made for the messages of a run ahead.
const FRAMES_EXPECTED_MAX: usize = 1024;

/// Reads until the end of the connection.
pub(super) async fn read(inner: Arc<Inner>, first: BytesMut) {
    let mut cutter =
        Cutter { inner: Arc::clone(&inner), partial: BytesMut::new(), needed: 0, frames_expected: 1 };
    let mut goes_on = cutter.take(first.freeze()).await;
    while goes_on {
        // Others get their turn, however fast the server is.
        tokio::task::coop::consume_budget().await;
        goes_on = match inner.pipe.try_take() {
            Ok(Some(piece)) => cutter.take(piece.into_bytes()).await,
            Ok(None) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                inner.pipe.readable().await;
                true
            }
            Err(_) => false,
        };
    }
    inner.pipe.cut();
    inner.end_all();
}

struct Cutter {
    inner: Arc<Inner>,
    /// A frame that did not arrive whole.
    partial: BytesMut,
    /// Bytes it needs before looking at it makes sense.
    needed: usize,
    /// How many messages the last run had: the next will have about as many.
    frames_expected: usize,
}

impl Cutter {
    /// Takes in a piece; returns whether it was what a server says.
    async fn take(&mut self, mut piece: Bytes) -> bool {
        while !self.partial.is_empty() {
            if let Some(frame) = self.complete(&mut piece) {
                if !self.cut(frame).await {
                    return false;
                }
            } else if piece.is_empty() {
                return true;
            }
        }
        self.cut(piece).await
    }

    /// Moves bytes to the partial frame; returns it when it is whole.
    fn complete(&mut self, piece: &mut Bytes) -> Option<Bytes> {
        let missing = self.needed.saturating_sub(self.partial.len());
        let count = if missing <= 1 {
            // The control line is not whole: it ends at the next line end.
            piece.iter().position(|byte| *byte == b'\n').map_or(piece.len(), |at| at + 1)
        } else {
            missing.min(piece.len())
        };
        self.partial.extend_from_slice(&piece.split_to(count));
        match parse_server(&self.partial) {
            Ok(Parsed::Incomplete { needed }) => {
                self.needed = needed;
                None
            }
            // Whole, or nonsense: `cut` sees which.
            _ => Some(self.partial.split().freeze()),
        }
    }

    async fn cut(&mut self, piece: Bytes) -> bool {
        let (mut at, mut run_start, mut run_sid) = (0, 0, None);
        let mut frames = Vec::with_capacity(self.frames_expected);
        while at < piece.len() {
            let found = match plain_message(&piece[at..]) {
                Some((sid, frame)) => Ok(Found::Message(Some(sid), frame)),
                None => find(&piece[at..]),
            };
            match found {
                Ok(Found::Message(sid, frame)) => {
                    if sid != run_sid {
                        self.hand(run_sid, piece.slice(run_start..at), &mut frames).await;
                        (run_start, run_sid) = (at, sid);
                    }
                    frames.push(Frame { start: (at - run_start) as u32, ..frame });
                    at += frame.len as usize;
                }
                Ok(Found::Word(op, consumed)) => {
                    self.hand(run_sid, piece.slice(run_start..at), &mut frames).await;
                    self.inner.take_word(&op);
                    at += consumed;
                    (run_start, run_sid) = (at, None);
                }
                Ok(Found::Part(needed)) => {
                    self.partial.extend_from_slice(&piece[at..]);
                    self.needed = needed;
                    break;
                }
                Err(error) => {
                    self.inner.note_error(&error.to_string());
                    return false;
                }
            }
        }
        self.hand(run_sid, piece.slice(run_start..at), &mut frames).await;
        true
    }

    /// Gives whole messages for one subscription to it, and waits if it has too many.
    async fn hand(&mut self, sid: Option<u64>, bytes: Bytes, frames: &mut Vec<Frame>) {
        let frames = std::mem::take(frames);
        let Some(sid) = sid.filter(|_| !frames.is_empty()) else {
            return;
        };
        self.frames_expected = frames.len().min(FRAMES_EXPECTED_MAX);
        let run = Arc::new(Run { bytes, frames });
        if sid == super::request::SID {
            return (0..run.frames.len())
                .for_each(|index| self.inner.requests.answer(Message::new(&run, index)));
        }
        if let Some(inbox) = self.inner.inbox(sid)
            && inbox.push(run)
        {
            inbox.room().await;
        }
    }
}
