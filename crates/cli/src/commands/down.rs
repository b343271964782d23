//! `ostler down`: asks the daemon to end and waits until its process is gone.

use std::time::Duration;

use ostler_daemon::StateDir;
use ostler_supervise::platform::{Identity, ask_to_end, pidfd_exited};
use ostler_wire::{AgentSummary, DownReply, DownRequest, JsonMap, NodeInfo, Subject};

use crate::commands::stop::stop_patience;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::render::style;
use crate::screen::Screen;
use crate::when::{parse_duration, span};

/// For a daemon without agents, or with hasty ones: it may be busy.
const PATIENCE_MIN: Duration = Duration::from_secs(20);

/// What the daemon takes beside its agents: killing those that did not end, closing its store.
const END_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the agents running; the next daemon takes them over
    #[arg(long)]
    keep_agents: bool,
    /// How long to wait until the daemon is gone [default: its agents' longest grace period and 15s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let reply = match Session::open(places).await {
        Ok(session) => {
            let patience = match args.timeout {
                Some(patience) => patience,
                None => patience(&session.agents().await?.agents),
            };
            end(&session, args.keep_agents, patience).await?
        }
        Err(failure) if failure.exit == Exit::NoDaemon => {
            let state = StateDir::new(&places.state_dir);
            let Some(waiting) = state.waiting() else { return Err(failure) };
            end_waiting(&state, waiting.identity(), args.timeout.unwrap_or(END_PATIENCE)).await?
        }
        Err(failure) => return Err(failure),
    };
    screen.reply(&reply, |reply| {
        let agents = match (reply.stopped, reply.kept) {
            (0, 0) => String::new(),
            (stopped, 0) => format!("; {} stopped", agents(stopped)),
            (0, kept) => format!("; {} left running", agents(kept)),
            (stopped, kept) => format!("; {} stopped, {kept} left running", agents(stopped)),
        };
        format!("the daemon {} is down{agents}", style::dim(format!("(pid {})", reply.pid)))
    })
}

/// The daemon gives its agents the longest grace period of them all and up to 10 s more, and ends by itself.
fn patience(agents: &[AgentSummary]) -> Duration {
    agents.iter().map(stop_patience).max().unwrap_or_default().max(PATIENCE_MIN).saturating_add(END_PATIENCE)
}

/// Asks the daemon to end and waits until its process is gone.
pub(crate) async fn end(session: &Session, keep_agents: bool, patience: Duration) -> Outcome<DownReply> {
    // Taken before asking: afterwards the id could be somebody else's.
    let daemon = Identity::of(session.endpoint.pid);
    let subject = Subject::NodeInfo(session.node.clone());
    let node: NodeInfo = session.request(&subject, &JsonMap::new()).await?;
    let Some(daemon) = daemon.filter(|daemon| daemon.pid == node.pid) else {
        // A process we cannot see: its word is all there is.
        return ask(session, keep_agents, patience).await;
    };
    let end = async {
        tokio::select! {
            biased;
            reply = ask(session, keep_agents, patience) => {
                let reply = reply?;
                gone(daemon).await?;
                Ok(reply)
            }
            // Its last word can be lost with the bus it was said on; that it is gone is the better answer.
            ended = gone(daemon) => ended.map(|()| {
                let (stopped, kept) = if keep_agents { (0, node.agents_live) } else { (node.agents_live, 0) };
                DownReply { pid: daemon.pid, stopped, kept }
            }),
        }
    };
    tokio::time::timeout(patience, end).await.unwrap_or_else(|_| Err(still_there(daemon, patience)))
}

/// Ends a daemon that waits for its bus, where it can be asked by signal alone. It has no way to its agents, so these go
/// on; whoever wants to end them needs the bus.
async fn end_waiting(state: &StateDir, daemon: Identity, patience: Duration) -> Outcome<DownReply> {
    ask_to_end(daemon).map_err(|error| {
        Failure::io(
            format!("the daemon (pid {}), which waits for its bus, cannot be ended", daemon.pid),
            &error,
        )
    })?;
    match tokio::time::timeout(patience, gone(daemon)).await {
        Ok(ended) => ended.map(|()| DownReply { pid: daemon.pid, stopped: 0, kept: state.hosts_alive() }),
        Err(_) => Err(still_there(daemon, patience)),
    }
}

fn still_there(daemon: Identity, patience: Duration) -> Failure {
    let message = format!("the daemon (pid {}) is still there after {}", daemon.pid, span(patience));
    Failure::new(Exit::Timeout, message).hint("wait longer with --timeout; its log is in the state directory")
}

async fn ask(session: &Session, keep_agents: bool, patience: Duration) -> Outcome<DownReply> {
    let request = DownRequest { keep_agents };
    Ok(session.request_within(&Subject::NodeDown(session.node.clone()), &request, patience).await?)
}

async fn gone(daemon: Identity) -> Outcome {
    pidfd_exited(daemon.pid, daemon.start_time)
        .await
        .map_err(|error| Failure::io("the daemon's process cannot be watched", &error))
}

fn agents(count: u32) -> String {
    if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") }
}
