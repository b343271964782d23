//! An encrypted socket: rustls between the shard and TCP, without tasks of its own. Handshake and data go through the
//! same calls; until the handshake is done there is just nothing to read.
//!
//! ```text
//!   Plain greeting -> [Undecided] -> Session (handshake, then data)
//!                          `-------> Plain, if that is allowed and the client says so
//! ```

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use bytes::BufMut;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Ciphertext read at a time: a whole record, which is at most 16 KiB and a little.
const READ_BYTES: usize = 17 << 10;
/// Bytes encrypted ahead of the socket. More would only be a second queue behind the shard's.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// The first byte of a TLS handshake; no NATS operation begins with it.
const HANDSHAKE_RECORD: u8 = 0x16;

/// A socket whose other end speaks TLS, or may.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    state: RefCell<State>,
    /// What INFO says about it.
    pub(crate) terms: Terms,
}

/// What a client is told about encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) verifies_clients: bool,
    pub(crate) allows_plain: bool,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    session: ServerConnection,
    /// Said before the session, in plain text; how much of it went out.
    greeting: Vec<u8>,
    greeting_sent: usize,
    /// Read from the socket, not yet looked at.
    unread: Vec<u8>,
    /// The last read filled what it was given: there may be more, whatever the socket says.
    may_have_more: bool,
    /// Bytes ever given to the socket.
    written: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The client's first byte tells whether it encrypts.
    Undecided,
    Session,
    Plain,
}

impl Stream {
    pub(crate) fn new(socket: TcpStream, config: Arc<ServerConfig>, terms: Terms) -> io::Result<Self> {
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(AHEAD_BYTES_MAX));
        let state = State {
            mode: Mode::Undecided,
            session,
            greeting: Vec::new(),
            greeting_sent: 0,
            unread: Vec::new(),
            may_have_more: false,
            written: 0,
        };
        Ok(Self { socket, state: RefCell::new(state), terms })
    }

    /// Says something before the handshake.
    pub(crate) fn greet(&self, words: &[u8]) {
        let mut state = self.state.borrow_mut();
        state.greeting.extend_from_slice(words);
        // What does not fit goes with the next flush; a failure shows itself with the next read.
        let _ = state.flush(&self.socket);
    }

    /// Whether the client has still to prove that it can encrypt.
    pub(crate) fn is_handshaking(&self) -> bool {
        let state = self.state.borrow();
        match state.mode {
            // Who may be silent in plain text is the shard's business.
            Mode::Undecided => !self.terms.allows_plain,
            Mode::Session => state.session.is_handshaking(),
            Mode::Plain => false,
        }
    }

    /// Protocol version and cipher suite, once they are known.
    pub(crate) fn suite(&self) -> Option<(&'static str, &'static str)> {
        let state = self.state.borrow();
        let version = match state.session.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "1.3",
            _ => "1.2",
        };
        Some((version, state.session.negotiated_cipher_suite()?.suite().as_str().unwrap_or("unknown")))
    }

    /// See [`Transport::try_read`](super::Transport::try_read).
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let mode = state.decide(&self.socket, self.terms)?;
        if mode == Mode::Plain {
            return state.read_plain(&self.socket, buffer);
        }
        let read = state.read_session(&self.socket, buffer);
        state.may_have_more = matches!(read, Ok(count) if count == buffer.len());
        read
    }

    /// The same, into the room that `buffer` has.
    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        let mut scratch = [0; READ_BYTES];
        let count = buffer.remaining_mut().min(scratch.len());
        let read = self.try_read(&mut scratch[..count])?;
        buffer.put_slice(&scratch[..read]);
        Ok(read)
    }

    /// See [`Transport::try_write_vectored`](super::Transport::try_write_vectored).
    pub(crate) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        // Not on top of what the socket did not take yet.
        if !state.flush(&self.socket)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        if state.mode == Mode::Plain {
            let count = self.socket.try_write_vectored(pieces)?;
            state.written += count as u64;
            return Ok(count);
        }
        let count = state.session.writer().write_vectored(pieces)?;
        state.flush(&self.socket)?;
        if count == 0 && pieces.iter().any(|piece| !piece.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    /// See [`Transport::try_flush`](super::Transport::try_flush).
    pub(crate) fn try_flush(&self) -> io::Result<bool> {
        self.state.borrow_mut().flush(&self.socket)
    }

    /// Bytes ever given to the socket.
    pub(crate) fn written(&self) -> u64 {
        self.state.borrow().written
    }

    /// Waits until a read may give something; meanwhile what a read had to answer is sent. Cancel-safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        loop {
            let has_unsent = {
                let mut state = self.state.borrow_mut();
                if state.may_have_more || !state.unread.is_empty() {
                    return Ok(());
                }
                !state.flush(&self.socket)?
            };
            if !has_unsent {
                return self.socket.readable().await;
            }
            if self.socket.ready(Interest::READABLE | Interest::WRITABLE).await?.is_readable() {
                return Ok(());
            }
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    pub(crate) fn cut(&self) {
        // Of a socket that is shut already there is nothing to say.
        drop(socket2::SockRef::from(&self.socket).shutdown(Shutdown::Both));
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if state.mode == Mode::Session {
            state.session.send_close_notify();
        }
        state.flush(&self.socket)?;
        socket2::SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }
}

