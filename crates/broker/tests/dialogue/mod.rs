//! Plays what several clients say to a server, one after the other, and writes down what each of them hears. It knows
//! the protocol's frames, not what a right answer is.
//!
//! After each step every client asks with PING and reads up to its PONG, so everything a step caused is heard in that
//! step, whatever the timing. What a server may choose is made equal: the order in which one message reaches several
//! subscriptions of one client, and which member of a queue group gets it (subscriptions whose sid begins with `q`
//! are members; what they get is written down for the step, not for the client).
#![allow(dead_code, reason = "each test file uses its part of it, so an expectation fails in some")]

pub(crate) mod files;

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ostler_broker_proto::{ClientOp, Limits, Parsed, ServerOp, parse_client, parse_server};

/// How long an answer may take. A server that says nothing where the other answers is found this way.
const PATIENCE: Duration = Duration::from_secs(5);

/// What nats-server says twice when a frame is cut by one of its reads, which begin small and grow: it looks at the
/// line a second time when the rest has come. Written down once in a row.
const REPEATED: &str = "-ERR 'Invalid Publish Subject'";

/// A server that can be spoken to.
pub(crate) trait Target {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// How many clients it believes to have.
    fn connections(&self) -> usize;
    /// What it accepts, so that the player knows when the server will hang up.
    fn limits(&self) -> Limits;
}

/// Something one client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Writes these pieces, each with a system call of its own.
    Say(Vec<Vec<u8>>),
    /// Closes its connection.
    HangUp,
}

/// One client's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Which client; it connects at its first turn.
    pub(crate) client: usize,
    /// What it does.
    pub(crate) act: Act,
}

impl Step {
    /// One write.
    pub(crate) fn say(client: usize, bytes: impl Into<Vec<u8>>) -> Self {
        Self { client, act: Act::Say(vec![bytes.into()]) }
    }
}

/// The letter of a client in scripts.
pub(crate) fn letter(client: usize) -> char {
    char::from(b'A' + u8::try_from(client).expect("few clients"))
}

/// A script as a person reads it.
pub(crate) fn script(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let name = letter(step.client);
        match &step.act {
            Act::HangUp => writeln!(text, "{name} hangs up").expect("a string takes everything"),
            Act::Say(pieces) => {
                let pieces: Vec<String> =
                    pieces.iter().map(|piece| piece.escape_ascii().to_string()).collect();
                writeln!(text, "{name}> {}", pieces.join(" | ")).expect("a string takes everything");
            }
        }
    }
    text
}

/// What one client heard; messages are kept apart because their order can be the server's choice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Line(String),
    Message { what: Vec<String>, sid: String, lines: Vec<String> },
}

struct Client {
    stream: TcpStream,
    /// Read and not yet understood.
    incoming: Vec<u8>,
    /// Said and not yet a whole frame.
    said: Vec<u8>,
    open: bool,
}

/// Plays all steps on fresh connections and returns the lines that were heard, in steps. When it returns, the server
/// has no clients left.
pub(crate) fn play(target: &dyn Target, steps: &[Step]) -> Vec<String> {
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut heard = Vec::new();
    for step in steps {
        while clients.len() <= step.client {
            clients.push(None);
        }
        let mut queue: Vec<String> = Vec::new();
        let acting = clients[step.client].get_or_insert_with(|| Client::open(target.address()));
        let closed = match &step.act {
            _ if !acting.open => continue,
            Act::HangUp => acting.hang_up(),
            Act::Say(pieces) => {
                let said = acting.say(pieces, &target.limits());
                note(&mut heard, &mut queue, step.client, said);
                !acting.open
            }
        };
        let open = |clients: &[Option<Client>]| clients.iter().flatten().filter(|client| client.open).count();
        if closed {
            settle(target, open(&clients));
        }
        for (other, client) in clients.iter_mut().enumerate() {
            if let Some(client) = client.as_mut().filter(|client| other != step.client && client.open) {
                let said = client.listen(1);
                note(&mut heard, &mut queue, other, said);
            }
        }
        queue.sort_unstable();
        heard.append(&mut queue);
    }
    drop(clients);
    settle(target, 0);
    heard
}

