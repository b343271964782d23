//! Opening a directory: which files are there, which belong to the stream, and going on where it ended.

use std::path::Path;
use std::sync::Arc;

use super::checkpoints::is_of;
use super::evidence::{Evidence, Planned};
use super::files::{Files, MARK, read_file, segment_name};
use super::recover::Recovery;
use super::sync::Point;
use super::{Options, Store};
use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::format::VERSION;
use crate::format::header::{self, Header};
use crate::format::manifest::{FILES, Manifest};
use crate::format::mark::Mark;
use crate::report::{Finding, Severity};

/// Whether the files may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    Look,
}

impl Store {
    /// Opens the stream kept in a directory, or creates it there. Reads everything: about 0.1 s per million small
    /// messages. What was found damaged is in [`Store::findings`]; the rest can be read.
    ///
    /// One process at a time: locking is the caller's.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none and none should be created, [`Error::UnknownFormat`], and what the
    /// operating system says. Damage is no error.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        Self::open_on(Arc::new(RealDisk), dir, options)
    }

    /// [`Store::open`] on another disk.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self, Error> {
        Self::open_with(disk, dir, options, Access::Write)
    }

    pub(super) fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        access: Access,
    ) -> Result<Self, Error> {
        if options.create && access == Access::Write {
            disk.create_dir(dir).map_err(|error| Error::io("create", dir, error))?;
        }
        let names = match disk.list(dir) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing { path: dir.to_owned() });
            }
            Err(error) => return Err(Error::io("list", dir, error)),
        };
        let found = Found::read(&*disk, dir, names)?;
        if found.is_nothing() && !options.create {
            return Err(Error::Missing { path: dir.to_owned() });
        }
        let salt = found.salt().unwrap_or(options.salt);
        let mut store = Self::empty(options);
        let mut files = Files::new(disk, dir.to_owned(), salt);
        if found.is_nothing() {
            files.create()?;
            store.files = Some(files);
            return Ok(store);
        }
        store.findings.extend(found.findings.iter().cloned());
        let listed = found.manifest.as_ref().map(|manifest| manifest.checkpoints.clone()).unwrap_or_default();
        files.load_checkpoints(&found.names, &listed, &mut store.findings)?;
        files.manifest_generation = found.generation;
        files.next_id = found.next_id();
        files.listing_changed |= found.rewrite_manifest;
        store.files = Some(files);
        let (plan, leftovers) = found.plan();
        for name in &leftovers {
            store.findings.push(Finding::new(
                Severity::Info,
                name.clone(),
                name.clone(),
                "a rewrite was cut short or its source was not removed yet",
                "it is removed; nothing needs to be done",
            ));
        }
        let evidence = Evidence::new(found.manifest.as_ref(), found.mark, &plan);
        let end = Recovery::new(&mut store, evidence, found.doubt).run(&plan)?;
        if access == Access::Write {
            store.go_on(&found, &leftovers, end)?;
        }
        Ok(store)
    }

    /// Makes what was read the beginning of what is written.
    fn go_on(&mut self, found: &Found, leftovers: &[String], end: super::recover::End) -> Result<(), Error> {
        let Some(files) = &mut self.files else { return Ok(()) };
        files.open_mark(found.mark.map_or(0, |mark| mark.generation))?;
        let listed = found.manifest.as_ref().map(|manifest| &manifest.checkpoints[..]).unwrap_or_default();
        let mut never_durable = files.unusable_checkpoints(&found.names);
        never_durable.retain(|name| !found.rewrite_manifest && !is_of(name, listed));
        for name in leftovers.iter().chain(&end.dropped).chain(&never_durable) {
            let path = files.path(name);
            files.disk.unlink(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        let clean = found.mark.is_some_and(|mark| mark.closed) && end.cut.is_none() && !found.doubt;
        for segment in &self.segments {
            let path = files.path(&segment_name(segment.id));
            let cut = end.cut.filter(|&(id, _)| id == segment.id);
            let listed = found.manifest.as_ref().is_some_and(|manifest| {
                manifest.segments.iter().any(|listed| listed.id == segment.id && listed.closed)
            });
            if listed || clean {
                continue;
            }
            files.listing_changed = true;
            if segment.damaged {
                continue;
            }
            let file = files.disk.open(&path, true).map_err(|error| Error::io("open", &path, error))?;
            if let Some((_, len)) = cut {
                file.set_len(u64::from(len)).map_err(|error| Error::io("cut", &path, error))?;
            }
            // What was read may be in the page cache only.
            file.sync_data().map_err(|error| Error::io("sync", &path, error))?;
        }
        if files.listing_changed || !end.dropped.is_empty() {
            files.disk.sync_dir(&files.dir).map_err(|error| Error::io("sync", &files.dir, error))?;
        }
        if let Some(active) = self.segments.last_mut().filter(|segment| !segment.closed) {
            if active.damaged {
                active.closed = true;
            } else {
                let path = files.path(&segment_name(active.id));
                let file = files.disk.open(&path, true).map_err(|error| Error::io("open", &path, error))?;
                files.activate(active.id, file, active.len, active.fold);
                files.synced = active.len;
                files.synced_at = Point { segment: active.id, offset: active.len, fold: active.fold };
            }
        }
        let listed = found.manifest.iter().flat_map(|manifest| &manifest.segments);
        if !found.doubt {
            files.proven =
                listed.filter(|listed| listed.closed).map(|listed| (listed.id, u32::MAX)).collect();
        }
        files.synced_seq = self.last_seq;
        // No removal that was read is taken back, and nothing of it is written again.
        self.keep();
        if end.truncated {
            // Segments that were dropped may have spoken of removals in others.
            self.removed = self.gaps();
            self.head_moved = true;
        }
        Ok(())
    }
}

impl Files {
    /// The first files of a stream, durable when this returns.
    fn create(&mut self) -> Result<(), Error> {
        self.open_mark(0)?;
        self.write_mark(0, (0, 0), false);
        self.sync_mark()?;
        let manifest = Manifest { salt: self.salt, next_id: 1, first_seq: 1, ..Manifest::default() };
        for (generation, name) in FILES.iter().enumerate() {
            let path = self.path(name);
            let bytes = Manifest { generation: generation as u64, ..manifest.clone() }.encode();
            self.disk
                .open(&path, true)
                .and_then(|file| {
                    file.set_len(0)?;
                    file.write_at(&bytes, 0)?;
                    file.sync_data()
                })
                .map_err(|error| Error::io("create", &path, error))?;
        }
        self.manifest_generation = 1;
        self.names_changed = false;
        self.disk.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))
    }
}

