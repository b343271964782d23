//! The header block of `HPUB` and `HMSG`: a version line, `Name: value` lines, an empty line. Servers pass it through
//! untouched; this module only reads it when asked to and builds the few blocks a server itself sends.

/// The version every block begins with.
pub const VERSION: &[u8] = b"NATS/1.0";
/// Header that carries the subject nobody listened on.
pub const SUBJECT: &str = "Nats-Subject";

/// Why bytes are not a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaders {
    /// The block does not begin with [`VERSION`].
    #[error("a header block must begin with NATS/1.0")]
    Version,
    /// The block does not end with an empty line.
    #[error("a header block must end with an empty line")]
    Unterminated,
    /// A line has no colon or no name before it.
    #[error("a header line must be `Name: value`")]
    Line,
    /// The version line goes on with something that is no status code.
    #[error("a status must be three digits from 100 on")]
    Status,
    /// CR or LF alone, which some clients take for the end of a line and others do not.
    #[error("a header line must end with CR LF and hold neither")]
    LineBreak,
    /// Bytes between the empty line and the announced end.
    #[error("a header block must end where it was said to end")]
    Trailing,
    /// Clients hand out header values as text.
    #[error("a header block must be UTF-8")]
    NotUtf8,
}

/// A header block that was looked through once; values borrow from it.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBlock<'a> {
    status: &'a [u8],
    lines: &'a [u8],
}

impl<'a> HeaderBlock<'a> {
    /// Checks the shape of `block`.
    ///
    /// # Errors
    /// [`InvalidHeaders`] says which part is not as the protocol wants it.
    pub fn parse(block: &'a [u8]) -> Result<Self, InvalidHeaders> {
        let rest = block.strip_prefix(VERSION).ok_or(InvalidHeaders::Version)?;
        let (status, lines) = split_line(rest).ok_or(InvalidHeaders::Unterminated)?;
        let mut unread = lines;
        loop {
            let (line, after) = split_line(unread).ok_or(InvalidHeaders::Unterminated)?;
            if line.is_empty() {
                let lines = &lines[..lines.len() - unread.len()];
                return Ok(Self { status: status.trim_ascii(), lines });
            }
            if line.iter().position(|&byte| byte == b':').unwrap_or(0) == 0 {
                return Err(InvalidHeaders::Line);
            }
            unread = after;
        }
    }

    /// The status code of the version line, as `503` in `NATS/1.0 503`.
    pub fn status(&self) -> Option<u16> {
        let code = self.status.split(|byte| *byte == b' ').next()?;
        std::str::from_utf8(code).ok()?.parse().ok()
    }

    /// All `(name, value)` pairs in order; a name may repeat.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut unread = self.lines;
        std::iter::from_fn(move || {
            let (line, after) = split_line(unread)?;
            unread = after;
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }

    /// The first value of `name`; names are case-sensitive, as in nats-server.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }
}

/// Checks that every client can read `block`, and all of them the same way. Linear in its length.
///
/// Stricter than [`HeaderBlock::parse`]: a client that meets a block it cannot read takes its connection for broken.
/// Names are printable ASCII, values UTF-8, no line is folded.
///
/// # Errors
/// [`InvalidHeaders`] names the rule that was broken.
pub fn check(block: &[u8]) -> Result<(), InvalidHeaders> {
    if std::str::from_utf8(block).is_err() {
        return Err(InvalidHeaders::NotUtf8);
    }
    let rest = block.strip_prefix(VERSION).ok_or(InvalidHeaders::Version)?;
    let (status, mut unread) = split_line(rest).ok_or(InvalidHeaders::Unterminated)?;
    check_status(status)?;
    loop {
        let (line, after) = split_line(unread).ok_or(InvalidHeaders::Unterminated)?;
        if line.is_empty() {
            return if after.is_empty() { Ok(()) } else { Err(InvalidHeaders::Trailing) };
        }
        if memchr::memchr2(b'\r', b'\n', line).is_some() {
            return Err(InvalidHeaders::LineBreak);
        }
        let name = &line[..memchr::memchr(b':', line).ok_or(InvalidHeaders::Line)?];
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return Err(InvalidHeaders::Line);
        }
        unread = after;
    }
}

