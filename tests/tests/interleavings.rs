//! Two things at once: a stop and a kill, a removal and a spawn, a request and a restart. What was accepted is kept, and
//! done once.
#![allow(clippy::unwrap_used, reason = "a test's helper may give up like the test itself")]

use std::time::Duration;

use ostler_testkit::process;
use ostler_testkit::{Bus, PATIENCE, TestDaemon, assert_gapless, lines, script, wait_for};
use ostler_wire::{
    AgentId, AgentState, ControlReply, DesiredState, DownRequest, InputMessage, RemoveRequest, RestartPolicy,
    SpawnRequest, StopRequest, Subject,
};

fn id(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

/// An agent that obeys no polite stop for as long as its grace lasts.
fn stubborn(grace_ms: u64) -> SpawnRequest {
    SpawnRequest {
        restart: RestartPolicy::Always,
        stop_grace_ms: Some(grace_ms),
        ..script(["ignore-term", "say:ready", "wait"])
    }
}

async fn ask_stop(bus: &Bus, name: &str) -> ControlReply {
    bus.client.request(&Subject::stop(&id(name)), &StopRequest::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_free_again_as_soon_as_its_removal_is_answered() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    for _ in 0..20 {
        bus.spawn_active("a", script(["wait"])).await;
        let _: ControlReply =
            bus.client.request(&Subject::remove(&id("a")), &RemoveRequest { force: true }).await.unwrap();
    }
    assert!(bus.agents().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_stop_is_kept_though_the_host_is_killed_within_the_grace() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", stubborn(60_000)).await;
    bus.wait_for_line("a", "ready").await;
    assert_eq!(ask_stop(&bus, "a").await.state, AgentState::Stopping);
    process::kill9(agent.host_pid.unwrap());
    let ended = bus.wait_for_state("a", AgentState::Terminated).await;
    assert_eq!(ended.desired, DesiredState::Stopped);
    assert!(!process::is_alive(agent.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_stopped_by_name_stays_stopped_when_the_daemon_goes_down_meanwhile() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", stubborn(2_000)).await;
    bus.spawn_active("b", stubborn(500)).await;
    bus.wait_for_line("a", "ready").await;
    bus.wait_for_line("b", "ready").await;
    ask_stop(&bus, "a").await;
    assert_eq!(daemon.ostler(["down"]).code, Some(0));
    daemon.wait();
    daemon.up();
    let bus = daemon.bus().await;
    bus.wait_for_state("b", AgentState::Active).await;
    let stopped = bus.agent("a").await.unwrap();
    assert_eq!((stopped.state, stopped.desired), (AgentState::Terminated, DesiredState::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_prompt_is_given_once_however_often_its_agent_is_started() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let request =
        SpawnRequest { prompt: Some("do it".into()), restart: RestartPolicy::Always, ..script(["echo"]) };
    let agent = bus.spawn_active("a", request).await;
    bus.wait_for_line("a", "echo: do it").await;
    process::kill9(agent.host_pid.unwrap());
    wait_for("another host", PATIENCE, async || {
        bus.agent("a").await.filter(|now| now.run_id != agent.run_id && now.state == AgentState::Active)
    })
    .await;
    assert_eq!(daemon.ostler(["down"]).code, Some(0));
    daemon.wait();
    daemon.up();
    let bus = daemon.bus().await;
    bus.wait_for_state("a", AgentState::Active).await;
    // What comes after it shows that it did not come.
    bus.send("a", "done?").await;
    bus.wait_for_line("a", "echo: done?").await;
    assert_eq!(lines(&bus.log("a").await), ["echo: do it", "echo: done?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_around_a_daemons_death_are_given_once() {
    let mut daemon = TestDaemon::start();
    let agent = daemon.bus().await.spawn_active("a", script(["echo"])).await;
    let mut said = 0;
    for _ in 0..5 {
        daemon.kill9();
        daemon.up();
        let bus = daemon.bus().await;
        // At once, while the host may not have been heard yet; some with an answer, some without.
        for _ in 0..10 {
            said += 1;
            bus.send("a", &said.to_string()).await;
        }
        said += 1;
        bus.client.publish(&Subject::input(&id("a")), &InputMessage::prompt(said.to_string())).await.unwrap();
        bus.wait_for_line("a", &format!("echo: {said}")).await;
    }
    let bus = daemon.bus().await;
    // A change of state is what would bring out copies that wait.
    bus.pause("a").await;
    bus.resume("a").await;
    bus.send("a", "end").await;
    bus.wait_for_line("a", "echo: end").await;
    let log = bus.log("a").await;
    assert_gapless(&log);
    let expected = (1..=said).map(|n| format!("echo: {n}")).chain(["echo: end".to_owned()]);
    assert_eq!(lines(&log), expected.collect::<Vec<_>>());
    assert_eq!(bus.agent("a").await.unwrap().pid, agent.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_costs_one_restart() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let request = SpawnRequest { restart: RestartPolicy::Always, ..script(["forever:1"]) };
    let agent = bus.spawn_active("a", request).await;
    bus.wait_for_line("a", "line 100").await;
    process::kill9(daemon.host_record("a").unwrap().guard.pid);
    wait_for("another run", PATIENCE, async || {
        bus.agent("a").await.filter(|now| now.run_id != agent.run_id && now.state == AgentState::Active)
    })
    .await;
    let launched = bus.events().await.into_iter().filter(|event| event.kind == "agent.launched").count();
    assert_eq!(launched, 2, "the first, and the one that took its place");
    assert_gapless(&bus.log("a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_credential_does_not_keep_the_daemon_down() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["echo"])).await;
    bus.stop("a").await;
    daemon.kill9();
    let agent_dir = daemon.state().agent(&id("a"));
    std::fs::write(agent_dir.join("agent.nk"), "").unwrap();
    std::fs::write(agent_dir.join("host.nk"), "").unwrap();
    daemon.up();
    let bus = daemon.bus().await;
    bus.control(Subject::restart(&id("a"))).await.unwrap();
    bus.wait_for_state("a", AgentState::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_an_agent_whose_lost_host_is_about_to_be_replaced_ends_the_matter() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let request = SpawnRequest { restart: RestartPolicy::Always, ..script(["wait"]) };
    bus.spawn_active("a", request).await;
    // Each loss doubles the wait: from the fourth on there is time to ask in it.
    for _ in 0..4 {
        let agent = bus.wait_for_state("a", AgentState::Active).await;
        process::kill9(agent.host_pid.unwrap());
        wait_for("the loss to be noticed", PATIENCE, async || {
            bus.agent("a").await.filter(|now| now.state != AgentState::Active || now.run_id != agent.run_id)
        })
        .await;
    }
    let reply = ask_stop(&bus, "a").await;
    assert!(!reply.state.is_live() || reply.state == AgentState::Stopping, "{reply:?}");
    let agent = bus.wait_for_state("a", AgentState::Terminated).await;
    assert_eq!(agent.desired, DesiredState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_asks_a_daemon_to_go_down_is_answered() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", stubborn(500)).await;
    bus.wait_for_line("a", "ready").await;
    let down = || async {
        let subject = Subject::NodeDown(bus.node.clone());
        let request = DownRequest::default();
        bus.client
            .request_within::<ostler_wire::DownReply>(&subject, &request, Duration::from_secs(30))
            .await
            .unwrap()
    };
    let (first, second) = tokio::join!(down(), down());
    assert_eq!((first.stopped, second.stopped), (1, 1));
    daemon.wait();
}
