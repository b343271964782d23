//! The parts of the platform others use by themselves: detached processes, watching strangers, locks.

mod support;

use std::ffi::OsString;
use std::path::Path;

use ostler_supervise::platform::{
    Facts, Identity, LockError, facts, lock_file, pidfd_exited, process_identity, spawn_detached,
};
use support::{eventually, is_running, unique};

#[tokio::test]
async fn a_detached_process_has_its_own_session_and_is_nobodys_zombie() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let script =
        "echo out; echo err >&2; echo $GREETING; ps -o ppid=,sid=,pgid=,tty= -p $$; pwd; exec sleep 1000";
    let pid =
        spawn_detached(Path::new("/bin/sh"), &words(&["-c", script]), &env(), Some(&log)).expect("it starts");
    let start_time = process_identity(pid).expect("it runs");
    eventually("it has written", || text(&log).ends_with("/\n")).await;
    let told = text(&log);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(&lines[..3], ["out", "err", "hello"]);
    let ids: Vec<&str> = lines[3].split_whitespace().collect();
    assert_ne!(ids[0], std::process::id().to_string(), "it is not our child");
    // Its session and group were made by the process between, which is gone.
    assert_eq!((ids[1], ids[3]), (ids[2], "?"));
    assert_ne!(ids[1], pid.to_string());

    let ended = tokio::spawn(pidfd_exited(pid, start_time));
    std::process::Command::new("kill").arg(pid.to_string()).status().expect("kill runs");
    ended.await.expect("no panic").expect("it can be watched");
    assert!(!is_running(pid));
}

#[tokio::test]
async fn a_detached_program_that_is_missing_is_an_error() {
    let error = spawn_detached(Path::new("/no/such/program"), &[], &env(), None).expect_err("it is missing");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn who_is_gone_or_was_another_process_has_exited_already() {
    let own = Identity::own().expect("proc is there");
    pidfd_exited(own.pid, own.start_time + 1).await.expect("the id belongs to another process");
    pidfd_exited(4_194_305, 1).await.expect("no such process can be");
    assert!(own.is_alive());
    assert!(!Identity { pid: own.pid, start_time: own.start_time + 1 }.is_alive());
}

#[test]
fn facts_of_this_process_are_plausible() {
    let own = Identity::own().expect("proc is there");
    let measured = facts(&[own]);
    assert_eq!(measured.process_count, 1);
    assert!(measured.rss_bytes > 500_000);
    let stranger = Identity { start_time: 0, ..own };
    assert_eq!(facts(&[stranger]), Facts::default());
}

#[test]
fn a_lock_is_held_once_and_names_its_holder() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("daemon.lock");
    let lock = lock_file(&path).expect("it is free");
    match lock_file(&path) {
        Err(LockError::Held { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(lock);
    assert!(lock_file(&path).is_ok());
    assert!(matches!(lock_file(&dir.path().join("no/such/dir")), Err(LockError::Io { .. })));
}

#[test]
fn an_empty_marker_sweeps_nothing() {
    assert_eq!(ostler_supervise::platform::sweep("").expect("processes can be listed"), Vec::<u32>::new());
    assert_eq!(ostler_supervise::platform::sweep(&unique("nobody")).expect("as above"), Vec::<u32>::new());
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

fn env() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/bin:/bin".into()), ("GREETING".into(), "hello".into())]
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
