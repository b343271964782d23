//! A conversational agent of a few lines, and what the core makes of its life.

use super::*;
use ostler_agents::{Effect as AgentEffect, Readiness, Refusal as AgentRefusal, Stream as AgentStream};
use ostler_wire::{AgentId, AgentKind, ErrorCode, ExitStatus, InputReply, NodeId, RunId, SpawnRequest};
use serde_json::{Value, json};

use crate::turns::WAITING_MAX;

/// Its protocol: `hello` makes it ready, `session S`, `lost`, `ask` (wants an answer), `begin I`, `end I`, else a line.
struct Chat;

impl Adapter for Chat {
    fn launch(&self, context: &LaunchContext<'_>) -> Result<Launch, LaunchError> {
        Ok(Launch {
            program: "chat".into(),
            args: context.session.map(str::to_owned).into_iter().collect(),
            env: Vec::new(),
            ready: Readiness::AtOnce,
            stop: Vec::new(),
        })
    }
    fn started(&mut self) -> Vec<AgentEffect> {
        vec![AgentEffect::Write(b"hello?".to_vec())]
    }
    fn line(&mut self, _: AgentStream, line: &[u8], _: bool) -> Vec<AgentEffect> {
        let text = std::str::from_utf8(line).unwrap();
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let input_id = (!rest.is_empty()).then(|| rest.to_owned());
        let usage = Usage { output_tokens: 7, ..Usage::default() };
        let event = AgentEffect::Event { event: AgentEvent::TurnStarted, raw: true };
        match word {
            "hello" => vec![AgentEffect::Line, AgentEffect::Ready],
            "session" => vec![AgentEffect::Line, AgentEffect::Session(rest.to_owned())],
            "lost" => vec![AgentEffect::Line, AgentEffect::SessionLost],
            "ask" => vec![AgentEffect::Line, AgentEffect::Write(b"no".to_vec())],
            "begin" => {
                vec![AgentEffect::TurnStarted { input_id }, event, AgentEffect::Activity(Activity::Working)]
            }
            "end" => vec![
                AgentEffect::Line,
                AgentEffect::TurnEnded { input_id, is_error: false, usage },
                AgentEffect::Activity(Activity::Idle),
            ],
            _ => vec![AgentEffect::Line],
        }
    }
    fn turn(&mut self, input_id: &str, text: &str) -> Result<Vec<u8>, AgentRefusal> {
        Ok(format!("{input_id}: {text}").into_bytes())
    }
    fn interrupt(&mut self) -> Option<Vec<u8>> {
        Some(b"stop it".to_vec())
    }
    fn raw(&mut self, _: &[u8]) -> Result<Vec<u8>, AgentRefusal> {
        Err(AgentRefusal::RawNotTaken { kind: AgentKind::Claude })
    }
    fn serialises_turns(&self) -> bool {
        true
    }
    fn exited(&mut self) -> Vec<AgentEffect> {
        Vec::new()
    }
}

struct Run {
    core: Core,
    now: Now,
    messages: Vec<OutputMessage>,
}

impl Run {
    fn new(prompt: Option<&str>) -> Self {
        let spec = RunSpec {
            agent_id: AgentId::parse("a").unwrap(),
            run_id: RunId::parse("0190d2a0-0000-7000-8000-000000000001").unwrap(),
            node: NodeId::parse("n").unwrap(),
            spawn: SpawnRequest {
                kind: AgentKind::Claude,
                prompt: prompt.map(str::to_owned),
                ..SpawnRequest::default()
            },
            env: Vec::new(),
            agent_dir: "/a".into(),
            run_dir: "/r".into(),
            endpoint_file: "/e".into(),
            key_file: "/k".into(),
            cgroup: None,
            heartbeat_ms: 15_000,
            buffer_bytes_max: 1 << 20,
        };
        let now = Now { mono: Instant::now(), wall: Timestamp::UNIX_EPOCH };
        let core = Core::new(spec, Box::new(Chat), Some("s-0".into()), 1, now);
        let mut run = Self { core, now, messages: Vec::new() };
        run.core.apply(Event::Connected, now);
        run
    }

    /// A run whose agent is active and whose greeting is written.
    fn active(prompt: Option<&str>) -> Self {
        let mut run = Self::new(prompt);
        assert_eq!(run.written(run_state(AgentState::Starting, 1)), ["hello?"]);
        assert_eq!(run.done(), [""; 0]);
        run
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.core.apply(event, self.now);
        while let Some((_, payload)) = self.core.outbox().next(self.now.mono) {
            self.messages.push(serde_json::from_slice(&payload).unwrap());
        }
        effects
    }

    /// What an event causes to be written to stdin.
    fn written(&mut self, event: Event) -> Vec<String> {
        writes(&self.apply(event))
    }

