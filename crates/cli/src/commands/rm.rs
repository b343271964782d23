//! `ostler rm`.

use ostler_wire::{AgentId, ControlReply, RemoveRequest, Subject};

use crate::commands::stop::KILL_PATIENCE;
use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::render::style;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
    /// End it first when it runs, without its grace period
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    let reply = remove(&session, &args.name, args.force).await?;
    screen.reply(&reply, |reply| format!("{} is removed", style::strong(&reply.agent_id)))
}

/// Forgets an agent; with `force` it may take as long as a kill.
pub(crate) async fn remove(session: &Session, agent: &AgentId, force: bool) -> Outcome<ControlReply> {
    session.check_own(agent).await?;
    let request = RemoveRequest { force };
    Ok(session.request_within(&Subject::remove(agent), &request, KILL_PATIENCE).await?)
}
