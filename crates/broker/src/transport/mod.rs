//! What carries a connection's bytes: a TCP socket, plain, encrypted or with WebSocket
//! frames on it, or a pipe inside this process. A shard reads and writes without waiting;
//! only its tasks wait, for [`readable`](Transport::readable) and [`writable`](Transport::writable). Knows no NATS.

#[cfg(feature = "websocket")]
mod frames;
pub(crate) mod piece;
pub(crate) mod pipe;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "websocket")]
pub(crate) mod websocket;

use std::io::{self, IoSlice};
use std::net::Shutdown;

use bytes::BufMut;
use tokio::net::TcpStream;

use crate::snapshot::TransportInfo;

/// The byte stream of one connection, as its shard holds it.
#[derive(Debug)]
pub(crate) enum Transport {
    /// A plain socket.
    Tcp(TcpStream),
    /// A connection of this very process.
    Pipe(pipe::End),
    /// An encrypted socket.
    #[cfg(feature = "tls")]
    Tls(Box<tls::Stream>),
    /// A socket with WebSocket frames on it.
    #[cfg(feature = "websocket")]
    WebSocket(Box<websocket::Stream>),
}

impl Transport {
    /// The pipe, whose buffers can be moved instead of copied.
    #[inline]
    pub(crate) fn as_pipe(&self) -> Option<&pipe::End> {
        match self {
            Self::Pipe(pipe) => Some(pipe),
            _ => None,
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; 0 bytes are the end.
    #[inline]
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            Self::Pipe(pipe) => pipe.try_read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_read(buffer),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.try_read(buffer),
        }
    }

    /// The same, into the room that `buffer` has.
    #[inline]
    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read_buf(buffer),
            Self::Pipe(pipe) => pipe.try_read_buf(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_read_buf(buffer),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.try_read_buf(buffer),
        }
    }

    /// Writes what there is room for; `WouldBlock` when there is none.
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Pipe(pipe) => pipe.try_write_vectored(&[IoSlice::new(bytes)]),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_write_vectored(&[IoSlice::new(bytes)]),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// The same for several pieces.
    #[inline]
    pub(crate) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(pieces),
            Self::Pipe(pipe) => pipe.try_write_vectored(pieces),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_write_vectored(pieces),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.try_write_vectored(pieces),
        }
    }

    /// Writes what there is room for to a plain socket, although nobody said yet that it has any; `WouldBlock` on
    /// every other transport.
    pub(crate) fn try_write_unasked(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            // Past the runtime, which would first want to hear from the system that there is room.
            Self::Tcp(socket) => socket2::SockRef::from(socket).send_vectored(pieces),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether there is nothing between the bytes and the socket.
    pub(crate) fn is_plain_socket(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Passes on what was taken but is not with the system yet; returns whether nothing is left of it.
    #[inline]
    pub(crate) fn try_flush(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) | Self::Pipe(_) => Ok(true),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_flush(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.try_flush(),
        }
    }

    /// Waits until a read may give something. Cancel-safe.
    #[inline]
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Pipe(pipe) => {
                // A socket's wait gives others a turn now and then; a pipe that is never empty must too.
                tokio::task::coop::consume_budget().await;
                pipe.readable().await;
                Ok(())
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.readable().await,
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.readable().await,
        }
    }

    /// Waits until a write, or a flush, may get on. Cancel-safe.
    #[inline]
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Pipe(pipe) => {
                pipe.writable().await;
                Ok(())
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.writable().await,
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.writable().await,
        }
    }

    /// What it is, for lists.
    pub(crate) fn info(&self) -> TransportInfo {
        match self {
            Self::Tcp(_) => TransportInfo::default(),
            Self::Pipe(_) => TransportInfo { is_in_process: true, ..TransportInfo::default() },
            #[cfg(feature = "tls")]
            Self::Tls(tls) => encrypted(tls.suite()),
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Self::WebSocket(websocket) => {
                TransportInfo { is_websocket: true, ..encrypted(websocket.suite()) }
            }
            #[cfg(all(not(feature = "tls"), feature = "websocket"))]
            Self::WebSocket(_) => TransportInfo { is_websocket: true, ..TransportInfo::default() },
        }
    }

    /// Whether a TLS handshake was begun and not done.
    pub(crate) fn is_encrypting(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.is_handshaking(),
            _ => false,
        }
    }

    /// Whether a handshake must be done before anything is said.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Pipe(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.is_handshaking(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.is_handshaking(),
        }
    }

    /// Bytes ever given to the system, where that is not what was taken.
    pub(crate) fn written(&self) -> Option<u64> {
        match self {
            Self::Tcp(_) | Self::Pipe(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Some(tls.written()),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => Some(websocket.written()),
        }
    }

    /// Ends it in both directions, at once. Who waits for it wakes.
    pub(crate) fn cut(&self) {
        match self {
            // Of a socket that is shut already there is nothing to say.
            Self::Tcp(socket) => drop(socket2::SockRef::from(socket).shutdown(Shutdown::Both)),
            Self::Pipe(pipe) => pipe.cut(),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.cut(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.cut(),
        }
    }

    /// Says that no more will come. What was written before still arrives.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket2::SockRef::from(socket).shutdown(Shutdown::Write),
            Self::Pipe(pipe) => {
                pipe.shutdown_write();
                Ok(())
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.shutdown_write(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(websocket) => websocket.shutdown_write(),
        }
    }
}

#[cfg(feature = "tls")]
fn encrypted(suite: Option<(&str, &str)>) -> TransportInfo {
    TransportInfo {
        tls_version: suite.map(|(version, _)| version.to_owned()),
        // The registered names do not tell the version apart as rustls does.
        tls_cipher: suite.map(|(_, cipher)| cipher.replacen("TLS13_", "TLS_", 1)),
        ..TransportInfo::default()
    }
}
