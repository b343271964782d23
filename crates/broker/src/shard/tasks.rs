//! Everything in a shard that waits. Each task waits for one thing and then calls a synchronous method of the shard.
//!
//! All tasks of a shard are children of its runtime: when [`run`] returns, the runtime is dropped and with it every
//! task that is left.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_broker_proto::codec::write_err;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{timeout, timeout_at};

use super::inbox::Envelope;
use super::ingest::Next;
use super::outbound::{Outbound, Pool};
use super::pace::Pace;
use super::{End, Shard};
use crate::link::Link;
use crate::shared::Shared;

/// How long a closed connection may take to fetch its last bytes and to hang up itself.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// After our last byte a client may go on sending for so long; closing earlier would reset the connection, and the
/// reset can overtake the error message.
const LINGER_MAX: Duration = Duration::from_millis(500);
/// How long a server that shuts down waits for its clients to fetch what is theirs.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

type Handle = Rc<RefCell<Shard>>;

/// Runs a shard until the server is shut down.
pub(crate) async fn run(index: usize, shared: Arc<Shared>, listener: Option<TcpListener>) {
    let shard = Shard::new(index, Arc::clone(&shared));
    let clock = tokio::task::spawn_local(keep_time(Rc::clone(&shard)));
    let accepting = listener.map(|listener| tokio::task::spawn_local(accept(listener, Arc::clone(&shared))));
    loop {
        let envelopes = shared.shards[index].inbox.take().await;
        if !shard.borrow_mut().receive(envelopes) {
            break;
        }
    }
    if let Some(accepting) = accepting {
        accepting.abort();
    }
    clock.abort();
    let draining = {
        let mut shard = shard.borrow_mut();
        shard.close_all();
        Rc::clone(&shard.draining)
    };
    // Who does not fetch its bytes in time loses them.
    let _ = timeout(SHUTDOWN_MAX, draining.until_none()).await;
}

/// Accepts connections and gives each to the shard that has the fewest.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes when somebody hangs up.
                tracing::error!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(shard) = shared.admit() else {
            tracing::warn!(%peer, "maximum connections exceeded");
            tokio::task::spawn_local(turn_away(stream));
            continue;
        };
        hand_over(&shared, shard, stream, peer);
    }
}

fn hand_over(shared: &Shared, shard: usize, stream: TcpStream, peer: SocketAddr) {
    // The runtime of another thread cannot take a tokio stream; the way through std is the same for all.
    match stream.into_std() {
        Ok(stream) => shared.shards[shard].inbox.push(Envelope::Connection(stream, peer)),
        Err(error) => {
            tracing::warn!(%peer, %error, "cannot hand a connection over");
            shared.dismiss(shard);
        }
    }
}

async fn turn_away(stream: TcpStream) {
    let mut outbound = Outbound::default();
    outbound.append_with(&mut Pool::default(), |out| write_err(out, "maximum connections exceeded"));
    let _ = timeout(DRAIN_MAX, drain(&stream, outbound)).await;
}

/// The task of a connection: waits for bytes, and where the shard says so for others.
pub(super) async fn serve(shard: Handle, link: Arc<Link>, stream: Rc<TcpStream>) {
    let (shared, stall_max) = {
        let shard = shard.borrow();
        (Arc::clone(&shard.shared), shard.shared.limits.stall_max)
    };
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        loop {
            let next = shard.borrow_mut().read(&link, &stream);
            match next {
                Next::Read => break,
                Next::Yield => tokio::task::yield_now().await,
                Next::Itself => link.until_released().await,
                // Not reading is what holds the publisher back: its own socket fills up.
                Next::Subscriber(subscriber) => {
                    let _ = timeout(stall_max, subscriber.until_released()).await;
                }
                Next::Inbox(full) => shared.shards[full].inbox.until_drained().await,
                Next::Ended => return,
            }
        }
    }
}

/// Writes for a connection whose socket was full, until nothing waits any more.
pub(super) async fn write_when_ready(shard: Handle, link: Arc<Link>, stream: Rc<TcpStream>) {
    let write_deadline = shard.borrow().shared.limits.write_deadline;
    let Some((taken, waiting)) = shard.borrow_mut().backlog(&link) else {
        return;
    };
    let mut pace = Pace::new(taken, waiting, Instant::now(), write_deadline);
    loop {
        let ready = timeout_at(pace.until().into(), stream.writable()).await;
        if link.is_closed() {
            return;
        }
        let mut shard = shard.borrow_mut();
        let backlog = match ready {
            Ok(Ok(())) => shard.write_again(&link),
            Ok(Err(_)) => return shard.close(link.slot, End::Cut),
            Err(_) => shard.backlog(&link),
        };
        let Some((taken, waiting)) = backlog else {
            return;
        };
        if !pace.keep(taken, waiting, Instant::now(), write_deadline) {
            return shard.close_slow_consumer(link.slot, "it took too little within the write deadline");
        }
    }
}

/// The one clock of a shard: sleeps until something is due.
async fn keep_time(shard: Handle) {
    let changed = Rc::clone(&shard.borrow().timers_changed);
    loop {
        let next = shard.borrow_mut().tick(Instant::now());
        match next {
            Some(at) => {
                let _ = timeout(at.saturating_duration_since(Instant::now()), changed.notified()).await;
            }
            None => changed.notified().await,
        }
    }
}

/// Counts the sockets that are being drained.
#[derive(Default)]
pub(super) struct Draining {
    count: Cell<usize>,
    none: Notify,
}

impl Draining {
    async fn until_none(&self) {
        while self.count.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// Sends the last bytes of a connection that ended and waits, for a while, for the client to hang up.
pub(super) fn spawn_drain(draining: &Rc<Draining>, stream: Rc<TcpStream>, outbound: Outbound) {
    let draining = Rc::clone(draining);
    draining.count.set(draining.count.get() + 1);
    tokio::task::spawn_local(async move {
        let _ = timeout(DRAIN_MAX, drain(&stream, outbound)).await;
        draining.count.set(draining.count.get() - 1);
        if draining.count.get() == 0 {
            draining.none.notify_one();
        }
    });
}

async fn drain(stream: &TcpStream, mut outbound: Outbound) {
    let mut pool = Pool::default();
    while !outbound.is_empty() {
        match outbound.write_once(&mut pool, |slices| stream.try_write_vectored(slices)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stream.writable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    if socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    let _ = timeout(LINGER_MAX, async {
        let mut discarded = [0; 4096];
        // One read per wait: a client that sends without end must not keep the shard from its other work.
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut discarded) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    })
    .await;
}
