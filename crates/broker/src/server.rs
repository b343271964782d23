//! A running server: its threads, and the handle that ends them. What the threads do is in [`shard`](crate::shard).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::SystemTime;
use std::{fmt, io};

use nkeys::KeyPair;
use tokio::runtime::{Builder as RuntimeBuilder, LocalOptions, LocalRuntime};

use crate::auth::{Entry, Users};
use crate::ending::{self, LameDuck};
use crate::error::Error;
use crate::in_process::{InProcess, InProcessError, InProcessOptions, Login, Pipe};
#[cfg(feature = "jetstream")]
use crate::jetstream;
use crate::limits::Limits;
use crate::listen::{self, Door};
#[cfg(feature = "monitor")]
use crate::monitor::http::{self, Monitor};
use crate::options::Builder;
use crate::shard::Streams;
use crate::shard::inbox::Envelope;
use crate::shard::tasks;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::transport::pipe::{End, pipe};

/// A NATS server in this process. Dropping it shuts it down.
pub struct Server {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    #[cfg(feature = "monitor")]
    http: Mutex<Option<Monitor>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .field("is_running", &self.is_running())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The options, from which [`Builder::start`] makes a server.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(options: &Builder) -> Result<Self, Error> {
        // Asked once here, so that a connection never meets a system without randomness.
        getrandom::fill(&mut [0; 1]).map_err(|error| Error::Start(io::Error::other(error)))?;
        let (listener, listen) = bind(options.listen)?;
        #[cfg(feature = "monitor")]
        let monitored = options.monitor.map(http::bind).transpose()?;
        #[cfg(feature = "jetstream")]
        let sealed = options.jetstream_sealed.clone();
        #[cfg(feature = "jetstream")]
        let mut opened =
            options.jetstream.clone().map(|options| jetstream::open(options, sealed)).transpose()?;
        let shared = Arc::new(Shared::new(options, KeyPair::new_server().public_key(), listen));
        let server = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
            #[cfg(feature = "monitor")]
            http: Mutex::default(),
        };
        let mut listeners = vec![(listener, Door::Clients)];
        #[cfg(feature = "websocket")]
        if let Some(options) = &options.websocket {
            let (listener, address) = bind(options.listen)?;
            // It was empty: this is the only place that sets it.
            let _ = shared.listening.websocket_addr.set(address);
            tracing::info!(%address, "listening for WebSocket clients");
            listeners.push((listener, Door::WebSockets));
        }
        for index in 0..shared.shards.len() {
            #[cfg(feature = "jetstream")]
            let streams = Streams::new(opened.take_if(|_| index == jetstream::OWNER));
            #[cfg(not(feature = "jetstream"))]
            let streams = Streams::default();
            // On an error `server` is dropped, which ends the threads that run already.
            let thread = start_shard(index, Arc::clone(&shared), std::mem::take(&mut listeners), streams)
                .map_err(Error::Start)?;
            server.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        watch_users(&shared);
        #[cfg(feature = "monitor")]
        if let Some(listener) = monitored {
            let started = http::start(listener, Arc::clone(&shared)).map_err(Error::Start)?;
            *server.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        }
        tracing::info!(address = %listen, shards = shared.shards.len(), "listening for NATS clients");
        Ok(server)
    }

