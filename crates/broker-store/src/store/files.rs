//! The files of a stream as the store writes and reads them: the open segment with its buffer, a window on a closed
//! one, the mark. It knows offsets, not messages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::checkpoints::Slots;
use super::sync::Point;
use super::{Begun, Segment};
use crate::disk::{Disk, DiskFile};
use crate::error::Error;
use crate::format::header::{self, Header, seed};
use crate::format::manifest::Fold;
use crate::format::mark::{self, Mark};
use crate::format::record::{self, Record, Size};
use crate::message::NewMessage;

/// Written bytes that stay in memory for readers who follow the end.
const TAIL_KEPT: usize = 256 << 10;
/// Closed segments that stay open for reading: a bucket's keys are spread over many, and opening costs more than
/// reading.
const HANDLES_MAX: usize = 16;
/// What is read at once by somebody who walks, and by somebody who jumps.
const WALK_BYTES: u32 = 256 << 10;
const JUMP_BYTES: u32 = 4 << 10;
/// An open segment shorter than this is as long as what it holds: most streams are small.
const ROOM_FROM: u32 = 16 << 10;
/// The most zeros that stand behind what was written.
const ROOM_MAX: u32 = 256 << 10;
static ROOM: [u8; ROOM_MAX as usize] = [0; ROOM_MAX as usize];

/// The name of the mark.
pub(super) const MARK: &str = "mark";

/// The name of a segment.
pub(super) fn segment_name(id: u32) -> String {
    format!("{id:08}.seg")
}

/// Everything about files that outlives one call.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) salt: u64,
    pub(super) next_id: u32,
    active: Option<Arc<dyn DiskFile>>,
    pub(super) active_id: u32,
    /// The end of the open segment; what is beyond `written` is not in the file yet.
    tail: Vec<u8>,
    tail_start: u32,
    pub(super) written: u32,
    pub(super) written_fold: Fold,
    /// The open segment's file is so long: what is behind `written` is zeros.
    room: u32,
    /// Durable up to here, in the open segment.
    pub(super) synced: u32,
    pub(super) synced_at: Point,
    pub(super) synced_seq: u64,
    /// The highest `synced` that a record of the open segment says.
    pub(super) committed: u32,
    /// How far each segment is proven durable by what is durable itself: only there may bytes be overwritten. Torn
    /// ones elsewhere would pass for the end of the log.
    pub(super) proven: BTreeMap<u32, u32>,
    window: Window,
    /// The most recently used last.
    handles: Vec<(u32, Arc<dyn DiskFile>)>,
    mark: Option<Arc<dyn DiskFile>>,
    pub(super) mark_generation: u64,
    pub(super) manifest_generation: u64,
    /// Segments with bytes that were not synced.
    pub(super) dirty: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// Names were added to the directory.
    pub(super) names_changed: bool,
    /// The manifest does not say what there is.
    pub(super) listing_changed: bool,
    /// Files that may go once the manifest does not name them.
    pub(super) garbage: Vec<String>,
    pub(super) checkpoints: BTreeMap<String, Slots>,
    /// Names of checkpoints of which nothing can be read. The manifest goes on naming them, so that they stay damage
    /// until they are saved or removed, or somebody asks for a repair.
    pub(super) lost_checkpoints: BTreeSet<String>,
    pub(super) in_flight: Option<InFlight>,
    /// Whether the directory is this store's, for syncs that are under way.
    pub(super) tenancy: Arc<Tenancy>,
    pub(super) tickets: u64,
    /// Messages whose bytes are to be overwritten once their removal is durable: segment, offset, length, sequence,
    /// and whether it was durable.
    pub(super) erasures: Vec<Erasure>,
}

/// Whether a store's directory still is its own. A sync on another thread must not touch what stands under the same
/// name later.
#[derive(Debug, Default)]
pub(super) struct Tenancy {
    ended: Mutex<bool>,
}

impl Tenancy {
    /// Does something with names in the directory, unless it was given up. A lock and no channel: what is done is a call
    /// of the operating system, and who gives it up must not go on before it has returned.
    pub(super) fn use_names<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        (!*ended).then(work)
    }

    pub(super) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// A sync that another thread does meanwhile.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) ticket: u64,
    /// As long as the job, or its result, is there.
    pub(super) alive: Weak<()>,
    pub(super) segments: BTreeMap<u32, Arc<dyn DiskFile>>,
}

