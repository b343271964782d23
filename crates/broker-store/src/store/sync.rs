//! From memory to the file, and from the file to the disk: what makes which promise true.
//!
//! ```text
//! append ──► buffer ──write_out──► file ──sync_ticket──► SyncJob::run (another thread) ──synced──► durable
//!            visible               survives kill -9                                      survives a power cut
//! ```
//!
//! A write that fails is taken back: nobody was told that it succeeded. A sync that fails cannot be: nobody knows what
//! is on disk, and asking again may be answered with a yes that is not true. So what was not durable before is refused,
//! the segments concerned are never written again, and what they hold of older messages is copied to new ones.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{InFlight, Tenancy, segment_name};
use super::{Durability, Store};
use crate::disk::{Disk, DiskFile};
use crate::error::Error;
use crate::format::manifest::{FILES, Fold, Listed, Manifest};
use crate::format::record::Record;
use crate::report::{Finding, Severity};

/// A sync to be done on another thread, while the store goes on. When it, or its result, is dropped instead of given to
/// [`Store::synced`], nothing became durable by it, and the next ticket does what it was to do.
#[derive(Debug)]
pub struct SyncJob {
    ticket: u64,
    alive: Arc<()>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    tenancy: Arc<Tenancy>,
    /// Those that are not open are opened one after the other.
    files: Vec<(PathBuf, Option<Arc<dyn DiskFile>>)>,
    sync_dir: bool,
    manifest: Option<Vec<u8>>,
    manifest_generation: u64,
    garbage: Vec<String>,
    checkpoints: Vec<(String, u64)>,
    /// What is proven when this is done; see `Files::proven`.
    proven: Vec<(u32, u32)>,
    point: Point,
    seq: u64,
}

/// How far the open segment was written when a ticket was taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Point {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) fold: Fold,
}

impl Point {
    pub(super) fn place(self) -> (u32, u32) {
        (self.segment, self.offset)
    }
}

/// How a [`SyncJob`] went; give it to [`Store::synced`].
#[derive(Debug)]
#[must_use = "the store waits for it"]
pub struct SyncResult {
    ticket: u64,
    _alive: Arc<()>,
    point: Point,
    seq: u64,
    data: Result<(), Error>,
    manifest: Result<(), Error>,
    manifest_generation: Option<u64>,
    checkpoints: Vec<(String, u64)>,
    proven: Vec<(u32, u32)>,
}

impl SyncJob {
    /// The number of this ticket, counted from 1 since the store was opened: what was done before it was taken is
    /// durable when its result is.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Does the work: one `fdatasync` for each file that was written to, usually one. Blocks as long as the disk
    /// takes.
    pub fn run(self) -> SyncResult {
        let data = self.sync_files();
        let manifest = match (&data, &self.manifest) {
            (Ok(()), Some(bytes)) => self.tenancy.use_names(|| self.write_manifest(bytes)),
            _ => None,
        };
        let written = matches!(manifest, Some(Ok(())));
        let manifest = manifest.unwrap_or(Ok(()));
        if written {
            for name in &self.garbage {
                // One that stays is found and removed when the store is opened.
                let _ = self.tenancy.use_names(|| self.disk.unlink(&self.dir.join(name)));
            }
        }
        SyncResult {
            ticket: self.ticket,
            _alive: self.alive,
            point: self.point,
            seq: self.seq,
            data,
            manifest,
            manifest_generation: written.then_some(self.manifest_generation),
            checkpoints: self.checkpoints,
            proven: self.proven,
        }
    }

    fn sync_files(&self) -> Result<(), Error> {
        for (path, file) in &self.files {
            let synced = match file {
                Some(file) => file.sync_data(),
                None => self.tenancy.use_names(|| self.sync_name(path)).unwrap_or(Ok(())),
            };
            synced.map_err(|error| Error::io("sync", path, error))?;
        }
        if self.sync_dir {
            let synced = self.tenancy.use_names(|| self.disk.sync_dir(&self.dir)).unwrap_or(Ok(()));
            synced.map_err(|error| Error::io("sync", &self.dir, error))?;
        }
        Ok(())
    }

    /// What is missing is found missing when it is read.
    fn sync_name(&self, path: &Path) -> io::Result<()> {
        match self.disk.open(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened?.sync_data(),
        }
    }

