//! Rules about the members' `Cargo.toml`: versions and lints are named once, in the workspace.

use super::{Finding, Source};

/// Applies every rule for a member's manifest; the workspace's own has no package.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    let mut findings = Vec::new();
    if !source.text.lines().any(|line| line == "[package]") {
        return findings;
    }
    let mut section = "";
    let (mut lints, mut description) = (false, false);
    for (index, line) in source.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            continue;
        }
        lints |= section == "lints" && line.replace(' ', "") == "workspace=true";
        description |= section == "package" && line.starts_with("description");
        let names_a_version = section.ends_with("dependencies")
            && section != "workspace.dependencies"
            && line.split_once('=').is_some_and(|(_, value)| {
                let value = value.trim();
                value.starts_with('"') || value.contains("version =") || value.contains("git =")
            });
        if names_a_version {
            let text = "name the version in the workspace's Cargo.toml and write `workspace = true` here";
            findings.push(Finding::error(path, index + 1, text));
        }
    }
    if !lints {
        findings.push(Finding::error(
            path,
            0,
            "the lints of the workspace are not taken: [lints] workspace = true",
        ));
    }
    if !description {
        findings.push(Finding::error(path, 0, "the package has no description"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\ndescription = \"b\"\n\n[dependencies]\nserde.workspace = true\n\
        clap = { workspace = true, features = [\"env\"] }\n\n[lints]\nworkspace = true\n";

    fn lines(text: &str) -> Vec<usize> {
        let source = Source { path: "crates/a/Cargo.toml".to_owned(), text: text.to_owned() };
        check(&source).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_member_takes_versions_and_lints_from_the_workspace() {
        assert!(lines(GOOD).is_empty());
        assert_eq!(lines(&GOOD.replace("serde.workspace = true", "serde = \"1\"")), [6]);
        assert_eq!(lines(&GOOD.replace("workspace = true, f", "version = \"4\", f")), [7]);
        assert_eq!(lines(&GOOD.replace("[lints]\nworkspace = true\n", "")), [0]);
        assert_eq!(lines(&GOOD.replace("description = \"b\"\n", "")), [0]);
    }

    #[test]
    fn the_workspace_itself_names_versions() {
        assert!(lines("[workspace.dependencies]\nserde = \"1\"\n").is_empty());
        // A package that is a workspace of its own, as the fuzz targets are.
        assert!(lines(&format!("[workspace.dependencies]\nserde = \"1\"\n{GOOD}")).is_empty());
    }
}
