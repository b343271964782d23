//! The file operations the store needs, as a trait, so that a disk which loses power can take the real one's place.
//! Nothing here knows what is in the files.

mod real;
mod simulated;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
pub use simulated::{Crash, SimulatedDisk};

/// Files by path. Every call is one operation of the operating system and may block.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] unless `create`; whatever the operating system says.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that will not be written; also where nothing may be written.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and whatever the operating system says.
    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of the plain files in a directory, in no order.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and whatever the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and those above it, durably; one that exists is fine.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether there is such a directory.
    fn is_dir(&self, dir: &Path) -> bool;

    /// The names of the directories in a directory, in no order.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and whatever the operating system says.
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a directory within the one it is in, to a name that is free. Not durable before [`Disk::sync_dir`].
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and whatever the operating system says.
    fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a directory that has nothing in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::DirectoryNotEmpty`] and whatever the operating system says.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Removes a directory with everything in it, in no order: a crash may leave any part of it.
    ///
    /// # Errors
    /// Whatever the operating system says; a part may be gone.
    fn remove_tree(&self, dir: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Renames within one directory, replacing the target.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Who has it open can go on reading.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn unlink(&self, path: &Path) -> io::Result<()>;
}

/// An open file. Calls may come from two threads: one writes while another syncs.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads at an offset until the buffer is full or the file ends, and says how much that was.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// Whatever the operating system says; a part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// How long it is.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Returns when everything written before the call, and the length, survives a power cut.
    ///
    /// # Errors
    /// Whatever the operating system says. After an error nobody knows what is on disk, and asking again does not
    /// tell: the second call may succeed although the pages were dropped.
    fn sync_data(&self) -> io::Result<()>;
}
