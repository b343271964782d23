//! Replays real sessions of each CLI and compares every effect with the recorded expectation.
//!
//! ```text
//! testdata/<agent>/<case>/in.jsonl    steps: {"do": "start" | "turn" | "interrupt" | "close" | "exit"},
//!                                     {"out": line}, {"err": line}, {"in": what the adapter must have written}
//! testdata/<agent>/<case>/events.txt  one line a step, its effects indented below it
//! ```
//!
//! After a wanted change run with `OSTLER_BLESS=1` and read the difference before you commit it. `tests/rig/condense.py`
//! tells how to record a new case.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its data has failed")]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ostler_agents::{Adapter, Effect, Stream, adapter};
use ostler_wire::{AgentEvent, AgentKind, NoticeLevel, Usage};
use proptest::prelude::*;
use serde_json::Value;

/// Replays one case and tells what happened, as text.
struct Replay {
    adapter: Box<dyn Adapter>,
    /// Bytes the adapter wrote and the record has not confirmed yet.
    written: VecDeque<String>,
    /// A foreign prompt's uuid in the record, and the one our adapter gave it.
    uuids: Vec<(String, String)>,
    /// True when the record was made with our adapter, so that what it wrote can be compared.
    ours: bool,
    told: String,
}

impl Replay {
    fn new(kind: AgentKind, ours: bool) -> Self {
        Self {
            adapter: adapter(kind),
            written: VecDeque::new(),
            uuids: Vec::new(),
            ours,
            told: String::new(),
        }
    }

    fn step(&mut self, step: &Value) {
        if let Some(line) = step["in"].as_str() {
            assert_eq!(
                self.written.pop_front().as_deref(),
                Some(line),
                "the adapter writes what it wrote then"
            );
        } else if let Some(line) = step["out"].as_str() {
            let line =
                self.uuids.iter().fold(line.to_owned(), |line, (theirs, ours)| line.replace(theirs, ours));
            self.line(Stream::Stdout, &line);
        } else if let Some(line) = step["err"].as_str() {
            self.line(Stream::Stderr, line);
        } else {
            self.act(step);
        }
    }

    fn act(&mut self, step: &Value) {
        let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
        match step["do"].as_str().unwrap() {
            "start" => {
                self.heading("start");
                self.written.clear();
                let effects = self.adapter.started();
                self.tell(effects);
            }
            "turn" => {
                self.heading(&format!("turn {}: {}", text("input_id"), text("text")));
                match self.adapter.turn(&text("input_id"), &text("text")) {
                    Ok(bytes) => {
                        let line = one_line(&bytes);
                        if let Some(theirs) = step["uuid"].as_str() {
                            let sent: Value = serde_json::from_str(&line).unwrap();
                            self.uuids.push((theirs.to_owned(), sent["uuid"].as_str().unwrap().to_owned()));
                        }
                        self.written.push_back(line);
                    }
                    Err(refusal) => writeln!(self.told, "    refused: {refusal}").unwrap(),
                }
            }
            "interrupt" => {
                self.heading("interrupt");
                let bytes = self.adapter.interrupt().unwrap();
                self.written.push_back(one_line(&bytes));
            }
            "close" => self.heading("close stdin"),
            "exit" => {
                self.heading("exit");
                let effects = self.adapter.exited();
                self.tell(effects);
            }
            other => panic!("no such step: {other}"),
        }
    }

    fn line(&mut self, stream: Stream, line: &str) {
        let heading = match stream {
            Stream::Stderr => format!("stderr {line}"),
            Stream::Stdout => heading_of(line),
        };
        self.heading(&heading);
        let effects = self.adapter.line(stream, line.as_bytes(), false);
        assert_eq!(carriers(&effects), 1, "one effect carries the line: {line}");
        self.tell(effects);
    }

    fn heading(&mut self, text: &str) {
        writeln!(self.told, "{text}").unwrap();
    }

