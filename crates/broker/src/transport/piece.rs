//! Bytes on their way to one reader: a buffer of its own, or a slice of one that others hold too.

use bytes::{Buf, Bytes};

/// A run of bytes that moves as a whole.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Nobody else has it.
    Buffer(Vec<u8>),
    /// Others may have it too.
    Shared(Bytes),
}

impl Piece {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Forgets the first `count` bytes without moving the others.
    pub(crate) fn skip(self, count: usize) -> Self {
        if count == 0 {
            return self;
        }
        let mut bytes = self.into_bytes();
        bytes.advance(count);
        Self::Shared(bytes)
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Buffer(buffer) => buffer.into(),
            Self::Shared(bytes) => bytes,
        }
    }
}
