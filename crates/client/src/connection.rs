//! The connection: how it is found, authenticated, kept and used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{AuthError, ConnectOptions, Event, HeaderMap};
use bytes::Bytes;
use ostler_wire::{BY_HEADER, BusTls, ErrorReply, FORWARDED_HEADER, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::credential::{self, check_credential};
use crate::{Bus, Denied, Error, Inboxes, Message, Options, Subscription, Verb};

/// How long [`Client::request`] waits: long enough for a busy host, short enough for a person.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The first and the longest wait between two attempts to reconnect.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_LONGEST: Duration = Duration::from_secs(10);
/// The longest wait for a daemon on this machine: an attempt costs it nothing, and a person waits for its agents.
const RECONNECT_LONGEST_LOCAL: Duration = Duration::from_secs(1);

/// What a NATS server tells a client about itself; used because it is answered by the server and nobody else.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// How often is looked whether the daemon has moved while its bus is away.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(250);
/// How often is looked whether a daemon on somebody else's bus has left that.
const LOOKUP_INTERVAL_EXTERNAL: Duration = Duration::from_secs(2);

/// Publications that wait while the bus is away; below the queue of the library (2048), which also takes the rest.
const WAITING_MAX: usize = 1024;

/// Messages a subscription keeps for a slow owner.
const SUBSCRIPTION_MESSAGES_MAX: usize = 65_536;

/// Whether the bus is there right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Connected for the n-th time, from 1: a change of the number means messages may have been missed.
    Up(u64),
    /// Not connected; reconnecting.
    Down,
}

/// A connection to the bus. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    connection: watch::Receiver<Connection>,
    bus: Bus,
    inbox_prefix: String,
    /// The addresses it was made with.
    urls: Vec<String>,
    is_external: bool,
    inboxes: Inboxes,
    denied: Arc<watch::Sender<Vec<Denied>>>,
    /// Publications since the bus was lost.
    waiting: Arc<AtomicUsize>,
    by: Option<String>,
}

impl Client {
    /// Connects now.
    ///
    /// # Errors
    ///
    /// Tells apart a missing daemon, an unreachable bus and a refused credential. Not cancel-safe: a cancelled call
    /// may leave a connection that closes by itself.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let place = options.bus.place(&options.role)?;
        let key_file = place.credentials.clone().unwrap_or_else(|| options.key_file.clone());
        // Told now and by name: a fault inside the library is only logged.
        check_credential(&key_file)?;
        let addresses = place.addresses()?;
        let inboxes = Inboxes::with(&place.inboxes)?;
        let (state_tx, connection) = watch::channel(Connection::Down);
        let denied = Arc::new(watch::channel(Vec::new()).0);
        let connects = Arc::new(AtomicU64::new(0));
        let waiting = Arc::new(AtomicUsize::new(0));
        let longest = match options.bus {
            Bus::File(_) => RECONNECT_LONGEST_LOCAL,
            Bus::Url(_) | Bus::Tls(..) | Bus::External(_) => RECONNECT_LONGEST,
        };

