//! Claude Code as one persistent process that speaks stream-json on stdin and stdout; no terminal, no screen scraping.
//!
//! ```text
//! started   --> initialize, get_session_cost         (control requests of ours)
//! answered  <-- Ready                                (nothing else is printed before the first prompt)
//! turn      --> {"type":"user", ... "uuid"}
//!           <-- command_lifecycle started            TurnStarted
//!           <-- system/init                          Session, when it is another one
//!           <-- stream_event, assistant, user ...    Text, Thinking, ToolUse, ToolResult
//!           <-- control_request can_use_tool         answered at once by the decider
//!           <-- result                               Result with the turn's usage, TurnEnded
//! ```
//!
//! Failures: a session the CLI does not know ends the process before it is ready ([`Effect::SessionLost`]); a line that
//! is no message is published as plain output with a notice; a control request of a kind not known here is answered
//! with an error, because the CLI would wait for ever. The turn's state machine is in [`turn`].
//!
//! Facts are from version 2.1.329 ([`TESTED_VERSION`]); 2.1.197 lacks `command_lifecycle` and tells its version late.

mod control;
mod join;
mod launch;
mod read;
mod turn;
mod usage;

use ostler_wire::{AgentEvent, AgentKind, NoticeLevel, Usage};
use serde_json::Value;

use crate::{Activity, Adapter, Effect, Launch, LaunchContext, LaunchError, Refusal, Stream};
use join::{Joined, Joiner};
use turn::{Change, Input, Prompt, Turn};
use usage::Ledger;

/// The version the test data was captured from.
pub const TESTED_VERSION: &str = "2.1.329";

/// A line longer than this is published by itself, and its events without it: event and line together repeat the
/// content, and one message must stay below the bus's 8 MB.
const RAW_BYTES_MAX: usize = 1024 * 1024;

/// A question of the CLI whether a tool may run.
#[derive(Debug, Clone, Copy)]
pub struct PermissionQuestion<'a> {
    /// The tool's name as the CLI spells it.
    pub tool: &'a str,
    /// Its arguments.
    pub input: &'a Value,
}

/// The answer to a [`PermissionQuestion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermissionAnswer {
    /// It may run.
    Allow {
        /// Why, for the record.
        reason: String,
    },
    /// It may not.
    Deny {
        /// Why; the model reads it.
        reason: String,
    },
}

