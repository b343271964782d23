//! The one function that changes the state: an event and a moment in, decisions out. No I/O, no waiting.

use ostler_wire::{ErrorCode, ErrorReply, Subject};

use crate::control::{down, fallback, remove, spawn};
use crate::event::Event;
use crate::outcome::Outcome;
use crate::state::{Moment, State};
use crate::{audit, facts, neighbours, pages, relaunch, stale};

impl State {
    pub(crate) fn apply(&mut self, event: Event, moment: &Moment, out: &mut Outcome) {
        match event {
            Event::Spawn { agent, request, checked, message } => {
                audit::spawn(self, out, moment.now, &agent, &request, &message);
                spawn::apply(self, out, moment, &agent, *request, checked, message);
            }
            Event::Control { agent, topic, message } => {
                audit::control(self, out, moment.now, &agent, &topic, &message);
                fallback::apply(self, out, moment, &agent, &topic, message);
            }
            Event::Remove { agent, request, message } => {
                audit::removal(self, out, moment.now, &agent, &request, &message);
                remove::apply(self, out, moment.now, &agent, request, message);
            }
            Event::Query(query, message) => pages::apply(self, out, query, message),
            Event::Down { request, message } => {
                audit::down(self, out, moment.now, &request, message.as_ref());
                down::begin(self, out, moment.now, request, message);
            }
            Event::Heard { agent, topic, message } => {
                audit::heard(self, out, moment.now, &agent, &topic, &message);
            }
            Event::Audit(news) => audit::news(self, out, moment.now, news),
            Event::Refuse { refusal, message } => out.refuse(message, &refusal),
            Event::Status(status) => facts::status(self, out, *status, moment.now),
            Event::Heartbeat(beat) => facts::heartbeat(self, out, &beat, moment.now),
            Event::Output { output, reply } => facts::output(self, out, *output, reply, moment.now),
            Event::Neighbour(node) => neighbours::heard(self, out, node, moment.now),
            Event::Launched { agent, run } => facts::launched(self, &agent, run),
            Event::LaunchFailed { agent, run, refusal } => {
                facts::launch_failed(self, out, &agent, run, &refusal, moment);
            }
            Event::HostGone(gone) => facts::host_gone(self, out, *gone, moment),
            Event::LogSizes(sizes) => facts::log_sizes(self, sizes),
            Event::Tick(bus) => {
                facts::ask_silent(self, out);
                remove::tick(self, out);
                relaunch::tick(self, out, moment);
                audit::tick(self, out, moment.now);
                // Forgives everybody a sleep of ours, so before anybody is taken for gone.
                stale::tick(self, out, moment.now);
                neighbours::tick(self, bus, moment.now);
                down::tick(self, out, moment.now);
            }
        }
    }
}

/// The refusal for an agent nobody configured.
pub(crate) fn unknown_agent(agent: &ostler_wire::AgentId) -> ErrorReply {
    ErrorReply::new(ErrorCode::UnknownAgent, format!("no agent is called {agent}")).hint(format!(
        "`ostler ps --all` lists them; `ostler spawn {agent} -- COMMAND` makes one ({})",
        Subject::spawn(agent)
    ))
}
