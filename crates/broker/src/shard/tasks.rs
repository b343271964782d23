//! Everything in a shard that waits. Each task waits for one thing and then calls a synchronous method of the shard.
//!
//! All tasks of a shard are children of its runtime: when [`run`] returns, the runtime is dropped and with it every
//! task that is left.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{timeout, timeout_at};

use super::inbox::Inbox;
use super::ingest::Next;
use super::outbound::{Outbound, Pool};
use super::pace::Pace;
use super::{End, Shard, Streams, jetstream};
use crate::auth::{Challenge, Entry};
use crate::link::{Link, NO_SLOT};
use crate::listen::{self, Door};
use crate::monitor;
use crate::shared::Shared;
use crate::snapshot::CloseReason;
use crate::transport::Transport;

/// How long a closed connection may take to fetch its last bytes and to hang up itself.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// After our last byte a client may go on sending for so long; closing earlier would reset the connection, and the
/// reset can overtake the error message.
const LINGER_MAX: Duration = Duration::from_millis(500);
/// How long a server that shuts down waits for its clients to fetch what is theirs.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);
/// How long one connection is served before others get their turn. A socket that always has more to read, or room for
/// more, is never waited for, and the runtime does not count that.
const TURN: Duration = Duration::from_micros(500);

type Handle = Rc<RefCell<Shard>>;

/// Runs a shard until the server is shut down, or what it cannot do without fails: its clock or a listener.
pub(crate) async fn run(
    index: usize,
    shared: Arc<Shared>,
    listeners: Vec<(TcpListener, Door)>,
    streams: Streams,
) {
    let shard = Shard::new(index, Arc::clone(&shared), streams);
    // What is stored is routed before anybody is let in.
    shard.borrow_mut().flush();
    let mut vital = JoinSet::new();
    vital.spawn_local(keep_time(Rc::clone(&shard)));
    for (listener, door) in listeners {
        vital.spawn_local(listen::accept(listener, door, Arc::clone(&shared)));
    }
    // Dropped before the connections end, so that nobody is accepted meanwhile.
    serve_all(&shard, &shared.shards[index].inbox, vital).await;
    jetstream::settle(&shard, &shared.shards[index].inbox).await;
    let draining = {
        let mut shard = shard.borrow_mut();
        shard.close_all();
        Rc::clone(&shard.draining)
    };
    // Who does not fetch its bytes in time loses them.
    let drained = timeout(SHUTDOWN_MAX, draining.until_none());
    let (_, ()) = tokio::join!(drained, jetstream::close(&shard));
}

/// Takes in what other threads leave until there is an end.
async fn serve_all(shard: &RefCell<Shard>, inbox: &Inbox, vital: JoinSet<()>) {
    let mut failure = pin!(until_failure(vital));
    loop {
        let envelopes = tokio::select! {
            biased;
            envelopes = inbox.take() => Ok(envelopes),
            error = failure.as_mut() => Err(error),
        };
        match envelopes {
            Ok(envelopes) => {
                if !shard.borrow_mut().receive(envelopes) {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "a thread of the server lost its clock or a listener; it ends");
                return;
            }
        }
    }
}

/// Waits until a task panics. Listeners end as they should when the doors close.
async fn until_failure(mut tasks: JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return error,
            Some(Ok(())) => {}
            None => return std::future::pending().await,
        }
    }
}

/// Sends the last words on a socket that no connection was made of.
pub(crate) async fn say_last(stream: TcpStream, words: Vec<u8>) {
    let mut outbound = Outbound::default();
    outbound.append(&mut Pool::default(), [&words]);
    drain(&Transport::Tcp(stream), outbound).await;
}

/// Ends a connection when one of its tasks ends otherwise than it should: by a panic, which would leave the socket open
/// and nobody there to read or write it.
struct Guard {
    shard: Handle,
    link: Arc<Link>,
    is_done: bool,
}

impl Guard {
    fn new(shard: &Handle, link: &Arc<Link>) -> Self {
        Self { shard: Rc::clone(shard), link: Arc::clone(link), is_done: false }
    }

    /// The task ends as it should.
    fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A shard that is still borrowed here is one whose thread is ending.
        if !self.is_done
            && !self.link.is_closed()
            && let Ok(mut shard) = self.shard.try_borrow_mut()
        {
            tracing::error!(client = self.link.id, "a task of this connection failed; it is closed");
            shard.close_of(&self.link, CloseReason::InternalError);
        }
    }
}

/// The task of a connection: reads it to its end.
pub(super) async fn serve(shard: Handle, link: Arc<Link>, stream: Rc<Transport>) {
    let guard = Guard::new(&shard, &link);
    read_to_end(shard, link, stream).await;
    guard.done();
}

/// The task of a connection whose socket was full: writes until nothing waits any more.
pub(super) async fn write_when_ready(shard: Handle, link: Arc<Link>, stream: Rc<Transport>) {
    let guard = Guard::new(&shard, &link);
    write_to_end(shard, link, stream).await;
    guard.done();
}

