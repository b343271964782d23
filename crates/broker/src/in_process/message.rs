//! A message as a subscriber gets it: a slice of the buffer it arrived in.

use std::fmt;

use bytes::Bytes;
use ostler_broker_proto::headers::HeaderBlock;

use super::frame::Frame;

/// A delivered message. Cheap to clone: the bytes are shared.
///
/// It keeps alive the buffer it arrived in (some tens of KiB, with the messages around it): who keeps messages for long
/// copies what it needs.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    frame: Frame,
}

impl Message {
    #[inline]
    pub(super) fn new(run: &Bytes, frame: Frame) -> Self {
        let start = frame.start as usize;
        Self { bytes: run.slice(start..start + frame.len as usize), frame }
    }

    /// The subject it was published to. Bytes, because NATS does not say that subjects are text; see
    /// [`subject_str`](Self::subject_str).
    pub fn subject(&self) -> &[u8] {
        self.frame.subject.of(&self.bytes)
    }

    /// The subject as text; what is not UTF-8 in it is replaced.
    pub fn subject_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.subject())
    }

    /// Where an answer is expected.
    pub fn reply(&self) -> Option<&[u8]> {
        Some(self.frame.reply.of(&self.bytes)).filter(|reply| !reply.is_empty())
    }

    /// The header block as it came, empty for a message without headers.
    pub fn headers(&self) -> &[u8] {
        self.frame.headers.of(&self.bytes)
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
        self.frame.payload.of(&self.bytes)
    }

    /// The payload as bytes of one's own, without a copy.
    pub fn payload_bytes(&self) -> Bytes {
        self.bytes.slice_ref(self.payload())
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
