//! Small values that are replaced as a whole beside the log: a stream's configuration, a consumer's state.
//!
//! Each has two files, written in turn, so that a crash in the middle leaves the value before. With
//! [`Durability::Group`] a save waits in memory for the next ticket, which writes it over the one that is not the last
//! durable one; otherwise it is written at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{Files, read_file};
use super::{Durability, Store};
use crate::disk::DiskFile;
use crate::error::Error;
use crate::format::checkpoint::{self, Checkpoint};
use crate::report::{Finding, Severity};

/// A name longer than this is shortened in the file's name; the whole one is inside.
const NAME_IN_FILE_MAX: usize = 120;
const PREFIX: &str = "cp-";

/// The two files of one checkpoint.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Open from the write until it is durable, so that the sync hears of what goes wrong in between. Not longer: there
    /// are some for every consumer.
    files: [Option<Arc<dyn DiskFile>>; 2],
    lens: [usize; 2],
    /// Of the last save.
    generation: u64,
    /// Of the last save that was written.
    written: u64,
    current: usize,
    /// The last durable save and its file.
    durable: Option<(u64, usize)>,
    version: u16,
    value: Vec<u8>,
}

impl Store {
    /// Saves a value under a name of 1 to 255 bytes, replacing the one before. With [`Durability::Group`] it is written
    /// and made durable by the next sync; otherwise it is written when this returns. For a stream in memory: kept in
    /// memory.
    ///
    /// Costs one write of the whole value, so suits small ones that change often or large ones that change seldom.
    ///
    /// # Errors
    /// A disk error: then the value before is still the one that counts.
    pub fn save_checkpoint(&mut self, name: &str, version: u16, value: &[u8]) -> Result<(), Error> {
        let in_turn = self.options.durability != Durability::Group;
        let Some(files) = &mut self.files else {
            self.kept.insert(name.to_owned(), (version, value.to_vec()));
            return Ok(());
        };
        if !files.checkpoints.contains_key(name) {
            files.create_checkpoint(name)?;
            files.lost_checkpoints.remove(name);
        }
        let Some(slots) = files.checkpoints.get_mut(name) else { return Ok(()) };
        let before = (slots.version, std::mem::replace(&mut slots.value, value.to_vec()));
        slots.version = version;
        slots.generation += 1;
        if in_turn && let Err(error) = files.write_checkpoint(name) {
            if let Some(slots) = files.checkpoints.get_mut(name) {
                (slots.version, slots.value) = before;
            }
            return Err(error);
        }
        Ok(())
    }

    /// The last value saved under a name, and the version it was saved with.
    pub fn checkpoint(&self, name: &str) -> Option<(u16, &[u8])> {
        match &self.files {
            None => self.kept.get(name).map(|(version, value)| (*version, &value[..])),
            Some(files) => {
                let slots = files.checkpoints.get(name).filter(|slots| slots.generation > 0)?;
                Some((slots.version, &slots.value))
            }
        }
    }

    /// The names under which something is saved, sorted.
    pub fn checkpoints(&self) -> Vec<String> {
        match &self.files {
            None => self.kept.keys().cloned().collect(),
            Some(files) => files.checkpoints.keys().cloned().collect(),
        }
    }

    /// Removes what is saved under a name, and says whether there was something. Final with the next sync.
    pub fn remove_checkpoint(&mut self, name: &str) -> bool {
        let Some(files) = &mut self.files else { return self.kept.remove(name).is_some() };
        let removed = files.checkpoints.remove(name).is_some() | files.lost_checkpoints.remove(name);
        if removed {
            files.garbage.extend(file_names(name));
            files.listing_changed = true;
        }
        removed
    }
}

impl Files {
    /// Writes what waits.
    pub(super) fn write_checkpoints(&mut self) -> Result<(), Error> {
        let waiting = self.checkpoints.iter().filter(|(_, slots)| slots.written < slots.generation);
        let names: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        names.iter().try_for_each(|name| self.write_checkpoint(name))
    }

