//! Giving space back: what is left of segments with much dead space is copied to new ones, erased messages are
//! overwritten, buffers of idle streams are let go.
//!
//! A rewrite is one new file beside the old ones. It counts once the manifest names it, which the next sync sees to;
//! only then do the old files go. What the old ones said of removals in other segments is said again at the end of the
//! log, in the same sync.

use super::files::segment_name;
use super::{Segment, Store};
use crate::error::Error;
use crate::format::header::{self, seed};
use crate::format::record::{self, Record};
use crate::index::{Entries, Entry};
use crate::message::NewMessage;

/// Fewer segments than this are not merged.
const MERGE_FROM: usize = 8;
/// Saving less than this is not worth a new file, which itself takes a header and a seal.
const WASTE_MIN: u64 = 4096;
/// An open segment smaller than this is not closed for its dead space.
const OPEN_WASTE_MIN: u32 = 512 << 10;

/// What a call of [`Store::maintain`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Bytes copied to new segments.
    pub copied: u64,
    /// Bytes that the disk gets back with the next sync.
    pub freed: u64,
    /// Messages overwritten in place.
    pub erased: u64,
    /// The budget ended before the work did.
    pub more: bool,
}

impl Store {
    /// Does what gives space back, reading about `budget` bytes, at least one segment. Call it when idle, or every so
    /// many megabytes; with 8 MiB it takes a few milliseconds. Nothing is final before the next sync.
    ///
    /// # Errors
    /// A disk error: nothing is lost and the next call tries again.
    pub fn maintain(&mut self, budget: u64) -> Result<Maintained, Error> {
        self.write_out()?;
        let mut done = Maintained::default();
        self.drop_dead_front();
        self.overwrite_erased(&mut done)?;
        if self.open_segment_is_waste() {
            self.close_segment()?;
        }
        let mut left = budget.max(1);
        while let Some((from, to)) = self.worth_rewriting() {
            if left == 0 {
                done.more = true;
                break;
            }
            let before: u64 = self.segments[from..to].iter().map(|segment| u64::from(segment.len)).sum();
            let copied = self.rewrite(from, to)?;
            done.copied += copied;
            done.freed += before.saturating_sub(copied);
            left = left.saturating_sub(before);
        }
        Ok(done)
    }

    /// Gives back the buffers; the next read or write takes them again. For streams that nothing happens to.
    pub fn rest(&mut self) {
        if let Some(files) = &mut self.files {
            files.shrink();
        }
    }

    fn open_segment_is_waste(&self) -> bool {
        self.segments.last().is_some_and(|active| {
            !active.closed
                && active.len >= OPEN_WASTE_MIN.min(self.options.segment_bytes() / 4)
                && active.live_bytes * 4 < u64::from(active.len)
        })
    }

    /// Neighbours to be copied into one: a suspect one first, then one with more dead than live, then two small ones.
    fn worth_rewriting(&self) -> Option<(usize, usize)> {
        let can = |segment: &Segment| segment.closed && !segment.damaged;
        let suspect = self.segments.iter().position(|segment| can(segment) && segment.suspect);
        let wasteful = || {
            self.segments.iter().position(|segment| {
                let waste = u64::from(segment.len).saturating_sub(segment.live_bytes);
                can(segment) && (segment.live == 0 || waste > segment.live_bytes + WASTE_MIN)
            })
        };
        if let Some(index) = suspect.or_else(wasteful) {
            return Some((index, index + 1));
        }
        if self.segments.len() < MERGE_FROM {
            return None;
        }
        let small = u64::from(self.options.segment_bytes() / 4);
        let pair = self.segments.windows(2).position(|pair| {
            pair.iter().all(can)
                && pair[0].live_bytes + pair[1].live_bytes <= small
                && pair[1].entries.reaches_from(pair[0].base)
        })?;
        Some((pair, pair + 2))
    }

    /// Makes those copies anew whose sync failed: a manifest that named them, and let their sources go, would promise
    /// what may not be on disk.
    pub(super) fn copy_doubtful(&mut self) -> Result<(), Error> {
        let is_doubtful = |segment: &Segment| {
            segment.suspect && segment.closed && !segment.damaged && !segment.data.is_empty()
        };
        while self.files.is_some()
            && let Some(index) = self.segments.iter().position(is_doubtful)
        {
            let name = segment_name(self.segments[index].id);
            self.rewrite(index, index + 1)?;
            if let Some(files) = &mut self.files {
                // No manifest ever named it, so that nothing needs it now.
                files.garbage.retain(|garbage| *garbage != name);
                let _ = files.disk.unlink(&files.path(&name));
            }
        }
        Ok(())
    }

