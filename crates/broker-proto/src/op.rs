//! The operations that travel, borrowed from the buffer they were parsed from. How they look as bytes is
//! [`codec`](crate::codec)'s business.

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientOp<'a> {
    /// `CONNECT {json}`: the first thing a client says, its options and credentials. The JSON is not looked at here.
    Connect(&'a [u8]),
    /// `PING`: keep-alive and the client's way to flush; answered by `PONG`.
    Ping,
    /// `PONG`: the answer to the server's `PING`.
    Pong,
    /// `PUB` or `HPUB`.
    Pub(Publish<'a>),
    /// `SUB filter [queue] sid`.
    Sub {
        /// The filter, not yet checked: an invalid one is an error message, not a broken connection.
        filter: &'a [u8],
        /// The queue group, if any: one member of it gets each message.
        queue: Option<&'a [u8]>,
        /// The client's own name for the subscription, repeated in each `MSG`.
        sid: &'a [u8],
    },
    /// `UNSUB sid [max]`.
    Unsub {
        /// The subscription.
        sid: &'a [u8],
        /// Ends the subscription after this many deliveries since it began; at once if absent.
        max: Option<u64>,
    },
    /// `-ERR 'text'`: the client gives up; nats-server hangs up on it.
    Err(&'a [u8]),
    /// `INFO` or `+OK`: legal from a client, without a meaning.
    Ignored,
}

/// A published message, in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The subject, not checked.
    pub subject: &'a [u8],
    /// Where an answer is expected.
    pub reply: Option<&'a [u8]>,
    /// Announced length of the header block at the front of [`body`](Self::body), never more than the body; `None` for
    /// `PUB`. What stands there is not checked, it may be nothing at all: see
    /// [`headers::check`](crate::headers::check).
    pub header_len: Option<usize>,
    /// Headers and payload in one piece, without the line end.
    pub body: &'a [u8],
    /// [`body`](Self::body) with the two bytes of the line end, so that forwarding copies once.
    pub body_crlf: &'a [u8],
}

impl<'a> Publish<'a> {
    /// The header block, empty for `PUB`.
    pub fn headers(&self) -> &'a [u8] {
        &self.body[..self.header_len.unwrap_or(0)]
    }

    /// The payload without headers.
    pub fn payload(&self) -> &'a [u8] {
        &self.body[self.header_len.unwrap_or(0)..]
    }
}

/// What a server sends. Used by clients, tests and load generators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerOp<'a> {
    /// `INFO {json}`: first on every connection, and again when something changed.
    Info(&'a [u8]),
    /// `PING`.
    Ping,
    /// `PONG`.
    Pong,
    /// `+OK`: only to verbose clients.
    Ok,
    /// `-ERR 'text'`, without the quotes.
    Err(&'a [u8]),
    /// `MSG` or `HMSG`.
    Msg(Message<'a>),
}

/// A delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The subject it was published to.
    pub subject: &'a [u8],
    /// Which of the client's subscriptions it is for.
    pub sid: &'a [u8],
    /// Where an answer is expected.
    pub reply: Option<&'a [u8]>,
    /// The header block, empty for `MSG`.
    pub headers: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}
