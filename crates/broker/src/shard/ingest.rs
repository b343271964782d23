//! From bytes to deeds: reads a socket, cuts the bytes into operations and executes them. Routing of messages is next
//! door in `publish`.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use ostler_broker_proto::codec::write_info;
use ostler_broker_proto::{ClientOp, Parsed, ProtocolError, parse_client, subject};

use super::{End, READ_BYTES, Shard};
use crate::auth::Challenge;
use crate::link::{Link, Subscription};
use crate::snapshot::CloseReason;
use crate::transport::piece::Piece;
use crate::transport::{Transport, pipe};

/// A frame at least this large keeps the buffer it was collected in, and subscribers share it.
pub(super) const SHARE_BYTES_MIN: usize = 16 << 10;
/// Room made for a large frame at a time: it grows with what arrives, not with what was announced.
const PARTIAL_STEP: usize = 1 << 20;
/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 4;

/// A batch that takes longer is interrupted: an operation may cost a thousand times its bytes.
const BATCH_MAX: Duration = Duration::from_millis(5);
/// Operations executed between two looks at the clock.
const OPERATIONS_PER_LOOK: usize = 64;

/// What the connection's task should wait for.
pub(super) enum Next {
    /// More bytes from the client.
    Read,
    /// Nothing, but it is the others' turn.
    Yield,
    /// The client itself, which is far behind with what waits for it. The write deadline limits it.
    Itself,
    /// A subscriber that is far behind, for a limited time.
    Subscriber(Arc<Link>),
    /// Another shard's full inbox.
    Inbox(usize),
    /// A hash, to know who the client is.
    Hash(Challenge),
    /// Nothing: the connection is over.
    Ended,
}

