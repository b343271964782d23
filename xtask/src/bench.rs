//! The figures that say whether Ostler is as light and as quick as it claims, measured on the release binary.
//!
//! The chore builds the binary, then itself with the feature `bench`, which brings a bus client, and runs that. Each
//! figure is the median of at least ten rounds; what is compared is measured in the same run, in turns.

#[cfg(feature = "bench")]
pub(crate) mod agent;
#[cfg(feature = "bench")]
mod daemon;
#[cfg(feature = "bench")]
mod figures;
#[cfg(feature = "bench")]
mod table;

use std::path::{Path, PathBuf};

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
pub(crate) struct Options {
    /// What to measure; everything when absent
    names: Vec<Name>,
    /// Rounds of each figure
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=1000))]
    rounds: u32,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl Options {
    #[cfg(feature = "bench")]
    fn wants(&self, name: Name) -> bool {
        self.names.is_empty() || self.names.contains(&name)
    }
}

/// Builds what is measured and what measures, and hands over to it.
#[cfg(not(feature = "bench"))]
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
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
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let built = || shell::target_dir(root).join("release/ostler");
    let binary = options.binary.clone().unwrap_or_else(built);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = runtime.block_on(figures::measure(&binary, options.rounds, |name| options.wants(name)))?;
    table::print(&rows);
    Ok(())
}
