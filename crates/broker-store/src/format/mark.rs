//! The mark: how far the log was certainly written, kept beside the log so that a log cut short does not pass for one
//! that was never longer. 128 bytes, two slots, written in turn and never synced: after a power cut it may be old,
//! which is harmless, because what it says was true when it was written.

use super::{Reader, seal, unseal};

/// The bytes of one slot.
pub(crate) const SLOT: usize = 64;
/// The bytes of the file.
pub(crate) const LEN: usize = 2 * SLOT;

/// What a slot says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The higher one is the later one; 0 is never written.
    pub(crate) generation: u64,
    /// A segment and an offset in it: everything before was durable, every earlier segment included.
    pub(crate) synced: (u32, u32),
    /// The same, of what was written and may have been acknowledged as such.
    pub(crate) written: (u32, u32),
    /// Whether the store was closed: nothing follows.
    pub(crate) closed: bool,
    /// The last sequence that this covers.
    pub(crate) last_seq: u64,
}

impl Mark {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT);
        out.extend_from_slice(b"OSTLMRK\n");
        out.extend_from_slice(&self.generation.to_le_bytes());
        for number in [self.synced.0, self.synced.1, self.written.0, self.written.1] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&u32::from(self.closed).to_le_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.resize(SLOT - 4, 0);
        seal(&mut out);
        out
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let mut reader = Reader(unseal(slot)?);
        if reader.bytes(8)? != b"OSTLMRK\n" {
            return None;
        }
        Some(Self {
            generation: reader.u64()?,
            synced: (reader.u32()?, reader.u32()?),
            written: (reader.u32()?, reader.u32()?),
            closed: reader.u32()? != 0,
            last_seq: reader.u64()?,
        })
    }

    /// The later of the file's two marks, and which of the slots cannot be read.
    pub(crate) fn read(file: &[u8]) -> (Option<Self>, Vec<usize>) {
        let mut best: Option<Self> = None;
        let mut damaged = Vec::new();
        for index in 0..2 {
            match file.get(index * SLOT..(index + 1) * SLOT).map(|slot| (slot, Self::decode(slot))) {
                Some((_, Some(mark))) => {
                    if best.is_none_or(|best| best.generation < mark.generation) {
                        best = Some(mark);
                    }
                }
                // A slot that was never written.
                Some((slot, None)) if slot.iter().all(|&byte| byte == 0) => {}
                _ => damaged.push(index),
            }
        }
        if file.len() > LEN {
            damaged.push(2);
        }
        (best, damaged)
    }
}
