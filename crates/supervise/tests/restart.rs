//! Starting real processes, again and again: policies, backoff, crash loops, programs that cannot be started.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use ostler_supervise::exit::{Cause, Exit};
use ostler_supervise::platform::SpawnError;
use ostler_supervise::restart::{Backoff, CrashLoop, RestartPolicy};
use ostler_supervise::spec::{Ready, UnitSpec};
use ostler_supervise::state::StateName;
use ostler_supervise::unit::{self, UnitEvent};
use support::{Heard, PATIENCE, command, shell, unique};

#[tokio::test]
async fn a_failing_process_is_started_again_until_it_is_a_crash_loop() {
    let mut spec = shell("echo again; exit 3");
    spec.restart = RestartPolicy::OnFailure;
    spec.backoff = quick();
    let (_handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    let last = heard.end().await;
    assert_eq!(last.state, StateName::Error);
    assert_eq!(last.cause, Some(Cause::CrashLoop { restarts: 5, window: Duration::from_secs(60) }));
    assert_eq!((last.exit, last.restarts, last.generation), (Some(Exit::Code(3)), 5, 6));
    assert_eq!((heard.lines.len(), heard.exits), (6, 6));
}

#[tokio::test]
async fn a_success_is_final_on_failure_and_a_loop_of_successes_ends_too() {
    let mut spec = shell("exit 0");
    spec.restart = RestartPolicy::OnFailure;
    let last = Heard::new(unit::start(spec).1).end().await;
    assert_eq!((last.state, last.cause, last.generation), (StateName::Terminated, Some(Cause::OwnExit), 1));

    let mut spec = shell("exit 0");
    spec.restart = RestartPolicy::Always;
    spec.backoff = quick();
    spec.crash_loop.restarts_max = 2;
    let last = Heard::new(unit::start(spec).1).end().await;
    assert_eq!((last.state, last.exit, last.generation), (StateName::Error, Some(Exit::Code(0)), 3));
}

#[tokio::test]
async fn a_failure_without_restart_is_an_error_that_keeps_the_code() {
    let last = Heard::new(unit::start(shell("exit 42")).1).end().await;
    assert_eq!((last.state, last.exit), (StateName::Error, Some(Exit::Code(42))));
}

#[tokio::test]
async fn a_restart_request_cuts_a_backoff_short_and_a_stop_ends_it() {
    let mut spec = shell("echo again; exit 3");
    spec.restart = RestartPolicy::OnFailure;
    spec.backoff = Backoff { initial: Duration::from_secs(1000), max: Duration::from_secs(1000), ..quick() };
    let (handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    let waiting = heard.state(StateName::Starting).await;
    assert!(waiting.backoff_until.is_some());
    assert_eq!((waiting.pid, waiting.exit), (None, Some(Exit::Code(3))));
    handle.restart().await.expect("it waits");
    heard.state(StateName::Active).await;
    heard.state(StateName::Starting).await;
    handle.stop(false).await.expect("it waits");
    let last = heard.end().await;
    assert_eq!((last.state, last.generation, heard.lines.len()), (StateName::Terminated, 2, 2));
}

#[tokio::test]
async fn a_requested_restart_runs_the_new_command() {
    let (handle, events) = unit::start(shell("echo old; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("old").await;
    handle.set_command(command(&["sh", "-c", "echo new; exec sleep 1000"]));
    handle.restart().await.expect("it runs");
    heard.line("new").await;
    let now = handle.snapshot();
    assert_eq!((now.state, now.generation, now.restarts), (StateName::Active, 2, 0));
    handle.kill().await.expect("it runs");
    heard.end().await;
}

#[tokio::test]
async fn a_process_counts_as_active_once_told() {
    let mut spec = shell("exec sleep 1000");
    spec.ready = Ready::WhenTold { timeout: PATIENCE };
    let (handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    let starting = heard.state(StateName::Starting).await;
    assert!(starting.pid.is_some());
    assert!(handle.pause().await.expect_err("not ready").reason.contains("not ready"));
    handle.ready().await.expect("it runs");
    heard.state(StateName::Active).await;
    handle.kill().await.expect("it runs");
    heard.end().await;
}

#[tokio::test]
async fn a_process_never_told_ready_is_killed() {
    let mut spec = shell("exec sleep 1000");
    let timeout = Duration::from_millis(50);
    spec.ready = Ready::WhenTold { timeout };
    let last = Heard::new(unit::start(spec).1).end().await;
    assert_eq!((last.state, last.cause), (StateName::Error, Some(Cause::NotReady { timeout })));
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_says_where_it_was_looked_for() {
    let (cause, notes) = failed(UnitSpec::new(command(&["no-such-agent"]), unique("run"))).await;
    assert!(matches!(&cause, SpawnError::ProgramNotFound { .. }));
    assert_eq!(
        cause.to_string(),
        "program `no-such-agent` not found: check the name, or give the full path (looked in PATH=/usr/bin:/bin)"
    );
    assert_eq!(notes, [cause.to_string()]);
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let mut spec = shell("true");
    spec.command.dir = "/no/such/dir".into();
    let (cause, _) = failed(spec).await;
    assert_eq!(
        cause.to_string(),
        "directory `/no/such/dir` does not exist or is no directory: create it or name another"
    );
}

#[tokio::test]
async fn a_file_that_is_not_executable_or_lacks_its_interpreter_is_explained() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("agent");
    std::fs::write(&script, "#!/no/such/interpreter\n").expect("a script");
    let words = [script.to_str().expect("utf-8")];
    let (cause, _) = failed(UnitSpec::new(command(&words), unique("run"))).await;
    assert!(cause.to_string().contains("Permission denied"), "{cause}");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let (cause, _) = failed(UnitSpec::new(command(&words), unique("run"))).await;
    assert!(cause.to_string().contains("interpreter"), "{cause}");
}

#[tokio::test]
async fn a_program_that_vanishes_during_a_run_is_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("agent");
    std::fs::write(&script, "#!/bin/sh\nrm $0\nexit 1\n").expect("a script");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let mut spec = UnitSpec::new(command(&[script.to_str().expect("utf-8")]), unique("run"));
    spec.backoff = quick();
    let (_handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    let last = heard.end().await;
    assert_eq!((last.restarts, heard.exits, heard.notes.len()), (5, 1, 5));
    assert!(matches!(last.cause, Some(Cause::SpawnFailed(SpawnError::ProgramNotFound { .. }))));
}

#[tokio::test]
async fn a_thousand_quick_exits_leave_no_zombie() {
    let mut spec = UnitSpec::new(command(&["true"]), unique("run"));
    spec.restart = RestartPolicy::Always;
    spec.backoff = Backoff { initial: Duration::ZERO, ..quick() };
    spec.crash_loop = CrashLoop { restarts_max: 999, window: Duration::from_secs(1000) };
    let (_handle, mut events) = unit::start(spec);
    let mut exits = 0;
    while let Some(event) = events.recv().await {
        exits += u32::from(matches!(event, UnitEvent::Exited { exit: Exit::Code(0), .. }));
    }
    assert_eq!(exits, 1000);
    assert_eq!(children(), Vec::<String>::new());
}

#[tokio::test]
async fn uptime_is_brought_up_to_date_by_asking() {
    let (handle, events) = unit::start(shell("echo up; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    let asked = Instant::now();
    let first = handle.snapshot().uptime.expect("it runs");
    while asked.elapsed() < Duration::from_millis(2) {}
    assert!(handle.snapshot().uptime.expect("it runs") > first);
    handle.kill().await.expect("it runs");
    heard.end().await;
}

fn quick() -> Backoff {
    Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(2), ..Backoff::default() }
}

/// Runs what cannot be started.
async fn failed(spec: UnitSpec) -> (SpawnError, Vec<String>) {
    let (_handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    let last = heard.end().await;
    assert_eq!((last.state, last.generation), (StateName::Error, 1));
    match last.cause {
        Some(Cause::SpawnFailed(error)) => (error, heard.notes),
        other => panic!("{other:?}"),
    }
}

/// Returns this process's children, zombies included.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("proc is there").flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&own))
        .collect()
}
