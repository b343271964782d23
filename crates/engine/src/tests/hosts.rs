//! Hosts that are lost, that cannot be started, or that are not heard.

use super::*;

#[test]
fn a_lost_host_is_replaced_after_its_wait_by_policy() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    let out = world.gone("a", None);
    assert_eq!(alerts(&out)[0].code, "host_lost");
    assert_eq!(launches(&out), 0);
    assert_eq!(world.state.agents[&id("a")].state(), AgentState::Starting);
    assert_eq!(launches(&world.tick(100)), 0, "too early");
    assert_eq!(launches(&world.tick(200)), 1);

    let mut world = World::running("b", RestartPolicy::Never);
    world.gone("b", None);
    assert_eq!(launches(&world.tick(60_000)), 0);
    assert_eq!(world.state.agents[&id("b")].state(), AgentState::Error);
}

#[test]
fn a_host_that_ended_because_its_guard_was_killed_is_replaced_too() {
    let mut world = World::running("a", RestartPolicy::Always);
    world.end("a", AgentState::Error, StatusCause::HostLost, false);
    assert_eq!(world.desired("a"), DesiredState::Running);
    assert_eq!(launches(&world.tick(60_000)), 1);
}

#[test]
fn a_host_lost_again_and_again_is_given_up_with_the_reason() {
    let mut world = World::running("a", RestartPolicy::Always);
    for round in 0..5 {
        world.gone("a", None);
        assert_eq!(launches(&world.tick(60_000)), 1, "round {round}");
        // Heard, but never for long: the clock of the story moves only with ticks that find nothing due.
        world.state.agents.get_mut(&id("a")).unwrap().run.as_mut().unwrap().started_at = world.now;
        world.status("a", AgentState::Active, 1);
    }
    let out = world.gone("a", None);
    assert!(alerts(&out)[0].text.contains("6 times in a row"), "{:?}", alerts(&out));
    assert_eq!(launches(&world.tick(60_000)), 0);
    assert_eq!(world.state.agents[&id("a")].summary(&node()).cause, StatusCause::CrashLoop);
}

#[test]
fn stopping_an_agent_that_waits_to_be_replaced_cancels_the_wait() {
    let mut world = World::running("a", RestartPolicy::Always);
    world.gone("a", None);
    let reply: ControlReply = only_answer(&world.control("a", AgentTopic::Stop));
    assert_eq!((reply.changed, reply.state), (true, AgentState::Terminated));
    assert_eq!(launches(&world.tick(60_000)), 0);
    assert_eq!(world.desired("a"), DesiredState::Stopped);
}

#[test]
fn a_stop_that_was_accepted_is_kept_though_the_host_is_killed_before_the_end() {
    let mut world = World::running("a", RestartPolicy::Always);
    let mut record = world.record(world.status_of("a", AgentState::Stopping, 5), false);
    record.stop_asked = true;
    world.gone("a", Some(record));
    assert_eq!(world.state.agents[&id("a")].state(), AgentState::Terminated);
    assert_eq!(world.desired("a"), DesiredState::Stopped);
    assert_eq!(launches(&world.tick(60_000)), 0);
}

#[test]
fn output_that_went_with_its_host_is_told_in_the_log() {
    let mut world = World::running("a", RestartPolicy::Never);
    world.output("a", 1, None);
    let mut record = world.record(world.status_of("a", AgentState::Active, 5), false);
    record.last_seq = 9;
    let out = world.gone("a", Some(record));
    assert_eq!(recorded(&out), [9]);
    assert_eq!(alerts(&out)[0].code, "output_dropped");
}

#[test]
fn the_first_prompt_is_given_to_the_run_that_was_spawned_and_to_no_later_one() {
    let mut world = World::new();
    let spawn =
        SpawnRequest { prompt: Some("go".into()), restart: RestartPolicy::Always, ..SpawnRequest::default() };
    let prompted = |out: &Outcome| {
        out.effects
            .iter()
            .find_map(|effect| match effect {
                Effect::Launch(plan) => Some(plan.prompted),
                _ => None,
            })
            .expect("a launch")
    };
    assert!(!prompted(&world.spawn("a", spawn)));
    world.status("a", AgentState::Active, 1);
    world.gone("a", None);
    assert!(prompted(&world.tick(60_000)));
}

#[test]
fn a_host_that_cannot_be_started_again_is_tried_again_and_one_that_was_asked_for_is_refused() {
    let mut world = World::running("a", RestartPolicy::Always);
    let failed = |world: &mut World| {
        let (agent, run) = (id("a"), world.run("a"));
        let refusal = ErrorReply::new(ErrorCode::MissingDirectory, "not mounted");
        world.apply(Event::LaunchFailed { agent, run, refusal })
    };
    world.gone("a", None);
    world.tick(60_000);
    failed(&mut world);
    assert_eq!(world.desired("a"), DesiredState::Running);
    assert_eq!(launches(&world.tick(60_000)), 1);

    world.status("a", AgentState::Terminated, 50);
    world.control("a", AgentTopic::Restart);
    world.gone("a", None);
    failed(&mut world);
    assert_eq!(world.desired("a"), DesiredState::Stopped);
    assert_eq!(world.state.agents[&id("a")].state(), AgentState::Error);
}

#[test]
fn a_host_that_is_not_heard_is_asked_for_its_state() {
    let mut world = World::new();
    world.spawn("a", SpawnRequest::default());
    let (agent, run) = (id("a"), world.run("a"));
    world.apply(Event::Launched { agent, run });
    let asked = |out: &Outcome| out.effects.iter().any(|effect| matches!(effect, Effect::AskStatus(_)));
    assert!(asked(&world.tick(1000)));
    // Its answer may be as old as what is known: it is heard all the same.
    let out = world.status("a", AgentState::Starting, 0);
    assert_eq!(answers(&out).len(), 1);
    assert!(!asked(&world.tick(1000)));
}
