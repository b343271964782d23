//! One cgroup v2 directory for one run: kill, freeze and list everything inside, whatever its session or parent.
//! No limits are set here.
//!
//! Elsewhere than on Linux no such directory exists and [`cgroup_parent`] says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Identity, sys};

/// How deep below a run's directory its processes may have made groups of their own; deeper ones are not followed.
const DEPTH_MAX: usize = 16;

/// A cgroup v2 directory of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Creates the directory, or takes an existing one of an earlier try.
    ///
    /// # Errors
    /// When the parent is missing, is not in a cgroup v2 tree, or is not writable for us.
    pub fn create(dir: &Path) -> io::Result<Self> {
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let cgroup = Cgroup::existing(dir);
        // An ordinary directory has no such file; a v1 group has no `cgroup.events`.
        if let Err(error) = fs::metadata(dir.join("cgroup.events")) {
            let _ = fs::remove_dir(dir);
            return Err(io::Error::new(
                error.kind(),
                format!("{} is not a cgroup v2 directory", dir.display()),
            ));
        }
        Ok(cgroup)
    }

    /// Names a directory that somebody else made.
    pub fn existing(dir: &Path) -> Self {
        Cgroup { dir: dir.to_owned() }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the file through which a process joins by writing `0`.
    pub(crate) fn entrance(&self) -> io::Result<fs::File> {
        fs::File::options().write(true).open(self.dir.join("cgroup.procs"))
    }

    /// Returns every live process inside, groups below included.
    pub fn members(&self) -> Vec<Identity> {
        let mut found = Vec::new();
        for dir in self.dirs() {
            let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) else { continue };
            found.extend(text.lines().filter_map(|line| line.parse().ok()).filter_map(Identity::of));
        }
        found
    }

    /// Returns whether nothing lives inside; `true` too when the directory is gone.
    pub fn is_empty(&self) -> bool {
        self.event("populated") == Some(false) || !self.dir.exists()
    }

    /// Returns whether everything inside is frozen.
    pub fn is_frozen(&self) -> bool {
        self.event("frozen") == Some(true)
    }

    /// Asks the kernel to freeze or thaw everything inside; freezing takes a moment, see [`Cgroup::is_frozen`].
    ///
    /// # Errors
    /// When the kernel is older than 5.2 or the directory is gone.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Kills everything inside, frozen or not; forks under way included.
    ///
    /// # Errors
    /// When a member could not be signalled.
    pub fn kill(&self) -> io::Result<()> {
        match fs::write(self.dir.join("cgroup.kill"), "1") {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.dir.exists() => return Ok(()),
            // Kernels before 5.14 have no such file: one by one.
            Err(_) => {}
        }
        for member in self.members() {
            sys::signal(member, rustix::process::Signal::KILL)?;
        }
        Ok(())
    }

    /// Removes the directory and the empty groups below it.
    ///
    /// # Errors
    /// When something still lives inside.
    pub fn remove(&self) -> io::Result<()> {
        for dir in self.dirs().iter().rev() {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the directory and all below, parents first.
    fn dirs(&self) -> Vec<PathBuf> {
        let mut all = vec![self.dir.clone()];
        let mut level = vec![self.dir.clone()];
        for _ in 0..DEPTH_MAX {
            level = level.iter().flat_map(|dir| subdirs(dir)).collect();
            if level.is_empty() {
                break;
            }
            all.extend(level.iter().cloned());
        }
        all
    }

    /// Reads one `key 0|1` line of `cgroup.events`.
    fn event(&self, key: &str) -> Option<bool> {
        let text = fs::read_to_string(self.dir.join("cgroup.events")).ok()?;
        text.lines().filter_map(|line| line.split_once(' ')).find(|(k, _)| *k == key).map(|(_, v)| v == "1")
    }
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// Returns the cgroup v2 directory this process is in, if we may make groups in it: the parent for a run's
/// [`UnitSpec::cgroup`](crate::spec::UnitSpec::cgroup). `None` is ordinary: no cgroup v2, or no permission.
pub fn cgroup_parent() -> Option<PathBuf> {
    // mountinfo (proc_pid_mountinfo(5)): field 4 is the root of the mount, 5 where it is mounted; the type follows " - ".
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let mut fields = mount.split(' ').skip(3);
    let (root, mounted_at) = (fields.next()?, fields.next()?);
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    let dir = Path::new(mounted_at).join(below);
    let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    (writable(&dir) && writable(&dir.join("cgroup.procs"))).then_some(dir)
}
