//! A connection inside this process: two bounded byte queues, and a wake for who sleeps at the other end. It behaves as
//! a socket does - back-pressure, an end of each direction, a cut - and hands whole buffers over where it can. Knows
//! neither NATS nor which end is the server's.
//!
//! ```text
//!   End A  -- outgoing lane ->  End B      Each lane is a mutex around a queue of pieces, held for a push or a swap. Only
//!          <- incoming lane --             a reader or writer that registered itself is woken, so a busy pipe costs no
//!                                          wakes at all.
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BufMut;

use super::piece::Piece;

/// Bytes a lane holds before its writer must wait: what a generous socket buffer holds.
pub(crate) const LANE_BYTES_MAX: usize = 1 << 20;
/// A writer that had to wait goes on when this little is left, so that the two ends do not wake each other for every
/// piece.
const LANE_BYTES_LOW: usize = LANE_BYTES_MAX / 2;
/// Bytes collected in one buffer: a reader's batch, as large as a read from a socket.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Pieces shorter than this are copied to the buffer before them: cheaper than a buffer of their own.
const COPY_BYTES_MAX: usize = 8 << 10;
/// Empty buffers that wait to be filled again: as many as a writer that had to wait fills before it waits again.
const SPARE_BUFFERS_MAX: usize = LANE_BYTES_LOW / BUFFER_BYTES_MAX;
/// Larger ones are not kept.
const SPARE_BYTES_MAX: usize = 512 << 10;

/// One end of a pipe. Dropping it cuts the pipe.
#[derive(Debug)]
pub(crate) struct End {
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
}

/// Makes a pipe.
pub(crate) fn pipe() -> (End, End) {
    let (there, back) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
    let near = End { incoming: Arc::clone(&back), outgoing: Arc::clone(&there) };
    (near, End { incoming: there, outgoing: back })
}

impl End {
    /// Copies what is there into `buffer`, as much as fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; 0 bytes are the end.
    pub(crate) fn try_read(&self, mut buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read_buf(&mut buffer)
    }