    /// The write under way succeeded; what is written next.
    fn done(&mut self) -> Vec<String> {
        self.written(Event::Written(Ok(())))
    }

    fn line(&mut self, line: &str) -> Vec<Effect> {
        self.apply(Event::Line {
            generation: self.core.view.generation,
            stream: Stream::Stdout,
            line: Bytes::copy_from_slice(line.as_bytes()),
            partial: false,
            time: self.now.wall,
        })
    }

    fn input(&mut self, id: &str) -> Vec<Effect> {
        self.request(Topic::Input, &json!({"text": "hi", "input_id": id}))
    }

    fn request(&mut self, topic: Topic, message: &Value) -> Vec<Effect> {
        self.apply(Event::Request {
            topic,
            reply: Some("inbox".into()),
            payload: serde_json::to_vec(message).unwrap().into(),
            fresh_id: "fresh".into(),
        })
    }
}

/// The states an event has told, with their revisions.
fn told(effects: &[Effect]) -> Vec<(u64, AgentState)> {
    let statuses = effects.iter().filter_map(|effect| match effect {
        Effect::Publish { subject, payload } if subject == "agent.a.status" => {
            Some(serde_json::from_slice::<StatusMessage>(payload).unwrap())
        }
        _ => None,
    });
    statuses.map(|status| (status.revision, status.state)).collect()
}

/// Our own publication, as the bus brings it back.
fn come_back(run: &mut Run) {
    let payload = serde_json::to_vec(&run.core.status(run.now)).unwrap().into();
    run.apply(Event::Request { topic: Topic::Status, reply: None, payload, fresh_id: "fresh".into() });
}

#[test]
fn states_the_bus_has_not_taken_are_told_again_in_order() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    assert!(!run.core.is_announced());
    come_back(&mut run);
    assert!(run.core.is_announced());
    let first = run.core.announced();

    let effects = run.apply(run_state(AgentState::Stopping, 1));
    assert_eq!(told(&effects), [(first + 1, AgentState::Stopping)], "it is lost with the connection");
    run.apply(Event::Disconnected);
    let effects = run.apply(run_state(AgentState::Terminated, 1));
    assert!(told(&effects).is_empty());
    let before: Vec<AgentState> =
        run.core.status(run.now).changes.iter().map(|change| change.state).collect();
    assert!(before.ends_with(&[AgentState::Active, AgentState::Stopping]), "{before:?}");

    let effects = run.apply(Event::Connected);
    let terminated = AgentState::Terminated;
    let expected = [(first + 1, AgentState::Stopping), (first + 2, terminated), (first + 3, terminated)];
    assert_eq!(told(&effects), expected);
    assert!(!run.core.is_announced());
    come_back(&mut run);
    assert!(run.core.is_announced());
    run.apply(Event::Disconnected);
    assert_eq!(told(&run.apply(Event::Connected)), [(first + 4, terminated)], "nothing is told a third time");
}

fn run_state(state: AgentState, generation: u64) -> Event {
    let pid = matches!(state, AgentState::Starting | AgentState::Active | AgentState::Paused).then_some(7);
    Event::Changed(View { state, generation, pid, ..View::starting() })
}

fn writes(effects: &[Effect]) -> Vec<String> {
    let bytes = effects.iter().filter_map(|effect| match effect {
        Effect::Write(bytes) => Some(bytes),
        _ => None,
    });
    bytes.map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect()
}

fn reply<T: serde::de::DeserializeOwned>(effects: &[Effect]) -> Option<T> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { payload, .. } => Some(serde_json::from_slice(payload).unwrap()),
        _ => None,
    })
}

fn asks(effects: &[Effect]) -> Vec<Ask> {
    let asks = effects.iter().filter_map(|effect| match effect {
        Effect::Ask { ask, .. } => Some(*ask),
        _ => None,
    });
    asks.collect()
}

fn statuses(effects: &[Effect]) -> Vec<StatusMessage> {
    let payloads = effects.iter().filter_map(|effect| match effect {
        Effect::Publish { subject, payload } if subject.ends_with(".status") => Some(payload),
        _ => None,
    });
    payloads.map(|payload| serde_json::from_slice(payload).unwrap()).collect()
}

#[test]
fn a_turn_is_given_when_the_agent_is_ready_and_the_last_has_ended() {
    let mut run = Run::active(Some("first"));
    let queued: InputReply = reply(&run.input("i-1")).unwrap();
    assert_eq!((queued.delivered, queued.queued), (false, 0), "it is not ready");
    assert_eq!(asks(&run.line("hello")), [Ask::Ready]);
    assert_eq!(run.written(run_state(AgentState::Active, 1)), ["i-1: hi"]);
    assert_eq!(run.done(), [""; 0]);
    run.line("begin i-1");
    assert_eq!(run.messages.last().unwrap().input_id.as_deref(), Some("i-1"));
    assert_eq!(run.core.status(run.now).status, "working");
    let effects = run.line("end i-1");
    assert_eq!(writes(&effects), [format!("{}-first: first", run.core.spec.run_id)]);
    assert_eq!(statuses(&effects).last().unwrap().usage.unwrap().output_tokens, 7);
    let queued: InputReply = reply(&run.input("i-2")).unwrap();
    assert_eq!((queued.delivered, queued.queued), (false, 1));
}

