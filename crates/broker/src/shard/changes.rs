//! What changes while clients are connected - identities, limits, the end that nears - applied to each of them.

use std::sync::Arc;

use ostler_broker_proto::codec::write_info;

use super::timers::Due;
use super::{End, FIRST_PING, Shard, flush_early_bytes, ingest};
use crate::auth::{Entry, Standing};
use crate::snapshot::CloseReason;

impl Shard {
    /// Applies changed identities to live connections. Called before anything of a batch is judged.
    pub(super) fn check_identities(&mut self) {
        let generation = self.shared.users.generation();
        if generation == self.users_seen {
            return;
        }
        self.users_seen = generation;
        for slot in 0..self.conns.len() {
            let Some(entry) = self.at(slot).and_then(|conn| conn.entry.clone()) else {
                continue;
            };
            if entry.is_anonymous() || entry.is_trusted() {
                continue;
            }
            match self.shared.users.standing(&entry) {
                Standing::Unchanged => {}
                Standing::Revoked => {
                    let told = End::Told("Authorization Violation");
                    self.close_because(slot, told, CloseReason::CredentialsRevoked);
                }
                Standing::Changed(entry) => self.apply_permissions(slot, entry),
            }
        }
    }

    fn apply_permissions(&mut self, slot: usize, entry: Arc<Entry>) {
        let Some(conn) = self.conns[slot].as_deref_mut() else {
            return;
        };
        let (access, account) = (Arc::clone(&entry.access), conn.account);
        conn.entry = Some(entry);
        conn.forget_requests();
        let mut ended = Vec::new();
        conn.subscriptions.retain(|_, subscription| {
            let (filter, queue) = (&subscription.filter, subscription.queue.as_deref());
            let stays = access.subscribe.permits_filter(filter, queue);
            subscription.set_partly_denied(access.subscribe.denies_part_of(filter, queue));
            if !stays {
                ended.push(Arc::clone(subscription));
            }
            stays
        });
        self.stats.subscriptions -= ended.len() as u64;
        self.routes[account].account().unsubscribe(&ended);
        for subscription in ended {
            self.complain(
                slot,
                &ingest::subscribe_violation(&subscription.filter, subscription.queue.as_deref()),
            );
        }
    }

    /// Applies changed limits. Subscriptions and connections that are there stay, even if there are more than may be
    /// now.
    pub(super) fn apply_limits(&mut self) {
        let before = std::mem::replace(&mut self.limits, self.shared.limits());
        self.flush_early_bytes = flush_early_bytes(&self.limits);
        if before.payload_bytes_max != self.limits.payload_bytes_max {
            self.inform_all();
        }
        if before.ping_interval != self.limits.ping_interval {
            self.reset_pings();
        }
        if before.pending_bytes_max > self.limits.pending_bytes_max {
            // Who is beyond them is told apart at once, not at its next message.
            (0..self.conns.len()).for_each(|slot| self.bound(slot));
        }
    }

    /// Sends INFO to every client that understands it at any time (`protocol` 1).
    fn inform_all(&mut self) {
        for slot in 0..self.conns.len() {
            let Some(conn) =
                self.conns[slot].as_deref().filter(|conn| conn.is_connected && conn.says.protocol >= 1)
            else {
                continue;
            };
            let info = self.info(conn, false);
            self.send_with(slot, |out| write_info(out, info.as_bytes()));
        }
    }

    /// Has every client looked at after the interval that holds from here on.
    fn reset_pings(&mut self) {
        self.timers.retain(|entry| entry.due != Due::Ping);
        let interval = self.limits.ping_interval;
        for slot in 0..self.conns.len() {
            let Some(conn) = self.at(slot).filter(|conn| conn.stream.as_pipe().is_none()) else {
                continue;
            };
            let first = conn.is_connected && !conn.was_pinged;
            conn.ping_at = conn.last_in + if first { interval.min(FIRST_PING) } else { interval };
            let (id, at) = (conn.link.id, conn.ping_at);
            self.remind(at, Due::Ping, slot, id);
        }
    }

    /// Tells the clients that the server will end: they look for another one by themselves.
    pub(super) fn announce_lame_duck(&mut self) {
        self.note_of_server("LAMEDUCK");
        self.inform_all();
    }

    /// Closes some of the connections.
    pub(super) fn send_away(&mut self, mut portion: usize) {
        for slot in 0..self.conns.len() {
            if portion == 0 {
                return;
            }
            if self.at(slot).is_some() {
                self.close_because(slot, End::Quiet, CloseReason::ServerShutdown);
                portion -= 1;
            }
        }
    }
}
