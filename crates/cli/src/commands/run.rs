//! `ostler run`: an agent as if it were an ordinary command. It gets a name, its output is shown, Ctrl-C stops it, its
//! exit code is ours, and nothing of it is left.

use std::pin::pin;
use std::process::ExitCode;

use ostler_client::Error as BusError;
use ostler_wire::{
    AgentId, AgentState, AgentTopic, ErrorCode, ExitStatus, JsonMap, OutputMessage, RestartPolicy, RunId,
    SpawnReply, StatusCause, StatusMessage, StopRequest, Subject, Timestamp,
};
use tokio::time::{Duration, Instant, MissedTickBehavior, timeout};

use crate::commands::logs::Printer;
use crate::commands::rm::remove;
use crate::commands::spawn::Definition;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::follow::Stream;
use crate::lasting::{Heard, Listener};
use crate::render::output::{Pace, ending, missing};
use crate::screen::{Screen, is_reader_gone};
use crate::signals::Signals;

/// How long the output may take behind the last word, and how often the record is read meanwhile. A host has 5 s to hand
/// over what it still has; a long log takes as long as the daemon needs to write it.
const REST_PATIENCE: Duration = Duration::from_secs(60);
const REST_ASK_INTERVAL: Duration = Duration::from_millis(250);

/// What a shell reports of a program whose reader is gone: 128 + SIGPIPE.
const READER_GONE_CODE: u8 = 141;

/// What a shell reports of a program that was interrupted: 128 + SIGINT.
const INTERRUPTED_CODE: u8 = 130;

/// How often the node is asked whether the agent's last word was missed.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C stops the agent with its grace period, a second Ctrl-C ends it at once, a third one stops waiting for it.

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
    let mut request = args.definition.request(RestartPolicy::Never, false)?;
    let session = Session::open(places).await?.kept(screen);
    request.node = session.node_on_shared_bus();
    let (name, owner) = match args.name {
        Some(name) => {
            let is_known = session.agents().await?.agents.iter().any(|agent| agent.agent_id == name);
            (name, if is_known { Owner::Other } else { Owner::Us })
        }
        None => (generated_name(&uuid::Uuid::new_v4()), Owner::Us),
    };
    let mut signals = Signals::listen()?;
    // One subscription for output and state keeps their order: the last word comes after the last line.
    let said = session.listen(Subject::all_of_agent(&name)).await?;
    let subject = Subject::spawn(&name);
    let asked = tokio::select! {
        biased;
        () = signals.next() => None,
        reply = session.request::<SpawnReply>(&subject, &request) => Some(reply),
    };
    let mut run = match asked {
        Some(Ok(reply)) => {
            let pid = reply.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            screen.note(format!("running as {name}{pid}"));
            Run { session: &session, name: &name, id: reply.run_id, said, screen }
        }
        // The answer is on its way or lost, and the agent may run all the same.
        None => {
            let fate = not_left_behind(&session, &name, owner, &mut signals).await;
            screen.note(format!("interrupted; {}", fate.sentence(&name)));
            return Ok(ExitCode::from(INTERRUPTED_CODE));
        }
        Some(Err(error)) => {
            let is_taken = error.code() == Some(ErrorCode::DuplicateAgent);
            let is_refused = matches!(error, BusError::Reply(_));
            let failure = Failure::from(error);
            let owner = if is_taken { Owner::Other } else { owner };
            if is_refused && owner == Owner::Other {
                return Err(failure);
            }
            let fate = not_left_behind(&session, &name, owner, &mut signals).await;
            // A refusal tells all there is to know, unless it leaves something behind.
            return Err(if is_refused && fate != Fate::Unknown {
                failure
            } else {
                fate.told(&name, failure)
            });
        }
    };
    let last = run.watch(&mut signals).await;
    // An agent that nobody watches any more is not left behind, whatever went wrong.
    let removed = if last.is_err() || !args.keep {
        match not_left_behind(&session, &name, Owner::Us, &mut signals).await {
            Fate::Removed | Fate::NeverThere => Ok(()),
            fate @ Fate::Unknown => {
                Err(fate.told(&name, Failure::new(Exit::Failed, "the agent could not be removed")))
            }
        }
    } else {
        Ok(())
    };
    match last {
        Ok(last) => removed.and_then(|()| outcome(&last, screen)),
        Err(failure) if is_reader_gone(&failure) => Ok(ExitCode::from(READER_GONE_CODE)),
        Err(failure) => Err(failure),
    }
}

/// Whose the name was before we asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Us,
    /// An agent that is not ours to remove.
    Other,
}

/// What became of an agent that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Removed,
    NeverThere,
    Unknown,
}

