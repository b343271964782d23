//! `ostler stop` and `ostler kill`: asks, then waits until no process of the agent is left.

use std::time::Duration;

use ostler_wire::{AgentId, AgentState, AgentSummary, ControlReply, StopRequest, Subject};

use crate::commands::control::sentence;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Outcome};
use crate::screen::Screen;
use crate::wait::StateWatch;
use crate::when::parse_duration;

/// The grace period of an agent that does not name its own, as the hosts have it.
const GRACE_DEFAULT_MS: u64 = 10_000;

/// What an end takes beside the grace period: the kill, the last words, the record.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for the end of an agent that gets no grace: usually milliseconds. The usual whole, so that a
/// machine under load is not called late.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(15);

/// How long to wait for the end of an agent that was asked to end: its own grace period and what comes after it.
pub(crate) fn stop_patience(agent: &AgentSummary) -> Duration {
    Duration::from_millis(agent.stop_grace_ms.unwrap_or(GRACE_DEFAULT_MS)).saturating_add(END_PATIENCE)
}

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
    /// How long to wait until it has ended [default: its grace period and 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
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
    let wait = match (args.no_wait, args.timeout) {
        (true, _) => Wait::Not,
        (false, Some(patience)) => Wait::AtMost(patience),
        (false, None) if args.force => Wait::AtMost(KILL_PATIENCE),
        (false, None) => Wait::ItsGrace,
    };
    end(&args.name, &Subject::stop(&args.name), &request, wait, places, screen).await
}

pub(crate) async fn kill(args: &KillArgs, places: &Places, screen: Screen) -> Outcome {
    let wait = if args.no_wait { Wait::Not } else { Wait::AtMost(KILL_PATIENCE) };
    end(&args.name, &Subject::kill(&args.name), &StopRequest::default(), wait, places, screen).await
}

/// Whether to wait for the end.
#[derive(Debug, Clone, Copy)]
enum Wait {
    Not,
    AtMost(Duration),
    ItsGrace,
}

async fn end(
    agent: &AgentId,
    subject: &Subject,
    request: &StopRequest,
    wait: Wait,
    places: &Places,
    screen: Screen,
) -> Outcome {
    let session = Session::open(places).await?;
    let patience = match wait {
        Wait::Not => None,
        Wait::AtMost(patience) => Some(patience),
        Wait::ItsGrace => Some(stop_patience(&session.agent(agent).await?)),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_waited_for_as_long_as_its_grace_period_takes() {
        let patience = |grace_ms: Option<u64>| {
            let agent: AgentSummary = serde_json::from_value(serde_json::json!({
                "agent_id": "a", "node": "n", "kind": "plain", "command": ["true"], "dir": "/",
                "restart": "never", "desired": "running", "state": "active", "status": "active",
                "restarts": 0, "stop_grace_ms": grace_ms,
            }))
            .unwrap();
            stop_patience(&agent)
        };
        assert_eq!(patience(None), Duration::from_secs(15));
        assert_eq!(patience(Some(0)), Duration::from_secs(5));
        assert_eq!(patience(Some(60_000)), Duration::from_secs(65));
        assert!(patience(Some(u64::MAX)) > Duration::from_secs(1 << 40), "it does not overflow");
    }
}
