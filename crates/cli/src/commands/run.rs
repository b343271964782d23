//! `ostler run`: an agent as if it were an ordinary command. It gets a name, its output is shown, Ctrl-C stops it, its
//! exit code is ours, and nothing of it is left.

use std::process::ExitCode;

use ostler_wire::{
    AgentId, AgentState, ExitStatus, OutputMessage, RestartPolicy, RunId, SpawnReply, StatusCause,
    StatusMessage, StopRequest, Subject, Timestamp,
};
use tokio::time::{Duration, Instant, MissedTickBehavior};

use crate::commands::logs::Printer;
use crate::commands::rm::remove;
use crate::commands::spawn::Definition;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::follow::Stream;
use crate::render::output::{Pace, ending};
use crate::screen::Screen;

/// How often the node is asked whether the agent's last word was missed.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C stops the agent with its grace period, a second Ctrl-C ends it at once.

Example:
  ostler run -- make test")]
pub(crate) struct Args {
    /// Its name [default: a generated one]
    #[arg(long)]
    name: Option<AgentId>,
    /// Keep the agent and its logs when it has ended
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    definition: Definition,
}

pub(crate) async fn run(args: Args, places: &Places, screen: Screen) -> Outcome<ExitCode> {
    let request = args.definition.request(RestartPolicy::Never, false)?;
    let session = Session::open(places).await?;
    let name = match args.name {
        Some(name) => name,
        None => generated_name(&uuid::Uuid::new_v4()),
    };
    // One subscription for output and state keeps their order: the last word comes after the last line.
    let mut said = session.client.subscribe(Subject::all_of_agent(&name)).await?;
    let reply: SpawnReply = session.client.request(&Subject::spawn(&name), &request).await?;
    let pid = reply.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    screen.note(format!("running as {name}{pid}"));

    let mut stream = Stream::new(&session, &name);
    let mut printer = Printer::new(screen, Pace::Pieces);
    let mut interrupts = 0;
    let mut ask = tokio::time::interval_at(Instant::now() + ASK_INTERVAL, ASK_INTERVAL);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let last = loop {
        tokio::select! {
            message = said.next() => {
                let Some(message) = message else {
                    return Err(ostler_client::Error::Closed("while the agent was running".into()).into());
                };
                match Subject::parse(&message.subject) {
                    Ok(Subject::Agent(_, ostler_wire::AgentTopic::Output)) => {
                        if let Ok(output) = message.json::<OutputMessage>() {
                            stream.take(output, &mut |item| printer.item(item)).await?;
                        }
                    }
                    Ok(Subject::Agent(_, ostler_wire::AgentTopic::Status)) if message.reply.is_none() => {
                        if let Some(status) = last_word(message.json().ok(), reply.run_id) {
                            break status;
                        }
                    }
                    _ => {}
                }
            }
            _ = ask.tick() => if let Some(status) = missed_word(&session, &name, reply.run_id).await? {
                stream.catch_up(&mut |item| printer.item(item)).await?;
                break status;
            },
            signal = tokio::signal::ctrl_c() => {
                signal.map_err(|error| Failure::io("Ctrl-C cannot be caught", &error))?;
                interrupts += 1;
                interrupt(&session, &name, interrupts, screen).await?;
            }
        }
    };
    if !args.keep {
        remove(&session, &name, true).await?;
    }
    outcome(&last, screen)
}

fn generated_name(random: &uuid::Uuid) -> AgentId {
    let hex = random.simple().to_string();
    AgentId::parse(&format!("run-{}", &hex[..8])).expect("letters, digits and a dash follow the rule")
}

/// The status of our run once nothing of it is left.
fn last_word(status: Option<StatusMessage>, run_id: RunId) -> Option<StatusMessage> {
    status.filter(|status| status.run_id == run_id && !status.state.is_live())
}

/// The last word as the node recorded it: for a publication that came while our connection was away.
async fn missed_word(session: &Session, name: &AgentId, run_id: RunId) -> Outcome<Option<StatusMessage>> {
    let agent = match session.agent(name).await {
        Ok(agent) => agent,
        // No daemon right now: the agent goes on without it, and so do we.
        Err(failure) if matches!(failure.exit, Exit::NoDaemon | Exit::Timeout) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let is_over = agent.run_id == Some(run_id) && !agent.state.is_live();
    Ok(is_over.then(|| StatusMessage {
        agent_id: agent.agent_id,
        status: agent.status,
        message: agent.message,
        timestamp: Timestamp::now(),
        state: agent.state,
        cause: agent.cause,
        run_id,
        generation: 0,
        revision: 0,
        pid: agent.pid,
        host_pid: agent.host_pid,
        started_at: agent.started_at,
        uptime_ms: None,
        restarts: agent.restarts,
        exit: agent.exit,
        usage: agent.usage,
        session_id: agent.session_id,
    }))
}

/// The first asks, the second ends.
async fn interrupt(session: &Session, name: &AgentId, nth: u32, screen: Screen) -> Outcome {
    let request = StopRequest { reason: Some("interrupted".into()), force: nth > 1, keep_desired: false };
    let subject = if nth > 1 { Subject::kill(name) } else { Subject::stop(name) };
    if nth == 1 {
        screen.note("stopping it; Ctrl-C again ends it at once");
    }
    match session.client.request::<ostler_wire::ControlReply>(&subject, &request).await {
        // It has just ended by itself: its last word is on its way.
        Ok(_) | Err(ostler_client::Error::NoResponders { .. } | ostler_client::Error::Reply(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The agent's own code, or what kept it from having one.
fn outcome(last: &StatusMessage, screen: Screen) -> Outcome<ExitCode> {
    if last.state == AgentState::Error && last.cause != StatusCause::Exited {
        let message = last.message.clone().unwrap_or_else(|| "the agent could not run".to_owned());
        let exit = if last.cause == StatusCause::SpawnFailed { Exit::BadInput } else { Exit::Failed };
        return Err(Failure::new(exit, message));
    }
    let Some(exit) = last.exit else {
        return Err(Failure::new(Exit::Failed, "the agent has ended and its exit code is not known"));
    };
    if !exit.is_success() {
        screen.note(ending(&exit.to_string(), last.uptime_ms));
    }
    if screen.is_json() {
        screen.json(last)?;
    }
    Ok(ExitCode::from(shell_code(exit)))
}

/// As a shell reports it: the code, or 128 + the signal.
fn shell_code(exit: ExitStatus) -> u8 {
    match (exit.code, exit.signal) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        (None, Some(signal)) => u8::try_from(128 + (signal & 0x7f)).unwrap_or(u8::MAX),
        (None, None) => Exit::Failed as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_what_a_shell_would_report() {
        let code = |code| shell_code(ExitStatus { code: Some(code), signal: None });
        let signal = |signal| shell_code(ExitStatus { code: None, signal: Some(signal) });
        assert_eq!((code(0), code(3), code(255), code(-1)), (0, 3, 255, 255));
        assert_eq!((signal(15), signal(9)), (143, 137));
    }

    #[test]
    fn a_generated_name_is_an_id() {
        assert!(generated_name(&uuid::Uuid::nil()).as_str().starts_with("run-0000"));
    }
}
