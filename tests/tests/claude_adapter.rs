//! The Claude adapter against the real Claude Code: each test is one thing the CLI's documentation does not promise.

use std::path::Path;

use e2e::driven::Driven;
use e2e::rig::{FakeLlm, claude_program, clean_env};
use ostler_agents::{Activity, Claude, Effect, PermissionAnswer};
use ostler_wire::{AgentEvent, AgentKind, NoticeLevel, SpawnRequest, Usage};
use tempfile::TempDir;

/// A server, an empty home and an empty project.
struct Bench {
    llm: FakeLlm,
    dirs: TempDir,
    spawn: SpawnRequest,
}

impl Bench {
    fn new() -> Self {
        let llm = FakeLlm::start();
        let dirs = tempfile::tempdir().expect("a temporary directory");
        for name in ["home", "project"] {
            std::fs::create_dir(dirs.path().join(name)).expect("a directory in it");
        }
        let spawn = SpawnRequest {
            kind: AgentKind::Claude,
            command: vec![claude_program().to_str().expect("a UTF-8 path").to_owned()],
            env: clean_env(&dirs.path().join("home"), &llm.base_url),
            ..SpawnRequest::default()
        };
        Self { llm, dirs, spawn }
    }

    fn project(&self) -> std::path::PathBuf {
        self.dirs.path().join("project")
    }

    /// A process that has answered the handshake.
    fn ready<'a>(&self, adapter: &'a mut Claude, session: Option<&str>) -> Driven<'a> {
        let mut driven = Driven::start(adapter, &self.spawn, session, &self.project());
        driven.until(|effect| *effect == Effect::Ready);
        driven
    }
}

fn result(event: AgentEvent) -> (bool, String, Usage) {
    match event {
        AgentEvent::Result { is_error, text, usage, .. } => (is_error, text, usage),
        other => panic!("not a result: {other:?}"),
    }
}

fn has_notice(effects: &[Effect], level: NoticeLevel) -> bool {
    effects.iter().any(
        |effect| matches!(effect, Effect::Event { event: AgentEvent::Notice { level: l, .. }, .. } if *l == level),
    )
}

#[test]
fn three_turns_are_answered_with_text_thinking_and_a_tool() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);

    let (is_error, text, usage) = result(agent.whole_turn("one", "hello"));
    assert_eq!((is_error, text.as_str()), (false, "echo: hello"));
    assert!(usage.input_tokens > 1000 && usage.output_tokens > 0 && usage.cost_usd > 0.0, "{usage:?}");

    let (_, text, second) = result(agent.whole_turn("two", "fake: think deep"));
    assert_eq!(text, "thought about it");
    assert!(second.cost_usd < 1.5 * usage.cost_usd, "a difference, not the sum: {second:?} after {usage:?}");
    assert!(agent.events().any(|event| *event == AgentEvent::Thinking { text: "deep".into(), delta: false }));

    let (_, text, _) = result(agent.whole_turn("three", "fake: bash echo from-bash"));
    assert_eq!(text, "result: from-bash");
    let ids: Vec<&str> = agent
        .events()
        .filter_map(|event| match event {
            AgentEvent::ToolUse { tool_use_id, .. } | AgentEvent::ToolResult { tool_use_id, .. } => {
                Some(tool_use_id.as_str())
            }
            _ => None,
        })
        .collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "a use and its result: {ids:?}");

    let (status, effects) = agent.close();
    assert!(status.success(), "{status}");
    assert!(!has_notice(&effects, NoticeLevel::Warning), "the pinned version raises no doubt");
    let ended = effects.iter().filter(|effect| matches!(effect, Effect::TurnEnded { .. })).count();
    assert_eq!(ended, 3);
    assert_eq!(effects.last(), Some(&Effect::Activity(Activity::Idle)));
}

#[test]
fn a_tool_that_needs_permission_is_denied_without_an_approver() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    let (is_error, text, _) = result(agent.whole_turn("one", "fake: bash touch made"));
    assert!(!is_error);
    assert!(text.contains("no approver is configured"), "{text}");
    assert!(!bench.project().join("made").exists());
    agent.close();
}

#[test]
fn a_tool_that_needs_permission_runs_with_an_approver() {
    let bench = Bench::new();
    let mut adapter = Claude::with_decider(Box::new(|question| {
        assert_eq!(question.tool, "Bash");
        PermissionAnswer::Allow { reason: "the test allows it".to_owned() }
    }));
    let mut agent = bench.ready(&mut adapter, None);
    agent.whole_turn("one", "fake: bash touch made");
    assert!(bench.project().join("made").exists());
    assert!(agent.events().any(|event| matches!(event, AgentEvent::Permission { allowed: true, .. })));
    agent.close();
}

#[test]
fn an_interrupted_turn_fails_and_the_next_one_runs() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    agent.turn("one", "fake: slow 1000 50");
    agent.until(|effect| matches!(effect, Effect::Event { event: AgentEvent::Text { delta: true, .. }, .. }));
    agent.interrupt();
    let ended = agent.until(|effect| matches!(effect, Effect::TurnEnded { .. }));
    assert!(
        matches!(&ended, Effect::TurnEnded { input_id: Some(id), is_error: true, usage } if id == "one" && usage.cost_usd > 0.0),
        "what it used up to then counts: {ended:?}"
    );
    assert_eq!(result(agent.whole_turn("two", "again")).1, "echo: again");
    agent.close();
}

