//! Pausing real process trees: everything stops, everything goes on, nothing else is touched.

mod support;

use std::path::{Path, PathBuf};

use ostler_supervise::platform::{Cgroup, Tree};
use ostler_supervise::spec::MARKER_VARIABLE;
use ostler_supervise::state::StateName;
use ostler_supervise::unit;
use support::{Heard, cgroups, eventually, process_state, shell, unique};

/// A leader and an orphan in its own session, both counting into files as fast as they can.
const COUNTING: &str = "cd $DIR; \
     count() { i=0; while :; do i=$((i+1)); echo $i > $1.new; mv $1.new $1; done; }; \
     setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > orphan.new; mv orphan.new orphan; done' & \
     echo left $!; count leader";

#[tokio::test]
async fn a_pause_freezes_leader_and_orphan_and_a_resume_lets_both_go_on() {
    for cgroup in cgroups() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spec = shell(COUNTING);
        spec.cgroup.clone_from(&cgroup);
        spec.command.env.push(("DIR".into(), dir.path().into()));
        let tree = Tree {
            leader: None,
            cgroup: cgroup.as_deref().map(Cgroup::existing),
            marker: spec.marker.clone(),
            reaper: None,
        };
        let (handle, events) = unit::start(spec);
        let mut heard = Heard::new(events);
        heard.line("left ").await;
        let (leader, orphan) = (dir.path().join("leader"), dir.path().join("orphan"));
        eventually("both count", || count(&leader) > 0 && count(&orphan) > 0).await;

        let paused = handle.pause().await.expect("it is active");
        assert_eq!(paused.state, StateName::Paused);
        assert_all_frozen(&tree);
        let before = (count(&leader), count(&orphan));
        // Somebody else makes progress meanwhile: time passes for everything but the tree.
        let other = shell("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; done");
        Heard::new(unit::start(other).1).end().await;
        assert_eq!((count(&leader), count(&orphan)), before);
        assert_eq!(handle.pause().await.expect("twice is once").state, StateName::Paused);

        let resumed = handle.resume().await.expect("it is paused");
        assert_eq!(resumed.state, StateName::Active);
        eventually("both go on", || count(&leader) > before.0 && count(&orphan) > before.1).await;
        handle.kill().await.expect("it runs");
        heard.end().await;
        assert_eq!(heard.notes, Vec::<String>::new());
        assert_eq!(
            heard.states,
            [
                StateName::Active,
                StateName::Paused,
                StateName::Active,
                StateName::Stopping,
                StateName::Terminated
            ]
        );
    }
}

#[tokio::test]
async fn a_process_that_had_stopped_itself_stays_stopped_after_a_resume() {
    let mut spec =
        shell("sh -c 'echo left $$; kill -STOP $$; echo woken' & echo up; while :; do sleep 0.05; done");
    spec.cgroup = None;
    let (handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    let child = heard.line("left ").await.parse().expect("a process id");
    eventually("it has stopped itself", || process_state(child) == Some('T')).await;
    handle.pause().await.expect("it is active");
    handle.resume().await.expect("it is paused");
    let leader = handle.snapshot().pid.expect("it runs");
    eventually("the leader goes on", || process_state(leader) != Some('T')).await;
    assert_eq!(process_state(child), Some('T'));
    handle.kill().await.expect("it runs");
    heard.end().await;
    assert!(!heard.lines.contains(&"woken".to_owned()));
}

#[tokio::test]
async fn a_paused_process_killed_from_outside_is_noticed_and_started_again() {
    for cgroup in cgroups() {
        let mut spec = shell("echo up; exec sleep 1000");
        spec.cgroup = cgroup;
        spec.restart = ostler_supervise::restart::RestartPolicy::OnFailure;
        spec.backoff.initial = std::time::Duration::from_millis(1);
        let (handle, events) = unit::start(spec);
        let mut heard = Heard::new(events);
        heard.line("up").await;
        let paused = handle.pause().await.expect("it is active");
        kill_from_outside(paused.pid.expect("it runs")).await;
        let again = heard.state(StateName::Active).await;
        assert_eq!((again.generation, again.restarts), (2, 1));
        // The new one is not born frozen.
        heard.lines.clear();
        heard.line("up").await;
        handle.kill().await.expect("it runs");
        heard.end().await;
    }
}

#[tokio::test]
async fn what_is_not_in_the_tree_is_not_frozen() {
    let (bystander, bystander_events) = unit::start(shell("echo up; while :; do sleep 0.05; done"));
    let mut bystander_heard = Heard::new(bystander_events);
    bystander_heard.line("up").await;
    let (handle, events) = unit::start(shell("echo up; exec sleep 1000"));
    let mut heard = Heard::new(events);
    heard.line("up").await;
    handle.pause().await.expect("it is active");
    let pid = bystander.snapshot().pid.expect("it runs");
    assert_ne!(process_state(pid), Some('T'));
    for (handle, mut heard) in [(handle, heard), (bystander, bystander_heard)] {
        handle.kill().await.expect("it runs");
        heard.end().await;
    }
}

#[tokio::test]
async fn a_cgroup_that_cannot_be_made_is_noted_and_done_without() {
    let mut spec = shell("echo up; exec sleep 1000");
    spec.cgroup = Some(PathBuf::from("/proc").join(unique("nowhere")));
    let (handle, events) = unit::start(spec);
    let mut heard = Heard::new(events);
    heard.line("up").await;
    assert!(heard.notes[0].starts_with("no cgroup at /proc/nowhere"), "{:?}", heard.notes);
    assert_eq!(handle.pause().await.expect("it is active").state, StateName::Paused);
    handle.kill().await.expect("it runs");
    heard.end().await;
}

fn assert_all_frozen(tree: &Tree) {
    let members = tree.members().expect("proc is there");
    assert!(members.len() >= 2, "at least leader and orphan, {} have {MARKER_VARIABLE}", members.len());
    match &tree.cgroup {
        Some(cgroup) => assert!(cgroup.is_frozen()),
        None => {
            for member in members {
                // A shell that waits for its vfork child shows as waiting in the kernel.
                assert!(matches!(process_state(member.pid), Some('T' | 'D')), "{member:?} runs");
            }
        }
    }
}

/// Reads a counter; 0 before the first.
fn count(file: &Path) -> u64 {
    std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

async fn kill_from_outside(pid: u32) {
    let spec = shell(&format!("kill -9 {pid}"));
    Heard::new(unit::start(spec).1).end().await;
}
