//! What servers send: written by the server, read by test clients and load generators.

use super::{Args, Parsed, ProtocolError, body_end, parse_size};
use crate::op::{Message, ServerOp};

/// A number as decimal digits on the stack: message sizes are written once per delivery, without the formatter.
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    digits: [u8; 20],
    start: u8,
}

impl Decimal {
    /// The digits of `number`.
    pub fn new(mut number: usize) -> Self {
        // 20 digits hold any 64 bit number.
        let mut digits = [b'0'; 20];
        let mut start = 20;
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start: start as u8 };
            }
        }
    }

    /// The digits without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[usize::from(self.start)..]
    }
}

/// Appends `INFO {json} `, with the blank before the line end that nats-server sends.
pub fn write_info(out: &mut Vec<u8>, json: &[u8]) {
    for part in [b"INFO ", json, b" \r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends `-ERR 'text'`.
pub fn write_err(out: &mut Vec<u8>, text: &str) {
    for part in [b"-ERR '", text.as_bytes(), b"'\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends `MSG`, or `HMSG` if there are headers.
pub fn write_message(out: &mut Vec<u8>, message: &Message<'_>) {
    let with_headers = !message.headers.is_empty();
    out.extend_from_slice(if with_headers { b"HMSG " } else { b"MSG " });
    out.extend_from_slice(message.subject);
    out.push(b' ');
    out.extend_from_slice(message.sid);
    out.push(b' ');
    if let Some(reply) = message.reply {
        out.extend_from_slice(reply);
        out.push(b' ');
    }
    if with_headers {
        out.extend_from_slice(Decimal::new(message.headers.len()).as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(Decimal::new(message.headers.len() + message.payload.len()).as_bytes());
    for part in [b"\r\n", message.headers, message.payload, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends `op` as bytes.
pub fn write_server(out: &mut Vec<u8>, op: &ServerOp<'_>) {
    match op {
        ServerOp::Info(json) => write_info(out, json),
        ServerOp::Ping => out.extend_from_slice(b"PING\r\n"),
        ServerOp::Pong => out.extend_from_slice(b"PONG\r\n"),
        ServerOp::Ok => out.extend_from_slice(b"+OK\r\n"),
        ServerOp::Err(text) => write_err(out, &String::from_utf8_lossy(text)),
        ServerOp::Msg(message) => write_message(out, message),
    }
}

/// Parses the operation at the front of `buf`. A client trusts its server: no limits apply.
///
/// # Errors
/// [`ProtocolError`]: these bytes are not from a NATS server.
pub fn parse_server(buf: &[u8]) -> Result<Parsed<ServerOp<'_>>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return Ok(Parsed::Incomplete { needed: buf.len() + 1 });
    };
    let line = buf[..end].trim_ascii_end();
    let (verb, rest) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(line.len()));
    let op = match verb {
        b"MSG" | b"HMSG" => return message(buf, rest, end + 1, verb == b"HMSG"),
        b"INFO" => ServerOp::Info(rest.trim_ascii()),
        b"PING" => ServerOp::Ping,
        b"PONG" => ServerOp::Pong,
        b"+OK" => ServerOp::Ok,
        b"-ERR" => {
            let text = rest.trim_ascii();
            ServerOp::Err(text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or(text))
        }
        _ => return Err(ProtocolError::UnknownOperation),
    };
    Ok(Parsed::Op { op, consumed: end + 1 })
}

fn message<'a>(
    buf: &'a [u8],
    args: &'a [u8],
    start: usize,
    with_headers: bool,
) -> Result<Parsed<ServerOp<'a>>, ProtocolError> {
    let bad = ProtocolError::Arguments { verb: if with_headers { "HMSG" } else { "MSG" } };
    let (subject, sid, reply, header_len, size) = match (with_headers, Args::split(args).as_slice()) {
        (false, [subject, sid, size]) => (*subject, *sid, None, 0, *size),
        (false, [subject, sid, reply, size]) => (*subject, *sid, Some(*reply), 0, *size),
        (true, [subject, sid, header, size]) => (*subject, *sid, None, parse_size(header).ok_or(bad)?, *size),
        (true, [subject, sid, reply, header, size]) => {
            (*subject, *sid, Some(*reply), parse_size(header).ok_or(bad)?, *size)
        }
        _ => return Err(bad),
    };
    let size = parse_size(size).filter(|size| *size >= header_len).ok_or(bad)?;
    Ok(match body_end(buf, start, size)? {
        Ok(end) => Parsed::Op {
            op: ServerOp::Msg(Message {
                subject,
                sid,
                reply,
                headers: &buf[start..start + header_len],
                payload: &buf[start + header_len..end - 2],
            }),
            consumed: end,
        },
        Err(needed) => Parsed::Incomplete { needed },
    })
}
