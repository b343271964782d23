//! Starting a leader: pipes, own process group, parent-death signal, default signals, its cgroup. Nothing is retried.

#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Cgroup, SpawnError, sys};
use crate::spec::{CommandSpec, MARKER_VARIABLE, Signal};

/// A started leader.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) child: Child,
    /// Why it is not in the cgroup, if it should be.
    pub(crate) outside: Option<io::Error>,
}

/// Starts the leader of a tree.
pub(crate) fn spawn(
    spec: &CommandSpec,
    marker: &str,
    cgroup: Option<&Cgroup>,
) -> Result<Spawned, SpawnError> {
    if !spec.dir.is_dir() {
        return Err(SpawnError::DirMissing { dir: spec.dir.clone() });
    }
    let program = find_program(spec)?;
    let mut command = Command::new(&program);
    command
        .args(&spec.args)
        .current_dir(&spec.dir)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env(MARKER_VARIABLE, marker)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let system =
        |error: io::Error| SpawnError::System { program: program.clone(), message: error.to_string() };
    let mut outside = None;
    let mut entrance = None;
    match cgroup.map(Cgroup::entrance) {
        Some(Ok(file)) => entrance = Some(file),
        Some(Err(error)) => outside = Some(error),
        None => {}
    }
    // The child says through this pipe that it could not join; exec closes it.
    let (mut complaints, complain) = io::pipe().map_err(system)?;
    let ours = std::process::id();
    let before_exec = move || {
        if let Some(entrance) = &entrance
            && let Err(error) = (&*entrance).write_all(b"0")
        {
            let code = error.raw_os_error().unwrap_or(libc::EIO);
            // Nobody to tell if that fails too; the process then simply runs outside.
            let _ = (&complain).write_all(&code.to_ne_bytes());
        }
        reset_signals();
        sys::die_with_parent(ours)
    };
    // SAFETY: the closure only makes system calls (write, sigaction, prctl, getppid) and allocates nothing, so it is
    // sound in the child of a process with other threads.
    unsafe { command.pre_exec(before_exec) };
    let child = command.spawn().map_err(|error| explain(error, &program))?;
    // Closes our copy of the pipe's other end, which the closure holds.
    drop(command);
    let mut code = [0; 4];
    if complaints.read_exact(&mut code).is_ok() {
        outside = Some(io::Error::from_raw_os_error(i32::from_ne_bytes(code)));
    }
    Ok(Spawned { child, outside })
}

/// Sends a signal to a leader's process group. The leader must not have been reaped: its id is the group's.
pub(crate) fn signal_group(leader: u32, signal: Signal) -> io::Result<()> {
    use rustix::process::Signal as Raw;
    let raw = match signal {
        Signal::Hup => Raw::HUP,
        Signal::Int => Raw::INT,
        Signal::Quit => Raw::QUIT,
        Signal::Term => Raw::TERM,
        Signal::Usr1 => Raw::USR1,
        Signal::Usr2 => Raw::USR2,
        Signal::Kill => Raw::KILL,
    };
    let Some(group) = sys::raw_pid(leader) else { return Ok(()) };
    match rustix::process::kill_process_group(group, raw) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Finds the program as the shell would, in the PATH the child will have: `Command` would look in it too, but only
/// its error would not say where.
fn find_program(spec: &CommandSpec) -> Result<PathBuf, SpawnError> {
    let path = || spec.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    if spec.program.components().count() > 1 {
        return check_program(&spec.program, &spec.dir.join(&spec.program), String::new());
    }
    let path: OsString = path().unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(&spec.program))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| SpawnError::ProgramNotFound {
            program: spec.program.clone(),
            path: path.to_string_lossy().into_owned(),
        })
}

fn check_program(named: &Path, full: &Path, path: String) -> Result<PathBuf, SpawnError> {
    if !full.exists() {
        return Err(SpawnError::ProgramNotFound { program: named.to_owned(), path });
    }
    Ok(full.to_owned())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn explain(error: io::Error, program: &Path) -> SpawnError {
    let program = program.to_owned();
    let message = error.to_string();
    match error.raw_os_error() {
        // The file is there (it was looked at above), so what is missing is its interpreter.
        Some(libc::ENOENT) => SpawnError::NotExecutable {
            program,
            message: "its interpreter (the first line, `#!...`) was not found".to_owned(),
        },
        Some(libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::EISDIR) => {
            SpawnError::NotExecutable { program, message }
        }
        _ => SpawnError::System { program, message },
    }
}

/// Gives every signal its default disposition: what we ignore (SIGPIPE; SIGHUP under nohup) a child would go on
/// ignoring. The standard library clears the mask.
pub(super) fn reset_signals() {
    for signal in 1..32 {
        // SAFETY: setting the default is async-signal-safe and refused, harmlessly, where it is not possible.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Opens where a detached process's output goes; a new file is its owner's alone.
pub(super) fn log_or_null(log_file: Option<&Path>) -> io::Result<File> {
    match log_file {
        Some(path) => File::options().append(true).create(true).mode(0o600).open(path),
        None => File::options().read(true).write(true).open("/dev/null"),
    }
}
