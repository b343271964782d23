//! Who may name whom: arrows between our crates, and the one door each outside library has.
//!
//! Every arrow goes down a floor, so no circle can exist, and what a crate must not know it cannot import.

use anyhow::Context as _;
use serde_json::Value;

use super::Finding;

/// Our crates by folder, and whom each may name. `wire`, `supervise` and `broker-proto` stand on the ground.
const ARROWS: &[(&str, &[&str])] = &[
    ("broker-proto", &[]),
    ("wire", &[]),
    ("supervise", &[]),
    ("broker-store", &["broker-proto"]),
    ("jetstream", &["broker-proto", "broker-store"]),
    ("broker", &["broker-proto", "broker-store", "jetstream"]),
    ("client", &["wire"]),
    ("store", &["wire"]),
    ("agents", &["wire"]),
    ("host", &["agents", "client", "supervise", "wire"]),
    ("engine", &["client", "store", "wire"]),
    ("daemon", &["broker", "client", "engine", "store", "supervise", "wire"]),
    ("cli", &["client", "daemon", "host", "supervise", "wire"]),
    ("testkit", &["broker", "client", "daemon", "wire"]),
    ("xtask", &["client", "wire"]),
    ("e2e", &["agents", "broker", "client", "daemon", "store", "supervise", "testkit", "wire"]),
];

/// Arrows that only tests may draw.
const TEST_ARROWS: &[(&str, &[&str])] = &[
    ("client", &["broker", "testkit"]),
    ("host", &["broker", "testkit"]),
    ("engine", &["broker", "testkit"]),
    ("daemon", &["testkit"]),
    ("cli", &["testkit"]),
];

/// Outside libraries with one door: who may name them, who may in tests, and why.
const DOORS: &[(&str, &[&str], &[&str], &str)] = &[
    ("rusqlite", &["store"], &["e2e"], "one writer; SQL stays beside its table"),
    ("async-nats", &["client"], &["broker", "e2e", "testkit"], "a real NATS server takes the broker's place"),
    ("axum", &["http"], &[], "HTTP converts, it never decides"),
    ("rmcp", &["mcp"], &[], "one place speaks MCP"),
];

/// Crates whose decisions must replay in a test: no runtime, no clock, no randomness, no socket.
const PURE: &[&str] = &["broker-proto", "jetstream", "queue", "agents", "wire"];
const IMPURE: &[&str] =
    &["tokio", "tokio-util", "async-nats", "socket2", "mio", "rand", "fastrand", "getrandom", "rusqlite"];

/// A package of the workspace and what its Cargo.toml names.
#[derive(Debug)]
pub(super) struct Package {
    folder: String,
    manifest: String,
    /// The name without `ostler-`, and whether it is ours, and whether only tests see it.
    names: Vec<Name>,
}

#[derive(Debug)]
struct Name {
    name: String,
    ours: bool,
    test: bool,
}

/// Reads `cargo metadata --no-deps`.
pub(super) fn packages(metadata: &Value) -> anyhow::Result<Vec<Package>> {
    let array =
        |value: &Value, key: &str| value[key].as_array().cloned().context("cargo metadata has no list");
    let mut packages = Vec::new();
    for package in array(metadata, "packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let mut names = Vec::new();
        for dependency in array(&package, "dependencies")? {
            let name = dependency["name"].as_str().unwrap_or_default();
            let ours = dependency["source"].is_null();
            names.push(Name {
                name: if ours { folder(name).to_owned() } else { name.to_owned() },
                ours,
                test: dependency["kind"] == "dev",
            });
        }
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let root = metadata["workspace_root"].as_str().unwrap_or_default();
        packages.push(Package {
            folder: folder(name).to_owned(),
            manifest: manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/').to_owned(),
            names,
        });
    }
    Ok(packages)
}

/// The binary's package has the product's name; the others are called after their folder.
fn folder(package: &str) -> &str {
    match package {
        "ostler" => "cli",
        other => other.strip_prefix("ostler-").unwrap_or(other),
    }
}

