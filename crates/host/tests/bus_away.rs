//! The bus goes away and comes back: nothing is lost, nothing is recorded twice, and what had to be dropped is told.

mod support;

use ostler_client::Connection;
use ostler_wire::{AgentEvent, AgentState, RestartPolicy, SpawnRequest, StatusMessage};
use serde_json::json;
use support::{World, until};

/// Prints numbered lines as fast as it is allowed to, then waits.
fn numbers(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; done; echo end; read line")
}

async fn all_arrived(world: &World, count: u64) {
    world.line("end").await;
    world.look(|recorded| {
        recorded.assert_gapless();
        let expected: Vec<String> = (1..=count).map(|i| i.to_string()).chain(["end".into()]).collect();
        assert_eq!(recorded.lines(), expected);
    });
}

#[tokio::test]
async fn a_bus_that_comes_late_misses_nothing() {
    let mut world = World::without_bus();
    let host = world.host(&numbers(5000));
    until("the agent to have printed", || host.record().filter(|record| record.agent.is_some())).await;
    world.start_bus(0);
    world.start_engine().await;
    all_arrived(&world, 5000).await;
    let status = world.query().await;
    assert_eq!(status.state, AgentState::Active);
}

#[tokio::test]
async fn a_bus_that_restarts_on_the_same_port_misses_nothing() {
    let mut world = World::without_bus();
    let port = world.start_bus(0);
    world.start_engine().await;
    let _host = world.host(&numbers(20_000));
    for lines in [100, 3000] {
        until("some lines", || (world.look(|recorded| recorded.recorded) > lines).then_some(())).await;
        world.stop_bus();
        world.start_bus(port);
        world.start_engine().await;
    }
    all_arrived(&world, 20_000).await;
}

#[tokio::test]
async fn a_bus_that_moves_to_another_port_is_found_through_the_endpoint_file() {
    let mut world = World::new().await;
    let _host = world.host(&numbers(20_000));
    until("some lines", || (world.look(|recorded| recorded.recorded) > 100).then_some(())).await;
    let statuses = world.look(|recorded| recorded.statuses.len());
    world.stop_bus();
    world.start_bus(0);
    world.start_engine().await;
    all_arrived(&world, 20_000).await;
    until("the state to be told anew", || (world.look(|r| r.statuses.len()) > statuses).then_some(())).await;
    let reply: serde_json::Value = world.ask("input", json!({"text": "go"})).await.unwrap();
    assert_eq!(reply["delivered"], true);
}

#[tokio::test]
async fn states_decided_while_the_bus_is_away_are_told_in_order_when_it_is_back() {
    let world = World::new().await;
    let wait = "touch once; until [ -e go ]; do sleep 0.01; done; exit 7";
    let host = world.host(&format!("[ -e once ] && exec cat; {wait}"));
    let first = world.active().await;
    world.expel_host();
    std::fs::write(world.dir.path().join("work/go"), "").unwrap();
    until("the restart", || {
        let status = host.record()?.status;
        ((status.generation, status.state) == (2, AgentState::Active)).then_some(())
    })
    .await;
    assert!(world.look(|recorded| recorded.statuses.iter().all(|status| status.generation < 2)));
    world.admit_host();
    let is_present = |status: &StatusMessage| status.generation == 2 && !status.changes.is_empty();
    let present = world.status("the present state", is_present).await;
    world.look(|recorded| {
        let told: Vec<_> = recorded.statuses.iter().map(|s| (s.revision, s.state, s.generation)).collect();
        let back_off = |status: &StatusMessage| status.state == AgentState::Starting && status.exit.is_some();
        assert!(recorded.statuses.iter().any(back_off), "{told:?}");
        assert!(recorded.statuses.is_sorted_by_key(|status| status.revision), "{told:?}");
    });
    let changes: Vec<_> = present.changes.iter().map(|change| (change.revision, change.state)).collect();
    assert!(changes.is_sorted_by_key(|change| change.0), "{changes:?}");
    assert!(changes.iter().any(|change| change.0 > first.revision), "{changes:?}");
}

#[tokio::test]
async fn an_end_while_the_bus_is_away_is_in_the_record_with_all_its_states() {
    let world = World::new().await;
    let mut host = world.host("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done");
    world.line("up").await;
    let active = world.active().await;
    until("the bus to have the state", || (host.record()?.status.revision >= active.revision).then_some(()))
        .await;
    world.expel_host();
    support::signal(host.guard_pid(), rustix::process::Signal::TERM);
    assert_eq!(host.ended().await.code(), Some(0));
    let record = host.record().unwrap();
    assert_eq!(record.status.state, AgentState::Terminated);
    let states: Vec<_> = record.status.changes.iter().map(|change| change.state).collect();
    assert!(states.ends_with(&[AgentState::Active, AgentState::Stopping]), "{states:?}");
    assert!(record.announced < record.status.revision, "{record:?}");
}

#[tokio::test]
async fn a_client_for_one_connection_is_not_connected_again_behind_its_owners_back() {
    let world = World::new().await;
    let client = world.connect_once().await;
    client.connected().await;
    let mut connection = client.connection();
    world.expel_host();
    world.admit_host();
    let follow = async {
        let mut seen = vec![*connection.borrow_and_update()];
        while connection.changed().await.is_ok() {
            seen.push(*connection.borrow_and_update());
        }
        seen
    };
    // Closed for good: nothing can come any more.
    let seen = tokio::time::timeout(support::PATIENCE, follow).await.unwrap();
    assert_eq!(seen, [Connection::Up(1), Connection::Down]);
}

#[tokio::test]
async fn an_engine_that_does_not_acknowledge_gets_everything_again() {
    let world = World::new().await;
    world.recorded.lock().unwrap().silent = true;
    let host = world.host(&numbers(300));
    until("the agent to run", || host.record().filter(|record| record.agent.is_some())).await;
    world.active().await;
    world.recorded.lock().unwrap().silent = false;
    all_arrived(&world, 300).await;
}

#[tokio::test]
async fn a_full_buffer_drops_the_oldest_and_says_which() {
    let mut world = World::without_bus();
    let script = "seq 50000; echo end; touch printed; read line";
    let host = world.host_with(
        SpawnRequest {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            restart: RestartPolicy::Never,
            ..SpawnRequest::default()
        },
        200_000,
    );
    // More than the pipe and the buffer take together: it is printed only after the host has given up waiting.
    let printed = world.dir.path().join("work/printed");
    until("the agent to have printed", || printed.exists().then_some(())).await;
    world.start_bus(0);
    world.start_engine().await;
    world.line("end").await;
    world.look(|recorded| {
        let AgentEvent::Dropped { from_seq: 1, to_seq, .. } = recorded.events()[0] else {
            panic!("the first message tells what was dropped: {:?}", recorded.messages[0]);
        };
        assert_eq!(recorded.messages[0].seq, to_seq);
        let rest: Vec<u64> = recorded.messages[1..].iter().map(|message| message.seq).collect();
        assert!(rest.iter().copied().eq(to_seq + 1..=50_001), "{rest:?}");
    });
    drop(host);
}
