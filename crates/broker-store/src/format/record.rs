//! Records, the units a segment is made of.
//!
//! ```text
//! 0   length u32      the whole record, checksum included
//! 4   kind   u8       low four bits; the others are flags
//!     message, erased:            every other kind:
//! 5   subject length u16          5   [committed u32]
//! 7   sequence u64                    body
//! 15  time i64                        checksum u32
//! 23  [committed u32] [expires i64] [header length u32]
//!     subject, headers, payload
//!     checksum u32
//! ```
//!
//! *Committed* says: when this record was written, everything in this segment before that offset, and every earlier
//! segment, was durable. It is what tells damage from a write the power cut short.

use super::{Reader, checksum, put_varint};
use crate::message::{Message, NewMessage};

const KIND: u8 = 0x0f;
const HEADERS: u8 = 0x10;
const EXPIRES: u8 = 0x20;
const COMMITTED: u8 = 0x40;
const ERASE: u8 = 0x80;

const MESSAGE: u8 = 1;
const REMOVED: u8 = 2;
const HEAD: u8 = 3;
const SKIP: u8 = 4;
const COMMIT: u8 = 5;
const SEAL: u8 = 6;
const ERASED: u8 = 7;

/// Length, kind and checksum.
pub(crate) const MIN: usize = 9;
/// What a message takes beside subject, headers and payload when it has neither headers nor extras.
pub(crate) const MESSAGE_MIN: usize = 27;
/// The most a record may take: its size is kept in 29 bits.
pub(crate) const MAX: usize = (1 << 29) - 1;

/// Size and flags of a message's record, in four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u32);

impl Size {
    const HEADERS: u32 = 1 << 29;
    const EXPIRES: u32 = 1 << 30;
    const COMMITTED: u32 = 1 << 31;

    fn of(len: usize, flags: u8) -> Self {
        let mut bits = len as u32;
        if flags & HEADERS != 0 {
            bits |= Self::HEADERS;
        }
        if flags & EXPIRES != 0 {
            bits |= Self::EXPIRES;
        }
        if flags & COMMITTED != 0 {
            bits |= Self::COMMITTED;
        }
        Self(bits)
    }

    /// Of nothing.
    pub(crate) const ZERO: Self = Self(0);

    /// The bytes of the whole record.
    pub(crate) fn record(self) -> u32 {
        self.0 & MAX as u32
    }

    /// Subject, headers and payload.
    fn content(self) -> u64 {
        let mut extras = MESSAGE_MIN as u64;
        for (flag, bytes) in [(Self::HEADERS, 4), (Self::EXPIRES, 8), (Self::COMMITTED, 4)] {
            if self.0 & flag != 0 {
                extras += bytes;
            }
        }
        u64::from(self.record()) - extras
    }

    /// What nats-server's file store counts for the message: 30, and 4 more with headers.
    pub(crate) fn counted_in_file(self) -> u64 {
        self.content() + 30 + if self.0 & Self::HEADERS != 0 { 4 } else { 0 }
    }

