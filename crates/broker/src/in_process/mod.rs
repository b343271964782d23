//! Connections inside this process: a client of the server without a socket in between. The same bytes flow as over TCP,
//! through a [pipe](crate::transport::pipe), so the server treats it as any other client; only its reader and writer are
//! here.
//!
//! ```text
//!  publish --append--> lane --take--> shard (parse, route, deliver) --move--> lane --take--> reader task
//!                                                                   runs of frames --> subscription --> next()
//! ```

mod error;
mod frame;
mod message;
mod options;
mod pipe;
mod reader;
mod request;
mod subscription;

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ostler_broker_proto::codec::{Decimal, find_blank};
use ostler_broker_proto::{Parsed, ServerOp, parse_server};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use self::error::InProcessError;
pub use self::message::Message;
pub use self::options::{InProcessOptions, Login};
pub use self::pipe::Pipe;
use self::request::Requests;
use self::subscription::Inbox;
pub use self::subscription::Subscription;
use crate::transport::pipe::End;

/// A client of a server in the same process. Cheap to clone; clones share the connection.
///
/// It says, and is told, what a client over TCP would: permissions, limits and back-pressure are the server's. When the
/// last clone and the last [`Subscription`] are dropped it hangs up; what was published before is still delivered. See
/// [`Server::connect_in_process`](crate::Server::connect_in_process).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use ostler_broker::{InProcessOptions, Permissions, Server};
///
/// let server = Server::builder().listen("127.0.0.1:0".parse()?).start()?;
/// let options = InProcessOptions::trusted("engine", Permissions::all());
/// let client = server.connect_in_process(options).await?;
/// let mut orders = client.subscribe("orders.*", None).await?;
/// client.publish("orders.new", "one coffee").await?;
/// let order = orders.next().await.ok_or("closed")?;
/// assert_eq!((order.subject(), order.payload()), (&b"orders.new"[..], &b"one coffee"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct InProcess {
    inner: Arc<Inner>,
    alive: Arc<Alive>,
}

/// Hangs up when nobody holds the connection any more. The reader holds [`Inner`] only.
#[derive(Debug)]
pub(crate) struct Alive(Arc<Inner>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.pipe.cut();
    }
}

/// What clones, subscriptions and the reader share.
#[derive(Debug)]
pub(crate) struct Inner {
    pipe: End,
    payload_bytes_max: usize,
    next_sid: AtomicU64,
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
    requests: Requests,
    state: Mutex<State>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Who waits for a PONG, in the order of their PINGs.
    pings: VecDeque<oneshot::Sender<()>>,
    last_error: Option<String>,
    is_over: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InProcess {
    /// Says CONNECT and waits for the server's answer.
    pub(crate) async fn connect(pipe: End, options: &InProcessOptions) -> Result<Self, InProcessError> {
        let mut unread = BytesMut::new();
        let info = match next_word(&pipe, &mut unread).await? {
            Word::Info(info) => info,
            Word::Pong => return Err(InProcessError::Refused("it did not introduce itself".into())),
        };
        let greeting = options.greeting(&info)?;
        pipe.try_append(greeting.len(), |buffer| buffer.extend_from_slice(&greeting))
            .map_err(|_| InProcessError::Refused("it hung up".into()))?;
        while let Word::Info(_) = next_word(&pipe, &mut unread).await? {}
        let inner = Arc::new(Inner {
            pipe,
            payload_bytes_max: info.max_payload,
            next_sid: AtomicU64::new(request::SID + 1),
            inboxes: Mutex::default(),
            requests: Requests::new(&options.inbox_prefix),
            state: Mutex::default(),
            reader: Mutex::default(),
        });
        let reading = tokio::spawn(reader::read(Arc::clone(&inner), unread));
        *lock(&inner.reader) = Some(reading);
        Ok(Self { alive: Arc::new(Alive(Arc::clone(&inner))), inner })
    }

    /// Publishes a message. Returns when the server has it to read, not when it was delivered: see
    /// [`flush`](Self::flush). Waits while the server has more than 1 MiB to read from this connection.
    ///
    /// Cancel-safe: a publish that was dropped before it returned did not happen.
    ///
    /// # Errors
    /// [`InProcessError::Subject`], [`TooLarge`](InProcessError::TooLarge) and [`Closed`](InProcessError::Closed). That
    /// the permissions forbid it is said later, see [`last_error`](Self::last_error).
    #[inline]
    pub async fn publish(
        &self,
        subject: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), InProcessError> {
        let out = Out { subject: subject.as_ref(), reply: None, headers: &[], payload: payload.as_ref() };
        self.inner.publish(&out).await
    }

    /// The same, with a subject for answers.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with_reply(
        &self,
        subject: impl AsRef<[u8]>,
        reply: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), InProcessError> {
        let reply = Some(reply.as_ref());
        let out = Out { subject: subject.as_ref(), reply, headers: &[], payload: payload.as_ref() };
        self.inner.publish(&out).await
    }

