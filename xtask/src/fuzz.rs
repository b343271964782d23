//! Gives each fuzz target of `fuzz/` some time and says what came of it. What the targets check is written in them.
//!
//! ```text
//! fuzz/seeds/TARGET    inputs to begin with, committed
//! target/fuzz/corpus/  what was found worth keeping on this machine
//! target/fuzz/found/   inputs that broke something
//! ```
//!
//! The targets hold no unsafe code, so no sanitizer is built in: assertions and overflow checks are the detectors, and
//! the fuzzer is several times faster. That also makes the stable toolchain do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::shell;

/// What is installed where it is missing. Another version that is there does as well.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";
/// Inputs longer than this find nothing that shorter ones do not, and slow everything down.
const INPUT_BYTES_MAX: usize = 1024;
/// Lines of a failed run that are shown.
const LAST_LINES: usize = 40;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to fuzz; every target when absent
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Installs cargo-fuzz where it is missing. Returns the folder it is in; `None` when it is on PATH.
pub(crate) fn install(root: &Path, rig: &Path) -> anyhow::Result<Option<PathBuf>> {
    if shell::succeeds("cargo", &["fuzz", "--version"]) {
        return Ok(None);
    }
    let home = rig.join("cargo-fuzz");
    let bin = home.join("bin");
    if !bin.join("cargo-fuzz").exists() {
        println!("setup: installing {CARGO_FUZZ}");
        shell::run(
            shell::cargo(root).args(["install", "--quiet", "--locked", CARGO_FUZZ, "--root"]).arg(&home),
        )?;
    }
    Ok(Some(bin))
}

/// Builds the targets, runs one after the other, and fails at the end when any found something.
pub(crate) fn run(root: &Path, rig: &Path, options: &Options) -> anyhow::Result<()> {
    let tool =
        Tool { root: root.to_owned(), bin: install(root, rig)?, home: shell::target_dir(root).join("fuzz") };
    let known = shell::output(tool.command("list").arg("--fuzz-dir=fuzz"))?;
    let known: Vec<&str> = known.lines().collect();
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(&target.as_str())) {
        bail!("no fuzz target {unknown}; there are: {}", known.join(", "));
    }
    shell::run(tool.command("build").args(tool.flags()))?;
    let mut failed = Vec::new();
    for target in known {
        if (options.targets.is_empty() || options.targets.iter().any(|wanted| wanted == target))
            && !tool.fuzz(target, options.seconds)?
        {
            failed.push(target);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("fuzz: something was found in: {}", failed.join(", "))
}

/// How cargo-fuzz is called here.
struct Tool {
    root: PathBuf,
    bin: Option<PathBuf>,
    /// Everything it builds and keeps.
    home: PathBuf,
}

impl Tool {
    fn command(&self, verb: &str) -> Command {
        let mut command = shell::cargo(&self.root);
        if let Some(bin) = &self.bin {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
            // A folder with `:` in its name cannot be on PATH anyway.
            command.env("PATH", std::env::join_paths(folders).unwrap_or(path));
        }
        // The fuzzer's coverage is asked for with flags that a stable compiler takes only when told to.
        command.env("RUSTC_BOOTSTRAP", "1").arg("fuzz").arg(verb);
        command
    }

    fn flags(&self) -> [String; 4] {
        let target_dir = self.home.display().to_string();
        ["--sanitizer=none".into(), "--fuzz-dir=fuzz".into(), "--target-dir".into(), target_dir]
    }

    /// Runs one target for so long; false when it found something.
    fn fuzz(&self, target: &str, seconds: u32) -> anyhow::Result<bool> {
        let [corpus, found, logs] = ["corpus", "found", "log"].map(|what| self.home.join(what));
        let (corpus, log) = (corpus.join(target), logs.join(format!("{target}.log")));
        for folder in [&corpus, &found, &logs] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command("run");
        command.args(self.flags()).arg(target).arg(&corpus);
        command.arg(self.root.join("fuzz/seeds").join(target)).arg("--");
        command.args([format!("-max_total_time={seconds}"), format!("-max_len={INPUT_BYTES_MAX}")]);
        command.args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=1024"]);
        command.arg(format!("-artifact_prefix={}/{target}-", found.display()));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let status = command.status().context("cannot run cargo fuzz")?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        println!("fuzz: {target}: {}", summary(&said));
        if !status.success() {
            let lines: Vec<&str> = said.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
        }
        Ok(status.success())
    }
}

/// Executions and coverage from what libFuzzer said.
fn summary(said: &str) -> String {
    let stat = |name: &str| {
        said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim)).unwrap_or("?")
    };
    let coverage =
        said.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next()).unwrap_or("?");
    format!(
        "{} executions, {} per second, {coverage} edges covered",
        stat("stat::number_of_executed_units"),
        stat("stat::average_exec_per_sec")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_from_what_the_fuzzer_said() {
        let said = "#1\tINITED cov: 12 ft: 13\n#7\tDONE   cov: 327 ft: 1575 corp: 5\n\
            stat::number_of_executed_units: 917733\nstat::average_exec_per_sec:     65552\n";
        assert_eq!(summary(said), "917733 executions, 65552 per second, 327 edges covered");
        assert_eq!(summary("killed"), "? executions, ? per second, ? edges covered");
    }
}
