//! What outlives what: agents the daemon, nobody the host, and no line is lost or doubled on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use ostler_testkit::process::{self, Process};
use ostler_testkit::{
    Bus, PATIENCE, TestDaemon, assert_every_gap_is_told, assert_gapless, lines, script, wait_for, wait_until,
};
use ostler_wire::{
    AgentId, AgentState, AgentSummary, DesiredState, ExitStatus, RestartPolicy, SpawnRequest, Subject,
};
use rustix::process::Signal;

/// What a host's end may take: its whole tree is gone within it.
const TREE_END_MAX: Duration = Duration::from_secs(1);

fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("a proper name")
}

fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("line {n}")).collect()
}

/// Spawns three agents that print ten thousand numbered lines each, over three seconds or so, and then wait.
async fn three_streams(bus: &Bus) -> Vec<AgentSummary> {
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        // Bursts of ten with a breath between them: a stream that is neither a trickle nor over at once.
        let burst = ["lines:10", "sleep:2"];
        let mut request = script([]);
        request.command.extend((0..1000).flat_map(|_| burst.map(str::to_owned)));
        request.command.push("wait".to_owned());
        agents.push(bus.spawn_active(name, request).await);
    }
    agents
}

async fn check_streams(bus: &Bus, before: &[AgentSummary]) {
    for agent in before {
        let name = agent.agent_id.as_str();
        bus.wait_for_line(name, "line 10000").await;
        let log = bus.log(name).await;
        assert_gapless(&log);
        assert_eq!(lines(&log), numbered(10_000), "{name}: every line once, in order");
        let now = bus.wait_for_state(name, AgentState::Active).await;
        assert_eq!((now.pid, now.host_pid, now.run_id), (agent.pid, agent.host_pid, agent.run_id), "{name}");
        assert!(now.pid.is_some_and(process::is_alive));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_loses_no_line_of_agents_that_stream_on() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agents = three_streams(&bus).await;
    bus.wait_for_line("c", "line 1000").await;
    daemon.kill9();
    for agent in &agents {
        assert!(process::is_alive(agent.pid.unwrap()), "{} runs on", agent.agent_id);
    }
    daemon.up();
    let bus = daemon.bus().await;
    // Once more, while the hosts are handing over what they kept.
    bus.wait_for_line("a", "line 2000").await;
    daemon.kill9();
    daemon.up();
    check_streams(&daemon.bus().await, &agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_find_a_daemon_that_comes_back_on_another_port() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let before = daemon.endpoint().unwrap().bus_url;
    let agents = three_streams(&bus).await;
    bus.wait_for_line("a", "line 500").await;
    daemon.kill9();
    // Somebody else has taken the port meanwhile.
    let port = before.rsplit(':').next().unwrap();
    let squatter = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).expect("the port is free now");
    daemon.up();
    assert_ne!(daemon.endpoint().unwrap().bus_url, before);
    check_streams(&daemon.bus().await, &agents).await;
    drop(squatter);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_leaves_agents_running_and_takes_them_over() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", script(["forever:10"])).await;
    let status = daemon.end_by(Signal::TERM);
    assert!(status.success(), "{status}");
    assert!(!daemon.state().endpoint().exists(), "nobody is sent to a daemon that is gone");
    assert!(process::is_alive(agent.pid.unwrap()) && process::is_alive(agent.host_pid.unwrap()));
    daemon.up();
    let bus = daemon.bus().await;
    let again = bus.wait_for_state("a", AgentState::Active).await;
    assert_eq!((again.pid, again.host_pid, again.run_id), (agent.pid, agent.host_pid, agent.run_id));
    let count = bus.log("a").await.len();
    bus.wait_for_line("a", &format!("line {}", count + 10)).await;
    bus.stop("a").await;
    assert_gapless(&bus.log("a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_is_still_paused_for_the_next_daemon() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", script(["forever:10"])).await;
    bus.pause("a").await;
    daemon.kill9();
    daemon.up();
    let bus = daemon.bus().await;
    let again = bus.wait_for_state("a", AgentState::Paused).await;
    assert_eq!(again.pid, agent.pid);
    let count = bus.log("a").await.len();
    bus.resume("a").await;
    bus.wait_for_line("a", &format!("line {}", count + 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_agents_too_and_up_brings_the_wanted_ones_back() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let first = bus.spawn_active("wanted", script(["wait"])).await;
    bus.spawn_active("unwanted", script(["wait"])).await;
    bus.stop("unwanted").await;
    bus.wait_for_agent("unwanted", "not wanted", |agent| agent.desired == DesiredState::Stopped).await;
    let status = daemon.end_by(Signal::INT);
    assert!(status.success(), "{status}");
    assert_eq!(daemon.processes(), [], "Ctrl-C leaves nothing");
    daemon.up();
    let bus = daemon.bus().await;
    let second = bus.wait_for_state("wanted", AgentState::Active).await;
    assert_ne!(second.run_id, first.run_id);
    assert_eq!(bus.agent("unwanted").await.unwrap().state, AgentState::Terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn down_stops_the_agents_and_up_brings_the_wanted_ones_back() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let down = daemon.ostler(["down"]);
    assert_eq!(down.code, Some(0), "{down:?}");
    assert!(daemon.wait().success());
    assert_eq!(daemon.processes(), []);
    daemon.up();
    daemon.bus().await.wait_for_state("a", AgentState::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn down_can_leave_the_agents_for_the_next_daemon() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", script(["wait"])).await;
    let down = daemon.ostler(["down", "--keep-agents"]);
    assert_eq!(down.code, Some(0), "{down:?}");
    assert!(daemon.wait().success());
    assert!(process::is_alive(agent.pid.unwrap()));
    daemon.up();
    let again = daemon.bus().await.wait_for_state("a", AgentState::Active).await;
    assert_eq!(again.pid, agent.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_while_the_daemon_is_away_is_known_with_its_last_words() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let go = daemon.scratch().join("go");
    let request = SpawnRequest {
        command: [
            "sh",
            "-c",
            &format!("while [ ! -e {} ]; do sleep 0.02; done; echo last words; exit 7", go.display()),
        ]
        .map(str::to_owned)
        .to_vec(),
        restart: RestartPolicy::Never,
        ..SpawnRequest::default()
    };
    let agent = bus.spawn_active("a", request).await;
    daemon.kill9();
    std::fs::write(&go, "").unwrap();
    wait_until("the host has ended", PATIENCE, || !process::is_alive(agent.host_pid.unwrap())).await;
    daemon.up();
    let bus = daemon.bus().await;
    let ended = bus.wait_for_state("a", AgentState::Error).await;
    assert_eq!(ended.exit, Some(ExitStatus { code: Some(7), signal: None }));
    assert_eq!(lines(&bus.log("a").await), ["last words"]);
}

/// Whom to kill of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Host,
    Guard,
    Both,
}

/// Starts an agent with a child and an orphaned grandchild in a session of its own; kills `victim`; returns how long
/// the end of the tree took after checking that the policy brought the agent back.
async fn tree_ends_with(victim: Victim) {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let file = daemon.scratch().join("grandchild.pid");
    let steps = ["child", &format!("grandchild:{}", file.display()), "forever:50"];
    let agent = bus.spawn_active("a", SpawnRequest { restart: RestartPolicy::Always, ..script(steps) }).await;
    let grandchild = pid_in(&file).await;
    let record = wait_for("the host's record names the agent", PATIENCE, async || {
        daemon.host_record("a").filter(|record| record.agent.is_some())
    })
    .await;
    let run = agent.run_id.expect("it was started").to_string();
    let tree: Vec<Process> = process::all()
        .into_iter()
        .filter(|process| {
            let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&format!("OSTLER_RUN={run}"))
        })
        .collect();
    assert!(tree.len() >= 3, "leader, child and grandchild carry the run's mark: {tree:?}");
    assert!(tree.iter().any(|process| process.pid == grandchild), "{tree:?}");

    let start = Instant::now();
    if victim != Victim::Guard {
        process::kill9(record.host.pid);
    }
    if victim != Victim::Host {
        process::kill9(record.guard.pid);
    }
    let took = wait_until(&format!("the tree of a killed {victim:?} is gone: {tree:?}"), PATIENCE, || {
        tree.iter().all(|process| !process.is_alive())
    })
    .await;
    eprintln!("{victim:?} killed: {} processes gone after {took:?}", tree.len());
    assert!(took < TREE_END_MAX, "the tree of a killed {victim:?} took {took:?} to end");

    let again = bus
        .wait_for_agent("a", "another run", |now| {
            now.state == AgentState::Active && now.run_id != agent.run_id
        })
        .await;
    eprintln!("running again {:?} after the kill", start.elapsed());
    assert!(again.pid.is_some_and(process::is_alive));
    assert!(!process::is_alive(record.host.pid) && !process::is_alive(record.guard.pid));
    bus.stop("a").await;
    assert_every_gap_is_told(&bus.log("a").await);
}

async fn pid_in(file: &Path) -> u32 {
    let mut pid = None;
    wait_until("the process writes its id", PATIENCE, || {
        pid = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    })
    .await;
    pid.expect("the wait ended with it")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_tree_of_a_killed_host_is_gone_within_a_second_and_the_agent_comes_back() {
    tree_ends_with(Victim::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_tree_of_a_killed_guard_is_gone_within_a_second_and_the_agent_comes_back() {
    tree_ends_with(Victim::Guard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_tree_is_gone_within_a_second_when_host_and_guard_are_killed_at_once() {
    tree_ends_with(Victim::Both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_killed_host_stays_down_when_the_policy_says_never() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent =
        bus.spawn_active("a", SpawnRequest { restart: RestartPolicy::Never, ..script(["wait"]) }).await;
    process::kill9(agent.host_pid.unwrap());
    let lost = bus.wait_for_state("a", AgentState::Error).await;
    assert_eq!(lost.cause, ostler_wire::StatusCause::HostLost, "{lost:?}");
    wait_until("its process is gone", TREE_END_MAX, || !process::is_alive(agent.pid.unwrap())).await;
    // It can be started again by hand.
    bus.control(Subject::restart(&id("a"))).await.unwrap();
    bus.wait_for_state("a", AgentState::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_while_the_daemon_is_away_leaves_nothing_and_comes_back_with_it() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent =
        bus.spawn_active("a", SpawnRequest { restart: RestartPolicy::Always, ..script(["wait"]) }).await;
    daemon.kill9();
    process::kill9(agent.host_pid.unwrap());
    wait_until("the tree is gone", TREE_END_MAX, || daemon.processes().is_empty()).await;
    daemon.up();
    let bus = daemon.bus().await;
    bus.wait_for_agent("a", "another run", |now| {
        now.state == AgentState::Active && now.run_id != agent.run_id
    })
    .await;
}
