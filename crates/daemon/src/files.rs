//! The state directory: what lies where, and the few ways files are written there.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ostler_supervise::platform::Identity;
use ostler_wire::{AgentId, ENDPOINT_FILE, HOST_FILE, HOST_LOCK_FILE, HostRecord, RunId};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where a daemon keeps everything.
///
/// ```text
/// lock               held while a daemon runs
/// daemon.json        where the bus is, while a daemon runs
/// waiting.json       while a daemon waits for a bus that is not its own
/// bus.port           the port of the last start, taken again when the configuration leaves the choice
/// ostler.db          desired state, runs, output, events, the audit's chain
/// streams/           what the daemon's own bus keeps: the audit, the bucket of desired states, streams of others
/// operator.nk        the person's credential
/// engine.nk          the daemon's own
/// daemon.log         written by `ostler up --detach`
/// agents/<id>/       host.nk agent.nk host.lock session runs/<run id>/
/// ```
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`; nothing is made yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file that says where the bus is.
    pub fn endpoint(&self) -> PathBuf {
        self.0.join(ENDPOINT_FILE)
    }

    /// The file of a daemon that waits for its bus.
    pub(crate) fn waiting_file(&self) -> PathBuf {
        self.0.join("waiting.json")
    }

    /// What a daemon waits for; `None` when none does, or the one that did is gone.
    pub fn waiting(&self) -> Option<Waiting> {
        let waiting: Waiting = serde_json::from_slice(&fs::read(self.waiting_file()).ok()?).ok()?;
        waiting.identity().is_alive().then_some(waiting)
    }

    /// How many agents of this directory have a host that lives, whether a daemon is there for them or not.
    pub fn hosts_alive(&self) -> u32 {
        let runs = self
            .agent_ids()
            .into_iter()
            .filter_map(|agent| fs::read_dir(self.agent(&agent).join("runs")).ok());
        let records =
            runs.map(|runs| runs.flatten().filter_map(|run| fs::read(run.path().join(HOST_FILE)).ok()));
        let is_alive = |text: Vec<u8>| {
            serde_json::from_slice(&text).is_ok_and(|HostRecord { host, .. }| {
                Identity { pid: host.pid, start_time: host.start_time }.is_alive()
            })
        };
        records.map(|mut of_agent| u32::from(of_agent.any(is_alive))).sum()
    }

    /// The person's credential.
    pub fn operator_key(&self) -> PathBuf {
        self.0.join("operator.nk")
    }

    /// The log of a detached daemon.
    pub fn log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }

    pub(crate) fn engine_key(&self) -> PathBuf {
        self.0.join("engine.nk")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn port(&self) -> PathBuf {
        self.0.join("bus.port")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.0.join("ostler.db")
    }

    pub(crate) fn agents(&self) -> PathBuf {
        self.0.join("agents")
    }

    /// What the daemon's own bus keeps.
    pub fn streams(&self) -> PathBuf {
        self.0.join("streams")
    }

    /// One agent's directory.
    pub fn agent(&self, agent: &AgentId) -> PathBuf {
        self.agents().join(agent.as_str())
    }

    pub(crate) fn host_key(&self, agent: &AgentId) -> PathBuf {
        self.agent(agent).join("host.nk")
    }

    pub(crate) fn agent_key(&self, agent: &AgentId) -> PathBuf {
        self.agent(agent).join("agent.nk")
    }

    pub(crate) fn host_lock(&self, agent: &AgentId) -> PathBuf {
        self.agent(agent).join(HOST_LOCK_FILE)
    }

    /// One run's directory.
    pub fn run(&self, agent: &AgentId, run: RunId) -> PathBuf {
        self.agent(agent).join("runs").join(run.to_string())
    }

    /// The agents that have a directory.
    pub(crate) fn agent_ids(&self) -> Vec<AgentId> {
        let Ok(entries) = fs::read_dir(self.agents()) else { return Vec::new() };
        entries.flatten().filter_map(|entry| AgentId::parse(entry.file_name().to_str()?).ok()).collect()
    }
}

/// A daemon that is not ready yet, because its bus is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its process id.
    pub pid: u32,
    /// When the kernel started it, so that nobody takes a later process of the same id for it.
    pub start_time: u64,
    /// The addresses of the bus.
    pub urls: Vec<String>,
    /// What happened at the last attempt.
    pub reason: String,
}

impl Waiting {
    /// The daemon's process.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_time: self.start_time }
    }
}

/// Makes a directory and its parents, for the owner alone.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        path: path.to_owned(),
        verb: "made",
        source,
    })
}

/// Replaces a file by `value` as JSON: readers see the old content or the new, never half of one.
pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // A temporary file is made with mode 0600, which is what we want of everything here.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_of_the_same_id_is_no_waiting_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        let own = Identity::own().unwrap();
        let waiting =
            |start_time| Waiting { pid: own.pid, start_time, urls: Vec::new(), reason: String::new() };
        replace_json(&state.waiting_file(), &waiting(own.start_time)).unwrap();
        assert_eq!(state.waiting(), Some(waiting(own.start_time)));
        replace_json(&state.waiting_file(), &waiting(own.start_time - 1)).unwrap();
        assert_eq!(state.waiting(), None);
    }
}
