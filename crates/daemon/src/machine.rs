//! This machine, as the engine needs it: starts hosts, finds them again, clears up after them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_engine::{Adoption, HostGone, LaunchPlan, Node, Notice};
use ostler_supervise::platform::{self, Cgroup, Identity, LockError};
use ostler_wire::{
    AgentId, AgentKind, ErrorCode, ErrorReply, HOST_FILE, HOST_LOG_FILE, HostRecord, NodeId, OutputMessage,
    PROMPTED_FILE, ProcessIdentity, RunId, RunSpec, SPEC_FILE, SPOOL_FILE, SpawnRequest,
};
use tokio::runtime;
use tokio::sync::mpsc;

use crate::files::{make_dir, replace_json};
use crate::identities::Identities;
use crate::{Error, StateDir};

/// How long a host that holds its lock may take to say who it is.
const RECORD_PATIENCE: Duration = Duration::from_secs(3);
/// How long killed processes may take to leave their control group.
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked meanwhile, and for the end of a host the kernel gives no descriptor for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a host may outlive its guard: it clears the tree away itself and hands its output over.
const HOST_PATIENCE: Duration = Duration::from_secs(8);
/// The variable that sets the level of the hosts' logs.
const HOST_LOG_VARIABLE: &str = "OSTLER_HOST_LOG";
/// Directories of earlier runs kept per agent, for their host logs.
const RUN_DIRS_KEPT: usize = 5;

/// What the machine needs to know.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) state: StateDir,
    pub(crate) node: NodeId,
    pub(crate) identities: Identities,
    /// The program to start hosts with: this one.
    pub(crate) program: PathBuf,
    /// The environment every agent gets.
    pub(crate) env: Vec<(String, String)>,
    /// Where control groups may be made.
    pub(crate) cgroup_parent: Option<PathBuf>,
    pub(crate) heartbeat_ms: u64,
    pub(crate) buffer_bytes_max: u64,
    pub(crate) notices: mpsc::Sender<Notice>,
    /// Where the watches run; they end with the daemon's runtime.
    pub(crate) runtime: runtime::Handle,
}

impl Node for Machine {
    fn check(&self, spawn: &SpawnRequest) -> Result<(), ErrorReply> {
        let dir = self.dir_of(spawn)?;
        self.program_of(spawn, &dir).map(drop)
    }

    fn launch(&self, plan: &LaunchPlan) -> Result<(), ErrorReply> {
        let spec = self.prepare(plan)?;
        let guard_pid = self.start_host(&spec)?;
        let guard = ProcessIdentity {
            pid: guard_pid,
            start_time: platform::process_identity(guard_pid).unwrap_or(0),
        };
        self.watch(plan.agent_id.clone(), plan.run_id, guard);
        Ok(())
    }

    fn adopt(&self, agent: &AgentId, run: RunId) -> Adoption {
        // The lock is held by the host and by its guard: while it is held, the run is not over.
        let deadline = std::time::Instant::now() + RECORD_PATIENCE;
        loop {
            let holder = match platform::lock_file(&self.state.host_lock(agent)) {
                Err(LockError::Held { holder, .. }) => holder,
                // While the lock is ours no host starts; without its specification none ever will. So a host that a
                // killed daemon had just started cannot come to life beside the one that takes its place.
                Ok(_lock) => {
                    let _ = fs::remove_file(self.state.run(agent, run).join(SPEC_FILE));
                    break;
                }
                Err(LockError::Io { .. }) => break,
            };
            if let Some(record) = self.record(agent, run) {
                self.watch(agent.clone(), run, record.guard);
                return Adoption::Alive(Box::new(record));
            }
            if std::time::Instant::now() > deadline {
                tracing::error!(%agent, %run, "a host holds the lock and does not say who it is; it is ended");
                // Who took the lock wrote its id into it, and it is held: by that process, or by the host below it, which
                // ends when it sees its guard end.
                if let Some(holder) = holder.and_then(Identity::of) {
                    let _ = platform::kill(holder);
                }
                break;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Adoption::Gone(Box::new(clear_up(&self.state, agent, run, self.cgroup_of(run))))
    }

    fn rss_bytes(&self) -> u64 {
        Identity::own().map_or(0, |own| platform::facts(&[own]).rss_bytes)
    }

    fn forget(&self, agent: &AgentId) {
        self.identities.expel(agent);
        if let Err(error) = fs::remove_dir_all(self.state.agent(agent))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%agent, %error, "the agent's directory cannot be removed");
        }
    }
}

