//! What clients send: read by the server, written by test clients and load generators.

use super::{Args, Limits, Parsed, ProtocolError, body_end, find_blank, is_blank, parse_size};
use crate::op::{ClientOp, Publish};

type Outcome<'a> = Result<Parsed<ClientOp<'a>>, ProtocolError>;

/// Verbs of three letters or more and what follows them.
const VERBS: [(&[u8], Verb); 10] = [
    (b"PUB", Verb::Pub),
    (b"HPUB", Verb::HPub),
    (b"SUB", Verb::Sub),
    (b"UNSUB", Verb::Unsub),
    (b"PING", Verb::Ping),
    (b"PONG", Verb::Pong),
    (b"CONNECT", Verb::Connect),
    (b"INFO", Verb::Ignored),
    (b"+OK", Verb::Ignored),
    (b"-ERR", Verb::Err),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Pub,
    HPub,
    Sub,
    Unsub,
    Ping,
    Pong,
    Connect,
    Err,
    Ignored,
}

impl Verb {
    /// Whether a blank must follow. The others match as prefixes: `PINGxyz` is a ping (nats-server parser.go).
    fn wants_blank(self) -> bool {
        matches!(self, Verb::Pub | Verb::HPub | Verb::Sub | Verb::Unsub)
    }
}

/// Parses the operation at the front of `buf`.
///
/// Verbs are case-insensitive, arguments are separated by any run of blanks and tabs, the CR of a control line is
/// optional; a body must be followed by exactly CR LF.
///
/// # Errors
/// [`ProtocolError`]: the connection must be closed; operations before this one stand.
pub fn parse_client<'a>(buf: &'a [u8], limits: &Limits) -> Outcome<'a> {
    // The hot path: `PUB <subject> [reply] <size>` in upper case with the whole frame at hand.
    if let Some((publish, consumed)) = plain_publish(buf, limits) {
        return Ok(Parsed::Op { op: ClientOp::Pub(publish), consumed });
    }
    if buf.starts_with(b"PUB ") {
        return match line_end(buf, 4, limits)? {
            Some(end) => publish(buf, &buf[4..end], end + 1, false, limits),
            None => Ok(Parsed::Incomplete { needed: buf.len() + 1 }),
        };
    }
    let Some((verb, name_len)) = verb_of(buf)? else {
        return Ok(Parsed::Incomplete { needed: buf.len() + 1 });
    };
    let Some(end) = line_end(buf, name_len, limits)? else {
        return Ok(Parsed::Incomplete { needed: buf.len() + 1 });
    };
    let line = &buf[name_len..end];
    let op = match verb {
        Verb::Pub => return publish(buf, line, end + 1, false, limits),
        Verb::HPub => return publish(buf, line, end + 1, true, limits),
        Verb::Sub => match Args::split(line).as_slice() {
            [filter, sid] => ClientOp::Sub { filter, queue: None, sid },
            [filter, queue, sid] => ClientOp::Sub { filter, queue: Some(queue), sid },
            _ => return Err(ProtocolError::Arguments { verb: "SUB" }),
        },
        Verb::Unsub => match Args::split(line).as_slice() {
            [sid] => ClientOp::Unsub { sid, max: None },
            // A maximum that is no positive number ends the subscription at once (client.go processUnsub).
            [sid, max] => {
                ClientOp::Unsub { sid, max: parse_size(max).filter(|max| *max > 0).map(|max| max as u64) }
            }
            _ => return Err(ProtocolError::Arguments { verb: "UNSUB" }),
        },
        Verb::Ping => ClientOp::Ping,
        Verb::Pong => ClientOp::Pong,
        Verb::Connect => ClientOp::Connect(line.trim_ascii()),
        Verb::Err => ClientOp::Err(line.trim_ascii()),
        Verb::Ignored => ClientOp::Ignored,
    };
    Ok(Parsed::Op { op, consumed: end + 1 })
}

