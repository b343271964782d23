//! `ostler-broker check` on what a server left behind: whole, damaged, in use.
#![cfg(test)]
#![cfg(all(unix, feature = "bin"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ostler-broker");
const DEADLINE: Duration = Duration::from_secs(20);

/// A server with streams in a directory that outlives it.
struct Running {
    child: Child,
    url: String,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
            .arg(dir)
            .arg("--ports_file_dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ports = dir.join(format!("ostler-broker_{}.ports", child.id()));
        let started = Instant::now();
        let url = loop {
            let written = fs::read(&ports).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(url) = written.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
                break url.to_owned();
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended at once");
            assert!(started.elapsed() < DEADLINE, "it does not begin to serve");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { child, url }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two streams of acknowledged messages, and the server that has them.
async fn filled() -> (TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path());
    let client = async_nats::connect(&server.url).await.unwrap();
    let js = jetstream::new(client);
    for name in ["A", "B"] {
        let config = jetstream::stream::Config { name: name.into(), ..Default::default() };
        js.create_stream(config).await.unwrap();
        for number in 0..20 {
            let ack = js.publish(name, format!("message {number} of {name}").into()).await.unwrap();
            ack.await.unwrap();
        }
    }
    (dir, server)
}

fn check(arguments: &[&str], dir: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        Command::new(PROGRAM).arg("check").args(arguments).arg(dir).stdin(Stdio::null()).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn segment(dir: &Path, stream: &str) -> PathBuf {
    dir.join("ostler/streams").join(stream).join("00000001.seg")
}

/// Changes a bit in the middle of a message.
fn damage(file: &Path, text: &str) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    bytes[at] ^= 4;
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_directory_in_use_is_left_alone_and_the_server_is_named() {
    let (dir, mut server) = filled().await;
    for arguments in [&[][..], &["--repair"]] {
        let (code, text) = check(arguments, dir.path());
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(&format!("in use by process {}", server.child.id())), "{text}");
    }
    server.kill();
    let (code, text) = check(&[], dir.path());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("A: 20 messages") && text.ends_with("2 streams, 0 damaged\n"), "{text}");
}

#[tokio::test]
async fn damage_is_named_and_mended_only_when_told() {
    let (dir, mut server) = filled().await;
    server.kill();
    damage(&segment(dir.path(), "B"), "message 7 of B");
    let before = fs::read(segment(dir.path(), "B")).unwrap();
    for at in [dir.path().to_owned(), dir.path().join("ostler/streams/B")] {
        let (code, text) = check(&[], &at);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("B: damage: segment 1, after message 7 (00000001.seg at offset"), "{text}");
        assert!(text.contains("they are lost: 8;") && text.contains("--repair"), "{text}");
    }
    assert_eq!(check(&[], &dir.path().join("ostler/streams/A")).0, Some(0));
    assert_eq!(fs::read(segment(dir.path(), "B")).unwrap(), before, "looking changes nothing");

    let (code, text) = check(&["--json", "--repair"], dir.path());
    assert_eq!(code, Some(1), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["damaged"], &report["failed"]), (&1.into(), &0.into()));
    assert_eq!(report["streams"][1]["stream"], "B");
    assert_eq!(report["streams"][1]["report"]["repaired"], true);
    assert_eq!(report["streams"][0]["report"]["repaired"], false);

    let (code, text) = check(&[], dir.path());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("B: 19 messages"), "{text}");
    let kept = segment(dir.path(), "B").with_extension("seg.damaged");
    assert_eq!(fs::read(kept).unwrap(), before, "the damaged file is kept");
    // The server goes on with what is left.
    let server = Running::start(dir.path());
    let js = jetstream::new(async_nats::connect(&server.url).await.unwrap());
    let stream = js.get_stream("B").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 19);
    assert!(stream.get_raw_message(8).await.is_err());
    assert_eq!(stream.get_raw_message(9).await.unwrap().payload, "message 8 of B");
}

#[tokio::test]
async fn a_lost_file_and_a_lost_end_are_damage() {
    let (dir, mut server) = filled().await;
    server.kill();
    fs::remove_file(segment(dir.path(), "A")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(segment(dir.path(), "B")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 30).unwrap();
    let (code, text) = check(&["--json"], dir.path());
    assert_eq!(code, Some(1), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["damaged"], 2, "{text}");
}

#[test]
fn what_cannot_be_checked_is_2_and_says_what_to_give() {
    let empty = tempfile::tempdir().unwrap();
    for (arguments, dir, says) in [
        (&[][..], empty.path().to_owned(), "no streams in"),
        (&[], empty.path().join("nowhere"), "cannot read"),
        (&["--mend"], empty.path().to_owned(), "see check --help"),
    ] {
        let (code, text) = check(arguments, &dir);
        assert_eq!(code, Some(2));
        assert!(text.contains(says), "{text}");
    }
    let (code, text) = check(&["--help"], empty.path());
    assert!(code == Some(0) && text.contains("Exit codes"), "{text}");
}