    fn tell(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let told = match effect {
                Effect::Line => "line".to_owned(),
                Effect::Event { event, raw } => {
                    // Their line is the heading; a name alone would repeat it.
                    if raw && matches!(event, AgentEvent::Other { .. }) {
                        continue;
                    }
                    let event = serde_json::to_string(&event).unwrap();
                    if raw { format!("event {event}") } else { format!("event without line {event}") }
                }
                Effect::Write(bytes) => {
                    let line = one_line(&bytes);
                    self.written.push_back(line.clone());
                    format!("write {line}")
                }
                Effect::Ready => "ready".to_owned(),
                Effect::TurnStarted { input_id } => format!("turn started: {}", whose(input_id)),
                Effect::TurnEnded { input_id, is_error, usage } => {
                    let how = if is_error { "failed" } else { "well" };
                    format!("turn ended {how}: {}, {}", whose(input_id), money(usage))
                }
                Effect::Session(session) => format!("session {session}"),
                Effect::SessionLost => "session lost".to_owned(),
                Effect::Activity(activity) => format!("activity {}", activity.as_str()),
            };
            writeln!(self.told, "    {told}").unwrap();
        }
    }
}

fn whose(input_id: Option<String>) -> String {
    input_id.unwrap_or_else(|| "the agent's own".to_owned())
}

fn money(usage: Usage) -> String {
    format!("{} in, {} out, ${:.6}", usage.input_tokens, usage.output_tokens, usage.cost_usd)
}

fn one_line(bytes: &[u8]) -> String {
    let line = bytes.strip_suffix(b"\n").expect("what is written ends with a line feed");
    assert!(!line.contains(&b'\n'), "and has no other");
    String::from_utf8(line.to_vec()).unwrap()
}

/// What a person calls the line.
fn heading_of(line: &str) -> String {
    let Ok(message) = serde_json::from_str::<Value>(line) else { return format!("stdout {line}") };
    let detail = [
        &message["subtype"],
        &message["request"]["subtype"],
        &message["event"]["delta"]["type"],
        &message["event"]["type"],
        &message["state"],
        &message["message"]["content"][0]["type"],
    ];
    let detail = detail.into_iter().filter_map(Value::as_str).next().unwrap_or_default();
    format!("stdout {} {detail}", message["type"].as_str().unwrap_or("untyped")).trim_end().to_owned()
}

/// How many effects carry the line to the bus.
fn carriers(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Line | Effect::Event { raw: true, .. })).count()
}

