//! The bytes that wait for one client. Small frames are copied into contiguous buffers, which one `write` sends; large
//! bodies are shared between subscribers and sent with `writev`. Knows no socket: the shard lends it one.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::transport::piece::Piece;
use crate::transport::pipe;

/// A buffer is closed when it is this full: large enough for one `write` to be worth it, small enough that appending
/// never moves much.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// A fresh buffer: an answer or two fit, and a connection with little to say takes little.
const BUFFER_BYTES_FIRST: usize = 4 << 10;
/// Memory in spare buffers that a shard keeps: enough that fan-out to hundreds of small readers, or to a few fast ones,
/// needs no new ones.
const SPARE_BYTES_MAX: usize = 2 << 20;
/// Pieces per `writev`.
const SLICES_MAX: usize = 64;

/// Spare buffers of a shard. Only connections with something to send hold one.
#[derive(Default)]
pub(crate) struct Pool {
    spare: Vec<Vec<u8>>,
    /// What they take together.
    bytes: usize,
}

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        match self.spare.pop() {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(BUFFER_BYTES_FIRST),
        }
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.spare.push(buffer);
        }
    }
}

/// A queue of bytes. Bounded by the shard, which closes the connection beyond `max_pending`.
#[derive(Default)]
pub(crate) struct Outbound {
    /// What comes before [`open`](Self::open). Empty unless much waits or large bodies are shared.
    closed: VecDeque<Piece>,
    /// The buffer that is appended to; without memory while nothing waits.
    open: Vec<u8>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    len: usize,
    /// Bytes ever taken from the queue.
    taken: u64,
}

impl Outbound {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that were ever taken from it.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the pieces of one frame. Their number is known when this is compiled, which unrolls the loops: this runs
    /// once per delivery.
    #[inline]
    pub(crate) fn append<const N: usize>(&mut self, pool: &mut Pool, parts: [&[u8]; N]) {
        let added = parts.iter().map(|part| part.len()).sum();
        let buffer = self.tail(pool, added);
        buffer.reserve(added);
        for part in parts {
            buffer.extend_from_slice(part);
        }
        self.len += added;
    }

    /// Appends what `write` puts at the end of a buffer.
    pub(crate) fn append_with(&mut self, pool: &mut Pool, write: impl FnOnce(&mut Vec<u8>)) {
        let buffer = self.tail(pool, 0);
        let before = buffer.len();
        write(buffer);
        self.len += buffer.len() - before;
    }

    /// Appends bytes that other queues may hold too.
    pub(crate) fn append_shared(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.close();
        self.closed.push_back(Piece::Shared(bytes));
    }

    /// The buffer to append to, with room made in front of it if it is full.
    #[inline]
    fn tail(&mut self, pool: &mut Pool, added: usize) -> &mut Vec<u8> {
        if self.open.len() + added > BUFFER_BYTES_MAX {
            self.close();
        }
        if self.open.capacity() == 0 {
            self.open = pool.take();
        }
        &mut self.open
    }

    #[cold]
    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed.push_back(Piece::Buffer(std::mem::take(&mut self.open)));
        }
    }

    /// Calls `write` with what waits, in order, and forgets what it took; once.
    ///
    /// # Errors
    /// What `write` says; nothing was forgotten.
    pub(crate) fn write_once<E>(
        &mut self,
        pool: &mut Pool,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let open = Some(self.open.as_slice()).filter(|open| !open.is_empty());
        for (piece, slice) in self.closed.iter().map(Piece::as_slice).chain(open).zip(&mut slices) {
            *slice = IoSlice::new(&piece[if used == 0 { self.sent } else { 0 }..]);
            used += 1;
        }
        let taken = write(&slices[..used])?;
        self.forget(pool, taken);
        Ok(taken)
    }

    /// Moves what waits into a pipe, as far as that has room; returns the bytes moved.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, others when the other end is gone; nothing was moved.
    pub(crate) fn hand_over(&mut self, pool: &mut Pool, pipe: &pipe::End) -> io::Result<usize> {
        let (closed, open, sent) = (&mut self.closed, &mut self.open, &mut self.sent);
        let next = || {
            let last = || Some(std::mem::take(open)).filter(|open| !open.is_empty()).map(Piece::Buffer);
            closed.pop_front().or_else(last).map(|piece| piece.skip(std::mem::take(sent)))
        };
        let moved = pipe.try_hand_over(next, |buffer| pool.give(buffer))?;
        self.len -= moved;
        self.taken += moved as u64;
        self.let_go(pool);
        Ok(moved)
    }

    fn forget(&mut self, pool: &mut Pool, taken: usize) {
        self.len -= taken;
        self.taken += taken as u64;
        self.sent += taken;
        while let Some(first) = self.closed.front() {
            let len = first.len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            if let Some(Piece::Buffer(buffer)) = self.closed.pop_front() {
                pool.give(buffer);
            }
        }
        self.let_go(pool);
    }

    /// An idle connection keeps nothing.
    fn let_go(&mut self, pool: &mut Pool) {
        if self.len > 0 {
            return;
        }
        self.sent = 0;
        self.closed = VecDeque::new();
        if self.open.capacity() > 0 {
            pool.give(std::mem::take(&mut self.open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(out: &mut Outbound, pool: &mut Pool, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !out.is_empty() {
            out.write_once::<()>(pool, |slices| {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
                sent.extend_from_slice(&all);
                Ok(all.len())
            })
            .unwrap();
        }
        sent
    }

    #[test]
    fn bytes_leave_in_order_whatever_each_write_takes() {
        for step in [1, 3, 7, 1 << 20] {
            let (mut out, mut pool) = (Outbound::default(), Pool::default());
            out.append(&mut pool, [b"ab", b"", b"c"]);
            out.append_shared(Bytes::from_static(b"defgh"));
            out.append(&mut pool, [b"ij"]);
            out.append_with(&mut pool, |buffer| buffer.extend_from_slice(b"kl"));
            assert_eq!(out.len(), 12);
            assert_eq!(drain(&mut out, &mut pool, step), b"abcdefghijkl", "{step} bytes per write");
        }
    }

    #[test]
    fn large_backlogs_are_cut_into_buffers_and_given_back() {
        let (mut out, mut pool) = (Outbound::default(), Pool::default());
        let frame = [7u8; 1000];
        for _ in 0..2000 {
            out.append(&mut pool, [&frame]);
        }
        assert!(out.closed.len() > 5);
        assert_eq!(drain(&mut out, &mut pool, 100_000).len(), 2_000_000);
        assert!(out.closed.capacity() == 0 && out.open.capacity() == 0);
        assert!(!pool.spare.is_empty() && pool.bytes <= SPARE_BYTES_MAX);
    }

    #[test]
    fn a_failed_write_forgets_nothing() {
        let (mut out, mut pool) = (Outbound::default(), Pool::default());
        out.append(&mut pool, [b"abc"]);
        assert_eq!(out.write_once(&mut pool, |_| Err("full")), Err("full"));
        assert_eq!(drain(&mut out, &mut pool, 10), b"abc");
    }
}
