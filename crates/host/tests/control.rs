//! What is asked of a host over the bus, and how it answers.

mod support;

use ostler_client::Error;
use ostler_wire::{AgentState, ControlReply, ErrorBody, ErrorCode, SpawnRequest, StatusCause};
use serde_json::{Value, json};
use support::{World, is_alive, until};

/// An agent that counts until it is stopped and says goodbye.
const COUNTER: &str = "trap 'echo bye; exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

async fn control(world: &World, verb: &str) -> ControlReply {
    world.ask(verb, json!({})).await.expect("the request is granted")
}

async fn refusal(world: &World, topic: &str, payload: &[u8]) -> ErrorBody {
    match world.ask_bytes::<Value>(topic, payload.to_vec()).await {
        Err(Error::Reply(refusal)) => refusal,
        other => panic!("{topic} was not refused: {other:?}"),
    }
}

/// Stopped, or waiting in the kernel for a child that was stopped between fork and exec: it stops on its way out and
/// runs nothing of its own before.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 'D']))
}

#[tokio::test]
async fn a_stop_is_noticed_to_the_agent_answered_at_once_and_done_once() {
    let world = World::new().await;
    let mut host = world.host(COUNTER);
    world.line("3").await;
    let reply: ControlReply = world.ask("stop", json!({"reason": "enough"})).await.unwrap();
    assert_eq!((reply.state, reply.changed), (AgentState::Stopping, true));
    assert_eq!(host.ended().await.code(), Some(0));
    world.look(|recorded| {
        assert_eq!(recorded.shutdowns, [json!({"reason": "enough", "approved": false, "force": false})]);
        assert_eq!(recorded.lines().last().unwrap(), "bye");
        recorded.assert_gapless();
        let last = recorded.statuses.last().unwrap();
        assert_eq!((last.state, last.cause), (AgentState::Terminated, StatusCause::Requested));
    });
    assert!(!host.record().unwrap().keep_desired);
}

#[tokio::test]
async fn a_second_stop_changes_nothing_and_a_kill_cuts_the_grace_short() {
    let world = World::new().await;
    let mut host = world.host_of(SpawnRequest {
        command: vec![
            "/bin/sh".into(),
            "-c".into(),
            "trap '' TERM; echo up; while :; do sleep 0.01; done".into(),
        ],
        stop_grace_ms: Some(600_000),
        ..SpawnRequest::default()
    });
    world.line("up").await;
    assert!(control(&world, "stop").await.changed);
    let again = control(&world, "stop").await;
    assert_eq!((again.state, again.changed), (AgentState::Stopping, false));
    let kill = control(&world, "kill").await;
    assert!(kill.changed);
    assert_eq!(host.ended().await.code(), Some(0));
    world.look(|recorded| {
        assert_eq!(recorded.shutdowns.len(), 2, "the second notice says that no grace follows");
    });
}

