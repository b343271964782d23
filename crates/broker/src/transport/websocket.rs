//! A socket that carries NATS inside WebSocket frames (RFC 6455), encrypted or not. For the shard it is a stream of
//! bytes: where frames and messages begin and end means nothing to NATS. Payload is unmasked where it was read, so no
//! frame is ever collected, however long it says it is.
//!
//! ```text
//!   Upgrading (HTTP request) --101--> Open --close frame--> Leaving --last frame--> Closing
//!                            |          `--violation-------------------------------^
//!                            `--4xx------------------------------------------------^
//! ```

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;

use bytes::BufMut;
use tokio::net::TcpStream;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};

use super::frames::{Decoder, Ended, write_frame};
#[cfg(feature = "tls")]
use super::tls;
use crate::websocket::WebSocket;

/// An HTTP request longer than this is none that a client sends.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Payload framed ahead of the socket. More would only be a second queue behind the shard's.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// RFC 6455, 7.4.1: the purpose was fulfilled.
const CLOSE_NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// The socket below, which is what TLS made of it where that is asked for.
#[derive(Debug)]
pub(crate) enum Wire {
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Stream>),
}

/// A socket whose other end speaks WebSocket, or should.
#[derive(Debug)]
pub(crate) struct Stream {
    wire: Wire,
    options: Arc<WebSocket>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    decoder: Decoder,
    /// Bytes from the socket that came along with the request.
    unread: Vec<u8>,
    /// What was said before the upgrade; it follows the response.
    early: Vec<u8>,
    /// Frames, or the response, on their way to the socket; how much of it went.
    out: Vec<u8>,
    out_sent: usize,
    written: u64,
}

#[derive(Debug)]
enum Phase {
    /// The HTTP request as far as it came.
    Upgrading(Vec<u8>),
    Open,
    /// The client said farewell, with this status code: what waits for it is still sent, then the answer.
    Leaving(Option<[u8; 2]>),
    /// Nothing is read or written any more.
    Closing,
}

impl Wire {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    fn try_flush(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) => Ok(true),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_flush(),
        }
    }
}

impl Stream {
    pub(crate) fn new(wire: Wire, options: Arc<WebSocket>) -> Self {
        let state = State {
            phase: Phase::Upgrading(Vec::new()),
            decoder: Decoder::default(),
            unread: Vec::new(),
            early: Vec::new(),
            out: Vec::new(),
            out_sent: 0,
            written: 0,
        };
        Self { wire, options, state: RefCell::new(state) }
    }

    /// Whether the client has still to ask for WebSocket.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Upgrading(_))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        match &self.wire {
            Wire::Tcp(_) => false,
            #[cfg(feature = "tls")]
            Wire::Tls(_) => true,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn suite(&self) -> Option<(&'static str, &'static str)> {
        match &self.wire {
            Wire::Tcp(_) => None,
            Wire::Tls(tls) => tls.suite(),
        }
    }

    /// See [`Transport::try_read`](super::Transport::try_read).
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        loop {
            match state.phase {
                Phase::Upgrading(_) => {
                    // Small: what follows the request is no more than a frame or two.
                    let mut chunk = [0; 2048];
                    let count = self.wire.try_read(&mut chunk)?;
                    if count == 0 {
                        return Ok(0);
                    }
                    state.take_request(&chunk[..count], &self.options, self.is_encrypted());
                    state.flush(&self.wire)?;
                }
                Phase::Open => {
                    let count = if state.unread.is_empty() {
                        self.wire.try_read(buffer)?
                    } else {
                        let count = state.unread.len().min(buffer.len());
                        buffer[..count].copy_from_slice(&state.unread[..count]);
                        state.unread.drain(..count);
                        count
                    };
                    if count == 0 {
                        return Ok(0);
                    }
                    let payload = state.take_frames(&mut buffer[..count]);
                    state.flush(&self.wire)?;
                    if payload > 0 {
                        return Ok(payload);
                    }
                    if matches!(state.phase, Phase::Open) {
                        // There may be more: the socket was not found empty. Frames without payload must not keep a
                        // shard here, however many come.
                        return Err(ErrorKind::WouldBlock.into());
                    }
                }
                Phase::Leaving(_) | Phase::Closing => return Ok(0),
            }
        }
    }

    /// The same, into the room that `buffer` has.
    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        let mut scratch = [0; 16 << 10];
        let count = buffer.remaining_mut().min(scratch.len());
        let read = self.try_read(&mut scratch[..count])?;
        buffer.put_slice(&scratch[..read]);
        Ok(read)
    }

    /// See [`Transport::try_write_vectored`](super::Transport::try_write_vectored).
    pub(crate) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let is_flushed = state.flush(&self.wire)?;
        let room = match state.phase {
            Phase::Upgrading(_) => AHEAD_BYTES_MAX.saturating_sub(state.early.len()),
            // Not on top of what the socket did not take yet.
            Phase::Open | Phase::Leaving(_) if is_flushed => AHEAD_BYTES_MAX,
            Phase::Open | Phase::Leaving(_) => 0,
            Phase::Closing => return Err(ErrorKind::BrokenPipe.into()),
        };
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>().min(room);
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let State { phase, early, out, .. } = &mut *state;
        let target = match phase {
            Phase::Upgrading(_) => early,
            _ => {
                super::frames::write_data_header(out, len);
                out
            }
        };
        let mut left = len;
        for piece in pieces {
            let count = piece.len().min(left);
            target.extend_from_slice(&piece[..count]);
            left -= count;
        }
        state.flush(&self.wire)?;
        Ok(len)
    }

    /// See [`Transport::try_flush`](super::Transport::try_flush).
    pub(crate) fn try_flush(&self) -> io::Result<bool> {
        self.state.borrow_mut().flush(&self.wire)
    }

    /// Bytes ever given to the socket.
    pub(crate) fn written(&self) -> u64 {
        self.state.borrow().written
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        if !self.state.borrow().unread.is_empty() {
            return Ok(());
        }
        match &self.wire {
            Wire::Tcp(socket) => socket.readable().await,
            #[cfg(feature = "tls")]
            Wire::Tls(tls) => tls.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.wire {
            Wire::Tcp(socket) => socket.writable().await,
            #[cfg(feature = "tls")]
            Wire::Tls(tls) => tls.writable().await,
        }
    }

    pub(crate) fn cut(&self) {
        match &self.wire {
            // Of a socket that is shut already there is nothing to say.
            Wire::Tcp(socket) => drop(socket2::SockRef::from(socket).shutdown(Shutdown::Both)),
            #[cfg(feature = "tls")]
            Wire::Tls(tls) => tls.cut(),
        }
    }

    /// Says farewell, if the client did not, and that no more will come.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let farewell = match state.phase {
            Phase::Open => Some(Vec::from(CLOSE_NORMAL)),
            // RFC 6455, 5.5.1: the answer repeats the status code.
            Phase::Leaving(code) => Some(code.map_or(Vec::new(), Vec::from)),
            Phase::Upgrading(_) | Phase::Closing => None,
        };
        if let Some(code) = farewell {
            write_frame(&mut state.out, super::frames::CLOSE, &code);
        }
        state.phase = Phase::Closing;
        state.flush(&self.wire)?;
        match &self.wire {
            Wire::Tcp(socket) => socket2::SockRef::from(socket).shutdown(Shutdown::Write),
            #[cfg(feature = "tls")]
            Wire::Tls(tls) => tls.shutdown_write(),
        }
    }
}

