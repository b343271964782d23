//! From CONNECT to an identity. What is known at once is decided at once; where a hash must be computed, the connection
//! is put aside: nothing of it is read, and what came after its CONNECT is kept until it is known who it is.

use std::sync::Arc;
use std::time::Instant;

use super::ingest::Next;
use super::routes::Routes;
use super::{End, FIRST_PING, Shard, events};
use crate::auth::{Challenge, Entry, Standing, Verdict};
use crate::connect::Connect;
use crate::link::Link;
use crate::snapshot::CloseReason;

/// A CONNECT whose proof is being checked.
pub(crate) struct PendingConnect {
    connect: Connect,
    /// What must be computed; taken by the task that has it computed.
    challenge: Option<Challenge>,
    /// What came in the same read, at most one read.
    rest: Vec<u8>,
}

impl Shard {
    /// Who it is that speaks before CONNECT, where no credential is needed (nats-server serves telnet that way).
    pub(super) fn welcome(&mut self, slot: usize) {
        if let Some(entry) = self.shared.anonymous() {
            let account = self.place_of_account(&entry.identity.account);
            if let Some(conn) = self.at(slot) {
                (conn.entry, conn.account) = (Some(entry), account);
            }
        }
    }

    /// Where the routes of an account are.
    pub(super) fn place_of_account(&mut self, name: &str) -> usize {
        if let Some(place) = self.routes.iter().position(|routes| *routes.account().name == *name) {
            return place;
        }
        self.routes.push(Routes::new(self.shared.accounts.get(name)));
        self.routes.len() - 1
    }

    pub(super) fn connect(&mut self, slot: usize, json: &[u8]) {
        let Some(connect) = Connect::parse(json) else {
            tracing::info!("CONNECT is not the JSON it should be");
            return self.close_because(slot, End::Quiet, CloseReason::ProtocolViolation);
        };
        let Some(conn) = self.conns[slot].as_deref_mut() else {
            return;
        };
        // From INFO to CONNECT is a first estimate, before a PING measures it (client.go processConnect).
        conn.round_trip.get_or_insert_with(|| conn.started.elapsed());
        // Accounts are given, not chosen; a client that asks for one must not believe that it got it.
        if !connect.account.is_empty() {
            return self.refuse_claim(slot, &connect);
        }
        let shared = &self.shared;
        let anonymous = shared
            .anonymous()
            .filter(|entry| !connect.gives_credential() || (entry.is_anonymous() && shared.users.is_empty()));
        // Who is vouched for stays who it is.
        let trusted = conn.entry.clone().filter(|entry| entry.is_trusted());
        let verdict = match trusted.or(anonymous) {
            Some(entry) => Verdict::Known(entry),
            None => shared.users.authenticate(&connect, &conn.nonce),
        };
        match verdict {
            Verdict::Known(entry) => self.log_in(slot, &connect, entry),
            Verdict::Unproved(challenge) => {
                let pending = PendingConnect { connect, challenge: Some(challenge), rest: Vec::new() };
                conn.pending = Some(Box::new(pending));
            }
            Verdict::Refused => self.refuse_claim(slot, &connect),
        }
    }

    /// Keeps what came after a CONNECT that is being checked.
    pub(super) fn put_aside(&mut self, link: &Link, rest: &[u8]) {
        if let Some(pending) = self.conn(link).and_then(|conn| conn.pending.as_deref_mut()) {
            pending.rest.extend_from_slice(rest);
        }
    }

    /// What must be computed before this connection goes on.
    pub(super) fn take_challenge(&mut self, link: &Link) -> Option<Challenge> {
        self.conn(link)?.pending.as_deref_mut()?.challenge.take()
    }

    /// It is known who the connection is: executes what it sent after its CONNECT.
    pub(super) fn go_on(&mut self, link: &Link, proved: Option<Arc<Entry>>) -> Next {
        self.now = Instant::now();
        self.check_identities();
        let Some(pending) = self.conn(link).and_then(|conn| conn.pending.take()) else {
            self.flush();
            return Next::Ended;
        };
        // The identities may have changed meanwhile.
        let entry = proved.and_then(|entry| match self.shared.users.standing(&entry) {
            Standing::Unchanged => Some(entry),
            Standing::Changed(entry) => Some(entry),
            Standing::Revoked => None,
        });
        match entry {
            Some(entry) => {
                self.log_in(link.slot, &pending.connect, entry);
                self.ingest(link, &pending.rest);
            }
            None => self.refuse_claim(link.slot, &pending.connect),
        }
        self.flush();
        self.must_wait(link).unwrap_or(Next::Yield)
    }

    /// The connection is `entry` from here on.
    fn log_in(&mut self, slot: usize, connect: &Connect, entry: Arc<Entry>) {
        let Some(said) = self.at(slot).map(|conn| conn.says) else {
            return;
        };
        let says = said.after(connect);
        if says.no_responders && !says.headers {
            return self.close(slot, End::Told("no responders requires headers support"));
        }
        let account = self.place_of_account(&entry.identity.account);
        let Some(conn) = self.conns[slot].as_deref_mut() else {
            return;
        };
        let is_first = !std::mem::replace(&mut conn.is_connected, true);
        tracing::debug!(client = conn.link.id, peer = %conn.peer, identity = entry.identity.name, name = connect.name,
            "connected");
        // A second CONNECT starts over: what was subscribed by the first identity is not for the second. The first one
        // keeps what was subscribed before it, where that was allowed and it changes nothing about who it is.
        let is_same = is_first && conn.entry.as_ref().is_some_and(|before| Arc::ptr_eq(before, &entry));
        let dropped: Vec<_> = if is_same {
            Vec::new()
        } else {
            conn.subscriptions.drain().map(|(_, subscription)| subscription).collect()
        };
        let left = std::mem::replace(&mut conn.account, account);
        conn.says = says;
        conn.about = connect.about();
        conn.entry = Some(entry);
        conn.forget_requests();
        let conn_is_socket = conn.stream.as_pipe().is_none();
        let id = conn.link.id;
        self.stats.subscriptions -= dropped.len() as u64;
        self.routes[left].account().unsubscribe(&dropped);
        self.acknowledge(slot);
        self.note_login(slot);
        // The other end of a pipe cannot be gone without being missed.
        if is_first && conn_is_socket {
            let jitter = 1.0 + 0.2 * self.random.f32();
            let first = FIRST_PING.mul_f32(jitter).min(self.limits.ping_interval);
            self.ping_after(first, slot, id);
        }
    }

    fn refuse_claim(&mut self, slot: usize, connect: &Connect) {
        if let Some(conn) = self.at(slot) {
            conn.about = connect.about();
            conn.claim = Some(events::claim(connect));
        }
        self.refuse_identity(slot);
    }

    pub(super) fn refuse_identity(&mut self, slot: usize) {
        if let Some(conn) = self.at(slot) {
            tracing::warn!(client = conn.link.id, peer = %conn.peer, "authorization violation");
            self.stats.auth_failures += 1;
            self.close(slot, End::Told("Authorization Violation"));
        }
    }
}
