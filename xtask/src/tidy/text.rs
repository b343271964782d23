//! Rules about every text file: the repository speaks of the product, not of the machine it was written on.

use super::{Finding, Source};

/// Folders that exist on one person's machine. Each is written in two halves so that this file passes its own rule.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
/// Users that stand for anybody, in examples and in captures that were cleaned.
const ANYBODY: &[&str] = &["agent", "user", "you"];
/// Options and keys by which the address of a package registry gets into a file.
const REGISTRY_KEYS: &[&str] = &[
    concat!("--index", "-url"),
    concat!("--extra-index", "-url"),
    concat!("index", "-url"),
    concat!("npm_config", "_registry"),
    concat!("--regi", "stry"),
    concat!("registry", "=http"),
    concat!("replace", "-with"),
];
/// Cargo's name for the public registry, which every lock file carries.
const PUBLIC_REGISTRY: &str = concat!("registry", "+https://github.com/rust-lang/crates.io-index");

/// Applies every rule for text files.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        if let Some(found) = machine_path(line) {
            let text = format!("{found}… is a folder of one machine; derive the path or name it generically");
            findings.push(Finding::error(path, index + 1, text));
        }
        let foreign_registry = line.contains(concat!("registry", "+http")) && !line.contains(PUBLIC_REGISTRY);
        if foreign_registry || REGISTRY_KEYS.iter().any(|key| line.contains(key)) {
            let text = "no registry is named here; each machine has its own settings for that";
            findings.push(Finding::error(path, index + 1, text));
        }
        if ["<<<<<<< ", ">>>>>>> "].iter().any(|marker| line.starts_with(marker)) {
            findings.push(Finding::error(path, index + 1, "a merge conflict was left here"));
        }
    }
    findings
}

/// A machine's path starts a token; the same letters inside an address do not.
fn machine_path(line: &str) -> Option<&'static str> {
    MACHINE_PATHS.iter().copied().find(|prefix| {
        line.match_indices(prefix).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let name =
                line[at + prefix.len()..].split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).next();
            before.is_none_or(|c| c.is_whitespace() || "\"'`(=:[<".contains(c))
                && name.is_some_and(|name| !name.is_empty() && !ANYBODY.contains(&name))
        })
    })
}

/// Migrations are numbered from 0001 without a gap and without a double: the store applies them in this order.
pub(super) fn migrations(paths: &[&str]) -> Vec<Finding> {
    let mut numbered: Vec<(&str, &str)> = paths
        .iter()
        .filter_map(|path| Some((*path, path.strip_prefix("crates/store/migrations/")?)))
        .collect();
    numbered.sort_by_key(|(_, name)| *name);
    let mut findings = Vec::new();
    for (index, (path, name)) in numbered.into_iter().enumerate() {
        let expected = format!("{:04}_", index + 1);
        if !name.starts_with(&expected) || !name.ends_with(".sql") {
            findings.push(Finding::error(
                path,
                0,
                format!("a migration called {expected}….sql must stand here"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        check(&Source { path: "a.md".to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn a_path_of_one_machine_is_reported() {
        for prefix in MACHINE_PATHS {
            assert_eq!(found(&format!("see `{prefix}someone/file`\n")), 1, "{prefix}");
        }
        assert_eq!(found("https://example.org/home/page and /usr/bin/env\n"), 0);
        assert_eq!(found(concat!("cd /ho", "me/agent/project\n")), 0);
        assert_eq!(found(concat!("cd /ho", "me/agents/project\n")), 1);
    }

    #[test]
    fn a_registry_other_than_the_public_one_is_reported() {
        assert_eq!(found(&format!("source = \"{}://mirror.example/x\"\n", concat!("registry", "+http"))), 1);
        assert_eq!(found(&format!("source = \"{PUBLIC_REGISTRY}\"\n")), 0);
        assert_eq!(found(&format!("pip install {} http://mirror.example\n", REGISTRY_KEYS[0])), 1);
    }

    #[test]
    fn a_conflict_marker_is_reported() {
        assert_eq!(found("<<<<<<< ours\n"), 1);
    }

    #[test]
    fn migrations_have_no_gap_and_no_double() {
        let of = |names: &[&str]| {
            let paths: Vec<String> =
                names.iter().map(|name| format!("crates/store/migrations/{name}")).collect();
            migrations(&paths.iter().map(String::as_str).collect::<Vec<_>>()).len()
        };
        assert_eq!(of(&["0002_b.sql", "0001_a.sql"]), 0);
        assert_eq!(of(&["0001_a.sql", "0003_b.sql"]), 1);
        assert_eq!(of(&["0001_a.sql", "0001_b.sql"]), 1);
        assert_eq!(of(&["0001_a.txt"]), 1);
    }
}
