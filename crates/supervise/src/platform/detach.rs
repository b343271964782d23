//! Starting a process that is to outlive us: own session, no terminal, no pipes, no parent that must reap it.

#![expect(unsafe_code, reason = "the second fork of a detached start")]

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{WaitOptions, wait};

use super::spawn::{log_or_null, reset_signals};

/// Held while a child of ours is waited for by its id, so that [`reap_orphans`] does not take its status away. Std,
/// because it guards a few system calls and no `.await`.
static CHILDREN: Mutex<()> = Mutex::new(());

/// Reaps every ended child that nobody waits for: processes this one adopted because it is a
/// [subreaper](super::adopt_orphans). Call it at SIGCHLD.
///
/// Only for programs whose children are all started by [`spawn_detached`]: the status of any other would be lost.
pub fn reap_orphans() {
    let _reaping = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Starts a program in a session of its own, in `/`, with exactly this environment; stdin is empty, stdout and stderr
/// are appended to `log_file` (or dropped). Returns its process id.
///
/// It is not our child: it is adopted by init, or by the nearest subreaper, which may be this process; that one calls
/// [`reap_orphans`]. Watch it with [`pidfd_exited`](super::pidfd_exited).
///
/// # Errors
/// When the program is missing or cannot be run, or the log file cannot be opened.
pub fn spawn_detached(
    program: &Path,
    args: &[OsString],
    env: &[(OsString, OsString)],
    log_file: Option<&Path>,
) -> io::Result<u32> {
    let log = log_or_null(log_file)?;
    let (mut told, tell) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let before_exec = move || {
        reset_signals();
        rustix::process::setsid()?;
        // SAFETY: this child has one thread; the C library's fork put its own locks in order when it was made.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // The grandchild goes on to exec; an error there still reaches the standard library's own pipe.
                // Not a session leader, it can never get a terminal by opening one.
                (&tell).write_all(&std::process::id().to_ne_bytes())
            }
            // SAFETY: ends the process between without running anything of ours.
            _ => unsafe { libc::_exit(0) },
        }
    };
    // SAFETY: the closure only makes system calls and forks (see there); it allocates nothing.
    unsafe { command.pre_exec(before_exec) };
    let reaping = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut between = command.spawn()?;
    drop(command);
    between.wait()?;
    drop(reaping);
    let mut pid = [0; 4];
    told.read_exact(&mut pid)?;
    Ok(u32::from_ne_bytes(pid))
}