/// Waits for bytes, and where the shard says so for others.
async fn read_to_end(shard: Handle, link: Arc<Link>, stream: Rc<Transport>) {
    let shared = Arc::clone(&shard.borrow().shared);
    let mut turn = Instant::now();
    loop {
        if stream.readable().await.is_err() {
            return shard.borrow_mut().close_of(&link, CloseReason::ReadError);
        }
        if turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            turn = Instant::now();
        }
        let mut next = shard.borrow_mut().read(&link, &stream);
        loop {
            match next {
                Next::Read => break,
                Next::Hash(challenge) => {
                    let proved = compute(&shard, &link, challenge).await;
                    next = shard.borrow_mut().go_on(&link, proved);
                    continue;
                }
                Next::Yield => tokio::task::yield_now().await,
                Next::Itself => link.until_released().await,
                // Not reading is what holds the publisher back: its own socket fills up.
                // The disk is waited for as long as it takes: what is published meanwhile would pile up.
                Next::Subscriber(streams) if streams.slot == NO_SLOT => streams.until_released().await,
                Next::Subscriber(subscriber) => {
                    let stall_max = shard.borrow().limits.stall_max;
                    let _ = timeout(stall_max, subscriber.until_released()).await;
                }
                Next::Inbox(full) => shared.shards[full].inbox.until_drained().await,
                Next::Ended => return,
            }
            next = shard.borrow_mut().read(&link, &stream);
        }
    }
}

/// Gathers a document that a user of the system account asked for.
pub(super) async fn gather(shard: Handle, path: String, reply: Vec<u8>) {
    let shared = Arc::clone(&shard.borrow().shared);
    let document = monitor::answer(&shared, &path).await;
    shard.borrow_mut().gathered(reply, &document);
}

/// Has a hash computed on a thread that serves nobody, when it is its turn. The time a client has to log in counts
/// meanwhile; for one that is gone nothing is computed.
async fn compute(shard: &Handle, link: &Arc<Link>, challenge: Challenge) -> Option<Arc<Entry>> {
    let (turns, address) = {
        let mut shard = shard.borrow_mut();
        (Arc::clone(&shard.shared.hashing), shard.conn(link)?.peer.ip())
    };
    let turn = turns.take(challenge.claimant(address), link).await?;
    let computed = tokio::task::spawn_blocking(move || {
        let entry = challenge.answer();
        drop(turn);
        entry
    });
    computed.await.ok()?
}

/// Waits for a socket that was full.
async fn write_to_end(shard: Handle, link: Arc<Link>, stream: Rc<Transport>) {
    let write_deadline = shard.borrow().limits.write_deadline;
    let Some((taken, waiting)) = shard.borrow_mut().backlog(&link) else {
        return;
    };
    let mut pace = Pace::new(taken, waiting, Instant::now(), write_deadline);
    let mut turn = Instant::now();
    loop {
        if turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            turn = Instant::now();
        }
        let ready = timeout_at(pace.until().into(), stream.writable()).await;
        if link.is_closed() {
            return;
        }
        let mut shard = shard.borrow_mut();
        let backlog = match ready {
            Ok(Ok(())) => shard.write_again(&link),
            Ok(Err(_)) => return shard.close_because(link.slot, End::Cut, CloseReason::WriteError),
            Err(_) => shard.backlog(&link),
        };
        let Some((taken, waiting)) = backlog else {
            return;
        };
        if !pace.keep(taken, waiting, Instant::now(), write_deadline) {
            return shard.close_slow_consumer(link.slot, CloseReason::SlowConsumerWriteDeadline);
        }
    }
}

/// The one clock of a shard: sleeps until something is due.
async fn keep_time(shard: Handle) {
    let changed = Rc::clone(&shard.borrow().timers_changed);
    loop {
        let next = shard.borrow_mut().tick(Instant::now());
        match next {
            // A timer that has passed does not yield.
            Some(at) if at <= Instant::now() => tokio::task::yield_now().await,
            Some(at) => {
                let _ = timeout(at.saturating_duration_since(Instant::now()), changed.notified()).await;
            }
            None => changed.notified().await,
        }
    }
}

/// Counts the sockets that are being drained, and the bytes that wait for them.
#[derive(Default)]
pub(super) struct Draining {
    count: Cell<usize>,
    bytes: Cell<usize>,
    none: Notify,
}