    fn write_manifest(&self, bytes: &[u8]) -> Result<(), Error> {
        let path = self.dir.join(FILES[(self.manifest_generation % 2) as usize]);
        let write = || {
            let file = self.disk.open(&path, true)?;
            file.write_at(bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
            file.sync_data()
        };
        write().map_err(|error| Error::io("write", &path, error))
    }
}

impl SyncResult {
    /// The number of the ticket it answers.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }
}

impl Store {
    /// Writes everything appended and removed since the last call to the file, in one write. Call it at the end of
    /// each batch: from then on it survives the end of the process, and with [`Durability::Process`] may be
    /// acknowledged. A stream in memory has nothing to write, but needs the call too: it ends the batch.
    ///
    /// # Errors
    /// A disk error: everything since the last successful call is undone, removals included, and
    /// [`Store::last_seq`] says what is left. Refuse those messages; the store goes on.
    pub fn write_out(&mut self) -> Result<(), Error> {
        if self.files.is_none() {
            self.keep();
            return Ok(());
        }
        if let Err(error) = self.put_removals() {
            self.take_back();
            return Err(error);
        }
        let (Some(files), Some(active)) = (&mut self.files, self.segments.last_mut()) else {
            self.keep();
            return Ok(());
        };
        if files.pending(active) == 0 {
            self.keep();
            return Ok(());
        }
        match files.write(active) {
            Ok(()) => {
                if self.options.durability == Durability::Group {
                    files.make_room();
                }
                self.keep();
                self.mark_written();
                Ok(())
            }
            Err(error) => {
                let sound = files.rewind(active);
                let empty = files.written == 0;
                self.take_back();
                if !sound {
                    self.give_up_active(empty);
                }
                Err(error)
            }
        }
    }

    /// With [`Durability::Group`] nothing is acknowledged by being written.
    fn mark_written(&mut self) {
        let Some(files) = &mut self.files else { return };
        if self.options.durability != Durability::Group {
            let written = (files.active_id, files.written);
            files.write_mark(self.last_seq, written, false);
        }
    }

    /// Leaves the open segment because bytes that nobody was promised may stand behind its end.
    fn give_up_active(&mut self, empty: bool) {
        let Some(files) = &mut self.files else { return };
        files.retire_active();
        if let Some(segment) = self.segments.last_mut() {
            segment.closed = true;
            segment.suspect = true;
            if empty {
                files.discard(segment.id);
                self.segments.pop();
            }
        }
    }

    /// Writes out, and hands over the sync that makes it durable; `None` when all is durable already, and while
    /// another one is under way: [`Store::synced`] ends that.
    ///
    /// Also with [`Durability::Process`] and [`Durability::Async`] call it now and then: what [`Store::maintain`] frees
    /// is given back only by a sync.
    ///
    /// # Errors
    /// Those of [`Store::write_out`].
    pub fn sync_ticket(&mut self) -> Result<Option<SyncJob>, Error> {
        self.write_out()?;
        self.take_back_dropped();
        let is_idle = self.files.as_ref().is_some_and(|files| files.in_flight.is_none());
        if is_idle && let Err(error) = self.copy_doubtful() {
            return Err(self.not_kept(Vec::new(), error));
        }
        let last_seq = self.last_seq;
        let listing = self.files.as_ref().is_some_and(|files| files.listing_changed);
        let manifest = if listing { self.manifest() } else { Manifest::default() };
        let Some(files) = &mut self.files else { return Ok(None) };
        if files.in_flight.is_some() {
            return Ok(None);
        }
        files.write_checkpoints()?;
        let checkpoints = files.dirty_checkpoints();
        if files.dirty.is_empty() && !files.names_changed && !listing && checkpoints.is_empty() {
            return Ok(None);
        }
        files.tickets += 1;
        let dirty = std::mem::take(&mut files.dirty);
        let mut synced: Vec<(PathBuf, Option<Arc<dyn DiskFile>>)> =
            dirty.iter().map(|(&id, file)| (files.path(&segment_name(id)), Some(Arc::clone(file)))).collect();
        let alive = Arc::new(());
        let seen = Arc::downgrade(&alive);
        files.in_flight = Some(InFlight { ticket: files.tickets, alive: seen, segments: dirty });
        for (name, _) in &checkpoints {
            synced.extend(files.checkpoint_files(name));
        }
        files.listing_changed = false;
        let closed = manifest.segments.iter().filter(|segment| segment.closed);
        let mut proven: Vec<(u32, u32)> = closed.map(|segment| (segment.id, u32::MAX)).collect();
        proven.push((files.active_id, files.committed));
        let generation = files.manifest_generation + 1;
        Ok(Some(SyncJob {
            ticket: files.tickets,
            alive,
            disk: Arc::clone(&files.disk),
            dir: files.dir.clone(),
            tenancy: Arc::clone(&files.tenancy),
            files: synced,
            sync_dir: std::mem::take(&mut files.names_changed),
            manifest: listing.then(|| Manifest { generation, ..manifest }.encode()),
            manifest_generation: generation,
            garbage: if listing { std::mem::take(&mut files.garbage) } else { Vec::new() },
            checkpoints,
            proven,
            point: Point { segment: files.active_id, offset: files.written, fold: files.written_fold },
            seq: last_seq,
        }))
    }

