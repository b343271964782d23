//! What the machine gives: a writable directory, space, limits, control groups, a process table.

use std::path::Path;

use ostler_supervise::platform::{Identity, cgroup_parent};
use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::render::bytes;

/// Below this the record of one busy day may not fit.
const SPACE_WARN_BYTES: u64 = 1 << 30;
/// Below this SQLite's log and one agent's output may not fit.
const SPACE_FAIL_BYTES: u64 = 64 << 20;

/// The broker and every host take some twenty descriptors per agent; thirty agents need this.
const FILES_WARN: u64 = 1024;
/// A host, its guard and an agent with a few tools are some ten processes; thirty agents need this.
const PROCESSES_WARN: u64 = 512;

pub(super) fn state_directory(dir: &Path) -> Check {
    const NAME: &str = "state";
    let existing = existing(dir);
    let remedy =
        || format!("let this user write to {}, or choose another place with --state-dir", existing.display());
    // Only trying tells: permissions, a read-only mount and a full disk all refuse.
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == dir => Check::ok(NAME, format!("{} can be written", dir.display())),
        Ok(_) => Check::ok(NAME, format!("{} can be made in {}", dir.display(), existing.display())),
        Err(error) => {
            Check::fail(NAME, format!("{} cannot be written: {error}", existing.display()), remedy())
        }
    }
}

pub(super) fn disk_space(dir: &Path) -> Check {
    const NAME: &str = "disk space";
    let existing = existing(dir);
    match rustix::fs::statvfs(existing) {
        Ok(stat) => judge_space(existing, stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => {
            Check::warn(NAME, format!("unknown: {error}"), format!("look with: df {}", existing.display()))
        }
    }
}

fn judge_space(dir: &Path, free: u64) -> Check {
    const NAME: &str = "disk space";
    let text = format!("{} free at {}", bytes(free), dir.display());
    let remedy = "free some space, or choose another place with --state-dir";
    match free {
        0..SPACE_FAIL_BYTES => Check::fail(NAME, text, remedy),
        SPACE_FAIL_BYTES..SPACE_WARN_BYTES => Check::warn(NAME, text, remedy),
        _ => Check::ok(NAME, text),
    }
}

/// Process trees are found and killed by what the system lists.
pub(super) fn process_trees() -> Check {
    const NAME: &str = "processes";
    match Identity::own() {
        Ok(_) => Check::ok(NAME, "the process table can be read"),
        Err(error) => Check::fail(NAME, format!("the process table cannot be read: {error}"), "mount /proc"),
    }
}

pub(super) fn cgroups() -> Check {
    const NAME: &str = "cgroup";
    match cgroup_parent() {
        Some(dir) => Check::ok(NAME, format!("v2, groups can be made in {}", dir.display())),
        // Not worth a warning: everything works without, it is only a second net.
        None => Check::ok(NAME, "none to write to; process trees are held by guard, ancestry and marker"),
    }
}

pub(super) fn limits() -> Check {
    judge_limits(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nproc).current)
}

/// `None` is unlimited.
fn judge_limits(files: Option<u64>, processes: Option<u64>) -> Check {
    const NAME: &str = "limits";
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let text = format!("{} open files, {} processes", shown(files), shown(processes));
    let is_low = files.is_some_and(|files| files < FILES_WARN)
        || processes.is_some_and(|processes| processes < PROCESSES_WARN);
    if is_low {
        let remedy = format!("raise them before `ostler up`: ulimit -n {FILES_WARN} -u {PROCESSES_WARN}");
        Check::warn(NAME, text, remedy)
    } else {
        Check::ok(NAME, text)
    }
}

/// The nearest directory upwards that exists.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkup::Verdict;

    #[test]
    fn a_state_directory_that_cannot_be_made_fails_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(state_directory(&dir.path().join("a/b")).verdict, Verdict::Ok);
        let check = state_directory(Path::new("/proc/nothing/here"));
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.remedy.unwrap().contains("--state-dir"));
    }

    #[test]
    fn little_space_warns_and_none_fails() {
        let verdict = |free| judge_space(Path::new("/"), free).verdict;
        assert_eq!([5 << 30, 100 << 20, 1 << 20].map(verdict), [Verdict::Ok, Verdict::Warn, Verdict::Fail]);
    }

    #[test]
    fn low_limits_warn_with_the_command_that_raises_them() {
        assert_eq!(judge_limits(None, None).verdict, Verdict::Ok);
        assert_eq!(judge_limits(Some(1024), Some(512)).verdict, Verdict::Ok);
        assert!(judge_limits(Some(256), None).remedy.unwrap().contains("ulimit -n 1024"));
    }
}
