//! A disk in memory that can lose power, fill up and fail, for crash tests. It is not a cache for a real one.
//!
//! Every file has what is durable and a list of operations since its last sync. A power cut keeps what is durable and
//! any choice of the others, each whole, cut in the middle or not at all, in any order between files: what a disk with
//! a volatile cache may do. Names work the same way: creations, renames and removals since the directory's last sync
//! may or may not have happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

/// What a power cut does with each operation that was not synced. Equal seeds choose equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing that was not synced survives.
    LoseAll,
    /// Everything survives, as after `kill -9`.
    KeepAll,
    /// Some survive, some are cut in the middle: the number chooses which.
    Some(u64),
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Inode>,
    /// What a running process sees.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Names changed since the directory was synced, in order.
    pending_names: Vec<Naming>,
    /// Directories that may hold nothing. They are durable at once, as the store asks for it.
    dirs: BTreeSet<PathBuf>,
    /// Operations so far: the moments a crash test can choose from.
    operations: u64,
    /// Bytes that may still be written, when limited.
    space: Option<u64>,
    fail_syncs: u32,
    /// Every change fails with this.
    refuses: Option<io::ErrorKind>,
    /// From this operation on nothing works: the machine is off.
    off_at: Option<u64>,
    /// Something was asked of it when it was off.
    is_off: bool,
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// A change of a directory.
#[derive(Debug, Clone)]
enum Naming {
    File(PathBuf, usize),
    Gone(PathBuf),
    Moved { from: PathBuf, to: PathBuf },
}

impl Naming {
    /// What changes its name, and in which directory.
    fn path(&self) -> &Path {
        match self {
            Self::File(path, _) | Self::Gone(path) | Self::Moved { to: path, .. } => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::File(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Gone(path) => {
                names.remove(path);
            }
            Self::Moved { from, to } => {
                let inside: Vec<PathBuf> =
                    names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in inside {
                    if let Some(inode) = names.remove(&path) {
                        names.insert(moved(&path, from, to), inode);
                    }
                }
            }
        }
    }

    /// What it is called after the directory above it was renamed.
    fn follow(&mut self, from: &Path, to: &Path) {
        match self {
            Self::File(path, _) | Self::Gone(path) if path.starts_with(from) => *path = moved(path, from, to),
            _ => {}
        }
    }
}

fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    path.strip_prefix(from).map_or_else(|_| path.to_owned(), |rest| to.join(rest))
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations that change something there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets every operation from number `operation` on fail: the machine is off.
    pub fn power_off_at(&self, operation: u64) {
        self.state().off_at = Some(operation);
    }

    /// Whether something was asked of it after the power went: what is said from then on is said by nobody.
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// How many bytes may still be written; `None` for no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Lets the next `count` syncs fail, keeping none of what they were to keep.
    pub fn fail_syncs(&self, count: u32) {
        self.state().fail_syncs = count;
    }

    /// Lets everything that would change something fail with this, as a disk that was mounted anew without the right to
    /// write or that answers nothing but errors; `None` for a healthy one.
    pub fn refuse(&self, kind: Option<io::ErrorKind>) {
        self.state().refuses = kind;
    }

