//! The engine's decisions as stories: what comes in, what is written, what is said.

use ostler_store::Write;
use ostler_wire::{
    AgentEvent, AgentState, AgentTopic, ControlReply, DesiredState, DownReply, DownRequest, ErrorCode,
    ErrorReply, HostRecord, NodeId, RemoveRequest, RestartPolicy, SpawnReply, SpawnRequest, StateChange,
    StatusCause, StatusMessage, Subject, Timestamp,
};
use proptest::prelude::*;

use crate::HostGone;
use crate::event::Event;
use crate::neighbours::{Whose, whose};
use crate::outcome::{Effect, Outcome};

mod audit;
mod hosts;
mod world;
use world::*;

#[test]
fn a_spawn_is_written_before_it_is_launched_and_answered_when_the_host_is_heard() {
    let mut world = World::new();
    let out = world.spawn("a", SpawnRequest::default());
    assert!(matches!(out.writes[0], Write::PutAgent(_)));
    assert!(out.writes.iter().any(|write| matches!(write, Write::StartRun(_))));
    assert_eq!(launches(&out), 1);
    assert!(answers(&out).is_empty(), "not before the host is heard");

    let out = world.status("a", AgentState::Active, 1);
    let reply: SpawnReply = only_answer(&out);
    assert_eq!((reply.state, reply.host_pid, reply.pid), (AgentState::Active, 70, Some(77)));
}

#[test]
fn a_name_is_taken_once() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    let refusal: ErrorReply = only_answer(&world.spawn("a", SpawnRequest::default()));
    assert_eq!(refusal.error.code, ErrorCode::DuplicateAgent);
    assert!(refusal.error.hint.unwrap().contains("ostler stop a"));

    world.end("a", AgentState::Terminated, StatusCause::Requested, false);
    let other = SpawnRequest { command: vec!["other".into()], ..SpawnRequest::default() };
    let refusal: ErrorReply = only_answer(&world.spawn("a", other.clone()));
    assert_eq!(refusal.error.code, ErrorCode::DuplicateAgent, "a stopped one keeps its name");
    let out = world.spawn("a", SpawnRequest { replace: true, ..other });
    assert_eq!(launches(&out), 1);
}

#[test]
fn spawning_a_stopped_agent_with_nothing_but_its_name_starts_it_as_it_was() {
    let mut world = World::new();
    let spawn = SpawnRequest { command: vec!["prog".into()], ..SpawnRequest::default() };
    world.spawn("a", spawn.clone());
    world.status("a", AgentState::Active, 1);
    world.end("a", AgentState::Terminated, StatusCause::Requested, false);
    let out = world.spawn("a", SpawnRequest::default());
    assert_eq!(launches(&out), 1);
    assert_eq!(world.state.agents[&id("a")].row.spawn, spawn);
    assert_eq!(world.desired("a"), DesiredState::Running);
}

/// The states that were recorded, in order.
fn states(out: &Outcome) -> Vec<String> {
    let events = out.writes.iter().filter_map(|write| match write {
        Write::AppendEvent(event) if event.kind == "agent.state" => Some(event),
        _ => None,
    });
    events.map(|event| event.details["state"].as_str().unwrap().to_owned()).collect()
}

fn change(revision: u64, state: AgentState) -> StateChange {
    StateChange {
        revision,
        timestamp: Timestamp::UNIX_EPOCH,
        state,
        cause: StatusCause::Normal,
        message: None,
        generation: 0,
        exit: None,
    }
}

#[test]
fn an_end_that_overtakes_the_last_publications_is_recorded_with_the_states_before_it() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    let mut last = world.status_of("a", AgentState::Terminated, 4);
    last.changes = vec![change(1, AgentState::Active), change(3, AgentState::Stopping)];
    let record = world.record(last.clone(), false);
    let out = world.gone("a", Some(record));
    assert_eq!(states(&out), ["stopping", "terminated"]);
    assert!(published(&out).is_empty(), "the bus has them: {:?}", out.effects);
    assert!(out.writes.iter().all(|write| match write {
        Write::UpdateRun(status) => status.changes.is_empty(),
        _ => true,
    }));
    // Now the publications come.
    let late = StatusMessage { changes: Vec::new(), ..world.status_of("a", AgentState::Stopping, 3) };
    assert!(states(&world.apply(Event::Status(Box::new(late)))).is_empty());
    assert!(states(&world.apply(Event::Status(Box::new(last)))).is_empty());
}

