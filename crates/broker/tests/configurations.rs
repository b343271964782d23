//! Our program and a real nats-server are given the same configurations and must agree on which are valid. Where they
//! differ on purpose, a table says why, and is itself tested. Without a nats-server the tests say so and do nothing.
#![cfg(test)]
#![cfg(all(unix, feature = "bin"))]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{eventually, nats_server};

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
    "port: 0",
    "listen: 0",
    "listen: \"127.0.0.1:0\"",
    "http: 0",
    "websocket {port: 0}",
    "system_account: A\naccounts {A {}}",
    "system_account: A\naccounts [A]",
    "system_account: \"$G\"",
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
    "jetstream: true",
    "jetstream: Enabled",
    "jetstream: disable",
    "jetstream: maybe",
    "jetstream: 1",
    "jetstream: []",
    "jetstream {}",
    "jetstream {enabled: false}",
    "jetstream {enabled: 1}",
    "jetstream {store_dir: x}",
    "jetstream {store: x}",
    "jetstream {dir: x}",
    "jetstream {store_dir: 5}",
    "store_dir: x",
    "store_dir: x\njetstream {store_dir: y}",
    "jetstream {max_memory_store: 1GB, max_file_store: \"1G\"}",
    "jetstream {max_mem: -1, max_file: 0}",
    "jetstream {max_mem: true}",
    "jetstream {max_mem: \"x\"}",
    "jetstream {max_memory: 1GB}",
    "jetstream {domain: hub}",
    "jetstream {domain: \"\"}",
    "jetstream {domain: 5}",
    "jetstream {strict: false}",
    "jetstream {strict: 1}",
    "jetstream {sync_interval: \"2m\"}",
    "jetstream {sync: always}",
    "jetstream {sync_interval: never}",
    "jetstream {sync_always: true}",
    "jetstream {unique_tag: \"az:\", extension_hint: x, max_outstanding_catchup: 64MB}",
    "jetstream {max_buffered_msgs: 1, max_buffered_size: 1MB, request_queue_limit: 5, info_queue_limit: 5}",
    "jetstream {meta_compact: 1, meta_compact_size: 1MB, meta_compact_sync: true}",
    "jetstream {cipher: foo}",
    "jetstream {foo: 1}",
    "jetstream {limits {max_request_batch: 100, max_ack_pending: -1, max_ha_assets: 5, default_max_consumers: 5}}",
    "jetstream {limits {max_request_batch: \"100\"}}",
    "jetstream {limits {duplicate_window: \"1m\"}}",
    "jetstream {limits {duplicate_window: x}}",
    "jetstream {limits {max_streams: 5}}",
    "jetstream {limits: true}",
    "jetstream {limits {batch {foo: 1}}}",
    "accounts {A {jetstream: enabled}}\njetstream {}",
    "accounts {A {jetstream: maybe}}",
    "accounts {A {jetstream: 1}}",
    "accounts {A {jetstream: {max_mem: 1GB, disk: 2GB, streams: 5, max_consumers: 5, max_ack_pending: 1}}}",
    "accounts {A {jetstream: {max_bytes_required: true, mem_max_stream_bytes: 1, store_max_stream_bytes: 2}}}",
    "accounts {A {jetstream: {cluster_traffic: owner}}}",
    "accounts {A {jetstream: {file: 1}}}",
    "accounts {A {jetstream: {enabled: true}}}",
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
    ("jetstream {durability: process}", "it has no such key"),
    ("jetstream {max_mem: \"1GB\"}", "sizes in quotes have all units"),
    ("jetstream {sync_interval: 10}", "a number of seconds is understood"),
    ("jetstream {limits {duplicate_window: 60}}", "so it is here"),
    ("port: 4222,,", "a stray comma is harmless"),
    ("# nothing", "an empty file sets nothing"),
    ("A: 12\nserver_name: $A", "a variable is a text where a text is wanted"),
    ("A: 12\nauthorization {user: a, password: $A}", "there it ends with a trace of its stack"),
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
    ("system_account: NOPE", "there is no such account; it finds out when it starts"),
    ("cluster {}", "one node"),
    ("https_port: 8443\nhttp_port: $https_port", "a variable does not excuse it"),
    ("websocket {}", "without a port it does nothing"),
    ("jetstream {key: abc}", "messages are not encrypted"),
    ("jetstream {limits {batch {max_msgs: 3}}}", "atomic batches have fixed limits"),
    ("jetstream {tpm {}}", "messages are not encrypted"),
    ("jetstream {store_dir: \"\"}", "an empty name is a slip"),
    ("jetstream {max_mem: -5}", "it is no size"),
    ("jetstream {domain: \"a b\"}", "it would be part of a subject"),
    ("jetstream {sync_interval: \"-1s\"}", "no time is negative"),
    ("accounts {A {jetstream: true}, B {jetstream: true}}", "one account has streams"),
    ("default_js_domain {A: hub}", "one node"),
];

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

/// What both listen on: `HOST` is an address of this machine.
#[cfg(target_os = "linux")]
const PORTS: &[&str] = &[
    "listen: \"HOST:0\"",
    "listen: \"HOST:-1\"",
    "host: HOST\nport: 0",
    "host: HOST\nport: -1",
    "listen: \"HOST:-1\"\nhttp: 0",
    "listen: \"HOST:-1\"\nhttp: \"HOST:0\"",
    "listen: \"HOST:-1\"\nhttp: \"HOST:-1\"",
    "listen: \"HOST:-1\"\nhttp_port: 0",
    "listen: \"HOST:-1\"\nhttp_port: -1",
    "listen: \"HOST:-1\"\nmonitor_port: 0",
    "listen: \"HOST:-1\"\nwebsocket {port: 0}",
    "listen: \"HOST:-1\"\nwebsocket {listen: \"HOST:0\", no_tls: true}",
    "listen: \"HOST:-1\"\nwebsocket {listen: \"HOST:-1\", no_tls: true}",
];

/// The kinds of addresses a running server takes, and whether its clients connect to the default port.
#[cfg(target_os = "linux")]
fn listening(program: &Path, text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("f.conf"), text).unwrap();
    let mut server = Command::new(program)
        .args(["-c", "f.conf", "--ports_file_dir", "."])
        .current_dir(directory.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut found = None;
    eventually(text, || {
        let ended = server.try_wait().unwrap();
        assert!(ended.is_none(), "{} ended with {ended:?}: {text}", program.display());
        let files = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
        found = files
            .filter(|file| file.extension().is_some_and(|extension| extension == "ports"))
            .find_map(|file| serde_json::from_slice::<serde_json::Value>(&std::fs::read(file).unwrap()).ok());
        found.is_some()
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let found = found.unwrap();
    let is_default = found["nats"][0].as_str().unwrap().ends_with(":4222");
    let kinds = found.as_object().unwrap().keys().cloned();
    kinds.chain([format!("on the default port: {is_default}")]).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn the_same_ports_are_taken() {
    let Some(theirs) = nats_server() else { return };
    // An address of its own, because the default port is one that others may want.
    let [_, .., high, low] = std::process::id().to_be_bytes();
    let host = format!("127.77.{high}.{low}");
    for text in PORTS {
        let text = text.replace("HOST", &host);
        let expected = listening(&theirs, &text);
        assert_eq!(listening(Path::new(env!("CARGO_BIN_EXE_ostler-broker")), &text), expected, "{text}");
    }
}
