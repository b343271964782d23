//! A reactor thread: it owns connections and does everything for them itself.
//!
//! ```text
//!  socket readable -> read (<= 64 KiB) -> parse -> route -> append to each subscriber's outbound    }  one borrow of
//!                                                       `-> batch for another shard's inbox         }  the shard,
//!                     end of the batch: one write per dirty connection, one wake per dirty shard    }  no await
//!  socket full     -> a task waits for it; until then the bytes pile up, bounded by max_pending
//!  inbox           -> deliver what others published -> one write per dirty connection
//! ```
//!
//! Inside a shard no message is handed from task to task: the task of the connection that read it writes it to the
//! subscribers. Tasks ([`tasks`]) only wait; what they do is a synchronous method of [`Shard`], so the `RefCell` is
//! never held across an await.
//!
//! Failures: a connection that breaks a rule is told (if there are words for it), taken out at once and its socket
//! drained by a task of its own, so that the words arrive. A slow consumer is cut off without a word.

mod changes;
mod conn;
mod events;
mod greet;
pub(crate) mod inbox;
mod ingest;
#[cfg_attr(not(feature = "jetstream"), path = "without_jetstream.rs")]
mod jetstream;
mod login;
pub(crate) mod look;
mod message;
mod outbound;
mod pace;
mod publish;
mod responses;
mod routes;
pub(crate) mod tasks;
mod tick;
mod timers;
mod verdicts;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ostler_broker_proto::codec::write_err;
use tokio::sync::Notify;

use self::conn::Conn;
use self::events::Event;
use self::inbox::{Batch, Envelope};
pub(crate) use self::jetstream::Streams;
use self::look::Ended;
use self::message::Msg;
use self::outbound::Pool;
use self::routes::Routes;
use self::timers::Timers;
use self::verdicts::{Hashed, Verdicts};
use crate::limits::Limits;
use crate::link::{Link, Subscription};
use crate::shared::Shared;
use crate::snapshot::CloseReason;
use crate::stats::Stats;

/// Bytes per read: one system call for thousands of small messages, and it stays in the cache.
const READ_BYTES: usize = 64 << 10;
/// A backlog that is written before the batch ends: one read may be multiplied by many subscriptions.
const FLUSH_EARLY_BYTES: usize = 1 << 20;
/// Writes to one connection before others get their turn: one that reads as fast as it is written to has never enough.
const WRITES_PER_TURN: usize = 8;
/// First PING after CONNECT, to measure the round trip; up to a fifth later, so that clients do not beat together.
const FIRST_PING: Duration = Duration::from_secs(2);

/// The state of a reactor thread.
pub(crate) struct Shard {
    index: usize,
    shared: Arc<Shared>,
    /// Those in force, as of the last word of changed ones.
    limits: Arc<Limits>,
    conns: Vec<Option<Box<Conn>>>,
    free: Vec<usize>,
    /// By account, that of everybody first. A connection holds the place of its own.
    routes: Vec<Routes>,
    verdicts: Verdicts,
    /// Connections with something to write at the end of this batch.
    dirty: Vec<usize>,
    /// Messages for other shards, by shard.
    outboxes: Vec<Batch>,
    pool: Pool,
    /// A backlog above this is looked after before the batch ends.
    flush_early_bytes: usize,
    read_buffer: Vec<u8>,
    timers: Timers,
    /// The clock task sleeps for too long.
    timers_changed: Rc<Notify>,
    /// Generation of the identities that the connections were checked against.
    users_seen: u64,
    /// The subscriber that the publisher of this batch should wait for.
    wait_for: Option<Arc<Link>>,
    random: fastrand::Rng,
    stats: Stats,
    /// Subscriptions ended: routes to them are forgotten then.
    sweep_at: Option<Instant>,
    /// When they were last forgotten.
    swept_at: Instant,
    /// Connections that ended, for whoever asks.
    ended: Ended,
    /// Messages of the server, to be delivered at the end of the batch.
    events: Vec<Event>,
    /// Documents that are being gathered for system users.
    gathering: usize,
    /// JetStream, in the shard that owns it.
    streams: Streams,
    /// When this batch began.
    now: Instant,
    /// Sockets being drained after their connection ended; shutdown waits for them.
    draining: Rc<tasks::Draining>,
    /// For the tasks it starts.
    myself: Weak<RefCell<Shard>>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    /// What waits for the client is still sent, the error last.
    Told(&'a str),
    /// What waits for the client is still sent.
    Quiet,
    /// The client said its last byte; what waits for it is still sent.
    HungUp,
    /// The socket is cut at once: the client is gone, or does not take what it gets.
    Cut,
}

impl End<'_> {
    /// Why, if nobody said otherwise.
    fn reason(self, is_serving: bool) -> CloseReason {
        match self {
            Self::Told(text) => CloseReason::of_told(text),
            Self::Quiet | Self::HungUp | Self::Cut if !is_serving => CloseReason::ServerShutdown,
            Self::Quiet | Self::HungUp => CloseReason::ClientClosed,
            Self::Cut => CloseReason::ReadError,
        }
    }
}

