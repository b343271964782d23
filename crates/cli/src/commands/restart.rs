//! `ostler restart`: asks, then waits until the agent has a new process.

use std::time::Duration;

use ostler_wire::{AgentId, AgentState, ControlReply, JsonMap, Subject};

use crate::commands::control::sentence;
use crate::commands::stop::stop_patience;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::screen::Screen;
use crate::wait::StateWatch;
use crate::when::parse_duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
    /// Return as soon as it was asked
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until it runs again [default: its grace period and 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    let before = session.agent(&args.name).await?;
    let (old, patience) = (before.pid, args.timeout.unwrap_or_else(|| stop_patience(&before)));
    let mut watch = StateWatch::open(&session, &args.name).await?;
    let mut reply: ControlReply =
        session.ask_host(&args.name, &Subject::restart(&args.name), &JsonMap::new()).await?;
    if !args.no_wait {
        let state = watch.until("started again", patience, |seen| match seen.state {
            AgentState::Active => seen.pid.is_some() && seen.pid != old,
            state => state == AgentState::Error,
        });
        reply.state = state.await?;
        if reply.state == AgentState::Error {
            let agent = session.agent(&args.name).await?;
            let why = agent.message.unwrap_or_else(|| "the daemon's events say why".to_owned());
            return Err(Failure::new(
                Exit::Failed,
                format!("{} could not be started again: {why}", args.name),
            ));
        }
    }
    screen.reply(&reply, sentence)
}
