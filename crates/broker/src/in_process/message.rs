//! A message as a subscriber gets it: a place in the buffer it arrived in.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ostler_broker_proto::headers::HeaderBlock;

use super::frame::{Frame, Part, Run};

/// A delivered message. Cheap to clone: the bytes are shared.
///
/// It keeps alive the buffer it arrived in (some tens of KiB, with the messages around it): who keeps messages for long
/// copies what it needs.
#[derive(Clone)]
pub struct Message {
    run: Arc<Run>,
    /// Its place among the frames of the run. Two words in all: a message is moved a few times until it is read.
    index: u32,
}

impl Message {
    #[inline]
    pub(super) fn new(run: &Arc<Run>, index: usize) -> Self {
        Self { run: Arc::clone(run), index: index as u32 }
    }

    #[inline]
    fn part(&self, choose: impl FnOnce(&Frame) -> Part) -> &[u8] {
        let frame = &self.run.frames[self.index as usize];
        choose(frame).of(&self.run.bytes[frame.start as usize..])
    }

    /// The subject it was published to. Bytes, because NATS does not say that subjects are text; see
    /// [`subject_str`](Self::subject_str).
    pub fn subject(&self) -> &[u8] {
        self.part(|frame| frame.subject)
    }

    /// The subject as text; what is not UTF-8 in it is replaced.
    pub fn subject_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.subject())
    }

    /// Where an answer is expected.
    pub fn reply(&self) -> Option<&[u8]> {
        Some(self.part(|frame| frame.reply)).filter(|reply| !reply.is_empty())
    }

    /// The header block as it came, empty for a message without headers.
    pub fn headers(&self) -> &[u8] {
        self.part(|frame| frame.headers)
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
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.part(|frame| frame.payload)
    }

    /// The payload as bytes of one's own, without a copy.
    pub fn payload_bytes(&self) -> Bytes {
        self.run.bytes.slice_ref(self.payload())
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
