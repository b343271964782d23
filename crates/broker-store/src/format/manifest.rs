//! The manifest: which segments and checkpoints there are. Two files written in turn, `manifest.a` and `manifest.b`;
//! each write is synced before the other file is touched again, so one of them is always whole.

use super::{Reader, VERSION, seal, unseal};

const MAGIC: &[u8; 8] = b"OSTLMAN\n";

/// The files, in the order of their slots.
pub(crate) const FILES: [&str; 2] = ["manifest.a", "manifest.b"];

/// What a manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The higher one is the later one.
    pub(crate) generation: u64,
    /// See [`Header::salt`](super::header::Header::salt).
    pub(crate) salt: u64,
    /// A segment with this number or a higher one was begun later.
    pub(crate) next_id: u32,
    /// The first sequence then.
    pub(crate) first_seq: u64,
    /// The last sequence then.
    pub(crate) last_seq: u64,
    /// In the order of their sequences.
    pub(crate) segments: Vec<Listed>,
    /// Names of the checkpoints.
    pub(crate) checkpoints: Vec<String>,
}

/// What a manifest says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u32,
    /// No sequence in it is lower.
    pub(crate) base: u64,
    /// No sequence in it is higher, as far as was known.
    pub(crate) last: u64,
    /// How long it is when it is closed; how long it is at least when it is not.
    pub(crate) len: u32,
    /// Of the closed one's records; see [`Fold`].
    pub(crate) checksum: u32,
    /// Whether nothing is appended to it any more.
    pub(crate) closed: bool,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.segments.len() * 29);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.next_id.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for segment in &self.segments {
            out.extend_from_slice(&segment.id.to_le_bytes());
            out.extend_from_slice(&segment.base.to_le_bytes());
            out.extend_from_slice(&segment.last.to_le_bytes());
            out.extend_from_slice(&segment.len.to_le_bytes());
            out.extend_from_slice(&segment.checksum.to_le_bytes());
            out.push(u8::from(segment.closed));
        }
        out.extend_from_slice(&(self.checkpoints.len() as u32).to_le_bytes());
        for name in &self.checkpoints {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        seal(&mut out);
        out
    }

    /// `Err` carries the version when it is a later one.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, u16> {
        let Some(content) = unseal(bytes) else { return Ok(None) };
        let mut reader = Reader(content);
        if reader.bytes(8) != Some(MAGIC) {
            return Ok(None);
        }
        match reader.u16() {
            Some(VERSION) => Ok(Self::fields(reader)),
            Some(later) => Err(later),
            None => Ok(None),
        }
    }

    fn fields(mut reader: Reader<'_>) -> Option<Self> {
        let mut manifest = Self {
            generation: reader.u64()?,
            salt: reader.u64()?,
            next_id: reader.u32()?,
            first_seq: reader.u64()?,
            last_seq: reader.u64()?,
            ..Self::default()
        };
        for _ in 0..reader.u32()? {
            manifest.segments.push(Listed {
                id: reader.u32()?,
                base: reader.u64()?,
                last: reader.u64()?,
                len: reader.u32()?,
                checksum: reader.u32()?,
                closed: reader.u8()? != 0,
            });
        }
        for _ in 0..reader.u32()? {
            let len = reader.u16()?;
            let name = reader.bytes(usize::from(len))?;
            manifest.checkpoints.push(String::from_utf8(name.to_vec()).ok()?);
        }
        reader.0.is_empty().then_some(manifest)
    }
}

/// A checksum of the lengths of a segment's records, in order. It does not change when a record is erased in place,
/// and it does when one is missing, added or replaced by one of another length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fold {
    pub(crate) records: u32,
    pub(crate) value: u32,
}

impl Fold {
    pub(crate) fn add(&mut self, len: u32) {
        self.records = self.records.wrapping_add(1);
        self.value = (self.value.rotate_left(5) ^ len).wrapping_mul(0x9E37_79B1);
    }
}
