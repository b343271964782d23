//! Where the parts of a delivered message lie in the bytes it came in: found once, by the connection's reader.

use bytes::Bytes;
use ostler_broker_proto::codec::find_blank;
use ostler_broker_proto::{Parsed, ProtocolError, ServerOp, parse_server};

/// Whole messages for one subscription: the bytes, and where each lies in them.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) bytes: Bytes,
    pub(super) frames: Vec<Frame>,
}

/// One message. Places count from the first byte of its run; a run is at most a buffer of the server's and a payload
/// of nine digits, so 32 bits hold them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) subject: Part,
    /// Empty for none.
    pub(super) reply: Part,
    pub(super) headers: Part,
    pub(super) payload: Part,
}

/// A part of a frame, counted from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Part {
    fn new(at: usize, len: usize) -> Self {
        Self { at: at as u32, len: len as u32 }
    }

    pub(super) fn of(self, frame: &[u8]) -> &[u8] {
        &frame[self.at as usize..][..self.len as usize]
    }
}

/// What stands at the front of some bytes.
pub(super) enum Found<'a> {
    /// A message for the subscription of this number, if it is one of ours.
    Message(Option<u64>, Frame),
    /// Something else, of so many bytes.
    Word(ServerOp<'a>, usize),
    /// Nothing whole: so many bytes are needed at least.
    Part(usize),
}

/// Looks at the front of `buf`. For what [`plain_message`] does not find. The frame starts at 0.
pub(super) fn find(buf: &[u8]) -> Result<Found<'_>, ProtocolError> {
    Ok(match parse_server(buf)? {
        Parsed::Op { op: ServerOp::Msg(message), consumed } => {
            let part = |bytes: &[u8]| Part::new(bytes.as_ptr() as usize - buf.as_ptr() as usize, bytes.len());
            let none = Part::new(0, 0);
            let frame = Frame {
                start: 0,
                len: consumed as u32,
                subject: part(message.subject),
                reply: message.reply.map_or(none, part),
                headers: part(message.headers),
                payload: part(message.payload),
            };
            Found::Message(std::str::from_utf8(message.sid).ok().and_then(|sid| sid.parse().ok()), frame)
        }
        Parsed::Op { op, consumed } => Found::Word(op, consumed),
        Parsed::Incomplete { needed } => Found::Part(needed),
    })
}

/// A whole `MSG` for the subscription of this number, spaced the way our server does; the frame starts at 0. Everything
/// else, and everything doubtful, is for the real parser.
#[inline]
pub(super) fn plain_message(buf: &[u8]) -> Option<(u64, Frame)> {
    let subject_len = find_blank(buf.strip_prefix(b"MSG ")?)?;
    let (sid, at) = number(buf, 4 + subject_len)?;
    if buf.get(at) != Some(&b' ') {
        return None;
    }
    // Either the size, or the reply and then the size.
    let (reply, size, line_end) = match number(buf, at) {
        Some((size, end)) if buf.get(end) == Some(&b'\r') => (Part::new(0, 0), size, end),
        _ => {
            let len = find_blank(&buf[at + 1..])?;
            let (size, end) = number(buf, at + 1 + len)?;
            (Part::new(at + 1, len), size, end)
        }
    };
    let body = line_end + 2;
    let end = body.checked_add(usize::try_from(size).ok()?)?;
    if buf.get(line_end..body)? != b"\r\n" || buf.get(end..end.checked_add(2)?)? != b"\r\n" {
        return None;
    }
    let frame = Frame {
        start: 0,
        len: (end + 2) as u32,
        subject: Part::new(4, subject_len),
        reply,
        headers: Part::new(body, 0),
        payload: Part::new(body, end - body),
    };
    Some((sid, frame))
}

/// Digits behind a blank at `at`; where they end.
#[inline]
fn number(buf: &[u8], at: usize) -> Option<(u64, usize)> {
    if buf.get(at) != Some(&b' ') {
        return None;
    }
    let mut number = 0_u64;
    let mut end = at + 1;
    while let Some(digit) = buf.get(end).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number * 10 + u64::from(digit);
        end += 1;
        // Nine digits are the most a size may have, and more subscriptions than that nobody makes.
        if end - at > 18 {
            return None;
        }
    }
    (end > at + 1).then_some((number, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(bytes: &[u8], frame: Frame) -> [Vec<u8>; 4] {
        [frame.subject, frame.reply, frame.headers, frame.payload].map(|part| part.of(bytes).to_vec())
    }

    #[test]
    fn the_short_way_finds_what_the_parser_finds() {
        for text in [
            "MSG a.b 7 0\r\n\r\n",
            "MSG a 12 5\r\nhello\r\n",
            "MSG a 3 inbox.1 2\r\nhi\r\n",
            "MSG a 3 42 2\r\nhi\r\n",
        ] {
            let bytes = text.as_bytes();
            let (sid, frame) = plain_message(bytes).expect(text);
            let Ok(Parsed::Op { op: ServerOp::Msg(message), consumed }) = parse_server(bytes) else {
                panic!("{text}");
            };
            let expected =
                [message.subject, message.reply.unwrap_or_default(), message.headers, message.payload];
            assert_eq!(parts(bytes, frame), expected.map(<[u8]>::to_vec), "{text}");
            assert_eq!((sid.to_string().as_bytes(), frame.len as usize), (message.sid, consumed));
        }
    }

    #[test]
    fn whatever_is_not_whole_or_not_plain_is_left_to_the_parser() {
        let whole = b"MSG a 3 inbox 5\r\nhello\r\n";
        for len in 0..whole.len() {
            assert!(plain_message(&whole[..len]).is_none(), "{len}");
            assert!(matches!(find(&whole[..len]), Ok(Found::Part(_))), "{len}");
        }
        for text in [
            "HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
            "MSG  a  7 0 \r\n\r\n",
            "PING\r\n",
            "MSG a b 0\r\n\r\n",
        ] {
            assert!(plain_message(text.as_bytes()).is_none(), "{text}");
            assert!(matches!(find(text.as_bytes()), Ok(Found::Message(..) | Found::Word(..))), "{text}");
        }
        assert!(find(b"MSG a 1 2\r\nhello\r\n").is_err(), "the payload is longer than it says");
    }
}
