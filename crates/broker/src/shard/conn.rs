//! One connection as its shard holds it. Data and small decisions; reading, writing and delivering are the shard's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::login::PendingConnect;
use super::message::Msg;
use super::outbound::Outbound;
use super::responses::Responses;
use super::verdicts::{Hashed, Question, Verdicts};
use crate::auth::Entry;
use crate::connect::Connect;
use crate::link::{Link, Subscription};
use crate::snapshot::{About, CloseReason, Traffic};
use crate::transport::Transport;

/// Refusals logged per connection: a client that asks for nothing else must not fill the disk with them.
const REFUSALS_LOGGED_MAX: u32 = 20;

/// A client of this shard.
pub(crate) struct Conn {
    pub(crate) link: Arc<Link>,
    pub(crate) stream: Rc<Transport>,
    pub(crate) peer: SocketAddr,
    /// What this client must sign.
    pub(crate) nonce: String,
    /// Who it is; `None` until it is known.
    pub(crate) entry: Option<Arc<Entry>>,
    /// The place of its account in the shard's routes.
    pub(crate) account: usize,
    /// A CONNECT that is being checked; nothing is read until it is known who this is.
    pub(crate) pending: Option<Box<PendingConnect>>,
    /// Whom it claimed to be without proving it.
    pub(crate) claim: Option<Box<str>>,
    /// A valid CONNECT came. Without credentials a client may speak earlier.
    pub(crate) is_connected: bool,
    pub(crate) says: Says,
    pub(crate) subscriptions: HashMap<Box<[u8]>, Arc<Subscription>>,
    /// Reply subjects it may answer on, if its identity has `allow_responses`.
    pub(crate) responses: Responses,
    /// A frame that did not arrive whole. Nothing is allocated while there is none.
    pub(crate) partial: BytesMut,
    /// Bytes the partial frame needs before parsing it makes sense.
    pub(crate) needed: usize,
    /// What was read and waits until who is far behind has caught up.
    pub(crate) paused: Paused,
    pub(crate) outbound: Outbound,
    /// Noted in the shard's list of connections to write.
    pub(crate) is_dirty: bool,
    /// The socket takes no more: a task waits for it, and nobody else writes.
    pub(crate) is_blocked: bool,
    /// What it was refused so far, for the log.
    refusals: u32,
    pub(crate) started: Instant,
    pub(crate) last_in: Instant,
    /// The last batch that wrote to it.
    pub(crate) last_out: Instant,
    pub(crate) pings_out: u32,
    /// When it is looked at next for silence; an earlier reminder no longer holds.
    pub(crate) ping_at: Instant,
    /// When the last PING went out, until it is answered.
    pub(crate) pinged_at: Option<Instant>,
    /// The last measured round trip.
    pub(crate) round_trip: Option<Duration>,
    /// What went in and out, for whoever asks.
    pub(crate) traffic: Traffic,
    /// What it said about itself.
    pub(crate) about: Option<Arc<About>>,
    /// Why it is about to end, where the words it is told do not say that.
    pub(crate) reason: Option<CloseReason>,
    /// The round trip was measured by a first PING.
    pub(crate) was_pinged: bool,
    /// The second INFO follows the first PONG only.
    pub(crate) was_ponged: bool,
}

/// A batch that was interrupted.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    /// What is left of it, at most one read.
    pub(crate) rest: Vec<u8>,
    /// Bytes that must wait for a subscriber before it is interrupted again.
    pub(crate) until_bytes: usize,
}

/// What the client said about itself in CONNECT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Says {
    pub(crate) verbose: bool,
    pub(crate) pedantic: bool,
    pub(crate) echo: bool,
    pub(crate) headers: bool,
    pub(crate) no_responders: bool,
    pub(crate) protocol: i32,
}

/// **Verbose, pedantic and echo are on unless switched off** (client.go `defaultOpts`): a person with telnet relies on
/// it.
impl Default for Says {
    fn default() -> Self {
        Self { verbose: true, pedantic: true, echo: true, headers: false, no_responders: false, protocol: 0 }
    }
}

impl Says {
    /// What is said after another CONNECT: what it does not mention stays.
    pub(crate) fn after(self, connect: &Connect) -> Self {
        Self {
            verbose: connect.verbose.unwrap_or(self.verbose),
            pedantic: connect.pedantic.unwrap_or(self.pedantic),
            echo: connect.echo.unwrap_or(self.echo),
            headers: connect.headers.unwrap_or(self.headers),
            no_responders: connect.no_responders.unwrap_or(self.no_responders),
            protocol: connect.protocol.unwrap_or(self.protocol),
        }
    }
}

