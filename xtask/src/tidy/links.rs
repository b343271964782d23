//! Links between documents lead somewhere, and ARCHITECTURE.md names only places that exist.

use super::{Finding, Source};

/// The document whose code spans are checked too: a map with a wrong street is worse than none.
const MAP: &str = "ARCHITECTURE.md";
/// Folders whose paths the map names.
const STREETS: &[&str] = &["crates/", "docs/", "xtask/", "tests/", "schemas/"];

/// Reports links and places that do not exist; `exists` takes a path from the workspace's directory.
pub(super) fn check(source: &Source, exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in source.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            let path = resolve(&source.path, target);
            if !exists(&path) {
                findings.push(Finding::error(
                    &source.path,
                    index + 1,
                    format!("the link to {target} leads nowhere"),
                ));
            }
        }
        if source.path == MAP {
            for place in line.split('`').skip(1).step_by(2).filter(|span| is_place(span)) {
                if !exists(place) {
                    findings.push(Finding::error(MAP, index + 1, format!("there is no {place}")));
                }
            }
        }
    }
    findings
}

fn is_place(span: &str) -> bool {
    STREETS.iter().any(|street| span.starts_with(street)) && !span.contains(['<', '{', '*', ' ', '…'])
}

/// The targets of `[text](target)` that are files of ours, without their `#section`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split_once(')')?.0;
        let file = target.split('#').next().unwrap_or_default();
        let ours = !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:");
        ours.then_some(file)
    })
}

fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        let exists = |path: &str| ["README.md", "docs/a.md", "crates/wire"].contains(&path);
        check(&source, &exists).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_link_to_a_missing_file_is_reported() {
        assert_eq!(found("docs/b.md", "[x](c.md)"), ["the link to c.md leads nowhere"]);
        assert!(
            found("docs/b.md", "[x](a.md#part) [y](../README.md) [z](https://example.org/x) [w](#here)")
                .is_empty()
        );
        assert!(found("docs/b.md", "```\n[x](c.md)\n```\n").is_empty());
    }

    #[test]
    fn a_place_on_the_map_must_exist() {
        assert_eq!(found("ARCHITECTURE.md", "see `crates/attic`"), ["there is no crates/attic"]);
        assert!(found("ARCHITECTURE.md", "see `crates/wire`, `crates/<name>` and `a/b`").is_empty());
        assert!(found("README.md", "see `crates/attic`").is_empty());
    }
}