/// Answers permission questions at once, without waiting for anybody.
pub type Decider = Box<dyn FnMut(PermissionQuestion<'_>) -> PermissionAnswer + Send>;

/// The adapter for Claude Code.
pub struct Claude {
    decider: Decider,
    joiner: Joiner,
    ledger: Ledger,
    turn: Turn,
    /// The last session told, to tell only changes.
    session: Option<String>,
    activity: Option<Activity>,
    /// Numbers our control requests and prompts.
    requests: u64,
    /// What this process is and can.
    process: Process,
}

/// What is known of the present process; a new one starts from nothing.
#[derive(Default)]
struct Process {
    /// The control request `initialize`, until it is answered.
    initialize: Option<String>,
    /// The control request for the session's cost, until it is answered.
    session_cost: Option<String>,
    /// True once `initialize` was answered.
    ready: bool,
    /// Tells this process from every other of the session, for the uuids of prompts.
    nonce: String,
    /// The CLI's version, once told.
    version: Option<String>,
    /// True when it emits `command_lifecycle`.
    tells_prompts: bool,
    /// True when it emits `session_state_changed`.
    tells_activity: bool,
    /// True once a line that is no message was remarked on; a program gone astray would double its output else.
    remarked: bool,
}

impl Claude {
    /// The kind this adapter is for.
    pub const KIND: AgentKind = AgentKind::Claude;

    /// An adapter that denies every permission the CLI asks for.
    pub fn new() -> Self {
        Self::with_decider(Box::new(|_| PermissionAnswer::Deny {
            reason: "no approver is configured".to_owned(),
        }))
    }

    /// An adapter that answers permission questions with `decider`.
    pub fn with_decider(decider: Decider) -> Self {
        Self {
            decider,
            joiner: Joiner::default(),
            ledger: Ledger::new(),
            turn: Turn::default(),
            session: None,
            activity: None,
            requests: 0,
            process: Process::default(),
        }
    }

    fn next_request_id(&mut self) -> String {
        self.requests += 1;
        format!("ostler-{}", self.requests)
    }

    /// One whole line of stdout. The first event stands for the line.
    fn message(&mut self, line: &[u8]) -> Vec<Effect> {
        let message = match serde_json::from_slice::<Value>(line) {
            Ok(message) if message.is_object() => message,
            _ => return self.no_message(line),
        };
        match message["type"].as_str() {
            Some("system") => self.system(&message),
            Some("command_lifecycle") => self.lifecycle(&message),
            Some("result") => self.result(&message),
            Some("conversation_reset") => {
                self.ledger.cleared();
                vec![notice(NoticeLevel::Info, "the conversation was cleared")]
            }
            Some("control_request") => self.asked(&message),
            Some("control_response") => self.answered(&message),
            _ => read::events(&message).into_iter().map(told).collect(),
        }
    }

    fn no_message(&mut self, line: &[u8]) -> Vec<Effect> {
        let mut effects = vec![Effect::Line];
        if !std::mem::replace(&mut self.process.remarked, true) && !line.trim_ascii().is_empty() {
            effects.push(notice(
                NoticeLevel::Warning,
                "the agent wrote a line that is no message of its protocol; it and others like it are kept as plain output",
            ));
        }
        effects
    }

    fn system(&mut self, message: &Value) -> Vec<Effect> {
        match message["subtype"].as_str() {
            Some("init") => self.init(message),
            Some("session_state_changed") => {
                self.process.tells_activity = true;
                let mut effects = vec![told(read::other(message))];
                match message["state"].as_str() {
                    Some("running") => self.be(Activity::Working, &mut effects),
                    Some("idle") => self.be(Activity::Idle, &mut effects),
                    Some("requires_action") => self.be(Activity::Waiting, &mut effects),
                    _ => {}
                }
                effects
            }
            _ => read::events(message).into_iter().map(told).collect(),
        }
    }

    /// The first line of every turn, with the session it belongs to.
    fn init(&mut self, message: &Value) -> Vec<Effect> {
        let input = Input::Init { tells_prompts: self.process.tells_prompts };
        let mut effects = self.turn_changed(input, false, Usage::default());
        let version = message["claude_code_version"].as_str().map(str::to_owned);
        if let Some(session_id) = message["session_id"].as_str().filter(|id| !id.is_empty())
            && self.session.as_deref() != Some(session_id)
        {
            self.session = Some(session_id.to_owned());
            effects.push(Effect::Session(session_id.to_owned()));
            effects.push(told(AgentEvent::Session {
                session_id: session_id.to_owned(),
                model: message["model"].as_str().map(str::to_owned),
                version: version.clone().or_else(|| self.process.version.clone()),
            }));
        }
        if !effects.iter().any(|effect| matches!(effect, Effect::Event { .. })) {
            effects.push(told(read::other(message)));
        }
        if self.process.version.is_none() {
            effects.extend(doubt(version.as_deref()));
            self.process.version = Some(version.unwrap_or_default());
        }
        effects
    }

    /// What becomes of a prompt, by its uuid.
    fn lifecycle(&mut self, message: &Value) -> Vec<Effect> {
        self.process.tells_prompts = true;
        let uuid = message["command_uuid"].as_str().unwrap_or_default();
        let (input, failed) = match message["state"].as_str() {
            Some("started") => (Some(Input::Started(uuid)), false),
            Some("completed") => (Some(Input::Closed(uuid)), false),
            Some("cancelled") => (Some(Input::Closed(uuid)), true),
            _ => (None, false),
        };
        let mut effects = match input {
            Some(input) => self.turn_changed(input, failed, Usage::default()),
            None => Vec::new(),
        };
        if !effects.iter().any(|effect| matches!(effect, Effect::Event { .. })) {
            effects.insert(0, told(read::other(message)));
        }
        effects
    }

    /// The end of a turn, or of a process that could not even begin.
    fn result(&mut self, message: &Value) -> Vec<Effect> {
        let outcome = read::outcome(message);
        // Before it is ready no turn can run: the process gave up at its start.
        if !self.process.ready && self.turn == Turn::Idle && outcome.is_error {
            // Both are about the session we named: an id it has no conversation for, or no id at all.
            let lost = |error: &str| {
                error.starts_with("No conversation found") || error.contains("--resume requires")
            };
            if !read::errors(message).into_iter().any(lost) {
                return vec![notice(NoticeLevel::Error, outcome.text)];
            }
            self.session = None;
            let text = format!(
                "the agent cannot go on with its last session and starts a new one: {}",
                outcome.text
            );
            return vec![notice(NoticeLevel::Warning, text), Effect::SessionLost];
        }
        let usage = self.ledger.turn(message);
        let input =
            Input::Result { own: read::began_by_itself(message), tells_prompts: self.process.tells_prompts };
        let mut effects = vec![told(AgentEvent::Result {
            is_error: outcome.is_error,
            text: outcome.text,
            reason: outcome.reason,
            duration_ms: outcome.duration_ms,
            usage,
        })];
        effects.extend(self.turn_changed(input, outcome.is_error, usage));
        effects
    }

    /// A request of the CLI: it waits for the answer.
    fn asked(&mut self, message: &Value) -> Vec<Effect> {
        let request = &message["request"];
        let subtype = request["subtype"].as_str().unwrap_or("untyped");
        let Some(request_id) = message["request_id"].as_str() else {
            return vec![told(read::other(message))]; // It cannot be answered.
        };
        if subtype != "can_use_tool" {
            let answer = control::refuse(request_id, &format!("ostler does not support {subtype} requests"));
            return vec![
                told(AgentEvent::Other { name: format!("control_request/{subtype}") }),
                Effect::Write(answer),
            ];
        }
        let tool = request["tool_name"].as_str().unwrap_or_default();
        let input = &request["input"];
        let (allowed, reason, answer) = match (self.decider)(PermissionQuestion { tool, input }) {
            PermissionAnswer::Allow { reason } => (true, reason, control::allow(request_id, input)),
            PermissionAnswer::Deny { reason } => {
                let answer = control::deny(request_id, &reason);
                (false, reason, answer)
            }
        };
        let event = AgentEvent::Permission { tool: tool.to_owned(), input: input.clone(), allowed, reason };
        vec![told(event), Effect::Write(answer)]
    }

    /// The answer to a request of ours, or an echo of our answer to one of its own.
    fn answered(&mut self, message: &Value) -> Vec<Effect> {
        let response = &message["response"];
        let id = response["request_id"].as_str();
        let failed = response["subtype"] != "success";
        if id.is_some() && id == self.process.session_cost.as_deref() {
            self.process.session_cost = None;
            self.ledger.session_cost(response["response"]["text"].as_str().unwrap_or_default());
        }
        if id.is_none() || id != self.process.initialize.as_deref() {
            return vec![told(AgentEvent::Other { name: "control_response".to_owned() })];
        }
        self.process.initialize = None;
        if failed {
            let error = response["error"].as_str().unwrap_or("without a reason");
            // It prints nothing more and is ended when its time is over; why is known now, so it is said now.
            let text = format!(
                "the agent refused the handshake and cannot be used: {error}; it is ended when its {} s to get ready are over",
                launch::HANDSHAKE_TIMEOUT_MS / 1000
            );
            return vec![notice(NoticeLevel::Error, text)];
        }
        let answer = &response["response"];
        self.process.ready = true;
        self.process.nonce = answer["pid"].to_string();
        let mut effects = vec![told(AgentEvent::Other { name: "control_response/initialize".to_owned() })];
        if let Some(version) = answer["claude_code_version"].as_str() {
            // The version in this answer and the lifecycle of prompts came together, after 2.1.197.
            self.process.tells_prompts = true;
            self.process.version = Some(version.to_owned());
            effects.extend(doubt(Some(version)));
        }
        effects.push(Effect::Ready);
        self.be(Activity::Idle, &mut effects);
        effects
    }

    /// Moves the turn on and tells what that means.
    fn turn_changed(&mut self, input: Input<'_>, is_error: bool, usage: Usage) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.turn.apply(input) {
            Change::None => {}
            Change::Began(input_id) => {
                effects.push(Effect::TurnStarted { input_id });
                effects.push(told(AgentEvent::TurnStarted));
                self.be(Activity::Working, &mut effects);
            }
            Change::Ended(input_id) => {
                effects.push(Effect::TurnEnded { input_id, is_error, usage });
                // Where the CLI tells it itself: subagents may still be at work.
                if !self.process.tells_activity {
                    self.be(Activity::Idle, &mut effects);
                }
            }
        }
        effects
    }

    fn be(&mut self, activity: Activity, effects: &mut Vec<Effect>) {
        if self.activity.replace(activity) != Some(activity) {
            effects.push(Effect::Activity(activity));
        }
    }
}

