//! Connections of every kind a server takes, as blocking streams of NATS bytes: the same test runs over each.
#![allow(dead_code, reason = "each test file uses its part of it, so an expectation fails in some")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_broker::{Builder, Server, Tls, WebSocket};
use ostler_broker_proto::{Parsed, ServerOp, parse_server};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::Message;

use crate::common::DEADLINE;

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Pipe,
    Tls,
    WebSocket,
    WebSocketTls,
}

pub(crate) const ALL: [Kind; 5] = [Kind::Tcp, Kind::Pipe, Kind::Tls, Kind::WebSocket, Kind::WebSocketTls];

/// An authority, and certificates it signed.
pub(crate) struct Papers {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Papers {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Certificate and key for `name`, as files.
    pub(crate) fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.dir.path().join(format!("{name}{end}"));
        std::fs::write(at(".pem"), certificate.pem()).unwrap();
        std::fs::write(at(".key"), key.serialize_pem()).unwrap();
        (at(".pem"), at(".key"))
    }

    pub(crate) fn server_tls(&self) -> Tls {
        let (certificate, key) = self.issue("localhost");
        Tls::from_pem_files(certificate, key).unwrap()
    }

    /// What a client trusts, and shows if `identity` is given.
    pub(crate) fn client_config(&self, identity: Option<(&Path, &Path)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                let key = rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Arc::new(config)
    }
}

/// A server for one kind of connection.
pub(crate) struct House {
    pub(crate) kind: Kind,
    pub(crate) server: Server,
    papers: Papers,
}

impl House {
    pub(crate) fn new(kind: Kind, builder: Builder) -> Self {
        let papers = Papers::new();
        let websocket = WebSocket::on(([127, 0, 0, 1], 0).into());
        let builder = match kind {
            Kind::Tcp | Kind::Pipe => builder,
            Kind::Tls => builder.tls(papers.server_tls()),
            Kind::WebSocket => builder.websocket(websocket),
            Kind::WebSocketTls => builder.websocket(websocket.tls(papers.server_tls())),
        };
        Self { kind, server: builder.start().unwrap(), papers }
    }

    /// Where the socket of this kind goes.
    pub(crate) fn address(&self) -> SocketAddr {
        match self.kind {
            Kind::Tcp | Kind::Pipe | Kind::Tls => self.server.local_addr(),
            Kind::WebSocket | Kind::WebSocketTls => self.server.websocket_addr().unwrap(),
        }
    }

    /// Opens a connection and reads INFO.
    pub(crate) fn open(&self) -> (Line, String) {
        let mut line = match self.kind {
            Kind::Tcp => Line::new(socket(self.address())),
            Kind::Pipe => Line::new(PipeLine::new(self.server.open_pipe().unwrap())),
            Kind::Tls => {
                let mut stream = socket(self.address());
                let info = plain_line(&mut stream);
                let line = Line::new(tls(stream, self.papers.client_config(None)));
                return (line, info);
            }
            Kind::WebSocket => Line::new(WebSocketLine::new(socket(self.address()))),
            Kind::WebSocketTls => {
                let stream = tls(socket(self.address()), self.papers.client_config(None));
                Line::new(WebSocketLine::new(stream))
            }
        };
        let info = line.line();
        (line, info)
    }

    /// Opens a connection and says CONNECT.
    pub(crate) fn connect(&self) -> Line {
        let (mut line, info) = self.open();
        assert!(info.starts_with("INFO {"), "{info}");
        line.send(r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#);
        line.send("\r\n");
        line
    }
}

pub(crate) fn socket(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Begins TLS on a socket.
pub(crate) fn tls(stream: TcpStream, config: Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    StreamOwned::new(ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap(), stream)
}

/// One line, and not a byte more.
pub(crate) fn plain_line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&line));
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A client that is nothing but a stream of bytes.
pub(crate) struct Line {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
}

impl Line {
    pub(crate) fn new(wire: impl Read + Write + Send + 'static) -> Self {
        Self { wire: Box::new(wire), buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    /// Sends PING and waits for PONG: everything before it was executed.
    #[track_caller]
    pub(crate) fn sync(&mut self) {
        self.send("PING\r\n");
        assert_eq!(self.line(), "PONG");
    }

    /// The next line that is no PING.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if line != "PING" {
                    return line;
                }
            } else {
                assert!(self.fill(), "closed while a line was expected");
            }
        }
    }

    /// The next message's payload.
    #[track_caller]
    pub(crate) fn payload(&mut self) -> Vec<u8> {
        loop {
            match parse_server(&self.buffer).unwrap() {
                Parsed::Op { op: ServerOp::Msg(message), consumed } => {
                    let payload = message.payload.to_vec();
                    self.buffer.drain(..consumed);
                    return payload;
                }
                Parsed::Op { op: ServerOp::Ping, consumed } => drop(self.buffer.drain(..consumed)),
                Parsed::Op { op, .. } => panic!("expected a message, got {op:?}"),
                Parsed::Incomplete { .. } => assert!(self.fill(), "closed while a message was expected"),
            }
        }
    }

    /// Everything until the server hangs up.
    #[track_caller]
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 << 10];
        match self.wire.read(&mut chunk) {
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                count > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came; so far {:?}", String::from_utf8_lossy(&self.buffer))
            }
            Err(_) => false,
        }
    }
}

/// A pipe with a runtime of its own.
struct PipeLine {
    runtime: tokio::runtime::Runtime,
    pipe: ostler_broker::Pipe,
}

impl PipeLine {
    fn new(pipe: ostler_broker::Pipe) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, pipe }
    }
}

impl Read for PipeLine {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = async { tokio::time::timeout(DEADLINE, self.pipe.read(buffer)).await };
        self.runtime.block_on(read).map_err(|_| ErrorKind::TimedOut)?
    }
}

impl Write for PipeLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = async { tokio::time::timeout(DEADLINE, self.pipe.write(bytes)).await };
        self.runtime.block_on(write).map_err(|_| ErrorKind::TimedOut)?
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The payload of WebSocket messages as a stream.
struct WebSocketLine<S: Read + Write> {
    socket: tungstenite::WebSocket<S>,
    unread: Vec<u8>,
}

impl<S: Read + Write> WebSocketLine<S> {
    fn new(mut stream: S) -> Self {
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(plain_line(&mut stream), "HTTP/1.1 101 Switching Protocols");
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.is_empty()) {
            lines.push(plain_line(&mut stream).to_ascii_lowercase());
        }
        assert!(lines.contains(&"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_ascii_lowercase()));
        let role = tungstenite::protocol::Role::Client;
        Self { socket: tungstenite::WebSocket::from_raw_socket(stream, role, None), unread: Vec::new() }
    }
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<S: Read + Write> Read for WebSocketLine<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.socket.read().map_err(broken)? {
                Message::Binary(bytes) => self.unread = bytes.to_vec(),
                Message::Close(_) => return Ok(0),
                other => panic!("a server sends no such frame by itself: {other:?}"),
            }
        }
        let count = buffer.len().min(self.unread.len());
        buffer[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }
}

impl<S: Read + Write> Write for WebSocketLine<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::binary(bytes.to_vec())).map_err(broken)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