impl Shard {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, streams: Streams) -> Rc<RefCell<Self>> {
        let outboxes = shared.shards.iter().map(|_| Batch::default()).collect();
        let users_seen = shared.users.generation();
        let mut routes = vec![Routes::new(Arc::clone(shared.accounts.global()))];
        if let Some(account) = &shared.jetstream.account {
            routes.push(Routes::new(shared.accounts.get(account)));
        }
        let ended = Ended::new(shared.closed_connections_max / shared.shards.len().max(1));
        let limits = shared.limits();
        let flush_early_bytes = flush_early_bytes(&limits);
        Rc::new_cyclic(|myself| {
            RefCell::new(Self {
                index,
                shared,
                limits,
                conns: Vec::new(),
                free: Vec::new(),
                routes,
                verdicts: Verdicts::default(),
                sweep_at: None,
                swept_at: Instant::now(),
                dirty: Vec::new(),
                outboxes,
                pool: Pool::default(),
                flush_early_bytes,
                read_buffer: vec![0; READ_BYTES],
                timers: Timers::default(),
                timers_changed: Rc::default(),
                users_seen,
                wait_for: None,
                random: fastrand::Rng::new(),
                stats: Stats::default(),
                ended,
                events: Vec::new(),
                gathering: 0,
                streams,
                now: Instant::now(),
                draining: Rc::default(),
                myself: myself.clone(),
            })
        })
    }

    /// The connection that `link` names, unless it ended.
    fn conn(&mut self, link: &Link) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(link.slot)?.as_deref_mut()?;
        (conn.link.id == link.id).then_some(conn)
    }

    fn at(&mut self, slot: usize) -> Option<&mut Conn> {
        self.conns.get_mut(slot)?.as_deref_mut()
    }

    /// Cuts off the connection that `link` names, unless it ended.
    fn close_of(&mut self, link: &Link, reason: CloseReason) {
        if self.conn(link).is_some() {
            self.close_because(link.slot, End::Cut, reason);
        }
    }

    /// Appends to what waits for the client, to be written at the end of the batch. May end the connection: who
    /// does not read what the server says is a slow consumer too.
    fn send_with(&mut self, slot: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(conn) = self.conns[slot].as_deref_mut() else {
            return;
        };
        conn.outbound.append_with(&mut self.pool, write);
        let is_much = conn.outbound.len() > self.flush_early_bytes;
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(slot);
        }
        if is_much {
            self.bound(slot);
        }
    }

    /// Keeps a large backlog inside its limits: writes early, then paces the publishers and the client itself, then
    /// gives up.
    #[cold]
    fn bound(&mut self, slot: usize) {
        self.write(slot);
        self.write_if_it_reads(slot);
        let (stall_bytes, pending_bytes_max) = (self.limits.stall_bytes(), self.limits.pending_bytes_max);
        let Some(conn) = self.at(slot) else {
            return;
        };
        if conn.outbound.len() > pending_bytes_max {
            self.close_slow_consumer(slot, CloseReason::SlowConsumerPendingBytes);
        } else if conn.outbound.len() > stall_bytes {
            conn.link.stall();
        }
    }

    /// `-ERR`, the connection stays.
    fn complain(&mut self, slot: usize, text: &str) {
        self.send_with(slot, |out| write_err(out, text));
    }

    /// Ends a connection: its subscriptions, its place, then its socket.
    fn close(&mut self, slot: usize, end: End<'_>) {
        let Some(mut conn) = self.conns.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if let End::Told(text) = end {
            conn.outbound.append_with(&mut self.pool, |out| write_err(out, text));
        }
        self.free.push(slot);
        self.stats.connections -= 1;
        self.stats.subscriptions -= conn.subscriptions.len() as u64;
        self.shared.dismiss(self.index);
        // After this nobody delivers to it, and who waited for it goes on.
        conn.link.close();
        if !conn.subscriptions.is_empty() {
            self.routes[conn.account].account().unsubscribe(conn.subscriptions.values());
            self.sweep_soon();
        }
        let is_serving = !self.shared.stopping.load(Ordering::Acquire);
        let reason = conn.reason.unwrap_or_else(|| match end.reason(is_serving) {
            CloseReason::ReadError | CloseReason::ClientClosed if conn.stream.is_encrypting() => {
                CloseReason::TlsHandshakeFailure
            }
            reason => reason,
        });
        if reason == CloseReason::StaleConnection {
            self.stats.stale_connections += 1;
        }
        self.ended.remember(&conn, slot, reason, Instant::now());
        self.note_end(&conn, reason, is_serving);
        tracing::debug!(client = conn.link.id, peer = %conn.peer, reason = reason.as_str(), "connection ended");
        match end {
            // Clients that fill their backlog, break a rule and come back would pile these up.
            _ if is_serving
                && self.draining.bytes() + conn.outbound.len() > self.limits.pending_bytes_max =>
            {
                conn.stream.cut();
            }
            // Wakes the connection's task, whose read then ends.
            End::Cut => conn.stream.cut(),
            // Nothing is left to send, and nothing to wait for.
            End::HungUp if conn.outbound.is_empty() && conn.stream.is_plain_socket() => {}
            End::Told(_) | End::Quiet | End::HungUp => {
                let (myself, id) = (self.myself.clone(), conn.link.id);
                tasks::spawn_drain(&self.draining, conn.stream, conn.outbound, move |left| {
                    if let Some(shard) = myself.upgrade() {
                        shard.borrow_mut().ended.left(id, left);
                    }
                });
            }
        }
    }

    /// Ends a connection for a reason that `end` does not tell.
    fn close_because(&mut self, slot: usize, end: End<'_>, reason: CloseReason) {
        if let Some(conn) = self.at(slot) {
            conn.reason = Some(reason);
            self.close(slot, end);
        }
    }

    fn close_slow_consumer(&mut self, slot: usize, reason: CloseReason) {
        if let Some(conn) = self.at(slot) {
            let pending_bytes = conn.outbound.len();
            tracing::warn!(client = conn.link.id, peer = %conn.peer, pending_bytes, reason = reason.as_str(), "slow consumer");
            self.stats.slow_consumers += 1;
            if reason == CloseReason::SlowConsumerWriteDeadline {
                self.stats.slow_consumers_by_deadline += 1;
            }
            self.close_because(slot, End::Cut, reason);
        }
    }

    /// Ends a batch: writes what it left for connections and shards, and lays the counters open.
    fn flush(&mut self) {
        loop {
            self.deliver_events();
            self.end_batch_of_streams();
            self.write_all();
            // A client that could not be written to ended, and its end is an event.
            if self.events.is_empty() {
                break;
            }
        }
        self.shared.shards[self.index].counters.publish(&self.stats);
    }

    fn write_all(&mut self) {
        // Other shards first: they work while this one writes, and whoever sees a message of a batch may rely on it that
        // the whole batch is on its way, also before a shutdown that it asks for.
        for (shard, outbox) in self.outboxes.iter_mut().enumerate() {
            if !outbox.is_empty() {
                self.shared.shards[shard].inbox.push_batch(outbox);
            }
        }
        let now = self.now;
        while let Some(slot) = self.dirty.pop() {
            if let Some(conn) = self.at(slot) {
                conn.is_dirty = false;
                conn.last_out = now;
                self.write(slot);
            }
        }
    }

    /// Writes until nothing waits or the socket takes no more; then a task waits for the socket.
    fn write(&mut self, slot: usize) {
        let Some(conn) =
            self.conns.get_mut(slot).and_then(Option::as_deref_mut).filter(|conn| !conn.is_blocked)
        else {
            return;
        };
        match write_out(conn, &mut self.pool) {
            Ok(true) => {}
            Ok(false) => {
                conn.is_blocked = true;
                if let Some(myself) = self.myself.upgrade() {
                    let wait =
                        tasks::write_when_ready(myself, Arc::clone(&conn.link), Rc::clone(&conn.stream));
                    tokio::task::spawn_local(wait);
                }
            }
            Err(_) => self.close_because(slot, End::Cut, CloseReason::WriteError),
        }
    }

    /// Writes to a client whose socket was full a moment ago: in the middle of a batch nobody hears that it reads, and
    /// a batch may be multiplied by many subscriptions.
    fn write_if_it_reads(&mut self, slot: usize) {
        let stall_bytes = self.limits.stall_bytes();
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_deref_mut) else {
            return;
        };
        let stream = Rc::clone(&conn.stream);
        if conn.is_blocked && !conn.outbound.is_empty() {
            match conn.outbound.write_once(&mut self.pool, |slices| stream.try_write_unasked(slices)) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return self.close_because(slot, End::Cut, CloseReason::WriteError),
            }
        }
        if conn.outbound.len() < stall_bytes {
            conn.link.release();
        }
    }

    /// The bytes that `link` ever took and those that wait for it, unless it ended.
    fn backlog(&mut self, link: &Link) -> Option<(u64, usize)> {
        self.conn(link).map(|conn| {
            // What a transport took but could not pass on did not leave.
            let taken = conn.stream.written().unwrap_or(conn.outbound.taken());
            (taken, conn.outbound.len())
        })
    }

    /// The socket of `link` may take bytes again. Returns the backlog if it must still be waited for.
    fn write_again(&mut self, link: &Link) -> Option<(u64, usize)> {
        let stall_bytes = self.limits.stall_bytes();
        let conn = self.conns.get_mut(link.slot)?.as_deref_mut()?;
        if conn.link.id != link.id {
            return None;
        }
        let Ok(all) = write_out(conn, &mut self.pool) else {
            self.close_because(link.slot, End::Cut, CloseReason::WriteError);
            return None;
        };
        if conn.outbound.len() < stall_bytes {
            conn.link.release();
        }
        conn.is_blocked = !all;
        if all { None } else { self.backlog(link) }
    }

    /// Takes in what other threads left; returns whether the server goes on.
    fn receive(&mut self, envelopes: Vec<Envelope>) -> bool {
        self.now = Instant::now();
        self.check_identities();
        let mut goes_on = true;
        for envelope in envelopes {
            match envelope {
                Envelope::Connection(incoming) => self.take_over(*incoming),
                Envelope::Batch(batch) => self.deliver_batch(batch),
                Envelope::UsersChanged => {}
                Envelope::Question(question) => self.answer(question),
                #[cfg(feature = "jetstream")]
                Envelope::Synced(synced) => self.synced(synced),
                #[cfg(feature = "jetstream")]
                Envelope::Interest(filter) => {
                    self.note_interest(self.shared.jetstream.place(), &filter);
                }
                #[cfg(feature = "jetstream")]
                Envelope::Look(look) => self.show_streams(look),
                Envelope::LimitsChanged => self.apply_limits(),
                Envelope::LameDuck => self.announce_lame_duck(),
                Envelope::SendAway(portion) => self.send_away(portion),
                Envelope::Shutdown => goes_on = false,
            }
        }
        self.flush();
        goes_on
    }

    fn deliver_batch(&mut self, batch: Batch) {
        batch.unpack(|message, targets| {
            let mut shared_body = None;
            for target in targets {
                let is_taken = self.deliver(target, message, &mut shared_body, targets.len() > 1);
                if !is_taken && target.queue.is_some() {
                    self.deliver_to_another(target, message);
                }
            }
        });
        self.shared.shards[self.index].inbox.give_back(batch);
    }

    /// A member of a queue group left while a message for it was on its way: another one gets it.
    #[cold]
    fn deliver_to_another(&mut self, gone: &Subscription, message: &Msg<'_>) {
        // One that is there and may not have it is no reason: the others may have the same permissions, and the message
        // would go round.
        if !gone.has_ended() && !gone.link.is_closed() {
            return;
        }
        let Some(account) = gone.account() else {
            return;
        };
        let place = self.place_of_account(&account.name);
        let route = self.routes[place].get(message.to.map_or(message.subject, Hashed::new), self.index);
        for members in &route.groups {
            if members.first().is_some_and(|member| member.queue == gone.queue) {
                self.deliver_to_group(members, None, 0, message, &mut None);
            }
        }
    }

    /// Delivers what other shards left, before a client of this one is heard that may know of it already: it must not
    /// end a subscription (a drain: UNSUB, PING) and miss what was published before.
    fn catch_up(&mut self) {
        let inbox = &self.shared.shards[self.index].inbox;
        if inbox.has_messages() {
            for batch in inbox.take_batches() {
                self.deliver_batch(batch);
            }
        }
    }

    /// Ends every connection; what waits for them is sent by their drains.
    fn close_all(&mut self) {
        self.note_shutdown();
        for slot in 0..self.conns.len() {
            self.close(slot, End::Quiet);
        }
        self.flush();
    }
}

fn flush_early_bytes(limits: &Limits) -> usize {
    FLUSH_EARLY_BYTES.min(limits.pending_bytes_max / 2)
}

/// Writes until nothing waits, the socket takes no more, or it is the others' turn; returns whether nothing waits.
fn write_out(conn: &mut Conn, pool: &mut Pool) -> std::io::Result<bool> {
    let stream = &conn.stream;
    let mut writes = 0;
    while !conn.outbound.is_empty() {
        if writes == WRITES_PER_TURN {
            return Ok(false);
        }
        writes += 1;
        let written = match stream.as_pipe() {
            Some(pipe) => conn.outbound.hand_over(pool, pipe),
            None => conn.outbound.write_once(pool, |slices| match slices {
                [only] => stream.try_write(only),
                several => stream.try_write_vectored(several),
            }),
        };
        match written {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    conn.stream.try_flush()
}

/// What a client signs, fresh for every connection: 11 random bytes, as many as nats-server takes.
fn fresh_nonce() -> String {
    let mut bytes = [0; 11];
    // Without randomness a signature could be replayed; `Server::start` made sure that the system has some.
    getrandom::fill(&mut bytes).expect("the system gave random bytes before");
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}