#[test]
fn an_error_of_the_service_is_an_error_although_the_cli_calls_it_success() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    let (is_error, text, usage) = result(agent.whole_turn("one", "fake: status 400"));
    assert!(is_error && text.contains("scripted 400"), "{text}");
    assert_eq!(usage, Usage::default());
    let (status, _) = agent.close();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_killed_process_goes_on_with_its_session_and_its_cost_is_not_counted_twice() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    let (_, _, first) = result(agent.whole_turn("one", "remember the blue horse"));
    let session = agent.session();
    agent.turn("two", "fake: slow 1000 50");
    agent.until(|effect| matches!(effect, Effect::Event { event: AgentEvent::Text { delta: true, .. }, .. }));
    let (_, effects) = agent.kill();
    assert!(
        matches!(effects.last(), Some(Effect::TurnEnded { input_id: Some(id), is_error: true, .. }) if id == "two")
    );

    let mut agent = bench.ready(&mut adapter, Some(&session));
    let (_, _, third) = result(agent.whole_turn("three", "what was it?"));
    assert_eq!(agent.session(), session);
    assert!(third.cost_usd < 1.5 * first.cost_usd, "{third:?} after {first:?}");
    let conversation = bench.llm.last_conversation().join("\n");
    assert!(conversation.contains("remember the blue horse"), "{conversation}");
    agent.close();

    // After a clean exit the CLI goes on counting where it stopped.
    let mut agent = bench.ready(&mut adapter, Some(&session));
    let (_, _, fourth) = result(agent.whole_turn("four", "and now?"));
    assert!(fourth.cost_usd > 0.0 && fourth.cost_usd < 1.5 * first.cost_usd, "{fourth:?} after {first:?}");
    assert!(fourth.input_tokens < 2 * first.input_tokens, "{fourth:?} after {first:?}");
    agent.close();
}

#[test]
fn a_session_the_cli_does_not_know_is_told_as_lost() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    for session in ["5105afa3-56f3-4fdf-8c6d-7bd9da9bd3e9", "not-a-uuid"] {
        let mut agent = Driven::start(&mut adapter, &bench.spawn, Some(session), &bench.project());
        agent.until(|effect| *effect == Effect::SessionLost);
        let (status, effects) = agent.close();
        assert_eq!(status.code(), Some(1));
        assert!(!effects.contains(&Effect::Ready));
        assert!(has_notice(&effects, NoticeLevel::Warning));
    }
}

#[test]
fn a_cleared_conversation_has_another_session() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    agent.whole_turn("one", "hello");
    let before = agent.session();
    let (is_error, _, usage) = result(agent.whole_turn("two", "/clear"));
    assert!(!is_error);
    assert_eq!(usage, Usage::default());
    assert_ne!(agent.session(), before);
    let (_, _, usage) = result(agent.whole_turn("three", "hello again"));
    assert!(usage.cost_usd > 0.0);
    assert!(!bench.llm.last_conversation().join("\n").contains("echo: hello\""));
    agent.close();
}

#[test]
fn an_input_id_used_twice_is_answered_twice() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    assert_eq!(result(agent.whole_turn("same", "first")).1, "echo: first");
    assert_eq!(result(agent.whole_turn("same", "second")).1, "echo: second");
    agent.close();
}

#[test]
fn a_turn_the_agent_begins_by_itself_does_not_end_ours() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let mut agent = bench.ready(&mut adapter, None);
    let task = r#"{"description":"a task","prompt":"fake: slow 10 50","subagent_type":"general-purpose","run_in_background":true}"#;
    let (is_error, ..) = result(agent.whole_turn("one", &format!("fake: tool Agent {task}")));
    assert!(!is_error);
    // The subagent ends while this turn runs; the agent wants to talk about it.
    let (_, text, usage) = result(agent.whole_turn("two", "fake: slow 30 50"));
    assert!(text.starts_with("chunk0 ") && text.trim_end().ends_with("chunk29"), "{text}");
    assert!(usage.cost_usd > 0.0);
    assert_eq!(result(agent.whole_turn("three", "hello")).1, "echo: hello");
    let (_, effects) = agent.close();
    let said: Vec<&str> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Event { event: AgentEvent::Text { text, delta: false }, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert!(
        !said.contains(&"chunk0 chunk1 chunk2 chunk3 chunk4 chunk5 chunk6 chunk7 chunk8 chunk9 "),
        "{said:?}"
    );
}

#[test]
fn an_unused_agent_ends_by_itself_when_its_input_does() {
    let bench = Bench::new();
    let mut adapter = Claude::new();
    let agent = bench.ready(&mut adapter, None);
    let (status, effects) = agent.close();
    assert!(status.success());
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::TurnStarted { .. } | Effect::Session(_))));
    assert!(Path::new(&bench.spawn.command[0]).exists());
}
