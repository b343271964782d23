//! A daemon on a real nats-server with the configuration of the guide: what it lets an agent do, and what is said where
//! a permission is missing.

use std::time::Duration;

use async_nats::ConnectOptions;
use futures_util::StreamExt;
use ostler_testkit::{BusKind, NatsServer, Options, PATIENCE, TestDaemon, script};
use ostler_wire::StatusCause;

/// What an agent asks that the daemon or its host answers.
const ASKED: [&str; 4] = ["logs", "resume", "input", "command"];

fn external() -> Options {
    Options { bus: BusKind::External, ..Options::default() }
}

/// The daemon's section with a credential for the agent called reviewer and for its host.
fn section(nats: &NatsServer) -> String {
    let of_each = |name: &str| nats.key(&format!("{name}-{{id}}")).display().to_string();
    let shared = format!("host_credentials = \"{}\"\n", nats.key("host").display());
    let own =
        format!("host_credentials = \"{}\"\nagent_credentials = \"{}\"\n", of_each("host"), of_each("agent"));
    nats.bus_section().replace(&shared, &own)
}

/// The same configuration with a daemon that may do everything.
fn without_limits_for_the_daemon(nats: &NatsServer) -> String {
    let public = ostler_client::read_public_key(&nats.key("daemon")).expect("the daemon's credential");
    let text = nats.configuration();
    let (before, rest) = text.split_once(&public).expect("the daemon is one of the users");
    let (_, after) = rest.split_once("} }").expect("its permissions end");
    format!("{before}{public} }}{after}")
}

