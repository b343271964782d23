//! Runs the tests that the official client ships in its published package against our binary, under the name
//! `nats-server`. What they ask for is the client's business; `xtask/compliance/` holds the scripts that run them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{fs, os};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum as _;

use crate::shell;

/// Which of the client's tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Set {
    /// Without JetStream, key-value and object stores, clusters and operator JWTs
    Core,
    /// Everything that one server without operator JWTs can do
    SingleNode,
    /// Everything that needs no internet
    Full,
}

/// Tests that are known to fail, and what is missing. They are run, counted as failed and named; only the exit code does
/// not mind them.
const NOT_YET: &[(&str, &str)] = &[];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which tests
    #[arg(value_enum, default_value = "single-node")]
    set: Set,
    /// Test this binary, such as a real nats-server, instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Build ours for release
    #[arg(long, conflicts_with = "binary")]
    release: bool,
    /// How often a failing test is tried again; the summary says which needed it
    #[arg(long, default_value_t = 2)]
    retries: u32,
}

/// Builds the server and the tests, runs them, prints the counts, and fails when one failed.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    ensure!(
        shell::succeeds("cargo", &["nextest", "--version"]),
        "the client's tests are run with cargo-nextest, which is not installed; see https://nexte.st"
    );
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => build(root, options.release)?,
    };
    ensure!(binary.is_file(), "there is no server at {}", binary.display());
    let work = shell::target_dir(root).join("compliance");
    // A folder of its own per run: two runs must not test each other's server.
    let bin = work.join(format!("bin-{}", std::process::id()));
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    os::unix::fs::symlink(&binary, bin.join("nats-server")).context("cannot link the server")?;
    let outcome = test(root, &work, &bin, options);
    fs::remove_dir_all(&bin).with_context(|| format!("cannot remove {}", bin.display()))?;
    outcome
}

fn build(root: &Path, release: bool) -> anyhow::Result<PathBuf> {
    let (profile, folder) = if release { ("release", "release") } else { ("dev", "debug") };
    shell::run(shell::cargo(root).args(["build", "--package", "ostler-broker", "--all-features"]).args([
        "--bin",
        "ostler-broker",
        "--profile",
        profile,
    ]))?;
    Ok(shell::target_dir(root).join(folder).join("ostler-broker"))
}

fn test(root: &Path, work: &Path, bin: &Path, options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let set = options.set.to_possible_value().expect("no set is hidden");
    let mut script = Command::new(root.join("xtask/compliance/run-async-nats.sh"));
    script.arg(bin).arg(set.get_name());
    script.env("WORK", work).env("OUT", work.join("out")).env("RETRIES", options.retries.to_string());
    shell::run(&mut script)?;
    println!("compliance: {} in {} s", set.get_name(), started.elapsed().as_secs());
    let junit = fs::read_to_string(work.join("out/junit.xml")).context("the tests left no report")?;
    for name in retried(&junit) {
        println!("  passed only on a retry: {name}");
    }
    let summary = fs::read_to_string(work.join("out/summary.json")).context("the tests left no summary")?;
    let summary: serde_json::Value = serde_json::from_str(&summary).context("the summary is no JSON")?;
    let count = |what: &str| summary["total"][what].as_u64().with_context(|| format!("no count of {what}"));
    let known = |test: &str| NOT_YET.iter().find(|(name, _)| test.ends_with(&format!("::{name}")));
    let failing = summary["failed"].as_array().into_iter().flatten().filter_map(|test| test.as_str());
    let excused: Vec<_> = failing.filter_map(known).collect();
    for (test, reason) in &excused {
        println!("  fails, as is known: {test}: {reason}");
    }
    match (count("passed")?, count("failed")?.saturating_sub(excused.len() as u64)) {
        (0, _) => bail!("compliance: no test ran"),
        (_, 0) => Ok(()),
        (_, failed) => {
            bail!("compliance: {failed} of the client's tests failed; {}", work.join("out").display())
        }
    }
}

/// The tests of a JUnit report that failed and then passed.
fn retried(junit: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for case in junit.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or_default();
        if case.contains("<flakyFailure") || case.contains("<flakyError") {
            names.extend(case.split_once("name=\"").and_then(|(_, rest)| rest.split('"').next()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_passed_on_a_retry_is_named() {
        let report = r#"<testsuite name="s"><testcase name="a" time="1"></testcase>
            <testcase name="b" time="1"><flakyFailure>x</flakyFailure></testcase>
            <testcase name="c"><failure/></testcase></testsuite>"#;
        assert_eq!(retried(report), ["b"]);
    }
}
