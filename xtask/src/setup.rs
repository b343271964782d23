//! What the tests need beyond Rust: a Python environment with a NATS client, and Claude Code.
//!
//! Everything lands in `.rig/` inside the workspace, except Debian packages, which need root and are only installed
//! when the program they bring is missing. Each step first looks whether it is done.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{claude, shell};

/// The folder for installed things; git ignores it.
const RIG: &str = ".rig";
/// What the Python client test imports.
const REQUIREMENTS: &str = "crates/broker/tests/python/requirements.txt";

/// Installs what is missing; returns at once when nothing is.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let rig = root.join(RIG);
    fs::create_dir_all(&rig).with_context(|| format!("cannot create {}", rig.display()))?;
    python(root, &rig)?;
    claude::install(&rig)?;
    if !shell::succeeds("cargo", &["nextest", "--version"]) {
        println!("setup: cargo-nextest is not installed; the tests run with `cargo test`");
    }
    Ok(())
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
