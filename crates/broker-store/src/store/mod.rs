//! The store: one stream's messages, in memory or in files. Here is what it is made of; what can be done with it is in
//! the files below, one per kind of call.

mod append;
mod check;
mod checkpoints;
mod evidence;
mod files;
mod losses;
mod maintain;
mod open;
mod query;
mod read;
mod recover;
mod remove;
mod sync;
mod undo;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

pub use check::{check, repair};
pub use maintain::Maintained;
pub use query::{Next, Page};
pub use remove::{Erase, Purge};
pub use sync::{SyncJob, SyncResult};

use crate::format::manifest::Fold;
use crate::format::record::Size;
use crate::index::{Entries, Entry, Subjects};
use crate::message::State;
use crate::report::Finding;
use files::{Erasure, Files};
use undo::Undo;

/// What [`Durability`] a stream was promised decides what the mark beside the log claims. The calls are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged when [`Store::synced`] says so: survives a power cut.
    #[default]
    Group,
    /// Acknowledged after [`Store::write_out`]: survives the end of the process, `kill -9` included.
    Process,
    /// Acknowledged after [`Store::append`]: survives nothing.
    Async,
}

/// How a store is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How large a segment gets before the next is begun, in bytes; 64 KiB to 1 GiB. Default 8 MiB, which suits logs;
    /// 4 MiB suits streams that replace their messages often: smaller pieces are rewritten sooner.
    pub segment_bytes: u32,
    /// What the acknowledgements promise. Default [`Durability::Group`].
    pub durability: Durability,
    /// Any number that no other stream has: files of another stream are told from this one's. Used when the store is
    /// created.
    pub salt: u64,
    /// Whether a directory without a store becomes one. Default: yes.
    pub create: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, durability: Durability::Group, salt: 0, create: true }
    }
}

impl Options {
    fn segment_bytes(&self) -> u32 {
        self.segment_bytes.clamp(64 << 10, 1 << 30)
    }
}

/// One stream's messages. See the [crate's documentation](crate) for how the calls fit together.
///
/// It belongs to one thread; only [`SyncJob`]s go to others. Dropping it writes nothing: what was not written out is
/// gone, as after a crash. [`Store::close`] is the orderly end.
#[derive(Debug)]
pub struct Store {
    options: Options,
    /// In the order of their sequences. Only the last may be open.
    segments: Vec<Segment>,
    subjects: Subjects,
    /// `None` when the messages are in memory only.
    files: Option<Files>,
    msgs: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    first_time: Option<i64>,
    last_time: Option<i64>,
    /// Messages with a time to live, the soonest first; also some that are gone.
    expiries: BinaryHeap<Reverse<(i64, u64)>>,
    /// Those of removed messages that were taken out since the last write.
    expiries_seen: Vec<Reverse<(i64, u64)>>,
    /// Sequences whose message was damaged: first to last, and where it was.
    lost: BTreeMap<u64, (u64, String)>,
    findings: Vec<Finding>,
    /// Since the last write, so that a write that fails can be taken back.
    undo: Vec<Undo>,
    /// Removed since the last write.
    removed: Vec<(u64, u64)>,
    erased: Vec<Erasure>,
    /// Recorded in the buffer, but not written yet.
    erasing: Vec<Erasure>,
    /// Whether the first sequence moved since the last write.
    head_moved: bool,
    /// Whether a segment may have lost its last message.
    emptied: bool,
    /// A sync failed, and the removals that it may have lost are not written again yet; the last durable sequence.
    refused_after: Option<u64>,
    /// The checkpoints of a stream in memory.
    kept: BTreeMap<String, (u16, Vec<u8>)>,
}

/// A stretch of the log: a file, or a buffer.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u32,
    /// No sequence in it is lower.
    pub(crate) base: u64,
    /// No sequence in it is higher.
    pub(crate) last: u64,
    pub(crate) entries: Entries,
    /// Messages that are still there.
    pub(crate) live: u32,
    /// The bytes of their records.
    pub(crate) live_bytes: u64,
    /// Messages whose bytes are there, removed ones included.
    pub(crate) physical: u32,
    /// How long it is, the header included.
    pub(crate) len: u32,
    pub(crate) fold: Fold,
    /// Nothing is appended any more.
    pub(crate) closed: bool,
    /// A part cannot be read: kept as it is until somebody asks for a repair.
    pub(crate) damaged: bool,
    /// There may be bytes behind its end, or on disk others than in memory: rewritten before anything else.
    pub(crate) suspect: bool,
    pub(crate) max_time: i64,
    /// What its header says of the moment it was begun.
    pub(crate) begun: Begun,
    /// The records, for a stream in memory.
    pub(crate) data: Vec<u8>,
}

