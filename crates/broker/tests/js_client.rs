//! A client of another language: NATS for JavaScript, on Node. Its packages are in `OSTLER_TEST_NODE_MODULES`, or in
//! the workspace's `.rig/js`, where `cargo xtask setup` puts them; without them the tests say so and do nothing.
#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::local;
use nkeys::KeyPair;
use ostler_broker::{Builder, Credential, Identity, Permissions, Server, Users};

/// What the script prints when all works.
const STEPS: usize = 7;

fn modules() -> Option<PathBuf> {
    let modules = std::env::var_os("OSTLER_TEST_NODE_MODULES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.rig/js/node_modules"),
        PathBuf::from,
    );
    let node = Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
    if modules.exists() && node {
        return Some(modules);
    }
    eprintln!("SKIPPED: no node, or no packages in {}: run cargo xtask setup", modules.display());
    None
}

/// Plays the script against the server, at the address that `url` picks.
fn play(builder: Builder, transport: &str, url: impl Fn(&Server) -> String) {
    let Some(modules) = modules() else { return };
    let (users, key) = (Users::new(), KeyPair::new_user());
    let credential = Credential::Nkey(key.public_key());
    users.set(Identity::new("javascript", credential, Permissions::all())).unwrap();
    let server = builder.max_payload(8 << 20).users(users).start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("seed.nk");
    std::fs::write(&seed, key.seed().unwrap()).unwrap();
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js/smoke.cjs"))
        .arg(url(&server))
        .arg(&seed)
        .arg(transport)
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.lines().count(), STEPS, "{said}");
}

#[test]
fn the_javascript_client_works() {
    play(local(), "tcp", Server::url);
}

#[cfg(feature = "jetstream")]
#[test]
fn jetstream_works_through_the_javascript_client() {
    let Some(modules) = modules() else { return };
    let store = tempfile::tempdir().unwrap();
    let options = ostler_broker::JetStreamOptions::new(store.path());
    let server = local().allow_anonymous().jetstream(options).start().unwrap();
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js/jetstream.cjs"))
        .arg(server.url())
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.lines().count(), 8, "{said}");
}

#[cfg(feature = "websocket")]
#[test]
fn the_javascript_client_works_over_a_web_socket() {
    let builder = local().websocket(ostler_broker::WebSocket::on("127.0.0.1:0".parse().unwrap()));
    play(builder, "ws", |server| format!("ws://{}", server.websocket_addr().unwrap()));
}
