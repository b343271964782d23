//! The HTTP server of monitoring: a thread with a runtime of its own, so that no request meets a message. What is
//! answered is decided in [`monitor`](super); this is only the carrier, and its bounds.
//!
//! Whoever can reach the address may ask: there are no passwords. Web pages in a browser on this machine cannot read the
//! answers: no other origin is allowed, and on a loopback address only requests for an address or `localhost` are
//! answered, so that a page cannot pass itself off as local through a name of its own.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, pin};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Builder as RuntimeBuilder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::seats::{Answering, Seat, Seats};
use super::{ANSWER_MAX, HEALTHY_MAX, MonitorAnswer, Problem, Unanswered, answer, unhealthy};
use crate::error::Error;
use crate::shared::Shared;

/// Connections at a time; for one more another makes room, see [`seats`](super::seats). Dashboards use one each.
const CONNECTIONS_MAX: usize = 128;
/// Time for a request to arrive whole, and for a connection to stay without one.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Life of a connection; a request that is being answered then is finished.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Time for that last answer.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request, its headers included: more than any browser sends.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Documents that are being made at a time; others wait.
const MAKING_MAX: usize = 4;
/// Answers larger than this count as large.
const LARGE_BYTES: usize = 256 << 10;
/// Large answers being sent at a time: those of readers that never read must not fill the memory.
const LARGE_MAX: usize = 8;
/// Bytes given to the socket at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// The running HTTP server.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Ends it and joins its thread; answers on their way are cut off.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the monitoring thread had panicked");
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Takes the address.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let refused = |source| Error::Monitor { address, source };
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// Starts the thread.
pub(crate) fn start(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Monitor> {
    let address = listener.local_addr()?;
    let runtime = RuntimeBuilder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "monitoring asks for no password and anybody who reaches this address can read it");
    }
    // Set once per server, by this.
    let _ = shared.monitor_addr.set(address);
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("ostler-monitor".into()).spawn(move || {
        let front = Arc::new(Front::new(shared, address.ip()));
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, front) => {}
                // An error says that the sender is gone, which is the sign.
                _ = stopped => {}
            }
        });
    })?;
    tracing::info!(%address, "serving monitoring over HTTP");
    Ok(Monitor { stop: Some(stop), thread: Some(thread) })
}

/// What all connections have in common.
struct Front {
    shared: Arc<Shared>,
    is_loopback: bool,
    making: Semaphore,
    large: Arc<Semaphore>,
}

/// Accepts and parents the connections.
async fn accept(listener: tokio::net::TcpListener, front: Arc<Front>) {
    let mut connections = JoinSet::new();
    let mut seats = Seats::new(CONNECTIONS_MAX);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match stream {
            Ok((stream, _)) => {
                let seat = Seat::new();
                let task = connections.spawn(serve(stream, Arc::clone(&front), Arc::clone(&seat)));
                seats.take(seat, task);
            }
            Err(error) => {
                // Out of descriptors, mostly: it passes when somebody hangs up.
                tracing::error!(%error, "cannot accept a monitoring connection; trying again");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, front: Arc<Front>, seat: Arc<Seat>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let front = Arc::clone(&front);
        let answering = seat.asked();
        async move {
            let mut response = front.respond(&request).await;
            response.body_mut().answering = Some(answering);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        // As nats-server writes them, for readers that compare to the letter.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin::pin!(connection);
    // What clients do to their connections is their affair, hence no word about errors.
    if timeout(CONNECTION_MAX, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER_MAX, connection).await;
    }
}

impl Front {
    fn new(shared: Arc<Shared>, ip: IpAddr) -> Self {
        Self {
            shared,
            is_loopback: ip.is_loopback(),
            making: Semaphore::new(MAKING_MAX),
            large: Arc::new(Semaphore::new(LARGE_MAX)),
        }
    }

    async fn respond(&self, request: &Request<Incoming>) -> Response<Sending> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = respond_with(MonitorAnswer::text(405, "only GET is served here\n"), None);
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
        if self.is_loopback && !host.is_none_or(is_local) {
            let problem = "this monitor is for programs on this machine: ask by address or as localhost\n";
            return respond_with(MonitorAnswer::text(403, problem), None);
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        self.shared.monitored.count(target);
        let answer = self.make(target).await;
        if answer.body.len() <= LARGE_BYTES {
            return respond_with(answer, None);
        }
        match Arc::clone(&self.large).try_acquire_owned() {
            Ok(permit) => respond_with(answer, Some(permit)),
            Err(_) => {
                let problem = "too many large answers are being sent; ask for less with limit, or later\n";
                respond_with(MonitorAnswer::text(503, problem), None)
            }
        }
    }

    /// Makes a document, unless the server takes too long for it.
    async fn make(&self, target: &str) -> MonitorAnswer {
        let is_health = target == "/healthz" || target.starts_with("/healthz?");
        let longest = if is_health { HEALTHY_MAX } else { ANSWER_MAX };
        let making = async {
            // The semaphore is never closed; an error would only mean not to wait.
            let _permit = self.making.acquire().await;
            answer(&self.shared, target).await
        };
        match timeout(longest, making).await {
            Ok(answer) => answer,
            Err(_) if is_health => {
                let body = unhealthy(&Unanswered).to_string();
                MonitorAnswer { status: 503, content_type: "application/json", body }
            }
            Err(_) => MonitorAnswer::problem(&Problem::Unanswered(Unanswered)),
        }
    }
}

/// Whether a `Host` header is an address or `localhost`, with or without a port.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((name, _)) => name,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn respond_with(answer: MonitorAnswer, permit: Option<OwnedSemaphorePermit>) -> Response<Sending> {
    let mut response = Response::new(Sending { left: answer.body.into(), _permit: permit, answering: None });
    if let Ok(status) = answer.status.try_into() {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A body that is sent in chunks, so that it is gone only when the client took nearly all of it.
struct Sending {
    left: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
    /// Dropped with the rest.
    answering: Option<Answering>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.left.len().min(CHUNK_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_local() {
        for host in [
            "127.0.0.1:8222",
            "127.0.0.1",
            "[::1]:8222",
            "[::1]",
            "localhost:8222",
            "LOCALHOST",
            "10.1.2.3:1",
        ] {
            assert!(is_local(host.as_bytes()), "{host}");
        }
        for host in ["evil.example:8222", "evil.example", "localhost.evil.example", "", "\u{e9}:1"] {
            assert!(!is_local(host.as_bytes()), "{host}");
        }
        assert!(!is_local(b"\xff"));
    }
}
