//! A message as a subscriber gets it: a slice of the buffer it arrived in.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use ostler_broker_proto::Message as Parsed;
use ostler_broker_proto::headers::HeaderBlock;

/// A delivered message. Cheap to clone: the bytes are shared.
///
/// It keeps alive the buffer it arrived in (some tens of KiB, with the messages around it): who keeps messages for long
/// copies what it needs.
#[derive(Clone)]
pub struct Message {
    frame: Bytes,
    subject: Range<u32>,
    reply: Option<Range<u32>>,
    headers: Range<u32>,
    payload: Range<u32>,
}

impl Message {
    /// `parsed` lies in `run`, from `start` on, and takes `len` bytes there.
    pub(super) fn new(run: &Bytes, start: usize, len: usize, parsed: &Parsed<'_>) -> Self {
        let base = run.as_ptr() as usize + start;
        // A frame is at most a control line and a payload of nine digits: 32 bits hold every place in it.
        let range = |part: &[u8]| {
            let from = (part.as_ptr() as usize - base) as u32;
            from..from + part.len() as u32
        };
        Self {
            subject: range(parsed.subject),
            reply: parsed.reply.map(range),
            headers: range(parsed.headers),
            payload: range(parsed.payload),
            frame: run.slice(start..start + len),
        }
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        &self.frame[range.start as usize..range.end as usize]
    }

    /// The subject it was published to. Bytes, because NATS does not say that subjects are text; see
    /// [`subject_str`](Self::subject_str).
    pub fn subject(&self) -> &[u8] {
        self.part(&self.subject)
    }

    /// The subject as text; what is not UTF-8 in it is replaced.
    pub fn subject_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.subject())
    }

    /// Where an answer is expected.
    pub fn reply(&self) -> Option<&[u8]> {
        self.reply.as_ref().map(|range| self.part(range))
    }

    /// The header block as it came, empty for a message without headers.
    pub fn headers(&self) -> &[u8] {
        self.part(&self.headers)
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        HeaderBlock::parse(self.headers()).ok()?.get(name)
    }

    /// The status code that a server's own answers carry in their headers, as 503 for "nobody listens".
    pub fn status(&self) -> Option<u16> {
        HeaderBlock::parse(self.headers()).ok()?.status()
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.part(&self.payload)
    }

    /// The payload as bytes of one's own, without a copy.
    pub fn payload_bytes(&self) -> Bytes {
        self.frame.slice(self.payload.start as usize..self.payload.end as usize)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("subject", &self.subject_str())
            .field("reply", &self.reply().map(String::from_utf8_lossy))
            .field("headers", &self.headers().len())
            .field("payload", &self.payload().len())
            .finish()
    }
}