    /// Copies what is there of neighbours into one new segment that takes their place, and says how long it is.
    pub(super) fn rewrite(&mut self, from: usize, to: usize) -> Result<u64, Error> {
        let Some(first) = self.segments.get(from) else { return Ok(0) };
        let (base, begun) = (first.base, first.begun);
        let id = match &self.files {
            Some(files) => files.next_id,
            None => first.id,
        };
        let mut copy = Segment::new(id, base, begun);
        copy.last = self.segments[to - 1].last;
        copy.closed = true;
        let mut out = match &self.files {
            Some(files) => files.header(id, base, begun, true).encode(),
            None => Vec::new(),
        };
        let mut said_again = Vec::new();
        for index in from..to {
            self.copy(index, &mut copy, &mut out, &mut said_again)?;
        }
        copy.len = out.len() as u32;
        let removed_before = self.removed.len();
        if self.files.is_some() {
            self.removed.extend(said_again);
            self.head_moved = true;
        }
        if copy.live > 0
            && let Err(error) = self.write_copy(&mut copy, &mut out)
        {
            self.removed.truncate(removed_before);
            self.head_moved = false;
            return Err(error);
        }
        let len = u64::from(copy.len);
        copy.entries.shrink();
        let live = copy.live > 0;
        for old in self.segments.splice(from..to, live.then_some(copy)) {
            if let Some(files) = &mut self.files {
                files.discard(old.id);
            }
        }
        // What was removed before is on disk already and stays removed when this write fails.
        self.write_out()?;
        Ok(if live { len } else { 0 })
    }

    /// Appends one segment's messages to a copy, and gathers what it says of removals elsewhere.
    fn copy(
        &mut self,
        index: usize,
        copy: &mut Segment,
        out: &mut Vec<u8>,
        said_again: &mut Vec<(u64, u64)>,
    ) -> Result<(), Error> {
        let source = self.source(index)?;
        let segment = &self.segments[index];
        for position in 0..segment.entries.len() {
            let entry = *segment.entries.get(position);
            let Some(offset) = entry.offset() else { continue };
            let seq = segment.entries.seq(position);
            let bytes = source.get(offset as usize..).unwrap_or_default();
            let decoded = match &self.files {
                Some(files) => record::decode(bytes, seed(files.salt, segment.id, offset)),
                None => record::decode_trusted(bytes),
            };
            let Some(Record::Message(message, _)) = decoded.map(|decoded| decoded.record) else {
                // Reading it says what is wrong and keeps the segment as it is.
                return Err(match self.get(seq) {
                    Err(error) => error,
                    Ok(_) => Error::Damaged { seq, place: format!("segment {}", copy.id) },
                });
            };
            let offset = out.len() as u32;
            let message = NewMessage {
                subject: message.subject,
                headers: message.headers,
                payload: message.payload,
                time_ns: message.time_ns,
                expires_ns: message.expires_ns,
            };
            let seed = self.files.as_ref().map(|files| seed(files.salt, copy.id, offset));
            let size = record::put_message(out, &message, seq, None, seed);
            let mut moved = Entry::new(offset, size, entry.subject);
            moved.next = entry.next;
            copy.entries.push(seq, moved);
            copy.fold.add(size.record());
            copy.live += 1;
            copy.physical += 1;
            copy.live_bytes += u64::from(size.record());
            copy.max_time = copy.max_time.max(message.time_ns);
        }
        if let Some(files) = &self.files {
            let ranges = removals(&source, files.salt, segment.id);
            said_again.extend(ranges.into_iter().flat_map(|range| self.still_needed(index, range)));
        }
        Ok(())
    }

    fn source(&mut self, index: usize) -> Result<Vec<u8>, Error> {
        let segment = &mut self.segments[index];
        let Some(files) = &self.files else { return Ok(std::mem::take(&mut segment.data)) };
        if !segment.data.is_empty() {
            return Ok(segment.data.clone());
        }
        let path = files.path(&segment_name(segment.id));
        let bytes = super::files::read_file(&*files.disk, &path)?.unwrap_or_default();
        Ok(bytes)
    }