#[test]
fn what_a_host_could_not_announce_is_announced_for_it() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    let mut last = world.status_of("a", AgentState::Terminated, 4);
    last.changes = vec![change(1, AgentState::Active), change(3, AgentState::Stopping)];
    let record = HostRecord { announced: 1, ..world.record(last, false) };
    let out = world.gone("a", Some(record));
    let told: Vec<StatusMessage> = payloads(&out, &Subject::status(&id("a")));
    let told: Vec<_> = told.iter().map(|status| (status.revision, status.state, status.pid)).collect();
    assert_eq!(told, [(3, AgentState::Stopping, None), (4, AgentState::Terminated, Some(77))]);
    assert_eq!(states(&out), ["stopping", "terminated"]);
}

#[test]
fn a_lost_publication_is_made_up_for_by_the_next() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    let mut next = world.status_of("a", AgentState::Active, 5);
    next.changes = vec![change(1, AgentState::Active), change(2, AgentState::Paused)];
    let out = world.apply(Event::Status(Box::new(next)));
    assert_eq!(states(&out), ["paused", "active"]);
    assert!(world.state.agents[&id("a")].run.as_ref().unwrap().status.changes.is_empty());
}

#[test]
fn a_refused_program_leaves_no_agent_behind() {
    let mut world = World::new();
    let refusal = ErrorReply::new(ErrorCode::MissingProgram, "no");
    let out = world.apply(Event::Spawn {
        agent: id("a"),
        request: Box::default(),
        checked: Err(refusal),
        message: request("agent.a.spawn"),
    });
    assert_eq!(only_answer::<ErrorReply>(&out).error.code, ErrorCode::MissingProgram);
    assert!(out.writes.is_empty() && world.state.agents.is_empty());
}

#[test]
fn a_program_that_turns_out_not_to_run_refuses_the_spawn_with_the_reason() {
    let mut world = World::new();
    world.spawn("a", SpawnRequest::default());
    let mut status = world.status_of("a", AgentState::Error, 1);
    status.cause = StatusCause::SpawnFailed;
    status.message = Some("exec format error".into());
    let out = world.apply(Event::Status(Box::new(status)));
    let refusal: ErrorReply = only_answer(&out);
    assert!(refusal.error.message.contains("exec format error"), "{}", refusal.error.message);
    assert_eq!(alerts(&out)[0].code, "spawn_failed");
}

