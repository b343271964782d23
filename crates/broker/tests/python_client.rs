//! A client of another language: nats-py. The interpreter is `OSTLER_TEST_PYTHON`, or the one in the workspace's
//! `.rig/python`, which `cargo xtask setup` makes.
#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::local;
use nkeys::KeyPair;
use ostler_broker::{Credential, Identity, Permissions, Users};

fn interpreter() -> PathBuf {
    let python = std::env::var_os("OSTLER_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.rig/python/bin/python"),
        PathBuf::from,
    );
    assert!(python.exists(), "no Python with nats-py at {}: run cargo xtask setup", python.display());
    python
}

#[test]
fn the_python_client_works() {
    let (users, key) = (Users::new(), KeyPair::new_user());
    let credential = Credential::Nkey(key.public_key());
    users.set(Identity::new("python", credential, Permissions::all())).unwrap();
    let server = local().max_payload(8 << 20).users(users).start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("seed.nk");
    std::fs::write(&seed, key.seed().unwrap()).unwrap();
    let output = Command::new(interpreter())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/smoke.py"))
        .arg(server.url())
        .arg(&seed)
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.lines().count(), 7, "{said}");
}

#[cfg(feature = "jetstream")]
#[test]
fn jetstream_works_through_the_python_client() {
    let store = tempfile::tempdir().unwrap();
    let options = ostler_broker::JetStreamOptions::new(store.path());
    let server = local().allow_anonymous().jetstream(options).start().unwrap();
    let output = Command::new(interpreter())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/jetstream.py"))
        .arg(server.url())
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.lines().count(), 8, "{said}");
}
