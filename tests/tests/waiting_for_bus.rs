//! A daemon whose bus is not there: what it says, and that it can be ended and corrected. Needs no nats-server.

use std::net::TcpListener;
use std::path::Path;

use ostler_testkit::{BusKind, Options, PATIENCE, TestDaemon, process, script, wait_until};
use ostler_wire::{AgentState, DownReply};

/// Ready to run: a daemon whose bus is at an address nobody listens at.
fn without_bus() -> TestDaemon {
    let daemon = TestDaemon::prepare_with_bus(Options { bus: BusKind::External, ..Options::default() }, "");
    daemon.write_config(&away(daemon.scratch()));
    daemon
}

/// The section of a bus that is not there.
fn away(dir: &Path) -> String {
    let key = dir.join("credential.nk");
    if !key.exists() {
        ostler_client::create_key(&key).expect("a new credential");
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    format!("[bus]\nurl = \"nats://{free}\"\ncredentials = \"{}\"\n", key.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_started_in_the_background_that_waits_is_ended_by_down_as_its_hint_says() {
    let daemon = without_bus();
    let up = daemon.ostler(["up", "-d"]);
    assert_eq!(up.code, Some(6), "{up:?}");
    assert!(up.stderr.contains("is waiting for the bus") && up.stderr.contains("`ostler down`"), "{up:?}");
    let pid = daemon.state().waiting().expect("it waits").pid;
    let doctor = daemon.ostler(["doctor"]);
    let told = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(told.contains("is waiting for the bus") && told.contains("`ostler down`"), "{doctor:?}");
    let again = daemon.ostler(["up", "-d"]);
    assert!(again.code != Some(0) && again.stderr.contains("`ostler down`"), "{again:?}");

    let down = daemon.ostler(["down"]);
    assert_eq!(down.code, Some(0), "{down:?}");
    assert!(down.stdout.contains(&format!("(pid {pid})")), "{down:?}");
    assert!(!process::is_alive(pid), "down returns when it is gone");
    assert_eq!(daemon.ostler(["down"]).code, Some(3), "there is none any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn down_tells_how_many_agents_a_daemon_that_waits_leaves_behind() {
    let own = "[bus]\nlisten = \"127.0.0.1:0\"\n";
    let mut daemon = TestDaemon::prepare_with_bus(Options { bus: BusKind::Own, ..Options::default() }, own);
    daemon.up();
    let agent = daemon.bus().await.spawn_active("a", script(["wait"])).await;
    assert_eq!(daemon.ostler(["down", "--keep-agents"]).code, Some(0));
    daemon.wait();

    daemon.write_config(&away(daemon.scratch()));
    daemon.launch();
    wait_until("the daemon waits", PATIENCE, || daemon.state().waiting().is_some()).await;
    let down = daemon.ostler(["down", "--json"]);
    let reply: DownReply =
        serde_json::from_str(&down.stdout).unwrap_or_else(|error| panic!("{error}: {down:?}"));
    assert_eq!((reply.stopped, reply.kept), (0, 1));
    daemon.wait();
    assert!(agent.pid.is_some_and(process::is_alive), "it had no way to its agent");

    daemon.write_config(own);
    daemon.up();
    let again = daemon.bus().await.wait_for_state("a", AgentState::Active).await;
    assert_eq!(again.pid, agent.pid);
}
