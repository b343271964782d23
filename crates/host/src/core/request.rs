//! What is asked over the bus, and the answers. A request without a reply inbox is carried out all the same; when it is
//! refused, a notice among the agent's output says so, because nobody else would.

use ostler_wire::{
    AgentState, ControlReply, ErrorCode, ErrorReply, NoticeLevel, ShutdownMessage, StatusMessage,
    StopRequest, Subject,
};

use super::pace::Admission;
use super::{Ask, Asked, Core, Effect, Now, Writing, publish, refused, reply_json};
use crate::control::{Demand, Topic, input_refused, read, unit_refused};
use crate::turns::{ANSWER_WITHIN, Asker, Body, Full, Input, Place, WAITING_MAX};

impl Core {
    pub(super) fn requested(
        &mut self,
        topic: Topic,
        reply: Option<String>,
        payload: &[u8],
        fresh_id: String,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        // Our own publication, come back: the bus has it.
        if topic == Topic::Status && reply.is_none() {
            if let Ok(status) = serde_json::from_slice::<StatusMessage>(payload)
                && status.run_id == self.spec.run_id
                && status.revision <= self.revision
            {
                self.announced.came_back(status.revision);
            }
            return;
        }
        match read(topic, self.spec.spawn.kind, payload) {
            Ok(Demand::Pause | Demand::Resume | Demand::Restart { .. })
                if !self.is_of_others(reply.as_deref())
                    && !self.keeps_pace(topic, reply.as_ref(), now, fx) => {}
            Ok(demand) => self.demanded(demand, reply, fresh_id, now, fx),
            Err(refusal) => self.refuse(reply, refusal, now, fx),
        }
    }

    /// Whether somebody else than the agent asks, as far as it cannot choose that: on the daemon's own bus its requests
    /// can only name an inbox of its own.
    fn is_of_others(&self, reply: Option<&str>) -> bool {
        let own = format!("{}.", Subject::agent_inbox(&self.spec.agent_id));
        reply.is_some_and(|reply| reply.starts_with("_INBOX.") && !reply.starts_with(&own))
    }

    /// Whether the agent may order one more thing of itself; refuses it when not.
    fn keeps_pace(&mut self, topic: Topic, reply: Option<&String>, now: Now, fx: &mut Vec<Effect>) -> bool {
        let admission = self.pace.admits(now.mono);
        if admission != Admission::Admitted && (reply.is_some() || admission == Admission::RefusedFirst) {
            let message = format!("{} orders {} of itself too often", self.spec.agent_id, topic.as_str());
            let refusal = ErrorReply::new(ErrorCode::QueueFull, message).hint("try again in a moment");
            self.refuse(reply.cloned(), refusal, now, fx);
        }
        admission == Admission::Admitted
    }

    fn demanded(
        &mut self,
        demand: Demand,
        reply: Option<String>,
        fresh_id: String,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        match demand {
            Demand::Stop(request) => self.stop(&request, reply, fx),
            Demand::Pause => {
                let changed = self.view.state != AgentState::Paused;
                fx.push(Effect::Ask { ask: Ask::Pause, reply, changed });
            }
            Demand::Resume => {
                let changed = self.view.state == AgentState::Paused;
                fx.push(Effect::Ask { ask: Ask::Resume, reply, changed });
            }
            Demand::Restart { reason } => self.restart(reason, reply, fx),
            Demand::Status => {
                if let Some(reply) = reply {
                    fx.push(reply_json(reply, &self.status(now)));
                }
            }
            Demand::Input { id, body } => {
                self.input(id.unwrap_or(fresh_id), body, reply, now, fx);
            }
            Demand::Interrupt { id } => self.interrupt(id.unwrap_or(fresh_id), reply, now, fx),
        }
    }

    fn stop(&mut self, request: &StopRequest, reply: Option<String>, fx: &mut Vec<Effect>) {
        let ask = if request.force { Ask::Kill } else { Ask::Stop };
        let first = self.stop_asked.is_none();
        let asked_before = self.stop_asked.is_some_and(|forced| forced || !request.force);
        let changed = !asked_before && !self.view.is_final();
        // Who stops it for good is not overruled by a daemon that goes down and would bring it back.
        let keep_desired = request.keep_desired && (first || self.keep_desired);
        if changed {
            self.stop_asked = Some(request.force);
            self.announce_shutdown(request.reason.as_deref(), request.force, fx);
        }
        // The record tells the daemon, also should this host be killed before the agent has ended.
        if (first || self.keep_desired != keep_desired) && !self.view.is_final() {
            self.keep_desired = keep_desired;
            fx.push(Effect::Record);
        }
        fx.push(Effect::Ask { ask, reply, changed });
    }

