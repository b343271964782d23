//! JetStream in the program `ostler-broker`: its flags, its settings, what its log says and what is there after a crash.
#![cfg(test)]
#![cfg(all(unix, feature = "bin"))]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Raw, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ostler-broker");

/// The program in a directory of its own; killed with the value.
struct Running {
    child: Child,
    dir: PathBuf,
}

impl Running {
    fn start(dir: &Path, configuration: &str, flags: &[&str]) -> Self {
        fs::write(dir.join("f.conf"), configuration).unwrap();
        let _ = fs::remove_file(dir.join("log"));
        let child = Command::new(PROGRAM)
            .args(["-a", "127.0.0.1", "-p", "-1", "-c", "f.conf", "-l", "log", "--ports_file_dir", "."])
            .args(flags)
            .current_dir(dir)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Self { child, dir: dir.to_owned() };
        eventually("the server is ready", || {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended at once: {}", running.log());
            running.log().contains("Server is ready")
        });
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, lines: &[&str]) {
        let log = self.log();
        for line in lines {
            assert!(log.contains(line), "{line}: {log}");
        }
    }

    fn address(&self, kind: &str) -> SocketAddr {
        let path = self.dir.join(format!("ostler-broker_{}.ports", self.child.id()));
        let ports: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        ports[kind][0].as_str().unwrap().split_once("://").unwrap().1.parse().unwrap()
    }

    fn client(&self) -> Raw {
        let (mut client, _) = Raw::open(self.address("nats"));
        client.send("CONNECT {\"verbose\":false}\r\nSUB answers 1\r\n");
        client
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn ask(client: &mut Raw, subject: &str, body: &str) -> Value {
    client.send(format!("PUB {subject} answers {}\r\n{body}\r\n", body.len()));
    serde_json::from_slice(&client.message().payload).unwrap()
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn streams_are_there_after_a_kill() {
    let dir = dir();
    let running = Running::start(dir.path(), "", &["-js", "-sd", "store"]);
    running.says(&[
        "[INF] Starting JetStream",
        "[INF]   Max Memory:",
        "[INF]   Max Storage:     unlimited",
        "[INF]   Store Directory: \"store/ostler\"",
        "[INF]   Durability:      group",
    ]);
    assert!(!running.log().contains("[WRN]"), "{}", running.log());
    let mut client = running.client();
    assert!(ask(&mut client, "$JS.API.STREAM.CREATE.S", r#"{"name":"S"}"#).get("error").is_none());
    for seq in 1..=3 {
        assert_eq!(ask(&mut client, "S", "x")["seq"], seq);
    }
    running.kill();
    let running = Running::start(dir.path(), "", &["-js", "--store_dir=store"]);
    running.says(&["[INF]   Restored 3 messages for stream '$G > S'"]);
    assert_eq!(ask(&mut running.client(), "S", "x")["seq"], 4);
}

#[test]
fn the_file_says_how_it_is_and_flags_override_it() {
    let dir = dir();
    let text = "jetstream {store_dir: wrong, max_mem: 1MB, max_file: 2MB, domain: hub, durability: process, strict: false\n\
                limits {max_request_batch: 7}}\nhttp: \"127.0.0.1:-1\"\n\
                accounts {A {users: [{user: a, password: a}], jetstream {max_streams: 1}}}\nno_auth_user: a\n";
    let running = Running::start(dir.path(), text, &["-sd", "right", "--durability", "async"]);
    running.says(&[
        "Strict:          false",
        "Max Memory:      1.00 MB",
        "Max Storage:     2.00 MB",
        "Store Directory: \"right/ostler\"",
        "Domain:          hub",
        "Durability:      async",
    ]);
    let (mut client, info) = Raw::open(running.address("nats"));
    for part in ["\"jetstream\":true", "\"domain\":\"hub\"", "\"api_lvl\":5"] {
        assert!(info.contains(part), "{info}");
    }
    client.send("CONNECT {\"verbose\":false}\r\nSUB answers 1\r\n");
    let create = |name: &str| json!({ "name": name, "unknown": 1 }).to_string();
    assert!(ask(&mut client, "$JS.hub.API.STREAM.CREATE.S", &create("S")).get("error").is_none());
    assert_eq!(ask(&mut client, "$JS.API.STREAM.CREATE.T", &create("T"))["error"]["err_code"], 10027);
    assert!(dir.path().join("right/ostler/streams/S").is_dir() && !dir.path().join("wrong").exists());
}

#[test]
fn a_reload_does_not_change_it() {
    let dir = dir();
    let running = Running::start(dir.path(), "jetstream {store_dir: a, max_mem: 1MB}\n", &[]);
    let reload = |text: &str, line: &str| {
        fs::write(dir.path().join("f.conf"), text).unwrap();
        let pid = i32::try_from(running.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
        eventually(line, || running.log().contains(line));
    };
    reload(
        "jetstream {store_dir: a, max_mem: 2MB}\n",
        "a reload cannot change jetstream; nothing was changed",
    );
    reload("jetstream {store_dir: a, max_mem: 1MB}\nmax_payload: 64KB\n", "Reloaded server configuration");
}

#[test]
fn who_holds_the_directory_is_named() {
    let dir = dir();
    let running = Running::start(dir.path(), "", &["-js", "-sd", "store"]);
    let second = Command::new(PROGRAM)
        .args(["-js", "-sd", "store", "-a", "127.0.0.1", "-p", "-1"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let process = format!("store/ostler is in use by process {}", running.child.id());
    assert!(said.contains("[FTL] cannot start JetStream: ") && said.contains(&process), "{said}");
}

#[test]
fn damage_is_in_the_log_and_the_rest_is_served() {
    let dir = dir();
    let running = Running::start(dir.path(), "", &["-js", "-sd", "store"]);
    let mut client = running.client();
    for name in ["GOOD", "BAD"] {
        ask(&mut client, &format!("$JS.API.STREAM.CREATE.{name}"), &json!({ "name": name }).to_string());
        for _ in 0..20 {
            ask(&mut client, name, "some text that takes its place in the file");
        }
    }
    running.kill();
    let segment = dir.path().join("store/ostler/streams/BAD/00000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    // In the midst of the messages, far from what a crash may leave.
    bytes[600] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let running = Running::start(dir.path(), "http: \"127.0.0.1:-1\"\n", &["-js", "-sd", "store"]);
    let log = running.log();
    assert!(log.contains("[ERR] ") && log.contains("BAD"), "{log}");
    assert!(log.contains("Restored 20 messages for stream '$G > GOOD'"), "{log}");
    let mut client = running.client();
    let info = ask(&mut client, "$JS.API.STREAM.INFO.BAD", "");
    assert_eq!(info["state"]["last_seq"], 20);
    assert_eq!(ask(&mut client, "BAD", "goes on")["seq"], 21);
}

#[test]
fn what_nats_server_left_is_told_of_and_stays() {
    let dir = dir();
    let theirs = dir.path().join("store/jetstream/$G/streams/OLD");
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("meta.inf"), "{}").unwrap();
    let running = Running::start(dir.path(), "", &["-js", "-sd", "store"]);
    running.says(&["[WRN] store/jetstream holds streams of nats-server", "nats stream backup"]);
    assert_eq!(fs::read_to_string(theirs.join("meta.inf")).unwrap(), "{}");
    assert_eq!(ask(&mut running.client(), "$JS.API.INFO", "")["streams"], 0);
}