    /// The same, with a header block: `NATS/1.0\r\n`, `Name: value\r\n` lines, `\r\n`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with_headers(
        &self,
        subject: impl AsRef<[u8]>,
        reply: Option<&[u8]>,
        headers: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), InProcessError> {
        let (subject, headers) = (subject.as_ref(), headers.as_ref());
        self.inner.publish(&Out { subject, reply, headers, payload: payload.as_ref() }).await
    }

    /// Publishes without waiting.
    ///
    /// # Errors
    /// [`InProcessError::Full`] where [`publish`](Self::publish) would wait, and its errors.
    pub fn try_publish(
        &self,
        subject: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), InProcessError> {
        let out = Out { subject: subject.as_ref(), reply: None, headers: &[], payload: payload.as_ref() };
        self.inner.check(&out)?;
        self.inner.try_publish(&out)
    }

    /// Subscribes to what matches `filter`, in a queue group if one is named. What is published after this returned is
    /// delivered, unless the permissions forbid it (see [`last_error`](Self::last_error)).
    ///
    /// # Errors
    /// [`InProcessError::Subject`], [`Closed`](InProcessError::Closed).
    pub async fn subscribe(
        &self,
        filter: impl AsRef<[u8]>,
        queue: Option<&str>,
    ) -> Result<Subscription, InProcessError> {
        let filter = filter.as_ref();
        check_subject(filter)?;
        let queue = queue.map_or(&b""[..], str::as_bytes);
        if !queue.is_empty() {
            check_subject(queue)?;
        }
        let sid = self.inner.next_sid.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(Inbox::default());
        let (inner, alive) = (Arc::clone(&self.inner), Arc::clone(&self.alive));
        // Made first: when it is dropped on the way, nothing is left of it.
        let subscription = Subscription::new(sid, Arc::clone(&inbox), inner, alive);
        lock(&self.inner.inboxes).insert(sid, inbox);
        let line = [b"SUB ", filter, b" ", queue, b" ", sid.to_string().as_bytes(), b"\r\n"].concat();
        self.inner.send(&line).await?;
        Ok(subscription)
    }

    /// Publishes a request and waits for the first answer to it. All requests share one subscription.
    ///
    /// Cancel-safe: a request that is dropped is forgotten here; it may have been executed all the same. Needs a runtime
    /// with time.
    ///
    /// # Errors
    /// [`InProcessError::NoResponders`] at once when nobody listens, [`Timeout`](InProcessError::Timeout), and those of
    /// [`publish`](Self::publish).
    pub async fn request(
        &self,
        subject: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<Message, InProcessError> {
        let subject = subject.as_ref();
        let mut ticket = self.inner.requests.begin(|filter| {
            self.inner.send_now(format!("SUB {filter} {}\r\n", request::SID).as_bytes());
        });
        let reply = Some(ticket.reply.as_bytes());
        self.inner.publish(&Out { subject, reply, headers: &[], payload: payload.as_ref() }).await?;
        let text = || String::from_utf8_lossy(subject).into_owned();
        match tokio::time::timeout(timeout, &mut ticket.answer).await {
            Ok(Ok(answer)) if answer.status() == Some(503) && answer.payload().is_empty() => {
                Err(InProcessError::NoResponders(text()))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.inner.closed()),
            Err(_) => Err(InProcessError::Timeout { subject: text(), after: timeout }),
        }
    }

    /// Waits until the server executed everything that was said on this connection before.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`InProcessError::Closed`].
    pub async fn flush(&self) -> Result<(), InProcessError> {
        self.inner.flush().await
    }

    /// What the server complained about last on this connection: a permission that was missing, a limit.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.inner.state).last_error.clone()
    }

    /// Whether the connection ended.
    pub fn is_closed(&self) -> bool {
        lock(&self.inner.state).is_over
    }

    /// Hangs up for all clones and waits until the server executed what was said before. Subscriptions can still take
    /// what was delivered.
    pub async fn close(&self) {
        self.inner.pipe.shutdown_write();
        let reading = lock(&self.inner.reader).take();
        if let Some(reading) = reading {
            // It ends when the server hung up in return.
            let _ = reading.await;
        }
    }
}

