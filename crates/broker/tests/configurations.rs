//! Our program and a real nats-server are given the same configurations and must agree on which are valid. Where they
//! differ on purpose, a table says why, and is itself tested. Without a nats-server the tests say so and do nothing.
#![cfg(all(test, unix, feature = "bin"))]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Texts on which both agree, valid or not.
const AGREED: &[&str] = &[
    "port=4222",
    "port: 4222; host: 127.0.0.1",
    "port 4222 # c",
    "port\n4222",
    "PORT: 4222",
    "{\"port\": 4222, \"authorization\": {\"users\": [{\"user\": \"a\", \"password\": \"b\"}]}}",
    "port: \"4222\"",
    "port: abc",
    "port: 1.5",
    "port:\n 4222",
    "port: - 1",
    "port: [1,2",
    "port: 4222#c",
    "port: = 4222",
    "= 3",
    "a\n",
    "a {",
    "foo: 1",
    "FOO: 12\nport: $FOO",
    "A: {user: a, password: b}\nauthorization: $A",
    "A: [1, 2]\nB: $A",
    "port: $NO_SUCH_VARIABLE_IS_SET",
    "include \"no-such-file.conf\"",
    "max_payload: 8Mb",
    "max_payload: 1kB",
    "max_payload: \"1MB\"",
    "max_payload: 1 MB",
    "max_payload: 5X",
    "max_payload: 1_000",
    "max_connections: 1KiBi",
    "max_subs: 10",
    "max_conn: 10",
    "max_pending: 10MB",
    "max_control_line: 1KB",
    "listen: 4222",
    "listen: 127.0.0.1",
    "listen: \":4222\"",
    "listen: \"[::1]:4222\"",
    "server_name: \"a b\"",
    "server_name: foo-bar_baz.x:y/z",
    "server_name: a#b",
    "server_name: a//b",
    "server_name: a(b)",
    "server_name: a{b",
    "server_name: a=b",
    "server_name: 1.5.2",
    "server_name: 10.0",
    "server_name: true",
    "server_name: \"a\\x41\"",
    "server_name: \"a\\x4\"",
    "server_name: \"a\\q\"",
    "server_name: \"a",
    "host: a port: 4",
    "debug: True",
    "debug: \"true\"",
    "debug: 1",
    "trace: off",
    "logtime: no",
    "authorization {token: (\nabc\n)\n}",
    "authorization {token: (abc\ndef) }",
    "authorization {user: a, password: $2a$11$3kIDaCxw.Glsl1.u5nKa6eUnNDLV5HV9tIuUp7EHhMt6Nm9myW1aS}",
    "authorization\n{\nuser: a\npassword: b\n}",
    "authorization: \n{user: a, password: b}",
    "authorization {user: a password: b}",
    "authorization {user: a, password: b}, port: 1",
    "authorization {token: a, user: b, password: c}",
    "authorization {token: a, users: [{user: a, password: b}]}",
    "authorization {users = [{user = a, password = b},]}",
    "authorization {users: [{user: a, password: b} {user: c, password: d}]}",
    "authorization {users: [{user: a, password: b}\n{user: c, password: d}]}",
    "authorization {users: [{user: a, password: b}, {user: a, password: c}]}",
    "authorization {users: [{nkey: UABC}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: foo, subscribe: [bar, \"baz q\"]}}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: [1]}}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: \"a..b\"}}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: {alow: x}}}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: \"a b\"}}]}",
    "authorization {users: [{user: a, password: b, permissions: {subscribe: \"a b c\"}}]}",
    "authorization {users: [{user: a, password: b, permissions: {allow_responses: {max: 5, expires: \"1m\"}}}]}",
    "authorization {users: [{user: a, password: b, permissions: {allow_responses: 5}}]}",
    "authorization {timeout: \"2s\", token: x}",
    "authorization {timeout: 0.5, token: x}",
    "accounts {A {users: [{user: a, password: b}]}, B {users: [{user: a, password: b}]}}",
    "accounts: [A, B]",
    "ping_interval: \"2m\"",
    "ping_interval: \"5x\"",
    "ping_max: 3",
    "max_pings_out: 3",
    "write_deadline: \"2s\"",
    "lame_duck_duration: \"1s\"",
    "lame_duck_duration: \"1m\"",
    "http: 8222",
    "http_port: \"127.0.0.1:8222\"",
    "monitor_port: 8222",
    "websocket {port: -1, no_tls: true, handshake_timeout: \"2s\", same_origin: true, allowed_origins: [\"http://x\"]}",
    "jetstream: disabled",
    "pidfile: p\nlogfile: l\nports_file_dir: d",
];

/// Texts that only ours takes.
const ONLY_OURS: &[(&str, &str)] = &[
    (
        "authorization {user: a, password: $2b$11$3kIDaCxw.Glsl1.u5nKa6eUnNDLV5HV9tIuUp7EHhMt6Nm9myW1aS}",
        "other prefixes of bcrypt",
    ),
    (
        "accounts {A {users: [{user: a, password: b}]}}\nauthorization {user: x, password: y}",
        "the one user outside the accounts is one of $G",
    ),
    ("ping_interval: 5", "a number of seconds is understood"),
    ("ping_interval: 2m", "a bare time is understood"),
    ("port: 4222,,", "a stray comma is harmless"),
    ("# nothing", "an empty file sets nothing"),
];

/// Texts that only nats-server takes.
const ONLY_THEIRS: &[(&str, &str)] = &[
    ("port: 4222k", "there is no such port"),
    ("server_name: \"\"", "an empty name is a slip"),
    ("port: 4222}", "so is a brace too many"),
    ("authorization {user: a}", "anybody would be this user"),
    (
        "authorization {users: [{user: a, password: b, permissions: {publish: {allow: []}}}]}",
        "it would permit everything",
    ),
    ("allow_non_tls: true", "without tls it says nothing"),
    ("max_payload: 65MB", "such a message could never be delivered"),
    ("no_auth_user: x", "there is no such user"),
    ("cluster {}", "one node"),
    ("jetstream {max_mem_store: 1GB}", "not there yet"),
];

fn nats_server() -> Option<PathBuf> {
    let program = std::env::var_os("OSTLER_NATS_SERVER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.rig/nats-server/nats-server"),
        PathBuf::from,
    );
    if program.exists() {
        return Some(program);
    }
    eprintln!("SKIPPED: no nats-server at {}: set OSTLER_NATS_SERVER", program.display());
    None
}

/// Whether `program` finds the text valid, and what it says.
fn judge(program: &Path, text: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("f.conf"), text).unwrap();
    let output =
        Command::new(program).args(["-t", "-c", "f.conf"]).current_dir(directory.path()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn both(text: &str) -> Option<(bool, bool, String)> {
    let (theirs, they_say) = judge(&nats_server()?, text);
    let (ours, we_say) = judge(Path::new(env!("CARGO_BIN_EXE_ostler-broker")), text);
    Some((ours, theirs, format!("{text}\nnats-server: {they_say}\nours: {we_say}")))
}

#[test]
fn the_same_configurations_are_valid() {
    for text in AGREED {
        let Some((ours, theirs, said)) = both(text) else { return };
        assert_eq!(ours, theirs, "{said}");
    }
}

#[test]
fn the_differences_are_those_that_are_wanted() {
    for (tables, expected) in [(ONLY_OURS, (true, false)), (ONLY_THEIRS, (false, true))] {
        for (text, why) in tables {
            let Some((ours, theirs, said)) = both(text) else { return };
            assert_eq!((ours, theirs), expected, "{why}: {said}");
        }
    }
}
