//! Installs Claude Code at the pinned version, for the tests that drive the real program; no test needs an account.
//!
//! The package for the platform is a single native binary. It is taken directly, and not through
//! `@anthropic-ai/claude-code`, because that one makes npm pick an older version on an older Node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::{setup, shell};

/// The version the captures in `crates/agents/testdata` come from; change both together.
const VERSION: &str = "2.1.329";

/// The program's place below the rig's folder; the tests look there.
const PROGRAM: &str = "claude/claude";

/// Makes sure that the pinned version is in `rig`, and returns the program's path.
pub(crate) fn install(rig: &Path) -> anyhow::Result<PathBuf> {
    let program = rig.join(PROGRAM);
    if version_of(&program).is_some_and(|version| version == VERSION) {
        println!("setup: Claude Code {VERSION} is there");
        return Ok(program);
    }
    let package = package(std::env::consts::OS, std::env::consts::ARCH)?;
    if !shell::succeeds("npm", &["--version"]) {
        setup::debian_packages(&["nodejs", "npm"]).context("npm fetches Claude Code for the tests")?;
    }
    println!("setup: installing {package}@{VERSION} into {}", rig.display());
    // Beside the final place: an interrupted download must not look like an installed program.
    let staging = rig.join("claude.new");
    remove(&staging)?;
    fs::create_dir_all(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
    shell::run(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error"])
            .arg("--prefix")
            .arg(&staging)
            .arg(format!("{package}@{VERSION}")),
    )?;
    let installed = staging.join("node_modules").join(package);
    let home = rig.join("claude");
    remove(&home)?;
    fs::rename(&installed, &home)
        .with_context(|| format!("cannot move {} to {}", installed.display(), home.display()))?;
    remove(&staging)?;

    let version = version_of(&program).with_context(|| format!("{} does not start", program.display()))?;
    ensure!(version == VERSION, "{} says it is {version}, not {VERSION}", program.display());
    Ok(program)
}

/// The npm package that holds the binary for a platform.
fn package(os: &str, arch: &str) -> anyhow::Result<&'static str> {
    Ok(match (os, arch) {
        ("linux", "x86_64") => "@anthropic-ai/claude-code-linux-x64",
        ("linux", "aarch64") => "@anthropic-ai/claude-code-linux-arm64",
        ("macos", "x86_64") => "@anthropic-ai/claude-code-darwin-x64",
        ("macos", "aarch64") => "@anthropic-ai/claude-code-darwin-arm64",
        _ => bail!("there is no Claude Code for {os} on {arch}"),
    })
}

/// What `claude --version` says, such as `2.1.329 (Claude Code)`, up to the space.
fn version_of(program: &Path) -> Option<String> {
    if !program.exists() {
        return None;
    }
    let said = shell::output(Command::new(program).arg("--version").env("DISABLE_AUTOUPDATER", "1")).ok()?;
    said.split_whitespace().next().map(str::to_owned)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_its_own_package() {
        assert_eq!(package("linux", "aarch64").unwrap(), "@anthropic-ai/claude-code-linux-arm64");
        assert!(package("plan9", "x86_64").unwrap_err().to_string().contains("plan9"));
    }
}
