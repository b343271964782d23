//! What `run` does when the answer to its spawn request is lost; played against a bus that answers as the test wants.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its part has failed the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// One request as it came over the bus.
struct Request {
    subject: String,
    payload: String,
    reply: String,
}

/// The bus's side of one connection: enough of NATS for one client.
struct Bus {
    reader: BufReader<TcpStream>,
    /// Filter and id of every subscription.
    subscriptions: Vec<(String, String)>,
}

impl Bus {
    fn accept(listener: &TcpListener) -> Self {
        let (mut stream, _) = listener.accept().unwrap();
        let info = serde_json::json!({
            "server_id": "test", "server_name": "test", "version": "2.11.0", "go": "", "proto": 1, "headers": true,
            "host": "127.0.0.1", "port": 4222, "max_payload": 1_000_000, "client_id": 1,
            "auth_required": true, "nonce": "bm9uY2U",
        });
        write!(stream, "INFO {info}\r\n").unwrap();
        Self { reader: BufReader::new(stream), subscriptions: Vec::new() }
    }

    /// The next request on a subject that ends so.
    fn request(&mut self, end: &str) -> Request {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.reader.read_line(&mut line).unwrap(),
                0,
                "the command left before it asked {end}"
            );
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["PING"] => self.reader.get_mut().write_all(b"PONG\r\n").unwrap(),
                ["SUB", filter, id] => self.subscriptions.push((filter.to_owned(), id.to_owned())),
                // Requests carry a header that says who asks.
                ["PUB" | "HPUB", subject, ref rest @ .., size] => {
                    let mut payload = vec![0; size.parse::<usize>().unwrap() + 2];
                    self.reader.read_exact(&mut payload).unwrap();
                    let head = if words[0] == "HPUB" { rest.last().unwrap().parse().unwrap() } else { 0 };
                    payload.drain(..head);
                    if subject.ends_with(end) {
                        let payload = String::from_utf8(payload).unwrap();
                        let reply = rest.first().copied().unwrap_or_default().to_owned();
                        return Request { subject: subject.to_owned(), payload, reply };
                    }
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, request: &Request, payload: &str) {
        let heard = |filter: &str| {
            filter == request.reply || filter.strip_suffix('*').is_some_and(|p| request.reply.starts_with(p))
        };
        let (_, id) = self.subscriptions.iter().find(|(filter, _)| heard(filter)).unwrap();
        let stream = self.reader.get_mut();
        write!(stream, "MSG {} {id} {}\r\n{payload}\r\n", request.reply, payload.len()).unwrap();
    }

    /// Expects the request to remove what `spawned` asked for, and does it.
    fn remove(&mut self, spawned: &Request) {
        let removal = self.request(".remove");
        assert_eq!(removal.subject, spawned.subject.replace(".spawn", ".remove"));
        assert!(removal.payload.contains("\"force\":true"), "{}", removal.payload);
        let agent = spawned.subject.split('.').nth(1).unwrap();
        let done = serde_json::json!({"agent_id": agent, "state": "terminated", "changed": true});
        self.answer(&removal, &done.to_string());
    }
}

/// Starts `ostler run` on a bus of its own.
fn run(dir: &TempDir) -> (std::process::Child, Bus) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = serde_json::json!({
        "bus_url": format!("nats://{}", listener.local_addr().unwrap()), "node": "test", "pid": 1,
        "version": "0.1.0", "started_at": "2026-11-20T22:00:00Z",
    });
    std::fs::write(dir.path().join("daemon.json"), endpoint.to_string()).unwrap();
    ostler_client::create_key(&dir.path().join("operator.nk")).unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ostler"));
    command.args(["run", "--", "true"]).env("OSTLER_STATE_DIR", dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let bus = Bus::accept(&listener);
    (child, bus)
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_interrupt_before_the_answer_leaves_no_agent_behind() {
    let dir = TempDir::new().unwrap();
    let (child, mut bus) = run(&dir);
    let spawned = bus.request(".spawn");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    bus.remove(&spawned);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(text(&output).contains("interrupted; run-"), "{}", text(&output));
    assert!(text(&output).contains("is removed"), "{}", text(&output));
}

#[test]
fn an_answer_that_is_lost_leaves_no_agent_behind() {
    let dir = TempDir::new().unwrap();
    let (child, mut bus) = run(&dir);
    let spawned = bus.request(".spawn");
    bus.answer(&spawned, "half an answ");
    bus.remove(&spawned);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("is removed"), "{}", text(&output));
}
