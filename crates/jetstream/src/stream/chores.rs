//! Requests that remove many messages: done in turns, so that nobody waits for all of it, and answered after the last.
//! What is published meanwhile is none of it.

use std::collections::VecDeque;

use ostler_broker_proto::subject::Filter;
use ostler_broker_store::{Next, Selection};

use super::Stream;
use crate::api::{ApiError, Purge};
use crate::bus::Incoming;
use crate::consumer::Consumer;

/// What all streams do before the server sees to its other work: some milliseconds of it, a removed message being one.
pub(crate) const STEPS_PER_TICK: usize = 10_000;
/// Looking whether anybody still needs a message costs more than removing it.
const STEPS_PER_RELEASED: usize = 4;
/// Messages passed over that cost as much as a thousandth of a tick.
const PASSED_PER_STEP: usize = 256;
/// As many messages are looked at before it is looked at what is left to do.
const LOOKED_AT: usize = 64 * PASSED_PER_STEP;
/// Requests of one stream that wait.
const WAITING_MAX: usize = 64;

/// A request that is answered later.
#[derive(Debug)]
pub(crate) struct Request {
    subject: Box<[u8]>,
    reply: Box<[u8]>,
    payload: Box<[u8]>,
}

impl Request {
    pub(crate) fn of(message: &Incoming<'_>) -> Self {
        Self { subject: message.subject.into(), reply: message.reply.into(), payload: message.payload.into() }
    }

    pub(crate) fn message(&self) -> Incoming<'_> {
        let Self { subject, reply, payload } = self;
        Incoming { subject, reply, headers: b"", payload }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// So many messages were removed.
    Purged(Result<u64, ApiError>),
    /// A consumer is gone, and what only it wanted, unless the stream went first.
    Deleted(Result<(), ApiError>),
}

/// What is to be removed between two sequences.
#[derive(Debug)]
struct Chore {
    selection: Selection,
    at: u64,
    below: u64,
    kind: Kind,
    /// Who waits for it.
    asked: Option<Request>,
}

#[derive(Debug)]
enum Kind {
    /// Everything selected; so many are gone, and this is how often something was undone before.
    Purge(u64, u64),
    /// What nobody needs but this consumer, which is gone. Its checkpoint goes at the end: after a crash it is there
    /// again, and nobody was told that it is not.
    Release(Box<Consumer>),
}

/// What waits for its turns, and whom to tell of what is done.
#[derive(Debug, Default)]
pub(super) struct Chores {
    waiting: VecDeque<Chore>,
    finished: Vec<(Request, Outcome)>,
}

/// How much of what was asked is done.
pub(crate) enum Progress<T> {
    Done(T),
    /// The answer comes from [`Stream::turn_chores`].
    Later,
}

impl<T> Progress<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Progress<U> {
        match self {
            Self::Done(done) => Progress::Done(change(done)),
            Self::Later => Progress::Later,
        }
    }
}

impl Stream {
    /// When there is a turn to take.
    pub(crate) fn next_chore(&self, now: i64) -> Option<i64> {
        (!self.chores.waiting.is_empty() || !self.chores.finished.is_empty()).then_some(now)
    }

    /// Removes what is asked for and says how many, or begins to when it is much.
    pub(crate) fn purge(&mut self, request: &Purge, asked: &Incoming<'_>) -> Result<Progress<u64>, ApiError> {
        if self.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if self.config.deny_purge {
            return Err(ApiError::purge_failed("stream purge not permitted"));
        }
        if request.seq > 0 && request.keep > 0 {
            return Err(ApiError::bad_request());
        }
        let mut selection = match &*request.filter {
            "" => Selection::all(),
            filter => Selection::new([Filter::parse(filter).map_err(|_| ApiError::bad_request())?]),
        };
        self.dirty = true;
        let before = (request.seq > 0).then_some(request.seq);
        let is_all = selection.is_all() && before.is_none() && request.keep == 0;
        if is_all || self.store.msgs() <= STEPS_PER_TICK as u64 {
            let purge =
                ostler_broker_store::Purge { selection: Some(&mut selection), before, keep: request.keep };
            let purged =
                self.store.purge(purge).map_err(|error| ApiError::purge_failed(error.to_string()))?;
            self.recount();
            self.save_feeds();
            return Ok(Progress::Done(purged));
        }
        if self.chores.waiting.len() >= WAITING_MAX {
            return Err(ApiError::purge_failed("too many at a time; try again when one is complete"));
        }
        let end = self.store.last_seq() + 1;
        let below = match request.keep {
            0 => before.unwrap_or(end).min(end),
            keep => self.store.nth_last(&mut selection, keep).unwrap_or(0),
        };
        self.save_feeds();
        let (at, kind) = (self.store.first_seq(), Kind::Purge(0, self.undone));
        let asked = Some(Request::of(asked));
        self.chores.waiting.push_back(Chore { selection, at, below, kind, asked });
        Ok(Progress::Later)
    }

