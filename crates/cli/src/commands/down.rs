//! `ostler down`: asks the daemon to end and waits until its process is gone.

use std::time::Duration;

use ostler_supervise::platform::{Identity, pidfd_exited};
use ostler_wire::{DownReply, DownRequest, Subject};

use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::render::style;
use crate::screen::Screen;
use crate::when::parse_duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the agents running; the next daemon takes them over
    #[arg(long)]
    keep_agents: bool,
    /// How long to wait until the daemon is gone; give more for agents with a long grace period
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    timeout: Duration,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    // Taken before asking: afterwards the id could be somebody else's.
    let daemon = Identity::of(session.endpoint.pid);
    let request = DownRequest { keep_agents: args.keep_agents };
    let subject = Subject::NodeDown(session.node.clone());
    let reply: DownReply = session.client.request_within(&subject, &request, args.timeout).await?;
    if let Some(daemon) = daemon.filter(|daemon| daemon.pid == reply.pid) {
        gone(daemon, args.timeout).await?;
    }
    screen.reply(&reply, |reply| {
        let agents = match (reply.stopped, reply.kept) {
            (0, 0) => String::new(),
            (stopped, 0) => format!("; {} stopped", agents(stopped)),
            (stopped, kept) => format!("; {} stopped, {kept} go on without it", agents(stopped)),
        };
        format!("the daemon {} is down{agents}", style::dim(format!("(pid {})", reply.pid)))
    })
}

async fn gone(daemon: Identity, patience: Duration) -> Outcome {
    match tokio::time::timeout(patience, pidfd_exited(daemon.pid, daemon.start_time)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::io("the daemon's process cannot be watched", &error)),
        Err(_) => {
            let message =
                format!("the daemon (pid {}) is still there after {} s", daemon.pid, patience.as_secs());
            Err(Failure::new(Exit::Timeout, message)
                .hint("wait longer with --timeout; its log is in the state directory"))
        }
    }
}

fn agents(count: u32) -> String {
    if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") }
}
