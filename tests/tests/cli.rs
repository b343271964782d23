//! What programs rely on: every verb with `--json` prints the wire's own types, and following follows.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use ostler_testkit::{CliOutput, TestDaemon, fake_agent};
use ostler_wire::{
    AgentState, AgentSummary, ControlReply, DownReply, Endpoint, ErrorReply, EventRecord, InputReply,
    ListReply, LogEntry, NodeInfo, SpawnReply,
};
use serde_json::Value;

/// The one document a verb prints.
fn document<T: serde::de::DeserializeOwned>(output: &CliOutput) -> T {
    assert_eq!(output.code, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The documents a verb prints, one on each line.
fn documents<T: serde::de::DeserializeOwned>(output: &CliOutput) -> Vec<T> {
    assert_eq!(output.code, Some(0), "{output:?}");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    output.stdout.lines().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_every_verb_is_a_message_of_the_wire() {
    let mut daemon = TestDaemon::start();
    let agent = fake_agent().display().to_string();
    let spawned: SpawnReply =
        document(&daemon.ostler(["spawn", "a", "--json", "--grace", "1s", "--", &agent, "say:hi", "echo"]));
    assert_eq!(spawned.agent_id.as_str(), "a");
    daemon.bus().await.wait_for_line("a", "hi").await;

    let list: ListReply = document(&daemon.ostler(["ps", "--json"]));
    assert_eq!(list.agents[0].state, AgentState::Active);
    let one: AgentSummary = document(&daemon.ostler(["status", "a", "--json"]));
    assert_eq!(one.run_id, Some(spawned.run_id));
    let node: NodeInfo = document(&daemon.ostler(["status", "--json"]));
    assert_eq!((node.pid, node.agents_live), (daemon.pid(), 1));
    let input: InputReply = document(&daemon.ostler(["send", "a", "hello", "--json"]));
    assert!(input.delivered);
    daemon.bus().await.wait_for_line("a", "echo: hello").await;
    let log: Vec<LogEntry> = documents(&daemon.ostler(["logs", "a", "--json"]));
    assert_eq!(ostler_testkit::lines(&log), ["hi", "echo: hello"]);
    let paused: ControlReply = document(&daemon.ostler(["pause", "a", "--json"]));
    assert_eq!(paused.state, AgentState::Paused);
    let resumed: ControlReply = document(&daemon.ostler(["resume", "a", "--json"]));
    assert_eq!(resumed.state, AgentState::Active);
    let restarted: ControlReply = document(&daemon.ostler(["restart", "a", "--json"]));
    assert!(restarted.changed);
    daemon.bus().await.wait_for_state("a", AgentState::Active).await;
    let stopped: ControlReply = document(&daemon.ostler(["stop", "a", "--json"]));
    assert_eq!(stopped.state, AgentState::Terminated);
    let refused = daemon.ostler(["pause", "a", "--json"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    serde_json::from_str::<ErrorReply>(&refused.stderr)
        .unwrap_or_else(|error| panic!("{error}: {refused:?}"));
    let events: Vec<EventRecord> = documents(&daemon.ostler(["events", "--json"]));
    assert!(events.iter().any(|event| event.kind == "agent.spawned"));
    let removed: ControlReply = document(&daemon.ostler(["rm", "a", "--json"]));
    assert!(removed.changed);
    let _: Value = document(&daemon.ostler(["config", "show", "--json"]));
    let _: Value = document(&daemon.ostler(["config", "check", "--json"]));
    let _: Value = document(&daemon.ostler(["config", "path", "--json"]));
    let down: DownReply = document(&daemon.ostler(["down", "--json"]));
    assert_eq!(down.stopped, 0);
    assert!(daemon.wait().success());
    let up: Endpoint = document(&daemon.ostler(["up", "--detach", "--json"]));
    assert_ne!(up.pid, down.pid);
    assert_eq!(daemon.ostler(["down"]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_a_running_daemon_well() {
    let daemon = TestDaemon::start();
    let output = daemon.ostler(["doctor", "--json"]);
    let report: Value = document(&output);
    assert!(report.to_string().contains("ok"), "{report}");
    let text = daemon.ostler(["doctor"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(!text.stdout.contains("fail"), "{}", text.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_events_shows_what_happens_as_it_happens() {
    let daemon = TestDaemon::start();
    let mut follow = daemon.command(["events", "-f", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut until = |wanted: &str| loop {
        let line = events.next().expect("it follows until it is ended").unwrap();
        let event: EventRecord =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if event.text.contains(wanted) {
            return event.seq;
        }
    };
    let bus = daemon.bus().await;
    bus.spawn_active("a", ostler_testkit::script(["wait"])).await;
    let active = until("a is active");
    bus.stop("a").await;
    assert!(until("a is terminated") > active);
    follow.kill().unwrap();
    follow.wait().unwrap();
}
