//! Hearts beat from process facts; who falls silent is noticed, and who is heard again is forgiven.

use std::time::Duration;

use ostler_testkit::{Options, PATIENCE, Recorder, TestDaemon, process, script, wait_until};
use ostler_wire::{
    AgentId, AgentState, AlertMessage, DashboardState, HeartbeatMessage, NodeHeartbeat, Severity,
    SpawnRequest, Subject,
};
use rustix::process::Signal;

fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("a proper name")
}

fn beating(heartbeat: &str) -> TestDaemon {
    TestDaemon::with(Options { heartbeat: heartbeat.into(), ..Options::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heart_beats_at_its_interval_with_the_facts_of_the_whole_tree() {
    let daemon = beating("200ms");
    let bus = daemon.bus().await;
    let beats = Recorder::start(&bus.client, Subject::heartbeat(&id("a"))).await;
    let file = daemon.scratch().join("grandchild.pid");
    let steps = ["child", &*format!("grandchild:{}", file.display()), "allocate:20000000", "wait"];
    let dir = daemon.scratch().to_owned();
    let agent = bus.spawn_active("a", SpawnRequest { dir: Some(dir), ..script(steps) }).await;
    let whole = |beat: &HeartbeatMessage| {
        beat.facts.is_some_and(|facts| facts.processes == 3 && facts.rss_bytes > 20_000_000)
    };
    let beat = beats.first("a beat that counts the whole tree", PATIENCE, whole).await;
    let facts = beat.facts.unwrap();
    assert_eq!((facts.pid, beat.state, beat.run_id), (agent.pid, Some(AgentState::Active), agent.run_id));
    assert_eq!(beat.project_path, agent.dir);

    let seen = beats.messages().len();
    let took = wait_until("ten more beats", PATIENCE, || beats.messages().len() >= seen + 10).await;
    assert!(took >= Duration::from_millis(1700), "ten beats 200 ms apart took only {took:?}");
    let all: Vec<HeartbeatMessage> = beats.all();
    let uptimes: Vec<u64> = all.iter().filter_map(|beat| beat.facts.map(|facts| facts.uptime_ms)).collect();
    assert!(
        uptimes.windows(2).all(|pair| pair[0] < pair[1]),
        "facts are read anew for each beat: {uptimes:?}"
    );

    process::kill9(process::descendants(agent.pid.unwrap())[0].pid);
    let fewer =
        |beat: &HeartbeatMessage| beat.facts.is_some_and(|facts| facts.processes < 3) && !all.contains(beat);
    beats.first("a beat without the killed child", PATIENCE, fewer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_beats_too() {
    let daemon = beating("200ms");
    let bus = daemon.bus().await;
    let beats = Recorder::start(&bus.client, Subject::NodeHeartbeat(bus.node.clone())).await;
    bus.spawn_active("a", script(["wait"])).await;
    beats.first("a beat that counts the agent", PATIENCE, |beat: &NodeHeartbeat| beat.agents_live == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_degrades_its_agent_with_an_alert_until_it_is_heard_again() {
    let daemon = beating("200ms");
    let bus = daemon.bus().await;
    let alerts = Recorder::start(&bus.client, Subject::DashboardAlert).await;
    let deltas = Recorder::start(&bus.client, Subject::DashboardState).await;
    let agent = bus.spawn_active("a", script(["forever:20"])).await;
    let host = agent.host_pid.unwrap();
    assert!(!agent.degraded);

    process::signal(host, Signal::STOP);
    let missed = |alert: &AlertMessage| alert.code == "heartbeat_missed" && alert.agent_id == Some(id("a"));
    let alert = alerts.first("the alert", PATIENCE, missed).await;
    assert_eq!(alert.severity, Severity::Warning);
    assert!(alert.action.contains("ostler"), "{alert:?}");
    let degraded = bus.wait_for_agent("a", "degraded", |agent| agent.degraded).await;
    assert_eq!(degraded.state, AgentState::Active, "its process runs as far as anybody knows");

    process::signal(host, Signal::CONT);
    bus.wait_for_agent("a", "heard again", |agent| !agent.degraded).await;
    let recovered = |delta: &DashboardState| matches!(delta, DashboardState::Delta { event, .. } if event.kind == "agent.recovered");
    deltas.first("the recovery is announced", PATIENCE, recovered).await;
    let kinds: Vec<String> = bus.events().await.into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"alert".into()) && kinds.contains(&"agent.recovered".into()), "{kinds:?}");
    // What it printed meanwhile is there.
    let count = bus.log("a").await.len();
    bus.wait_for_line("a", &format!("line {}", count + 20)).await;
    ostler_testkit::assert_gapless(&bus.log("a").await);
}