        let answer = {
            let (connects, reconnects) = (Arc::clone(&connects), options.reconnect);
            move |nonce: Vec<u8>| {
                // The library counts attempts since the last success, so its limit alone lets it connect once more, and
                // what waited for the lost connection would go out on one that nobody knows of.
                let is_over = !reconnects && connects.load(Ordering::Relaxed) > 0;
                let answer = if is_over {
                    Err(AuthError::new("this client was for one connection"))
                } else {
                    credential::answer(&key_file, &nonce)
                };
                std::future::ready(answer)
            }
        };
        let mut connect = ConnectOptions::with_auth_callback(answer)
            .name(&options.name)
            .custom_inbox_prefix(&options.inbox_prefix)
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .connection_timeout(Duration::from_secs(5))
            // The first attempt counts as well, and each address is one.
            .max_reconnects(if options.reconnect { None } else { Some(addresses.len()) })
            .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, longest, fastrand::f64()))
            .event_callback({
                let (state_tx, waiting) = (state_tx.clone(), Arc::clone(&waiting));
                let denied_tx = Arc::clone(&denied);
                move |event| {
                    match &event {
                        Event::Connected => {
                            let nth = connects.fetch_add(1, Ordering::Relaxed) + 1;
                            waiting.store(0, Ordering::Relaxed);
                            // Asked for anew, with the permissions of this connection.
                            denied_tx.send_if_modified(|known| !std::mem::take(known).is_empty());
                            state_tx.send_replace(Connection::Up(nth));
                        }
                        Event::Disconnected | Event::Closed => {
                            state_tx.send_replace(Connection::Down);
                        }
                        Event::ServerError(error) => match Denied::read(&error.to_string()) {
                            Some(denied) => denied.note(&denied_tx),
                            None => tracing::warn!(%error, "the bus complains"),
                        },
                        other => tracing::debug!(event = %other, "bus"),
                    }
                    std::future::ready(())
                }
            });
        if !place.is_external {
            // Our own bus is alone; a cluster may tell of its other members.
            connect = connect.ignore_discovered_servers();
        }
        // Also for servers that are learnt of later: their addresses come without a scheme.
        if place.wants_tls() {
            connect = connect.require_tls(true);
        }
        if let Some(tls) = &place.tls {
            connect = with_tls(connect, tls);
        }
        let nats = connect
            .connect(addresses)
            .await
            .map_err(|error| connect_fault(&place.urls.join(", "), &error))?;
        Ok(Self {
            nats,
            connection,
            bus: options.bus,
            inbox_prefix: options.inbox_prefix,
            urls: place.urls,
            is_external: place.is_external,
            inboxes,
            denied,
            waiting,
            by: options.by,
        })
    }

    /// Follows the connection; the receiver's value is the present state.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Follows what the bus does not permit on the present connection; told at error level too, each once.
    pub fn denied(&self) -> watch::Receiver<Vec<Denied>> {
        self.denied.subscribe()
    }

    /// Waits until the bus denies what `is_ours` accepts. Cancel-safe.
    pub async fn denied_any(&self, is_ours: impl Fn(&Denied) -> bool) -> Denied {
        let mut denied = self.denied.subscribe();
        let found = denied.wait_for(|known| known.iter().any(&is_ours)).await;
        match found.ok().and_then(|known| known.iter().find(|denied| is_ours(denied)).cloned()) {
            Some(denied) => denied,
            // The connection is closed for good: nothing more is denied.
            None => std::future::pending().await,
        }
    }

    /// Waits until a request on `subject` cannot be answered, because we may not ask or may not hear.
    pub(crate) async fn denied_request(&self, subject: &str) -> Denied {
        let inbox = format!("{}.", self.inbox_prefix);
        self.denied_any(|denied| match denied.verb {
            Verb::Publish => denied.subject == subject,
            Verb::Subscribe => denied.subject.starts_with(&inbox),
        })
        .await
    }

    /// Waits until the bus is there. Cancel-safe.
    pub async fn connected(&self) {
        let mut connection = self.connection.clone();
        // An error means the connection task is gone; whoever uses the client next learns it.
        let _ = connection.wait_for(|state| matches!(state, Connection::Up(_))).await;
    }

    /// Waits until the daemon's file names another address: this connection will not find it there, make a new one.
    /// Returns for [`Bus::File`] only. Cancel-safe; what is cancelled begins its wait anew.
    ///
    /// A daemon's own bus goes away with it, so nothing is looked up while that is there; one that is not its own stays.
    pub async fn moved(&self) {
        let mut connection = self.connection.clone();
        loop {
            if self.is_external {
                tokio::time::sleep(LOOKUP_INTERVAL_EXTERNAL).await;
            } else {
                // An error means the connection is closed for good, which is away too.
                let _ = connection.wait_for(|state| *state == Connection::Down).await;
            }
            if matches!(&self.bus, Bus::File(_)) && self.bus.urls().is_ok_and(|urls| urls != self.urls) {
                return;
            }
            if !self.is_external {
                tokio::time::sleep(LOOKUP_INTERVAL).await;
            }
        }
    }

    /// The largest payload the bus carries, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        self.nats.server_info().max_payload
    }

    /// Publishes a message as JSON.
    ///
    /// Returns when the message is in the connection's buffer; [`Client::flush`] waits until it is on its way. While
    /// the bus is away the buffer keeps the first 1024 messages.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Away`] or [`Error::Closed`].
    pub async fn publish<T: Serialize + ?Sized>(&self, subject: &Subject, message: &T) -> Result<(), Error> {
        self.publish_bytes(&subject.to_string(), None, to_json(message)).await
    }

    /// Publishes bytes, optionally asking for answers on `reply`.
    ///
    /// # Errors
    ///
    /// As [`Client::publish`].
    pub async fn publish_bytes(
        &self,
        subject: &str,
        reply: Option<&str>,
        payload: Bytes,
    ) -> Result<(), Error> {
        self.check_size(subject, payload.len())?;
        self.check_room(subject)?;
        let subject = subject.to_owned();
        match reply {
            Some(reply) => self.nats.publish_with_reply(subject, reply.to_owned(), payload).await,
            None => self.nats.publish(subject, payload).await,
        }
        .map_err(|error| Error::Closed(error.to_string()))
    }

    /// Sends a message again as it came, marked with [`FORWARDED_HEADER`].
    ///
    /// # Errors
    ///
    /// As [`Client::publish`].
    pub async fn forward(&self, message: Message) -> Result<(), Error> {
        // The mark counts as payload on the wire: its name, its value and the lines around them.
        self.check_size(&message.subject, message.payload.len() + FORWARDED_HEADER.len() + 32)?;
        self.check_room(&message.subject)?;
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_HEADER, "1");
        match message.reply {
            Some(reply) => {
                self.nats
                    .publish_with_reply_and_headers(message.subject, reply, headers, message.payload)
                    .await
            }
            None => self.nats.publish_with_headers(message.subject, headers, message.payload).await,
        }
        .map_err(|error| Error::Closed(error.to_string()))
    }

    /// Answers a request; does nothing when `message` was a publication or named no inbox.
    ///
    /// # Errors
    ///
    /// As [`Client::publish`].
    pub async fn respond<T: Serialize + ?Sized>(&self, message: &Message, answer: &T) -> Result<(), Error> {
        match &message.reply {
            Some(reply) => self.publish_bytes(reply, None, to_json(answer)).await,
            None => Ok(()),
        }
    }

    /// Asks and waits up to [`REQUEST_TIMEOUT`] for the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Reply`] carries the other side's refusal, [`Error::Denied`] the bus's; after [`Error::Timeout`] the request may have been carried
    /// out. Cancel-safe in the same sense.
    pub async fn request<R: DeserializeOwned>(
        &self,
        subject: &Subject,
        message: &(impl Serialize + ?Sized),
    ) -> Result<R, Error> {
        self.request_within(subject, message, REQUEST_TIMEOUT).await
    }

    /// Asks with a patience of its own.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub async fn request_within<R: DeserializeOwned>(
        &self,
        subject: &Subject,
        message: &(impl Serialize + ?Sized),
        patience: Duration,
    ) -> Result<R, Error> {
        self.request_bytes(&subject.to_string(), to_json(message), patience).await
    }

    /// Asks with a payload as it is, on a subject as it is, and reads the answer as JSON.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub async fn request_bytes<R: DeserializeOwned>(
        &self,
        subject: &str,
        payload: Bytes,
        patience: Duration,
    ) -> Result<R, Error> {
        // It counts as payload on the wire; a message that fits without it goes without it.
        let fits = |by: &&str| {
            let bytes_max = self.payload_bytes_max();
            bytes_max == 0 || payload.len() + BY_HEADER.len() + by.len() + 32 <= bytes_max
        };
        let headers = self.by.as_deref().filter(fits).map(|by| {
            let mut headers = HeaderMap::new();
            headers.insert(BY_HEADER, by);
            headers
        });
        let reply = self.ask(subject, headers, payload, patience).await?;
        read_reply(subject, &reply.payload)
    }

    /// Asks, and returns the answer as it came.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        patience: Duration,
    ) -> Result<async_nats::Message, Error> {
        self.check_size(subject, payload.len())?;
        let mut request = async_nats::Request::new().payload(payload).timeout(Some(patience));
        request.headers = headers;
        // What was denied before may be permitted by now: permissions change while a connection lasts.
        Denied::forget(&self.denied, subject);
        let asked = self.nats.send_request(subject.to_owned(), request);
        let reply = tokio::select! {
            reply = asked => reply,
            denied = self.denied_request(subject) => return Err(Error::Denied(denied)),
        };
        reply.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::NoResponders => Error::NoResponders { subject: subject.to_owned() },
            async_nats::RequestErrorKind::TimedOut => {
                Error::Timeout { subject: subject.to_owned(), millis: patience.as_millis() }
            }
            _ => Error::Closed(error.to_string()),
        })
    }

    /// Listens with everything a message has.
    pub(crate) async fn listen_raw(&self, filter: String) -> Result<async_nats::Subscriber, Error> {
        self.nats.subscribe(filter).await.map_err(|error| Error::Closed(error.to_string()))
    }

    /// Listens on a subject filter.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn subscribe(&self, filter: impl Into<String>) -> Result<Subscription, Error> {
        let inner =
            self.nats.subscribe(filter.into()).await.map_err(|error| Error::Closed(error.to_string()))?;
        Ok(Subscription::new(inner, self.inboxes.clone()))
    }

    /// Listens on a subject filter as a member of a queue group: each message goes to one member.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn queue_subscribe(
        &self,
        filter: impl Into<String>,
        group: &str,
    ) -> Result<Subscription, Error> {
        let inner = self
            .nats
            .queue_subscribe(filter.into(), group.to_owned())
            .await
            .map_err(|error| Error::Closed(error.to_string()))?;
        Ok(Subscription::new(inner, self.inboxes.clone()))
    }

    /// A fresh subject under this client's inbox prefix, for answers to several publications.
    pub fn new_inbox(&self) -> String {
        self.nats.new_inbox()
    }

    /// Waits until the bus has taken everything published and subscribed so far: a round trip.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; a bus that does not answer within [`REQUEST_TIMEOUT`] is [`Error::Timeout`].
    pub async fn settle(&self) -> Result<(), Error> {
        // One connection's operations are taken in order, and every NATS server answers this one.
        let asked = self.nats.request(USER_INFO, Bytes::new());
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, asked);
        let answered = tokio::select! {
            answered = answered => answered,
            denied = self.denied_request(USER_INFO) => return match denied.verb {
                // An answer as well.
                Verb::Publish => Ok(()),
                Verb::Subscribe => Err(Error::Denied(denied)),
            },
        };
        match answered {
            Err(_) => {
                Err(Error::Timeout { subject: USER_INFO.to_owned(), millis: REQUEST_TIMEOUT.as_millis() })
            }
            Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::Other => {
                Err(Error::Closed(error.to_string()))
            }
            // Any answer will do, also that nobody serves it.
            Ok(_) => Ok(()),
        }
    }

    /// Waits until everything published so far is written to the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn flush(&self) -> Result<(), Error> {
        self.nats.flush().await.map_err(|error| Error::Closed(error.to_string()))
    }

    fn check_size(&self, subject: &str, bytes: usize) -> Result<(), Error> {
        let bytes_max = self.payload_bytes_max();
        // Zero means: never connected yet, the limit is not known.
        if bytes_max != 0 && bytes > bytes_max {
            return Err(Error::TooLarge { subject: subject.to_owned(), bytes, bytes_max });
        }
        Ok(())
    }

    fn check_room(&self, subject: &str) -> Result<(), Error> {
        if *self.connection.borrow() == Connection::Down && !has_room(&self.waiting) {
            return Err(Error::Away { subject: subject.to_owned() });
        }
        Ok(())
    }
}

