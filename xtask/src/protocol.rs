//! `docs/protocol.md` and `schemas/`, written from `ostler-wire` and checked against it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use ostler_wire::page::{Sample, protocol_page};
use ostler_wire::protocol::MESSAGES;
use ostler_wire::schema::schema;

/// The page for authors of agents and clients.
const PAGE: &str = "docs/protocol.md";
/// One schema per message.
const SCHEMAS: &str = "schemas";
/// The samples shown on the page: those of the newest version.
const SAMPLES: &str = "crates/wire/tests/fixtures/v1";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only say whether the files are what would be written
    #[arg(long)]
    check: bool,
}

/// Writes the generated files, or checks them.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let stale = stale(root)?;
    if options.check {
        if stale.is_empty() {
            return Ok(());
        }
        bail!("stale: {}; run: cargo xtask protocol", names(&stale));
    }
    for file in &stale {
        let path = root.join(&file.path);
        match &file.text {
            Some(text) => {
                fs::create_dir_all(path.parent().expect("a generated file lies in a folder"))?;
                fs::write(&path, text)
            }
            None => fs::remove_file(&path),
        }
        .with_context(|| format!("cannot write {}", file.path))?;
    }
    println!("protocol: {} files written: {}", stale.len(), names(&stale));
    Ok(())
}

/// A generated file that is not as it should be.
pub(crate) struct Stale {
    /// Its place, from the workspace's directory.
    pub(crate) path: String,
    /// What it should say; none when it should not be there.
    text: Option<String>,
}

/// The generated files that differ from what is there.
pub(crate) fn stale(root: &Path) -> anyhow::Result<Vec<Stale>> {
    let mut files = vec![(PAGE.to_owned(), protocol_page(&samples(root)?))];
    for message in MESSAGES {
        let text = serde_json::to_string_pretty(&schema(message))?;
        files.push((format!("{SCHEMAS}/{}.json", message.name), text + "\n"));
    }
    let mut stale = Vec::new();
    for file in fs::read_dir(root.join(SCHEMAS)).into_iter().flatten() {
        let path = format!("{SCHEMAS}/{}", file?.file_name().to_string_lossy());
        if !files.iter().any(|(wanted, _)| *wanted == path) {
            stale.push(Stale { path, text: None });
        }
    }
    for (path, text) in files {
        if fs::read_to_string(root.join(&path)).ok().as_deref() != Some(&text) {
            stale.push(Stale { path, text: Some(text) });
        }
    }
    Ok(stale)
}

fn samples(root: &Path) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for file in fs::read_dir(root.join(SAMPLES)).with_context(|| format!("cannot list {SAMPLES}"))? {
        let file = file?;
        let text = fs::read_to_string(file.path())
            .with_context(|| format!("cannot read {}", file.path().display()))?;
        samples.push((file.file_name().to_string_lossy().into_owned(), text));
    }
    // `Message.json` before `Message.case.json`, which plain order would put first.
    samples.sort_by_key(|(name, _)| name.trim_end_matches(".json").to_owned());
    Ok(samples)
}

fn names(stale: &[Stale]) -> String {
    let names: Vec<&str> = stale.iter().map(|file| file.path.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::workspace_root;

    #[test]
    fn the_protocol_page_and_the_schemas_are_what_the_types_say() {
        let stale = stale(&workspace_root()).unwrap();
        assert!(stale.is_empty(), "stale: {}; run: cargo xtask protocol", names(&stale));
    }

    #[test]
    fn a_changed_a_missing_and_a_leftover_file_are_stale() {
        let root = tempfile::tempdir().unwrap();
        let wire = root.path().join(SAMPLES);
        fs::create_dir_all(&wire).unwrap();
        let write = |path: &str, text: &str| fs::write(root.path().join(path), text).unwrap();
        let stale = |root: &Path| stale(root).unwrap().into_iter().map(|file| file.path).collect::<Vec<_>>();

        assert_eq!(stale(root.path()).len(), 1 + MESSAGES.len());
        run(root.path(), &Options { check: false }).unwrap();
        assert_eq!(stale(root.path()), Vec::<String>::new());

        write("schemas/StopRequest.json", "{}");
        write("schemas/Forgotten.json", "{}");
        fs::remove_file(root.path().join(PAGE)).unwrap();
        assert_eq!(stale(root.path()), ["schemas/Forgotten.json", PAGE, "schemas/StopRequest.json"]);
        assert!(run(root.path(), &Options { check: true }).is_err());
        run(root.path(), &Options { check: false }).unwrap();
        assert!(run(root.path(), &Options { check: true }).is_ok());
    }
}