    /// The same, into the room that `buffer` has.
    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        let mut lane = self.incoming.lock();
        let mut read = 0;
        while buffer.has_remaining_mut() {
            let from = lane.read;
            let Some(front) = lane.pieces.front() else {
                break;
            };
            let rest = &front.as_slice()[from..];
            let count = rest.len().min(buffer.remaining_mut());
            buffer.put_slice(&rest[..count]);
            let is_done = count == rest.len();
            read += count;
            lane.read += count;
            lane.bytes -= count;
            if is_done {
                lane.read = 0;
                if let Some(Piece::Buffer(spent)) = lane.pieces.pop_front() {
                    lane.keep(spent);
                }
            }
        }
        if read == 0 { lane.nothing().map(|()| 0) } else { self.incoming.taken(lane, read) }
    }

    /// Takes the first piece of what is there without copying it. `None` is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there.
    pub(crate) fn try_take(&self) -> io::Result<Option<Piece>> {
        let mut lane = self.incoming.lock();
        let Some(piece) = lane.pieces.pop_front() else {
            return lane.nothing().map(|()| None);
        };
        let piece = piece.skip(std::mem::take(&mut lane.read));
        let len = piece.len();
        lane.bytes -= len;
        self.incoming.taken(lane, len)?;
        Ok(Some(piece))
    }

    /// Gives a buffer that [`try_take`](Self::try_take) gave back to who fills it.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        self.incoming.lock().keep(buffer);
    }

    /// Writes all of `pieces` if there is any room: an end is never told to write a part.
    ///
    /// # Errors
    /// `WouldBlock` while the other end has too much to read already, `BrokenPipe` when it is gone.
    pub(crate) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.try_append(len, |buffer| {
            for piece in pieces {
                buffer.extend_from_slice(piece);
            }
        })?;
        Ok(len)
    }

    /// Has `write` put about `len` bytes at the end of what the other end will read.
    ///
    /// # Errors
    /// As [`try_write_vectored`](Self::try_write_vectored); `write` was not called then.
    pub(crate) fn try_append(&self, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut lane = self.outgoing.lock();
        lane.room()?;
        lane.append(len, write);
        Lane::came(lane);
        Ok(())
    }

    /// The same whether there is room or not: for what is little and must not wait.
    ///
    /// # Errors
    /// `BrokenPipe` when the other end is gone.
    pub(crate) fn append(&self, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut lane = self.outgoing.lock();
        if lane.is_over() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        lane.append(len, write);
        Lane::came(lane);
        Ok(())
    }

    /// Whether a write would succeed, or fail for good.
    pub(crate) fn has_room(&self) -> bool {
        !matches!(self.outgoing.lock().room(), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Moves pieces over as long as there is room and `next` has some; returns the bytes moved. `spent` gets empty
    /// buffers in exchange: those that were copied, and those the other end gave back.
    ///
    /// # Errors
    /// As [`try_write_vectored`](Self::try_write_vectored), if nothing was moved.
    pub(crate) fn try_hand_over(
        &self,
        mut next: impl FnMut() -> Option<Piece>,
        mut spent: impl FnMut(Vec<u8>),
    ) -> io::Result<usize> {
        let mut lane = self.outgoing.lock();
        lane.room()?;
        let mut moved = 0;
        while lane.room().is_ok()
            && let Some(piece) = next()
        {
            let len = piece.len();
            moved += len;
            if len < COPY_BYTES_MAX {
                lane.append(len, |buffer| buffer.extend_from_slice(piece.as_slice()));
                if let Piece::Buffer(buffer) = piece {
                    spent(buffer);
                }
            } else {
                lane.bytes += len;
                lane.pieces.push_back(piece);
                if let Some(spare) = lane.spares.pop() {
                    spent(spare);
                }
            }
        }
        Lane::came(lane);
        Ok(moved)
    }

    /// Ready when a read gives something, be it the end.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.incoming.lock();
        if !lane.pieces.is_empty() || lane.is_over() {
            return Poll::Ready(());
        }
        register(&mut lane.readers, cx.waker());
        Poll::Pending
    }

    /// Ready when a write succeeds, or fails for good.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.outgoing.lock();
        if lane.bytes < LANE_BYTES_MAX || lane.is_over() {
            return Poll::Ready(());
        }
        register(&mut lane.writers, cx.waker());
        Poll::Pending
    }

    /// Waits for [`poll_readable`](Self::poll_readable). Cancel-safe.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits for [`poll_writable`](Self::poll_writable). Cancel-safe.
    pub(crate) async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Says that no more will come; what was written is still read.
    pub(crate) fn shutdown_write(&self) {
        self.outgoing.end(|lane| lane.is_ended = true);
    }

    /// Ends both directions: what was written is still read by the other end, what it wrote is forgotten.
    pub(crate) fn cut(&self) {
        self.shutdown_write();
        self.incoming.end(|lane| {
            lane.is_abandoned = true;
            lane.pieces = VecDeque::new();
            (lane.bytes, lane.read) = (0, 0);
        });
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.cut();
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Lane(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were read.
    read: usize,
    /// Bytes that wait.
    bytes: usize,
    spares: Vec<Vec<u8>>,
    /// The writer will write no more.
    is_ended: bool,
    /// The reader will read no more.
    is_abandoned: bool,
    /// Tasks that sleep until there is something to read; few, for an end has one or two.
    readers: Vec<Waker>,
    /// Tasks that sleep until there is room.
    writers: Vec<Waker>,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was added: wakes who waits for it, outside the lock.
    fn came(mut lane: MutexGuard<'_, Queue>) {
        if !lane.readers.is_empty() {
            let readers = std::mem::take(&mut lane.readers);
            drop(lane);
            readers.into_iter().for_each(Waker::wake);
        }
    }

    /// `count` bytes were taken: wakes who waits for room, outside the lock.
    fn taken(&self, mut lane: MutexGuard<'_, Queue>, count: usize) -> io::Result<usize> {
        if lane.bytes <= LANE_BYTES_LOW && !lane.writers.is_empty() {
            let writers = std::mem::take(&mut lane.writers);
            drop(lane);
            writers.into_iter().for_each(Waker::wake);
        }
        Ok(count)
    }

    fn end(&self, mark: impl FnOnce(&mut Queue)) {
        let mut lane = self.lock();
        mark(&mut lane);
        let (readers, writers) = (std::mem::take(&mut lane.readers), std::mem::take(&mut lane.writers));
        drop(lane);
        readers.into_iter().chain(writers).for_each(Waker::wake);
    }
}

impl Queue {
    fn is_over(&self) -> bool {
        self.is_ended || self.is_abandoned
    }

    /// What a reader that found nothing is told.
    fn nothing(&self) -> io::Result<()> {
        if self.is_over() { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    /// What a writer is told.
    fn room(&self) -> io::Result<()> {
        if self.is_over() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.bytes < LANE_BYTES_MAX { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn append(&mut self, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let fits = matches!(self.pieces.back(), Some(Piece::Buffer(buffer))
            if buffer.len() + len <= BUFFER_BYTES_MAX);
        if !fits {
            // Behind a full buffer comes another: not grown step by step.
            let capacity = if self.bytes >= BUFFER_BYTES_MAX { BUFFER_BYTES_MAX } else { 0 };
            let buffer = self.spares.pop().unwrap_or_else(|| Vec::with_capacity(capacity));
            self.pieces.push_back(Piece::Buffer(buffer));
        }
        if let Some(Piece::Buffer(buffer)) = self.pieces.back_mut() {
            let before = buffer.len();
            write(buffer);
            self.bytes += buffer.len() - before;
        }
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.spares.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spares.push(buffer);
        }
    }
}

fn register(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked<T>(result: io::Result<T>) -> bool {
        matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn bytes_arrive_in_order_however_they_are_written_and_read() {
        let (near, far) = pipe();
        near.try_append(2, |buffer| buffer.extend_from_slice(b"ab")).unwrap();
        let mut pieces =
            vec![Piece::Shared(vec![b'c'; COPY_BYTES_MAX].into()), Piece::Buffer(b"de".to_vec())].into_iter();
        let mut spent = 0;
        near.try_hand_over(|| pieces.next(), |_| spent += 1).unwrap();
        near.try_write_vectored(&[IoSlice::new(b"f"), IoSlice::new(b"g")]).unwrap();
        assert_eq!(spent, 1, "a short buffer is copied and given back");
        let mut first = [0; 1];
        assert_eq!(far.try_read(&mut first).unwrap(), 1);
        assert_eq!(
            far.try_take().unwrap().unwrap().as_slice(),
            b"b",
            "the rest of a piece that was read in part"
        );
        let mut rest = Vec::new();
        assert_eq!(far.try_read_buf(&mut rest).unwrap(), COPY_BYTES_MAX + 4);
        assert!(first == *b"a" && rest.ends_with(b"cdefg"));
        assert!(is_blocked(far.try_read(&mut first)) && is_blocked(far.try_take()));
    }

    #[test]
    fn a_full_lane_takes_no_more_until_it_is_read() {
        let (near, far) = pipe();
        let chunk = [7; 64 << 10];
        let mut written = 0;
        while near.try_write_vectored(&[IoSlice::new(&chunk)]).is_ok() {
            written += chunk.len();
        }
        assert_eq!(written, LANE_BYTES_MAX);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(near.poll_writable(&mut cx).is_pending());
        far.try_take().unwrap();
        assert!(near.poll_writable(&mut cx).is_ready());
    }

    #[test]
    fn what_was_written_before_the_end_is_read() {
        let (near, far) = pipe();
        near.try_append(1, |buffer| buffer.push(b'x')).unwrap();
        drop(near);
        assert_eq!(far.try_take().unwrap().unwrap().as_slice(), b"x");
        assert!(far.try_take().unwrap().is_none());
        assert_eq!(far.try_write_vectored(&[]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_cut_wakes_every_reader() {
        let (near, far) = pipe();
        let cut = async {
            tokio::task::yield_now().await;
            far.cut();
        };
        tokio::join!(near.readable(), near.readable(), cut);
        assert!(near.try_take().unwrap().is_none());
    }
}