/// Counts publications while the bus is away: the library would let its caller wait once its queue is full, and that may
/// be the one who is to end the daemon.
fn has_room(waiting: &AtomicUsize) -> bool {
    waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX
}

/// The wait before attempt number `attempts`, from 1: none before the first, then doubling, capped, and spread by up to
/// a quarter so that thirty hosts do not arrive at once. `random` is in 0..1.
fn reconnect_delay(attempts: usize, longest: Duration, random: f64) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let doublings = (attempts - 2).min(10) as u32;
    let base = (RECONNECT_FIRST * 2u32.pow(doublings)).min(longest);
    base.mul_f64(0.75 + random / 4.0)
}

fn to_json<T: Serialize + ?Sized>(message: &T) -> Bytes {
    serde_json::to_vec(message).expect("wire messages have string keys and always serialise").into()
}

fn read_reply<R: DeserializeOwned>(subject: &str, payload: &[u8]) -> Result<R, Error> {
    // A refusal is told from an answer by its `error` object, before the answer's own type could read it as defaults.
    if payload.starts_with(b"{\"error\"")
        && let Ok(refusal) = serde_json::from_slice::<ErrorReply>(payload)
    {
        return Err(refusal.error.into());
    }
    serde_json::from_slice::<R>(payload)
        .map_err(|error| Error::BadReply { subject: subject.to_owned(), reason: error.to_string() })
}

