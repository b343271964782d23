//! The hidden `ostler host`: one agent run, started by the daemon. It forks, so nothing may run before it: no thread, no
//! runtime.

use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory with the run's specification
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
}