/// The stream at the moment a segment was begun.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Begun {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) last_time: Option<i64>,
}

impl Segment {
    pub(crate) fn new(id: u32, base: u64, begun: Begun) -> Self {
        Self {
            id,
            base,
            last: base.saturating_sub(1),
            entries: Entries::new(base),
            live: 0,
            live_bytes: 0,
            physical: 0,
            len: 0,
            fold: Fold::default(),
            closed: false,
            damaged: false,
            suspect: false,
            max_time: i64::MIN,
            begun,
            data: Vec::new(),
        }
    }

    /// Lets a segment without messages take a lower one: the message it was begun for was taken back.
    pub(crate) fn rebase(&mut self, seq: u64) {
        if seq < self.base && self.entries.len() == 0 {
            self.base = seq;
            self.last = self.last.min(seq.saturating_sub(1));
            self.entries = Entries::new(seq);
        }
    }

    /// The entry of a message that is there.
    fn live_entry(&self, seq: u64) -> Option<(usize, &Entry)> {
        let position = self.entries.position(seq)?;
        let entry = self.entries.get(position);
        entry.is_live().then_some((position, entry))
    }
}

impl Store {
    /// A store that forgets everything when it is dropped.
    pub fn memory(options: Options) -> Self {
        Self::empty(options)
    }

    fn empty(options: Options) -> Self {
        Self {
            options,
            segments: Vec::new(),
            subjects: Subjects::default(),
            files: None,
            msgs: 0,
            bytes: 0,
            first_seq: 1,
            last_seq: 0,
            first_time: None,
            last_time: None,
            expiries: BinaryHeap::new(),
            expiries_seen: Vec::new(),
            lost: BTreeMap::new(),
            findings: Vec::new(),
            undo: Vec::new(),
            removed: Vec::new(),
            erased: Vec::new(),
            erasing: Vec::new(),
            head_moved: false,
            emptied: false,
            refused_after: None,
            kept: BTreeMap::new(),
        }
    }

    /// Whether it is kept in files.
    pub fn is_file(&self) -> bool {
        self.files.is_some()
    }

    /// How many messages there are.
    pub fn msgs(&self) -> u64 {
        self.msgs
    }

    /// The messages' bytes as [`State::bytes`] counts them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The lowest sequence with a message, `last_seq() + 1` when there is none.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// The highest sequence ever used, 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The last sequence that survives a power cut: every message up to it, and every removal made before it was
    /// appended. For a stream in memory: 0.
    pub fn durable_seq(&self) -> u64 {
        self.files.as_ref().map_or(0, |files| files.synced_seq)
    }

    /// What the stream holds. Reads one record when the first message changed since the last call.
    pub fn state(&mut self) -> State {
        let first_time_ns = self.oldest().map(|(_, time)| time);
        State {
            msgs: self.msgs,
            bytes: self.bytes,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            first_time_ns,
            last_time_ns: self.last_time,
            num_deleted: (self.last_seq + 1).saturating_sub(self.first_seq) - self.msgs,
            num_subjects: self.subjects.live(),
            lost: self.lost_count(),
        }
    }

    /// What was found damaged so far: when the store was opened, and by reads since.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What a message's promise is from here on; see [`Options::durability`].
    pub fn set_durability(&mut self, durability: Durability) {
        self.options.durability = durability;
    }

    /// The bytes of all segments: what the disk, or the memory, is charged with.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// How many segments there are.
    pub fn num_segments(&self) -> usize {
        self.segments.len()
    }

    /// About what the index and the buffers take in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let segments = self.segments.iter();
        segments.map(|segment| segment.entries.memory() + segment.data.capacity() + 200).sum::<usize>()
            + self.subjects.memory()
            + self.expiries.capacity() * 16
            + self.files.as_ref().map_or(0, Files::memory)
    }

    fn counted(&self, size: Size) -> u64 {
        if self.files.is_some() { size.counted_in_file() } else { size.counted_in_memory() }
    }

    /// The segment that would hold a sequence.
    fn segment_of(&self, seq: u64) -> Option<usize> {
        let last = self.segments.last()?;
        if last.base <= seq {
            return Some(self.segments.len() - 1);
        }
        self.segments.partition_point(|segment| segment.base <= seq).checked_sub(1)
    }

    /// The message of a sequence: its segment, its slot, its entry.
    fn find(&self, seq: u64) -> Option<(usize, usize, Entry)> {
        let index = self.segment_of(seq)?;
        let (position, entry) = self.segments[index].live_entry(seq)?;
        Some((index, position, *entry))
    }

    fn lost_count(&self) -> u64 {
        self.lost.iter().map(|(first, (last, _))| last - first + 1).sum()
    }
}
