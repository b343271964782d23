//! Puts the pieces of a long line together again, up to a limit.

use std::borrow::Cow;

/// The longest line that is put together, in bytes: four times the largest message of the bus, so a tool result that
/// can be published at all can also be read.
pub(super) const BYTES_MAX: usize = 32 * 1024 * 1024;

/// The pieces so far.
#[derive(Debug, Default)]
pub(super) enum Joiner {
    /// Between two lines.
    #[default]
    Empty,
    /// In the middle of a line.
    Pieces(Vec<u8>),
    /// In the middle of a line that is too long already.
    TooLong,
}

/// What a piece makes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined<'a> {
    /// A line that came in one piece.
    Whole(Cow<'a, [u8]>),
    /// One piece of several; more follow.
    Piece,
    /// The last piece, and with it the whole line.
    Last(Vec<u8>),
    /// The last piece of a line that was given up.
    TooLong,
}

impl Joiner {
    pub(super) fn push<'a>(&mut self, piece: &'a [u8], partial: bool) -> Joined<'a> {
        match (std::mem::take(self), partial) {
            (Self::Empty, false) => Joined::Whole(Cow::Borrowed(piece)),
            (Self::Empty, true) => {
                *self = Self::kept(Vec::new(), piece);
                Joined::Piece
            }
            (Self::Pieces(line), partial) => match (Self::kept(line, piece), partial) {
                (Self::Pieces(line), false) => Joined::Last(line),
                (_, false) => Joined::TooLong,
                (next, true) => {
                    *self = next;
                    Joined::Piece
                }
            },
            (Self::TooLong, true) => {
                *self = Self::TooLong;
                Joined::Piece
            }
            (Self::TooLong, false) => Joined::TooLong,
        }
    }

    fn kept(mut line: Vec<u8>, piece: &[u8]) -> Self {
        if line.len() + piece.len() > BYTES_MAX {
            return Self::TooLong;
        }
        line.extend_from_slice(piece);
        Self::Pieces(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_the_line_they_came_from() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.push(b"whole", false), Joined::Whole(Cow::Borrowed(b"whole")));
        assert_eq!(joiner.push(b"a", true), Joined::Piece);
        assert_eq!(joiner.push(b"b", true), Joined::Piece);
        assert_eq!(joiner.push(b"c", false), Joined::Last(b"abc".to_vec()));
        assert_eq!(joiner.push(b"next", false), Joined::Whole(Cow::Borrowed(b"next")));
    }

    #[test]
    fn a_line_past_the_limit_is_given_up_and_the_next_is_read() {
        let piece = vec![b'x'; BYTES_MAX / 2 + 1];
        let mut joiner = Joiner::default();
        assert_eq!(joiner.push(&piece, true), Joined::Piece);
        assert_eq!(joiner.push(&piece, true), Joined::Piece);
        assert_eq!(joiner.push(&piece, true), Joined::Piece);
        assert_eq!(joiner.push(b"end", false), Joined::TooLong);
        assert_eq!(joiner.push(b"next", false), Joined::Whole(Cow::Borrowed(b"next")));
    }
}
