//! `ostler run`: an agent as if it were an ordinary command. It gets a name, its output is shown, Ctrl-C stops it, its
//! exit code is ours, and nothing of it is left.

use std::process::ExitCode;

use ostler_client::{Error as BusError, Subscription};
use ostler_wire::{
    AgentId, AgentState, AgentTopic, ControlReply, ExitStatus, JsonMap, OutputMessage, RestartPolicy, RunId,
    SpawnReply, StatusCause, StatusMessage, StopRequest, Subject, Timestamp,
};
use tokio::time::{Duration, Instant, MissedTickBehavior};

use crate::commands::logs::Printer;
use crate::commands::rm::remove;
use crate::commands::spawn::Definition;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::follow::Stream;
use crate::render::output::{Pace, ending, missing};
use crate::screen::{Screen, is_reader_gone};
use crate::signals::Signals;

/// How long the output may take behind the last word, and how often the record is read meanwhile. A host has 5 s to hand
/// over what it still has; a long log takes as long as the daemon needs to write it.
const REST_PATIENCE: Duration = Duration::from_secs(60);
const REST_ASK_INTERVAL: Duration = Duration::from_millis(250);

/// What a shell reports of a program whose reader is gone: 128 + SIGPIPE.
const READER_GONE_CODE: u8 = 141;

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
    let signals = Signals::listen()?;
    // One subscription for output and state keeps their order: the last word comes after the last line.
    let said = session.client.subscribe(Subject::all_of_agent(&name)).await?;
    let reply: SpawnReply = session.client.request(&Subject::spawn(&name), &request).await?;
    let pid = reply.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    screen.note(format!("running as {name}{pid}"));

    let mut run = Run { session: &session, name: &name, id: reply.run_id, said, signals, screen };
    let last = run.watch().await;
    // An agent that nobody watches any more is not left behind, whatever went wrong.
    let removed = if last.is_err() || !args.keep { run.remove().await } else { Ok(()) };
    match last {
        Ok(last) => removed.and_then(|()| outcome(&last, screen)),
        Err(failure) if is_reader_gone(&failure) => Ok(ExitCode::from(READER_GONE_CODE)),
        Err(failure) => Err(failure),
    }
}

fn generated_name(random: &uuid::Uuid) -> AgentId {
    let hex = random.simple().to_string();
    AgentId::parse(&format!("run-{}", &hex[..8])).expect("letters, digits and a dash follow the rule")
}

fn connection_closed() -> Failure {
    BusError::Closed("while the agent was running".into()).into()
}

/// A run under way.
struct Run<'a> {
    session: &'a Session,
    name: &'a AgentId,
    id: RunId,
    /// Everything on the agent's subjects.
    said: Subscription,
    signals: Signals,
    screen: Screen,
}

impl Run<'_> {
    /// Shows the whole output, to the last line behind the last word.
    async fn watch(&mut self) -> Outcome<StatusMessage> {
        let mut stream = Stream::new(self.session, self.name);
        let mut printer = Printer::new(self.screen, Pace::Pieces);
        let last = self.until_last_word(&mut stream, &mut printer).await?;
        if let Some(last_seq) = last.last_seq {
            let rest = self.rest(&mut stream, &mut printer, last_seq);
            // What its host could not hand over in time, the daemon takes from the host's spool.
            if tokio::time::timeout(REST_PATIENCE, rest).await.is_err() {
                self.screen.note(missing(stream.last_seq(self.id) + 1, last_seq));
            }
        }
        Ok(last)
    }

    /// Shows what is still on its way when the agent has ended.
    async fn rest(&mut self, stream: &mut Stream<'_>, printer: &mut Printer, last_seq: u64) -> Outcome {
        let mut ask = tokio::time::interval(REST_ASK_INTERVAL);
        while stream.last_seq(self.id) < last_seq {
            tokio::select! {
                message = self.said.next() => {
                    let Some(message) = message else { return Err(connection_closed()) };
                    if let Ok(Subject::Agent(_, AgentTopic::Output)) = Subject::parse(&message.subject)
                        && let Ok(output) = message.json::<OutputMessage>()
                    {
                        stream.take(output, &mut |item| printer.item(item)).await?;
                    }
                }
                _ = ask.tick() => stream.catch_up(&mut |item| printer.item(item)).await?,
            }
        }
        Ok(())
    }

    async fn until_last_word(
        &mut self,
        stream: &mut Stream<'_>,
        printer: &mut Printer,
    ) -> Outcome<StatusMessage> {
        let mut interrupts = 0;
        let mut ask = tokio::time::interval_at(Instant::now() + ASK_INTERVAL, ASK_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.said.next() => {
                    let Some(message) = message else {
                        return Err(connection_closed());
                    };
                    match Subject::parse(&message.subject) {
                        Ok(Subject::Agent(_, AgentTopic::Output)) => {
                            if let Ok(output) = message.json::<OutputMessage>() {
                                stream.take(output, &mut |item| printer.item(item)).await?;
                            }
                        }
                        // With a reply inbox it is a query.
                        Ok(Subject::Agent(_, AgentTopic::Status)) if message.reply.is_none() => {
                            if let Some(status) = message.json().ok().filter(|status| self.is_last_word(status)) {
                                return Ok(status);
                            }
                        }
                        _ => {}
                    }
                }
                _ = ask.tick() => if let Some(status) = self.missed_word().await? {
                    return Ok(status);
                },
                () = self.signals.next() => {
                    interrupts += 1;
                    self.interrupt(interrupts).await?;
                }
            }
        }
    }

    /// Whether nothing of our run is left.
    fn is_last_word(&self, status: &StatusMessage) -> bool {
        status.run_id == self.id && !status.state.is_live()
    }

    /// The last word as the node recorded it: for a publication that came while our connection was away.
    async fn missed_word(&self) -> Outcome<Option<StatusMessage>> {
        let agent = match self.session.agent(self.name).await {
            Ok(agent) => agent,
            // No daemon right now: the agent goes on without it, and so do we.
            Err(failure) if matches!(failure.exit, Exit::NoDaemon | Exit::Timeout) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        // The whole status, if the host is still there to tell it; else what the node keeps of it.
        let subject = Subject::status(self.name);
        if let Ok(status) = self.session.client.request::<StatusMessage>(&subject, &JsonMap::new()).await {
            return Ok(Some(status).filter(|status| self.is_last_word(status)));
        }
        let status = StatusMessage {
            agent_id: agent.agent_id,
            status: agent.status,
            message: agent.message,
            timestamp: Timestamp::now(),
            state: agent.state,
            cause: agent.cause,
            run_id: agent.run_id.unwrap_or(self.id),
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
            last_seq: None,
        };
        Ok(Some(status).filter(|status| self.is_last_word(status)))
    }

    /// The first asks, the second ends.
    async fn interrupt(&self, nth: u32) -> Outcome {
        let subject = if nth > 1 { Subject::kill(self.name) } else { Subject::stop(self.name) };
        if nth == 1 {
            self.screen.note("stopping it; Ctrl-C again ends it at once");
        }
        let request = StopRequest { reason: Some("interrupted".into()), force: nth > 1, keep_desired: false };
        match self.session.client.request::<ControlReply>(&subject, &request).await {
            // It has just ended by itself: its last word is on its way.
            Ok(_) | Err(BusError::NoResponders { .. } | BusError::Reply(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops it when it still runs, and forgets it.
    async fn remove(&self) -> Outcome {
        match remove(self.session, self.name, true).await {
            // Somebody else was faster.
            Err(failure) if failure.exit == Exit::UnknownAgent => Ok(()),
            removed => removed.map(drop),
        }
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