#[tokio::test]
async fn a_pause_freezes_and_a_resume_goes_on() {
    let world = World::new().await;
    let _host = world.host(COUNTER);
    world.line("3").await;
    let paused = control(&world, "pause").await;
    assert_eq!((paused.state, paused.changed), (AgentState::Paused, true));
    let again = control(&world, "pause").await;
    assert_eq!((again.state, again.changed), (AgentState::Paused, false));
    let status = world.query().await;
    assert_eq!((status.state, status.status.as_str()), (AgentState::Paused, "paused"));
    assert!(is_stopped(status.pid.unwrap()));

    let refused = refusal(&world, "input", br#"{"text":"hello"}"#).await;
    assert_eq!((refused.code, refused.hint.as_deref()), (ErrorCode::IllegalState, Some("resume it first")));

    let lines = world.look(|recorded| recorded.lines().len());
    let resumed = control(&world, "resume").await;
    assert_eq!((resumed.state, resumed.changed), (AgentState::Active, true));
    until("more lines", || (world.look(|recorded| recorded.lines().len()) > lines + 5).then_some(())).await;
    world.look(support::Recorded::assert_gapless);
}

#[tokio::test]
async fn a_restart_is_a_new_process_and_no_crash() {
    let world = World::new().await;
    let _host = world.host(COUNTER);
    let first = world.active().await;
    world.line("1").await;
    let reply = control(&world, "restart").await;
    assert!(reply.changed);
    let second =
        world.status("the new process", |s| s.state == AgentState::Active && s.generation == 2).await;
    assert_ne!(first.pid, second.pid);
    assert_eq!(second.restarts, 0);
    assert!(!is_alive(first.pid.unwrap()));
}

#[tokio::test]
async fn commands_do_the_same_under_the_fleet_monitors_name() {
    let world = World::new().await;
    let mut host = world.host("while read line; do echo got $line; done");
    world.active().await;
    for (command, state) in [("pause", AgentState::Paused), ("resume", AgentState::Active)] {
        let reply: ControlReply = world.ask("command", json!({"type": command})).await.unwrap();
        assert_eq!((reply.state, reply.changed), (state, true));
    }
    let reply: Value =
        world.ask("command", json!({"type": "task", "payload": {"text": "job"}})).await.unwrap();
    assert_eq!(reply["delivered"], true);
    world.line("got job").await;
    let stop = json!({"type": "stop", "payload": {"force": true, "keep_desired": true}});
    let reply: ControlReply = world.ask("command", stop).await.unwrap();
    assert!(reply.changed);
    host.ended().await;
    assert!(host.record().unwrap().keep_desired);
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_agent_lives() {
    let world = World::new().await;
    let _host = world.host("while read line; do echo got $line; done");
    let pid = world.active().await.pid;
    for (topic, payload, code) in [
        ("stop", &b"{"[..], ErrorCode::InvalidJson),
        ("pause", b"[]", ErrorCode::InvalidMessage),
        ("command", b"hello", ErrorCode::InvalidJson),
        ("command", br#"{"type":"dance"}"#, ErrorCode::InvalidMessage),
        ("input", br#"{"text":["a"]}"#, ErrorCode::InvalidMessage),
        ("input", b"", ErrorCode::InvalidMessage),
        ("input", br#"{"type":"interrupt"}"#, ErrorCode::Unsupported),
    ] {
        let refused = refusal(&world, topic, payload).await;
        assert_eq!(refused.code, code, "{topic} {refused:?}");
    }
    world.send("still here").await;
    world.line("got still here").await;
    assert_eq!(world.query().await.pid, pid);
}

#[tokio::test]
async fn what_the_state_does_not_allow_is_refused_with_the_state_and_the_reason() {
    let world = World::new().await;
    // It waits out a back-off: no process runs.
    let _host = world.host("exit 3");
    world.status("the back-off", |s| s.cause == StatusCause::Exited && s.state == AgentState::Starting).await;
    let refused = refusal(&world, "pause", b"").await;
    assert_eq!(refused.code, ErrorCode::IllegalState);
    assert!(refused.message.contains("pause refused while starting"), "{}", refused.message);
    let stopped = control(&world, "stop").await;
    assert_eq!((stopped.state, stopped.changed), (AgentState::Terminated, true));
}

#[tokio::test]
async fn an_agent_that_reads_nothing_does_not_leave_a_sender_waiting() {
    let world = World::new().await;
    let _host = world.host("exec sleep 1000");
    world.active().await;
    // More than a pipe holds, so the bytes cannot all be in the agent's hands.
    let reply = world.send(&"x".repeat(1 << 20)).await;
    assert_eq!((&reply["delivered"], &reply["queued"]), (&json!(false), &json!(0)));
    let reply = world.send("behind it").await;
    assert_eq!((&reply["delivered"], &reply["queued"]), (&json!(false), &json!(1)));
}

#[tokio::test]
async fn a_refused_publication_is_told_among_the_output() {
    let world = World::new().await;
    let _host = world.host("while read line; do echo got $line; done");
    world.active().await;
    world.send("ready").await;
    world.publish("command", b"hello").await;
    until("the notice", || {
        let told = world.look(|recorded| format!("{:?}", recorded.events()));
        told.contains("refused: the command cannot be read").then_some(())
    })
    .await;
}
