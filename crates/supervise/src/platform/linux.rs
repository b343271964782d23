//! Linux: `/proc` and pidfds.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::watch::{readable, watch};
use super::{Identity, Process};

/// Returns one process, zombies included.
pub(crate) fn process(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat)
}

/// Returns every process the system shows us, zombies included. Not atomic: who forks or ends meanwhile may be missing.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::with_capacity(256);
    let mut path = String::with_capacity(32);
    let mut stat = Vec::with_capacity(512);
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        path.clear();
        path.push_str("/proc/");
        path.push_str(pid);
        path.push_str("/stat");
        stat.clear();
        match fs::File::open(&path).and_then(|mut file| io::Read::read_to_end(&mut file, &mut stat)) {
            Ok(_) => found.extend(parse_stat(&stat)),
            Err(error) if is_gone_or_hidden(&error) => {}
            // Out of file descriptors, say: a listing with holes must not pass for a whole one.
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Returns a process and everything below it, parents before children, without looking at the rest of the machine.
/// `None` if the kernel keeps no lists of children (CONFIG_PROC_CHILDREN). Not atomic either.
pub(crate) fn family(top: u32) -> io::Result<Option<Vec<Process>>> {
    if !fs::exists(format!("/proc/{top}/task/{top}/children"))? {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([top]);
    let mut level = vec![top];
    while !level.is_empty() {
        found.extend(level.iter().filter_map(|pid| process(*pid)));
        let mut next = Vec::new();
        for pid in level {
            children(pid, &mut next)?;
        }
        next.retain(|pid| seen.insert(*pid));
        level = next;
    }
    Ok(Some(found))
}

/// Adds the children of a process: each of its threads has a list of those it forked.
fn children(pid: u32, found: &mut Vec<u32>) -> io::Result<()> {
    let tasks = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tasks,
        Err(error) if is_gone_or_hidden(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for task in tasks {
        // A thread that ends hands its children to another; the caller looks more than once.
        let list = match task.and_then(|task| fs::read_to_string(task.path().join("children"))) {
            Ok(list) => list,
            Err(error) if is_gone_or_hidden(&error) => continue,
            Err(error) => return Err(error),
        };
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(())
}

fn is_gone_or_hidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(libc::ESRCH)
}

/// Returns whether the process's environment has exactly this `NAME=value`; `false` if it may not be read.
pub(crate) fn has_variable(pid: u32, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == variable))
}

/// Sends a signal to exactly that process. Gone already counts as sent.
pub(crate) fn signal(identity: Identity, signal: Signal) -> io::Result<()> {
    match open(identity) {
        Ok(Some(pidfd)) => match pidfd_send_signal(&pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for the end of exactly that process.
pub(crate) async fn exited(identity: Identity) -> io::Result<()> {
    match open(identity)? {
        Some(pidfd) => readable(&watch(pidfd)?).await,
        None => Ok(()),
    }
}

/// Opens a watch on a child that has not been reaped; [`readable`] returns when it has ended.
pub(crate) fn watch_child(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = raw_pid(pid).ok_or(Errno::SRCH)?;
    watch(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Opens a pidfd and makes sure that it means this process; `None` = it is gone.
fn open(identity: Identity) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = raw_pid(identity.pid) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Checked after opening: from here on the descriptor cannot come to mean another process.
    let same = process(identity.pid).is_some_and(|found| found.identity == identity);
    Ok(same.then_some(pidfd))
}

pub(crate) fn raw_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Reads a line of `/proc/<pid>/stat` (proc_pid_stat(5)): the name in parentheses may hold anything, so fields are
/// counted from the last closing one.
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let text = std::str::from_utf8(&stat[memchr::memrchr(b')', stat)? + 1..]).ok()?;
    let pid = std::str::from_utf8(&stat[..memchr::memchr(b' ', stat)?]).ok()?.parse().ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    // The manual counts from 1 and the name is field 2, so field n is at n - 3.
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let state = *fields.first()?;
    let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    Some(Process {
        identity: Identity { pid, start_time: number(22)? },
        parent: u32::try_from(number(4)?).ok()?,
        state: *state.as_bytes().first()?,
        cpu_time: Duration::from_millis(ticks * 1000 / ticks_per_second()),
        rss_bytes: number(24)? * page_bytes(),
    })
}

fn ticks_per_second() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| clock_ticks_per_second().max(1))
}

fn page_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| u64::try_from(page_size()).unwrap_or(4096))
}

/// In the child: asks for SIGKILL when the thread that forked us ends, and makes sure it has not ended already.
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() == parent {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EOWNERDEAD))
}

/// Makes orphans below this process its children instead of init's; whoever calls it reaps them.
///
/// # Errors
/// When the kernel does not know subreapers (Linux before 3.4).
pub fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}