/// Waits until the server noticed who is gone; what they had subscribed to is gone with them. It may have fewer clients
/// than are believed to be there: who is in the middle of a frame does not listen.
fn settle(target: &dyn Target, connections: usize) {
    let started = Instant::now();
    while target.connections() > connections {
        assert!(started.elapsed() < PATIENCE * 4, "the server keeps connections of clients that are gone");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn note(heard: &mut Vec<String>, queue: &mut Vec<String>, client: usize, mut said: Vec<Heard>) {
    let same = |a: &Heard, b: &Heard| match (a, b) {
        (Heard::Message { what: a, .. }, Heard::Message { what: b, .. }) => a == b,
        _ => false,
    };
    said.chunk_by_mut(same).for_each(<[Heard]>::sort_unstable);
    for one in said {
        match one {
            Heard::Line(line)
                if line == REPEATED && heard.last().is_some_and(|last| last.ends_with(REPEATED)) => {}
            Heard::Line(line) => heard.push(format!("{}< {line}", letter(client))),
            Heard::Message { what, sid, .. } if sid.starts_with('q') => {
                queue.push(format!("{sid}< {}", what.join(" ")));
            }
            Heard::Message { lines, .. } => {
                heard.extend(lines.into_iter().map(|line| format!("{}< {line}", letter(client))));
            }
        }
    }
}

impl Client {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes an option");
        let mut client = Self { stream, incoming: Vec::new(), said: Vec::new(), open: true };
        match client.hear() {
            Some(Heard::Line(line)) if line.starts_with("INFO") => client,
            other => panic!("a server begins with INFO, not {other:?}"),
        }
    }

    fn hang_up(&mut self) -> bool {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.open = false;
        true
    }

    /// Says it and listens for what it causes. In the middle of a frame there is nothing to wait for.
    fn say(&mut self, pieces: &[Vec<u8>], limits: &Limits) -> Vec<Heard> {
        for piece in pieces {
            // The server may hang up before all is said; what it said until then is still there to be heard.
            if self.stream.write_all(piece).is_err() {
                return self.listen(usize::MAX);
            }
            self.said.extend_from_slice(piece);
        }
        let mut pongs = 0;
        loop {
            match parse_client(&self.said, limits) {
                Ok(Parsed::Op { op, consumed }) => {
                    pongs += usize::from(matches!(op, ClientOp::Ping));
                    let ends = matches!(op, ClientOp::Err(_));
                    self.said.drain(..consumed);
                    if ends {
                        return self.listen(usize::MAX);
                    }
                }
                Ok(Parsed::Incomplete { .. }) if self.said.is_empty() => return self.listen(pongs + 1),
                Ok(Parsed::Incomplete { .. }) => return self.until(pongs),
                Err(_) => return self.listen(usize::MAX),
            }
        }
    }

    /// Asks and reads up to the answer to it.
    fn listen(&mut self, pongs: usize) -> Vec<Heard> {
        if !self.said.is_empty() && pongs == 1 {
            return Vec::new();
        }
        if pongs < usize::MAX {
            let _ = self.stream.write_all(b"PING\r\n");
        }
        let mut heard = self.until(pongs);
        if heard.last() == Some(&Heard::Line("PONG".into())) {
            heard.pop();
        }
        // INFO follows the first PONG of a connection; ask again, so that it is heard in this step.
        if self.open && pongs < usize::MAX {
            let _ = self.stream.write_all(b"PING\r\n");
            let mut rest = self.until(1);
            if rest.last() == Some(&Heard::Line("PONG".into())) {
                rest.pop();
            }
            heard.append(&mut rest);
        }
        heard
    }

    /// Reads until so many PONGs, the end, or nothing more comes.
    fn until(&mut self, mut pongs: usize) -> Vec<Heard> {
        let mut heard = Vec::new();
        while pongs > 0 && self.open {
            match self.hear() {
                Some(one) => {
                    pongs -= usize::from(one == Heard::Line("PONG".into()));
                    heard.push(one);
                }
                None => {
                    self.open = false;
                    heard.push(Heard::Line("closed".into()));
                }
            }
        }
        heard
    }

    /// The next thing the server says; `None` when it hung up.
    fn hear(&mut self) -> Option<Heard> {
        loop {
            match parse_server(&self.incoming) {
                Ok(Parsed::Op { op, consumed }) => {
                    let heard = render(&op);
                    self.incoming.drain(..consumed);
                    match heard {
                        Some(heard) => return Some(heard),
                        None => continue,
                    }
                }
                Ok(Parsed::Incomplete { .. }) => {}
                Err(_) => {
                    let text = self.incoming.escape_ascii().to_string();
                    self.incoming.clear();
                    return Some(Heard::Line(format!("unreadable: {text}")));
                }
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(len) => self.incoming.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return None,
                Err(_) => {
                    self.open = false;
                    return Some(Heard::Line("silence".into()));
                }
            }
        }
    }
}

/// `None` for the server's own PING and for its advisories about accounts, which come when it likes.
fn render(op: &ServerOp<'_>) -> Option<Heard> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    Some(match op {
        ServerOp::Ping => return None,
        ServerOp::Msg(message) if message.subject.starts_with(b"$SYS.ACCOUNT.") => return None,
        ServerOp::Pong => Heard::Line("PONG".into()),
        ServerOp::Ok => Heard::Line("+OK".into()),
        ServerOp::Err(said) => Heard::Line(format!("-ERR '{}'", String::from_utf8_lossy(said))),
        ServerOp::Info(json) => {
            let json: serde_json::Value = serde_json::from_slice(json).expect("INFO is JSON");
            let flags = ["connect_info", "ldm"].into_iter().filter(|flag| json[*flag] == true);
            Heard::Line(std::iter::once("INFO").chain(flags).collect::<Vec<_>>().join(" "))
        }
        ServerOp::Msg(message) => {
            let verb = if message.headers.is_empty() { "MSG" } else { "HMSG" };
            let reply = message.reply.map(|reply| format!(" {}", text(reply))).unwrap_or_default();
            let (subject, sid) = (text(message.subject), text(message.sid));
            let body = format!("{}{}", text(message.headers), text(message.payload));
            let sizes = match message.headers.len() {
                0 => format!("{}", message.payload.len()),
                headers => format!("{headers} {}", headers + message.payload.len()),
            };
            let lines = vec![format!("{verb} {subject} {sid}{reply} {sizes}"), body];
            Heard::Message { what: vec![subject, text(message.payload)], sid, lines }
        }
    })
}
