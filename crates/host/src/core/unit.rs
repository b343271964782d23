//! What the process does, line by line, and what the adapter makes of it.

use ostler_agents::{Effect as AgentEffect, Stream as AgentStream};
use ostler_supervise::unit::{Stream, WriteError};
use ostler_wire::{
    AgentEvent, AgentState, ErrorCode, ErrorReply, InputReply, NoticeLevel, OutputStream, Timestamp, Usage,
};

use super::{Ask, Core, Effect, Now, Writing, refused, reply_json};
use crate::control::agent_refused;
use crate::output::Frame;
use crate::status::View;
use crate::turns::{Body, Input};

/// A line that is being interpreted.
#[derive(Clone, Copy)]
struct Line<'a> {
    generation: u64,
    stream: Stream,
    bytes: &'a [u8],
    partial: bool,
    time: Timestamp,
}

impl Core {
    pub(super) fn changed(&mut self, view: View, now: Now, fx: &mut Vec<Effect>) {
        let view = self.corrected(view);
        if view == self.view && self.revision > 0 {
            return;
        }
        self.view = view;
        self.turns.set_open(self.view.state == AgentState::Active);
        if self.view.pid.is_some() && self.greeted != self.view.generation {
            self.greeted = self.view.generation;
            self.activity = None;
            self.current_input = None;
            self.answers.clear();
            let effects = self.adapter.started();
            self.follow(effects, None, now, fx);
        }
        if self.view.state == AgentState::Active
            && let Some(text) = self.first_prompt.take()
        {
            // Noted before it is given: what was given twice could be done twice.
            fx.push(Effect::Prompted);
            let id = format!("{}-first", self.spec.run_id);
            let input = Input { id, body: Body::Prompt(text), asker: None };
            // The queue has room for the first of all; a refused one is told like any other.
            if self.turns.push(input).is_err() {
                self.notice(NoticeLevel::Error, "the first prompt found the queue full".into(), None, now);
            }
        }
        if self.view.is_final() {
            self.abandon_inputs(now, fx);
        }
        self.tell_state(now, fx);
    }

