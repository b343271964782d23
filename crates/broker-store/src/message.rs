//! What goes in and what comes out: a message before and after it has a sequence. No bytes of records here.

/// A message to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMessage<'a> {
    /// Its subject: 1 to 65,535 bytes, not checked further.
    pub subject: &'a [u8],
    /// The header block as it travelled (`NATS/1.0\r\n...`), empty when there is none.
    pub headers: &'a [u8],
    /// The payload, headers excluded.
    pub payload: &'a [u8],
    /// When it was stored: nanoseconds since 1970 in UTC. Usually not before the previous message's.
    pub time_ns: i64,
    /// When it is to go, in the same unit; `None` when only the stream's limits decide.
    pub expires_ns: Option<i64>,
}

impl<'a> NewMessage<'a> {
    /// A message without headers that does not expire by itself.
    pub fn new(subject: &'a [u8], payload: &'a [u8], time_ns: i64) -> Self {
        Self { subject, headers: b"", payload, time_ns, expires_ns: None }
    }
}

/// A stored message, borrowed from the store's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its number in the stream, from 1.
    pub seq: u64,
    /// When it was stored: nanoseconds since 1970 in UTC.
    pub time_ns: i64,
    /// Its subject.
    pub subject: &'a [u8],
    /// Its header block, empty when it has none.
    pub headers: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
    /// When it is to go, if it carries its own time to live.
    pub expires_ns: Option<i64>,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Messages.
    pub msgs: u64,
    /// Bytes as nats-server counts them against `max_bytes`: file 30 + subject + payload (+ 4 + headers), memory 16 +
    /// subject + headers + payload. Not what the disk is charged with; see
    /// [`Store::disk_bytes`](crate::Store::disk_bytes).
    pub bytes: u64,
    /// The lowest sequence with a message; `last_seq + 1` when there is none.
    pub first_seq: u64,
    /// The highest sequence ever used, 0 before the first.
    pub last_seq: u64,
    /// When the message `first_seq` was stored.
    pub first_time_ns: Option<i64>,
    /// When the latest message was stored, also when it is gone.
    pub last_time_ns: Option<i64>,
    /// Sequences between first and last without a message.
    pub num_deleted: u64,
    /// Different subjects.
    pub num_subjects: u64,
    /// Sequences whose message was stored and cannot be read any more; counted in `num_deleted` too.
    pub lost: u64,
}