    /// Does again what a job that was dropped was to do.
    fn take_back_dropped(&mut self) {
        let Some(files) = &mut self.files else { return };
        if let Some(flight) = files.in_flight.take_if(|flight| flight.alive.strong_count() == 0) {
            files.dirty.extend(flight.segments);
            files.listing_changed = true;
            files.names_changed = true;
            // What was to be erased after it is erased after the next.
            let next = files.tickets + 1;
            let waiting = files.erasures.iter_mut().filter(|erasure| erasure.after == flight.ticket);
            waiting.for_each(|erasure| erasure.after = next);
        }
    }

    /// Takes note of a sync that was done and says which sequence is the last durable one: messages up to it may be
    /// acknowledged, and removals and checkpoints saved before the ticket was taken.
    ///
    /// # Errors
    /// [`Error::NotDurable`], with [`Durability::Group`]: the disk did not keep what it was given. Every message above
    /// the one named is no longer in the store, and its sequence is not used again; refuse them. With the other classes
    /// the operating system's error: the messages stay, and what can still be read of them is copied to a new file by
    /// [`Store::maintain`]. Either way the store goes on with a new file.
    pub fn synced(&mut self, result: SyncResult) -> Result<u64, Error> {
        let Some(files) = &mut self.files else { return Ok(0) };
        let flight = files.in_flight.take().map(|flight| flight.segments).unwrap_or_default();
        let SyncResult { point, seq, data, manifest, manifest_generation, checkpoints, proven, .. } = result;
        if let Err(error) = data {
            return Err(self.not_kept(flight.into_keys().collect(), error));
        }
        files.synced_seq = files.synced_seq.max(seq);
        if point.segment != 0 && point.place() > files.synced_at.place() {
            files.synced_at = point;
            if point.segment == files.active_id {
                files.synced = point.offset;
            }
        }
        files.checkpoints_synced(&checkpoints);
        // Closed ones are proven by being listed.
        let unlisted = manifest_generation.is_none();
        files.proven.extend(proven.into_iter().filter(|(_, until)| !(unlisted && *until == u32::MAX)));
        match manifest_generation {
            Some(generation) => files.manifest_generation = generation,
            // The messages are safe without it: it is tried again with the next ticket.
            None => files.listing_changed |= manifest.is_err(),
        }
        let durable = files.synced_seq;
        let synced = files.synced_at.place();
        let (covered, written) = match self.options.durability {
            Durability::Group => (durable, synced),
            _ => (self.last_seq, synced.max((files.active_id, files.written))),
        };
        files.write_mark(covered, written, false);
        for segment in self.segments.iter_mut().filter(|segment| flight.contains_key(&segment.id)) {
            // A copy that is on disk needs no second one.
            segment.data = Vec::new();
        }
        Ok(durable)
    }

    /// A sync failed: leaves the segments concerned and begins anew. What was promised to nobody goes.
    fn not_kept(&mut self, mut suspects: Vec<u32>, error: Error) -> Error {
        if let (Some(files), Some(active)) = (&mut self.files, self.segments.last_mut())
            && !active.closed
        {
            let _ = files.rewind(active);
        }
        self.take_back();
        let last_seq = self.last_seq;
        let grouped = self.options.durability == Durability::Group;
        let durable = if grouped { self.durable_seq().min(last_seq) } else { last_seq };
        let mut at = durable + 1;
        while let Some(seq) = self.next_any(at) {
            if let Some((segment, position, _)) = self.find(seq) {
                self.forget(segment, position, seq);
            }
            at = seq + 1;
        }
        let mut synced = Point::default();
        if let Some(files) = &mut self.files {
            synced = files.synced_at;
            suspects.extend(files.dirty.keys());
            suspects.push(files.active_id);
            files.dirty.clear();
            files.retire_active();
            files.names_changed = true;
        }
        self.leave(&suspects, synced, grouped);
        // Removals since the last sync may be lost with it, so the segment that follows says all of them again.
        self.refused_after = Some(durable);
        let place = self.files.as_ref().map(|files| files.dir.display().to_string()).unwrap_or_default();
        let (reason, source) = if grouped {
            ("the disk failed to sync; they were refused", None)
        } else {
            ("the disk failed to sync; what it holds of them is copied to a new file", Some(()))
        };
        let finding = Finding::new(
            Severity::Warning,
            format!("messages from {}", self.durable_seq() + 1),
            place,
            reason,
            "look at the disk; the store goes on in a new file",
        );
        // A disk that fails again and again is one finding.
        if !self
            .findings
            .iter()
            .any(|known| known.severity == finding.severity && known.reason == finding.reason)
        {
            self.findings.push(finding);
        }
        // When this fails too, the next call that writes tries again.
        let _ = self.begin_segment(last_seq + 1);
        match source {
            None => Error::NotDurable { durable, source: Box::new(error) },
            Some(()) => error,
        }
    }