    fn write_checkpoint(&mut self, name: &str) -> Result<(), Error> {
        let dir = &self.dir;
        let Some(slots) = self.checkpoints.get_mut(name) else { return Ok(()) };
        let target = match slots.durable {
            // Only one that was written since stands in turn with the durable one.
            Some((generation, durable)) if slots.written == generation => 1 - durable,
            _ => 1 - slots.current,
        };
        let mut bytes = Vec::with_capacity(slots.value.len() + name.len() + 64);
        checkpoint::encode(&mut bytes, self.salt, slots.generation, name, slots.version, &slots.value);
        let path = dir.join(&file_names(name)[target]);
        let file = match slots.files[target].take() {
            Some(file) => file,
            None => match self.disk.open(&path, false) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.names_changed = true;
                    self.disk.open(&path, true)
                }
                opened => opened,
            }
            .map_err(|error| Error::io("open", &path, error))?,
        };
        let file = slots.files[target].insert(file);
        let write = || {
            file.write_at(&bytes, 0)?;
            if slots.lens[target] > bytes.len() {
                file.set_len(bytes.len() as u64)?;
            }
            Ok(())
        };
        let written = write().map_err(|error| Error::io("write", &path, error));
        slots.lens[target] = if written.is_ok() { bytes.len() } else { usize::MAX };
        written?;
        slots.written = slots.generation;
        slots.current = target;
        Ok(())
    }

    /// Both files exist from the beginning, so that a missing one is noticed.
    fn create_checkpoint(&mut self, name: &str) -> Result<(), Error> {
        let mut slots = Slots { current: 1, ..Slots::default() };
        let mut bytes = Vec::new();
        checkpoint::encode(&mut bytes, self.salt, 0, name, 0, b"");
        for (index, file_name) in file_names(name).iter().enumerate() {
            let path = self.path(file_name);
            let file = self.disk.open(&path, true).map_err(|error| Error::io("create", &path, error))?;
            file.set_len(0)
                .and_then(|()| file.write_at(&bytes, 0))
                .map_err(|error| Error::io("write", &path, error))?;
            slots.files[index] = Some(file);
            slots.lens[index] = bytes.len();
        }
        // One that was removed under this name must not take the new files with it.
        let names = file_names(name);
        self.garbage.retain(|garbage| !names.contains(garbage));
        self.names_changed = true;
        self.listing_changed = true;
        self.checkpoints.insert(name.to_owned(), slots);
        Ok(())
    }

    /// Those saved since they were synced, with the generation that a sync makes durable.
    pub(super) fn dirty_checkpoints(&self) -> Vec<(String, u64)> {
        let dirty = self.checkpoints.iter().filter(|(_, slots)| {
            slots.written > 0 && slots.durable.is_none_or(|(durable, _)| durable < slots.written)
        });
        dirty.map(|(name, slots)| (name.clone(), slots.written)).collect()
    }

    /// The files to sync; both the first time, so that both exist. Those that are not open were read, not written.
    pub(super) fn checkpoint_files(&self, name: &str) -> Vec<(PathBuf, Option<Arc<dyn DiskFile>>)> {
        let Some(slots) = self.checkpoints.get(name) else { return Vec::new() };
        let names = file_names(name);
        let wanted = (0..2).filter(|&index| index == slots.current || slots.durable.is_none());
        wanted.map(|index| (self.path(&names[index]), slots.files[index].clone())).collect()
    }

    pub(super) fn checkpoints_synced(&mut self, synced: &[(String, u64)]) {
        for (name, generation) in synced {
            // One that was written again meanwhile is dirty again.
            if let Some(slots) = self.checkpoints.get_mut(name)
                && slots.written == *generation
            {
                slots.durable = Some((*generation, slots.current));
                slots.files = [None, None];
            }
        }
    }

    /// Reads all checkpoints of the directory and says what is wrong with them.
    pub(super) fn load_checkpoints(
        &mut self,
        names: &[String],
        listed: &[String],
        findings: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let mut found: BTreeMap<String, [Option<Result<Checkpoint, usize>>; 2]> = BTreeMap::new();
        for file_name in names.iter().filter(|name| name.starts_with(PREFIX)) {
            let Some((stem, index)) = split(file_name) else { continue };
            let bytes = read_file(&*self.disk, &self.path(file_name))?.unwrap_or_default();
            let checkpoint = checkpoint::decode(&bytes)
                .filter(|value| value.salt == self.salt && file_names(&value.name)[index] == *file_name);
            found.entry(stem.to_owned()).or_default()[index] = Some(checkpoint.ok_or(bytes.len()));
        }
        for name in listed {
            let stem = stem(name);
            found.entry(stem).or_default();
        }
        for (stem, pair) in found {
            self.load_checkpoint(&stem, pair, listed, findings);
        }
        Ok(())
    }

    fn load_checkpoint(
        &mut self,
        stem: &str,
        pair: [Option<Result<Checkpoint, usize>>; 2],
        listed: &[String],
        findings: &mut Vec<Finding>,
    ) {
        let readable = pair.iter().flatten().filter_map(|read| read.as_ref().ok());
        let best = readable.max_by_key(|checkpoint| checkpoint.generation);
        let name = best.map(|checkpoint| checkpoint.name.clone());
        let known = listed.iter().find(|name| self::stem(name) == *stem);
        let name = name.or_else(|| known.cloned());
        let saved = best.is_some_and(|checkpoint| checkpoint.generation > 0);
        for (index, read) in pair.iter().enumerate() {
            let reason = match read {
                Some(Ok(_)) => continue,
                Some(Err(len)) => format!("it cannot be read ({len} bytes)"),
                None => "it is missing".to_owned(),
            };
            let (severity, remedy) = match (saved, known) {
                (true, _) => (Severity::Warning, "the other copy is used, which may be the one before"),
                (false, Some(_)) => (Severity::Damage, "it is as if it had never been saved"),
                (false, None) => (Severity::Info, "it was never durable; nothing needs to be done"),
            };
            let object = format!("checkpoint {}", name.as_deref().unwrap_or(stem));
            findings.push(Finding::new(severity, object, format!("{stem}.{index}"), reason, remedy));
            self.listing_changed = true;
        }
        if let (false, Some(known)) = (saved, known)
            && pair.iter().any(|read| !matches!(read, Some(Ok(_))))
        {
            self.lost_checkpoints.insert(known.clone());
            return;
        }
        let (Some(name), Some(best)) = (name, best) else { return };
        let current = pair
            .iter()
            .position(|read| matches!(read, Some(Ok(value)) if value.generation == best.generation))
            .unwrap_or(0);
        // What was read may be in memory only; the next sync makes it durable.
        self.checkpoints.insert(
            name,
            Slots {
                generation: best.generation,
                written: best.generation,
                current,
                version: best.version,
                value: best.value.clone(),
                lens: [usize::MAX; 2],
                ..Slots::default()
            },
        );
    }

    /// Files of checkpoints of which nothing could be read.
    pub(super) fn unusable_checkpoints(&self, names: &[String]) -> Vec<String> {
        let used: Vec<String> = self.checkpoints.keys().flat_map(|name| file_names(name)).collect();
        let ours = names.iter().filter(|name| name.starts_with(PREFIX) && split(name).is_some());
        ours.filter(|name| !used.contains(name)).cloned().collect()
    }
}