/// A whole `PUB` without a reply, spaced the way clients do, in one pass. Everything else, and everything doubtful, is
/// for the careful way.
#[inline]
fn plain_publish<'a>(buf: &'a [u8], limits: &Limits) -> Option<(Publish<'a>, usize)> {
    let args = buf.strip_prefix(b"PUB ")?;
    let subject_len = find_blank(args)?;
    let (subject, rest) = args.split_at(subject_len);
    let digits = rest.strip_prefix(b" ")?;
    let (mut size, mut digits_len) = (0, 0);
    while let Some(digit) =
        digits.get(digits_len).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
    {
        size = size * 10 + usize::from(digit);
        digits_len += 1;
        // A size has nine digits at most.
        if digits_len > 9 {
            return None;
        }
    }
    let body_crlf = digits.get(digits_len..)?.strip_prefix(b"\r\n")?.get(..size + 2)?;
    let is_plain = subject_len > 0
        && digits_len > 0
        && subject_len + 1 + digits_len <= limits.control_line_bytes_max
        && size <= limits.payload_bytes_max;
    let body = body_crlf.strip_suffix(b"\r\n").filter(|_| is_plain)?;
    let consumed = b"PUB ".len() + subject_len + 1 + digits_len + 2 + body_crlf.len();
    Some((Publish { subject, reply: None, header_len: None, body, body_crlf }, consumed))
}

/// The verb at the front; `None` if more bytes must decide. A byte that fits no verb is an error at once: garbage
/// without a line end must not be waited for.
fn verb_of(buf: &[u8]) -> Result<Option<(Verb, usize)>, ProtocolError> {
    let mut undecided = false;
    for (name, verb) in VERBS {
        let have = buf.len().min(name.len());
        if !buf[..have].eq_ignore_ascii_case(&name[..have]) {
            continue;
        }
        match buf.get(name.len()) {
            None => undecided = true,
            Some(next) if verb.wants_blank() && !matches!(next, b' ' | b'\t') => {}
            Some(_) => return Ok(Some((verb, name.len()))),
        }
    }
    if undecided { Ok(None) } else { Err(ProtocolError::UnknownOperation) }
}

/// Index of the LF that ends the control line whose arguments begin at `start`.
fn line_end(buf: &[u8], start: usize, limits: &Limits) -> Result<Option<usize>, ProtocolError> {
    // One blank before the arguments and CR LF behind them do not count.
    let longest = start + limits.control_line_bytes_max + 3;
    let window = &buf[..buf.len().min(longest)];
    match memchr::memchr(b'\n', &window[start..]) {
        Some(at) => Ok(Some(start + at)),
        None if window.len() == longest => {
            Err(ProtocolError::ControlLineTooLong { limit: limits.control_line_bytes_max })
        }
        None => Ok(None),
    }
}

fn publish<'a>(
    buf: &'a [u8],
    line: &'a [u8],
    start: usize,
    with_headers: bool,
    limits: &Limits,
) -> Outcome<'a> {
    let verb = if with_headers { "HPUB" } else { "PUB" };
    let bad = ProtocolError::Arguments { verb };
    let (subject, reply, header_len, size) = if with_headers {
        match Args::split(line).as_slice() {
            [subject, header, size] => (*subject, None, Some(parse_size(header).ok_or(bad)?), *size),
            [subject, reply, header, size] => {
                (*subject, Some(*reply), Some(parse_size(header).ok_or(bad)?), *size)
            }
            _ => return Err(bad),
        }
    } else {
        let (subject, rest) = next_arg(line).ok_or(bad)?;
        let (second, rest) = next_arg(rest).ok_or(bad)?;
        match next_arg(rest) {
            None => (subject, None, None, second),
            Some((size, rest)) if next_arg(rest).is_none() => (subject, Some(second), None, size),
            Some(_) => return Err(bad),
        }
    };
    let size = parse_size(size).ok_or(bad)?;
    if header_len.is_some_and(|header_len| header_len > size) {
        return Err(bad);
    }
    if size > limits.payload_bytes_max {
        return Err(ProtocolError::PayloadTooLarge { size, limit: limits.payload_bytes_max });
    }
    Ok(match body_end(buf, start, size)? {
        Ok(end) => Parsed::Op {
            op: ClientOp::Pub(Publish {
                subject,
                reply,
                header_len,
                body: &buf[start..end - 2],
                body_crlf: &buf[start..end],
            }),
            consumed: end,
        },
        Err(needed) => Parsed::Incomplete { needed },
    })
}