fn cases(agent: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(agent);
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

fn steps(case: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(case.join("in.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_capture_of_claude_gives_the_recorded_effects() {
    let mut stale = Vec::new();
    for case in cases("claude") {
        let steps = steps(&case);
        let ours = steps.iter().any(|step| step["in"].is_string());
        let mut replay = Replay::new(AgentKind::Claude, ours);
        for step in &steps {
            replay.step(step);
        }
        if replay.ours {
            assert_eq!(replay.written, VecDeque::<String>::new(), "in {}", case.display());
        }
        let expectation = case.join("events.txt");
        if std::env::var_os("OSTLER_BLESS").is_some() {
            std::fs::write(&expectation, &replay.told).unwrap();
        } else if std::fs::read_to_string(&expectation).unwrap_or_default() != replay.told {
            stale.push(case);
        }
    }
    assert!(stale.is_empty(), "other effects than recorded, see OSTLER_BLESS in the test's file: {stale:?}");
}

#[test]
fn a_refused_handshake_is_told_at_once_with_the_reason() {
    let mut claude = adapter(AgentKind::Claude);
    let asked = claude.started().into_iter().find_map(|effect| match effect {
        Effect::Write(bytes) => serde_json::from_slice::<Value>(&bytes).ok(),
        _ => None,
    });
    let answer = serde_json::json!({"type": "control_response", "response": {
        "subtype": "error", "request_id": asked.unwrap()["request_id"], "error": "this account is closed",
    }});
    let effects = claude.line(Stream::Stdout, answer.to_string().as_bytes(), false);
    let [Effect::Event { event: AgentEvent::Notice { level, text }, raw: true }] = &effects[..] else {
        panic!("one notice that carries the line: {effects:?}");
    };
    assert_eq!(*level, NoticeLevel::Error);
    assert!(text.contains("this account is closed") && text.contains("60 s"), "{text}");
}

/// All lines of all captures, for bending.
fn real_lines() -> Vec<String> {
    let lines =
        |case: PathBuf| steps(&case).into_iter().filter_map(|step| step["out"].as_str().map(str::to_owned));
    cases("claude").into_iter().flat_map(lines).collect()
}

/// What can be done to an adapter, in any order.
#[derive(Debug, Clone)]
enum Move {
    Start,
    Line(Vec<u8>, bool),
    Turn(String),
    Interrupt,
    Exit,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let real = proptest::sample::select(real_lines());
    // A real line with a few bytes replaced, or cut off in the middle.
    let bent = (
        real.clone(),
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        any::<bool>(),
    )
        .prop_map(|(line, changes, cut)| {
            let mut line = line.into_bytes();
            for (at, byte) in changes {
                let at = at.index(line.len());
                line[at] = byte;
                if cut {
                    line.truncate(at + 1);
                }
            }
            line
        });
    let line = prop_oneof![
        4 => real.prop_map(String::into_bytes),
        4 => bent,
        1 => proptest::collection::vec(any::<u8>(), 0..200),
    ];
    let one = prop_oneof![
        1 => Just(Move::Start),
        20 => (line, prop::bool::weighted(0.1)).prop_map(|(line, partial)| Move::Line(line, partial)),
        3 => "[a-c]".prop_map(Move::Turn),
        1 => Just(Move::Interrupt),
        1 => Just(Move::Exit),
    ];
    proptest::collection::vec(one, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever the process writes, in whatever order, the adapter neither panics nor loses nor doubles a line, never
    /// ends a turn nobody began, and never writes a broken line: a line that is no JSON would kill the CLI.
    #[test]
    fn no_sequence_of_lines_breaks_the_adapter(moves in moves()) {
        let mut adapter = adapter(AgentKind::Claude);
        let mut open: Option<String> = None;
        for one in moves {
            let effects = match one {
                Move::Start => {
                    open = None;
                    adapter.started()
                }
                Move::Line(line, partial) => {
                    let effects = adapter.line(Stream::Stdout, &line, partial);
                    prop_assert_eq!(carriers(&effects), 1);
                    effects
                }
                Move::Turn(input_id) => match adapter.turn(&input_id, "text") {
                    Ok(bytes) => {
                        prop_assert_eq!(&open, &None, "one prompt at a time");
                        open = Some(input_id);
                        vec![Effect::Write(bytes)]
                    }
                    Err(refusal) => {
                        prop_assert!(refusal.is_retryable() && open.is_some());
                        continue;
                    }
                },
                Move::Interrupt => vec![Effect::Write(adapter.interrupt().unwrap())],
                Move::Exit => {
                    let effects = adapter.exited();
                    let ended = effects.iter().any(
                        |effect| matches!(effect, Effect::TurnEnded { input_id: Some(_), is_error: true, .. }),
                    );
                    prop_assert_eq!(ended, open.is_some(), "an open prompt fails with the process");
                    effects
                }
            };
            for effect in effects {
                match effect {
                    Effect::Write(bytes) => {
                        prop_assert!(serde_json::from_str::<Value>(&one_line(&bytes)).unwrap().is_object());
                    }
                    Effect::TurnEnded { input_id: Some(input_id), usage, .. } => {
                        prop_assert_eq!(open.take(), Some(input_id));
                        prop_assert!(usage.cost_usd >= 0.0);
                    }
                    _ => {}
                }
            }
        }
    }
}
