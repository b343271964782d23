//! Ending real processes: politely, by force, by themselves; nothing of the tree is ever left.

mod support;

use std::time::{Duration, Instant};

use ostler_supervise::exit::{Cause, Exit};
use ostler_supervise::spec::{Stop, StopStep};
use ostler_supervise::state::StateName;
use ostler_supervise::unit::{self, Handle, WriteError};
use support::{Heard, LEAVE_HIDDEN_ORPHAN, LEAVE_ORPHAN, cgroups, eventually, is_running, shell, term_then};

#[tokio::test]
async fn an_obedient_process_ends_within_its_grace() {
    let (handle, events) = unit::start(shell("echo up; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    let granted = handle.stop(false).await.expect("it runs");
    assert_eq!(granted.state, StateName::Stopping);
    let last = heard.end().await;
    assert_eq!(last.state, StateName::Terminated);
    assert_eq!((last.exit, last.cause), (Some(Exit::Signal(15)), Some(Cause::Requested)));
    assert_eq!(heard.exits, 1);
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut spec = shell("trap '' TERM; echo up; while :; do sleep 0.1; done");
    let grace = Duration::from_millis(300);
    spec.stop = term_then(grace);
    let (handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    heard.line("up").await;
    let asked = Instant::now();
    handle.stop(false).await.expect("it runs");
    let last = heard.end().await;
    assert!(asked.elapsed() >= grace);
    assert_eq!((last.exit, last.cause), (Some(Exit::Signal(9)), Some(Cause::Requested)));
}

#[tokio::test]
async fn force_skips_the_grace() {
    let (handle, events) = unit::start(shell("trap '' TERM; echo up; while :; do sleep 0.1; done"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    let asked = Instant::now();
    handle.stop(true).await.expect("it runs");
    let last = heard.end().await;
    assert!(asked.elapsed() < Duration::from_secs(4), "the grace is 5 s");
    assert_eq!((last.exit, last.cause), (Some(Exit::Signal(9)), Some(Cause::Killed)));
}

#[tokio::test]
async fn a_ladder_speaks_first_then_closes_stdin() {
    let mut spec = shell("read word; echo heard $word; cat; echo end of input; exit 7");
    let step = |step| (step, Duration::from_millis(100));
    spec.stop = Stop {
        ladder: vec![
            step(StopStep::Write(b"quit\n".to_vec())),
            (StopStep::CloseStdin, Duration::from_secs(5)),
        ],
    };
    let (handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    heard.state(StateName::Active).await;
    handle.stop(false).await.expect("it runs");
    let last = heard.end().await;
    assert_eq!(heard.lines, ["heard quit", "end of input"]);
    assert_eq!(last.exit, Some(Exit::Code(7)));
}

#[tokio::test]
async fn stopping_twice_is_stopping_once_and_works_when_all_is_over() {
    let (handle, events) = unit::start(shell("echo up; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    let (first, second) = tokio::join!(handle.stop(false), handle.stop(false));
    assert!(first.is_ok() && second.is_ok());
    heard.end().await;
    assert_eq!(handle.stop(false).await.expect("it is over").state, StateName::Terminated);
    let refusal = handle.restart().await.expect_err("it is over");
    assert_eq!(refusal.state, StateName::Terminated);
    assert_eq!(
        handle.write(b"x".to_vec()).await,
        Err(WriteError::NotRunning { state: StateName::Terminated })
    );
    assert_eq!(handle.join().await.state, StateName::Terminated);
}

#[tokio::test]
async fn an_orphan_in_its_own_session_is_gone_after_a_stop() {
    orphan_is_gone("sleep 1000", |handle| async move { handle.stop(false).await.map(drop) }).await;
}

#[tokio::test]
async fn an_orphan_in_its_own_session_is_gone_after_a_kill() {
    orphan_is_gone("sleep 1000", |handle| async move { handle.kill().await.map(drop) }).await;
}

#[tokio::test]
async fn an_orphan_in_its_own_session_is_gone_after_a_stop_while_paused() {
    orphan_is_gone("sleep 1000", |handle| async move {
        handle.pause().await?;
        handle.stop(false).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn an_orphan_in_its_own_session_is_gone_after_a_kill_while_paused() {
    orphan_is_gone("sleep 1000", |handle| async move {
        handle.pause().await?;
        handle.kill().await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn an_orphan_in_its_own_session_is_gone_when_the_leader_ends_by_itself() {
    orphan_is_gone("exit 3", |_| async { Ok(()) }).await;
}

#[tokio::test]
async fn an_orphan_with_an_empty_environment_is_gone_with_its_cgroup() {
    for cgroup in cgroups().into_iter().flatten() {
        let mut spec = shell(&format!("{LEAVE_HIDDEN_ORPHAN} exit 3"));
        spec.cgroup = Some(cgroup);
        let (_handle, events) = unit::start(spec);
        let mut heard = Heard::new(events);
        let orphan = heard.line("left ").await.parse().expect("a process id");
        heard.end().await;
        assert!(!is_running(orphan));
    }
}

#[tokio::test]
async fn a_tree_that_keeps_forking_is_killed_whole() {
    // Two shells that keep leaving short-lived processes in new sessions, some twenty a second.
    let storm =
        "for i in 1 2; do (while :; do setsid sleep 0.5 & sleep 0.1; done) & done; echo up; sleep 1000";
    for cgroup in cgroups() {
        let mut spec = shell(storm);
        spec.cgroup = cgroup;
        let marker = format!("OSTLER_RUN={}", spec.marker);
        let (handle, events) = unit::start(spec);
        let mut heard = Heard::new(events);
        heard.line("up").await;
        eventually("the storm rages", || handle.facts().process_count > 8).await;
        handle.kill().await.expect("it runs");
        heard.end().await;
        assert_eq!(marked(&marker), Vec::<u32>::new());
    }
}

#[tokio::test]
async fn dropping_every_end_kills_the_tree() {
    let (handle, events) = unit::start(shell(&format!("{LEAVE_ORPHAN} sleep 1000")));
    let mut heard = Heard::new(events);
    let orphan = heard.orphan().await;
    let leader = handle.snapshot().pid.expect("it runs");
    drop((handle, heard));
    eventually("leader and orphan are gone", || !is_running(leader) && !is_running(orphan)).await;
}

#[test]
fn a_runtime_that_shuts_down_leaves_nothing_running() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (leader, orphan) = runtime.block_on(async {
        let (handle, events) = unit::start(shell(&format!("{LEAVE_ORPHAN} sleep 1000")));
        let mut heard = Heard::new(events);
        let orphan = heard.orphan().await;
        (handle.snapshot().pid.expect("it runs"), orphan)
    });
    drop(runtime);
    let deadline = Instant::now() + support::PATIENCE;
    while is_running(leader) || is_running(orphan) {
        assert!(Instant::now() < deadline, "leader or orphan goes on");
        std::thread::yield_now();
    }
}

/// Leaves an orphan, goes on with `script`, asks for an end: no process and no cgroup may be left once it is told.
async fn orphan_is_gone<F>(script: &str, end: impl Fn(Handle) -> F)
where
    F: Future<Output = Result<(), ostler_supervise::state::Refusal>>,
{
    for cgroup in cgroups() {
        let mut spec = shell(&format!("{LEAVE_ORPHAN} {script}"));
        spec.cgroup.clone_from(&cgroup);
        let (handle, events) = unit::start(spec);
        let mut heard = Heard::new(events);
        let orphan: u32 = heard.line("left ").await.parse().expect("a process id");
        let _ = end(handle.clone()).await;
        heard.end().await;
        assert!(!is_running(orphan), "the orphan goes on (cgroup {cgroup:?})");
        assert_eq!(heard.notes, Vec::<String>::new());
        assert!(cgroup.is_none_or(|dir| !dir.exists()));
    }
}

/// Returns every live process that carries this in its environment.
fn marked(variable: &str) -> Vec<u32> {
    let carries = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|b| *b == 0).any(|entry| entry == variable.as_bytes()))
    };
    let entries = std::fs::read_dir("/proc").expect("proc is there").flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(carries).collect()
}