    fn restart(&mut self, reason: Option<String>, reply: Option<String>, fx: &mut Vec<Effect>) {
        let changed = self.restart_asked != Some(self.view.generation) || self.view.pid.is_none();
        let runs = matches!(self.view.state, AgentState::Starting | AgentState::Active | AgentState::Paused);
        if changed && runs && self.view.pid.is_some() {
            self.announce_shutdown(Some(reason.as_deref().unwrap_or("restart")), false, fx);
        }
        if runs {
            self.restart_asked = Some(self.view.generation);
        }
        fx.push(Effect::Ask { ask: Ask::Restart, reply, changed });
    }

    pub(super) fn announce_shutdown(&self, reason: Option<&str>, force: bool, fx: &mut Vec<Effect>) {
        if self.up {
            let reason = reason.unwrap_or("stop requested").to_owned();
            let notice = ShutdownMessage { reason, approved: false, force };
            fx.push(publish(&Subject::shutdown(&self.spec.agent_id), &notice));
        }
    }

    fn input(&mut self, id: String, body: Body, reply: Option<String>, now: Now, fx: &mut Vec<Effect>) {
        if let Some(refusal) = input_refused(self.spec.agent_id.as_str(), self.view.state) {
            return self.refuse(reply, refusal, now, fx);
        }
        let asker = reply.clone().map(|reply| Asker { reply, until: now.mono + ANSWER_WITHIN });
        match self.turns.push(Input { id: id.clone(), body, asker }) {
            // Answered once it is in the agent's hands.
            Ok(Place::Next) => {}
            Ok(Place::Behind(before)) => {
                if let Some(reply) = reply {
                    self.tell_queued(reply, id, before, fx);
                }
            }
            Err(Full) => {
                let message = format!("{WAITING_MAX} inputs wait for {} already", self.spec.agent_id);
                let refusal =
                    ErrorReply::new(ErrorCode::QueueFull, message).hint("try again when a turn has ended");
                self.refuse(reply, refusal, now, fx);
            }
        }
    }

    fn interrupt(&mut self, input_id: String, reply: Option<String>, now: Now, fx: &mut Vec<Effect>) {
        let agent = &self.spec.agent_id;
        if let Some(refusal) = input_refused(agent.as_str(), self.view.state) {
            return self.refuse(reply, refusal, now, fx);
        }
        let idle = self.turns.running().is_none() && self.current_input.is_none();
        let refusal = match (self.adapter.serialises_turns(), idle, &self.writing) {
            (false, ..) => {
                let message = format!("a {} agent has no turns to interrupt", self.spec.spawn.kind);
                ErrorReply::new(ErrorCode::Unsupported, message)
            }
            (true, true, _) => ErrorReply::new(
                ErrorCode::IllegalState,
                format!("interrupt refused: no turn of {agent} runs"),
            ),
            (true, false, Some(_)) => {
                let message = format!("{agent} has not read its last input yet");
                ErrorReply::new(ErrorCode::QueueFull, message).hint("try again, or stop it")
            }
            (true, false, None) => match self.adapter.interrupt() {
                Some(bytes) => {
                    self.writing = Some(Writing::Interrupt { reply, input_id });
                    fx.push(Effect::Write(bytes));
                    return;
                }
                None => ErrorReply::new(ErrorCode::Unsupported, format!("{agent} cannot be interrupted")),
            },
        };
        self.refuse(reply, refusal, now, fx);
    }

    /// Passes the unit's answer on.
    pub(super) fn asked(&mut self, asked: Asked, now: Now, fx: &mut Vec<Effect>) {
        let Asked { ask, reply, changed, result } = asked;
        match (reply, result) {
            (Some(reply), Ok(state)) => {
                let agent_id = self.spec.agent_id.clone();
                fx.push(reply_json(reply, &ControlReply { agent_id, state, changed }));
            }
            (None, Ok(_)) => {}
            // Ready may come when a stop has begun; nobody asked, nobody needs to know.
            (None, Err(refusal)) if ask == Ask::Ready => fx.push(Effect::Log(refusal.to_string())),
            (reply, Err(refusal)) => {
                let mut refusal_reply = unit_refused(&refusal);
                if !self.view.state.is_live() {
                    refusal_reply = refusal_reply.hint("start it again with a spawn request");
                }
                self.refuse(reply, refusal_reply, now, fx);
            }
        }
    }

    fn refuse(&mut self, reply: Option<String>, refusal: ErrorReply, now: Now, fx: &mut Vec<Effect>) {
        match reply {
            Some(reply) => fx.push(refused(reply, &refusal)),
            None => {
                self.notice(NoticeLevel::Warning, format!("refused: {}", refusal.error.message), None, now);
                fx.push(Effect::Log(refusal.error.message));
            }
        }
    }
}