impl Conn {
    pub(crate) fn new(
        link: Arc<Link>,
        stream: Rc<Transport>,
        peer: SocketAddr,
        nonce: String,
        now: Instant,
    ) -> Self {
        Self {
            link,
            stream,
            peer,
            nonce,
            entry: None,
            account: 0,
            pending: None,
            claim: None,
            says: Says::default(),
            is_connected: false,
            subscriptions: HashMap::new(),
            responses: Responses::default(),
            partial: BytesMut::new(),
            needed: 0,
            paused: Paused::default(),
            outbound: Outbound::default(),
            is_dirty: false,
            is_blocked: false,
            refusals: 0,
            started: now,
            last_in: now,
            last_out: now,
            pings_out: 0,
            ping_at: now,
            pinged_at: None,
            round_trip: None,
            traffic: Traffic::default(),
            about: None,
            reason: None,
            was_pinged: false,
            was_ponged: false,
        }
    }

    /// Whether this process vouches for it.
    pub(crate) fn is_trusted(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.is_trusted())
    }

    /// Whether this client may publish to `subject`.
    pub(crate) fn may_publish(&mut self, subject: Hashed<'_>, verdicts: &mut Verdicts, now: Instant) -> bool {
        let Some(entry) = &self.entry else {
            return false;
        };
        let access = &entry.access;
        if access.publish.is_everything() {
            return true;
        }
        let decide = |subject: &[u8]| access.publish.permits_subject(subject);
        if verdicts.on(access.id, Question::Publish, subject, decide) {
            return true;
        }
        access.responses.is_some() && self.responses.may_answer(subject.subject, now)
    }

    /// Whether this client may ask for answers on `reply`: whoever answers publishes there with rights of its own, so
    /// it must be a subject that the client may listen to, and none that it is forbidden to publish to.
    pub(crate) fn may_name_reply(&self, reply: &[u8], verdicts: &mut Verdicts) -> bool {
        let Some(entry) = &self.entry else {
            return false;
        };
        let access = &entry.access;
        access.publish.is_everything()
            || verdicts.on(access.id, Question::Reply, Hashed::new(reply), |reply| {
                access.subscribe.permits_subject(reply) && !access.publish.denies_subject(reply, None)
            })
    }

    /// Logs that it may not do `what` with `subject`, unless that happened too often.
    pub(crate) fn log_refusal(&mut self, what: &str, subject: &[u8]) {
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals <= REFUSALS_LOGGED_MAX {
            tracing::info!(client = self.link.id, what, subject = %subject.escape_ascii(), "refused");
        }
        if self.refusals == REFUSALS_LOGGED_MAX {
            tracing::warn!(client = self.link.id, "refused too often: no more of this connection is logged");
        }
    }

    /// Forgets the requests it might answer by rules that no longer hold.
    pub(crate) fn forget_requests(&mut self) {
        self.responses.clear();
    }

    /// Whether a message on `subject` must be left out of `target`, a subscription of this client, because of `deny`.
    pub(crate) fn is_denied(
        &self,
        subject: Hashed<'_>,
        target: &Subscription,
        verdicts: &mut Verdicts,
    ) -> bool {
        self.entry.as_ref().is_some_and(|entry| {
            let access = &entry.access;
            // One verdict for all subscriptions where the rules make no difference between them.
            let queue = target.queue.as_deref().filter(|_| access.subscribe.denies_by_queue());
            let decide = |subject: &[u8]| access.subscribe.denies_subject(subject, queue);
            verdicts.on_member(access.id, Question::Denied, subject, queue, decide)
        })
    }

    /// The same for a message that may be for one subject and be shown under another.
    pub(crate) fn may_not_have(
        &self,
        message: &Msg<'_>,
        target: &Subscription,
        verdicts: &mut Verdicts,
    ) -> bool {
        self.is_denied(message.subject, target, verdicts)
            || message.to.is_some_and(|to| self.is_denied(Hashed::new(to), target, verdicts))
    }

    /// Remembers that a request was delivered, if this client may answer requests.
    pub(crate) fn expect_response(&mut self, reply: &[u8], now: Instant) {
        let Some(rule) = self.entry.as_ref().and_then(|entry| entry.access.responses) else {
            return;
        };
        self.responses.expect(reply, rule, now);
    }
}