    /// Removes what only a consumer wanted that was taken out, or begins to when it is much.
    pub(super) fn release(&mut self, consumer: Consumer, asked: Option<&Incoming<'_>>) -> Progress<()> {
        let chore = Chore {
            selection: consumer.config.selection(),
            at: self.store.first_seq(),
            below: self.store.last_seq() + 1,
            kind: Kind::Release(Box::new(consumer)),
            asked: asked.map(Request::of),
        };
        let is_small = self.store.msgs() <= (STEPS_PER_TICK / STEPS_PER_RELEASED) as u64;
        if is_small || self.chores.waiting.len() >= WAITING_MAX {
            self.finish_release(chore);
            return Progress::Done(());
        }
        self.chores.waiting.push_back(chore);
        Progress::Later
    }

    /// Does at once what is left to do for a consumer of this name that is to be there again.
    pub(crate) fn finish_chores_of(&mut self, name: &str) {
        let is_its = |chore: &Chore| matches!(&chore.kind, Kind::Release(of) if *of.name == *name);
        while let Some(position) = self.chores.waiting.iter().position(is_its) {
            let Some(mut chore) = self.chores.waiting.remove(position) else { return };
            let asked = chore.asked.take();
            self.finish_release(chore);
            self.chores.finished.extend(asked.map(|asked| (asked, Outcome::Deleted(Ok(())))));
        }
    }

    fn finish_release(&mut self, mut chore: Chore) {
        let mut all = usize::MAX;
        while !self.advance(&mut chore, &mut all) {}
        if let Kind::Release(consumer) = chore.kind {
            self.dirty = true;
            consumer.forget(&mut self.store);
        }
    }

    /// Does as much as the steps that are left allow, and says whom to tell of what.
    pub(crate) fn turn_chores(&mut self, steps: &mut usize) -> Vec<(Request, Outcome)> {
        while *steps > 0
            && let Some(mut chore) = self.chores.waiting.pop_front()
        {
            let is_undone = matches!(chore.kind, Kind::Purge(_, undone) if undone != self.undone);
            if !is_undone && !self.advance(&mut chore, steps) {
                self.chores.waiting.push_front(chore);
                break;
            }
            self.dirty = true;
            let outcome = match chore.kind {
                Kind::Purge(..) if is_undone => {
                    let reason = "the disk refused what was done; ask again when it takes writes";
                    Outcome::Purged(Err(ApiError::purge_failed(reason)))
                }
                Kind::Purge(purged, _) => {
                    self.recount();
                    Outcome::Purged(Ok(purged))
                }
                Kind::Release(consumer) => {
                    consumer.forget(&mut self.store);
                    Outcome::Deleted(Ok(()))
                }
            };
            self.chores.finished.extend(chore.asked.map(|asked| (asked, outcome)));
        }
        std::mem::take(&mut self.chores.finished)
    }

    /// Whom to tell that the stream went before it was done.
    pub(crate) fn give_up_chores(&mut self) -> Vec<(Request, Outcome)> {
        let mut told = std::mem::take(&mut self.chores.finished);
        for chore in std::mem::take(&mut self.chores.waiting) {
            let gone = ApiError::stream_not_found();
            let outcome = match chore.kind {
                Kind::Purge(..) => Outcome::Purged(Err(gone)),
                Kind::Release(_) => Outcome::Deleted(Err(gone)),
            };
            told.extend(chore.asked.map(|asked| (asked, outcome)));
        }
        told
    }

    /// Goes on until there is nothing more, which is true, or no step is left.
    fn advance(&mut self, chore: &mut Chore, steps: &mut usize) -> bool {
        while *steps > 0 {
            let seq = match self.store.next_within(&mut chore.selection, chore.at, LOOKED_AT) {
                Next::At(seq) if seq < chore.below => seq,
                Next::NotBelow(seq) if seq < chore.below => {
                    chore.at = seq;
                    *steps = steps.saturating_sub(LOOKED_AT / PASSED_PER_STEP);
                    continue;
                }
                Next::At(_) | Next::NotBelow(_) | Next::End => return true,
            };
            chore.at = seq + 1;
            match &mut chore.kind {
                Kind::Purge(purged, _) => {
                    *purged += u64::from(self.drop_message(seq));
                    *steps -= 1;
                }
                Kind::Release(consumer) => {
                    self.release_message(consumer, seq);
                    *steps = steps.saturating_sub(STEPS_PER_RELEASED);
                }
            }
        }
        false
    }

    fn release_message(&mut self, consumer: &Consumer, seq: u64) {
        let its = match self.store.get(seq) {
            Ok(Some(message)) => consumer.needs(seq, message.subject),
            _ => false,
        };
        if its && !self.is_needed(seq) {
            self.drop_message(seq);
            self.done_unwritten.push(seq);
        }
    }
}