/// Whether a file belongs to one of these checkpoints.
pub(super) fn is_of(file_name: &str, checkpoints: &[String]) -> bool {
    checkpoints.iter().any(|name| file_names(name).iter().any(|other| other == file_name))
}

/// `cp-` and the name, with everything but letters, digits, `-` and `_` as `%xx`; a long one is cut and told apart by a
/// checksum.
fn stem(name: &str) -> String {
    let mut stem = String::from(PREFIX);
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => stem.push(byte as char),
            _ => stem.push_str(&format!("%{byte:02x}")),
        }
    }
    if stem.len() > NAME_IN_FILE_MAX {
        let sums = [0, 0x9E37_79B9].map(|seed| crate::format::checksum(seed, name.as_bytes()));
        stem.truncate(NAME_IN_FILE_MAX);
        stem.push_str(&format!("~{:08x}{:08x}", sums[0], sums[1]));
    }
    stem
}

fn file_names(name: &str) -> [String; 2] {
    let stem = stem(name);
    [format!("{stem}.0"), format!("{stem}.1")]
}

fn split(file_name: &str) -> Option<(&str, usize)> {
    match file_name.rsplit_once('.')? {
        (stem, "0") => Some((stem, 0)),
        (stem, "1") => Some((stem, 1)),
        _ => None,
    }
}
