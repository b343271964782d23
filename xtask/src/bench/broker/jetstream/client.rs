//! A connection that speaks JetStream over a raw socket: frames as they arrive, requests with their answers, streams
//! and consumers by their JSON. It counts nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, bail, ensure};
use memchr::memchr;
use serde_json::{Value, json};

use crate::bench::broker::process::Server;

/// Bytes per read.
const READ_BYTES: usize = 256 << 10;
/// What all inboxes of a connection begin with.
pub(super) const INBOX: &str = "_INBOX.bench.";

/// A delivered message, borrowed from the connection's buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) subject: &'a [u8],
    pub(super) reply: &'a [u8],
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// A connection that listens to its inboxes.
pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What is written at the next flush.
    pub(super) out: Vec<u8>,
    asked: u64,
}

/// Where the parts of a frame are, relative to its beginning.
struct Parts {
    subject: (usize, usize),
    reply: (usize, usize),
    headers: (usize, usize),
    payload: (usize, usize),
    len: usize,
}

impl Client {
    pub(super) fn new(server: &Server) -> anyhow::Result<Self> {
        let stream = server.subscribe(&format!("{INBOX}>"), None)?;
        Ok(Self { stream, buffer: vec![0; READ_BYTES], start: 0, end: 0, out: Vec::new(), asked: 0 })
    }

    /// Subscribes to one subject more.
    pub(super) fn listen(&mut self, subject: &str) -> anyhow::Result<()> {
        Ok(self.stream.write_all(format!("SUB {subject} 2\r\n").as_bytes())?)
    }

    /// Writes what was put into `out`.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.out).context("the server does not take what is sent")?;
        self.out.clear();
        Ok(())
    }

    /// The next message; waits for it.
    pub(super) fn next(&mut self) -> anyhow::Result<Frame<'_>> {
        loop {
            if let Some(parts) = self.parse()? {
                return Ok(self.take(&parts));
            }
            self.fill()?;
        }
    }

    /// The next message if it has arrived.
    pub(super) fn next_here(&mut self) -> anyhow::Result<Option<Frame<'_>>> {
        let parts = self.parse()?;
        Ok(parts.map(|parts| self.take(&parts)))
    }

    fn take(&mut self, parts: &Parts) -> Frame<'_> {
        let bytes = &self.buffer[self.start..self.start + parts.len];
        self.start += parts.len;
        let part = |(from, to): (usize, usize)| &bytes[from..to];
        Frame {
            subject: part(parts.subject),
            reply: part(parts.reply),
            headers: part(parts.headers),
            payload: part(parts.payload),
        }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        let len = self.stream.read(&mut self.buffer[self.end..]).context("nothing comes")?;
        ensure!(len > 0, "the server hung up");
        self.end += len;
        Ok(())
    }

    /// The frame at the front, when all of it is there. What is no message is answered or passed over.
    fn parse(&mut self) -> anyhow::Result<Option<Parts>> {
        loop {
            let bytes = &self.buffer[self.start..self.end];
            let Some(end) = memchr(b'\n', bytes) else { return Ok(None) };
            let line = bytes[..end].trim_ascii_end();
            let has_headers = match line {
                [b'M', b'S', b'G', b' ', ..] => false,
                [b'H', b'M', b'S', b'G', b' ', ..] => true,
                b"PING" => {
                    self.stream.write_all(b"PONG\r\n")?;
                    self.start += end + 1;
                    continue;
                }
                b"PONG" => {
                    self.start += end + 1;
                    continue;
                }
                _ if line.starts_with(b"INFO") => {
                    self.start += end + 1;
                    continue;
                }
                other => bail!("the server says {}", other.escape_ascii()),
            };
            // Verb, subject, sid, [reply], [length of headers], length.
            let mut words = [(0, 0); 6];
            let (mut count, mut from) = (0, 0);
            while from < line.len() {
                let to = memchr(b' ', &line[from..]).map_or(line.len(), |at| from + at);
                ensure!(count < words.len(), "too many words: {}", line.escape_ascii());
                words[count] = (from, to);
                (count, from) = (count + 1, to + 1);
            }
            let extra = usize::from(has_headers);
            ensure!(count == 4 + extra || count == 5 + extra, "no such line: {}", line.escape_ascii());
            let size = number(&line[words[count - 1].0..words[count - 1].1])? as usize;
            let headers = match has_headers {
                true => number(&line[words[count - 2].0..words[count - 2].1])? as usize,
                false => 0,
            };
            let body = end + 1;
            if bytes.len() < body + size + 2 {
                return Ok(None);
            }
            return Ok(Some(Parts {
                subject: words[1],
                reply: if count == 5 + extra { words[3] } else { (0, 0) },
                headers: (body, body + headers),
                payload: (body + headers, body + size),
                len: body + size + 2,
            }));
        }
    }

    /// Puts a message into `out`.
    pub(super) fn put(&mut self, subject: &[u8], reply: &[u8], payload: &[u8]) {
        let mut digits = [0; 20];
        let gap: &[u8] = if reply.is_empty() { b"" } else { b" " };
        let size = decimal(payload.len() as u64, &mut digits);
        for part in [b"PUB ", subject, gap, reply, b" ", size, b"\r\n", payload, b"\r\n"] {
            self.out.extend_from_slice(part);
        }
    }

    /// Asks the API and waits for the answer, passing over everything else. An error in it is one here.
    pub(super) fn ask(&mut self, subject: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.ask_either(subject, body)?;
        ensure!(answer["error"].is_null(), "{subject}: {}", answer["error"]);
        Ok(answer)
    }

    /// Asks for something to go that need not be there.
    pub(super) fn delete(&mut self, subject: &str) -> anyhow::Result<()> {
        const NO_STREAM: u64 = 10059;
        const NO_CONSUMER: u64 = 10014;
        let answer = self.ask_either(subject, &Value::Null)?;
        let code = answer["error"]["err_code"].as_u64();
        ensure!(matches!(code, None | Some(NO_STREAM | NO_CONSUMER)), "{subject}: {}", answer["error"]);
        Ok(())
    }

    fn ask_either(&mut self, subject: &str, body: &Value) -> anyhow::Result<Value> {
        self.asked += 1;
        let reply = format!("{INBOX}ask.{}", self.asked);
        let payload = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        self.put(subject.as_bytes(), reply.as_bytes(), &payload);
        self.flush()?;
        loop {
            let frame = self.next()?;
            if frame.subject != reply.as_bytes() {
                continue;
            }
            ensure!(frame.headers.is_empty(), "{subject}: {}", frame.headers.escape_ascii());
            return Ok(serde_json::from_slice(frame.payload)?);
        }
    }

    /// Creates a stream anew, with `more` in its configuration.
    pub(super) fn create_stream(&mut self, name: &str, subjects: &str, more: Value) -> anyhow::Result<()> {
        let mut config = json!({ "name": name, "subjects": [subjects] });
        merge(&mut config, more);
        for _ in 0..10 {
            self.delete(&format!("$JS.API.STREAM.DELETE.{name}"))?;
            self.ask(&format!("$JS.API.STREAM.CREATE.{name}"), &config)?;
            // nats-server may come upon files of the one that it said was deleted.
            if self.state(name)? == (0, 0) {
                return Ok(());
            }
        }
        bail!("stream {name} is not empty when it is created")
    }

    /// Creates a consumer.
    pub(super) fn create_consumer(&mut self, stream: &str, name: &str, more: Value) -> anyhow::Result<()> {
        let mut config = json!({ "name": name });
        merge(&mut config, more);
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
        self.ask(&subject, &json!({ "stream_name": stream, "config": config })).map(drop)
    }

    /// How many messages a stream has and which sequence is its last.
    pub(super) fn state(&mut self, stream: &str) -> anyhow::Result<(u64, u64)> {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), &Value::Null)?;
        let number = |name| info["state"][name].as_u64().with_context(|| format!("no {name} in {info}"));
        Ok((number("messages")?, number("last_seq")?))
    }
}