async fn client_of(nats: &NatsServer, name: &str, inbox: &str) -> async_nats::Client {
    let seed = std::fs::read_to_string(nats.key(name)).expect("a credential");
    let options = ConnectOptions::with_nkey(seed.trim().to_owned()).custom_inbox_prefix(inbox);
    options.connect(nats.url()).await.expect("the server knows it")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_have_others_act_where_it_may_not_act_itself() {
    if !NatsServer::is_installed() {
        return;
    }
    for limited in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut nats = NatsServer::prepare(dir.path());
        if !limited {
            nats.configure(&without_limits_for_the_daemon(&nats));
        }
        nats.up();
        let mut daemon = TestDaemon::prepare_with_bus(external(), &section(&nats));
        daemon.up();
        let bus = daemon.bus().await;
        bus.spawn_active("reviewer", script(["echo"])).await;

        let watcher = client_of(&nats, "operator", "_INBOX.operator").await;
        let mut heard = Vec::new();
        for filter in ["orders.>", "agent.other.>", "$JS.>"] {
            heard.push(watcher.subscribe(filter).await.unwrap());
        }
        watcher.request("node.local.info", "".into()).await.expect("the server has the subscriptions");
        let agent = client_of(&nats, "agent-reviewer", "_INBOX.reviewer").await;
        for topic in ASKED {
            for reply in ["orders.cancel", "agent.other.kill", "$JS.API.STREAM.PURGE.ORDERS"] {
                let subject = format!("agent.reviewer.{topic}");
                agent.publish_with_reply(subject, reply, "{}".into()).await.unwrap();
            }
            // Answered behind what came before: the agent is served as far as it may be.
            let asked = agent.request(format!("agent.reviewer.{topic}"), "{}".into());
            let answered = tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time");
            assert!(answered.is_ok(), "{topic}: {answered:?}");
        }
        // Whatever was published before this is heard before it.
        bus.send("reviewer", "oats").await;
        bus.wait_for_line("reviewer", "echo: oats").await;
        for subject in ["orders.end", "agent.other.end", "$JS.end"] {
            watcher.publish(subject, "".into()).await.unwrap();
        }
        for subscription in &mut heard {
            let next = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("the end in time");
            let subject = next.expect("the connection lives").subject;
            assert!(subject.ends_with(".end"), "somebody acted on {subject} (daemon limited: {limited})");
        }
        drop(daemon);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inboxes_of_another_prefix_are_answered_where_the_configuration_names_it() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    nats.configure(&without_limits_for_the_daemon(&nats));
    nats.up();
    let section = format!("{}inboxes = [\"my.inbox\"]\n", section(&nats));
    let mut daemon = TestDaemon::prepare_with_bus(external(), &section);
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("reviewer", script(["echo"])).await;
    let stranger = client_of(&nats, "operator", "my.inbox").await;
    for subject in ["node.local.info", "agent.reviewer.resume", "agent.reviewer.logs"] {
        let asked = stranger.request(subject, "{}".into());
        let answered = tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time");
        assert!(answered.is_ok(), "{subject}: {answered:?}");
    }
    let other = client_of(&nats, "operator", "other.inbox").await;
    let asked = other.request("node.local.info", "{}".into());
    let silence = tokio::time::timeout(Duration::from_millis(300), asked).await;
    assert!(silence.is_err(), "{silence:?}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_lacks_a_permission_ends_and_names_the_subject() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let right = nats.configuration();
    let daemon = TestDaemon::prepare_with_bus(external(), &nats.bus_section());
    let cases = [
        ("subscribe: [\"agent.>\", \"node.>\", ", "subscribe: [\"agent.>\", ", "subscribe node.local.*"),
        ("\"node.>\", \"dashboard.>\", ", "\"dashboard.>\", ", "publish node.local.info"),
        (
            "subscribe: [\"agent.>\", \"node.>\", \"_INBOX.>\"]",
            "subscribe: [\"agent.>\", \"node.>\"]",
            "_INBOX.",
        ),
    ];
    for (permitted, less, told) in cases {
        assert!(right.contains(permitted), "the guide has {permitted}");
        nats.configure(&right.replacen(permitted, less, 1));
        nats.up();
        let refused = daemon.ostler(["up"]);
        assert_eq!(refused.code, Some(1), "{told}: {refused:?}");
        assert!(refused.stderr.contains(told), "{told}: {refused:?}");
        assert!(refused.stderr.contains("docs/guide/external-bus.md"), "{refused:?}");
        nats.kill9();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lacks_a_permission_says_so_in_its_state_and_by_an_alert() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let (right, permitted) = (nats.configuration(), "\"_INBOX_HOST.reviewer.>\"");
    assert!(right.contains(permitted), "the guide has {permitted}");
    nats.configure(&right.replace(permitted, "\"_INBOX_HOST.somebody.>\""));
    nats.up();
    let mut daemon = TestDaemon::prepare_with_bus(external(), &section(&nats));
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("reviewer", script(["echo"])).await;
    let is_told = "a state that names the denied inbox";
    let agent =
        bus.wait_for_agent("reviewer", is_told, |agent| agent.cause == StatusCause::NotPermitted).await;
    let message = agent.message.expect("a reason");
    assert!(message.contains("subscribe _INBOX_HOST.reviewer."), "{message}");
    let events = bus.events().await;
    let alert =
        events.iter().find(|event| event.details.get("code").is_some_and(|code| code == "not_permitted"));
    assert!(alert.is_some_and(|alert| alert.text.contains("_INBOX_HOST.reviewer.")), "{events:?}");

    // Corrected, it delivers what it kept.
    nats.configure(&right);
    nats.kill9();
    nats.up();
    bus.client.connected().await;
    let corrected = "a state without a complaint";
    bus.wait_for_agent("reviewer", corrected, |agent| agent.cause != StatusCause::NotPermitted).await;
    bus.send("reviewer", "oats").await;
    bus.wait_for_line("reviewer", "echo: oats").await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_audit_and_may_not_hear_it_is_told() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let (right, permitted) = (nats.configuration(), "subscribe: \">\"");
    assert!(right.contains(permitted), "the guide has {permitted}");
    nats.configure(&right.replacen(permitted, "subscribe: [\"node.>\", \"_INBOX.>\"]", 1));
    nats.up();
    let mut daemon = TestDaemon::prepare_with_bus(external(), &section(&nats));
    daemon.up();
    let refused = daemon.ostler(["audit", "--follow"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("subscribe audit.local."), "{refused:?}");
    drop(daemon);
}