impl Default for Claude {
    fn default() -> Self {
        Self::new()
    }
}

impl Adapter for Claude {
    fn launch(&self, context: &LaunchContext<'_>) -> Result<Launch, LaunchError> {
        launch::launch(context)
    }

    fn started(&mut self) -> Vec<Effect> {
        let initialize = self.next_request_id();
        let session_cost = self.next_request_id();
        let effects = vec![
            Effect::Write(control::initialize(&initialize)),
            Effect::Write(control::session_cost(&session_cost)),
        ];
        self.process =
            Process { initialize: Some(initialize), session_cost: Some(session_cost), ..Process::default() };
        self.joiner = Joiner::default();
        self.ledger.process_started();
        self.turn = Turn::default();
        self.session = None;
        self.activity = None;
        effects
    }

    fn line(&mut self, stream: Stream, line: &[u8], partial: bool) -> Vec<Effect> {
        if stream == Stream::Stderr {
            return vec![Effect::Line];
        }
        let mut effects = match self.joiner.push(line, partial) {
            Joined::Whole(line) => self.message(&line),
            Joined::Piece => return vec![Effect::Line],
            Joined::Last(whole) => {
                let effects = self.message(&whole);
                return apart(effects);
            }
            Joined::TooLong => {
                return vec![
                    Effect::Line,
                    notice(
                        NoticeLevel::Warning,
                        format!("a line of more than {} MiB was not interpreted", join::BYTES_MAX >> 20),
                    ),
                ];
            }
        };
        if line.len() > RAW_BYTES_MAX {
            return apart(effects);
        }
        carry(&mut effects);
        effects
    }

