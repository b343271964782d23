//! The compressed stream around a backup: S2's frames, which are Snappy's (`framing_format.txt` of google/snappy) with
//! larger blocks. Blocks are [`minlz`]'s affair.
//!
//! A frame is a type, a length of three bytes, and a body. `ff` begins a stream; `00` is a compressed and `01` a plain
//! block behind its masked CRC-32C; from `80` on frames may be passed over.

use std::collections::VecDeque;

use minlz::s2;

/// How a stream begins.
const BEGIN: &[u8; 10] = b"\xff\x06\x00\x00S2sTwO";
const BEGIN_SNAPPY: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";
/// What goes into one block.
pub(super) const BLOCK: usize = 64 << 10;
/// The largest block S2 knows: "blocks can be up to 4 MB" (README of klauspost/compress/s2).
const BLOCK_MAX: usize = 4 << 20;
/// What a block of that size may take when it cannot be compressed, with its checksum.
const FRAME_MAX: usize = BLOCK_MAX + BLOCK_MAX / 4 + 64;

/// Appends the beginning of a stream.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(BEGIN);
}

/// Appends a block of at most [`BLOCK_MAX`] bytes.
pub(super) fn put(out: &mut Vec<u8>, plain: &[u8]) {
    let checksum = minlz::crc::crc(plain);
    let packed = s2::encode(plain);
    // What does not become smaller is kept as it is: that is faster to read.
    let (kind, body) = if packed.len() < plain.len() { (0u8, &packed[..]) } else { (1u8, plain) };
    let len = (body.len() + 4) as u32;
    out.push(kind);
    out.extend_from_slice(&len.to_le_bytes()[..3]);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(body);
}

/// Bytes that are no such stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrupt;

/// Takes a stream in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    input: VecDeque<u8>,
    began: bool,
    body: Vec<u8>,
}

impl Unpacker {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// How much waits to be unpacked.
    pub(super) fn waiting(&self) -> usize {
        self.input.len()
    }

    /// Unpacks the next frame, appending to `out` what was in it; false when the frame is not complete yet.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> Result<bool, Corrupt> {
        if !self.began {
            let begins =
                |expected: &[u8; 10]| self.input.iter().zip(expected).all(|(is, should)| is == should);
            if !begins(BEGIN) && !begins(BEGIN_SNAPPY) {
                return Err(Corrupt);
            }
        }
        if self.input.len() < 4 {
            return Ok(false);
        }
        let at = |index: usize| self.input.get(index).copied().unwrap_or(0);
        let (kind, len) = (at(0), u32::from_le_bytes([at(1), at(2), at(3), 0]) as usize);
        if len > FRAME_MAX {
            return Err(Corrupt);
        }
        if self.input.len() < 4 + len {
            return Ok(false);
        }
        self.body.clear();
        self.body.extend(self.input.drain(..4 + len).skip(4));
        match kind {
            0xff if self.body == BEGIN[4..] || self.body == BEGIN_SNAPPY[4..] => self.began = true,
            0x00 => {
                let (checksum, packed) = self.body.split_first_chunk().ok_or(Corrupt)?;
                let (plain_len, _) = s2::decode_len(packed).map_err(|_| Corrupt)?;
                if plain_len > BLOCK_MAX {
                    return Err(Corrupt);
                }
                let start = out.len();
                out.resize(start + plain_len, 0);
                s2::decode_into(&mut out[start..], packed).map_err(|_| Corrupt)?;
                check(checksum, &out[start..])?;
            }
            0x01 => {
                let (checksum, plain) = self.body.split_first_chunk().ok_or(Corrupt)?;
                check(checksum, plain)?;
                out.extend_from_slice(plain);
            }
            0x80..=0xfe => {}
            _ => return Err(Corrupt),
        }
        Ok(true)
    }
}

fn check(checksum: &[u8; 4], plain: &[u8]) -> Result<(), Corrupt> {
    if minlz::crc::crc(plain) == u32::from_le_bytes(*checksum) { Ok(()) } else { Err(Corrupt) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unpack(stream: &[u8], piece: usize) -> Result<Vec<u8>, Corrupt> {
        let (mut unpacker, mut out) = (Unpacker::default(), Vec::new());
        for piece in stream.chunks(piece) {
            unpacker.feed(piece);
            while unpacker.next(&mut out)? {}
        }
        if unpacker.waiting() == 0 { Ok(out) } else { Err(Corrupt) }
    }

    #[test]
    fn a_stream_of_klauspost_s2_with_repeats_and_padding_is_read() {
        // Written by nats-server 2.15.1 over `abcabcabc...`; a frame of padding and one of an unknown kind put in.
        let mut stream = BEGIN.to_vec();
        stream.extend_from_slice(b"\xfe\x02\x00\x00\x00\x00\x80\x00\x00\x00");
        let plain = b"abc".repeat(40);
        put(&mut stream, &plain);
        assert!(stream.len() < 60, "{} bytes: it compresses", stream.len());
        assert_eq!(unpack(&stream, 7), Ok(plain));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let mut stream = Vec::new();
        begin(&mut stream);
        put(&mut stream, &b"some text some text some more text".repeat(3));
        for at in 0..stream.len() {
            for bit in 0..8 {
                let mut bad = stream.clone();
                bad[at] ^= 1 << bit;
                // A block whose kind becomes one that may be passed over is missing, which the archive notices.
                assert!(
                    unpack(&bad, 1000).is_ok_and(|out| out.is_empty()) || unpack(&bad, 1000).is_err(),
                    "byte {at}, bit {bit}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_put_in_comes_out_in_pieces_of_any_size(
            blocks in prop::collection::vec(prop::collection::vec(0u8..4, 0..3000), 0..4),
            piece in 1usize..500,
        ) {
            let mut stream = Vec::new();
            begin(&mut stream);
            blocks.iter().for_each(|block| put(&mut stream, block));
            prop_assert_eq!(unpack(&stream, piece), Ok(blocks.concat()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..2) {
            let mut stream = BEGIN.to_vec();
            stream.push(kind);
            stream.extend_from_slice(&(bytes.len() as u32).to_le_bytes()[..3]);
            stream.extend_from_slice(&bytes);
            let _ = unpack(&stream, 64);
            let _ = unpack(&bytes, 64);
        }
    }
}