#[test]
fn requests_wait_for_a_host_that_is_starting_and_are_sent_to_it_when_it_is_heard() {
    let mut world = World::new();
    world.spawn("a", SpawnRequest::default());
    assert!(answers(&world.control("a", AgentTopic::Pause)).is_empty());
    let out = world.status("a", AgentState::Active, 1);
    let forwarded: Vec<_> = out
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Forward(message) => Some(message.subject.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(forwarded, ["agent.a.pause"]);
    assert!(world.control("a", AgentTopic::Pause).effects.is_empty(), "from here on the host answers alone");
}

#[test]
fn where_others_may_know_an_agent_its_refusal_waits_for_them() {
    let mut world = World::new();
    assert!(only_answer::<ErrorReply>(&world.control("nobody", AgentTopic::Stop)).error.hint.is_some());
    // Also before anybody was heard: who knows it may have come a moment ago.
    world.state.policy.shared_bus = true;
    for silence_ms in [0, 1_000, 61_000] {
        world.tick(silence_ms);
        let out = world.control("nobody", AgentTopic::Stop);
        assert!(matches!(out.effects[..], [Effect::AnswerLater { .. }]), "{:?}", out.effects);
    }
}

#[test]
fn a_node_beats_often_enough_for_its_neighbours_whatever_its_agents_do() {
    for (heartbeat_ms, beats) in [(5 * 60_000, 4), (15_000, 4), (1_000, 60)] {
        let mut world = World::new();
        world.state.policy.heartbeat_ms = heartbeat_ms;
        world.tick(0);
        let heard = (0..60).filter(|_| is_node_beat(&world.tick(1_000))).count();
        assert_eq!(heard, beats, "in a minute, at a heartbeat of {heartbeat_ms} ms");
    }
}

fn is_node_beat(out: &Outcome) -> bool {
    out.effects.iter().any(|effect| {
        matches!(effect, Effect::Publish { subject, .. } if *subject == Subject::NodeHeartbeat(node()))
    })
}

#[test]
fn a_neighbour_is_gone_after_a_minute_of_silence_on_a_bus_that_carries() {
    let mut world = World::new();
    world.state.policy.shared_bus = true;
    // Our own agents' heartbeat says nothing about others.
    world.state.policy.heartbeat_ms = 5 * 60_000;
    let is_there =
        |world: &World| matches!(whose(&world.state, &mut SpawnRequest::default()), Whose::Unclear(_));
    let seconds = |world: &mut World, count: u32| (0..count).for_each(|_| drop(world.tick(1_000)));
    seconds(&mut world, 1);
    world.apply(Event::Neighbour(NodeId::parse("other").unwrap()));
    seconds(&mut world, 60);
    assert!(is_there(&world));
    // Nobody is heard on a bus that is away, and nobody in one's sleep.
    (0..600).for_each(|_| drop(world.tick_without_bus(1_000)));
    world.tick(3_600_000);
    assert!(is_there(&world));
    seconds(&mut world, 61);
    assert!(!is_there(&world));
}

#[test]
fn on_a_shared_bus_a_spawn_request_belongs_to_the_node_it_names() {
    let mut world = World::new();
    let named = |node: &str| SpawnRequest { node: NodeId::parse(node).ok(), ..SpawnRequest::default() };
    assert_eq!(whose(&world.state, &mut named("other")), Whose::Ours, "our own bus has nobody else");
    world.state.policy.shared_bus = true;
    assert_eq!(whose(&world.state, &mut SpawnRequest::default()), Whose::Ours, "alone so far");
    assert!(matches!(whose(&world.state, &mut named("other")), Whose::Nobodys(_)));
    world.apply(Event::Neighbour(NodeId::parse("other").unwrap()));
    assert_eq!(whose(&world.state, &mut named("other")), Whose::Theirs);
    let mut ours = named(node().as_str());
    assert_eq!(whose(&world.state, &mut ours), Whose::Ours);
    assert_eq!(ours, SpawnRequest::default(), "our own name is no part of a definition");
    let Whose::Unclear(refusal) = whose(&world.state, &mut SpawnRequest::default()) else {
        panic!("several could be meant")
    };
    assert!(refusal.error.message.contains("other"), "{refusal:?}");
}

#[test]
fn every_verb_on_an_unknown_agent_is_refused() {
    let mut world = World::new();
    for topic in [
        AgentTopic::Stop,
        AgentTopic::Pause,
        AgentTopic::Resume,
        AgentTopic::Restart,
        AgentTopic::Kill,
        AgentTopic::Command,
        AgentTopic::Input,
        AgentTopic::Status,
    ] {
        let refusal: ErrorReply = only_answer(&world.control("nobody", topic));
        assert_eq!(refusal.error.code, ErrorCode::UnknownAgent);
    }
    let message = request("agent.nobody.remove");
    let out = world.apply(Event::Remove { agent: id("nobody"), request: RemoveRequest::default(), message });
    assert_eq!(only_answer::<ErrorReply>(&out).error.code, ErrorCode::UnknownAgent);
}

#[test]
fn a_stopped_agent_is_answered_for() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    world.end("a", AgentState::Terminated, StatusCause::Requested, false);
    let stop: ControlReply = only_answer(&world.control("a", AgentTopic::Stop));
    assert!(!stop.changed);
    let pause: ErrorReply = only_answer(&world.control("a", AgentTopic::Pause));
    assert_eq!(pause.error.code, ErrorCode::IllegalState);
    assert!(pause.error.message.contains("terminated"), "{}", pause.error.message);
    let input: ErrorReply = only_answer(&world.control("a", AgentTopic::Input));
    assert_eq!(input.error.code, ErrorCode::NotRunning);
    let status: StatusMessage = only_answer(&world.control("a", AgentTopic::Status));
    assert_eq!(status.state, AgentState::Terminated);
    let out = world.control("a", AgentTopic::Restart);
    assert_eq!((only_answer::<ControlReply>(&out).state, launches(&out)), (AgentState::Starting, 1));
    assert_eq!(world.desired("a"), DesiredState::Running);
}

#[test]
fn a_restart_between_the_last_word_and_the_hosts_end_waits_for_the_end() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    world.status("a", AgentState::Terminated, 5);
    let out = world.control("a", AgentTopic::Restart);
    assert_eq!(launches(&out), 0, "the old host still holds the lock");
    let out = world.gone("a", None);
    assert_eq!(launches(&out), 1);
}

#[test]
fn an_agent_that_was_stopped_stays_stopped_and_one_that_went_down_with_the_daemon_comes_back() {
    let mut world = World::running("a", RestartPolicy::Always);
    world.end("a", AgentState::Terminated, StatusCause::Requested, false);
    assert_eq!(world.desired("a"), DesiredState::Stopped);

    let mut world = World::running("a", RestartPolicy::Always);
    world.end("a", AgentState::Terminated, StatusCause::Requested, true);
    assert_eq!(world.desired("a"), DesiredState::Running);
}

