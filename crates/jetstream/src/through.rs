//! Taking from a stream through a consumer that was prepared there: it says what is taken and from where on, and keeps
//! what the taking stream does not have for sure. In a work queue, what it has is gone.

use std::collections::VecDeque;

use crate::api::ApiError;
use crate::bus::Bus;
use crate::consumer::{Consumer, Ground};
use crate::feeds::{RETRY, TURN, TURN_BYTES};
use crate::options::Context;
use crate::stream::{Feed, FeedKind, Stream, Taken};
use crate::time::Time;

/// How a feed stands with its consumer.
#[derive(Debug, Default)]
pub(crate) struct Through {
    /// The consumer that it takes from, by when that was created.
    of: Option<Time>,
    /// What was taken and is not sure here: the last sequence here then, and the sequence there.
    unsure: VecDeque<(u64, u64)>,
}

impl Through {
    /// Begins again with what the consumer keeps: something was undone here.
    pub(crate) fn detach(&mut self) {
        *self = Self::default();
    }
}

/// What a turn brought.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Messages taken.
    pub(crate) count: usize,
    /// Something is acknowledged now: the origin has to be written.
    pub(crate) settled: bool,
}

/// Lets a stream take a turn's worth through the feed's consumer.
pub(crate) fn take_through<B: Bus>(
    stream: &mut Stream,
    feed: &mut Feed,
    origin: &mut Stream,
    now: i64,
    bus: &mut B,
    context: &Context,
) -> Turn {
    let mut turn = Turn::default();
    let Some(wanted) = feed.consumer().cloned() else { return turn };
    // Out of its place, so that it and the store can be in hand.
    let Some((name, mut consumer)) = origin.consumers.remove_entry(&*wanted.name) else {
        feed.through.detach();
        feed.error = Some(ApiError::consumer_not_found());
        return turn;
    };
    if !consumer.is_for_stream() || consumer.config.deliver_subject != wanted.deliver_subject {
        feed.through.detach();
        feed.error = Some(match feed.kind {
            FeedKind::Mirror => ApiError::mirror_consumer_invalid(),
            FeedKind::Source => ApiError::source_consumer_invalid(),
        });
    } else {
        take_turn(stream, feed, origin, &mut consumer, &mut turn, now, bus, context);
    }
    origin.consumers.insert(name, consumer);
    turn
}

#[expect(clippy::too_many_arguments, reason = "two streams and what is between them")]
fn take_turn<B: Bus>(
    stream: &mut Stream,
    feed: &mut Feed,
    origin: &mut Stream,
    consumer: &mut Consumer,
    turn: &mut Turn,
    now: i64,
    bus: &mut B,
    context: &Context,
) {
    if feed.through.of != Some(consumer.created) {
        feed.through.detach();
        // What was given out before and is not acknowledged comes again; what of it is here is known by its place.
        turn.settled = consumer.reset(None, &mut origin.store).is_ok();
        feed.through.of = Some(consumer.created);
    }
    let (sure, mut settled) = (stream.last_sure(), None);
    while let Some((_, seq)) = feed.through.unsure.front().copied().filter(|(here, _)| *here <= sure) {
        feed.through.unsure.pop_front();
        settled = Some(seq);
    }
    if let Some(seq) = settled {
        let done = consumer.settle_up_to(seq, now);
        origin.done_with(&done);
        turn.settled = true;
    }
    let (mut bytes, last) = (0, origin.last_sure());
    while turn.count < TURN && bytes < TURN_BYTES && !consumer.rests(now) {
        let mut ground = Ground {
            stream: &origin.config.name,
            max_msg_size: origin.config.max_msg_size,
            store: &mut origin.store,
            bus: &mut *bus,
            context,
            now,
            done: Vec::new(),
        };
        let Some(next) = consumer.next_sourced(&mut ground, last) else { break };
        let (seq, mut time) = (next.seq(), now);
        // One that cannot be read is reported there, and passed over here.
        if let Ok(Some(message)) = origin.store.get(seq) {
            time = message.time_ns;
            // Somebody may have set the consumer back.
            if seq > feed.position.seq
                && let Taken::Later(error) = stream.take_in(feed, &message, now, bus)
            {
                feed.retry_at = Some(now + RETRY);
                feed.error = Some(error);
                break;
            }
            bytes += message.subject.len() + message.headers.len() + message.payload.len();
        }
        consumer.sourced(next, time, now);
        feed.position.seq = feed.position.seq.max(seq);
        feed.through.unsure.push_back((stream.store.last_seq(), seq));
        feed.active = Some(now);
        turn.count += 1;
    }
    feed.next = feed.position.seq + 1;
    feed.lag = consumer.num_pending(&mut origin.store);
}