    fn turn(&mut self, input_id: &str, text: &str) -> Result<Vec<u8>, Refusal> {
        if text.trim().is_empty() {
            return Err(Refusal::EmptyPrompt);
        }
        let uuid = control::prompt_uuid(input_id, &self.process.nonce, self.requests + 1);
        self.turn
            .write(Prompt { input_id: input_id.to_owned(), uuid: uuid.clone() })
            .map_err(|input_id| Refusal::TurnRunning { input_id })?;
        self.requests += 1;
        Ok(control::prompt(text, &uuid))
    }

    fn interrupt(&mut self) -> Option<Vec<u8>> {
        let request_id = self.next_request_id();
        Some(control::interrupt(&request_id))
    }

    fn raw(&mut self, _bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::RawNotTaken { kind: Self::KIND })
    }

    fn serialises_turns(&self) -> bool {
        true
    }

    fn exited(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        let change = self.turn.apply(Input::Exited);
        if let Change::Ended(input_id) = change {
            effects.push(Effect::TurnEnded { input_id, is_error: true, usage: Usage::default() });
        }
        self.joiner = Joiner::default();
        self.process = Process::default();
        self.activity = None;
        effects
    }
}

fn told(event: AgentEvent) -> Effect {
    Effect::Event { event, raw: false }
}

fn notice(level: NoticeLevel, text: impl Into<String>) -> Effect {
    told(AgentEvent::Notice { level, text: text.into() })
}

/// Gives the line to the first event, or to itself when there is none.
fn carry(effects: &mut Vec<Effect>) {
    if effects.contains(&Effect::Line) {
        return;
    }
    match effects.iter_mut().find_map(|effect| match effect {
        Effect::Event { raw, .. } => Some(raw),
        _ => None,
    }) {
        Some(raw) => *raw = true,
        None => effects.insert(0, Effect::Line),
    }
}

/// Publishes the line beside its events.
fn apart(mut effects: Vec<Effect>) -> Vec<Effect> {
    if !effects.contains(&Effect::Line) {
        effects.insert(0, Effect::Line);
    }
    effects
}

/// A remark on a version the adapter was not tested with.
fn doubt(version: Option<&str>) -> Option<Effect> {
    let Some(version) = version.filter(|version| !version.is_empty()) else {
        return Some(notice(
            NoticeLevel::Warning,
            format!("the agent does not tell its version; ostler was tested with {TESTED_VERSION}"),
        ));
    };
    let numbers = |version: &str| -> Option<Vec<u64>> {
        version.split(['.', '-', '+']).take(3).map(|part| part.parse().ok()).collect()
    };
    match (numbers(version), numbers(TESTED_VERSION)) {
        (Some(told), Some(tested)) if told == tested => None,
        (Some(told), Some(tested)) if told > tested => Some(notice(
            NoticeLevel::Info,
            format!("the agent's version {version} is newer than the tested {TESTED_VERSION}"),
        )),
        _ => Some(notice(
            NoticeLevel::Warning,
            format!(
                "the agent's version {version} is not the tested {TESTED_VERSION}; update it if it misbehaves"
            ),
        )),
    }
}