/// What stands behind the subject in the `frame` that `publish` was parsed from, if it stands in `MSG` or `HMSG` just
/// so: reply, sizes, line end, headers, payload, line end. Delivering then copies one piece instead of many.
///
/// `None` if the client wrote it otherwise than a server would: more blanks than needed, leading zeros, no CR.
pub fn tail_of<'a>(frame: &'a [u8], publish: &Publish<'_>) -> Option<&'a [u8]> {
    let verb_len = if publish.header_len.is_some() { b"HPUB ".len() } else { b"PUB ".len() };
    let args_at = verb_len + publish.subject.len();
    let body_at = frame.len().checked_sub(publish.body_crlf.len())?;
    let reply_len = publish.reply.map_or(0, |reply| reply.len() + 1);
    let header_len = publish.header_len.map_or(0, |len| decimal_len(len) + 1);
    // Every argument is at least so long and has a blank before it: if all of it fits, there is nothing more.
    let fits = args_at + 1 + reply_len + header_len + decimal_len(publish.body.len()) + 2 == body_at;
    let line = frame.get(args_at..body_at)?;
    let is_plain = fits
        && line.ends_with(b"\r\n")
        && line[0] == b' '
        && (reply_len == 0 || line[reply_len] == b' ')
        && (header_len == 0 || line[reply_len + header_len] == b' ');
    is_plain.then(|| &frame[args_at + 1..])
}

/// Digits of a size: at most nine, see [`parse_size`].
fn decimal_len(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The next argument of `line` and what is behind it.
fn next_arg(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let begin = line.iter().position(|byte| !is_blank(*byte))?;
    let line = &line[begin..];
    let end = line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len());
    Some(line.split_at(end))
}

/// Appends `op` as bytes, the way a client would send it.
pub fn write_client(out: &mut Vec<u8>, op: &ClientOp<'_>) {
    match op {
        ClientOp::Connect(json) => line(out, &[b"CONNECT", json]),
        ClientOp::Ping => line(out, &[b"PING"]),
        ClientOp::Pong => line(out, &[b"PONG"]),
        ClientOp::Err(text) => line(out, &[b"-ERR", text]),
        ClientOp::Ignored => line(out, &[b"+OK"]),
        ClientOp::Sub { filter, queue: None, sid } => line(out, &[b"SUB", filter, sid]),
        ClientOp::Sub { filter, queue: Some(queue), sid } => line(out, &[b"SUB", filter, queue, sid]),
        ClientOp::Unsub { sid, max: None } => line(out, &[b"UNSUB", sid]),
        ClientOp::Unsub { sid, max: Some(max) } => line(out, &[b"UNSUB", sid, max.to_string().as_bytes()]),
        ClientOp::Pub(publish) => {
            let header_len = publish.header_len.map(|len| len.to_string());
            let size = publish.body.len().to_string();
            let verb: &[u8] = if header_len.is_some() { b"HPUB" } else { b"PUB" };
            let mut parts = vec![verb, publish.subject];
            parts.extend(publish.reply);
            parts.extend(header_len.as_ref().map(String::as_bytes));
            parts.push(size.as_bytes());
            line(out, &parts);
            out.extend_from_slice(publish.body);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(frame: &[u8]) -> Option<&[u8]> {
        match parse_client(frame, &Limits::default()) {
            Ok(Parsed::Op { op: ClientOp::Pub(publish), consumed }) if consumed == frame.len() => {
                tail_of(frame, &publish)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_server_would_write_is_taken_as_it_stands() {
        for (frame, expected) in [
            (&b"PUB a 2\r\nhi\r\n"[..], &b"2\r\nhi\r\n"[..]),
            (b"pub a.b _R 10\r\n0123456789\r\n", b"_R 10\r\n0123456789\r\n"),
            (b"PUB a 0\r\n\r\n", b"0\r\n\r\n"),
            (b"HPUB a 2 4\r\nhhpp\r\n", b"2 4\r\nhhpp\r\n"),
            (b"HPUB a r 0 4\r\nhhpp\r\n", b"r 0 4\r\nhhpp\r\n"),
        ] {
            assert_eq!(tail(frame), Some(expected), "{}", frame.escape_ascii());
        }
    }

    #[test]
    fn whatever_is_written_otherwise_is_not() {
        for frame in [
            &b"PUB  a 2\r\nhi\r\n"[..],
            b"PUB a  2\r\nhi\r\n",
            b"PUB a\t2\r\nhi\r\n",
            b"PUB a 2 \r\nhi\r\n",
            b"PUB a 02\r\nhi\r\n",
            b"PUB a 2\nhi\r\n",
            b"PUB a 2 \nhi\r\n",
            b"PUB  a 2\nhi\r\n",
            b"PUB a r\t2\r\nhi\r\n",
            b"HPUB a 2\t4\r\nhhpp\r\n",
            b"HPUB a r 02 4\nhhpp\r\n",
            b"HPUB a 2  4\nhhpp\r\n",
        ] {
            assert_eq!(tail(frame), None, "{}", frame.escape_ascii());
        }
    }
}
