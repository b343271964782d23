//! Forking this process and waiting as a guard does: for a child or for a signal.

#![expect(unsafe_code, reason = "fork, signal masks and sigwait have no safe wrapper")]

use std::io;
use std::mem::MaybeUninit;

/// Which side of a fork we are on.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The old process; `child` is the new one.
    Parent {
        /// Its process id.
        child: u32,
    },
    /// The new process.
    Child,
}

/// What a guard waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Some child may have ended.
    Child,
    /// Somebody asks the guard to end.
    Terminate,
}

/// Forks. In the parent SIGCHLD and SIGTERM stay held back for [`Waiting::next`]; the child has the mask from before.
///
/// # Errors
/// When other threads run (they would not exist in the child, but their locks would), or the system has no room.
pub(crate) fn fork_with_signals_held() -> io::Result<Fork> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::other(format!(
            "a guard must be entered before other threads start; {threads} run"
        )));
    }
    for signal in [libc::SIGCHLD, libc::SIGTERM] {
        // An ignored SIGCHLD, inherited from a careless parent, would reap children before they can be waited for.
        // SAFETY: SIG_DFL is a valid disposition for both; no handler of ours exists.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let held = guard_signals();
    // SAFETY: both pointers are to sigset_t of our own frame; `held` is initialised.
    check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &held, before.as_mut_ptr()) })?;
    // SAFETY: pthread_sigmask succeeded, so it has written the old mask.
    let before = unsafe { before.assume_init() };
    // SAFETY: this is the only thread (checked above), so the child finds no lock held by a thread it does not have.
    let child = unsafe { libc::fork() };
    if child > 0 {
        return Ok(Fork::Parent { child: child.cast_unsigned() });
    }
    let failed = (child < 0).then(io::Error::last_os_error);
    // SAFETY: `before` is a mask the kernel gave us; no old mask is asked for.
    check(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) })?;
    failed.map_or(Ok(Fork::Child), Err)
}

/// Makes this process deaf to a terminal: it leaves the terminal's session and ignores what a terminal sends.
pub(crate) fn become_guard() {
    // The leader of a group (started from a shell by hand) cannot leave; ignoring has to do.
    let _ = rustix::process::setsid();
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGTSTP,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ] {
        // SAFETY: SIG_IGN is a valid disposition for each of these; no handler of ours exists.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

impl Waiting {
    /// Waits for one of the signals held back by [`fork_with_signals_held`].
    pub(crate) fn next() -> Waiting {
        let held = guard_signals();
        loop {
            let mut signal = 0;
            // SAFETY: `held` is initialised and `signal` is ours to write.
            let result = unsafe { libc::sigwait(&held, &mut signal) };
            match (result, signal) {
                (0, libc::SIGCHLD) => return Waiting::Child,
                (0, libc::SIGTERM) => return Waiting::Terminate,
                // Interrupted, on systems where that can be: wait again.
                _ => {}
            }
        }
    }
}

fn guard_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given; sigaddset then gets an initialised set and valid numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        set.assume_init()
    }
}

/// pthread functions return the error instead of setting `errno`.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

#[cfg(target_os = "linux")]
fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Elsewhere the caller's word has to do.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "same signature as where it can fail")]
fn thread_count() -> io::Result<usize> {
    Ok(1)
}