#[test]
fn a_host_that_lacks_a_permission_raises_one_alert_and_is_asked_until_it_has_it() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    let mut status = world.status_of("a", AgentState::Active, 50);
    status.cause = StatusCause::NotPermitted;
    status.message = Some("may not subscribe x".into());
    let out = world.apply(Event::Status(Box::new(status.clone())));
    let alert = &alerts(&out)[0];
    assert!(alert.code == "not_permitted" && alert.text.contains("may not subscribe x"), "{alert:?}");
    status.revision += 1;
    assert!(alerts(&world.apply(Event::Status(Box::new(status.clone())))).is_empty(), "told once");
    let run = world.run("a");
    let beat = || {
        let beat = serde_json::json!({
            "agent_id": "a", "status": "running", "timestamp": "2026-01-01T00:00:00Z", "state": "active", "run_id": run
        });
        Event::Heartbeat(Box::new(serde_json::from_value(beat).unwrap()))
    };
    let asks = |out: &Outcome| out.effects.iter().any(|effect| matches!(effect, Effect::AskStatus(_)));
    assert!(asks(&world.apply(beat())), "the word that it has it by now may have been lost");
    (status.cause, status.message) = (StatusCause::Normal, None);
    status.revision += 1;
    world.apply(Event::Status(Box::new(status)));
    assert!(!asks(&world.apply(beat())));
}

#[test]
fn a_sleeping_machine_makes_no_agent_stale() {
    let mut world = World::running("a", RestartPolicy::Always);
    world.tick(1000);
    assert!(alerts(&world.tick(8 * 3_600_000)).is_empty());
    assert!(!world.state.agents[&id("a")].degraded);
}

#[test]
fn an_agents_own_heartbeat_does_not_hide_that_its_host_hangs() {
    let mut world = World::running("a", RestartPolicy::Always);
    for _ in 0..50 {
        world.tick(1000);
        let beat = serde_json::from_value(serde_json::json!({
            "agent_id": "a", "status": "working", "timestamp": "2026-01-01T00:00:00Z"
        }));
        world.apply(Event::Heartbeat(Box::new(beat.unwrap())));
    }
    assert!(world.state.agents[&id("a")].degraded);
}

#[test]
fn who_asks_twice_to_go_down_is_answered_twice() {
    let mut world = World::running("a", RestartPolicy::Always);
    for _ in 0..2 {
        let message = Some(request("node.local.down"));
        world.apply(Event::Down { request: DownRequest::default(), message });
    }
    world.end("a", AgentState::Terminated, StatusCause::Requested, true);
    assert_eq!(answers(&world.tick(1000)).len(), 2);
}

#[test]
fn only_a_stopped_agent_is_removed_unless_forced() {
    let mut world = World::running("a", RestartPolicy::Always);
    let remove = |force| Event::Remove {
        agent: id("a"),
        request: RemoveRequest { force },
        message: request("agent.a.remove"),
    };
    let refusal: ErrorReply = only_answer(&world.apply(remove(false)));
    assert_eq!(refusal.error.code, ErrorCode::IllegalState);
    let out = world.apply(remove(true));
    assert_eq!(published(&out), ["agent.a.stop"]);
    assert!(answers(&out).is_empty());
    let out = world.end("a", AgentState::Terminated, StatusCause::Requested, false);
    assert!(out.writes.iter().any(|write| matches!(write, Write::RemoveAgent(_))));
    assert!(out.effects.iter().any(|effect| matches!(effect, Effect::Forget(_))));
    assert!(only_answer::<ControlReply>(&out).changed);
    assert!(world.state.agents.is_empty());
}

#[test]
fn going_down_stops_every_agent_keeps_what_was_wanted_and_ends_when_all_are_gone() {
    let mut world = World::running("a", RestartPolicy::Always);
    let message = Some(request("node.local.down"));
    let out = world.apply(Event::Down { request: DownRequest::default(), message });
    assert!(published(&out).contains(&"agent.a.stop".to_owned()));
    assert!(!ends(&out));
    assert!(
        published(&world.tick(1000)).contains(&"agent.a.stop".to_owned()),
        "asked again until it is gone"
    );
    world.end("a", AgentState::Terminated, StatusCause::Requested, true);
    let out = world.tick(1000);
    assert!(ends(&out));
    assert_eq!(only_answer::<DownReply>(&out).stopped, 1);
    assert_eq!(world.desired("a"), DesiredState::Running);
}