impl Machine {
    /// Makes everything a host needs before it is started.
    fn prepare(&self, plan: &LaunchPlan) -> Result<RunSpec, ErrorReply> {
        let agent = &plan.agent_id;
        let dir = self.dir_of(&plan.spawn)?;
        let program = self.program_of(&plan.spawn, &dir)?;
        let run_dir = self.state.run(agent, plan.run_id);
        make_dir(&run_dir).map_err(storage)?;
        self.forget_old_runs(agent, &run_dir);
        if !plan.prompted {
            let mark = self.state.agent(agent).join(PROMPTED_FILE);
            // A new definition has a first prompt of its own. Usually there is no mark.
            let _ = fs::remove_file(mark);
        }
        let agent_key = self.identities.admit(&self.state, agent).map_err(storage)?;

        let mut spawn = plan.spawn.clone();
        spawn.dir = Some(dir);
        match named_program(&plan.spawn) {
            Some(_) => spawn.command[0] = program,
            None => spawn.command.insert(0, program),
        }
        let mut env = self.env.clone();
        env.push(("OSTLER_AGENT_ID".into(), agent.to_string()));
        env.push(("OSTLER_ENDPOINT_FILE".into(), self.state.endpoint().display().to_string()));
        if let Some(key_file) = agent_key {
            env.push(("OSTLER_KEY_FILE".into(), key_file.display().to_string()));
        }
        let spec = RunSpec {
            agent_id: agent.clone(),
            run_id: plan.run_id,
            node: self.node.clone(),
            spawn,
            env,
            agent_dir: self.state.agent(agent),
            endpoint_file: self.state.endpoint(),
            key_file: self.state.host_key(agent),
            cgroup: self.cgroup_of(plan.run_id),
            heartbeat_ms: self.heartbeat_ms,
            buffer_bytes_max: self.buffer_bytes_max,
            run_dir,
        };
        replace_json(&spec.run_dir.join(SPEC_FILE), &spec)
            .map_err(|source| storage(Error::File { path: spec.run_dir.clone(), verb: "written", source }))?;
        Ok(spec)
    }

    fn start_host(&self, spec: &RunSpec) -> Result<u32, ErrorReply> {
        let args: [OsString; 3] = ["host".into(), "--run-dir".into(), spec.run_dir.clone().into()];
        let log = spec.run_dir.join(HOST_LOG_FILE);
        // The host needs nothing else of our environment; what it gives to the agent stands in the spec.
        let log_level = std::env::var_os(HOST_LOG_VARIABLE).map(|level| (HOST_LOG_VARIABLE.into(), level));
        let env: Vec<(OsString, OsString)> = log_level.into_iter().collect();
        platform::spawn_detached(&self.program, &args, &env, Some(&log)).map_err(|error| {
            ErrorReply::new(
                ErrorCode::Internal,
                format!("the host of {} cannot be started: {error}", spec.agent_id),
            )
            .hint("`ostler doctor` checks the limits of this machine")
        })
    }