/// What is in the directory.
struct Found {
    names: Vec<String>,
    /// Segment files and what their headers say.
    segments: Vec<(u32, Option<Header>)>,
    manifest: Option<Manifest>,
    /// The generation to go on from.
    generation: u64,
    /// The manifest cannot be relied on: there is none, or an old one that lists what is gone.
    doubt: bool,
    /// One of the two cannot be read.
    rewrite_manifest: bool,
    mark: Option<Mark>,
    findings: Vec<Finding>,
}

impl Found {
    fn read(disk: &dyn Disk, dir: &Path, names: Vec<String>) -> Result<Self, Error> {
        let mut found = Self {
            names,
            segments: Vec::new(),
            manifest: None,
            generation: 0,
            doubt: false,
            rewrite_manifest: false,
            mark: None,
            findings: Vec::new(),
        };
        found.names.sort();
        let mut ids: Vec<u32> = found.names.iter().filter_map(|name| segment_id(name)).collect();
        ids.sort_unstable();
        for id in ids {
            let path = dir.join(segment_name(id));
            let file = disk.open_read_only(&path).map_err(|error| Error::io("open", &path, error))?;
            let mut bytes = [0; header::LEN];
            let read = file.read_at(&mut bytes, 0).map_err(|error| Error::io("read", &path, error))?;
            let header = match Header::decode(&bytes[..read]) {
                header::Read::Header(header) => (header.id == id).then_some(header),
                header::Read::Later(version) => {
                    return Err(Error::UnknownFormat { path, found: version, known: VERSION });
                }
                header::Read::Damaged => None,
            };
            found.segments.push((id, header));
        }
        found.read_manifests(disk, dir)?;
        found.read_mark(disk, dir)?;
        if found.was_never_ready() {
            return Ok(Self { names: Vec::new(), findings: Vec::new(), mark: None, doubt: false, ..found });
        }
        Ok(found)
    }

    /// Whether its creation was cut short: there is nothing that anybody was promised.
    fn was_never_ready(&self) -> bool {
        self.segments.is_empty()
            && self.manifest.is_none()
            && self.mark.is_none_or(|mark| mark.last_seq == 0 && mark.written == (0, 0))
            && !self.names.iter().any(|name| name.starts_with("cp-"))
    }