impl Shard {
    /// Reads what the socket has, executes it, and writes what came of it.
    pub(super) fn read(&mut self, link: &Link, stream: &Transport) -> Next {
        self.check_identities();
        if let Some(rest) = self.conn(link).map(|conn| std::mem::take(&mut conn.paused.rest))
            && !rest.is_empty()
        {
            self.now = Instant::now();
            self.catch_up();
            self.ingest(link, &rest);
            self.flush();
            return self.must_wait(link).unwrap_or(Next::Yield);
        }
        // Lent out during a batch; a batch that ended in a panic did not give it back.
        self.read_buffer.resize(READ_BYTES, 0);
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.conn(link) else {
                self.flush();
                return Next::Ended;
            };
            if let Some(pipe) = stream.as_pipe().filter(|_| conn.partial.is_empty()) {
                match self.read_pipe(link, pipe) {
                    None => continue,
                    Some(next) => return next,
                }
            }
            let missing = conn.needed.saturating_sub(conn.partial.len());
            // The rest of a large frame is read to where it belongs, and not a byte beyond it.
            let in_place = !conn.partial.is_empty() && missing > READ_BYTES;
            let (read, wanted) = if in_place {
                let step = missing.min(PARTIAL_STEP);
                conn.partial.reserve(step);
                (stream.try_read_buf(&mut (&mut conn.partial).limit(step)), step)
            } else {
                (stream.try_read(&mut self.read_buffer), READ_BYTES)
            };
            let len = match read {
                Ok(0) => {
                    self.close(link.slot, End::HungUp);
                    continue;
                }
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.flush();
                    return Next::Read;
                }
                Err(_) => {
                    self.close(link.slot, End::Cut);
                    continue;
                }
            };
            self.note_arrival(link);
            self.catch_up();
            if in_place {
                self.ingest(link, &[]);
            } else {
                let buffer = std::mem::take(&mut self.read_buffer);
                self.ingest(link, &buffer[..len]);
                self.read_buffer = buffer;
            }
            self.flush();
            if let Some(wait) = self.must_wait(link) {
                return wait;
            }
            if self.is_paused(link) {
                return Next::Yield;
            }
            if len < wanted {
                return Next::Read;
            }
        }
        Next::Yield
    }

    /// Executes a buffer of a connection in this process where it lies. `None` when there may be more.
    fn read_pipe(&mut self, link: &Link, pipe: &pipe::End) -> Option<Next> {
        match pipe.try_take() {
            Ok(Some(piece)) => {
                self.note_arrival(link);
                self.catch_up();
                self.ingest(link, piece.as_slice());
                if let Piece::Buffer(buffer) = piece {
                    pipe.give_back(buffer);
                }
                self.flush();
                self.must_wait(link).or_else(|| self.is_paused(link).then_some(Next::Yield))
            }
            Ok(None) => {
                self.close(link.slot, End::Quiet);
                None
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.flush();
                Some(Next::Read)
            }
            Err(_) => {
                self.close(link.slot, End::Cut);
                None
            }
        }
    }

    /// Looks at the clock once for all that a read leads to.
    fn note_arrival(&mut self, link: &Link) {
        let now = Instant::now();
        self.now = now;
        if let Some(conn) = self.conn(link) {
            conn.last_in = now;
            conn.paused.until_bytes = 0;
        }
    }

    /// Whether a part of a batch is left to execute.
    fn is_paused(&mut self, link: &Link) -> bool {
        self.conn(link).is_some_and(|conn| !conn.paused.rest.is_empty())
    }

    /// Whether what is left of a batch must wait, because the client itself or a subscriber is far behind: one batch
    /// may be multiplied by many subscriptions, and must not carry a subscriber that reads over the edge.
    ///
    /// A subscriber that takes nothing holds a batch up a few times only, so that the wait stays bounded.
    #[cold]
    fn must_pause(&mut self, link: &Link) -> bool {
        if link.is_stalled() {
            return true;
        }
        let Some(subscriber) = self.wait_for.clone().filter(|subscriber| subscriber.is_stalled()) else {
            return false;
        };
        // How far behind those of other shards are is not known here: once a batch is enough for them.
        let waiting = self.conn(&subscriber).map_or(usize::MAX / 2, |conn| conn.outbound.len());
        let step = self.limits.pending_bytes_max / 16;
        let Some(conn) = self.conn(link).filter(|conn| waiting >= conn.paused.until_bytes) else {
            return false;
        };
        conn.paused.until_bytes = waiting + step;
        true
    }

    /// Whom the client that was just read must wait for before it is read again.
    pub(super) fn must_wait(&mut self, link: &Link) -> Option<Next> {
        if let Some(challenge) = self.take_challenge(link) {
            self.wait_for = None;
            return Some(Next::Hash(challenge));
        }
        if link.is_stalled() {
            self.stats.stalls += 1;
            // More requests would only add to what it does not take.
            self.wait_for = None;
            return Some(Next::Itself);
        }
        if let Some(subscriber) = self.wait_for.take().filter(|subscriber| subscriber.is_stalled()) {
            self.stats.stalls += 1;
            return Some(Next::Subscriber(subscriber));
        }
        self.full_inbox().map(Next::Inbox)
    }

    /// Another shard that has more to take in than it should.
    fn full_inbox(&self) -> Option<usize> {
        let is_full = |shard: &usize| *shard != self.index && self.shared.shards[*shard].inbox.is_full();
        (0..self.shared.shards.len()).find(is_full)
    }

    /// Executes every whole operation in `data` and keeps the rest.
    pub(super) fn ingest(&mut self, link: &Link, mut data: &[u8]) {
        let limits = self.limits.codec();
        if let Some(conn) = self.conn(link)
            && !conn.partial.is_empty()
        {
            let Some(frame) = self.complete_partial(link, &mut data) else {
                return;
            };
            // Only a large frame is worth sharing: turning a buffer into one that can be shared costs an allocation.
            let (owned, kept) = if frame.len() >= SHARE_BYTES_MIN {
                (Some(frame.freeze()), BytesMut::new())
            } else {
                (None, frame)
            };
            let bytes: &[u8] = owned.as_deref().unwrap_or(&kept);
            match parse_client(bytes, &limits) {
                Ok(Parsed::Op { op, consumed }) if consumed == bytes.len() => {
                    if !self.execute(link, &op, bytes, owned.as_ref()) {
                        return self.put_aside(link, data);
                    }
                }
                _ => return self.close_because(link.slot, End::Quiet, CloseReason::ProtocolViolation),
            }
        }
        let mut executed = 0_usize;
        while !data.is_empty() {
            let waits = self.wait_for.is_some() || link.is_stalled();
            let looks_at_clock = executed % OPERATIONS_PER_LOOK == OPERATIONS_PER_LOOK - 1;
            executed += 1;
            if (waits && self.must_pause(link)) || (looks_at_clock && self.now.elapsed() > BATCH_MAX) {
                if let Some(conn) = self.conn(link) {
                    conn.paused.rest = data.to_vec();
                }
                return;
            }
            if !self.may_speak(link, data[0]) {
                return;
            }
            // By reference: moving an operation that was just written costs as much as parsing it.
            match &parse_client(data, &limits) {
                Ok(Parsed::Op { op, consumed }) => {
                    let goes_on = self.execute(link, op, &data[..*consumed], None);
                    data = &data[*consumed..];
                    if !goes_on {
                        return self.put_aside(link, data);
                    }
                }
                Ok(Parsed::Incomplete { needed }) => {
                    if let Some(conn) = self.conn(link) {
                        conn.partial.extend_from_slice(data);
                        conn.needed = *needed;
                    }
                    return;
                }
                Err(error) => return self.refuse(link.slot, *error, data[0]),
            }
        }
    }

    /// Moves bytes from `data` to the partial frame until it is whole; returns it then.
    fn complete_partial(&mut self, link: &Link, data: &mut &[u8]) -> Option<BytesMut> {
        let limits = self.limits.codec();
        loop {
            let conn = self.conn(link)?;
            let have = conn.partial.len();
            let take = if conn.needed == have + 1 {
                // The control line is not whole: it ends at the next line end. (Or one byte of the body's line end is
                // missing, which is the same byte.)
                data.iter().position(|byte| *byte == b'\n').map_or(data.len(), |at| at + 1)
            } else {
                conn.needed.saturating_sub(have).min(data.len())
            };
            conn.partial.extend_from_slice(&data[..take]);
            *data = &data[take..];
            if conn.partial.len() < conn.needed {
                return None;
            }
            match parse_client(&conn.partial, &limits) {
                Ok(Parsed::Op { .. }) => {
                    conn.needed = 0;
                    return Some(std::mem::take(&mut conn.partial));
                }
                Ok(Parsed::Incomplete { needed }) => conn.needed = needed,
                Err(error) => {
                    let first = conn.partial[0];
                    self.refuse(link.slot, error, first);
                    return None;
                }
            }
        }
    }

    /// Who must authenticate says CONNECT first (parser.go, OP_START: anything else is an authorization error).
    fn may_speak(&mut self, link: &Link, first: u8) -> bool {
        match self.conn(link) {
            None => false,
            Some(conn) if conn.entry.is_none() && !matches!(first, b'C' | b'c') => {
                self.refuse_identity(link.slot);
                false
            }
            Some(_) => true,
        }
    }

    /// Ends a connection whose frame, which begins with `first`, cannot be read.
    fn refuse(&mut self, slot: usize, error: ProtocolError, first: u8) {
        let mut words = error.message();
        if let Some(conn) = self.at(slot) {
            tracing::info!(client = conn.link.id, peer = %conn.peer, %error, "protocol violation");
            // That HPUB was not allowed at all comes before its size, and goes without a word (processHeaderPub).
            let is_hpub =
                matches!(error, ProtocolError::PayloadTooLarge { .. }) && matches!(first, b'H' | b'h');
            words = words.filter(|_| !is_hpub || conn.says.headers);
        }
        let end = words.map_or(End::Quiet, End::Told);
        let reason = words.map_or(CloseReason::ProtocolViolation, CloseReason::of_told);
        self.close_because(slot, end, reason);
    }

    /// Executes one operation; returns whether the connection is there for the next.
    fn execute(&mut self, link: &Link, op: &ClientOp<'_>, bytes: &[u8], frame: Option<&Bytes>) -> bool {
        let slot = link.slot;
        match *op {
            ClientOp::Pub(ref publish) => return self.publish(slot, publish, bytes, frame),
            ClientOp::Ping => self.pong(slot),
            ClientOp::Pong => {
                if let Some(conn) = self.at(slot) {
                    conn.pings_out = 0;
                    conn.round_trip = conn.pinged_at.take().map(|at| at.elapsed()).or(conn.round_trip);
                }
            }
            ClientOp::Sub { filter, queue, sid } => self.subscribe(slot, filter, queue, sid),
            ClientOp::Unsub { sid, max } => self.unsubscribe(slot, sid, max),
            ClientOp::Connect(json) => {
                self.connect(slot, json);
                return self.conn(link).is_some_and(|conn| conn.pending.is_none());
            }
            ClientOp::Err(text) => {
                tracing::info!(client = link.id, text = %text.escape_ascii(), "the client gave up");
                self.close(slot, End::Quiet);
            }
            ClientOp::Ignored => {}
        }
        self.conn(link).is_some()
    }

    fn pong(&mut self, slot: usize) {
        let Some(conn) = self.at(slot) else {
            return;
        };
        let first = conn.is_connected && !conn.was_ponged;
        conn.was_ponged |= conn.is_connected;
        let wants_info = first && conn.says.protocol >= 1;
        self.send_with(slot, |out| out.extend_from_slice(b"PONG\r\n"));
        if wants_info && let Some(conn) = self.conns[slot].as_deref() {
            let info = self.info(conn, true);
            self.send_with(slot, |out| write_info(out, info.as_bytes()));
        }
    }

    pub(super) fn acknowledge(&mut self, slot: usize) {
        if self.at(slot).is_some_and(|conn| conn.says.verbose) {
            self.send_with(slot, |out| out.extend_from_slice(b"+OK\r\n"));
        }
    }

    fn subscribe(&mut self, slot: usize, filter: &[u8], queue: Option<&[u8]>, sid: &[u8]) {
        let subscriptions_max = self.limits.subscriptions_max;
        let Some(conn) = self.conns[slot].as_deref_mut() else {
            return;
        };
        let access = conn.entry.as_ref().map(|entry| Arc::clone(&entry.access));
        let Some(access) = access.filter(|access| access.subscribe.permits_filter(filter, queue)) else {
            conn.log_refusal("Subscription to", filter);
            return self.complain(slot, &subscribe_violation(filter, queue));
        };
        if conn.subscriptions.len() >= subscriptions_max {
            return self.complain(slot, "maximum subscriptions exceeded");
        }
        // A sid in use: the first subscription stays, without an error (client.go processSubEx).
        if !conn.subscriptions.contains_key(sid) {
            if !subject::is_filter(filter) {
                return self.complain(slot, "Invalid Subject");
            }
            let id = self.shared.next_subscription_id();
            let denied = access.subscribe.denies_part_of(filter, queue);
            let account = self.routes[conn.account].account();
            let subscription = Subscription::new(id, Arc::clone(&conn.link), filter, queue, sid, denied);
            let subscription = Arc::new(subscription.in_account(account));
            account.subscribe(&subscription);
            conn.subscriptions.insert(sid.into(), subscription);
            self.stats.subscriptions += 1;
            self.stats.subscriptions_total += 1;
            let place = conn.account;
            self.note_interest(place, filter);
        }
        self.acknowledge(slot);
    }

    fn unsubscribe(&mut self, slot: usize, sid: &[u8], max: Option<u64>) {
        if let Some(subscription) = self.at(slot).and_then(|conn| conn.subscriptions.get(sid)) {
            // The maximum counts from SUB, so it may be reached already.
            if max.is_none_or(|max| subscription.set_max(max)) {
                self.end_subscription(slot, sid);
            }
        }
        self.acknowledge(slot);
    }

    pub(super) fn end_subscription(&mut self, slot: usize, sid: &[u8]) {
        let Some(conn) = self.at(slot) else {
            return;
        };
        let account = conn.account;
        if let Some(subscription) = conn.subscriptions.remove(sid) {
            self.stats.subscriptions -= 1;
            self.routes[account].account().unsubscribe([&subscription]);
        }
    }
}

/// The words of nats-server (client.go subPermissionViolation).
pub(super) fn subscribe_violation(filter: &[u8], queue: Option<&[u8]>) -> String {
    let filter = String::from_utf8_lossy(filter);
    match queue {
        None => format!("Permissions Violation for Subscription to \"{filter}\""),
        Some(queue) => {
            let queue = String::from_utf8_lossy(queue);
            format!("Permissions Violation for Subscription to \"{filter}\" using queue \"{queue}\"")
        }
    }
}
