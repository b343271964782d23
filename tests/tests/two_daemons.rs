//! Two daemons on one nats-server, each with its command line: each looks after its own agents.

use std::time::{Duration, Instant};

use ostler_testkit::{BusKind, NatsServer, Options, TestDaemon, script};
use ostler_wire::AgentState;

/// Two seconds are what a daemon waits before it says that nobody knows an agent; the command line knows better.
const AT_ONCE: Duration = Duration::from_millis(1900);

fn daemon_called(node: &str, nats: &NatsServer) -> TestDaemon {
    let options = Options { node: node.into(), bus: BusKind::External, ..Options::default() };
    let mut daemon = TestDaemon::prepare_with_bus(options, &nats.bus_section());
    daemon.up();
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_of_a_command_line_keeps_to_the_agents_of_its_daemon() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(dir.path());
    let (inn, mill) = (daemon_called("inn", &nats), daemon_called("mill", &nats));
    let mill_bus = mill.bus().await;
    let mut request = script(["echo"]);
    request.node = Some(mill_bus.node.clone());
    let agent = mill_bus.spawn_active("b", request).await;

    let verbs: [&[&str]; 13] = [
        &["status", "b"],
        &["send", "b", "hay"],
        &["send", "b", "hay", "--wait"],
        &["logs", "b"],
        &["attach", "b"],
        &["pause", "b"],
        &["resume", "b"],
        &["stop", "b"],
        &["stop", "--force", "b"],
        &["kill", "b"],
        &["restart", "b"],
        &["rm", "--force", "b"],
        &["spawn", "b"],
    ];
    for verb in verbs {
        let start = Instant::now();
        let mut command = inn.command([]);
        let said = tokio::task::spawn_blocking(move || command.args(verb).output()).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(4), "{verb:?}: {stderr}");
        assert!(stderr.contains("no agent of inn is called b"), "{verb:?}: {stderr}");
        assert!(start.elapsed() < AT_ONCE, "{verb:?} took {:?}", start.elapsed());
    }
    let now = mill_bus.wait_for_state("b", AgentState::Active).await;
    assert_eq!((now.pid, now.run_id, now.restarts), (agent.pid, agent.run_id, agent.restarts));
    assert!(mill_bus.log("b").await.is_empty(), "nothing was said to it");

    for verb in [["pause", "b"], ["resume", "b"], ["restart", "b"], ["kill", "b"], ["rm", "b"]] {
        let said = mill.ostler(verb);
        assert_eq!(said.code, Some(0), "{verb:?}: {said:?}");
    }
}