    /// The disk as it is found after the power came back.
    pub fn after(&self, crash: Crash) -> Self {
        let state = self.state();
        let mut random = match crash {
            Crash::Some(seed) => Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            _ => Random(1),
        };
        let mut choose = |bytes: usize| match crash {
            Crash::LoseAll => 0,
            Crash::KeepAll => bytes,
            Crash::Some(_) => match random.below(4) {
                0 => 0,
                1 if bytes > 0 => random.below(bytes as u64 + 1) as usize,
                _ => bytes,
            },
        };
        let mut names = state.durable_names.clone();
        let mut dirs = state.dirs.clone();
        for naming in &state.pending_names {
            let kept = choose(1) == 1;
            match naming {
                Naming::Moved { from, to } if !kept => {
                    // What is running saw it moved; the disk did not. It never happened to what is inside either.
                    let back = dirs.take(to).map(|_| from.clone());
                    dirs.extend(back);
                }
                naming if kept => naming.apply(&mut names),
                _ => {}
            }
        }
        let files = state
            .files
            .iter()
            .map(|inode| {
                let mut content = inode.durable.clone();
                for change in &inode.pending {
                    match change {
                        Change::Write(offset, bytes) => {
                            let kept = choose(bytes.len());
                            write(&mut content, *offset, &bytes[..kept]);
                        }
                        Change::SetLen(len) => {
                            if choose(1) == 1 {
                                content.resize(*len as usize, 0);
                            }
                        }
                    }
                }
                Inode { now: content.clone(), durable: content, pending: Vec::new() }
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            files,
            names: names.clone(),
            durable_names: names,
            dirs,
            ..State::default()
        })))
    }

    /// Every file with its content, for tests that damage them.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(path, &inode)| (path.clone(), state.files[inode].now.clone())).collect()
    }

    /// Replaces a file's content, durably; `None` removes it.
    pub fn put(&self, path: &Path, content: Option<Vec<u8>>) {
        let mut state = self.state();
        match content {
            None => {
                state.names.remove(path);
                state.durable_names.remove(path);
            }
            Some(content) => {
                let inode = state.files.len();
                state.files.push(Inode { now: content.clone(), durable: content, pending: Vec::new() });
                state.names.insert(path.to_owned(), inode);
                state.durable_names.insert(path.to_owned(), inode);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        if self.off_at.is_some_and(|off| self.operations >= off) {
            self.is_off = true;
            return Err(io::Error::other("the power is off"));
        }
        if let Some(kind) = self.refuses {
            return Err(kind.into());
        }
        self.operations += 1;
        Ok(())
    }

    /// What makes a change of names durable.
    fn make_durable(&mut self, naming: &Naming) {
        naming.apply(&mut self.durable_names);
        if let Naming::Moved { from, to } = naming {
            self.pending_names.iter_mut().for_each(|pending| pending.follow(from, to));
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let inode = match state.find(path) {
            Ok(inode) => inode,
            Err(error) if !create => return Err(error),
            Err(_) => {
                state.operate()?;
                let inode = state.files.len();
                state.files.push(Inode::default());
                state.names.insert(path.to_owned(), inode);
                state.pending_names.push(Naming::File(path.to_owned(), inode));
                inode
            }
        };
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode }))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, false)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.dirs.contains(dir) {
            state.operate()?;
            state.dirs.extend(dir.ancestors().map(Path::to_owned));
        }
        Ok(())
    }

    fn is_dir(&self, dir: &Path) -> bool {
        let state = self.state();
        state.dirs.contains(dir) || state.names.keys().any(|path| path != dir && path.starts_with(dir))
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let of_files = state.names.keys().filter_map(|path| path.parent());
        let inside = |path: &Path| Some(path.strip_prefix(dir).ok()?.iter().next()?.to_str()?.to_owned());
        let names: BTreeSet<String> =
            state.dirs.iter().map(PathBuf::as_path).chain(of_files).filter_map(inside).collect();
        Ok(names.into_iter().collect())
    }

    fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.is_dir(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut state = self.state();
        state.operate()?;
        let naming = Naming::Moved { from: from.to_owned(), to: to.to_owned() };
        naming.apply(&mut state.names);
        state.dirs.remove(from);
        state.dirs.insert(to.to_owned());
        state.pending_names.push(naming);
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.names.keys().any(|path| path.starts_with(dir)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.operate()?;
        state.dirs.remove(dir);
        Ok(())
    }

    fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        let files: Vec<PathBuf> = {
            let state = self.state();
            state.names.keys().filter(|path| path.starts_with(dir)).cloned().collect()
        };
        for file in files {
            self.unlink(&file)?;
        }
        self.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let mut at = 0;
        while at < state.pending_names.len() {
            if state.pending_names[at].path().parent() == Some(dir) {
                let naming = state.pending_names.remove(at);
                state.make_durable(&naming);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let inode = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        state.pending_names.push(Naming::File(to.to_owned(), inode));
        state.pending_names.push(Naming::Gone(from.to_owned()));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.find(path)?;
        state.names.remove(path);
        state.pending_names.push(Naming::Gone(path.to_owned()));
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = &state.files[self.inode].now;
        let start = content.len().min(offset as usize);
        let bytes = &content[start..content.len().min(start + buffer.len())];
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let taken = state.space.map_or(bytes.len(), |space| bytes.len().min(space as usize));
        if let Some(space) = &mut state.space {
            *space -= taken as u64;
        }
        let inode = &mut state.files[self.inode];
        write(&mut inode.now, offset, &bytes[..taken]);
        inode.pending.push(Change::Write(offset, bytes[..taken].to_vec()));
        if taken < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let inode = &mut state.files[self.inode];
        inode.now.resize(len as usize, 0);
        inode.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.inode].now.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        if state.fail_syncs > 0 {
            state.fail_syncs -= 1;
            // The pages are dropped and the next call reports success: the worst that kernels were seen to do.
            let inode = &mut state.files[self.inode];
            inode.now = inode.durable.clone();
            inode.pending.clear();
            return Err(io::Error::other("the device failed"));
        }
        let inode = &mut state.files[self.inode];
        inode.durable = inode.now.clone();
        inode.pending.clear();
        Ok(())
    }
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let offset = offset as usize;
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Enough chance for a test, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
