//! `--signal COMMAND[=PID]`: tells another server of this machine what to do, and ends.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Sends it.
///
/// # Errors
/// The command is none, there is no such process, or it is not ours to signal.
pub(crate) fn send(argument: &str, program: &str) -> Result<(), String> {
    let (command, target) = match argument.split_once('=') {
        Some((command, target)) if !target.is_empty() => (command, Some(target)),
        Some((command, _)) => (command, None),
        None => (argument, None),
    };
    let signal = match command {
        "ldm" => Signal::USR2,
        "reload" => Signal::HUP,
        "reopen" => Signal::USR1,
        "quit" => Signal::INT,
        "term" => Signal::TERM,
        "stop" => Signal::KILL,
        _ => {
            return Err(format!(
                "unknown signal {command:?}; there are ldm, reload, reopen, quit, term and stop"
            ));
        }
    };
    let pid = match target {
        Some(target) => pid(target)?,
        None => only_server(program)?,
    };
    let failed =
        |error| format!("signal {command:?} to process {pid}: {error}; is it the right one, and yours?");
    let pid = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 0);
    let pid = pid.ok_or_else(|| "a process id is greater than 0".to_owned())?;
    kill_process(pid, signal).map_err(|error| failed(error.to_string()))
}

/// A process id, or the pid file that holds it.
fn pid(target: &str) -> Result<i32, String> {
    if let Ok(pid) = target.parse() {
        return Ok(pid);
    }
    let held = std::fs::read_to_string(target)
        .map_err(|error| format!("{target:?} is no process id, and as a pid file: {error}"))?;
    held.trim().parse().map_err(|_| format!("{target}: no process id in it"))
}

/// The one other process that runs under our name.
fn only_server(program: &str) -> Result<i32, String> {
    let explain = |what: &str| format!("{what}; name the process with --signal COMMAND=PID or =PIDFILE");
    let processes =
        std::fs::read_dir("/proc").map_err(|_| explain("cannot list the processes of this system"))?;
    let ours = std::process::id().to_string();
    let servers: Vec<i32> = processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|pid| *pid != ours)
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let first = line.split(|byte| *byte == 0).next()?;
            let name = Path::new(std::str::from_utf8(first).ok()?).file_name()?;
            (name == program).then(|| pid.parse().ok())?
        })
        .collect();
    match servers.as_slice() {
        [pid] => Ok(*pid),
        [] => Err(explain(&format!("no {program} is running"))),
        several => Err(explain(&format!("several are running: {several:?}"))),
    }
}
