//! The demo's own little world: a fresh directory, a daemon in it, and the promise that nothing of it stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_supervise::platform::{Identity, pidfd_exited, sweep};
use ostler_wire::{AgentId, Endpoint, HOST_FILE, HostRecord, RunId};
use rustix::process::{Pid, Signal, kill_process};

use super::witness::PATIENCE;
use crate::connect::Places;
use crate::exit::{Exit, Failure, Outcome};
use crate::launch;

/// Pause between two looks at processes that are about to be gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Passes over the process table to end what is left; each waits [`LOOK_INTERVAL`].
const CLEAR_ROUNDS: u32 = 200;

pub(super) struct Stage {
    /// Removed when dropped, unless it is kept.
    dir: tempfile::TempDir,
    pub(super) places: Places,
    /// Daemons started so far; the last one may run.
    daemons: Vec<Identity>,
    /// Every process and run that must be gone in the end.
    processes: Vec<(String, Identity)>,
    runs: Vec<RunId>,
}

impl Stage {
    pub(super) fn new() -> Outcome<Self> {
        let dir = tempfile::Builder::new()
            .prefix("ostler-demo-")
            .tempdir()
            .map_err(|error| Failure::io("no directory for the demo can be made", &error))?;
        let config = dir.path().join("config.toml");
        // The person's own configuration must not play a part.
        std::fs::write(&config, "")
            .map_err(|error| Failure::io("the demo's configuration cannot be written", &error))?;
        let places = Places { state_dir: dir.path().join("state"), config, config_is_given: true };
        Ok(Self { dir, places, daemons: Vec::new(), processes: Vec::new(), runs: Vec::new() })
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a daemon on a free port, in the background.
    pub(super) async fn start_daemon(&mut self) -> Outcome<Endpoint> {
        let endpoint = launch::start(&self.places, &["--port".into(), "0".into()]).await?;
        let identity = Identity::of(endpoint.pid)
            .ok_or_else(|| Failure::new(Exit::Failed, "the daemon is gone right after it was ready"))?;
        self.daemons.push(identity);
        Ok(endpoint)
    }

    /// Kills the daemon the hard way and waits until it is gone.
    pub(super) async fn kill_daemon(&mut self) -> Outcome<u32> {
        let Some(daemon) = self.daemons.last().copied() else {
            return Err(Failure::new(Exit::Failed, "there is no daemon to kill"));
        };
        kill(daemon).map_err(|error| Failure::io("the daemon cannot be killed", &error))?;
        self.daemon_gone().await?;
        Ok(daemon.pid)
    }

    /// Waits until the last daemon's process is gone.
    pub(super) async fn daemon_gone(&self) -> Outcome {
        let Some(daemon) = self.daemons.last().copied() else { return Ok(()) };
        match tokio::time::timeout(PATIENCE, pidfd_exited(daemon.pid, daemon.start_time)).await {
            Ok(ended) => ended.map_err(|error| Failure::io("the daemon's process cannot be watched", &error)),
            Err(_) => {
                Err(Failure::new(Exit::Failed, format!("the daemon (pid {}) does not end", daemon.pid)))
            }
        }
    }

    /// Remembers a process that must be gone in the end.
    pub(super) fn expect_gone(&mut self, what: impl Into<String>, pid: u32) -> Outcome<Identity> {
        let what = what.into();
        let identity = Identity::of(pid)
            .ok_or_else(|| Failure::new(Exit::Failed, format!("{what} (pid {pid}) is not there")))?;
        self.processes.push((what, identity));
        Ok(identity)
    }

    pub(super) fn remember_run(&mut self, run: RunId) {
        self.runs.push(run);
    }

    /// What the host of a run says about itself on disk.
    pub(super) fn host_record(&self, agent: &AgentId, run: RunId) -> Outcome<HostRecord> {
        let file: PathBuf =
            [self.places.state_dir.as_path(), "agents".as_ref(), agent.as_str().as_ref(), "runs".as_ref()]
                .iter()
                .collect::<PathBuf>()
                .join(run.to_string())
                .join(HOST_FILE);
        let text =
            std::fs::read(&file).map_err(|error| Failure::io(format!("{}", file.display()), &error))?;
        serde_json::from_slice(&text).map_err(|error| {
            Failure::new(Exit::Failed, format!("{} cannot be read: {error}", file.display()))
        })
    }

    /// Waits until every remembered process is gone, then looks through all processes for one that carries the mark
    /// of one of our runs. Returns how many were looked for.
    pub(super) async fn nothing_left(&self) -> Outcome<usize> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let left: Vec<String> = self
                .processes
                .iter()
                .filter(|(_, identity)| identity.is_alive())
                .map(|(what, identity)| format!("{what} (pid {})", identity.pid))
                .collect();
            if left.is_empty() {
                break;
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Failure::new(Exit::Failed, format!("still running: {}", left.join(", "))));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let mut strays = self.sweep();
        strays.extend(self.namesakes().iter().map(|identity| identity.pid));
        if !strays.is_empty() {
            return Err(Failure::new(
                Exit::Failed,
                format!("processes of the demo were left and are killed: {strays:?}"),
            ));
        }
        Ok(self.processes.len())
    }

    /// Kills whatever carries the mark of one of our runs; returns who that was.
    fn sweep(&self) -> Vec<u32> {
        self.runs.iter().flat_map(|run| sweep(&run.to_string()).unwrap_or_default()).collect()
    }

    /// Processes with the demo's directory on their command line: daemons and hosts, those too that we were not told
    /// about because the demo ended in the middle of a spawn.
    fn namesakes(&self) -> Vec<Identity> {
        let dir = self.dir.path().as_os_str().as_encoded_bytes();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(dir.len()).any(|part| part == dir)
        })
        .filter_map(Identity::of)
        .filter(|identity| identity.is_alive())
        .collect()
    }

    /// Ends everything by force: for a demo that did not get to its end.
    pub(super) fn clear(&self) {
        for daemon in &self.daemons {
            // Gone already is as good.
            let _ = kill(*daemon);
        }
        for (_, identity) in &self.processes {
            let _ = kill(*identity);
        }
        // A daemon that was just being started may have started a host meanwhile.
        for _ in 0..CLEAR_ROUNDS {
            let left = self.namesakes();
            if left.is_empty() {
                break;
            }
            for identity in left {
                let _ = kill(identity);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.sweep();
    }

    /// Removes the directory, or says where it is kept.
    pub(super) fn close(self, keep: bool) -> Outcome<Option<PathBuf>> {
        if keep {
            return Ok(Some(self.dir.keep()));
        }
        let path = self.dir.path().to_owned();
        self.dir
            .close()
            .map_err(|error| Failure::io(format!("{} cannot be removed", path.display()), &error))?;
        Ok(None)
    }
}

/// Sends SIGKILL to exactly that process.
fn kill(identity: Identity) -> std::io::Result<()> {
    let pid = i32::try_from(identity.pid).ok().and_then(Pid::from_raw);
    match pid {
        Some(pid) if identity.is_alive() => Ok(kill_process(pid, Signal::KILL)?),
        _ => Ok(()),
    }
}
