//! The figures that say whether Ostler is as light and as quick as it claims, measured on the release binary.
//!
//! The chore builds the binary, then itself with the feature `bench`, which brings a bus client, and runs that. Each
//! figure is the median of at least ten rounds; what is compared is measured in the same run, in turns.
//!
//! `bench broker` does the same for the message server alone, and `bench jetstream` for its streams, beside a
//! nats-server, with the feature `bench-broker`.

#[cfg(feature = "bench")]
pub(crate) mod agent;
#[cfg(feature = "bench-broker")]
mod broker;
#[cfg(feature = "bench")]
mod daemon;
#[cfg(feature = "bench")]
mod figures;
#[cfg(feature = "bench")]
mod table;

use std::path::{Path, PathBuf};

#[cfg(not(feature = "bench-broker"))]
use anyhow::Context as _;

use crate::shell;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// Daemon start to ready
    Start,
    /// Memory of an idle daemon, of a host and of a guard
    Memory,
    /// Spawn request to process running, beside plain fork+exec
    Spawn,
    /// Exit of an agent to its status on the bus
    ExitStatus,
    /// Input message to the agent's stdin
    Input,
    /// Size of the stripped release binary
    Size,
}

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure; everything when absent
    names: Vec<Name>,
    /// Rounds of each figure
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=1000))]
    rounds: u32,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// What can be measured beside the daemon.
#[derive(clap::Subcommand)]
enum Other {
    /// Measure the message server beside a nats-server, in turns, and print a table
    Broker(BrokerOptions),
    /// Measure the message server's streams beside a nats-server's, in turns, and print a table
    Jetstream(JetStreamOptions),
}

#[derive(clap::Args)]
struct BrokerOptions {
    /// The nats-server to compare with
    #[arg(long, value_name = "PATH")]
    against: PathBuf,
    /// Rounds of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure this only (repeatable): 1-1, 1-4, 4-4, pairs, queue, wildcard, headers, latency,
    /// crowd, in-process, shards
    #[arg(long = "shape", value_name = "NAME")]
    shapes: Vec<String>,
    /// About so long a run under load takes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Without authentication, permissions and limits
    #[arg(long)]
    open: bool,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this server instead of the one of this workspace
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
}

#[derive(clap::Args)]
struct JetStreamOptions {
    /// The nats-server to compare with
    #[arg(long, value_name = "PATH")]
    against: PathBuf,
    /// Rounds of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure this only (repeatable): publish, sync, fetch, push, put, get, consumers, recovery, memory, lost
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// About so long a run under load takes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Without authentication, permissions and limits
    #[arg(long)]
    open: bool,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this server instead of the one of this workspace
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
}

impl Options {
    #[cfg(feature = "bench")]
    fn wants(&self, name: Name) -> bool {
        self.names.is_empty() || self.names.contains(&name)
    }
}

/// Measures what was asked for.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    match &options.other {
        None => daemon_figures(root, options),
        Some(Other::Broker(options)) => broker_figures(root, options),
        Some(Other::Jetstream(options)) => jetstream_figures(root, options),
    }
}

/// What is measured where a process of its own is no measure: the library.
const BROKER_EXAMPLE: &str = "in_process";

/// Builds the server and what measures it, and hands over to that.
#[cfg(not(feature = "bench-broker"))]
fn broker_figures(root: &Path, options: &BrokerOptions) -> anyhow::Result<()> {
    measure_servers(root, &options.against)
}

/// The same for its streams.
#[cfg(not(feature = "bench-broker"))]
fn jetstream_figures(root: &Path, options: &JetStreamOptions) -> anyhow::Result<()> {
    measure_servers(root, &options.against)
}

#[cfg(not(feature = "bench-broker"))]
fn measure_servers(root: &Path, against: &Path) -> anyhow::Result<()> {
    // Before minutes of building.
    let is_there =
        against.metadata().with_context(|| format!("no nats-server at {}", against.display()))?.is_file();
    anyhow::ensure!(is_there, "{} is no program", against.display());
    let server = ["build", "--release", "--package", "ostler-broker", "--features", "bin"];
    shell::run(shell::cargo(root).args(server).args(["--bins", "--example", BROKER_EXAMPLE]))?;
    // From here on with the paths of whoever asked.
    let mut measure = shell::cargo(root);
    measure.current_dir(std::env::current_dir()?).args(["run", "--release", "--manifest-path"]);
    measure.arg(root.join("xtask/Cargo.toml")).args(["--features", "bench-broker", "--"]);
    measure.args(std::env::args_os().skip(1));
    shell::run(&mut measure)
}

/// Measures.
#[cfg(feature = "bench-broker")]
fn broker_figures(root: &Path, options: &BrokerOptions) -> anyhow::Result<()> {
    broker::run(root, options)
}

/// Measures.
#[cfg(feature = "bench-broker")]
fn jetstream_figures(root: &Path, options: &JetStreamOptions) -> anyhow::Result<()> {
    broker::jetstream::run(root, options)
}

/// Builds what is measured and what measures, and hands over to it.
#[cfg(not(feature = "bench"))]
fn daemon_figures(root: &Path, options: &Options) -> anyhow::Result<()> {
    use clap::ValueEnum as _;

    // One after the other: built together, the chore's features would end up in the binary that is measured.
    if options.binary.is_none() {
        shell::run(shell::cargo(root).args(["build", "--release", "--package", "ostler"]))?;
    }
    let mut measure = shell::cargo(root);
    measure.args(["run", "--release", "--package", "xtask", "--features", "bench", "--", "bench"]);
    measure.arg(format!("--rounds={}", options.rounds));
    if let Some(binary) = &options.binary {
        measure.arg("--binary").arg(std::path::absolute(binary)?);
    }
    for name in &options.names {
        measure.arg(name.to_possible_value().expect("no figure is hidden").get_name());
    }
    shell::run(&mut measure)
}

/// Measures.
#[cfg(feature = "bench")]
fn daemon_figures(root: &Path, options: &Options) -> anyhow::Result<()> {
    let built = || shell::target_dir(root).join("release/ostler");
    let binary = options.binary.clone().unwrap_or_else(built);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = runtime.block_on(figures::measure(&binary, options.rounds, |name| options.wants(name)))?;
    table::print(&rows);
    Ok(())
}