impl State {
    /// Takes in more of the HTTP request, and answers it when it is whole.
    fn take_request(&mut self, bytes: &[u8], options: &WebSocket, is_encrypted: bool) {
        let Phase::Upgrading(request) = &mut self.phase else {
            return;
        };
        request.extend_from_slice(bytes);
        let answer = match Request::try_parse(request) {
            Ok(None) if request.len() <= REQUEST_BYTES_MAX => return,
            Ok(Some((len, parsed))) => {
                self.unread = request.split_off(len);
                answer(&parsed, options, is_encrypted)
            }
            Ok(None) => Err("431 Request Header Fields Too Large"),
            Err(_) => Err("400 Bad Request"),
        };
        match answer {
            Ok(response) => {
                self.out.extend_from_slice(&response);
                let early = std::mem::take(&mut self.early);
                if !early.is_empty() {
                    write_frame(&mut self.out, super::frames::BINARY, &early);
                }
                self.phase = Phase::Open;
            }
            Err(status) => {
                tracing::info!(status, "a WebSocket handshake was refused");
                let response = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                self.out.extend_from_slice(response.as_bytes());
                self.phase = Phase::Closing;
            }
        }
    }

    /// Leaves the payload of the frames in `bytes` at the front of it; returns how much that is.
    fn take_frames(&mut self, bytes: &mut [u8]) -> usize {
        // A client that pings and does not read gets no more answers than this.
        let may_answer = self.out.len() - self.out_sent < AHEAD_BYTES_MAX;
        let decoded = self.decoder.decode(bytes, if may_answer { Some(&mut self.out) } else { None });
        if let Some(why) = decoded.end {
            tracing::debug!(?why, "a WebSocket connection ends");
            self.phase = match why {
                Ended::Closed(code) => Phase::Leaving(code),
                Ended::Violation(_) => Phase::Closing,
            };
        }
        decoded.payload
    }

    /// Gives the socket what it takes; returns whether nothing is left.
    fn flush(&mut self, wire: &Wire) -> io::Result<bool> {
        while self.out_sent < self.out.len() {
            match wire.try_write(&self.out[self.out_sent..]) {
                Ok(count) => {
                    self.out_sent += count;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        // An idle connection keeps nothing.
        (self.out, self.out_sent) = (Vec::new(), 0);
        wire.try_flush()
    }
}

/// The response to a request that may be upgraded, or the status of one that may not. Extensions are not mentioned in
/// it, which declines them (RFC 6455, 9.1).
fn answer(request: &Request, options: &WebSocket, is_encrypted: bool) -> Result<Vec<u8>, &'static str> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let response = create_response(request).map_err(|_| "400 Bad Request")?;
    if let Some(origin) = header("Origin")
        && !options.admits(origin, header("Host").unwrap_or_default(), is_encrypted)
    {
        tracing::warn!(origin, "a page of this origin may not connect");
        return Err("403 Forbidden");
    }
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|_| "400 Bad Request")?;
    Ok(bytes)
}