#[test]
fn going_down_alone_leaves_the_agents() {
    let mut world = World::running("a", RestartPolicy::Always);
    let out =
        world.apply(Event::Down { request: DownRequest { keep_agents: true }, message: Some(request("x")) });
    assert!(ends(&out));
    assert_eq!(only_answer::<DownReply>(&out).kept, 1);
    assert!(!published(&out).contains(&"agent.a.stop".to_owned()));
}

#[test]
fn three_missed_heartbeats_degrade_an_agent_once_and_the_next_word_mends_it() {
    let mut world = World::running("a", RestartPolicy::Always);
    for second in 0..=45 {
        assert!(alerts(&world.tick(1000 * i64::from(second > 0))).is_empty(), "{second}");
    }
    let out = world.tick(1);
    assert_eq!(alerts(&out)[0].code, "heartbeat_missed");
    assert!(alerts(&world.tick(9_000)).is_empty(), "told once");
    assert!(world.state.agents[&id("a")].degraded);
    let out = world.status("a", AgentState::Active, 9);
    assert!(!world.state.agents[&id("a")].degraded);
    assert!(deltas(&out).iter().any(|(_, kind)| kind == "agent.recovered"));
}

#[test]
fn an_older_status_changes_nothing() {
    let mut world = World::running("a", RestartPolicy::Always);
    world.status("a", AgentState::Paused, 7);
    let out = world.status("a", AgentState::Active, 6);
    assert!(out.writes.is_empty());
    assert_eq!(world.state.agents[&id("a")].state(), AgentState::Paused);
}

#[test]
fn events_are_numbered_without_a_gap_and_written_before_they_are_announced() {
    let mut world = World::new();
    let mut written = Vec::new();
    let mut announced = Vec::new();
    let mut take = |out: &Outcome| {
        written.extend(out.writes.iter().filter_map(|write| match write {
            Write::AppendEvent(event) => Some(event.seq),
            _ => None,
        }));
        announced.extend(deltas(out).into_iter().map(|(seq, _)| seq));
        assert_eq!(written, announced);
    };
    take(&world.spawn("a", SpawnRequest { restart: RestartPolicy::Always, ..SpawnRequest::default() }));
    take(&world.status("a", AgentState::Active, 1));
    take(&world.gone("a", None));
    take(&world.tick(60_000));
    assert_eq!(written, (1..=written.len() as u64).collect::<Vec<_>>());
    assert!(written.len() >= 5);
}

#[test]
fn spooled_output_is_taken_when_the_host_is_gone() {
    let mut world = World::running("a", RestartPolicy::Never);
    world.output("a", 1, None);
    let run_id = world.run("a");
    let spool = vec![output_message("a", run_id, 2, None), output_message("a", run_id, 3, None)];
    let out =
        world.apply(Event::HostGone(Box::new(HostGone { agent_id: id("a"), run_id, record: None, spool })));
    assert_eq!(recorded(&out), [2, 3]);
}

#[test]
fn a_gap_is_told_once_and_a_dropped_range_closes_it() {
    let mut world = World::running("a", RestartPolicy::Never);
    assert_eq!(ack(&world.output("a", 1, None)), Some((1, false)));
    assert_eq!(ack(&world.output("a", 3, None)), Some((1, true)));
    assert_eq!(ack(&world.output("a", 4, None)), None, "told already");
    assert_eq!(ack(&world.output("a", 1, None)), Some((1, false)), "sent again: acknowledged again");
    let dropped = AgentEvent::Dropped { from_seq: 2, to_seq: 4, bytes: 10 };
    let out = world.output("a", 4, Some(dropped));
    assert_eq!(ack(&out), Some((4, false)));
    assert_eq!(alerts(&out)[0].code, "output_dropped");
    assert_eq!(ack(&world.output("a", 5, None)), Some((5, false)));
}

proptest! {
    #[test]
    fn whatever_arrives_the_log_is_the_numbers_in_order_each_once(arrivals in prop::collection::vec(1u64..40, 0..400)) {
        let mut world = World::running("a", RestartPolicy::Never);
        let mut log = Vec::new();
        for seq in arrivals {
            let out = world.output("a", seq, None);
            log.extend(recorded(&out));
            if let Some((up_to, _)) = ack(&out) {
                prop_assert_eq!(up_to, log.len() as u64, "only what is recorded is acknowledged");
            }
        }
        prop_assert_eq!(&log, &(1..=log.len() as u64).collect::<Vec<_>>());
    }
}
