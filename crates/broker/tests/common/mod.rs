//! A server and raw-socket clients for the tests: bytes in, bytes out, nothing in between that could be wrong too.
#![allow(dead_code, reason = "each test file uses its part of it, so an expectation fails in some")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_broker::{Builder, Server};
use ostler_broker_proto::{Parsed, ServerOp, parse_server};

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A builder on a free port.
pub(crate) fn local() -> Builder {
    Server::builder().listen("127.0.0.1:0".parse().unwrap())
}

/// A server that lets everybody in.
pub(crate) fn open_server() -> Server {
    local().shards(1).allow_anonymous().start().unwrap()
}

/// Where a real nats-server is: `OSTLER_NATS_SERVER`, or where `cargo xtask setup` puts it. Says so when there is none.
///
/// # Panics
///
/// When there is none although `OSTLER_REQUIRE_NATS_SERVER` says that there must be, as `cargo xtask test` does after it
/// has found one.
pub(crate) fn nats_server() -> Option<PathBuf> {
    let program = std::env::var_os("OSTLER_NATS_SERVER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.rig/nats-server/nats-server"),
        PathBuf::from,
    );
    if program.exists() {
        return Some(program);
    }
    let shown = program.display();
    assert!(
        std::env::var_os("OSTLER_REQUIRE_NATS_SERVER").is_none(),
        "no nats-server at {shown}, but OSTLER_REQUIRE_NATS_SERVER demands one: correct OSTLER_NATS_SERVER"
    );
    eprintln!("SKIPPED: no nats-server at {shown}: set OSTLER_NATS_SERVER or run cargo xtask setup");
    None
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One delivered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) subject: String,
    pub(crate) sid: String,
    pub(crate) reply: Option<String>,
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// A client that is nothing but a socket.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects and reads INFO.
    pub(crate) fn open(address: SocketAddr) -> (Self, String) {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self { stream, buffer: Vec::new() };
        let info = raw.line();
        assert!(info.starts_with("INFO {"), "{info}");
        (raw, info[5..].trim().to_owned())
    }

    /// Connects and says CONNECT with these options.
    pub(crate) fn connect_with(address: SocketAddr, options: &str) -> Self {
        let (mut raw, _) = Self::open(address);
        raw.send(format!("CONNECT {{{options}}}\r\n"));
        raw
    }

    /// Connects quietly, with headers.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::connect_with(
            address,
            r#""verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":0"#,
        )
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends PING and waits for PONG: everything before it was executed.
    #[track_caller]
    pub(crate) fn sync(&mut self) {
        self.send("PING\r\n");
        let line = self.line();
        assert_eq!(line, "PONG", "something was said before PONG");
    }

    /// The next line without its end. PING is passed over: the server measures the round trip two seconds after
    /// CONNECT, and a test on a busy machine may live to see it.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        loop {
            let line = self.line_or_ping();
            if line != "PING" {
                return line;
            }
        }
    }

    /// The next line, whatever it is.
    #[track_caller]
    pub(crate) fn line_or_ping(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            assert!(self.fill(), "connection closed while a line was expected");
        }
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Delivered {
        loop {
            match parse_server(&self.buffer).unwrap() {
                Parsed::Op { op: ServerOp::Msg(message), consumed } => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let delivered = Delivered {
                        subject: text(message.subject),
                        sid: text(message.sid),
                        reply: message.reply.map(text),
                        headers: message.headers.to_vec(),
                        payload: message.payload.to_vec(),
                    };
                    self.buffer.drain(..consumed);
                    return delivered;
                }
                Parsed::Op { op: ServerOp::Ping, consumed } => drop(self.buffer.drain(..consumed)),
                Parsed::Op { op, .. } => panic!("expected a message, got {op:?}"),
                Parsed::Incomplete { .. } => {
                    assert!(self.fill(), "connection closed while a message was expected");
                }
            }
        }
    }

    /// The next message, or nothing if PONG comes first.
    #[track_caller]
    pub(crate) fn message_or_pong(&mut self) -> Option<Delivered> {
        loop {
            if self.buffer.starts_with(b"PONG\r\n") {
                self.buffer.drain(..6);
                return None;
            }
            if self.buffer.len() >= 6 {
                return Some(self.message());
            }
            assert!(self.fill(), "connection closed while a message or PONG was expected");
        }
    }

    /// Everything but PINGs until the server hangs up.
    #[track_caller]
    pub(crate) fn until_closed(&mut self) -> String {
        self.until_closed_with_pings().replace("PING\r\n", "")
    }

    /// Everything until the server hangs up.
    #[track_caller]
    pub(crate) fn until_closed_with_pings(&mut self) -> String {
        while self.fill() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    pub(crate) fn hang_up(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads more; false at the end. A reset counts as an end.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(len) => {
                self.buffer.extend_from_slice(&chunk[..len]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}; so far {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }
}