    /// What nats-server's memory store counts for the message.
    pub(crate) fn counted_in_memory(self) -> u64 {
        self.content() + 16
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Message(Message<'a>, Size),
    /// Ranges of sequences, ends included, that are no longer there; whether their bytes are to go too.
    Removed {
        ranges: Vec<(u64, u64)>,
        erase: bool,
    },
    /// Everything below this sequence is gone; the last sequence used, and when.
    Head {
        first_seq: u64,
        last_seq: u64,
        last_time: Option<i64>,
    },
    /// Sequences up to this one are used without a message.
    Skip(u64),
    /// Carries only its offset of what was committed.
    Commit,
    /// The last record of a full segment.
    Seal {
        records: u32,
        checksum: u32,
    },
    /// A message whose bytes were overwritten.
    Erased(u64),
}

/// A record and what surrounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) committed: Option<u32>,
    pub(crate) len: usize,
}

/// How many bytes the record of a message takes, or would take if it may be that long.
pub(crate) fn message_len(message: &NewMessage<'_>, committed: bool) -> u64 {
    (MESSAGE_MIN + message.subject.len() + message.headers.len() + message.payload.len()) as u64
        + if message.headers.is_empty() { 0 } else { 4 }
        + if message.expires_ns.is_some() { 8 } else { 0 }
        + if committed { 4 } else { 0 }
}

/// Appends a message's record. `seed` is `None` where no checksum is needed: in memory.
pub(crate) fn put_message(
    out: &mut Vec<u8>,
    message: &NewMessage<'_>,
    seq: u64,
    committed: Option<u32>,
    seed: Option<u32>,
) -> Size {
    let start = out.len();
    let len = message_len(message, committed.is_some()) as usize;
    let mut flags = 0;
    // One write of the fixed part: growing the buffer field by field costs more than the checksum.
    let mut fixed = [0u8; 39];
    fixed[..4].copy_from_slice(&(len as u32).to_le_bytes());
    fixed[5..7].copy_from_slice(&(message.subject.len() as u16).to_le_bytes());
    fixed[7..15].copy_from_slice(&seq.to_le_bytes());
    fixed[15..23].copy_from_slice(&message.time_ns.to_le_bytes());
    let mut at = 23;
    if let Some(offset) = committed {
        flags |= COMMITTED;
        fixed[at..at + 4].copy_from_slice(&offset.to_le_bytes());
        at += 4;
    }
    if let Some(expires) = message.expires_ns {
        flags |= EXPIRES;
        fixed[at..at + 8].copy_from_slice(&expires.to_le_bytes());
        at += 8;
    }
    if !message.headers.is_empty() {
        flags |= HEADERS;
        fixed[at..at + 4].copy_from_slice(&(message.headers.len() as u32).to_le_bytes());
        at += 4;
    }
    fixed[4] = MESSAGE | flags;
    out.reserve(len);
    out.extend_from_slice(&fixed[..at]);
    out.extend_from_slice(message.subject);
    out.extend_from_slice(message.headers);
    out.extend_from_slice(message.payload);
    let sum = seed.map_or(0, |seed| checksum(seed, &out[start..]));
    out.extend_from_slice(&sum.to_le_bytes());
    Size::of(len, flags)
}

/// Appends a record that is no message.
pub(crate) fn put(out: &mut Vec<u8>, record: &Record<'_>, committed: Option<u32>, seed: u32) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let kind = match record {
        Record::Removed { erase: true, .. } => REMOVED | ERASE,
        Record::Removed { .. } => REMOVED,
        Record::Head { .. } => HEAD,
        Record::Skip(_) => SKIP,
        Record::Commit => COMMIT,
        Record::Seal { .. } => SEAL,
        Record::Message(..) | Record::Erased(_) => {
            unreachable!("messages are written by put_message and erased in place")
        }
    };
    out.push(kind | if committed.is_some() { COMMITTED } else { 0 });
    if let Some(offset) = committed {
        out.extend_from_slice(&offset.to_le_bytes());
    }
    match record {
        Record::Removed { ranges, .. } => {
            let mut next = 0;
            for &(first, last) in ranges {
                put_varint(out, first - next);
                put_varint(out, last - first);
                next = last;
            }
        }
        Record::Head { first_seq, last_seq, last_time } => {
            out.extend_from_slice(&first_seq.to_le_bytes());
            out.extend_from_slice(&last_seq.to_le_bytes());
            out.extend_from_slice(&last_time.unwrap_or(i64::MIN).to_le_bytes());
        }
        Record::Skip(seq) => out.extend_from_slice(&seq.to_le_bytes()),
        Record::Seal { records, checksum } => {
            out.extend_from_slice(&records.to_le_bytes());
            out.extend_from_slice(&checksum.to_le_bytes());
        }
        _ => {}
    }
    finish(out, start, seed);
}

/// Overwrites a message's record with one that says only that it was erased. `record` is exactly its bytes.
pub(crate) fn erase(record: &mut [u8], seq: u64, seed: u32) {
    let end = record.len() - 4;
    record[4..].fill(0);
    record[4] = ERASED;
    record[7..15].copy_from_slice(&seq.to_le_bytes());
    let sum = checksum(seed, &record[..end]);
    record[end..].copy_from_slice(&sum.to_le_bytes());
}

fn finish(out: &mut Vec<u8>, start: usize, seed: u32) {
    let len = (out.len() - start + 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    let sum = checksum(seed, &out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// The record at the front of `bytes`; `None` when there is none that was written here.
pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Decoded<'_>> {
    let len = plausible(bytes)?;
    let (content, sum) = bytes[..len].split_last_chunk::<4>()?;
    if checksum(seed, content) != u32::from_le_bytes(*sum) {
        return None;
    }
    parse(content, len)
}

/// [`decode`] for bytes that never left memory: no checksum is looked at.
pub(crate) fn decode_trusted(bytes: &[u8]) -> Option<Decoded<'_>> {
    let len = plausible(bytes)?;
    parse(&bytes[..len - 4], len)
}

/// Whether bytes look enough like a record to spend a checksum on them, when searching for the next one behind damage:
/// without this a search would compute a checksum over megabytes at every few hundred offsets.
pub(crate) fn worth_decoding(bytes: &[u8], last_seq: u64) -> bool {
    const AHEAD: u64 = 1 << 32;
    let Some(len) = plausible(bytes) else { return false };
    let mut reader = Reader(&bytes[5..]);
    match bytes[4] & KIND {
        MESSAGE | ERASED => {
            let (subject_len, seq) = (reader.u16().unwrap_or(0), reader.u64().unwrap_or(0));
            len >= MESSAGE_MIN + usize::from(subject_len) && seq.wrapping_sub(last_seq) < AHEAD
        }
        REMOVED => len <= 1 << 20,
        _ => len <= MIN + 4 + 24,
    }
}

fn plausible(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let kind = *bytes.get(4)? & KIND;
    (len >= MIN && len <= bytes.len() && (MESSAGE..=ERASED).contains(&kind)).then_some(len)
}

fn parse(content: &[u8], len: usize) -> Option<Decoded<'_>> {
    let flags = content[4];
    let mut reader = Reader(&content[5..]);
    let kind = flags & KIND;
    if kind == MESSAGE {
        return parse_message(reader, flags, len);
    }
    if kind == ERASED {
        reader.u16()?;
        return Some(Decoded { record: Record::Erased(reader.u64()?), committed: None, len });
    }
    let committed = if flags & COMMITTED != 0 { Some(reader.u32()?) } else { None };
    let record = match kind {
        REMOVED => Record::Removed { ranges: parse_ranges(reader)?, erase: flags & ERASE != 0 },
        HEAD => Record::Head {
            first_seq: reader.u64()?,
            last_seq: reader.u64()?,
            last_time: reader.i64().map(|time| (time != i64::MIN).then_some(time))?,
        },
        SKIP => Record::Skip(reader.u64()?),
        COMMIT => Record::Commit,
        _ => Record::Seal { records: reader.u32()?, checksum: reader.u32()? },
    };
    Some(Decoded { record, committed, len })
}

