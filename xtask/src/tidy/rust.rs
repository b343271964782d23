//! Rules about Rust files: how they open, how long they get, and the doors that stay shut.

use super::mask::mask;
use super::{Finding, Source};

/// Near this length a second idea usually lives in the file.
const LINES_ADVISED: usize = 600;
/// Beyond this nobody reads it as a whole.
const LINES_MAX: usize = 900;
/// The one place that may call the operating system without a safety net and start processes.
const PLATFORM: &str = "crates/supervise/src/platform";
/// Crates whose types are not promises to anybody: what travels is a type of `wire`, and they convert to it.
const NOT_SERIALISED: &[&str] = &["broker-proto", "supervise", "engine", "host", "client", "queue"];
/// Words that promise work instead of doing it. Written in two halves so that this file does not trip over itself.
const PROMISES: &[&str] = &[concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];

/// Applies every rule for Rust files.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    let mut findings = Vec::new();
    if !source.text.starts_with("//!") {
        findings.push(Finding::error(
            path,
            1,
            "the file must open with `//!`: what it is and what it is not",
        ));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        findings.push(Finding::error(
            path,
            0,
            format!("{lines} lines; {LINES_MAX} is the most, cut it by ideas"),
        ));
    } else if lines > LINES_ADVISED {
        findings.push(Finding::advice(path, 0, format!("{lines} lines: which second idea lives here?")));
    }
    for (index, line) in source.text.lines().enumerate() {
        if let Some(word) = PROMISES.iter().find(|word| has_word(line, word)) {
            findings.push(Finding::error(path, index + 1, format!("{word}: do it, or leave it out")));
        }
    }
    let masked = mask(&source.text);
    let product_lines = if is_product(path) { product_lines(&masked) } else { 0 };
    for (index, line) in masked.lines().enumerate() {
        findings.extend(code_line(path, index, line, index < product_lines));
    }
    findings
}

fn code_line(path: &str, index: usize, line: &str, product: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for stub in ["todo", "unimplemented"] {
        if line.contains(&format!("{stub}!")) {
            findings.push(Finding::error(path, index + 1, format!("{stub}!: write it, or leave it out")));
        }
    }
    if product && line.contains("derive(") && has_word(line, "Serialize") && is_inner(path) {
        let text =
            "inner types are not serialised: a derive is a promise; convert to a type of wire at the edge";
        findings.push(Finding::error(path, index + 1, text));
    }
    if path.starts_with(PLATFORM) {
        return findings;
    }
    if has_word(line, "unsafe") {
        let text = "only supervise::platform may be unsafe; add a safe wrapper there";
        findings.push(Finding::error(path, index + 1, text));
    }
    if product && starts_processes(line) {
        let text = "only supervise::platform starts processes: directory, environment and group are set in one place";
        findings.push(Finding::error(path, index + 1, text));
    }
    findings
}

fn is_inner(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|krate| NOT_SERIALISED.contains(&krate))
}

fn starts_processes(line: &str) -> bool {
    line.contains("process::Command") || (has_word(line, "Command") && line.contains("Command::new("))
}

/// Product code: what users run. Tests, examples, the test kit and the chores may start programs as they like.
fn is_product(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("crates/") else { return false };
    let mut parts = rest.split('/');
    let krate = parts.next().unwrap_or_default();
    krate != "testkit"
        && parts.next() == Some("src")
        && !path.ends_with("/tests.rs")
        && !path.contains("/tests/")
}

/// The number of lines before the test module, which comes last in a file.
fn product_lines(masked: &str) -> usize {
    let tests = masked.lines().zip(masked.lines().skip(1)).position(|(attribute, item)| {
        attribute.trim() == "#[cfg(test)]"
            && item.trim_start().trim_start_matches("pub(crate) ").starts_with("mod ")
    });
    tests.unwrap_or(usize::MAX)
}

fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_word)
            && !line[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<(usize, String)> {
        check(&Source { path: path.to_owned(), text: text.to_owned() })
            .into_iter()
            .map(|finding| (finding.line, finding.text))
            .collect()
    }

    fn lines(path: &str, text: &str) -> Vec<usize> {
        findings(path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_file_without_a_module_doc_is_reported() {
        assert_eq!(lines("crates/wire/src/a.rs", "fn f() {}\n"), [1]);
        assert!(lines("crates/wire/src/a.rs", "//! A.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn a_long_file_is_advice_and_then_an_error() {
        let of = |lines: usize| {
            let source =
                Source { path: "a.rs".to_owned(), text: format!("//! A.\n{}", "x\n".repeat(lines - 1)) };
            check(&source).first().map(|finding| finding.advice)
        };
        assert_eq!(of(600), None);
        assert_eq!(of(601), Some(true));
        assert_eq!(of(901), Some(false));
    }

    #[test]
    fn stubs_and_promises_are_reported_and_prose_about_stubs_is_not() {
        let text = "//! A.\nfn f() { todo!() }\n// never todo!() here\nfn g() { unimplemented!(\"x\") }\n";
        assert_eq!(lines("crates/wire/src/a.rs", text), [2, 4]);
        let promise = format!("//! A.\n// {}: later\n", PROMISES[0]);
        assert_eq!(lines("crates/wire/src/a.rs", &promise), [2]);
    }

    #[test]
    fn unsafe_is_for_the_platform_module_only() {
        let text = "//! Never unsafe.\nfn f() { unsafe { g() } }\n#![forbid(unsafe_code)]\n";
        assert_eq!(lines("crates/host/src/a.rs", text), [2]);
        assert_eq!(lines("tests/tests/a.rs", text), [2]);
        assert!(lines("crates/supervise/src/platform/linux.rs", text).is_empty());
    }

    #[test]
    fn inner_types_are_not_serialised() {
        let text = "//! A.\n#[derive(Debug, Serialize)]\nstruct A;\nfn f<T: Serialize>(t: T) {}\n";
        assert_eq!(lines("crates/engine/src/a.rs", text), [2]);
        assert!(lines("crates/wire/src/a.rs", text).is_empty());
    }

    #[test]
    fn processes_are_started_by_the_platform_module_tests_and_the_test_kit() {
        let text = "//! A.\nuse std::process::Command;\nfn f() { Command::new(\"x\"); }\n";
        assert_eq!(lines("crates/engine/src/a.rs", text), [2, 3]);
        for path in [
            "crates/supervise/src/platform/spawn.rs",
            "crates/testkit/src/a.rs",
            "crates/engine/tests/a.rs",
            "crates/engine/src/a/tests.rs",
            "xtask/src/a.rs",
        ] {
            assert!(lines(path, text).is_empty(), "{path}");
        }
        let in_tests = "//! A.\n#[cfg(test)]\nmod tests {\n    use std::process::Command;\n}\n";
        assert!(lines("crates/engine/src/a.rs", in_tests).is_empty());
        assert!(lines("crates/engine/src/a.rs", "//! A.\nlet x = LaunchCommand::new(1);\n").is_empty());
    }
}