#[test]
fn a_sender_hears_when_the_agent_has_its_input() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    let effects = run.input("i-1");
    assert_eq!((writes(&effects), reply::<Value>(&effects)), (vec!["i-1: hi".into()], None));
    let delivered: InputReply = reply(&run.apply(Event::Written(Ok(())))).unwrap();
    assert_eq!((delivered.input_id.as_str(), delivered.delivered), ("i-1", true));
}

#[test]
fn the_adapters_own_answers_go_before_any_input() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    assert_eq!(writes(&run.line("ask")), ["no"]);
    run.input("i-1");
    assert_eq!(writes(&run.line("ask")), [""; 0], "one write at a time");
    assert_eq!(run.done(), ["no"]);
    assert_eq!(run.done(), ["i-1: hi"]);
}

#[test]
fn a_crash_loses_the_running_turn_and_the_queue_goes_on_with_the_next_process() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    run.input("i-1");
    run.done();
    run.input("i-2");
    run.apply(Event::Exited);
    let lost = run.messages.last().unwrap();
    assert_eq!(lost.input_id.as_deref(), Some("i-1"));
    let Some(AgentEvent::Result { is_error: true, reason, .. }) = &lost.event else { panic!("{lost:?}") };
    assert_eq!(reason.as_deref(), Some("agent_exited"));
    let backoff = View { exit: Some(ExitStatus { code: Some(1), signal: None }), ..View::starting() };
    assert_eq!(run.written(Event::Changed(backoff)), [""; 0]);
    assert_eq!(run.written(run_state(AgentState::Active, 2)), ["hello?"]);
    assert_eq!(run.done(), ["i-2: hi"]);
}

#[test]
fn an_input_the_dead_process_never_read_waits_for_the_next() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    run.input("i-1");
    let state = ostler_supervise::state::StateName::Stopping;
    let effects = run.apply(Event::Written(Err(WriteError::NotRunning { state })));
    assert!(!reply::<InputReply>(&effects).unwrap().delivered);
    assert_eq!(writes(&effects), [""; 0], "it is not tried on the same process for ever");
    run.apply(Event::Exited);
    assert_eq!(run.written(run_state(AgentState::Active, 2)), ["hello?"]);
    assert_eq!(run.done(), ["i-1: hi"]);
}

#[test]
fn the_end_tells_everybody_whose_input_was_never_read() {
    let mut run = Run::active(None);
    run.input("i-1");
    run.apply(Event::Changed(View { state: AgentState::Terminated, ..View::starting() }));
    let told = run.messages.last().unwrap();
    assert_eq!(told.input_id.as_deref(), Some("i-1"));
    assert!(matches!(told.event, Some(AgentEvent::Notice { .. })));
    let refused: ErrorReply = reply(&run.input("i-2")).unwrap();
    assert_eq!(refused.error.code, ErrorCode::NotRunning);
}

#[test]
fn a_full_queue_is_refused() {
    let mut run = Run::active(None);
    for index in 0..WAITING_MAX {
        let queued: InputReply = reply(&run.input(&index.to_string())).unwrap();
        assert_eq!(queued.queued, index as u32);
    }
    let refused: ErrorReply = reply(&run.input("more")).unwrap();
    assert_eq!(refused.error.code, ErrorCode::QueueFull);
}

#[test]
fn a_session_is_kept_for_the_next_start_and_forgotten_when_it_is_lost() {
    let mut run = Run::active(None);
    assert_eq!(run.core.launch().unwrap().args, ["s-0"]);
    let effects = run.line("session s-1");
    assert!(effects.contains(&Effect::SaveSession(Some("s-1".into()))));
    let launch = run.core.launch().unwrap();
    assert_eq!(launch.args, ["s-1"]);
    assert!(effects.contains(&Effect::SetLaunch(Box::new(launch))));
    assert_eq!(statuses(&effects)[0].session_id.as_deref(), Some("s-1"));
    assert!(!run.line("session s-1").iter().any(|effect| matches!(effect, Effect::SaveSession(_))));
    let effects = run.line("lost");
    assert!(effects.contains(&Effect::SaveSession(None)));
    assert_eq!(asks(&effects), [Ask::Restart]);
    assert_eq!(run.core.launch().unwrap().args, [""; 0]);
}