fn parse_message(mut reader: Reader<'_>, flags: u8, len: usize) -> Option<Decoded<'_>> {
    let subject_len = reader.u16()?;
    let seq = reader.u64()?;
    let time_ns = reader.i64()?;
    let committed = if flags & COMMITTED != 0 { Some(reader.u32()?) } else { None };
    let expires_ns = if flags & EXPIRES != 0 { Some(reader.i64()?) } else { None };
    let header_len = if flags & HEADERS != 0 { reader.u32()? } else { 0 };
    let subject = reader.bytes(usize::from(subject_len))?;
    let headers = reader.bytes(header_len as usize)?;
    let payload = reader.0;
    let message = Message { seq, time_ns, subject, headers, payload, expires_ns };
    Some(Decoded { record: Record::Message(message, Size::of(len, flags)), committed, len })
}

fn parse_ranges(mut reader: Reader<'_>) -> Option<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut next = 0u64;
    while !reader.0.is_empty() {
        let first = next.checked_add(reader.varint()?)?;
        let last = first.checked_add(reader.varint()?)?;
        ranges.push((first, last));
        next = last;
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> NewMessage<'static> {
        NewMessage { headers: b"NATS/1.0\r\n\r\n", expires_ns: Some(9), ..NewMessage::new(b"a.b", b"hi", -5) }
    }

    #[test]
    fn a_message_comes_back_with_every_extra() {
        let mut out = Vec::new();
        let size = put_message(&mut out, &sample(), 7, Some(64), Some(1));
        let decoded = decode(&out, 1).unwrap();
        let Record::Message(message, same) = decoded.record else { panic!("not a message") };
        assert_eq!((message.seq, message.time_ns, message.subject), (7, -5, &b"a.b"[..]));
        assert_eq!((message.headers, message.payload), (&b"NATS/1.0\r\n\r\n"[..], &b"hi"[..]));
        assert_eq!((message.expires_ns, decoded.committed, decoded.len), (Some(9), Some(64), out.len()));
        assert_eq!(same, size);
        assert_eq!((size.counted_in_file(), size.counted_in_memory()), (34 + 3 + 12 + 2, 16 + 3 + 12 + 2));
    }

    #[test]
    fn a_record_is_valid_only_where_it_was_written() {
        let mut out = Vec::new();
        put_message(&mut out, &sample(), 7, None, Some(1));
        assert!(decode(&out, 2).is_none());
        for bit in 0..out.len() * 8 {
            let mut flipped = out.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 1).is_none(), "bit {bit}");
        }
        for len in 0..out.len() {
            assert!(decode(&out[..len], 1).is_none(), "length {len}");
        }
    }

    #[test]
    fn the_other_kinds_come_back() {
        let records = [
            Record::Removed { ranges: vec![(1, 1), (3, 900), (u64::MAX, u64::MAX)], erase: true },
            Record::Head { first_seq: 3, last_seq: 9, last_time: None },
            Record::Skip(12),
            Record::Commit,
            Record::Seal { records: 4, checksum: 5 },
        ];
        for record in records {
            let mut out = Vec::new();
            put(&mut out, &record, Some(3), 8);
            let decoded = decode(&out, 8).unwrap();
            assert_eq!((decoded.record, decoded.committed), (record, Some(3)));
        }
    }

    #[test]
    fn an_erased_message_keeps_its_length_and_sequence_only() {
        let mut out = Vec::new();
        put_message(&mut out, &sample(), 7, Some(3), Some(1));
        erase(&mut out, 7, 1);
        assert_eq!(decode(&out, 1).unwrap().record, Record::Erased(7));
        assert!(!out.windows(2).any(|pair| pair == b"hi"));
    }
}