fn with_tls(mut connect: ConnectOptions, tls: &BusTls) -> ConnectOptions {
    if let Some(ca) = &tls.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        connect = connect.add_client_certificate(cert.clone(), key.clone());
    }
    if tls.first { connect.tls_first() } else { connect }
}

fn connect_fault(url: &str, error: &async_nats::ConnectError) -> Error {
    let reason = error.to_string();
    let url = url.to_owned();
    match error.kind() {
        async_nats::ConnectErrorKind::AuthorizationViolation
        | async_nats::ConnectErrorKind::Authentication => Error::Refused { url, reason },
        _ => Error::Unreachable { url, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_wire::{ControlReply, ErrorCode};

    #[test]
    fn the_first_attempt_is_made_at_once_and_waits_stay_within_ten_seconds() {
        let delay = |attempts, random| reconnect_delay(attempts, RECONNECT_LONGEST, random);
        assert_eq!(delay(1, 1.0), Duration::ZERO);
        assert_eq!(delay(2, 1.0), Duration::from_millis(100));
        assert_eq!(delay(5, 1.0), Duration::from_millis(800));
        for attempts in 2..2000 {
            let delay = delay(attempts, 0.5);
            assert!(
                delay >= RECONNECT_FIRST.mul_f64(0.75) && delay <= RECONNECT_LONGEST,
                "{attempts}: {delay:?}"
            );
        }
    }

    #[test]
    fn a_refusal_is_an_error_and_a_foreign_answer_says_so() {
        let refused =
            read_reply::<ControlReply>("s", br#"{"error":{"code":"illegal_state","message":"no"}}"#);
        assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::IllegalState));
        let foreign = read_reply::<ControlReply>("s", b"hello").unwrap_err();
        assert!(matches!(foreign, Error::BadReply { .. }), "{foreign}");
    }

    #[test]
    fn what_is_published_while_the_bus_is_away_is_bounded() {
        let waiting = AtomicUsize::new(0);
        assert_eq!((0..5000).filter(|_| has_room(&waiting)).count(), WAITING_MAX);
    }
}
