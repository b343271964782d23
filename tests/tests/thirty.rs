//! Thirty agents at once: the number a developer may have on one machine.

use std::time::{Duration, Instant};

use ostler_testkit::{Bus, TestDaemon, script, wait_for};
use ostler_wire::{AgentId, AgentState, StopRequest, Subject};

const AGENTS: usize = 30;
/// Two cores, shared with other tests, start sixty processes of ours and thirty of theirs within this.
const START_MAX: Duration = Duration::from_secs(30);

fn name(number: usize) -> String {
    format!("agent-{number}")
}

async fn until_all(bus: &Bus, state: AgentState) {
    wait_for(&format!("all agents are {state}"), START_MAX, async || {
        let agents = bus.try_agents().await.ok()?;
        let ready = agents.iter().filter(|agent| agent.state == state).count();
        (ready == AGENTS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_agents_start_answer_and_stop_at_once() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let start = Instant::now();
    let spawns: Vec<_> = (0..AGENTS)
        .map(|number| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.try_spawn(&name(number), &script(["echo"])).await.map(drop) })
        })
        .collect();
    for spawn in spawns {
        spawn.await.unwrap().unwrap();
    }
    until_all(&bus, AgentState::Active).await;
    println!("{AGENTS} agents are active after {:?}", start.elapsed());

    let asked = Instant::now();
    let talks: Vec<_> = (0..AGENTS)
        .map(|number| {
            let bus = bus.clone();
            tokio::spawn(async move {
                bus.send(&name(number), &format!("hello {number}")).await;
                bus.wait_for_line(&name(number), &format!("echo: hello {number}")).await;
            })
        })
        .collect();
    for talk in talks {
        talk.await.unwrap();
    }
    println!("all have answered after {:?}", asked.elapsed());

    let stopped = Instant::now();
    for number in 0..AGENTS {
        let subject = Subject::stop(&AgentId::parse(&name(number)).unwrap());
        bus.client.publish(&subject, &StopRequest::default()).await.unwrap();
    }
    until_all(&bus, AgentState::Terminated).await;
    println!("all have stopped after {:?}", stopped.elapsed());
    wait_for("only the daemon is left", START_MAX, async || (daemon.processes().len() == 1).then_some(()))
        .await;
}