    fn read_manifests(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        let mut manifests = Vec::new();
        for (slot, name) in FILES.iter().enumerate() {
            let path = dir.join(name);
            let manifest = match read_file(disk, &path)? {
                None => Err("it is missing"),
                Some(bytes) => match Manifest::decode(&bytes) {
                    Err(version) => {
                        return Err(Error::UnknownFormat { path, found: version, known: VERSION });
                    }
                    Ok(None) => Err("it cannot be read"),
                    Ok(Some(manifest)) => Ok(manifest),
                },
            };
            manifests.push((slot, *name, manifest));
        }
        let usable = manifests.iter().any(|(_, _, manifest)| manifest.is_ok());
        if self.is_nothing() && !usable && !self.names.iter().any(|name| name.starts_with("manifest.")) {
            return Ok(());
        }
        for (slot, name, manifest) in manifests {
            match manifest {
                Ok(manifest) => {
                    self.generation = self.generation.max(manifest.generation);
                    if self.manifest.as_ref().is_none_or(|best| best.generation < manifest.generation) {
                        self.manifest = Some(manifest);
                    }
                }
                Err(reason) => {
                    self.doubt = true;
                    let remedy = match usable {
                        true => "the other copy is used; it is written anew by the next sync",
                        false => {
                            "the list is rebuilt from the segments; a whole missing segment may go unnoticed"
                        }
                    };
                    let severity = if usable { Severity::Warning } else { Severity::Damage };
                    let object = format!("manifest {slot}");
                    self.findings.push(Finding::new(severity, object, name, reason, remedy));
                }
            }
        }
        // The one that cannot be read was being written, or it is the later one and was damaged. As long as everything
        // the other lists is there, that does not matter: what it lists is whole, and what was appended since is found.
        let complete = self.manifest.as_ref().is_some_and(|manifest| {
            manifest.segments.iter().all(|listed| self.segments.iter().any(|(id, _)| *id == listed.id))
        });
        self.rewrite_manifest = self.doubt;
        self.doubt &= !complete;
        Ok(())
    }

    fn read_mark(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        if self.is_nothing() {
            return Ok(());
        }
        let bytes = read_file(disk, &dir.join(MARK))?;
        let missing = bytes.is_none();
        let (mark, damaged) = Mark::read(&bytes.unwrap_or_default());
        self.mark = mark;
        if missing || !damaged.is_empty() {
            let reason =
                if missing { "it is missing".to_owned() } else { "a part cannot be read".to_owned() };
            let (severity, remedy) = match mark {
                None => {
                    (Severity::Warning, "it is written anew; until then an end cut short may pass for an end")
                }
                Some(_) => (Severity::Info, "a power cut leaves it so; nothing needs to be done"),
            };
            self.findings.push(Finding::new(severity, "mark", MARK, reason, remedy));
        }
        Ok(())
    }

    /// Whether nothing of a stream is here.
    fn is_nothing(&self) -> bool {
        self.segments.is_empty()
            && self.manifest.is_none()
            && !self
                .names
                .iter()
                .any(|name| name == MARK || name.starts_with("cp-") || FILES.contains(&name.as_str()))
    }

    fn salt(&self) -> Option<u64> {
        let from_segment = self.segments.iter().find_map(|(_, header)| header.map(|header| header.salt));
        self.manifest.as_ref().map(|manifest| manifest.salt).or(from_segment)
    }

    fn next_id(&self) -> u32 {
        let listed = self.manifest.as_ref().map_or(1, |manifest| manifest.next_id);
        let present = self.segments.last().map_or(1, |(id, _)| id + 1);
        listed.max(present)
    }

    /// The segments in the order of their sequences, and files that are not part of the stream any more.
    fn plan(&self) -> (Vec<Planned>, Vec<String>) {
        let mut plan: Vec<Planned> = Vec::new();
        let mut leftovers = Vec::new();
        let listed = self.manifest.as_ref().map(|manifest| &manifest.segments[..]).unwrap_or_default();
        for entry in listed {
            let file = self.segments.iter().find(|(id, _)| *id == entry.id);
            plan.push(Planned {
                id: entry.id,
                header: file.and_then(|(_, header)| *header),
                listed: Some(*entry),
                present: file.is_some(),
            });
        }
        let next_id = self.manifest.as_ref().map_or(0, |manifest| manifest.next_id);
        for &(id, header) in &self.segments {
            if listed.iter().any(|entry| entry.id == id) {
                continue;
            }
            let rewritten = header.is_some_and(|header| header.rewritten);
            if !self.doubt && (id < next_id || rewritten) {
                leftovers.push(segment_name(id));
                continue;
            }
            plan.push(Planned { id, header, listed: None, present: true });
        }
        // What was appended later comes later; a rewritten one stands where its source stood, before it. A header that
        // cannot be read leaves only the number to go by.
        if self.doubt {
            let mut base = 0;
            let mut keyed: Vec<((u64, std::cmp::Reverse<u32>), Planned)> = Vec::new();
            plan.sort_by_key(|planned| planned.id);
            for planned in plan {
                let known = planned.header.map(|header| header.base);
                base = known.or(planned.listed.map(|entry| entry.base)).unwrap_or(base);
                keyed.push(((base, std::cmp::Reverse(planned.id)), planned));
            }
            keyed.sort_by_key(|(key, _)| *key);
            // An empty one of the same base comes first: nothing is lost by the order between equals.
            plan = keyed.into_iter().map(|(_, planned)| planned).collect();
        }
        (plan, leftovers)
    }
}

/// The number in a segment's name.
fn segment_id(name: &str) -> Option<u32> {
    let id: u32 = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(id) == name).then_some(id)
}