#[test]
fn an_interrupt_needs_a_turn() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    let interrupt = json!({"type": "interrupt"});
    let refused: ErrorReply = reply(&run.request(Topic::Input, &interrupt)).unwrap();
    assert_eq!(refused.error.code, ErrorCode::IllegalState);
    run.input("i-1");
    run.done();
    assert_eq!(writes(&run.request(Topic::Input, &interrupt)), ["stop it"]);
    let delivered: InputReply = reply(&run.apply(Event::Written(Ok(())))).unwrap();
    assert!(delivered.delivered);
}

#[test]
fn every_publication_of_the_state_has_a_higher_revision() {
    let mut run = Run::active(None);
    let mut told = Vec::new();
    for event in [run_state(AgentState::Active, 1), Event::Connected, run_state(AgentState::Paused, 1)] {
        told.extend(statuses(&run.apply(event)));
        come_back(&mut run);
    }
    assert_eq!(told.len(), 3);
    assert!(told.is_sorted_by(|a, b| a.revision < b.revision));
    let query: StatusMessage = reply(&run.request(Topic::Status, &json!({}))).unwrap();
    assert_eq!(query.revision, told[2].revision, "a query is no publication");
    let own =
        Event::Request { topic: Topic::Status, reply: None, payload: Bytes::new(), fresh_id: String::new() };
    assert_eq!(run.apply(own), []);
}

#[test]
fn what_the_bus_denies_is_told_in_the_state_until_the_bus_is_there_anew() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    let effects = run.apply(Event::Denied("may not listen".into()));
    let told = &statuses(&effects)[0];
    assert_eq!((told.state, told.cause), (AgentState::Active, StatusCause::NotPermitted));
    assert_eq!(told.message.as_deref(), Some("may not listen"));
    assert!(statuses(&run.apply(Event::Denied("nor speak".into()))).is_empty(), "once");
    run.apply(Event::Disconnected);
    let again = &statuses(&run.apply(Event::Connected))[0];
    assert_eq!((again.cause, again.message.as_deref()), (StatusCause::Normal, None));
}

#[test]
fn without_its_guard_the_run_ends_as_an_error() {
    let mut run = Run::active(None);
    assert_eq!(asks(&run.apply(Event::GuardLost)), [Ask::Kill]);
    let ended = View { state: AgentState::Terminated, cause: StatusCause::Requested, ..View::starting() };
    let told = statuses(&run.apply(Event::Changed(ended)));
    assert_eq!((told[0].state, told[0].cause), (AgentState::Error, StatusCause::HostLost));
}

#[test]
fn heartbeats_come_at_their_interval_and_name_what_is_done() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    assert!(!run.apply(Event::Due).contains(&Effect::Beat));
    run.now.mono += Duration::from_secs(15);
    assert!(run.core.deadline() <= run.now.mono);
    assert!(run.apply(Event::Due).contains(&Effect::Beat));
    run.input("i-1");
    let Some(Effect::Publish { subject, payload }) = run.core.heartbeat(ProcessFacts::default(), run.now)
    else {
        panic!("the bus is there");
    };
    let beat: HeartbeatMessage = serde_json::from_slice(&payload).unwrap();
    assert_eq!(subject, "agent.a.heartbeat");
    assert_eq!((beat.status.as_str(), beat.current_task.as_str()), ("idle", "input i-1"));
    run.apply(Event::Disconnected);
    assert_eq!(run.core.heartbeat(ProcessFacts::default(), run.now), None);
}

#[test]
fn an_agent_orders_little_of_itself_and_others_are_heard_meanwhile() {
    let mut run = Run::active(None);
    run.apply(run_state(AgentState::Active, 1));
    let order = |run: &mut Run, topic, reply: Option<&str>| {
        run.apply(Event::Request {
            topic,
            reply: reply.map(str::to_owned),
            payload: Bytes::new(),
            fresh_id: "fresh".into(),
        })
    };
    let before = run.messages.len();
    let carried_out: usize = (0..1000)
        .map(|n| asks(&order(&mut run, if n % 2 == 0 { Topic::Pause } else { Topic::Resume }, None)).len())
        .sum();
    assert!((1..50).contains(&carried_out), "{carried_out}");
    assert_eq!(run.messages.len() - before, 1, "one notice tells what is refused");
    let refusal: ErrorReply = reply(&order(&mut run, Topic::Pause, Some("_INBOX.a.1"))).unwrap();
    assert_eq!(refusal.error.code, ErrorCode::QueueFull);

    assert_eq!(asks(&order(&mut run, Topic::Pause, Some("_INBOX.x.1"))), [Ask::Pause]);
    assert_eq!(asks(&order(&mut run, Topic::Stop, None)), [Ask::Stop], "an end is never held back");
    run.now.mono += Duration::from_secs(1);
    assert_eq!(asks(&order(&mut run, Topic::Resume, None)), [Ask::Resume]);
}