    /// Nothing is appended any more to segments whose bytes may not be on disk.
    fn leave(&mut self, suspects: &[u32], synced: Point, grouped: bool) {
        let mut discarded = Vec::new();
        for segment in self.segments.iter_mut().filter(|segment| suspects.contains(&segment.id)) {
            let copied = !segment.data.is_empty();
            segment.closed = true;
            segment.suspect = true;
            if grouped && segment.id == synced.segment {
                segment.len = synced.offset;
                segment.fold = synced.fold;
            } else if grouped && !copied && segment.live == 0 {
                discarded.push(segment.id);
            }
        }
        self.segments.retain(|segment| !discarded.contains(&segment.id));
        if let Some(files) = &mut self.files {
            discarded.into_iter().for_each(|id| files.discard(id));
        }
    }

    /// Every range between the first and the last sequence without a message.
    pub(super) fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut expected = self.first_seq;
        for segment in &self.segments {
            for (position, entry) in segment.entries.slots().iter().enumerate() {
                let seq = segment.entries.seq(position);
                if entry.is_live() {
                    if seq > expected {
                        gaps.push((expected, seq - 1));
                    }
                    expected = seq + 1;
                }
            }
        }
        if expected <= self.last_seq {
            gaps.push((expected, self.last_seq));
        }
        gaps
    }

    /// What the manifest is to say.
    pub(super) fn manifest(&self) -> Manifest {
        let Some(files) = &self.files else { return Manifest::default() };
        let listed = self.segments.iter().map(|segment| Listed {
            id: segment.id,
            base: segment.base,
            last: segment.last,
            len: if segment.closed { segment.len } else { files.written },
            checksum: if segment.closed { segment.fold.value } else { 0 },
            closed: segment.closed,
        });
        Manifest {
            generation: 0,
            salt: files.salt,
            next_id: files.next_id,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            segments: listed.collect(),
            checkpoints: files.checkpoints.keys().chain(&files.lost_checkpoints).cloned().collect(),
        }
    }

    /// Gives the directory up, with everything that is not written: whoever renames or removes it calls this before.
    /// A sync that is still under way touches nothing that stands there later; one that is just writing is waited for.
    pub fn give_up(self) {
        if let Some(files) = &self.files {
            files.tenancy.end();
        }
    }

    /// Writes and syncs everything on this thread and notes that nothing is missing. A store that is dropped instead
    /// is as safe, but says less when it is opened: whether its end is really its end.
    ///
    /// # Errors
    /// Those of [`Store::write_out`] and [`Store::synced`].
    pub fn close(mut self) -> Result<(), Error> {
        if let Some(files) = &mut self.files
            && let Some(flight) = files.in_flight.take()
        {
            // Its manifest would be older than the one that is written here.
            std::mem::take(&mut files.tenancy).end();
            files.dirty.extend(flight.segments);
            files.listing_changed = true;
            files.names_changed = true;
        }
        if let Some(files) = &mut self.files {
            files.end_room();
        }
        self.sync_now()?;
        // A record says which part was durable, and the manifest how long that is.
        if let (Some(files), Some(active)) = (&mut self.files, self.segments.last_mut())
            && files.has_news()
        {
            files.put(active, &Record::Commit);
            files.listing_changed = true;
            self.sync_now()?;
        }
        if let Some(files) = &mut self.files {
            let written = (files.active_id, files.written).max(files.synced_at.place());
            files.write_mark(self.last_seq, written, true);
            files.sync_mark()?;
        }
        Ok(())
    }

    /// Everything a ticket does, on this thread.
    pub(super) fn sync_now(&mut self) -> Result<(), Error> {
        if let Some(job) = self.sync_ticket()? {
            let result = job.run();
            self.synced(result)?;
        }
        Ok(())
    }
}
