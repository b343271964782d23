//! What the audit is told.

use ostler_client::Message;
use ostler_store::{AuditFact, Write};
use ostler_wire::{AgentEvent, AgentState, AgentTopic, DownRequest, HookEvent, RemoveRequest, RestartPolicy};

use super::world::*;
use crate::audit::News;
use crate::event::Event;
use crate::outcome::Outcome;

fn audited() -> World {
    let mut world = World::new();
    world.state.policy.audit = true;
    world
}

fn running() -> World {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    world.state.policy.audit = true;
    world
}

fn told(out: &Outcome) -> Vec<&AuditFact> {
    out.writes
        .iter()
        .filter_map(|write| match write {
            Write::AppendAudit(fact) => Some(fact.as_ref()),
            _ => None,
        })
        .collect()
}

fn kinds(out: &Outcome) -> Vec<&str> {
    told(out).iter().map(|fact| fact.kind.as_str()).collect()
}

fn message(subject: &str, payload: &str) -> Message {
    Message { payload: payload.to_owned().into(), by: Some("alice@box".into()), ..request(subject) }
}

#[test]
fn a_command_is_told_with_who_asked_before_what_came_of_it() {
    let mut world = audited();
    let out =
        world.spawn("a", ostler_wire::SpawnRequest { command: vec!["prog".into()], ..Default::default() });
    assert_eq!(kinds(&out), ["command.spawn", "agent.spawned", "agent.launched"]);
    assert_eq!(told(&out)[0].details["command"][0], "prog");

    let mut world = running();
    let message = message("agent.a.stop", r#"{"reason":"enough"}"#);
    let out = world.apply(Event::Control { agent: id("a"), topic: AgentTopic::Stop, message });
    assert_eq!(kinds(&out), ["command.stop"]);
    let fact = told(&out)[0];
    assert_eq!((fact.by.as_deref(), fact.details["reason"].as_str()), (Some("alice@box"), Some("enough")));
}

#[test]
fn an_event_is_told_as_it_is_recorded() {
    let mut world = running();
    let out = world.status("a", AgentState::Paused, 2);
    assert_eq!(kinds(&out), ["agent.state"]);
    assert_eq!(told(&out)[0].details["state"], "paused");
    let out = world.apply(Event::Audit(News::Trouble("the disk is full".into())));
    assert_eq!(kinds(&out), ["alert"]);
    assert_eq!(alerts(&out)[0].code, "audit_unavailable");
}

#[test]
fn what_an_agent_does_is_told_and_what_it_says_is_not() {
    let mut world = running();
    let use_of = |name: &str| AgentEvent::ToolUse {
        tool_use_id: "t1".into(),
        name: name.into(),
        input: serde_json::json!({ "command": "ls" }),
    };
    assert_eq!(kinds(&world.output("a", 1, Some(use_of("Bash")))), ["tool.use"]);
    assert!(kinds(&world.output("a", 1, Some(use_of("Bash")))).is_empty(), "sent again, told once");
    let permission = AgentEvent::Permission {
        tool: "Bash".into(),
        input: serde_json::json!({}),
        allowed: false,
        reason: "policy".into(),
    };
    let out = world.output("a", 2, Some(permission));
    assert_eq!(kinds(&out), ["approval.permission"]);
    assert_eq!(told(&out)[0].by.as_deref(), Some("agent"));
    let text = AgentEvent::Text { text: "secret".into(), delta: false };
    assert!(kinds(&world.output("a", 3, Some(text))).is_empty());
    assert!(kinds(&world.output("a", 4, None)).is_empty());
}

#[test]
fn inputs_queries_heartbeats_and_our_own_orders_are_not_told() {
    let mut world = running();
    for (topic, payload) in [
        (AgentTopic::Input, "{}"),
        (AgentTopic::Status, ""),
        (AgentTopic::Command, r#"{"type":"task","payload":"do"}"#),
    ] {
        let message = message("agent.a.x", payload);
        assert!(kinds(&world.apply(Event::Control { agent: id("a"), topic, message })).is_empty());
    }
    let forwarded = Message { forwarded: true, ..message("agent.a.pause", "") };
    let event = Event::Control { agent: id("a"), topic: AgentTopic::Pause, message: forwarded };
    assert!(kinds(&world.apply(event)).is_empty(), "told when it came first");

    let remove = message("agent.a.remove", "");
    let event = Event::Remove { agent: id("a"), request: RemoveRequest { force: true }, message: remove };
    assert_eq!(kinds(&world.apply(event)), ["command.remove"]);
    let ours = Message { reply: None, by: None, ..message("agent.a.stop", "{}") };
    let event = Event::Control { agent: id("a"), topic: AgentTopic::Stop, message: ours };
    assert!(kinds(&world.apply(event)).is_empty(), "ours, repeated every second");
}

#[test]
fn hooks_and_questions_of_agents_are_told() {
    let mut world = running();
    let hook = AgentTopic::Hook(HookEvent::parse("PreToolUse").unwrap());
    for (topic, kind) in [(hook, "hook.PreToolUse"), (AgentTopic::StopRequest, "approval.stop")] {
        let message = message("agent.a.x", r#"{"tool_name":"Bash"}"#);
        let out =
            world.apply(Event::Heard { agent: id("a"), topic: topic.clone(), message: message.clone() });
        assert_eq!(kinds(&out), [kind]);
        assert!(answers(&out).is_empty());
        let out = world.apply(Event::Heard { agent: id("stranger"), topic, message });
        assert!(kinds(&out).is_empty(), "another node's");
    }
}

#[test]
fn the_end_of_the_daemon_is_told_with_who_asked() {
    let mut world = running();
    let out = world.apply(Event::Down { request: DownRequest { keep_agents: true }, message: None });
    assert_eq!(kinds(&out), ["command.down", "daemon.stopping"]);
    assert_eq!(told(&out)[0].by.as_deref(), Some("signal"));
}

#[test]
fn without_an_audit_nothing_is_told() {
    let mut world = World::running("a", RestartPolicy::OnFailure);
    assert!(kinds(&world.control("a", AgentTopic::Stop)).is_empty());
}

#[test]
fn that_the_audit_is_off_is_kept_for_who_switches_it_on() {
    let mut out = Outcome::default();
    let world = World::new();
    crate::audit::started(&world.state, &mut out, world.now);
    assert_eq!(kinds(&out), ["audit.off"]);
    let mut out = Outcome::default();
    crate::audit::started(&audited().state, &mut out, world.now);
    assert!(kinds(&out).is_empty());
}

#[test]
fn a_flood_is_told_by_its_number_and_drives_nothing_out() {
    let mut world = running();
    let flood: usize = (0..2000).map(|_| kinds(&world.control("a", AgentTopic::Pause)).len()).sum();
    assert_eq!(flood, 600);
    assert!(kinds(&world.tick(1_000)).is_empty(), "the minute is not over");
    let out = world.tick(60_000);
    let fact = told(&out).into_iter().find(|fact| fact.kind == "audit.flood").unwrap();
    assert_eq!(fact.details["left_out"], 1400);
    assert_eq!(kinds(&world.control("a", AgentTopic::Pause)), ["command.pause"]);
}

#[test]
fn an_agent_drives_nothing_out_of_the_audit_that_others_ask_of_it() {
    let mut world = running();
    let hook = AgentTopic::Hook(HookEvent::parse("PreToolUse").unwrap());
    for _ in 0..700 {
        let message = message("agent.a.hook.PreToolUse", "{}");
        world.apply(Event::Heard { agent: id("a"), topic: hook.clone(), message });
        let own = Message { reply: Some("_INBOX.a.1".into()), ..request("agent.a.pause") };
        world.apply(Event::Control { agent: id("a"), topic: AgentTopic::Pause, message: own });
    }
    let others = Message { reply: Some("_INBOX.x1.1".into()), ..request("agent.a.kill") };
    let out = world.apply(Event::Control { agent: id("a"), topic: AgentTopic::Kill, message: others });
    assert_eq!(kinds(&out), ["command.kill"]);

    let out = world.apply(Event::Down { request: DownRequest { keep_agents: true }, message: None });
    let flood = told(&out).into_iter().find(|fact| fact.kind == "audit.flood").expect("told before the end");
    assert_eq!(flood.details["left_out"], 200);
}

#[test]
fn an_agent_that_changes_its_state_without_end_does_not_fill_the_audit() {
    let mut world = running();
    let states = [AgentState::Paused, AgentState::Active];
    let all = (2..1002).map(|revision| world.status("a", states[revision as usize % 2], revision));
    let told: usize = all.map(|out| kinds(&out).len()).sum();
    assert!((500..=600).contains(&told), "{told}");
    let out = world.status("a", AgentState::Terminated, 1002);
    assert_eq!(kinds(&out), ["agent.state"], "an end is told in any case");
    let out = world.tick(60_000);
    let flood = told_flood(&out).expect("the rest by its number");
    assert_eq!(flood.details["left_out"], 1000 - told);
    assert_eq!(flood.details["state"], "terminated");
}

fn told_flood(out: &Outcome) -> Option<&AuditFact> {
    told(out).into_iter().find(|fact| fact.kind == "audit.flood")
}
