//! `ostler stop` and `ostler kill`: asks, then waits until no process of the agent is left.

use std::time::Duration;

use ostler_wire::{AgentId, AgentState, ControlReply, StopRequest, Subject};

use crate::commands::control::sentence;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Outcome};
use crate::screen::Screen;
use crate::wait::StateWatch;
use crate::when::parse_duration;

/// The usual grace of 10 s and 5 s for everything around it.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
    /// Do not wait for its grace period: end it at once
    #[arg(short, long)]
    force: bool,
    /// Why, for the agent's notice and the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Return as soon as it was asked
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until it has ended; give more for agents with a long grace period
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15s")]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// The agent
    name: AgentId,
    /// Return as soon as it was asked
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let request = StopRequest { reason: args.reason.clone(), force: args.force, keep_desired: false };
    let patience = (!args.no_wait).then_some(args.timeout);
    end(&args.name, &Subject::stop(&args.name), &request, patience, places, screen).await
}

pub(crate) async fn kill(args: &KillArgs, places: &Places, screen: Screen) -> Outcome {
    let patience = (!args.no_wait).then_some(STOP_PATIENCE);
    end(&args.name, &Subject::kill(&args.name), &StopRequest::default(), patience, places, screen).await
}

async fn end(
    agent: &AgentId,
    subject: &Subject,
    request: &StopRequest,
    patience: Option<Duration>,
    places: &Places,
    screen: Screen,
) -> Outcome {
    let session = Session::open(places).await?;
    let mut watch = StateWatch::open(&session, agent).await?;
    let mut reply: ControlReply = match session.ask_host(agent, subject, request).await {
        // An agent that has ended has no host to answer; what was asked for is so.
        Err(failure) if failure.exit == Exit::Refused => match session.agent(agent).await?.state {
            AgentState::Terminated => {
                ControlReply { agent_id: agent.clone(), state: AgentState::Terminated, changed: false }
            }
            _ => return Err(failure),
        },
        answer => answer?,
    };
    if let Some(patience) = patience.filter(|_| reply.state.is_live()) {
        reply.state = watch.until("ended", patience, |seen| !seen.state.is_live()).await?;
        reply.changed = true;
    }
    screen.reply(&reply, sentence)
}
