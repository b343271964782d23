//! The bytes on disk: records, segment headers, the manifest, the mark and checkpoints. Pure functions between bytes
//! and values; nothing here opens a file.
//!
//! All numbers are little-endian. Every unit carries a CRC-32 over everything before it. Those of a segment are seeded
//! with the stream, the segment and the offset: a record that was moved, that belongs to another file or that somebody
//! published as a payload is not taken for a record of this place.

pub(crate) mod checkpoint;
pub(crate) mod header;
pub(crate) mod manifest;
pub(crate) mod mark;
pub(crate) mod record;

/// The version that is written; the only one there is.
pub(crate) const VERSION: u16 = 1;

/// A CRC-32 (IEEE) with a start value. On x86-64 and arm64 it runs at several bytes per nanosecond, like CRC-32C, and
/// finds the same errors: every burst up to 32 bits, and every change of 1 to 3 bits in a record of ours.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Reads numbers off the front of a slice; `None` when it is too short.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Seven bits a byte, the lowest first, the top bit set on all but the last.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

/// Writes what [`Reader::varint`] reads.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the checksum of everything in `out`.
pub(crate) fn seal(out: &mut Vec<u8>) {
    let sum = checksum(0, out);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// What was sealed, or `None` when it is not what was sealed.
pub(crate) fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    (checksum(0, content) == u32::from_le_bytes(*sum)).then_some(content)
}