/// Reports every arrow that the tables do not draw.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let folder = package.folder.as_str();
        let Some((_, may)) = ARROWS.iter().find(|(from, _)| *from == folder) else {
            findings.push(Finding::error(
                &package.manifest,
                0,
                format!("crate {folder} is not in the table of arrows; add it on its floor"),
            ));
            continue;
        };
        let may_in_tests = TEST_ARROWS.iter().find(|(from, _)| *from == folder).map_or(&[][..], |(_, to)| to);
        for name in &package.names {
            let to = name.name.as_str();
            if name.ours && !may.contains(&to) && !(name.test && may_in_tests.contains(&to)) {
                let text = format!("{folder} must not name {to}; the arrow is not in the table");
                findings.push(Finding::error(&package.manifest, 0, text));
            }
            if PURE.contains(&folder) && !name.test && IMPURE.contains(&to) {
                let text = format!("{folder} must not name {to}: its decisions replay in tests");
                findings.push(Finding::error(&package.manifest, 0, text));
            }
            findings.extend(door(package, name));
        }
    }
    findings
}

fn door(package: &Package, name: &Name) -> Option<Finding> {
    let (library, doors, test_doors, why) = DOORS.iter().find(|(library, ..)| *library == name.name)?;
    let folder = package.folder.as_str();
    if doors.contains(&folder) || (name.test && test_doors.contains(&folder)) {
        return None;
    }
    let text = format!("{folder} must not name {library}; only {} does: {why}", doors.join(", "));
    Some(Finding::error(&package.manifest, 0, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(package: &str, dependencies: &Value) -> Vec<String> {
        let metadata = json!({
            "workspace_root": "/w",
            "packages": [
                { "name": package, "manifest_path": "/w/crates/x/Cargo.toml", "dependencies": dependencies },
            ],
        });
        check(&packages(&metadata).unwrap()).iter().map(ToString::to_string).collect()
    }

    fn ours(name: &str) -> Value {
        json!({ "name": name, "source": null, "kind": null })
    }

    fn outside(name: &str, kind: Option<&str>) -> Value {
        json!({ "name": name, "source": "registry", "kind": kind })
    }

    #[test]
    fn an_arrow_up_is_reported_with_both_ends() {
        assert_eq!(
            findings("ostler-wire", &json!([ours("ostler-engine")])),
            ["error: crates/x/Cargo.toml: wire must not name engine; the arrow is not in the table"],
        );
        assert!(findings("ostler-engine", &json!([ours("ostler-wire")])).is_empty());
    }

    #[test]
    fn a_library_has_one_door_and_tests_may_have_another() {
        assert_eq!(findings("ostler-engine", &json!([outside("rusqlite", None)])).len(), 1);
        assert_eq!(findings("ostler-broker", &json!([outside("async-nats", None)])).len(), 1);
        assert!(findings("ostler-broker", &json!([outside("async-nats", Some("dev"))])).is_empty());
        assert!(findings("ostler-store", &json!([outside("rusqlite", None)])).is_empty());
    }

    #[test]
    fn a_pure_crate_names_no_runtime_outside_tests() {
        assert_eq!(findings("ostler-broker-proto", &json!([outside("tokio", None)])).len(), 1);
        assert!(findings("ostler-broker-proto", &json!([outside("tokio", Some("dev"))])).is_empty());
    }

    #[test]
    fn a_crate_outside_the_table_is_reported() {
        assert_eq!(findings("ostler-attic", &json!([])).len(), 1);
        assert!(findings("ostler", &json!([ours("ostler-daemon")])).is_empty());
    }

    #[test]
    fn the_table_has_no_circle() {
        // Every arrow points at a crate that stands earlier in the table, or the order is no proof.
        for (index, (from, to)) in ARROWS.iter().enumerate() {
            for name in *to {
                let place = ARROWS.iter().position(|(folder, _)| folder == name);
                assert!(
                    place.is_some_and(|place| place < index),
                    "{from} -> {name}: {name} must stand above it in the table"
                );
            }
        }
    }
}
