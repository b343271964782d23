//! One agent run: a process of its own that supervises the agent, carries it to the bus and outlives the daemon.
//!
//! It knows neither the engine nor the store: it reads one file, serves eight subjects and leaves one file behind.
//!
//! ```no_run
//! // The hidden verb `ostler host --run-dir DIR`, before any thread or runtime exists:
//! fn main() -> std::process::ExitCode {
//!     ostler_host::main(std::path::Path::new("/var/lib/ostler/agents/reviewer/runs/0190d2a0"))
//! }
//! ```
//!
//! # Theory of operation
//!
//! [`main`] takes the agent's lock, splits off the guard (see [`ostler_supervise::guard`]) and runs one loop on one
//! thread. The loop owns the state; everything it must decide is in a part without I/O: the output that is kept until the
//! engine has it, the inputs that wait for their turn, the answers to requests. The agent starts at once; the
//! bus is connected in the background and may come and go.
//!
//! The life of a run: `spec.json` is read, the lock taken, `host.json` written, the agent started. At every change
//! `host.json` is replaced and the state published. When the agent is over, the output is handed to the engine; what it
//! does not acknowledge in time is left in `spool.jsonl`; the process ends with one of the [`exit`] codes.
//!
//! # Known limits
//!
//! * Control requests on different subjects of one agent have no order among each other unless the sender waits for the
//!   answers.
//! * A session that the CLI no longer knows is replaced by a fresh one only when the restart policy is not `never`, or the
//!   process is still there when the CLI says so.
#![forbid(unsafe_code)]

mod bus;
mod control;
mod core;
mod files;
mod launch;
mod outbox;
mod output;
mod run;
mod status;
mod turns;
mod twice;

use std::path::Path;
use std::process::ExitCode;

use ostler_supervise::guard::{self, GuardOptions};
use ostler_supervise::platform::{LockError, lock_file};
use ostler_wire::{AgentState, HOST_LOCK_FILE};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What the exit code of a host says.
pub mod exit {
    /// The agent is terminated, as wanted.
    pub const TERMINATED: u8 = 0;
    /// The agent ended in the state `error`; `host.json` says why.
    pub const ERROR: u8 = 1;
    /// The run's files could not be used or the system refused something basic; the log says what.
    pub const UNUSABLE: u8 = 2;
    /// Another host holds the agent's lock: it runs, or the tree of its dead predecessor is still being cleared away.
    pub const LOCKED: u8 = 3;
}

/// The variable that sets the level of the host's log: `error`, `warn` (the default), `info`, `debug` or `trace`.
pub const LOG_VARIABLE: &str = "OSTLER_HOST_LOG";

/// Runs the agent whose specification is in `run_dir` until it is over, and returns the [`exit`] code.
///
/// Call it first thing in `main`: it forks, which needs a process with one thread. The original process becomes the guard
/// and never returns from here; the code comes from its child, and the guard passes it on. Stdin is not used, stdout not
/// written; the log goes to stderr.
pub fn main(run_dir: &Path) -> ExitCode {
    let level = std::env::var(LOG_VARIABLE).ok().and_then(|level| level.parse().ok());
    let targets = Targets::new()
        .with_default(level.unwrap_or(LevelFilter::WARN))
        // A bus that is away is ordinary for a host; the library's connector calls each time a fatal error.
        .with_target("async_nats::connector", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // A log that cannot be written, on a full disk say, is no reason to end: the default complains with a panic.
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    ExitCode::from(host(run_dir).unwrap_or_else(|fault| {
        tracing::error!("{}", fault.text);
        fault.code
    }))
}

/// Why no run came about.
struct Fault {
    code: u8,
    text: String,
}

impl Fault {
    fn unusable(what: &str, error: &dyn std::fmt::Display) -> Self {
        Self { code: exit::UNUSABLE, text: format!("{what}: {error}") }
    }
}

fn host(run_dir: &Path) -> Result<u8, Fault> {
    let spec = files::read_spec(run_dir).map_err(|error| Fault::unusable("the run cannot start", &error))?;
    // Taken before the fork, so the guard holds it too: the next host waits until this one's tree is cleared away.
    let _lock = lock_file(&spec.agent_dir.join(HOST_LOCK_FILE)).map_err(|error| match error {
        LockError::Held { .. } => {
            Fault { code: exit::LOCKED, text: format!("agent {} has a host already: {error}", spec.agent_id) }
        }
        LockError::Io { .. } => Fault::unusable("the agent's lock cannot be taken", &error),
    })?;
    // A daemon that did not find us alive yet took the specification away, under this lock, and starts another host.
    files::read_spec(run_dir).map_err(|error| Fault::unusable("the run was given up", &error))?;
    let guard = guard::enter(GuardOptions { cgroup: spec.cgroup.clone() })
        .map_err(|error| Fault::unusable("the guard cannot be set up", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::unusable("the event loop cannot be set up", &error))?;
    let state = runtime
        .block_on(run::run(spec, guard))
        .map_err(|error| Fault::unusable("the run cannot be set up", &error))?;
    // A look-up of the bus's address may hang in a thread of its own; it must not hold up the end.
    runtime.shutdown_background();
    Ok(if state == AgentState::Terminated { exit::TERMINATED } else { exit::ERROR })
}
