//! What a shard tells of itself: its connections and subscriptions, and what it remembers of those that ended. Looking
//! changes nothing; a portion is told at a time, so that messages do not wait for the rest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Shard;
use super::conn::Conn;
use crate::auth::Entry;
use crate::link::Subscription;
use crate::snapshot::{CloseReason, Routing, Seen, Traffic, account_of};

/// Connections told in one portion: well below a millisecond.
const CONNECTIONS_PER_ANSWER: usize = 4096;
/// Subscriptions told in one portion, those of its last connection beyond that.
const SUBSCRIPTIONS_PER_ANSWER: usize = 16_384;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Live connections from this slot on.
    Connections {
        /// Where the last portion ended.
        from_slot: usize,
    },
    /// Connections that ended, and what ended connections leave to their accounts.
    Ended,
    /// The subscriptions of connections from this slot on.
    Subscriptions {
        /// Where the last portion ended.
        from_slot: usize,
    },
    /// The subscriptions of these connections, by slot and id.
    SubscriptionsOf(Vec<(usize, u64)>),
    /// What is remembered of routes. Cheap: also asked to see whether the shard lives.
    Routing,
}

/// Left in a shard's inbox by whoever wants to know.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) wanted: Wanted,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// What a shard says to a [`Question`].
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) connections: Vec<Seen>,
    pub(crate) subscriptions: Vec<Held>,
    pub(crate) accounts: Vec<(String, EndedTotals)>,
    pub(crate) routing: Routing,
    /// Where to go on, if this was not all.
    pub(crate) next_slot: Option<usize>,
}

/// The subscriptions of one connection.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) connection: u64,
    pub(crate) entry: Option<Arc<Entry>>,
    pub(crate) subscriptions: Vec<Arc<Subscription>>,
}

/// What the ended connections of an account were.
#[derive(Debug, Default, Clone)]
pub(crate) struct EndedTotals {
    pub(crate) connections: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) traffic: Traffic,
}

/// What a shard remembers of connections that ended: the last ones, and totals by account.
#[derive(Debug)]
pub(crate) struct Ended {
    max: usize,
    ring: VecDeque<Seen>,
    accounts: BTreeMap<String, EndedTotals>,
}

impl Ended {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, ring: VecDeque::new(), accounts: BTreeMap::new() }
    }

    pub(super) fn remember(&mut self, conn: &Conn, slot: usize, reason: CloseReason, now: Instant) {
        if let Some(entry) = &conn.entry {
            let account = account_of(entry);
            // Two look-ups for a known account, so that only a new one allocates its key.
            if !self.accounts.contains_key(account) {
                self.accounts.insert(account.into(), EndedTotals::default());
            }
            if let Some(totals) = self.accounts.get_mut(account) {
                totals.connections += 1;
                totals.slow_consumers += u64::from(matches!(
                    reason,
                    CloseReason::SlowConsumerPendingBytes | CloseReason::SlowConsumerWriteDeadline
                ));
                totals.traffic.add(conn.traffic);
            }
        }
        if self.max == 0 {
            return;
        }
        if self.ring.len() >= self.max {
            self.ring.pop_front();
        }
        self.ring.push_back(Seen { ended: Some((now, reason)), ..see(conn, slot) });
    }

    /// What is left of the bytes that waited for a connection when it ended. The last ones ended last.
    pub(super) fn left(&mut self, id: u64, pending_bytes: usize) {
        if let Some(seen) = self.ring.iter_mut().rev().find(|seen| seen.id == id) {
            seen.pending_bytes = pending_bytes as u64;
        }
    }
}

impl Shard {
    /// Answers, unless nobody waits any more.
    pub(super) fn answer(&self, question: Question) {
        let Question { wanted, reply } = question;
        if reply.is_closed() {
            return;
        }
        let answer = match wanted {
            Wanted::Connections { from_slot } => self.tell_connections(from_slot),
            Wanted::Ended => Answer {
                connections: self.ended.ring.iter().cloned().collect(),
                accounts: self.ended.accounts.clone().into_iter().collect(),
                ..Answer::default()
            },
            Wanted::Subscriptions { from_slot } => self.tell_subscriptions(from_slot),
            Wanted::Routing => {
                let mut routing = Routing::default();
                self.routes.iter().for_each(|routes| routing.add(routes.survey()));
                Answer { routing, ..Answer::default() }
            }
            Wanted::SubscriptionsOf(places) => Answer {
                subscriptions: places
                    .into_iter()
                    .filter_map(|(slot, id)| {
                        self.conns.get(slot)?.as_deref().filter(|conn| conn.link.id == id)
                    })
                    .map(hold)
                    .collect(),
                ..Answer::default()
            },
        };
        // Who asked may have given up meanwhile.
        let _ = reply.send(answer);
    }

    fn tell_connections(&self, from_slot: usize) -> Answer {
        let to_slot = self.conns.len().min(from_slot.saturating_add(CONNECTIONS_PER_ANSWER));
        let slots = self.conns.get(from_slot..to_slot).unwrap_or_default().iter();
        let connections = slots
            .zip(from_slot..)
            .filter_map(|(conn, slot)| conn.as_deref().map(|conn| see(conn, slot)))
            .collect();
        let next_slot = Some(to_slot).filter(|next| *next < self.conns.len());
        Answer { connections, next_slot, ..Answer::default() }
    }

    fn tell_subscriptions(&self, from_slot: usize) -> Answer {
        let mut answer = Answer::default();
        let mut told = 0;
        for slot in from_slot..self.conns.len() {
            if told >= SUBSCRIPTIONS_PER_ANSWER || slot - from_slot >= CONNECTIONS_PER_ANSWER {
                answer.next_slot = Some(slot);
                break;
            }
            if let Some(conn) = self.conns[slot].as_deref().filter(|conn| !conn.subscriptions.is_empty()) {
                told += conn.subscriptions.len();
                answer.subscriptions.push(hold(conn));
            }
        }
        answer
    }
}

fn hold(conn: &Conn) -> Held {
    Held {
        connection: conn.link.id,
        entry: conn.entry.clone(),
        subscriptions: conn.subscriptions.values().cloned().collect(),
    }
}

fn see(conn: &Conn, slot: usize) -> Seen {
    Seen {
        id: conn.link.id,
        slot,
        peer: conn.peer,
        transport: conn.stream.info(),
        entry: conn.entry.clone(),
        claim: conn.claim.clone(),
        about: conn.about.clone(),
        start: conn.started,
        last_activity: conn.last_in.max(conn.last_out),
        round_trip: conn.round_trip,
        pending_bytes: conn.outbound.len() as u64,
        traffic: conn.traffic,
        subscriptions: conn.subscriptions.len() as u64,
        ended: None,
    }
}