impl Draining {
    /// Bytes that wait for connections which ended.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    async fn until_none(&self) {
        while self.count.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// Sends the last bytes of a connection that ended and waits, for a while, for the client to hang up. `left` is told how
/// many of them could not be sent.
pub(super) fn spawn_drain(
    draining: &Rc<Draining>,
    stream: Rc<Transport>,
    mut outbound: Outbound,
    left: impl FnOnce(usize) + 'static,
) {
    let draining = Rc::clone(draining);
    let bytes = outbound.len();
    draining.count.set(draining.count.get() + 1);
    draining.bytes.set(draining.bytes.get() + bytes);
    tokio::task::spawn_local(async move {
        let until = tokio::time::Instant::now() + DRAIN_MAX;
        let is_sent = timeout_at(until, send_rest(&stream, &mut outbound)).await.unwrap_or(false);
        left(outbound.len());
        if is_sent {
            let _ = timeout_at(until, hang_up(&stream)).await;
        }
        // Also wakes the connection's own task, which would hold the socket of a client that never hangs up.
        stream.cut();
        draining.count.set(draining.count.get() - 1);
        draining.bytes.set(draining.bytes.get() - bytes);
        if draining.count.get() == 0 {
            draining.none.notify_one();
        }
    });
}

async fn drain(stream: &Transport, mut outbound: Outbound) {
    if send_rest(stream, &mut outbound).await {
        hang_up(stream).await;
    }
}

/// Returns whether all of it was sent.
async fn send_rest(stream: &Transport, outbound: &mut Outbound) -> bool {
    let mut pool = Pool::default();
    while !outbound.is_empty() {
        match outbound.write_once(&mut pool, |slices| stream.try_write_vectored(slices)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stream.writable().await.is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    while let Ok(false) = stream.try_flush() {
        if stream.writable().await.is_err() {
            return false;
        }
    }
    true
}

/// Says that there is no more, and waits for the client to do the same.
async fn hang_up(stream: &Transport) {
    if stream.shutdown_write().is_err() {
        return;
    }
    let _ = timeout(LINGER_MAX, async {
        // One read per wait: a client that sends without end must not keep the shard from its other work.
        while stream.readable().await.is_ok() && discard(stream) {}
    })
    .await;
}

/// Reads what nobody wants any more; returns whether there may come more of it. Not part of the task that waits: its
/// buffer would be a part of each such task, and thousands of clients may leave at once.
fn discard(stream: &Transport) -> bool {
    match stream.try_read(&mut [0; 4096]) {
        Ok(len) => len > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;

    use tokio::task::LocalSet;

    use super::*;
    use crate::listen::{Carrier, Incoming};
    use crate::options::Builder;
    use crate::shard::inbox::Envelope;

    fn shared() -> Arc<Shared> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Arc::new(Shared::new(&Builder::default().shards(1), "id".into(), listen))
    }

    #[tokio::test]
    async fn a_task_that_panics_takes_its_connection_along() {
        let shared = shared();
        let shard = Shard::new(0, Arc::clone(&shared), Streams::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                assert_eq!(shared.admit(), Some(0));
                let incoming = Incoming { carrier: Carrier::Client(stream), peer, trusted: None };
                assert!(shard.borrow_mut().receive(vec![Envelope::Connection(Box::new(incoming))]));
                let link = shard.borrow().conns[0].as_ref().map(|conn| Arc::clone(&conn.link)).unwrap();
                let (handle, held) = (Rc::clone(&shard), Arc::clone(&link));
                let failing = tokio::task::spawn_local(async move {
                    let _guard = Guard::new(&handle, &held);
                    let _borrowed = handle.borrow_mut();
                    panic!("what a task never should do");
                });
                assert!(failing.await.unwrap_err().is_panic());
                assert!(link.is_closed() && shard.borrow().conns[0].is_none());
            })
            .await;
        client.read_to_end(&mut Vec::new()).expect("the server hangs up");
        assert_eq!(shared.admit(), Some(0), "its place is free again");
    }

    #[tokio::test]
    async fn a_vital_task_fails_by_a_panic_and_not_by_its_end() {
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                let mut vital = JoinSet::new();
                vital.spawn_local(async {});
                let ended = timeout(Duration::from_millis(50), until_failure(vital)).await;
                assert!(ended.is_err(), "a listener ends when the doors close");
                let mut vital = JoinSet::new();
                vital.spawn_local(async {});
                vital.spawn_local(std::future::pending());
                vital.spawn_local(async { panic!("what a clock never should do") });
                let failure = timeout(Duration::from_secs(20), until_failure(vital)).await;
                assert!(failure.expect("it is noticed").is_panic());
            })
            .await;
    }

    /// Thousands of clients may leave at once, and each has such a task for a while.
    #[tokio::test]
    async fn waiting_for_a_client_to_hang_up_takes_little_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transport = Transport::Tcp(stream);
        let waiting = drain(&transport, Outbound::default());
        assert!(size_of_val(&waiting) < 1024, "{} bytes", size_of_val(&waiting));
    }

    #[tokio::test]
    async fn a_task_that_ends_as_it_should_closes_nothing() {
        let shard = Shard::new(0, shared(), Streams::default());
        let link = Arc::new(Link::new(1, 0, 0));
        Guard::new(&shard, &link).done();
        assert!(!link.is_closed());
    }
}