    /// No process will follow: whoever sent an input that nobody read is told.
    fn abandon_inputs(&mut self, now: Now, fx: &mut Vec<Effect>) {
        for input in self.turns.abandon() {
            let text = "the agent ended before it could read this input";
            self.input_failed(input, &ErrorReply::new(ErrorCode::NotRunning, text), now, fx);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    pub(super) fn line(
        &mut self,
        generation: u64,
        stream: Stream,
        bytes: &[u8],
        partial: bool,
        time: Timestamp,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let agent_stream = match stream {
            Stream::Stdout => AgentStream::Stdout,
            Stream::Stderr => AgentStream::Stderr,
        };
        let effects = self.adapter.line(agent_stream, bytes, partial);
        self.follow(effects, Some(Line { generation, stream, bytes, partial, time }), now, fx);
    }

    pub(super) fn exited(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let lost = self.turns.exited();
        let effects = self.adapter.exited();
        self.follow(effects, None, now, fx);
        self.answers.clear();
        self.current_input = None;
        if let Some(input_id) = lost {
            self.turn_lost(&input_id, now);
        }
    }

    /// Does what the adapter wants. `line` is the one that was just read.
    fn follow(&mut self, effects: Vec<AgentEffect>, line: Option<Line<'_>>, now: Now, fx: &mut Vec<Effect>) {
        for effect in effects {
            match effect {
                AgentEffect::Line => {
                    if let Some(line) = line {
                        let stream = match line.stream {
                            Stream::Stdout => OutputStream::Stdout,
                            Stream::Stderr => OutputStream::Stderr,
                        };
                        let message =
                            self.frame(line.generation, line.time).line(stream, line.bytes, line.partial);
                        self.emit(message, now);
                    }
                }
                AgentEffect::Event { event, raw } => {
                    let (generation, time) =
                        line.map_or((self.view.generation, now.wall), |line| (line.generation, line.time));
                    let raw = line.filter(|_| raw).map(|line| line.bytes);
                    let message = self.frame(generation, time).event(event, raw);
                    self.emit(message, now);
                }
                AgentEffect::Write(bytes) => self.answers.push_back(bytes),
                AgentEffect::Ready => fx.push(Effect::Ask { ask: Ask::Ready, reply: None, changed: true }),
                AgentEffect::TurnStarted { input_id } => self.current_input = input_id,
                AgentEffect::TurnEnded { input_id, is_error: _, usage } => {
                    self.turns.ended(input_id.as_deref());
                    self.current_input = None;
                    if usage != Usage::default() {
                        *self.usage.get_or_insert_with(Usage::default) += usage;
                        self.tell_state(now, fx);
                    }
                }
                AgentEffect::Session(id) => self.session_is(Some(id), now, fx),
                AgentEffect::SessionLost => {
                    self.session_is(None, now, fx);
                    let text = "the session to go on with is lost; the agent starts afresh";
                    self.notice(NoticeLevel::Warning, text.to_owned(), None, now);
                    fx.push(Effect::Ask { ask: Ask::Restart, reply: None, changed: true });
                }
                AgentEffect::Activity(activity) => {
                    if self.activity.replace(activity) != Some(activity) {
                        self.tell_state(now, fx);
                    }
                }
            }
        }
    }

    fn frame(&self, generation: u64, timestamp: Timestamp) -> Frame<'_> {
        Frame {
            agent_id: &self.spec.agent_id,
            run_id: self.spec.run_id,
            generation,
            input_id: self.current_input.as_deref(),
            timestamp,
        }
    }

    fn session_is(&mut self, session: Option<String>, now: Now, fx: &mut Vec<Effect>) {
        if self.session == session {
            return;
        }
        self.session.clone_from(&session);
        fx.push(Effect::SaveSession(session));
        self.tell_state(now, fx);
        match self.launch() {
            Ok(launch) => fx.push(Effect::SetLaunch(Box::new(launch))),
            // The same request was a command line at the first start; the running process keeps its session anyway.
            Err(error) => {
                fx.push(Effect::Log(format!("the next start keeps the last command line: {error}")));
            }
        }
    }

    /// Starts the next write, if one waits and none is under way.
    pub(super) fn pump(&mut self, now: Now, fx: &mut Vec<Effect>) {
        // A frozen agent reads nothing; its answers wait with everything else.
        let reads =
            self.view.pid.is_some() && matches!(self.view.state, AgentState::Starting | AgentState::Active);
        while self.writing.is_none() && reads {
            if let Some(bytes) = self.answers.pop_front() {
                self.writing = Some(Writing::Answer);
                fx.push(Effect::Write(bytes));
                return;
            }
            let Some(input) = self.turns.start_next() else { return };
            let bytes = match &input.body {
                Body::Prompt(text) => self.adapter.turn(&input.id, text),
                Body::Raw(bytes) => self.adapter.raw(bytes),
            };
            match bytes {
                Ok(bytes) => {
                    self.writing = Some(Writing::Input);
                    fx.push(Effect::Write(bytes));
                }
                Err(refusal) => {
                    if let Some(input) = self.turns.written(false) {
                        self.input_failed(input, &agent_refused(&refusal), now, fx);
                    }
                }
            }
        }
    }

    pub(super) fn written(&mut self, result: &Result<(), WriteError>, now: Now, fx: &mut Vec<Effect>) {
        match (self.writing.take(), result) {
            (None | Some(Writing::Answer), _) => {}
            (Some(Writing::Interrupt { reply, input_id }), Ok(())) => {
                if let Some(reply) = reply {
                    fx.push(self.delivered(reply, input_id));
                }
            }
            (Some(Writing::Interrupt { reply, .. }), Err(error)) => {
                if let Some(reply) = reply {
                    fx.push(refused(reply, &ErrorReply::new(ErrorCode::NotRunning, error.to_string())));
                }
            }
            (Some(Writing::Input), Ok(())) => {
                if let Some(input) = self.turns.written(true)
                    && let Some(asker) = input.asker
                {
                    fx.push(self.delivered(asker.reply, input.id));
                }
            }
            (Some(Writing::Input), Err(WriteError::NotRunning { .. })) => {
                // Nobody read any of it, so giving it to the next process is no replay.
                self.turns.set_open(false);
                if let Some((input_id, asker)) = self.turns.put_back() {
                    self.tell_queued(asker.reply, input_id, 0, fx);
                }
                if self.view.is_final() {
                    self.abandon_inputs(now, fx);
                }
            }
            (Some(Writing::Input), Err(WriteError::Closed)) => {
                if let Some(input) = self.turns.written(false) {
                    let text = "the agent closed its stdin before it had read all of this input";
                    self.input_failed(input, &ErrorReply::new(ErrorCode::NotRunning, text), now, fx);
                }
            }
        }
    }

    /// Tells everybody that an accepted input came to nothing.
    fn input_failed(&mut self, input: Input, refusal: &ErrorReply, now: Now, fx: &mut Vec<Effect>) {
        self.notice(NoticeLevel::Warning, refusal.error.message.clone(), Some(&input.id), now);
        if let Some(asker) = input.asker {
            fx.push(refused(asker.reply, refusal));
        }
    }

    fn turn_lost(&mut self, input_id: &str, now: Now) {
        let event = AgentEvent::Result {
            is_error: true,
            text: "the agent's process ended while it worked on this input; it is not given again".to_owned(),
            reason: Some("agent_exited".to_owned()),
            duration_ms: None,
            usage: Usage::default(),
        };
        self.emit_event(event, Some(input_id), now);
    }

    fn delivered(&self, reply: String, input_id: String) -> Effect {
        let agent_id = self.spec.agent_id.clone();
        reply_json(reply, &InputReply { agent_id, input_id, delivered: true, queued: 0 })
    }

    pub(super) fn tell_queued(&self, reply: String, input_id: String, before: u32, fx: &mut Vec<Effect>) {
        let agent_id = self.spec.agent_id.clone();
        fx.push(reply_json(reply, &InputReply { agent_id, input_id, delivered: false, queued: before }));
    }
}
