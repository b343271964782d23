//! Who may connect, what each may say and hear, and that no secret lies about.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ostler_client::{Client, create_key};
use ostler_testkit::{PATIENCE, Recorder, TestDaemon, script, wait_until};
use ostler_wire::{AgentId, AgentState, HeartbeatMessage, InputMessage, JsonMap, StatusMessage, Subject};

fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("a proper name")
}

fn url(daemon: &TestDaemon) -> String {
    daemon.endpoint().expect("the daemon runs").bus_url
}

/// Asks something only the operator may, as proof that the bus answers; then returns what arrived in order.
async fn settle(client: &Client, bus: &ostler_testkit::Bus) {
    client.flush().await.expect("the connection lives");
    bus.agents().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_connects_without_a_credential() {
    let daemon = TestDaemon::start();
    let refused = async_nats::connect(url(&daemon)).await.unwrap_err();
    assert!(refused.to_string().contains("authorization"), "{refused}");
    let refused =
        async_nats::ConnectOptions::with_token("guess".into()).connect(url(&daemon)).await.unwrap_err();
    assert!(refused.to_string().contains("authorization"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_nobody_admitted_is_refused() {
    let daemon = TestDaemon::start();
    let key = daemon.scratch().join("stranger.nk");
    create_key(&key).unwrap();
    let refused = daemon.client_with("stranger", &key, "_INBOX").await.unwrap_err();
    assert!(matches!(refused, ostler_client::Error::Refused { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_beats_its_own_heart_and_reads_its_own_input_and_nothing_else() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let before = bus.spawn_active("a", script(["forever:50"])).await;
    bus.spawn_active("b", script(["echo"])).await;
    let agent = daemon.agent_client("a").await;
    let beats = Recorder::start(&bus.client, Subject::heartbeat(&id("a"))).await;
    let statuses = Recorder::start(&bus.client, Subject::status(&id("a"))).await;
    let own = Recorder::start(&agent, Subject::input(&id("a"))).await;
    let foreign = Recorder::start(&agent, Subject::all_of_agent(&id("b"))).await;
    let everything = Recorder::start(&agent, ">").await;
    let others_inbox = Recorder::start(&agent, "_INBOX.>").await;
    settle(&agent, &bus).await;

    let beat = HeartbeatMessage {
        agent_id: id("a"),
        config_name: String::new(),
        project_path: String::new(),
        status: "thinking about oats".into(),
        current_task: String::new(),
        timestamp: before.started_at.unwrap(),
        state: None,
        run_id: None,
        facts: None,
    };
    agent.publish(&Subject::heartbeat(&id("a")), &beat).await.unwrap();
    beats
        .first("its own beat", PATIENCE, |beat: &HeartbeatMessage| beat.status == "thinking about oats")
        .await;

    // Its state, and everything of its neighbour, are not its to publish.
    let forged =
        StatusMessage { state: AgentState::Error, revision: 1 << 40, ..bus.status("a").await.unwrap() };
    agent.publish(&Subject::status(&id("a")), &forged).await.unwrap();
    agent.publish(&Subject::input(&id("b")), &InputMessage::prompt("forged")).await.unwrap();
    agent.publish(&Subject::stop(&id("b")), &JsonMap::new()).await.unwrap();
    agent.publish(&Subject::DashboardAlert, &JsonMap::new()).await.unwrap();
    settle(&agent, &bus).await;
    bus.send("b", "real").await;
    bus.wait_for_line("b", "echo: real").await;
    let log = bus.log("b").await;
    assert_eq!(ostler_testkit::lines(&log), ["echo: real"], "the forged input did not arrive");
    assert_eq!(bus.agent("a").await.unwrap().state, AgentState::Active);
    assert_eq!(bus.agent("b").await.unwrap().state, AgentState::Active);
    assert!(!statuses.all::<StatusMessage>().iter().any(|status| status.revision == 1 << 40));

    // `a` reads no input, but its pipe takes it.
    bus.send("a", "for you").await;
    own.first("its own input", PATIENCE, |input: &InputMessage| input.text == "for you").await;
    for recorder in [&foreign, &everything, &others_inbox] {
        assert_eq!(recorder.messages().len(), 0, "another's traffic was heard: {:?}", recorder.messages());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_spawn_remove_or_command_the_node() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let agent = daemon.agent_client("a").await;
    let patience = Duration::from_millis(300);
    for subject in [
        Subject::spawn(&id("c")),
        Subject::remove(&id("a")),
        Subject::NodeDown(bus.node.clone()),
        Subject::NodeAgents(bus.node.clone()),
    ] {
        let answer: Result<JsonMap, _> = agent.request_within(&subject, &JsonMap::new(), patience).await;
        assert!(answer.is_err(), "{subject} was answered: {answer:?}");
    }
    assert_eq!(bus.agents().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_speaks_and_hears_for_its_own_agent_only() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    bus.spawn_active("b", script(["echo"])).await;
    let key = daemon.state().agent(&id("a")).join("host.nk");
    let host = daemon.client_with("host", &key, "_INBOX_HOST.a").await.unwrap();
    let foreign = Recorder::start(&host, Subject::all_of_agent(&id("b"))).await;
    host.publish(&Subject::input(&id("b")), &InputMessage::prompt("forged")).await.unwrap();
    settle(&host, &bus).await;
    bus.send("b", "real").await;
    bus.wait_for_line("b", "echo: real").await;
    assert_eq!(ostler_testkit::lines(&bus.log("b").await), ["echo: real"]);
    assert_eq!(foreign.messages().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_agents_credential_is_worthless() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let key = daemon.scratch().join("kept.nk");
    std::fs::copy(daemon.state().agent(&id("a")).join("agent.nk"), &key).unwrap();
    bus.stop("a").await;
    bus.control(Subject::remove(&id("a"))).await.unwrap();
    // Taken back together with its directory, soon after the answer.
    let dir = daemon.state().agent(&id("a"));
    wait_until("the agent's directory is gone", PATIENCE, || !dir.exists()).await;
    let refused = daemon.client_with("a", &key, "_INBOX.a").await.unwrap_err();
    assert!(matches!(refused, ostler_client::Error::Refused { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_directory_is_its_owners_alone_and_secrets_stay_in_it() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["env:OSTLER_KEY_FILE", "wait"])).await;
    let key_file = daemon.state().agent(&id("a")).join("agent.nk");
    bus.wait_for_line("a", &format!("OSTLER_KEY_FILE={}", key_file.display())).await;

    let mut secrets = Vec::new();
    walk(daemon.state().path(), &mut |path, is_dir, mode| {
        if is_dir {
            assert_eq!(mode, 0o700, "{}", path.display());
        } else {
            assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
        }
        if path.extension().is_some_and(|extension| extension == "nk") {
            secrets.push(std::fs::read_to_string(path).unwrap().trim().to_owned());
        }
    });
    assert_eq!(secrets.len(), 4, "engine, operator, host and agent");

    let mut public = vec![daemon.log()];
    public.extend(daemon.host_logs().into_iter().map(|(_, log)| log));
    for process in daemon.processes() {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        public.push(String::from_utf8_lossy(&environment).into_owned());
        public.push(process.command);
    }
    assert!(public.len() > 6, "daemon, guard, host and agent were looked at");
    for secret in &secrets {
        assert!(secret.starts_with("SU"), "a seed");
        assert!(!public.iter().any(|text| text.contains(secret)), "a seed is shown");
    }
}

fn walk(path: &Path, look: &mut impl FnMut(&Path, bool, u32)) {
    let found = std::fs::metadata(path).expect("it was just listed");
    look(path, found.is_dir(), found.permissions().mode() & 0o777);
    if found.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory of ours").flatten() {
            walk(&entry.path(), look);
        }
    }
}