    /// Reports the end of a run's guard, which is the end of everything in the run.
    fn watch(&self, agent: AgentId, run: RunId, guard: ProcessIdentity) {
        let (state, notices, cgroup) = (self.state.clone(), self.notices.clone(), self.cgroup_of(run));
        self.runtime.spawn(async move {
            if let Err(error) = platform::pidfd_exited(guard.pid, guard.start_time).await {
                tracing::warn!(%agent, %error, "the host is watched by looking");
                while platform::process_identity(guard.pid) == Some(guard.start_time) {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
            let gone = tokio::task::spawn_blocking(move || {
                outwait_host(&state, &agent, run);
                clear_up(&state, &agent, run, cgroup)
            })
            .await;
            if let Ok(gone) = gone {
                // A closed queue means the engine has ended; the next daemon finds the run.
                let _ = notices.send(Notice::HostGone(Box::new(gone))).await;
            }
        });
    }

    /// The control group a run is to make for its agent.
    fn cgroup_of(&self, run: RunId) -> Option<PathBuf> {
        self.cgroup_parent.as_ref().map(|parent| parent.join(format!("ostler-{run}")))
    }

    fn record(&self, agent: &AgentId, run: RunId) -> Option<HostRecord> {
        read_record(&self.state.run(agent, run))
    }

    fn dir_of(&self, spawn: &SpawnRequest) -> Result<PathBuf, ErrorReply> {
        let dir = match &spawn.dir {
            Some(dir) if !dir.is_absolute() => {
                return Err(ErrorReply::new(
                    ErrorCode::MissingDirectory,
                    format!("the directory {} is not absolute", dir.display()),
                )
                .hint("the daemon has a working directory of its own: give the whole path"));
            }
            Some(dir) => dir.clone(),
            None => std::env::current_dir().unwrap_or_else(|_| "/".into()),
        };
        if dir.is_dir() {
            return Ok(dir);
        }
        let what = if dir.exists() { "is not a directory" } else { "does not exist" };
        Err(ErrorReply::new(ErrorCode::MissingDirectory, format!("the directory {} {what}", dir.display()))
            .hint("make it, or name another with --dir"))
    }

    /// Finds the program as the agent's own environment would.
    fn program_of(&self, spawn: &SpawnRequest, dir: &Path) -> Result<String, ErrorReply> {
        let name = match (named_program(spawn), spawn.kind) {
            (Some(name), _) => name,
            (None, AgentKind::Claude) => "claude",
            (None, AgentKind::Plain) => {
                return Err(ErrorReply::new(ErrorCode::InvalidMessage, "a plain agent needs a command")
                    .hint("ostler spawn NAME -- PROGRAM ARGUMENTS..."));
            }
        };
        let missing = |reason: &str, hint: String| {
            Err(ErrorReply::new(ErrorCode::MissingProgram, format!("the program {name} {reason}")).hint(hint))
        };
        if name.contains('/') {
            let path = dir.join(name);
            return match fs::metadata(&path) {
                Ok(found) if is_executable(&found) => Ok(path.display().to_string()),
                Ok(_) => missing("may not be executed", format!("chmod +x {}", path.display())),
                Err(_) => missing("does not exist", "check the path and the --dir it is relative to".into()),
            };
        }
        let path = spawn.env.get("PATH").cloned().or_else(|| {
            self.env.iter().find(|(variable, _)| variable == "PATH").map(|(_, value)| value.clone())
        });
        let path = path.unwrap_or_default();
        std::env::split_paths(&path)
            .map(|part| dir.join(part).join(name))
            .find(|candidate| fs::metadata(candidate).is_ok_and(|found| is_executable(&found)))
            .map(|found| found.display().to_string())
            .map_or_else(
                || {
                    missing(
                        "is not on the daemon's PATH",
                        format!("install it, or give its whole path; PATH is {path}"),
                    )
                },
                Ok,
            )
    }

    fn forget_old_runs(&self, agent: &AgentId, present: &Path) {
        let Ok(entries) = fs::read_dir(self.state.agent(agent).join("runs")) else { return };
        let mut runs: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|run| run != present).collect();
        // Version 7 ids sort by the time they were made, as the clock had it.
        runs.sort();
        let too_many = runs.len().saturating_sub(RUN_DIRS_KEPT);
        for run in runs.into_iter().take(too_many) {
            let _ = fs::remove_dir_all(run);
        }
    }
}

/// Waits until nobody holds the agent's lock. In the ordinary case the guard was the last; one that was killed leaves a
/// host that still hands its output over.
fn outwait_host(state: &StateDir, agent: &AgentId, run: RunId) {
    let deadline = std::time::Instant::now() + HOST_PATIENCE;
    while matches!(platform::lock_file(&state.host_lock(agent)), Err(LockError::Held { .. })) {
        if std::time::Instant::now() > deadline {
            tracing::error!(%agent, "a host without a guard does not end; it is killed");
            if let Some(record) = read_record(&state.run(agent, run)) {
                let host = Identity { pid: record.host.pid, start_time: record.host.start_time };
                let _ = platform::kill(host);
            }
            return;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Ends whatever a run left behind and reads its last words; blocking. A host that was killed early has no record: then
/// its control group is the one it was to make.
fn clear_up(state: &StateDir, agent: &AgentId, run: RunId, cgroup: Option<PathBuf>) -> HostGone {
    let run_dir = state.run(agent, run);
    let record = read_record(&run_dir);
    let cgroup = record.as_ref().and_then(|record| record.cgroup.clone()).or(cgroup);
    let cgroup = cgroup.as_deref().map(Cgroup::existing);
    if let Some(cgroup) = &cgroup {
        // Gone already in the ordinary case: the guard removed it.
        let _ = cgroup.kill();
    }
    match platform::sweep(&run.to_string()) {
        Ok(killed) if !killed.is_empty() => {
            tracing::warn!(%agent, ?killed, "processes of a lost run were ended");
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%agent, %error, "left-over processes cannot be looked for"),
    }
    if let Some(cgroup) = &cgroup {
        remove_when_empty(cgroup, agent);
    }
    HostGone { agent_id: agent.clone(), run_id: run, record, spool: read_spool(&run_dir.join(SPOOL_FILE)) }
}

/// Removes a control group as soon as those who were killed in it are gone, which takes the kernel a moment.
fn remove_when_empty(cgroup: &Cgroup, agent: &AgentId) {
    let deadline = std::time::Instant::now() + CGROUP_PATIENCE;
    while let Err(error) = cgroup.remove() {
        if std::time::Instant::now() > deadline {
            tracing::warn!(%agent, %error, "the control group of a lost run cannot be removed");
            return;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn read_record(run_dir: &Path) -> Option<HostRecord> {
    let path = run_dir.join(HOST_FILE);
    let bytes = fs::read(&path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(
            |error| tracing::error!(path = %path.display(), %error, "a host's record cannot be read"),
        )
        .ok()
}

/// Reads the spool up to its end or its first broken line: a host that was killed while writing leaves half of one.
fn read_spool(path: &Path) -> Vec<OutputMessage> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let mut spool = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(output) => spool.push(output),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the spool ends early");
                break;
            }
        }
    }
    spool
}

/// The program a request names; a kind that knows its own program may be given nothing but arguments.
fn named_program(spawn: &SpawnRequest) -> Option<&str> {
    let first = spawn.command.first().map(String::as_str)?;
    let is_argument = spawn.kind != AgentKind::Plain && first.starts_with('-');
    (!first.is_empty() && !is_argument).then_some(first)
}

fn is_executable(found: &fs::Metadata) -> bool {
    found.is_file() && found.permissions().mode() & 0o111 != 0
}

fn storage(error: Error) -> ErrorReply {
    let hint = error.hint();
    let reply = ErrorReply::new(ErrorCode::StorageFailed, error.to_string());
    match hint {
        Some(hint) => reply.hint(hint),
        None => reply,
    }
}
