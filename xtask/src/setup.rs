//! What the tests need beyond Rust: NATS clients of other languages, a real nats-server, cargo-fuzz and Claude Code.
//!
//! Everything lands in `.rig/` inside the workspace, except Debian packages, which need root and are only installed
//! when the program they bring is missing. Each step first looks whether it is done. What only some tests compare
//! with may be missing: setup says which tests will be skipped, and they say it again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{claude, fuzz, shell};

/// The folder for installed things; git ignores it.
pub(crate) const RIG: &str = ".rig";
/// What the tests with the Python client import.
const REQUIREMENTS: &str = "crates/broker/tests/python/requirements.txt";
/// What the tests with the JavaScript client require.
const PACKAGE: &str = "crates/broker/tests/js/package.json";
/// Unpacks a nats-server from Debian's package without installing it.
const GET_NATS_SERVER: &str = "xtask/scripts/get-nats-server.sh";

/// Installs what is missing; returns at once when nothing is.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let rig = root.join(RIG);
    fs::create_dir_all(&rig).with_context(|| format!("cannot create {}", rig.display()))?;
    python(root, &rig)?;
    claude::install(&rig)?;
    or_skip(javascript(root, &rig), "the tests with the JavaScript client");
    or_skip(nats_server(root, &rig), "the tests that compare with, or run on, a real nats-server");
    or_skip(fuzz::install(root, &rig).map(drop), "nothing, but `cargo xtask fuzz` cannot run");
    if !shell::succeeds("cargo", &["nextest", "--version"]) {
        println!("setup: cargo-nextest is not installed; the tests run with `cargo test`");
    }
    Ok(())
}

/// Says what a missing piece means for the tests; it is not worth failing for on a machine without a network.
fn or_skip(outcome: anyhow::Result<()>, skipped: &str) {
    if let Err(error) = outcome {
        println!("setup: {error:#}\nsetup: will be skipped: {skipped}");
    }
}

/// A real nats-server, at the place the tests look for it when `OSTLER_NATS_SERVER` names no other.
fn nats_server(root: &Path, rig: &Path) -> anyhow::Result<()> {
    let home = rig.join("nats-server");
    let program = home.join("nats-server");
    if let Ok(version) = shell::output(Command::new(&program).arg("--version")) {
        println!("setup: {} is there", version.trim());
        return Ok(());
    }
    shell::run(Command::new(root.join(GET_NATS_SERVER)).arg(&home)).context("no nats-server")
}

/// The JavaScript client, with what it requires.
fn javascript(root: &Path, rig: &Path) -> anyhow::Result<()> {
    let wanted = fs::read_to_string(root.join(PACKAGE)).with_context(|| format!("cannot read {PACKAGE}"))?;
    let home = rig.join("js");
    let (package, stamp) = (home.join("package.json"), home.join("installed.json"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        println!("setup: the JavaScript packages in {RIG}/js are there");
        return Ok(());
    }
    if !shell::succeeds("npm", &["--version"]) {
        debian_packages(&["nodejs", "npm"])?;
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    fs::write(&package, &wanted).with_context(|| format!("cannot write {}", package.display()))?;
    shell::run(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"])
            .arg(&home),
    )?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

fn python(root: &Path, rig: &Path) -> anyhow::Result<()> {
    let requirements = root.join(REQUIREMENTS);
    if !requirements.exists() {
        println!("setup: no {REQUIREMENTS}, no Python environment needed");
        return Ok(());
    }
    let wanted = fs::read_to_string(&requirements).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let venv = rig.join("python");
    let python = venv.join("bin/python");
    let stamp = venv.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        println!("setup: the Python environment {RIG}/python is there");
        return Ok(());
    }
    // `venv` alone imports without Debian's python3-venv package; `ensurepip` is what that package brings.
    if !shell::succeeds("python3", &["-c", "import venv, ensurepip"]) {
        debian_packages(&["python3", "python3-venv"])?;
    }
    println!(
        "setup: installing into {RIG}/python: {}",
        wanted.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    shell::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
    )?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Installs Debian packages as root, or says which ones the person has to install.
pub(crate) fn debian_packages(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    let root = shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || !shell::succeeds("apt-get", &["--version"]) {
        bail!("the tests need these Debian packages (or what they are called here): {list}");
    }
    println!("setup: installing Debian packages: {list}");
    shell::run(Command::new("apt-get").args(["-qq", "update"]))?;
    shell::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}
