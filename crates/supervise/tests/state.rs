//! The life of a run, without any process: the whole table of states and events, and what must hold for every order
//! of them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ostler_supervise::exit::Exit;
use ostler_supervise::platform::SpawnError;
use ostler_supervise::restart::{Backoff, CrashLoop, RestartPolicy, Rules};
use ostler_supervise::state::{Effect, Event, Machine, Request, State, StateName, Step, Then};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_state_answers_every_event() {
    let mut table = String::new();
    for (name, machine, now) in states() {
        writeln!(table, "{name} ({})", machine.state().name()).expect("a string takes it");
        for event in events() {
            let mut machine = machine.clone();
            let label = event.as_str();
            let outcome = match machine.apply(event, now) {
                Ok(effects) if effects.is_empty() && name == describe(machine.state()) => {
                    "ignored".to_owned()
                }
                Ok(effects) => format!("{} {}", describe(machine.state()), list(&effects)),
                Err(refusal) => format!("refused: {}", refusal.reason),
            };
            writeln!(table, "  {label:<14} {outcome}").expect("a string takes it");
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_refusal_names_request_state_and_reason() {
    let (_, mut machine, now) = states().into_iter().find(|(name, ..)| name == "terminated").expect("listed");
    let refusal = machine.apply(Event::Request(Request::Pause), now).expect_err("it is over");
    assert_eq!(refusal.to_string(), "pause refused while terminated: the run is over; start a new one");
}

#[test]
fn a_first_launch_that_cannot_work_is_an_error_and_a_later_one_is_tried_again() {
    let (mut machine, now) = fresh(RestartPolicy::OnFailure, None);
    apply(&mut machine, Event::Due, now);
    apply(&mut machine, Event::Spawned { pid: 1 }, now);
    apply(&mut machine, Event::LeaderExited, now);
    apply(&mut machine, emptied(Exit::Code(1)), now);
    apply(&mut machine, Event::Due, now + SECOND);
    apply(&mut machine, spawn_failed(), now + SECOND);
    assert_eq!(machine.state().name(), StateName::Starting);

    let (mut machine, now) = fresh(RestartPolicy::OnFailure, None);
    apply(&mut machine, Event::Due, now);
    apply(&mut machine, spawn_failed(), now);
    assert_eq!(machine.state().name(), StateName::Error);
}

#[test]
fn a_requested_restart_is_no_crash() {
    let (mut machine, now) = fresh(RestartPolicy::Never, None);
    for _ in 0..20 {
        apply(&mut machine, Event::Due, now);
        apply(&mut machine, Event::Spawned { pid: 1 }, now);
        apply(&mut machine, Event::Request(Request::Restart), now);
        apply(&mut machine, Event::LeaderExited, now);
        apply(&mut machine, emptied(Exit::Signal(15)), now);
    }
    assert_eq!(
        (machine.state().name(), machine.generation(), machine.restarts()),
        (StateName::Starting, 20, 0)
    );
}

#[test]
fn a_stop_during_a_restart_ends_the_run() {
    let (mut machine, now) = fresh(RestartPolicy::Always, None);
    apply(&mut machine, Event::Due, now);
    apply(&mut machine, Event::Spawned { pid: 1 }, now);
    apply(&mut machine, Event::Request(Request::Restart), now);
    apply(&mut machine, Event::Request(Request::Stop), now);
    apply(&mut machine, Event::LeaderExited, now);
    apply(&mut machine, emptied(Exit::Code(0)), now);
    assert_eq!(machine.state().name(), StateName::Terminated);
}

proptest! {
    /// Whatever comes in whatever order, facts only as they can follow from effects: at most one process is launched
    /// at a time, each is cleared before the next, and nothing leaves a final state.
    #[test]
    fn no_order_of_requests_runs_two_processes_or_revives_the_dead(
        script in prop::collection::vec((0u8..10, 0u64..20_000), 1..60),
        policy in prop::sample::select(vec![RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always]),
        ready in prop::option::of(Just(5 * SECOND)),
    ) {
        let (mut machine, mut now) = fresh(policy, ready);
        let mut running = false;
        for (choice, wait) in script {
            now += Duration::from_millis(wait);
            let event = match choice {
                0 => Event::Request(Request::Stop),
                1 => Event::Request(Request::Kill),
                2 => Event::Request(Request::Pause),
                3 => Event::Request(Request::Resume),
                4 => Event::Request(Request::Restart),
                5 => Event::Request(Request::Ready),
                6 if running => Event::LeaderExited,
                _ if machine.deadline().is_some_and(|due| due <= now) => Event::Due,
                _ => continue,
            };
            let was_final = machine.state().name().is_final();
            let mut effects = machine.apply(event, now).unwrap_or_default();
            while !effects.is_empty() {
                prop_assert!(!was_final, "{effects:?} in a final state");
                match effects.remove(0) {
                    Effect::Launch => {
                        prop_assert!(!running);
                        let failed = wait % 5 == 0;
                        running = !failed;
                        let event = if failed { spawn_failed() } else { Event::Spawned { pid: 7 } };
                        effects.extend(machine.apply(event, now).expect("a launch was under way"));
                    }
                    Effect::Clear => {
                        prop_assert!(running);
                        running = false;
                        let exit = Exit::Code(i32::try_from(wait % 2).expect("0 or 1"));
                        effects.extend(machine.apply(emptied(exit), now).expect("a clearing was under way"));
                    }
                    Effect::Freeze => effects.extend(machine.apply(Event::Frozen, now).expect("it was active")),
                    Effect::Thaw => effects.extend(machine.apply(Event::Thawed, now).expect("it was paused")),
                    Effect::Take(_) => prop_assert!(running),
                    Effect::Announce | Effect::AnnounceExit { .. } | Effect::End => {}
                }
            }
            prop_assert_eq!(running, machine.state().running().is_some());
        }
    }
}

/// Every state worth telling apart, with the machine in it.
fn states() -> Vec<(String, Machine, Instant)> {
    let request = Event::Request;
    let spawned = || Event::Spawned { pid: 7 };
    let active = || vec![Event::Due, spawned()];
    let then = |events: Vec<Event>| [active(), events].concat();
    let paths = [
        (vec![], None),
        (then(vec![Event::LeaderExited, emptied(Exit::Code(3))]), None),
        (active(), Some(5 * SECOND)),
        (active(), None),
        (then(vec![Event::Frozen]), None),
        (then(vec![request(Request::Stop)]), None),
        (then(vec![request(Request::Restart)]), None),
        (then(vec![request(Request::Kill)]), None),
        (then(vec![Event::LeaderExited]), None),
        (then(vec![request(Request::Restart), Event::LeaderExited]), None),
        (then(vec![request(Request::Kill), emptied(Exit::Signal(9))]), None),
        (vec![Event::Due, spawn_failed()], None),
    ];
    let build = |(events, ready): (Vec<Event>, Option<Duration>)| {
        let (mut machine, now) = fresh(RestartPolicy::OnFailure, ready);
        for event in events {
            apply(&mut machine, event, now);
        }
        (describe(machine.state()), machine, now)
    };
    paths.into_iter().map(build).collect()
}

fn events() -> Vec<Event> {
    let requests =
        [Request::Stop, Request::Kill, Request::Pause, Request::Resume, Request::Restart, Request::Ready];
    let facts = [
        Event::Due,
        Event::Spawned { pid: 8 },
        spawn_failed(),
        Event::Frozen,
        Event::Thawed,
        Event::LeaderExited,
        emptied(Exit::Code(1)),
    ];
    requests.map(Event::Request).into_iter().chain(facts).collect()
}

fn describe(state: &State) -> String {
    match state {
        State::Waiting { .. } => "waiting".to_owned(),
        State::Warming { .. } => "warming".to_owned(),
        State::Active { .. } => "active".to_owned(),
        State::Paused { .. } => "paused".to_owned(),
        State::Stopping { step, then, .. } => {
            let step = match step {
                Step::Ladder { index, .. } => format!("step {index}"),
                Step::Clearing => "clearing".to_owned(),
            };
            let then = match then {
                Then::Stop { killed: false } => "stop",
                Then::Stop { killed: true } => "kill",
                Then::Restart => "restart",
                Then::Decide { not_ready: false } => "decide",
                Then::Decide { not_ready: true } => "decide (not ready)",
            };
            format!("stopping, {step}, then {then}")
        }
        State::Terminated { .. } => "terminated".to_owned(),
        State::Error { .. } => "error".to_owned(),
    }
}

fn list(effects: &[Effect]) -> String {
    let names: Vec<String> = effects
        .iter()
        .map(|effect| match effect {
            Effect::AnnounceExit { exit, .. } => format!("AnnounceExit({exit})"),
            other => format!("{other:?}"),
        })
        .collect();
    format!("[{}]", names.join(", "))
}

fn fresh(policy: RestartPolicy, ready: Option<Duration>) -> (Machine, Instant) {
    let now = Instant::now();
    let rules = Rules {
        policy,
        backoff: Backoff { jitter: 0.0, ..Backoff::default() },
        crash_loop: CrashLoop::default(),
        ..Rules::default()
    };
    (Machine::new(rules, vec![10 * SECOND, SECOND], ready, now), now)
}

fn apply(machine: &mut Machine, event: Event, now: Instant) {
    machine.apply(event, now).expect("the event fits the state");
}

fn emptied(exit: Exit) -> Event {
    Event::Emptied { exit, random_unit: 0.0 }
}

fn spawn_failed() -> Event {
    let error = SpawnError::ProgramNotFound { program: "nowhere".into(), path: "/bin".into() };
    Event::SpawnFailed { error, random_unit: 0.0 }
}
