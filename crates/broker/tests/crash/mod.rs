//! A server process that can be killed, and a client that takes the end of a connection as an answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ostler_broker_proto::{Parsed, ServerOp, parse_server};
use serde_json::Value;

use super::common::{DEADLINE, eventually};

/// A message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) headers: String,
    pub(crate) payload: Vec<u8>,
}

/// The server.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts it on a directory of streams and waits until it is ready.
    pub(crate) fn start(directory: &Path) -> Self {
        let log = directory.join("log");
        let _ = std::fs::remove_file(&log);
        let program = std::env::var_os("OSTLER_CRASH_PROGRAM");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_ostler-broker").into());
        let child = Command::new(program)
            .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
            .arg(directory.join("store"))
            .arg("-l")
            .arg(&log)
            .arg("--ports_file_dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program starts");
        // From here on it ends with this, whatever is found wrong.
        let mut process = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("the server is ready", || {
            assert!(process.child.try_wait().expect("a child").is_none(), "it ended at once: {}", said());
            said().contains("Server is ready")
        });
        let text = said();
        assert!(!text.contains("is damaged"), "damage after a kill: {text}");
        let file = directory.join(format!("ostler-broker_{}.ports", process.child.id()));
        let ports: Value =
            serde_json::from_slice(&std::fs::read(&file).expect("a file of ports")).expect("JSON");
        let address = ports["nats"][0].as_str().and_then(|url| url.split_once("://")).expect("an address").1;
        process.address = address.parse().expect("an address");
        let _ = std::fs::remove_file(file);
        process
    }

    /// Ends it at once, with everything it has in memory.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection; every call says `None` once it has ended.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    inbox: String,
    asked: u64,
}

impl Client {
    /// Connects, and listens on `inbox.>`.
    pub(crate) fn connect(address: SocketAddr, inbox: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let mut client = Self { stream, buffer: Vec::new(), start: 0, inbox: inbox.to_owned(), asked: 0 };
        client.send(&format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB {inbox}.> 1\r\n"
        ))?;
        Some(client)
    }

    pub(crate) fn send(&mut self, text: &str) -> Option<()> {
        self.stream.write_all(text.as_bytes()).ok()
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Option<Came> {
        loop {
            match parse_server(&self.buffer[self.start..]).expect("the server speaks the protocol") {
                Parsed::Op { op, consumed } => {
                    let came = match op {
                        ServerOp::Msg(message) => {
                            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                            Some(Came {
                                subject: text(message.subject),
                                reply: message.reply.map(text).unwrap_or_default(),
                                headers: text(message.headers),
                                payload: message.payload.to_vec(),
                            })
                        }
                        _ => None,
                    };
                    self.start += consumed;
                    if came.is_some() {
                        return came;
                    }
                }
                Parsed::Incomplete { .. } => {
                    self.buffer.drain(..self.start);
                    self.start = 0;
                    let mut chunk = [0; 64 << 10];
                    match self.stream.read(&mut chunk) {
                        Ok(0) | Err(_) => return None,
                        Ok(len) => self.buffer.extend_from_slice(&chunk[..len]),
                    }
                }
            }
        }
    }

    /// A subject for one answer.
    pub(crate) fn new_inbox(&mut self) -> String {
        self.asked += 1;
        format!("{}.{}", self.inbox, self.asked)
    }

    /// Asks and waits for the answer.
    pub(crate) fn request(&mut self, subject: &str, payload: &str) -> Option<Came> {
        let inbox = self.new_inbox();
        self.send(&format!("PUB {subject} {inbox} {}\r\n{payload}\r\n", payload.len()))?;
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            let came = self.next()?;
            if came.subject == inbox {
                return Some(came);
            }
        }
        None
    }

    /// The API's answer; a refusal fails the test.
    #[track_caller]
    pub(crate) fn api(&mut self, subject: &str, payload: &str) -> Value {
        let came = self.request(&format!("$JS.API.{subject}"), payload).expect("an answer");
        let answer: Value = serde_json::from_slice(&came.payload).expect("JSON");
        assert!(answer.get("error").is_none(), "{subject} {payload}: {answer}");
        answer
    }
}
