//! The rules of the house that no compiler checks. It reads, reports and changes nothing.
//!
//! Each rule is a pure function over text and says why it exists; `arrows` holds the table of who may name whom. A
//! rule has a test that sees it fail: a rule that cannot fail is no rule.

mod arrows;
mod links;
mod manifest;
mod mask;
mod rust;
mod text;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{protocol, shell};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file, from the workspace's directory.
    path: String,
    /// The line, from 1; 0 when the whole file is meant.
    line: usize,
    /// What is wrong and what to do instead.
    text: String,
    /// Worth a look, but not yet an error.
    advice: bool,
}

impl Finding {
    fn error(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into(), advice: false }
    }

    fn advice(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into(), advice: true }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.advice { "advice" } else { "error" };
        write!(f, "{kind}: {}", self.path)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// A text file of the repository.
pub(crate) struct Source {
    /// Its place, from the workspace's directory, with `/` between folders.
    path: String,
    /// What it says.
    text: String,
}

/// Applies every rule; fails when one is broken.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let sources = sources(root)?;
    let metadata = metadata(root)?;
    let mut findings = arrows::check(&arrows::packages(&metadata)?);
    for source in &sources {
        findings.extend(text::check(source));
        if source.path.ends_with(".rs") {
            findings.extend(rust::check(source));
        }
        if source.path.ends_with("Cargo.toml") {
            findings.extend(manifest::check(source));
        }
        if source.path.ends_with(".md") {
            findings.extend(links::check(source, &|path| root.join(path).exists()));
        }
    }
    let paths: Vec<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    findings.extend(text::migrations(&paths));
    for file in protocol::stale(root)? {
        findings.push(Finding::error(&file.path, 0, "not what the types say; run: cargo xtask protocol"));
    }

    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.advice).count();
    if errors > 0 {
        bail!("tidy: {errors} broken rules in {} files", sources.len());
    }
    println!("tidy: {} files follow the rules", sources.len());
    Ok(())
}

/// Every text file that is committed or would be: what git ignores is nobody's business.
fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let list = shell::output(Command::new("git").current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut sources = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // A file that was removed but not committed is listed and cannot be read; a binary one is no text.
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}

fn metadata(root: &Path) -> anyhow::Result<serde_json::Value> {
    let text = shell::output(shell::cargo(root).args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cargo metadata printed no JSON")
}