impl Fate {
    fn sentence(self, id: &AgentId) -> String {
        match self {
            Self::Removed => format!("{id} is removed"),
            Self::NeverThere => format!("{id} was not started"),
            Self::Unknown => format!("{id} may be left behind"),
        }
    }

    /// The failure with this added to it.
    fn told(self, id: &AgentId, mut failure: Failure) -> Failure {
        failure.message = format!("{}; {}", failure.message, self.sentence(id));
        match self {
            Self::Removed | Self::NeverThere => failure.hint("`ostler doctor` checks the daemon"),
            Self::Unknown => {
                failure.hint(format!("look with: ostler status {id}; remove it with: ostler rm -f {id}"))
            }
        }
    }
}

/// Stops and forgets the agent as far as that can be done; one more interrupt ends the attempt.
async fn not_left_behind(session: &Session, id: &AgentId, owner: Owner, signals: &mut Signals) -> Fate {
    if owner == Owner::Other {
        return Fate::Unknown;
    }
    tokio::select! {
        biased;
        () = signals.next() => Fate::Unknown,
        // On the connection that carried the spawn request, so the engine reads it behind that one.
        removed = remove(session, id, true) => match removed {
            Ok(_) => Fate::Removed,
            // It never was, or somebody else was faster.
            Err(failure) if failure.exit == Exit::UnknownAgent => Fate::NeverThere,
            Err(_) => Fate::Unknown,
        },
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
    said: Listener,
    screen: Screen,
}

impl Run<'_> {
    /// Shows the whole output, and passes interrupts on to the agent.
    async fn watch(&mut self, signals: &mut Signals) -> Outcome<StatusMessage> {
        let (session, name, screen) = (self.session, self.name, self.screen);
        let mut interrupts = 0;
        let mut shown = pin!(self.show());
        loop {
            // Beside everything else: whatever waits for an answer, an interrupt does not.
            tokio::select! {
                biased;
                () = signals.next() => {
                    interrupts += 1;
                    interrupt(session, name, interrupts, screen).await?;
                }
                last = &mut shown => return last,
            }
        }
    }

    /// Shows the whole output, to the last line behind the last word.
    async fn show(&mut self) -> Outcome<StatusMessage> {
        let mut stream = Stream::new(self.session, self.name);
        let mut printer = Printer::new(self.screen, Pace::Pieces);
        let last = self.until_last_word(&mut stream, &mut printer).await?;
        if let Some(last_seq) = last.last_seq {
            let rest = self.rest(&mut stream, &mut printer, last_seq);
            // What its host could not hand over in time, the daemon takes from the host's spool.
            if timeout(REST_PATIENCE, rest).await.is_err() {
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
                heard = self.said.next() => {
                    let Some(heard) = heard? else { return Err(connection_closed()) };
                    if let Heard::Message(message) = heard
                        && let Ok(Subject::Agent(_, AgentTopic::Output)) = Subject::parse(&message.subject)
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
        let mut ask = tokio::time::interval_at(Instant::now() + ASK_INTERVAL, ASK_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = self.said.next() => {
                    let message = match heard? {
                        Some(Heard::Message(message)) => message,
                        Some(Heard::Rejoined) => {
                            stream.catch_up(&mut |item| printer.item(item)).await?;
                            ask.reset_immediately();
                            continue;
                        }
                        None => return Err(connection_closed()),
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
                // While the daemon is away there is no answer, and publications are not to wait for it.
                _ = ask.tick() => if let Ok(missed) = timeout(ASK_INTERVAL, self.missed_word()).await
                    && let Some(status) = missed?
                {
                    return Ok(status);
                },
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
            Err(failure) if failure.is_daemon_away() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        // The whole status, if the host is still there to tell it; else what the node keeps of it.
        let subject = Subject::status(self.name);
        if let Ok(status) = self.session.request::<StatusMessage>(&subject, &JsonMap::new()).await {
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
            changes: Vec::new(),
        };
        Ok(Some(status).filter(|status| self.is_last_word(status)))
    }
}

/// The first asks, the second ends, the third gives up. Published and not requested: nothing has to wait for the answer,
/// the last word tells.
async fn interrupt(session: &Session, id: &AgentId, nth: u32, screen: Screen) -> Outcome {
    let subject = match nth {
        1 => Subject::stop(id),
        2 => Subject::kill(id),
        _ => return Err(Failure::new(Exit::Failed, format!("interrupted before {id} had ended"))),
    };
    if nth == 1 {
        screen.note("stopping it; Ctrl-C again ends it at once");
    }
    let request = StopRequest { reason: Some("interrupted".into()), force: nth > 1, keep_desired: false };
    Ok(session.client().publish(&subject, &request).await?)
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