fn merge(config: &mut Value, more: Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

/// Reads a number.
pub(super) fn number(digits: &[u8]) -> anyhow::Result<u64> {
    ensure!(!digits.is_empty() && digits.len() < 20, "no number: {}", digits.escape_ascii());
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Ok(number * 10 + u64::from(digit - b'0')),
        _ => bail!("no number: {}", digits.escape_ascii()),
    })
}

/// Writes a number.
pub(super) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The sequence that an acknowledgement of the stream names.
pub(super) fn acknowledged(payload: &[u8]) -> anyhow::Result<u64> {
    const SEQ: &[u8] = b"\"seq\":";
    let refused = || format!("not acknowledged: {}", payload.escape_ascii());
    ensure!(!payload.starts_with(b"{\"error\""), refused());
    let at = memchr::memmem::find(payload, SEQ).with_context(refused)? + SEQ.len();
    let digits = payload[at..].trim_ascii_start();
    let len = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    number(&digits[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_names_its_sequence() {
        for payload in [r#"{"stream":"S","seq":7}"#, r#"{"stream":"S", "seq": 7,"domain":"x"}"#] {
            assert_eq!(acknowledged(payload.as_bytes()).unwrap(), 7);
        }
        assert!(acknowledged(br#"{"error":{"code":503},"stream":"S","seq":0}"#).is_err());
        assert!(acknowledged(b"{}").is_err());
    }

    #[test]
    fn numbers_are_written_and_read() {
        for value in [0, 9, 10, 123_456_789] {
            let mut digits = [0; 20];
            assert_eq!(number(decimal(value, &mut digits)).unwrap(), value);
        }
        assert!(number(b"").is_err() && number(b"1a").is_err());
    }
}
