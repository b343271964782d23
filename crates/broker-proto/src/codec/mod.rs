//! Bytes to operations and back. Reading is a function of a buffer that begins at a frame border; it keeps no state
//! and copies nothing. What an operation *does* is the server's business.
//!
//! ```text
//!            parse                 consumed bytes
//! [buffer] --------> Op { op, consumed } ----------> parse the rest
//!              |---> Incomplete { needed }           read until that many bytes are there, parse again
//!              `---> Err(ProtocolError)              the connection is over
//! ```
//!
//! `needed` makes a large payload cheap: once the control line was read, the frame is parsed a second time only when
//! all of it has arrived.

mod client;
mod server;

pub use client::{parse_client, tail_of, write_client};
pub use server::{Decimal, parse_server, write_err, write_info, write_message, write_server};

/// What a server accepts. A frame beyond a limit is refused as soon as its control line shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of headers and payload together. Default 1 MiB, as nats-server.
    pub payload_bytes_max: usize,
    /// Bytes of the arguments of one control line. Default 4096, as nats-server: longer than any sensible subject,
    /// short enough that an endless line costs nothing.
    pub control_line_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload_bytes_max: 1 << 20, control_line_bytes_max: 4096 }
    }
}

/// The outcome of parsing the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<T> {
    /// One whole operation.
    Op {
        /// The operation.
        op: T,
        /// How many bytes of the buffer it took.
        consumed: usize,
    },
    /// The buffer ends inside a frame.
    Incomplete {
        /// The frame is at least this long, counted from the front of the buffer; always more than the buffer holds.
        needed: usize,
    },
}

/// Why a connection cannot go on. Every variant ends it; [`message`](Self::message) says with which words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes begin no operation, or a payload is not followed by CR LF.
    #[error("unknown protocol operation")]
    UnknownOperation,
    /// The control line is longer than [`Limits::control_line_bytes_max`].
    #[error("control line longer than {limit} bytes")]
    ControlLineTooLong {
        /// The limit that was passed.
        limit: usize,
    },
    /// The announced body is larger than [`Limits::payload_bytes_max`]; the body was not waited for.
    #[error("payload of {size} bytes is larger than {limit}")]
    PayloadTooLarge {
        /// What the client announced.
        size: usize,
        /// The limit that was passed.
        limit: usize,
    },
    /// A wrong number of arguments or a size that is no number.
    #[error("bad arguments for {verb}")]
    Arguments {
        /// The operation.
        verb: &'static str,
    },
}

impl ProtocolError {
    /// What `-ERR` says before the connection closes; `None` closes without a word, as nats-server does for bad
    /// arguments.
    pub fn message(&self) -> Option<&'static str> {
        match self {
            Self::UnknownOperation => Some("Unknown Protocol Operation"),
            Self::ControlLineTooLong { .. } => Some("maximum control line exceeded"),
            Self::PayloadTooLarge { .. } => Some("Maximum Payload Violation"),
            Self::Arguments { .. } => None,
        }
    }
}

/// Arguments of one line; one more slot than any verb takes, so that "too many" is seen.
struct Args<'a> {
    parts: [&'a [u8]; 6],
    len: usize,
}

impl<'a> Args<'a> {
    fn split(line: &'a [u8]) -> Self {
        let mut args = Args { parts: [&[]; 6], len: 0 };
        for part in line.split(|byte| is_blank(*byte)).filter(|part| !part.is_empty()) {
            if args.len == args.parts.len() {
                break;
            }
            args.parts[args.len] = part;
            args.len += 1;
        }
        args
    }

    fn as_slice(&self) -> &[&'a [u8]] {
        &self.parts[..self.len]
    }
}

/// Separators of arguments; CR counts, which makes it optional before LF on control lines.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// Where the first byte is that no subject has: a blank or a control character. Looks at eight bytes at a time.
#[inline]
pub fn find_blank(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        if let Some(offset) = find_blank_in(*chunk) {
            return Some(at + offset);
        }
        at += 8;
    }
    match bytes.last_chunk() {
        // Overlaps what was looked at, where none is.
        Some(chunk) => find_blank_in(*chunk).map(|offset| bytes.len() - 8 + offset),
        None => bytes.iter().position(|byte| *byte <= b' '),
    }
}

#[inline]
fn find_blank_in(chunk: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let word = u64::from_le_bytes(chunk);
    // The top bit of each byte below 0x21: only those borrow, and a borrow disturbs none before the first of them.
    let found = word.wrapping_sub(ONES * 0x21) & !word & (ONES << 7);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// A decimal of at most nine digits, as nats-server reads sizes: no sign, no blank.
fn parse_size(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0usize, |size, digit| match digit {
        b'0'..=b'9' => Some(size * 10 + usize::from(digit - b'0')),
        _ => None,
    })
}

/// Looks at `\r\n` behind a body of `size` bytes that begins at `start`.
///
/// Returns the end of the whole frame, or how many bytes it needs.
fn body_end(buf: &[u8], start: usize, size: usize) -> Result<Result<usize, usize>, ProtocolError> {
    let end = start + size + 2;
    if buf.len() < end {
        return Ok(Err(end));
    }
    if &buf[end - 2..end] != b"\r\n" {
        return Err(ProtocolError::UnknownOperation);
    }
    Ok(Ok(end))
}