/// A message whose bytes are to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Erasure {
    pub(super) seq: u64,
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    /// The ticket after which its removal is durable.
    pub(super) after: u64,
}

/// A piece of a closed segment, or of the written part of the open one.
#[derive(Debug, Default)]
struct Window {
    segment: u32,
    start: u32,
    bytes: Vec<u8>,
}

impl Window {
    fn holds(&self, segment: u32, offset: u32, len: u32) -> bool {
        self.segment == segment
            && offset >= self.start
            && u64::from(offset) + u64::from(len) <= u64::from(self.start) + self.bytes.len() as u64
    }
}

/// Where bytes are that were asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Tail(usize),
    Window(usize),
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, salt: u64) -> Self {
        Self {
            disk,
            dir,
            salt,
            next_id: 1,
            active: None,
            active_id: 0,
            tail: Vec::new(),
            tail_start: 0,
            written: 0,
            written_fold: Fold::default(),
            room: 0,
            synced: 0,
            synced_at: Point::default(),
            synced_seq: 0,
            committed: 0,
            proven: BTreeMap::new(),
            window: Window::default(),
            handles: Vec::new(),
            mark: None,
            mark_generation: 0,
            manifest_generation: 0,
            dirty: BTreeMap::new(),
            names_changed: false,
            listing_changed: false,
            garbage: Vec::new(),
            checkpoints: BTreeMap::new(),
            lost_checkpoints: BTreeSet::new(),
            in_flight: None,
            tenancy: Arc::default(),
            tickets: 0,
            erasures: Vec::new(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn memory(&self) -> usize {
        self.tail.capacity() + self.window.bytes.capacity()
    }

    /// Creates the file of the next segment; its header waits in the buffer.
    pub(super) fn begin(&mut self, base: u64, begun: Begun) -> Result<Segment, Error> {
        let id = self.next_id;
        let path = self.path(&segment_name(id));
        let file = self.disk.open(&path, true).map_err(|error| Error::io("create", &path, error))?;
        self.next_id += 1;
        self.names_changed = true;
        self.listing_changed = true;
        let header = self.header(id, base, begun, false);
        self.activate(id, file, 0, Fold::default());
        self.tail.extend_from_slice(&header.encode());
        let mut segment = Segment::new(id, base, begun);
        segment.len = header::LEN as u32;
        Ok(segment)
    }

    pub(super) fn header(&self, id: u32, base: u64, begun: Begun, rewritten: bool) -> Header {
        Header {
            id,
            salt: self.salt,
            base,
            first_seq: begun.first_seq,
            last_seq: begun.last_seq,
            last_time: begun.last_time.unwrap_or(i64::MIN),
            rewritten,
        }
    }

    /// Goes on appending to a file of which `len` bytes are written.
    pub(super) fn activate(&mut self, id: u32, file: Arc<dyn DiskFile>, len: u32, fold: Fold) {
        self.active = Some(file);
        self.active_id = id;
        self.tail.clear();
        self.tail_start = len;
        self.written = len;
        self.written_fold = fold;
        self.room = len;
        self.synced = 0;
        self.committed = 0;
    }

    /// Leaves the open segment, all of which is written.
    pub(super) fn retire_active(&mut self) {
        self.trim();
        self.active = None;
        self.active_id = 0;
        self.tail.clear();
        self.listing_changed = true;
    }

    /// Bytes that wait to be written.
    pub(super) fn pending(&self, active: &Segment) -> u32 {
        if active.closed { 0 } else { active.len - self.written }
    }

    fn news(&self) -> Option<u32> {
        (self.synced > self.committed).then_some(self.synced)
    }

    pub(super) fn put_message(&mut self, id: u32, offset: u32, message: &NewMessage<'_>, seq: u64) -> Size {
        let news = self.news();
        let seed = seed(self.salt, id, offset);
        let size = record::put_message(&mut self.tail, message, seq, news, Some(seed));
        self.committed = news.unwrap_or(self.committed);
        size
    }

    pub(super) fn put(&mut self, segment: &mut Segment, record: &Record<'_>) {
        let news = self.news();
        let before = self.tail.len();
        record::put(&mut self.tail, record, news, seed(self.salt, segment.id, segment.len));
        self.committed = news.unwrap_or(self.committed);
        let len = (self.tail.len() - before) as u32;
        segment.len += len;
        segment.fold.add(len);
    }

    /// Whether a sync happened that no record speaks of.
    pub(super) fn has_news(&self) -> bool {
        self.active.is_some() && self.news().is_some()
    }

    /// Writes what waits.
    pub(super) fn write(&mut self, segment: &Segment) -> Result<(), Error> {
        let Some(file) = &self.active else { return Ok(()) };
        let from = (self.written - self.tail_start) as usize;
        if from == self.tail.len() {
            return Ok(());
        }
        self.dirty.entry(self.active_id).or_insert_with(|| Arc::clone(file));
        if let Err(error) = file.write_at(&self.tail[from..], u64::from(self.written)) {
            return Err(Error::io("write", &self.path(&segment_name(self.active_id)), error));
        }
        self.written = segment.len;
        self.written_fold = segment.fold;
        self.room = self.room.max(self.written);
        if self.tail.len() > 2 * TAIL_KEPT {
            let dropped = self.tail.len() - TAIL_KEPT;
            self.tail.drain(..dropped);
            self.tail_start += dropped as u32;
        }
        Ok(())
    }

    /// Puts zeros behind what was written, when there is little room left: a sync of bytes that are on disk already
    /// takes half as long as one of a file that grew. Whoever reads them takes them for the end of the file. That it
    /// fails is no error: there is only less room.
    pub(super) fn make_room(&mut self) {
        let Some(file) = &self.active else { return };
        if self.written < ROOM_FROM || self.written < self.room {
            return;
        }
        let room = (self.written / 2).min(ROOM_MAX).next_multiple_of(4 << 10).min(ROOM_MAX);
        if file.write_at(&ROOM[..room as usize], u64::from(self.written)).is_ok() {
            self.room = self.written.saturating_add(room);
        }
    }

    /// Takes the zeros away that stand behind what was written. Those that stay take space and nothing else.
    pub(super) fn trim(&mut self) {
        if self.room > self.written
            && let Some(file) = &self.active
            && file.set_len(u64::from(self.written)).is_ok()
        {
            self.room = self.written;
        }
    }

    /// Leaves the open segment as long as what it holds, from here on.
    pub(super) fn end_room(&mut self) {
        self.trim();
        self.room = u32::MAX;
    }

    /// Goes back to what was written, and says whether the file holds nothing else.
    pub(super) fn rewind(&mut self, segment: &mut Segment) -> bool {
        let kept = (self.written.max(header::LEN as u32) - self.tail_start) as usize;
        self.tail.truncate(kept);
        segment.len = self.written.max(header::LEN as u32);
        segment.fold = self.written_fold;
        self.committed = 0;
        self.room = self.written;
        self.active.as_ref().is_some_and(|file| file.set_len(u64::from(self.written)).is_ok())
    }

    /// Gives back the buffers of an idle stream.
    pub(super) fn shrink(&mut self) {
        self.trim();
        if self.tail_start as usize + self.tail.len() == self.written as usize {
            self.tail_start = self.written;
            self.tail = Vec::new();
        }
        self.window = Window::default();
        self.handles = Vec::new();
    }

    /// Brings bytes of a segment into memory.
    pub(super) fn load(&mut self, segment: &Segment, offset: u32, len: u32) -> Result<Place, Error> {
        if segment.id == self.active_id && offset >= self.tail_start {
            return Ok(Place::Tail((offset - self.tail_start) as usize));
        }
        if !self.window.holds(segment.id, offset, len) {
            self.fill(segment, offset, len)?;
        }
        Ok(Place::Window((offset - self.window.start) as usize))
    }

    fn fill(&mut self, segment: &Segment, offset: u32, len: u32) -> Result<(), Error> {
        let path = self.path(&segment_name(segment.id));
        let end = u64::from(self.window.start) + self.window.bytes.len() as u64;
        let walks = if self.window.segment == segment.id {
            offset >= self.window.start && u64::from(offset) <= end + u64::from(JUMP_BYTES)
        } else {
            offset == header::LEN as u32
        };
        let file = self.handle(segment.id)?;
        let limit = if segment.id == self.active_id { self.written } else { segment.len };
        let wanted = len.max(if walks { WALK_BYTES } else { JUMP_BYTES }).min(limit.saturating_sub(offset));
        self.window.segment = segment.id;
        self.window.start = offset;
        self.window.bytes.resize(wanted as usize, 0);
        let read = file
            .read_at(&mut self.window.bytes, u64::from(offset))
            .inspect_err(|_| self.window.segment = 0)
            .map_err(|error| Error::io("read", &path, error))?;
        // A file that ends early: the reader finds no record there and says so.
        self.window.bytes[read..].fill(0);
        if self.window.bytes.len() < len as usize {
            self.window.bytes.resize(len as usize, 0);
        }
        Ok(())
    }

    /// The file of a segment, for reading.
    fn handle(&mut self, id: u32) -> Result<Arc<dyn DiskFile>, Error> {
        if let Some(index) = self.handles.iter().position(|(other, _)| *other == id) {
            let entry = self.handles.remove(index);
            let file = Arc::clone(&entry.1);
            self.handles.push(entry);
            return Ok(file);
        }
        let path = self.path(&segment_name(id));
        let file = self.disk.open_read_only(&path).map_err(|error| Error::io("open", &path, error))?;
        if self.handles.len() == HANDLES_MAX {
            self.handles.remove(0);
        }
        self.handles.push((id, Arc::clone(&file)));
        Ok(file)
    }

    pub(super) fn bytes(&self, place: Place, len: u32) -> &[u8] {
        let (bytes, start) = match place {
            Place::Tail(start) => (&self.tail, start),
            Place::Window(start) => (&self.window.bytes, start),
        };
        bytes.get(start..start + len as usize).unwrap_or_default()
    }

    /// Forgets what was read of a segment whose bytes changed.
    pub(super) fn forget_window(&mut self, segment: u32) {
        self.handles.retain(|(id, _)| *id != segment);
        if self.window.segment == segment {
            self.window = Window::default();
        }
    }

    /// Lets go of a segment's file: it may go once the manifest does not name it. Until then it is what counts, so it
    /// is synced like the others.
    pub(super) fn discard(&mut self, id: u32) {
        self.garbage.push(segment_name(id));
        self.listing_changed = true;
        self.erasures.retain(|erasure| erasure.segment != id);
        self.proven.remove(&id);
        self.forget_window(id);
    }

    /// Begins a mark, or goes on with the one there is.
    pub(super) fn open_mark(&mut self, generation: u64) -> Result<(), Error> {
        let path = self.path(MARK);
        let file = self.disk.open(&path, true).map_err(|error| Error::io("open", &path, error))?;
        let len = file.len().map_err(|error| Error::io("read", &path, error))?;
        if len != mark::LEN as u64 {
            file.set_len(mark::LEN as u64).map_err(|error| Error::io("write", &path, error))?;
            self.names_changed = true;
        }
        self.mark = Some(file);
        self.mark_generation = generation;
        Ok(())
    }

    /// Notes how far the log goes. That it fails is no error: it only proves less.
    pub(super) fn write_mark(&mut self, last_seq: u64, written: (u32, u32), closed: bool) {
        let Some(file) = &self.mark else { return };
        let mark = Mark {
            generation: self.mark_generation + 1,
            synced: self.synced_at.place(),
            written: written.max(self.synced_at.place()),
            closed,
            last_seq,
        };
        let slot = (mark.generation % 2) * mark::SLOT as u64;
        if file.write_at(&mark.encode(), slot).is_ok() {
            self.mark_generation = mark.generation;
        }
    }

    pub(super) fn sync_mark(&self) -> Result<(), Error> {
        match &self.mark {
            Some(file) => file.sync_data().map_err(|error| Error::io("sync", &self.path(MARK), error)),
            None => Ok(()),
        }
    }
}

/// Reads a whole file; `None` when there is none.
pub(super) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match disk.open_read_only(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let mut bytes = Vec::new();
    read_into(&*file, path, &mut bytes)?;
    Ok(Some(bytes))
}

/// Reads a whole open file into a buffer.
pub(super) fn read_into(file: &dyn DiskFile, path: &Path, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let len = file.len().map_err(|error| Error::io("read", path, error))?;
    // No file of ours is longer than an offset can say; what is beyond is not ours.
    bytes.resize(len.min(u64::from(u32::MAX)) as usize, 0);
    let read = file.read_at(bytes, 0).map_err(|error| Error::io("read", path, error))?;
    bytes.truncate(read);
    Ok(())
}
