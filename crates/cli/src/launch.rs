//! Starts a daemon in the background: this binary again, detached, and then waits until its bus answers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_daemon::StateDir;
use ostler_supervise::platform::{Identity, spawn_detached};
use ostler_wire::Endpoint;
use tokio::time::Instant;

use crate::connect::{Places, Session, read_endpoint, waiting_for_bus};
use crate::exit::{Exit, Failure, Outcome};
use crate::render::harmless;

/// File name of a background daemon's log in the state directory.
const LOG_FILE: &str = "daemon.log";

/// A daemon is ready within a tenth of a second; a machine under load gets this much.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two looks at the endpoint file.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Lines of the log that are shown when the daemon did not start.
const LOG_TAIL_LINES: usize = 12;

/// The log of a background daemon.
pub(crate) fn log_file(places: &Places) -> PathBuf {
    places.state_dir.join(LOG_FILE)
}

/// Starts `ostler up` with these further arguments and waits until it is ready.
pub(crate) async fn start(places: &Places, args: &[OsString]) -> Outcome<Endpoint> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&places.state_dir).map_err(|error| {
        let message = format!("the state directory {} cannot be made: {error}", places.state_dir.display());
        Failure::new(Exit::BadInput, message).hint("choose another place with --state-dir")
    })?;
    let log = log_file(places);
    let log_bytes_before = std::fs::metadata(&log).map_or(0, |found| found.len());
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("this program's own file is not known", &error))?;
    let mut all: Vec<OsString> = vec!["up".into(), "--state-dir".into(), places.state_dir.clone().into()];
    if places.config_is_given {
        all.extend(["--config".into(), places.config.clone().into()]);
    }
    all.extend_from_slice(args);
    let env: Vec<_> = std::env::vars_os().collect();
    let pid = spawn_detached(&program, &all, &env, Some(&log)).map_err(|error| {
        Failure::io(format!("{} cannot be started in the background", program.display()), &error)
    })?;
    // Already gone means that it failed at once; the log says why.
    let identity = Identity::of(pid);
    let deadline = Instant::now() + READY_PATIENCE;
    loop {
        if let Some(endpoint) = ready(places, pid).await? {
            return Ok(endpoint);
        }
        if !identity.is_some_and(Identity::is_alive) {
            return Err(with_log(
                Failure::new(Exit::Failed, "the daemon did not start"),
                &log,
                log_bytes_before,
            ));
        }
        if let Some(waiting) =
            StateDir::new(&places.state_dir).waiting().filter(|_| Instant::now() >= deadline)
        {
            return Err(waiting_for_bus(Exit::Timeout, &waiting));
        }
        if Instant::now() >= deadline {
            let text = format!("the daemon (pid {pid}) is not ready after {} s", READY_PATIENCE.as_secs());
            return Err(with_log(Failure::new(Exit::Timeout, text), &log, log_bytes_before));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The address that this very daemon wrote, once its bus takes our connection.
async fn ready(places: &Places, pid: u32) -> Outcome<Option<Endpoint>> {
    // A half-written file is impossible, but a foreign one is replaced in a moment.
    let Ok(Some(endpoint)) = read_endpoint(&places.endpoint_file()) else { return Ok(None) };
    if endpoint.pid != pid {
        return Ok(None);
    }
    match Session::open(places).await {
        Ok(_) => Ok(Some(endpoint)),
        Err(failure) if failure.exit == Exit::NoDaemon => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Adds what the daemon logged since it was started.
fn with_log(mut failure: Failure, log: &Path, from: u64) -> Failure {
    let text = std::fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let tail = tail(&String::from_utf8_lossy(new));
    if !tail.is_empty() {
        failure.message.push_str(&format!("; its last words:\n{tail}"));
    }
    failure.hint(format!("the whole log: {}", log.display()))
}

/// The last lines, indented.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default();
    last.iter().map(|line| format!("  {}", harmless(line))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_new_daemon_said_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join(LOG_FILE);
        std::fs::write(&log, "old\nerror: the port is in use\n\n").unwrap();
        let failure = with_log(Failure::new(Exit::Failed, "the daemon did not start"), &log, 4);
        assert_eq!(failure.message, "the daemon did not start; its last words:\n  error: the port is in use");
        assert!(failure.hint.unwrap().contains("daemon.log"));
    }

    #[test]
    fn a_long_log_is_cut_to_its_end() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(tail(&text).lines().count(), LOG_TAIL_LINES);
        assert!(tail(&text).ends_with("line 99"));
        assert_eq!(tail(""), "");
    }
}
