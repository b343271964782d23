//! Bytes to lines: splits what a pipe yields without ever holding more than one line; knows no pipe.

use bytes::{Bytes, BytesMut};

/// Size of a fresh block: a full Linux pipe fits into one read.
const BLOCK_BYTES: usize = 64 * 1024;

/// A block is used up to here before the next is made: delivered lines keep their block alive, so a fresh one for each
/// short line would cost 64 KiB a line.
const READ_BYTES_MIN: usize = 4 * 1024;

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Without the line feed.
    pub(crate) bytes: Bytes,
    /// The line goes on in the next piece.
    pub(crate) partial: bool,
}

/// Splits a stream into lines.
#[derive(Debug)]
pub(crate) struct Splitter {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line feed.
    searched: usize,
    line_bytes_max: usize,
}

impl Splitter {
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Splitter { buffer: BytesMut::new(), searched: 0, line_bytes_max: line_bytes_max.max(1) }
    }

    /// Returns where the next read may put its bytes.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(BLOCK_BYTES);
        }
        &mut self.buffer
    }

    /// Returns the next piece that is complete.
    pub(crate) fn next_line(&mut self) -> Option<Line> {
        let window = self.buffer.len().min(self.line_bytes_max + 1);
        let start = self.searched.min(window);
        if let Some(offset) = memchr::memchr(b'\n', &self.buffer[start..window]) {
            let mut bytes = self.buffer.split_to(start + offset + 1);
            bytes.truncate(start + offset);
            self.searched = 0;
            return Some(Line { bytes: bytes.freeze(), partial: false });
        }
        if window > self.line_bytes_max {
            self.searched = 0;
            return Some(Line { bytes: self.buffer.split_to(self.line_bytes_max).freeze(), partial: true });
        }
        self.searched = window;
        None
    }

    /// Returns what is left when the stream has ended: a last line without a line feed.
    pub(crate) fn finish(&mut self) -> Option<Line> {
        self.searched = 0;
        let rest = std::mem::take(&mut self.buffer);
        (!rest.is_empty()).then(|| Line { bytes: rest.freeze(), partial: false })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_longer_than_the_limit_comes_in_flagged_pieces() {
        assert_eq!(split(4, &[b"abcdefghij\nx\n"]), ["abcd+", "efgh+", "ij", "x"]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        assert_eq!(split(4, &[b"abcd\nabcd"]), ["abcd", "abcd"]);
    }

    #[test]
    fn empty_lines_count_and_carriage_returns_stay() {
        assert_eq!(split(9, &[b"\n\na\r\n"]), ["", "", "a\r"]);
    }

    #[test]
    fn a_last_line_without_line_feed_is_delivered_at_the_end() {
        assert_eq!(split(9, &[b"a\nb", b"c"]), ["a", "bc"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_the_reads_fall(
            pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..20), 0..20),
            limit in 1usize..8,
        ) {
            let whole: Vec<u8> = pieces.concat();
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let mut joined = String::new();
            for line in split(limit, &slices) {
                prop_assert!(line.trim_end_matches('+').len() <= limit);
                match line.strip_suffix('+') {
                    Some(part) => joined.push_str(part),
                    None => { joined.push_str(&line); joined.push('\n'); }
                }
            }
            let mut expected = String::from_utf8(whole).expect("ascii");
            if !expected.is_empty() && !expected.ends_with('\n') {
                expected.push('\n');
            }
            prop_assert_eq!(joined, expected);
        }
    }

    /// Splits; a `+` marks a partial piece.
    fn split(line_bytes_max: usize, reads: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::new(line_bytes_max);
        let mut lines = Vec::new();
        for read in reads {
            splitter.room().extend_from_slice(read);
            while let Some(line) = splitter.next_line() {
                lines.push(line);
            }
        }
        lines.extend(splitter.finish());
        let text = |line: Line| {
            let mut text = String::from_utf8(line.bytes.to_vec()).expect("ascii");
            text.push_str(if line.partial { "+" } else { "" });
            text
        };
        lines.into_iter().map(text).collect()
    }
}
