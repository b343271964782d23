//! The headers JetStream reads and writes. Reading goes through the block once; a message without headers costs nothing.

use ostler_broker_proto::headers::{HeaderBlock, VERSION};

use crate::api::ApiError;
use crate::time::{SECOND, parse_duration};

/// What a publisher asks of the stream in headers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublishHeaders<'a> {
    pub(crate) msg_id: Option<&'a str>,
    pub(crate) expected_stream: Option<&'a [u8]>,
    pub(crate) expected_last_seq: Option<u64>,
    pub(crate) expected_subject_seq: Option<u64>,
    pub(crate) expected_subject: Option<&'a [u8]>,
    pub(crate) expected_last_id: Option<&'a str>,
    pub(crate) rollup: Option<&'a [u8]>,
    pub(crate) ttl: Option<&'a [u8]>,
    /// What to add to a counter.
    pub(crate) increment: Option<&'a str>,
    pub(crate) batch_id: Option<&'a str>,
    pub(crate) batch_seq: Option<u64>,
    pub(crate) batch_commit: Option<&'a [u8]>,
    /// Says something of a schedule.
    pub(crate) schedule: bool,
    pub(crate) required_level: Option<u64>,
    /// Says that another stream is where it is from.
    pub(crate) sourced: bool,
}

impl<'a> PublishHeaders<'a> {
    /// Reads what is there; a block that cannot be read asks for nothing.
    pub(crate) fn read(block: &'a [u8]) -> Self {
        let mut found = Self::default();
        if block.is_empty() {
            return found;
        }
        let Ok(block) = HeaderBlock::parse(block) else { return found };
        for (name, value) in block.iter() {
            let Some(rest) = name.strip_prefix(b"Nats-") else { continue };
            match rest {
                b"Msg-Id" => first(&mut found.msg_id, text(value)),
                b"Expected-Stream" => first(&mut found.expected_stream, Some(value)),
                b"Expected-Last-Sequence" => first(&mut found.expected_last_seq, Some(number(value))),
                b"Expected-Last-Subject-Sequence" => {
                    first(&mut found.expected_subject_seq, Some(number(value)));
                }
                b"Expected-Last-Subject-Sequence-Subject" => first(&mut found.expected_subject, Some(value)),
                b"Expected-Last-Msg-Id" => first(&mut found.expected_last_id, text(value)),
                b"Rollup" => first(&mut found.rollup, Some(value)),
                b"TTL" => first(&mut found.ttl, Some(value)),
                b"Incr" => first(&mut found.increment, text(value)),
                b"Batch-Id" => first(&mut found.batch_id, text(value)),
                b"Batch-Sequence" => {
                    first(&mut found.batch_seq, text(value).and_then(|seq| seq.parse().ok()));
                }
                b"Batch-Commit" => first(&mut found.batch_commit, Some(value)),
                b"Stream-Source" => found.sourced |= !value.is_empty(),
                b"Required-Api-Level" => first(&mut found.required_level, Some(number(value))),
                _ if rest.starts_with(b"Schedule") => found.schedule = true,
                _ => {}
            }
        }
        found
    }
}

fn first<T>(slot: &mut Option<T>, value: Option<T>) {
    if slot.is_none() {
        *slot = value;
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty())
}

/// What is no number never is the last sequence, as in nats-server.
fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// A message's time to live: seconds or a duration, at least one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// Nanoseconds.
    After(i64),
    /// Limits by age do not apply either.
    Never,
}

impl Ttl {
    /// Reads `Nats-TTL`.
    ///
    /// # Errors
    /// [`ApiError::ttl_invalid`].
    pub(crate) fn parse(value: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(value).map_err(|_| ApiError::ttl_invalid())?;
        if text == "never" {
            return Ok(Self::Never);
        }
        let nanos = match text.parse::<i64>() {
            Ok(seconds) => seconds.checked_mul(SECOND),
            Err(_) => parse_duration(text),
        };
        nanos.filter(|nanos| *nanos >= SECOND).map(Self::After).ok_or_else(ApiError::ttl_invalid)
    }
}

/// Appends a header line before the end of a block, beginning one when there is none.
pub(crate) fn append(block: &mut Vec<u8>, name: &str, value: impl std::fmt::Display) {
    use std::io::Write as _;
    if !block.ends_with(b"\r\n\r\n") {
        // Nobody could read what is there, if anything is.
        block.clear();
        block.extend_from_slice(VERSION);
        block.extend_from_slice(b"\r\n\r\n");
    }
    block.truncate(block.len() - 2);
    // Writing to a vector cannot fail.
    let _ = write!(block, "{name}: {value}\r\n\r\n");
}