    /// The address clients connect to, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.listen
    }

    /// Where monitoring is served over HTTP, with the port that was taken, if it is: see `Builder::monitor`.
    pub fn monitor_addr(&self) -> Option<SocketAddr> {
        self.shared.monitor_addr.get().copied()
    }

    /// Where WebSocket clients connect to, with the port that was taken, if they can.
    #[cfg(feature = "websocket")]
    pub fn websocket_addr(&self) -> Option<SocketAddr> {
        self.shared.listening.websocket_addr.get().copied()
    }

    /// Replaces certificate and terms for connections from now on; those that stand stay as they are.
    ///
    /// # Errors
    /// [`Error::Option`] if the server was started without TLS: its clients would not know; or for times that cannot be.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, tls: crate::Tls) -> Result<(), Error> {
        tls.check()?;
        if self.shared.listening.set_tls(tls) {
            self.shared.monitored.note_options(SystemTime::now());
            return Ok(());
        }
        let problem = "this server was started without TLS; restart it with".into();
        Err(Error::Option { option: "tls", problem })
    }

    /// The same for WebSocket connections.
    ///
    /// # Errors
    /// [`Error::Option`] if the server has no encrypted WebSockets, or for times that cannot be.
    #[cfg(all(feature = "tls", feature = "websocket"))]
    pub fn set_websocket_tls(&self, tls: crate::Tls) -> Result<(), Error> {
        tls.check()?;
        if self.shared.listening.set_websocket_tls(tls) {
            self.shared.monitored.note_options(SystemTime::now());
            return Ok(());
        }
        let problem = "this server was started without encrypted WebSockets; restart it with".into();
        Err(Error::Option { option: "websocket", problem })
    }

    /// `nats://address:port`, for a client on this machine.
    pub fn url(&self) -> String {
        let mut address = self.shared.listen;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!("nats://{address}")
    }

    /// The id in INFO, another for each start.
    pub fn server_id(&self) -> &str {
        &self.shared.server_id
    }

    /// The identities this server admits: changes to them take effect at once.
    pub fn users(&self) -> &Users {
        &self.shared.users
    }

    /// Whether it serves: not shut down, and no thread lost.
    pub fn is_running(&self) -> bool {
        !self.shared.stopping.load(Ordering::Acquire)
            && self
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .all(|thread| !thread.is_finished())
    }

    /// Opens a connection inside this process: no socket, but everything a client over TCP is told and held to.
    ///
    /// Needs a runtime, which reads the connection. Cancel-safe: dropped, the connection ends.
    ///
    /// # Errors
    /// [`InProcessError::Refused`] with the server's words, [`InProcessError::Identity`] and
    /// [`InProcessError::Seed`] for what the options say.
    pub async fn connect_in_process(&self, options: InProcessOptions) -> Result<InProcess, InProcessError> {
        let trusted = match &options.login {
            Login::Trusted { permissions, account } => {
                Some(Arc::new(Entry::trusted(&options.name, permissions.clone(), account)?))
            }
            _ => None,
        };
        InProcess::connect(self.pipe(trusted)?, &options).await
    }

    /// The same as bytes, for clients that speak NATS themselves: they read and write it like a socket. They say CONNECT
    /// with a credential, as over TCP.
    ///
    /// # Errors
    /// [`InProcessError::Refused`] when there are too many connections, or the server is shut down.
    pub fn open_pipe(&self) -> Result<Pipe, InProcessError> {
        self.pipe(None).map(Pipe::new)
    }

    fn pipe(&self, trusted: Option<Arc<Entry>>) -> Result<End, InProcessError> {
        let refused = |text: &str| InProcessError::Refused(text.into());
        if self.shared.is_lame_duck() {
            return Err(refused("it is shut down, or about to be"));
        }
        let (near, far) = pipe();
        if !listen::admit_pipe(&self.shared, far, trusted) {
            return Err(refused("maximum connections exceeded"));
        }
        Ok(near)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A snapshot of the counters, at most one read batch old.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.shared)
    }

    /// Ends the server gently: closes the listeners, tells the clients (INFO with `ldm`) so that they look for another
    /// server by themselves, then closes them one after the other and ends. Returns at once; [`wait`](Self::wait) returns
    /// at the end. [`shutdown`](Self::shutdown) makes it short. Called again it does nothing.
    ///
    /// # Errors
    /// [`Error::Option`] for times that cannot be; nothing has begun then. [`Error::Start`] if the system gives no thread to
    /// keep time; the listeners are closed then, and a shutdown is what is left to do.
    pub fn lame_duck(&self, how: LameDuck) -> Result<(), Error> {
        how.check()?;
        if !self.shared.begin_lame_duck() {
            return Ok(());
        }
        tracing::info!("closing the listeners; clients are told and then sent away");
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("ostler-lame-duck".into())
            .spawn(move || ending::send_all_away(&shared, how))
            .map_err(Error::Start)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Waits until the server ended, by [`shutdown`](Self::shutdown), as a lame duck or because its threads failed. Blocks;
    /// in async code call it from `spawn_blocking`.
    pub fn wait(&self) {
        self.shared.ending.wait();
    }

    /// Puts other limits in force, for live connections too: a client that understands it is told of another
    /// `max_payload`. Connections and subscriptions beyond a lowered maximum stay; `auth_timeout` is for those to come.
    ///
    /// # Errors
    /// [`Error::Option`] for limits that cannot be; nothing was changed.
    pub fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        limits.check()?;
        self.shared.set_limits(limits);
        self.shared.monitored.note_options(SystemTime::now());
        Ok(())
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        (*self.shared.limits()).clone()
    }

    /// Ends the server: stops accepting, sends what waits for the clients, closes them, joins the threads.
    ///
    /// Blocks until then, for at most about two seconds: clients that do not fetch their bytes lose them. Called again
    /// it does nothing. In async code call it from `spawn_blocking`.
    pub fn shutdown(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        if threads.is_empty() {
            return;
        }
        self.shared.stop();
        #[cfg(feature = "monitor")]
        drop(self.http.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a broker thread had panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Starts the thread of a shard and waits until its runtime stands.
fn start_shard(
    index: usize,
    shared: Arc<Shared>,
    listeners: Vec<(TcpListener, Door)>,
    streams: Streams,
) -> io::Result<JoinHandle<()>> {
    let (ready_tx, ready_rx) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("ostler-bus-{index}")).spawn(move || {
        let ending = Arc::clone(&shared);
        // Left when everything else of this thread is gone.
        let _serving = ending.ending.enter();
        // A local runtime cannot be sent: it is made in the thread that it lives in.
        match make_runtime(listeners) {
            Ok((runtime, listeners)) => {
                // The receiver waits for exactly this message.
                let _ = ready_tx.send(Ok(()));
                let _watch = ending::Watch(&ending);
                runtime.block_on(tasks::run(index, shared, listeners, streams));
            }
            Err(error) => drop(ready_tx.send(Err(error))),
        }
    })?;
    ready_rx.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended before it was ready")))?;
    Ok(thread)
}

fn make_runtime(
    listeners: Vec<(TcpListener, Door)>,
) -> io::Result<(LocalRuntime, Vec<(tokio::net::TcpListener, Door)>)> {
    let runtime =
        RuntimeBuilder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
    let listeners = {
        let _entered = runtime.enter();
        let adopt = |(listener, door)| Ok((tokio::net::TcpListener::from_std(listener)?, door));
        listeners.into_iter().map(adopt).collect::<io::Result<_>>()?
    };
    Ok((runtime, listeners))
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let refused = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// Has every change of the identities looked at by all shards, as long as the server lives.
fn watch_users(shared: &Arc<Shared>) {
    let watching = Arc::downgrade(shared);
    shared.users.watch(Box::new(move || match watching.upgrade() {
        Some(shared) => {
            shared.shards.iter().for_each(|shard| shard.inbox.push(Envelope::UsersChanged));
            true
        }
        None => false,
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use super::*;

    /// Longer than options may say: a moment so far away cannot be told, which fails in the midst of a thread's work.
    const BEYOND_TIME: Duration = Duration::MAX;

    fn local() -> Builder {
        Builder::default().listen("127.0.0.1:0".parse().unwrap()).shards(2).closed_connections_max(1)
    }

    #[track_caller]
    fn assert_ends(server: &Server) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.is_running() {
            assert!(Instant::now() < deadline, "it says that it runs");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(server.monitor("/healthz").status, 503);
        let shared = Arc::clone(&server.shared);
        let (ended_tx, ended) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            shared.ending.wait();
            let _ = ended_tx.send(());
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the other threads end too");
        assert!(server.open_pipe().is_err(), "nobody is let in");
    }

    /// A time that can be added to the present, but not to a moment two seconds from now.
    fn nearly_beyond_time() -> Duration {
        let soon = Instant::now() + Duration::from_secs(1);
        let (mut possible, mut too_long) = (0, u64::MAX);
        while too_long - possible > 1 {
            let middle = possible + (too_long - possible) / 2;
            match soon.checked_add(Duration::from_secs(middle)) {
                Some(_) => possible = middle,
                None => too_long = middle,
            }
        }
        Duration::from_secs(possible)
    }

    #[test]
    fn a_clock_that_fails_ends_the_server() {
        let server = Server::start(&local().allow_anonymous().ping_interval(nearly_beyond_time())).unwrap();
        let mut client = TcpStream::connect(server.local_addr()).unwrap();
        // Two seconds later the clock asks it for a sign of life and wants to know when to ask again.
        client.write_all(b"CONNECT {}\r\n").unwrap();
        assert_ends(&server);
    }

    #[test]
    fn a_shard_that_fails_ends_the_server() {
        let server = Server::start(&local().auth_timeout(BEYOND_TIME)).unwrap();
        let _client = TcpStream::connect(server.local_addr()).unwrap();
        assert_ends(&server);
    }
}
