//! Looking at a stream's files without a server: what is wrong with them, and going on without what cannot be read.

use std::path::Path;
use std::sync::Arc;

use super::files::segment_name;
use super::open::Access;
use super::{Options, Store};
use crate::disk::Disk;
use crate::error::Error;
use crate::report::{Finding, Report, Severity};

/// Reads every byte of a stream's directory and says what is wrong. Changes nothing. No store may be open there.
///
/// # Errors
/// Those of [`Store::open`]; damage is in the report.
pub fn check(disk: Arc<dyn Disk>, dir: &Path) -> Result<Report, Error> {
    let options = Options { create: false, ..Options::default() };
    let mut store = Store::open_with(disk, dir, options, Access::Look)?;
    Ok(store.report(false))
}

/// Goes on without what cannot be read: damaged segments are written anew with what is left of them, and kept beside
/// as `*.damaged`; lost messages count as deleted from then on. The report says what was found and done.
///
/// # Errors
/// Those of [`Store::open`] and [`Store::write_out`]; a second call goes on where the first ended.
pub fn repair(disk: Arc<dyn Disk>, dir: &Path) -> Result<Report, Error> {
    let options = Options { create: false, ..Options::default() };
    let mut store = Store::open_with(disk, dir, options, Access::Write)?;
    let changed = store.mend()?;
    let report = store.report(changed);
    store.close()?;
    Ok(report)
}

impl Store {
    fn report(&mut self, repaired: bool) -> Report {
        Report {
            messages: self.msgs,
            bytes: self.bytes,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            lost: self.lost_count(),
            segments: self.segments.len(),
            checkpoints: self
                .checkpoints()
                .into_iter()
                .filter(|name| self.checkpoint(name).is_some())
                .collect(),
            findings: self.findings.clone(),
            repaired,
        }
    }

    fn mend(&mut self) -> Result<bool, Error> {
        let damaged: Vec<u32> =
            self.segments.iter().filter(|segment| segment.damaged).map(|segment| segment.id).collect();
        for &id in &damaged {
            self.mend_segment(id)?;
        }
        let lost: Vec<(u64, u64)> = self.lost.iter().map(|(first, (last, _))| (*first, *last)).collect();
        let changed = !damaged.is_empty() || !lost.is_empty() || !self.findings.is_empty();
        if changed {
            // Both copies of each are good again.
            for name in self.checkpoints() {
                if let Some((version, value)) =
                    self.checkpoint(&name).map(|(version, value)| (version, value.to_vec()))
                {
                    self.save_checkpoint(&name, version, &value)?;
                }
            }
        }
        self.set_aside_checkpoints()?;
        // From here on they are deleted, and the log says so.
        self.removed.extend(&lost);
        self.head_moved |= changed && self.last_seq > 0;
        self.write_out()?;
        // Both copies of the manifest, whichever was damaged.
        for _ in 0..2 {
            if let Some(files) = &mut self.files {
                files.listing_changed |= changed;
            }
            self.sync_now()?;
        }
        self.finish_erasures()?;
        Ok(changed)
    }

    /// Overwrites again what was being overwritten, which takes a proof in the log and so another sync or two.
    fn finish_erasures(&mut self) -> Result<(), Error> {
        for _ in 0..3 {
            if self.files.as_ref().is_none_or(|files| files.erasures.is_empty()) {
                break;
            }
            self.maintain(0)?;
            self.sync_now()?;
        }
        Ok(())
    }

    /// Renames the files of checkpoints that cannot be read.
    fn set_aside_checkpoints(&mut self) -> Result<(), Error> {
        let Some(files) = &mut self.files else { return Ok(()) };
        let names = files.disk.list(&files.dir).map_err(|error| Error::io("list", &files.dir, error))?;
        for name in files.unusable_checkpoints(&names) {
            let (from, to) = (files.path(&name), files.path(&format!("{name}.damaged")));
            files.disk.rename(&from, &to).map_err(|error| Error::io("rename", &from, error))?;
            files.names_changed = true;
        }
        files.lost_checkpoints.clear();
        Ok(())
    }

    fn mend_segment(&mut self, id: u32) -> Result<(), Error> {
        let Some(index) = self.segments.iter().position(|segment| segment.id == id) else { return Ok(()) };
        self.segments[index].closed = true;
        if let Some(files) = &mut self.files
            && files.active_id == id
        {
            files.retire_active();
        }
        self.rewrite(index, index + 1)?;
        let Some(files) = &mut self.files else { return Ok(()) };
        let name = segment_name(id);
        files.garbage.retain(|garbage| *garbage != name);
        let kept = format!("{name}.damaged");
        // The new one must count before the old one loses its name.
        self.sync_now()?;
        let Some(files) = &self.files else { return Ok(()) };
        let (from, to) = (files.path(&name), files.path(&kept));
        files.disk.rename(&from, &to).map_err(|error| Error::io("rename", &from, error))?;
        self.findings.push(Finding::new(
            Severity::Info,
            format!("segment {id}"),
            kept,
            "it was written anew with what could be read; this is the damaged file",
            "remove it when it is not needed any more",
        ));
        Ok(())
    }
}