/// Gives a header another value in its place, or appends it.
pub(crate) fn set(block: &mut Vec<u8>, name: &str, value: impl std::fmt::Display) {
    let mut at = memchr_line(block).unwrap_or(0);
    while at > 0 {
        let Some(end) = memchr_line(&block[at..]) else { break };
        let line = &block[at..at + end];
        if line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":")) {
            block.splice(at..at + end, format!("{name}: {value}\r\n").into_bytes());
            return;
        }
        at += end;
    }
    append(block, name, value);
}

/// The block with another time to live.
pub(crate) fn with_ttl(block: &[u8], seconds: i64) -> Vec<u8> {
    let mut block = without(block, &["Nats-TTL:"]);
    append(&mut block, "Nats-TTL", seconds);
    block
}

/// The block without the lines whose names begin with one of these; nothing when no line is left.
pub(crate) fn without(block: &[u8], names: &[&str]) -> Vec<u8> {
    let Some(end) = memchr_line(block) else { return block.to_vec() };
    let (mut kept, mut rest) = (block[..end].to_vec(), &block[end..]);
    while let Some(end) = memchr_line(rest) {
        let (line, after) = rest.split_at(end);
        if line.len() > 2 && !names.iter().any(|name| line.starts_with(name.as_bytes())) {
            kept.extend_from_slice(line);
        }
        rest = after;
    }
    if kept.len() == end && block[..end].trim_ascii() == VERSION {
        return Vec::new();
    }
    kept.extend_from_slice(b"\r\n");
    kept
}

/// Where the first line ends, its CR LF included.
fn memchr_line(block: &[u8]) -> Option<usize> {
    block.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2)
}

/// A block that is only a status, as `NATS/1.0 404 No Messages`.
pub(crate) fn status(text: &str) -> Vec<u8> {
    [VERSION, b" ", text.as_bytes(), b"\r\n\r\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_repeated_headers_counts() {
        let block = b"NATS/1.0\r\nNats-Msg-Id: a\r\nNats-Msg-Id: b\r\nNats-Expected-Last-Sequence: x\r\n\r\n";
        let found = PublishHeaders::read(block);
        assert_eq!(found.msg_id, Some("a"));
        assert_eq!(found.expected_last_seq, Some(u64::MAX));
        assert_eq!(PublishHeaders::read(b"no block"), PublishHeaders::default());
    }

    #[test]
    fn times_to_live_are_whole_seconds_or_durations_of_a_second_at_least() {
        for (text, ttl) in [
            ("1", Some(Ttl::After(SECOND))),
            ("1.5s", Some(Ttl::After(SECOND * 3 / 2))),
            ("2h3s", Some(Ttl::After(7203 * SECOND))),
            ("never", Some(Ttl::Never)),
            ("0", None),
            ("500ms", None),
            ("-1", None),
            ("x", None),
        ] {
            assert_eq!(Ttl::parse(text.as_bytes()).ok(), ttl, "{text}");
        }
    }

    #[test]
    fn lines_are_appended_to_a_block_or_begin_one() {
        let mut block = Vec::new();
        append(&mut block, "A", 1);
        append(&mut block, "B", "x");
        assert_eq!(block, b"NATS/1.0\r\nA: 1\r\nB: x\r\n\r\n");
        append(&mut block, "AB", "y");
        let mut nonsense = b"\r".to_vec();
        append(&mut nonsense, "A", 1);
        assert_eq!(nonsense, b"NATS/1.0\r\nA: 1\r\n\r\n");
        assert_eq!(without(&block, &["B"]), b"NATS/1.0\r\nA: 1\r\nAB: y\r\n\r\n");
        assert_eq!(without(&block, &["A", "B"]), b"");
        assert_eq!(without(b"", &["A"]), b"");
        set(&mut block, "A", "2");
        set(&mut block, "C", "3");
        assert_eq!(block, b"NATS/1.0\r\nA: 2\r\nB: x\r\nAB: y\r\nC: 3\r\n\r\n");
        assert_eq!(with_ttl(b"NATS/1.0\r\nNats-TTL: 2\r\n\r\n", 10), b"NATS/1.0\r\nNats-TTL: 10\r\n\r\n");
        assert_eq!(status("404 No Messages"), b"NATS/1.0 404 No Messages\r\n\r\n");
    }
}
