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
/// One profile (dev), one set of features and one choice of targets for every step: cargo unites the features of
/// dependencies over all of them, so another choice would compile most of the tree a second time.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    if !options.no_setup {
        setup::run(root)?;
    }
    let start = Instant::now();
    // Tests of other packages start the binary; cargo tells its place only to tests of its own package.
    shell::run(shell::cargo(root).args(BUILD))?;
    println!("test: built in {} s", start.elapsed().as_secs());
    let binary = shell::target_dir(root).join("debug/ostler");

    let start = Instant::now();
    let mut failed = Vec::new();
    for (name, args) in steps(shell::succeeds("cargo", &["nextest", "--version"])) {
        let mut cargo = shell::cargo(root);
        if !shell::run_for_success(cargo.args(*args).env("OSTLER_TEST_BIN", &binary))? {
            failed.push(*name);
        }
    }
    let seconds = start.elapsed().as_secs();
    if failed.is_empty() {
        println!("test: all passed in {seconds} s");
        return Ok(());
    }
    bail!("failed after {seconds} s: {}", failed.join(", "))
}

const BUILD: &[&str] = &["build", "--workspace", "--all-features", "--bins", "--tests", "--examples"];

/// A name for the summary and the arguments of cargo.
type Step = (&'static str, &'static [&'static str]);

const WITH_NEXTEST: &[Step] = &[
    ("tests", &["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]),
    ("documentation examples", &["test", "--workspace", "--all-features", "--no-fail-fast", "--doc"]),
];
const WITHOUT_NEXTEST: &[Step] = &[("tests", &["test", "--workspace", "--all-features", "--no-fail-fast"])];

fn steps(nextest: bool) -> &'static [Step] {
    if nextest { WITH_NEXTEST } else { WITHOUT_NEXTEST }
}
