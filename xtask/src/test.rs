//! Every test of the workspace, with one exit code.

use std::path::Path;
use std::time::Instant;

use anyhow::bail;

use crate::{setup, shell};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not look whether what the tests need is installed
    #[arg(long)]
    no_setup: bool,
}

/// Runs all tests even when some fail, and fails at the end when any did.
///
/// One profile (dev) and one set of features for every step, so nothing is compiled twice.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    if !options.no_setup {
        setup::run(root)?;
    }
    // Tests of other packages start the binary; cargo tells its place only to tests of its own package.
    shell::run(shell::cargo(root).args(["build", "--workspace", "--bins", "--all-features"]))?;
    let binary = shell::target_dir(root).join("debug/ostler");

    let start = Instant::now();
    let mut failed = Vec::new();
    for (name, args) in steps(shell::succeeds("cargo", &["nextest", "--version"])) {
        let mut cargo = shell::cargo(root);
        if !shell::run_for_success(cargo.args(args).env("OSTLER_TEST_BIN", &binary))? {
            failed.push(name);
        }
    }
    let seconds = start.elapsed().as_secs();
    if failed.is_empty() {
        println!("test: all passed in {seconds} s");
        return Ok(());
    }
    bail!("failed after {seconds} s: {}", failed.join(", "))
}

fn steps(nextest: bool) -> [(&'static str, &'static [&'static str]); 2] {
    let tests: &[&str] = if nextest {
        &["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]
    } else {
        &["test", "--workspace", "--all-features", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    [("tests", tests), ("documentation examples", &["test", "--workspace", "--all-features", "--doc"])]
}
