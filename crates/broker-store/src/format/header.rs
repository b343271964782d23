//! The first 64 bytes of a segment: which stream, which segment, and what had happened before it.

use super::{Reader, VERSION, seal, unseal};

const MAGIC: &[u8; 8] = b"OSTLSEG\n";
/// How long it is; the first record follows.
pub(crate) const LEN: usize = 64;

/// What the first bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its number, also in its name; never used twice in a stream.
    pub(crate) id: u32,
    /// Chosen when the stream was created: tells its files from those of every other stream.
    pub(crate) salt: u64,
    /// No sequence in it is lower.
    pub(crate) base: u64,
    /// The stream's first sequence when the segment was begun.
    pub(crate) first_seq: u64,
    /// The stream's last sequence then; a rewritten segment has that of its original.
    pub(crate) last_seq: u64,
    /// When the last message then was stored; `i64::MIN` for never.
    pub(crate) last_time: i64,
    /// Written by compaction or repair out of earlier ones, not by appending.
    pub(crate) rewritten: bool,
}

/// What is at the front of a segment file.
pub(crate) enum Read {
    /// A header.
    Header(Header),
    /// A header of a later format.
    Later(u16),
    /// Something else.
    Damaged,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u16::from(self.rewritten).to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.extend_from_slice(&self.last_time.to_le_bytes());
        out.resize(LEN - 4, 0);
        seal(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Read {
        let Some(content) = bytes.get(..LEN).and_then(unseal) else { return Read::Damaged };
        let mut reader = Reader(content);
        if reader.bytes(8) != Some(MAGIC) {
            return Read::Damaged;
        }
        match reader.u16() {
            Some(VERSION) => Self::fields(reader).map_or(Read::Damaged, Read::Header),
            Some(later) => Read::Later(later),
            None => Read::Damaged,
        }
    }

    fn fields(mut reader: Reader<'_>) -> Option<Self> {
        Some(Self {
            rewritten: reader.u16()? != 0,
            id: reader.u32()?,
            salt: reader.u64()?,
            base: reader.u64()?,
            first_seq: reader.u64()?,
            last_seq: reader.u64()?,
            last_time: reader.i64()?,
        })
    }
}

/// The start value of the checksum of the record at `offset` of segment `id`: different for every place of a stream,
/// because multiplying by an odd number loses nothing.
pub(crate) fn seed(salt: u64, id: u32, offset: u32) -> u32 {
    let place = (salt as u32 ^ (salt >> 32) as u32) ^ id.wrapping_mul(0x9E37_79B1);
    place.wrapping_add(offset.wrapping_mul(0x85EB_CA6B))
}