/// What stands behind the version: nothing, or a blank, a status code and perhaps a description.
fn check_status(text: &[u8]) -> Result<(), InvalidHeaders> {
    if memchr::memchr2(b'\r', b'\n', text).is_some() {
        return Err(InvalidHeaders::LineBreak);
    }
    if !matches!(text.first(), None | Some(b' ')) {
        return Err(InvalidHeaders::Version);
    }
    let code = text.trim_ascii().split(|byte| *byte == b' ').next().unwrap_or_default();
    match code {
        [] | [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => Ok(()),
        _ => Err(InvalidHeaders::Status),
    }
}

/// Appends the block that tells a requester that nobody listens on `subject`.
pub fn write_no_responders(out: &mut Vec<u8>, subject: &[u8]) {
    for part in [VERSION, b" 503\r\n", SUBJECT.as_bytes(), b": ", subject, b"\r\n\r\n"] {
        out.extend_from_slice(part);
    }
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memmem::find(bytes, b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_in_order_and_names_repeat() {
        let block = HeaderBlock::parse(b"NATS/1.0\r\nA: 1\r\nB:2\r\nA: 3\r\n\r\n").unwrap();
        let all: Vec<_> = block.iter().collect();
        assert_eq!(all, [(&b"A"[..], &b"1"[..]), (b"B", b"2"), (b"A", b"3")]);
        assert_eq!(block.get("A"), Some(&b"1"[..]));
        assert_eq!(block.get("a"), None);
        assert_eq!(block.status(), None);
    }

    #[test]
    fn no_responders_block_is_32_bytes_and_the_subject() {
        let mut out = Vec::new();
        write_no_responders(&mut out, b"dead.subject");
        assert_eq!(out.len(), 32 + "dead.subject".len());
        let block = HeaderBlock::parse(&out).unwrap();
        assert_eq!(block.status(), Some(503));
        assert_eq!(block.get(SUBJECT), Some(&b"dead.subject"[..]));
    }

    #[test]
    fn what_some_client_could_not_read_is_refused_with_the_reason() {
        for good in [
            "NATS/1.0\r\n\r\n",
            "NATS/1.0 \r\nA:\r\nB-c: d: e\r\n\r\n",
            "NATS/1.0 503\r\n\r\n",
            "NATS/1.0  100 Idle Heartbeat\r\nA: \u{fc}\r\n\r\n",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good:?}");
        }
        let bad: [(&[u8], InvalidHeaders); 15] = [
            (b"", InvalidHeaders::Version),
            (b"NATS/1", InvalidHeaders::Version),
            (b"NATS/1.0503\r\n\r\n", InvalidHeaders::Version),
            (b"NATS/1.0\r\n", InvalidHeaders::Unterminated),
            (b"NATS/1.0\r\nA: 1\r\n", InvalidHeaders::Unterminated),
            (b"NATS/1.0\n\nA: 1\r\n\r\n", InvalidHeaders::LineBreak),
            (b"NATS/1.0\r\nA: 1\nB\r\n\r\n", InvalidHeaders::LineBreak),
            (b"NATS/1.0\r\nA: 1\rB\r\n\r\n", InvalidHeaders::LineBreak),
            (b"NATS/1.0 ok\r\n\r\n", InvalidHeaders::Status),
            (b"NATS/1.0 099\r\n\r\n", InvalidHeaders::Status),
            (b"NATS/1.0 5030\r\n\r\n", InvalidHeaders::Status),
            (b"NATS/1.0\r\n: 1\r\n\r\n", InvalidHeaders::Line),
            (b"NATS/1.0\r\nA b: 1\r\n\r\n", InvalidHeaders::Line),
            (b"NATS/1.0\r\n\r\ntail", InvalidHeaders::Trailing),
            (b"NATS/1.0\r\nA: \xff\r\n\r\n", InvalidHeaders::NotUtf8),
        ];
        for (block, reason) in bad {
            assert_eq!(check(block), Err(reason), "{}", block.escape_ascii());
        }
    }

    #[test]
    fn broken_blocks_are_refused_with_the_reason() {
        assert_eq!(HeaderBlock::parse(b"HTTP/1.0\r\n\r\n").unwrap_err(), InvalidHeaders::Version);
        assert_eq!(HeaderBlock::parse(b"NATS/1.0\r\nA: 1\r\n").unwrap_err(), InvalidHeaders::Unterminated);
        assert_eq!(HeaderBlock::parse(b"NATS/1.0\r\nno colon\r\n\r\n").unwrap_err(), InvalidHeaders::Line);
    }
}