impl State {
    /// Looks at the client's first byte, if that was not done.
    fn decide(&mut self, socket: &TcpStream, terms: Terms) -> io::Result<Mode> {
        if self.mode != Mode::Undecided {
            return Ok(self.mode);
        }
        let mut first = [0; 1];
        if socket.try_read(&mut first)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.mode = match first[0] {
            HANDSHAKE_RECORD => Mode::Session,
            _ if terms.allows_plain => Mode::Plain,
            // Without a word, as nats-server does: whatever it is, it does not read TLS.
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "the client does not encrypt")),
        };
        self.unread.push(first[0]);
        Ok(self.mode)
    }

    fn read_plain(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return socket.try_read(buffer);
        }
        let count = self.unread.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }

    fn read_session(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        let mut scratch = [0; READ_BYTES];
        // What stands in the scratch and was not looked at.
        let mut fresh = 0..0;
        let outcome = loop {
            match self.session.reader().read(&mut buffer[read..]) {
                Ok(0) => break Ok(read),
                Ok(count) => {
                    read += count;
                    if read == buffer.len() {
                        break Ok(read);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Hung up without a farewell: NATS needs none, a message that is not whole is not executed.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break Ok(read),
                Err(error) => break Err(error),
            }
            if self.unread.is_empty() && fresh.is_empty() {
                match socket.try_read(&mut scratch) {
                    Ok(0) => {
                        // rustls learns of the end.
                        let _ = self.session.read_tls(&mut io::empty());
                        break Ok(read);
                    }
                    Ok(count) => fresh = 0..count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock && read > 0 => break Ok(read),
                    Err(error) => break Err(error),
                }
            }
            let fed = if self.unread.is_empty() {
                let fed = self.session.read_tls(&mut &scratch[fresh.clone()]);
                fresh.start += fed.as_ref().unwrap_or(&0);
                fed
            } else {
                let fed = self.session.read_tls(&mut self.unread.as_slice());
                self.unread.drain(..fed.as_ref().unwrap_or(&0));
                fed
            };
            let processed = fed.and_then(|_| {
                let invalid = |error| io::Error::new(ErrorKind::InvalidData, error);
                self.session.process_new_packets().map_err(invalid)
            });
            // Handshake answers, and alerts that say what was wrong.
            let flushed = self.flush(socket);
            if let Err(error) = processed.map(drop).and(flushed.map(drop)) {
                tracing::debug!(%error, "TLS");
                break Err(error);
            }
        };
        self.unread.extend_from_slice(&scratch[fresh]);
        outcome
    }

    /// Gives the socket what it takes; returns whether nothing is left.
    fn flush(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while self.greeting_sent < self.greeting.len() {
            match socket.try_write(&self.greeting[self.greeting_sent..]) {
                Ok(count) => {
                    self.greeting_sent += count;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if !self.greeting.is_empty() {
            (self.greeting, self.greeting_sent) = (Vec::new(), 0);
        }
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(socket)) {
                Ok(count) => self.written += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// A socket as rustls writes it.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
