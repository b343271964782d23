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
    fn broken_blocks_are_refused_with_the_reason() {
        assert_eq!(HeaderBlock::parse(b"HTTP/1.0\r\n\r\n").unwrap_err(), InvalidHeaders::Version);
        assert_eq!(HeaderBlock::parse(b"NATS/1.0\r\nA: 1\r\n").unwrap_err(), InvalidHeaders::Unterminated);
        assert_eq!(HeaderBlock::parse(b"NATS/1.0\r\nno colon\r\n\r\n").unwrap_err(), InvalidHeaders::Line);
    }
}
