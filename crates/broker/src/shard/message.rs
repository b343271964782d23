//! A message on its way, borrowed from wherever it was read.

use bytes::Bytes;

use super::verdicts::Hashed;

/// What a delivery needs to know of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Msg<'a> {
    pub(crate) subject: Hashed<'a>,
    /// Whom it is for, where that is not its subject: a stream gives out messages under the subject they came on.
    pub(crate) to: Option<&'a [u8]>,
    pub(crate) reply: Option<&'a [u8]>,
    /// Length of the header block at the front of the body; `None` for a message without headers.
    pub(crate) header_len: Option<usize>,
    /// Headers, payload and the line end: forwarding copies it in one piece.
    pub(crate) body_crlf: &'a [u8],
    /// All that follows the subject and the sid in `MSG` or `HMSG`, if it came in one piece; ends with `body_crlf`.
    pub(crate) tail: Option<&'a [u8]>,
    /// The buffer that owns `body_crlf`, if it is a large frame of its own: subscribers then share it uncopied.
    pub(crate) frame: Option<&'a Bytes>,
}
