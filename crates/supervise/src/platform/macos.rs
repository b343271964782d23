//! macOS: libproc and kqueue. There is no subreaper, no parent-death signal and no way to read another process's
//! environment cheaply, so a tree here is what descends from its leader.

#![expect(unsafe_code, reason = "libproc and kqueue have no safe wrapper")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::unix::AsyncFd;

use super::watch::{readable, watch};
use super::{Identity, Process};

/// Returns one process; a zombie is not told.
pub(crate) fn process(pid: u32) -> Option<Process> {
    let mut info = MaybeUninit::<libc::proc_taskallinfo>::zeroed();
    let size = libc::c_int::try_from(size_of::<libc::proc_taskallinfo>()).ok()?;
    // SAFETY: the buffer is ours and `size` bytes long.
    let written = unsafe {
        libc::proc_pidinfo(
            raw_pid(pid)?.as_raw_nonzero().get(),
            libc::PROC_PIDTASKALLINFO,
            0,
            info.as_mut_ptr().cast(),
            size,
        )
    };
    if written != size {
        return None;
    }
    // SAFETY: the call has filled the whole structure.
    let info = unsafe { info.assume_init() };
    Some(Process {
        identity: Identity {
            pid,
            start_time: info.pbsd.pbi_start_tvsec * 1_000_000 + info.pbsd.pbi_start_tvusec,
        },
        parent: info.pbsd.pbi_ppid,
        state: match info.pbsd.pbi_status {
            libc::SZOMB => b'Z',
            libc::SSTOP => b'T',
            _ => b'S',
        },
        cpu_time: Duration::from_nanos(info.ptinfo.pti_total_user + info.ptinfo.pti_total_system),
        rss_bytes: info.ptinfo.pti_resident_size,
    })
}

/// Returns every process the system shows us.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let mut pids = vec![0 as libc::pid_t; PIDS_MAX];
    let bytes = libc::c_int::try_from(std::mem::size_of_val(pids.as_slice())).unwrap_or(libc::c_int::MAX);
    // SAFETY: the buffer is ours and `bytes` bytes long.
    let count = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), bytes) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok(pids.iter().take(count).filter_map(|pid| process(u32::try_from(*pid).ok()?)).collect())
}

/// There are no lists of children here.
#[expect(clippy::unnecessary_wraps, reason = "same signature as where it can fail")]
pub(crate) fn family(_top: u32) -> io::Result<Option<Vec<Process>>> {
    Ok(None)
}

/// More processes than a macOS machine allows by default.
const PIDS_MAX: usize = 16 * 1024;

/// Environments are not readable here.
pub(crate) fn has_variable(_pid: u32, _variable: &[u8]) -> bool {
    false
}

/// Sends a signal to that process, checked just before. Gone already counts as sent.
pub(crate) fn signal(identity: Identity, signal: Signal) -> io::Result<()> {
    let Some(pid) = raw_pid(identity.pid) else { return Ok(()) };
    if process(identity.pid).is_none_or(|found| found.identity != identity) {
        return Ok(());
    }
    match kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the end of exactly that process.
pub(crate) async fn exited(identity: Identity) -> io::Result<()> {
    let watched = match watch_child(identity.pid) {
        Ok(watched) => watched,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(error) => return Err(error),
    };
    if process(identity.pid).is_some_and(|found| found.identity == identity) {
        readable(&watched).await?;
    }
    Ok(())
}

/// Opens a watch: a kqueue that becomes readable when the process has ended.
pub(crate) fn watch_child(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = raw_pid(pid).ok_or(Errno::SRCH)?;
    let queue = kqueue()?;
    let filter = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
    let wanted = [Event::new(filter, EventFlags::ADD, std::ptr::null_mut())];
    // SAFETY: the event names a process, not a file descriptor that could be closed under it.
    unsafe { kevent::<_, &mut [Event; 0]>(&queue, &wanted, &mut [], None)? };
    watch(queue)
}

pub(crate) fn raw_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// There is no parent-death signal: the guard has to do.
pub(crate) fn die_with_parent(_parent: u32) -> io::Result<()> {
    Ok(())
}

/// There is no subreaper: orphans go to launchd.
///
/// # Errors
/// Never.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(())
}
