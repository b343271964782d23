//! A checkpoint: a small value that is replaced as a whole, in two files written in turn.

use super::{Reader, seal, unseal};

const MAGIC: &[u8; 8] = b"OSTLCHK\n";

/// What one of the two files says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The higher one is the later one; 0 means that nothing was saved in this file yet.
    pub(crate) generation: u64,
    /// See [`Header::salt`](super::header::Header::salt).
    pub(crate) salt: u64,
    /// The name it was saved under: a file that was renamed is noticed.
    pub(crate) name: String,
    /// The caller's format of the value.
    pub(crate) version: u16,
    /// The caller's bytes.
    pub(crate) value: Vec<u8>,
}

/// Appends the file of a checkpoint.
pub(crate) fn encode(out: &mut Vec<u8>, salt: u64, generation: u64, name: &str, version: u16, value: &[u8]) {
    out.clear();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
    seal(out);
}

/// What a file says; `None` when it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let mut reader = Reader(unseal(bytes)?);
    if reader.bytes(8)? != MAGIC {
        return None;
    }
    let generation = reader.u64()?;
    let salt = reader.u64()?;
    let name_len = reader.u16()?;
    let name = String::from_utf8(reader.bytes(usize::from(name_len))?.to_vec()).ok()?;
    let version = reader.u16()?;
    let len = reader.u32()?;
    let value = reader.bytes(len as usize)?.to_vec();
    reader.0.is_empty().then_some(Checkpoint { generation, salt, name, version, value })
}
