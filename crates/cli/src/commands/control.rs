//! `ostler pause` and `ostler resume`: one request, answered when it is done.

use ostler_wire::{AgentId, ControlReply, JsonMap, Subject};

use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::render::agents::state;
use crate::render::style;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
}

/// Which of the requests without a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Pause,
    Resume,
}

impl Control {
    fn subject(self, agent: &AgentId) -> Subject {
        match self {
            Self::Pause => Subject::pause(agent),
            Self::Resume => Subject::resume(agent),
        }
    }
}

pub(crate) async fn run(control: Control, args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    let subject = control.subject(&args.name);
    let reply: ControlReply = session.ask_host(&args.name, &subject, &JsonMap::new()).await?;
    screen.reply(&reply, sentence)
}

/// `reviewer is paused`, or that it already was.
pub(crate) fn sentence(reply: &ControlReply) -> String {
    let was_so = if reply.changed { "is" } else { "was already" };
    format!("{} {was_so} {}", style::strong(&reply.agent_id), state(reply.state))
}