/// A message on its way out.
struct Out<'a> {
    subject: &'a [u8],
    reply: Option<&'a [u8]>,
    headers: &'a [u8],
    payload: &'a [u8],
}

impl Out<'_> {
    fn len(&self) -> usize {
        // 64: verb, lengths, blanks and line ends.
        64 + self.subject.len() + self.reply.map_or(0, <[u8]>::len) + self.headers.len() + self.payload.len()
    }

    fn write(&self, buffer: &mut Vec<u8>) {
        buffer.reserve(self.len());
        if self.reply.is_none()
            && self.headers.is_empty()
            && let Some((size, size_len)) = short_size(self.payload.len())
        {
            buffer.extend_from_slice(b"PUB ");
            buffer.extend_from_slice(self.subject);
            let line_len = buffer.len() + size_len;
            buffer.extend_from_slice(&size);
            buffer.truncate(line_len);
            buffer.extend_from_slice(self.payload);
            return buffer.extend_from_slice(b"\r\n");
        }
        let has_headers = !self.headers.is_empty();
        buffer.extend_from_slice(if has_headers { b"HPUB " } else { b"PUB " });
        buffer.extend_from_slice(self.subject);
        buffer.push(b' ');
        if let Some(reply) = self.reply {
            buffer.extend_from_slice(reply);
            buffer.push(b' ');
        }
        if has_headers {
            buffer.extend_from_slice(Decimal::new(self.headers.len()).as_bytes());
            buffer.push(b' ');
        }
        buffer.extend_from_slice(Decimal::new(self.headers.len() + self.payload.len()).as_bytes());
        buffer.extend_from_slice(b"\r\n");
        buffer.extend_from_slice(self.headers);
        buffer.extend_from_slice(self.payload);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// A blank, a size of up to five digits and the line end, and how many of the eight bytes that is: put together in a
/// register, and written at once.
#[inline]
fn short_size(mut size: usize) -> Option<([u8; 8], usize)> {
    if size > 99_999 {
        return None;
    }
    let mut word = u64::from(u16::from_le_bytes(*b"\r\n"));
    let mut len = 3;
    loop {
        word = word << 8 | (u64::from(b'0') + size as u64 % 10);
        len += 1;
        size /= 10;
        if size == 0 {
            return Some(((word << 8 | u64::from(b' ')).to_le_bytes(), len));
        }
    }
}

impl Inner {
    #[inline]
    fn check(&self, out: &Out<'_>) -> Result<(), InProcessError> {
        check_subject(out.subject)?;
        if let Some(reply) = out.reply {
            check_subject(reply)?;
        }
        let len = out.headers.len() + out.payload.len();
        if len > self.payload_bytes_max {
            return Err(InProcessError::TooLarge { len, max: self.payload_bytes_max });
        }
        Ok(())
    }

    async fn publish(&self, out: &Out<'_>) -> Result<(), InProcessError> {
        self.check(out)?;
        loop {
            match self.try_publish(out) {
                Err(InProcessError::Full) => self.pipe.writable().await,
                done => return done,
            }
        }
    }

    fn try_publish(&self, out: &Out<'_>) -> Result<(), InProcessError> {
        self.pipe.try_append(out.len(), |buffer| out.write(buffer)).map_err(|error| self.unsent(&error))
    }

    fn unsent(&self, error: &std::io::Error) -> InProcessError {
        if error.kind() == ErrorKind::WouldBlock { InProcessError::Full } else { self.closed() }
    }

    async fn send(&self, line: &[u8]) -> Result<(), InProcessError> {
        loop {
            match self.pipe.try_append(line.len(), |buffer| buffer.extend_from_slice(line)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.pipe.writable().await,
                sent => return sent.map_err(|error| self.unsent(&error)),
            }
        }
    }

    /// Sends whether there is room or not: for the few lines that must not wait.
    fn send_now(&self, line: &[u8]) {
        // To a server that is gone there is nothing to say.
        let _ = self.pipe.append(line.len(), |buffer| buffer.extend_from_slice(line));
    }

    async fn flush(&self) -> Result<(), InProcessError> {
        while !self.pipe.has_room() {
            self.pipe.writable().await;
        }
        let pong = {
            // Under the lock, so that the PINGs stand in the order of those who wait for their PONGs.
            let mut state = lock(&self.state);
            if state.is_over {
                drop(state);
                return Err(self.closed());
            }
            let (pong_tx, pong) = oneshot::channel();
            state.pings.push_back(pong_tx);
            self.send_now(b"PING\r\n");
            pong
        };
        pong.await.map_err(|_| self.closed())
    }

    fn unsubscribe(&self, sid: u64) {
        self.send_now(format!("UNSUB {sid}\r\n").as_bytes());
    }

    /// Ends a subscription that nobody takes messages from any more.
    fn forget(&self, sid: u64) {
        if lock(&self.inboxes).remove(&sid).is_some() {
            self.unsubscribe(sid);
        }
    }

    fn inbox(&self, sid: u64) -> Option<Arc<Inbox>> {
        lock(&self.inboxes).get(&sid).cloned()
    }

    /// Gives a buffer whose messages are all gone back to the server.
    fn recycle(&self, run: Bytes) {
        if let Ok(mut buffer) = run.try_into_mut() {
            buffer.clear();
            self.pipe.give_back(buffer.into());
        }
    }

    /// Takes in what the server says about the connection itself.
    fn take_word(&self, word: &ServerOp<'_>) {
        match word {
            ServerOp::Pong => {
                let pong = lock(&self.state).pings.pop_front();
                if let Some(pong) = pong {
                    // Who does not wait any more need not know.
                    let _ = pong.send(());
                }
            }
            ServerOp::Ping => self.send_now(b"PONG\r\n"),
            ServerOp::Err(text) => self.note_error(&String::from_utf8_lossy(text)),
            ServerOp::Info(_) | ServerOp::Ok | ServerOp::Msg(_) => {}
        }
    }

    fn note_error(&self, text: &str) {
        tracing::warn!(text, "the server complained about an in-process connection");
        lock(&self.state).last_error = Some(text.to_owned());
    }

    /// The connection ended: everybody who waits for something goes on.
    fn end_all(&self) {
        let pings = {
            let mut state = lock(&self.state);
            state.is_over = true;
            std::mem::take(&mut state.pings)
        };
        drop(pings);
        self.requests.end();
        lock(&self.inboxes).drain().for_each(|(_, inbox)| inbox.end());
    }

    fn closed(&self) -> InProcessError {
        InProcessError::Closed(lock(&self.state).last_error.clone())
    }
}

/// White space and line ends would be read as something else than a part of the subject.
#[inline]
fn check_subject(subject: &[u8]) -> Result<(), InProcessError> {
    if subject.is_empty() || find_blank(subject).is_some() {
        return Err(InProcessError::Subject(String::from_utf8_lossy(subject).into_owned()));
    }
    Ok(())
}

/// What a server says before it lets somebody in.
enum Word {
    Info(options::ServerInfo),
    Pong,
}

/// Reads the next INFO or PONG.
async fn next_word(pipe: &End, unread: &mut BytesMut) -> Result<Word, InProcessError> {
    let refused = |text: &str| InProcessError::Refused(text.to_owned());
    loop {
        let (word, consumed) = match parse_server(unread) {
            Ok(Parsed::Op { op: ServerOp::Info(json), consumed }) => {
                let info = serde_json::from_slice(json).map_err(|error| refused(&error.to_string()))?;
                (Some(Word::Info(info)), consumed)
            }
            Ok(Parsed::Op { op: ServerOp::Pong, consumed }) => (Some(Word::Pong), consumed),
            Ok(Parsed::Op { op: ServerOp::Err(text), .. }) => {
                return Err(refused(&String::from_utf8_lossy(text)));
            }
            Ok(Parsed::Op { consumed, .. }) => (None, consumed),
            Ok(Parsed::Incomplete { .. }) => {
                pipe.readable().await;
                match pipe.try_read_buf(unread) {
                    Ok(0) => return Err(refused("it hung up")),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(refused(&error.to_string())),
                }
                continue;
            }
            Err(error) => return Err(refused(&error.to_string())),
        };
        drop(unread.split_to(consumed));
        if let Some(word) = word {
            return Ok(word);
        }
    }
}