    /// The parts of a removed range whose messages are still in another file.
    fn still_needed(&self, rewritten: usize, (first, last): (u64, u64)) -> Vec<(u64, u64)> {
        let mut needed = Vec::new();
        let from = first.max(self.first_seq);
        for (index, segment) in self.segments.iter().enumerate() {
            if index == rewritten || segment.physical == segment.live {
                continue;
            }
            let mut at = from.max(segment.base);
            let end = last.min(segment.last);
            // A sequence that was used again is somebody else's.
            while at <= end {
                let live = segment.entries.next_live(segment.entries.lower_bound(at));
                let live = live.map(|slot| segment.entries.seq(slot)).filter(|&seq| seq <= end);
                let until = live.map_or(end, |seq| seq.saturating_sub(1));
                if at <= until {
                    needed.push((at, until));
                }
                let Some(live) = live else { break };
                at = live + 1;
            }
        }
        needed
    }

    fn write_copy(&mut self, copy: &mut Segment, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(files) = &mut self.files else {
            copy.data = std::mem::take(out);
            copy.data.shrink_to_fit();
            return Ok(());
        };
        let seal = Record::Seal { records: copy.fold.records, checksum: copy.fold.value };
        let seed = seed(files.salt, copy.id, copy.len);
        record::put(out, &seal, None, seed);
        copy.fold.add(out.len() as u32 - copy.len);
        copy.len = out.len() as u32;
        let path = files.path(&segment_name(copy.id));
        let file = files.disk.open(&path, true).map_err(|error| Error::io("create", &path, error))?;
        if let Err(error) = file.set_len(0).and_then(|()| file.write_at(out, 0)) {
            let _ = files.disk.unlink(&path);
            return Err(Error::io("write", &path, error));
        }
        // Kept until the file is on disk: if the disk fails, the source may be gone from memory.
        copy.data = std::mem::take(out);
        files.next_id += 1;
        files.dirty.insert(copy.id, file);
        files.names_changed = true;
        files.listing_changed = true;
        Ok(())
    }

    fn overwrite_erased(&mut self, done: &mut Maintained) -> Result<(), Error> {
        let Some(files) = &mut self.files else { return Ok(()) };
        if files.erasures.is_empty() {
            return Ok(());
        }
        let finished = match &files.in_flight {
            Some(flight) => flight.ticket - 1,
            None => files.tickets,
        };
        let (due, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut files.erasures).into_iter().partition(|erasure| {
                let proven = files.proven.get(&erasure.segment).copied().unwrap_or(0);
                erasure.after <= finished && erasure.offset.saturating_add(erasure.len) <= proven
            });
        files.erasures = waiting;
        // What is waiting for proof gets it, also when nothing else is written.
        if !files.erasures.is_empty()
            && files.has_news()
            && let Some(active) = self.segments.last_mut()
        {
            files.put(active, &Record::Commit);
        }
        for erasure in due {
            let Some(segment) = self.segments.iter_mut().find(|segment| segment.id == erasure.segment) else {
                continue;
            };
            let path = files.path(&segment_name(erasure.segment));
            let mut bytes = vec![0; erasure.len as usize];
            let mut overwrite = || {
                let file = files.disk.open(&path, false)?;
                bytes[..4].copy_from_slice(&erasure.len.to_le_bytes());
                record::erase(&mut bytes, erasure.seq, seed(files.salt, segment.id, erasure.offset));
                file.write_at(&bytes, u64::from(erasure.offset))?;
                Ok(file)
            };
            match overwrite() {
                Ok(file) => {
                    segment.physical = segment.physical.saturating_sub(1);
                    files.dirty.insert(segment.id, file);
                    files.forget_window(erasure.segment);
                    done.erased += 1;
                }
                Err(error) => {
                    files.erasures.push(erasure);
                    return Err(Error::io("overwrite", &path, error));
                }
            }
        }
        Ok(())
    }
}

/// Every range that a segment's records call removed; what cannot be read is passed over.
fn removals(bytes: &[u8], salt: u64, id: u32) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = header::LEN;
    while at < bytes.len() {
        match record::decode(&bytes[at..], seed(salt, id, at as u32)) {
            Some(decoded) => {
                if let Record::Removed { ranges: removed, .. } = decoded.record {
                    ranges.extend(removed);
                }
                at += decoded.len;
            }
            None => match super::recover::resync(bytes, salt, id, at, 0) {
                Some(next) => at = next,
                None => break,
            },
        }
    }
    ranges
}

impl Entries {
    /// Whether all of them can stand in a segment that begins at `base`.
    fn reaches_from(&self, base: u64) -> bool {
        self.last_seq().is_none_or(|last| last - base < u64::from(u32::MAX))
    }
}
