//! A shard that is built without JetStream: the same calls, and nothing behind them.

use std::cell::RefCell;
use std::time::Instant;

use super::Shard;
use super::inbox::Inbox;
use super::message::Msg;
use crate::link::Subscription;

/// Always empty.
#[derive(Default)]
pub(crate) struct Streams(());

impl Streams {
    pub(super) fn due(&self) -> Option<Instant> {
        None
    }
}

impl Shard {
    pub(super) fn deliver_to_streams(&mut self, _target: &Subscription, _message: &Msg<'_>) -> bool {
        false
    }

    pub(super) fn end_batch_of_streams(&mut self) {}

    pub(super) fn tick_streams(&mut self, _now: Instant) {}

    pub(super) fn note_interest(&mut self, _account: usize, _filter: &[u8]) {}
}

pub(super) async fn settle(_shard: &RefCell<Shard>, _inbox: &Inbox) {}

pub(super) async fn close(_shard: &RefCell<Shard>) {}
