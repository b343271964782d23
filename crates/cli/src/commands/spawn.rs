//! `ostler spawn`: and the arguments that define an agent, shared with `run`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use ostler_wire::{AgentId, AgentKind, RestartPolicy, SpawnReply, SpawnRequest, Subject};

use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{agents::state, style};
use crate::screen::Screen;
use crate::when::parse_duration;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler spawn counter -- sh -c 'while sleep 1; do date; done'
  ostler spawn reviewer --kind claude --dir ~/project --prompt 'review the last commit'
  ostler spawn counter                         start it again as it was, once it has ended")]
pub(crate) struct Args {
    /// Its name: 1 to 64 characters out of A-Z a-z 0-9 _ -
    name: AgentId,
    /// When to start it again after its process has ended by itself [default: on-failure]
    #[arg(long, value_enum, value_name = "POLICY")]
    restart: Option<Restart>,
    /// Start a stopped agent of this name again with this definition, instead of refusing the name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    definition: Definition,
}

/// What defines an agent beside its name.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Definition {
    /// How it is launched and spoken to: any program of lines, or Claude Code [default: plain]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Its working directory [default: this one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A variable for its environment, as often as needed; never a secret: it is stored and shown
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Time between asking it to stop and ending it [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    grace: Option<Duration>,
    /// The model a conversational agent is to use
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// A first prompt, sent as soon as it is ready
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// The program and its arguments; not needed for a kind that knows its own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How to say what a new agent is.
const COMMAND_HINT: &str = "give it behind two dashes, -- COMMAND; or choose --kind claude";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Plain,
    Claude,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Restart {
    Never,
    OnFailure,
    Always,
}

impl Definition {
    /// True when nothing of it was said.
    fn is_empty(&self) -> bool {
        let Self { kind, dir, env, grace, model, prompt, command } = self;
        kind.is_none()
            && dir.is_none()
            && env.is_empty()
            && grace.is_none()
            && model.is_none()
            && prompt.is_none()
            && command.is_empty()
    }

    /// The request to start it.
    pub(crate) fn request(self, restart: RestartPolicy, replace: bool) -> Outcome<SpawnRequest> {
        let kind = match self.kind {
            None | Some(Kind::Plain) => AgentKind::Plain,
            Some(Kind::Claude) => AgentKind::Claude,
        };
        if kind == AgentKind::Plain && self.command.is_empty() {
            return Err(Failure::new(Exit::Usage, "a plain agent needs a command").hint(COMMAND_HINT));
        }
        // The daemon has another working directory; what this terminal means by a path is decided here.
        let dir = self.dir.unwrap_or_else(|| PathBuf::from("."));
        let dir = match std::fs::canonicalize(&dir) {
            Ok(dir) if dir.is_dir() => dir,
            Ok(_) => {
                let parent = dir.parent().unwrap_or(&dir).display();
                return Err(Failure::new(Exit::BadInput, format!("`{}` is no directory", dir.display()))
                    .hint(format!(
                        "name the directory the agent is to work in, say the one it is in: {parent}"
                    )));
            }
            Err(error) => {
                return Err(Failure::new(
                    Exit::BadInput,
                    format!("the directory `{}` cannot be used: {error}", dir.display()),
                )
                .hint("create it, or name another with --dir"));
            }
        };
        Ok(SpawnRequest {
            kind,
            command: self.command,
            dir: Some(dir),
            env: self.env.into_iter().collect::<BTreeMap<_, _>>(),
            restart,
            stop_grace_ms: self.grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
            model: self.model,
            prompt: self.prompt,
            replace,
            ..SpawnRequest::default()
        })
    }
}

pub(crate) async fn run(args: Args, places: &Places, screen: Screen) -> Outcome {
    let is_name_only = args.definition.is_empty() && args.restart.is_none() && !args.replace;
    let (session, mut request) = if is_name_only {
        let session = Session::open(places).await?;
        session.agent(&args.name).await.map_err(needs_command)?;
        // Nothing but the name: as it was.
        (session, SpawnRequest::default())
    } else {
        let restart = match args.restart {
            Some(Restart::Never) => RestartPolicy::Never,
            None | Some(Restart::OnFailure) => RestartPolicy::OnFailure,
            Some(Restart::Always) => RestartPolicy::Always,
        };
        let request = args.definition.request(restart, args.replace)?;
        (Session::open(places).await?, request)
    };
    request.node = session.node_on_shared_bus();
    let reply: SpawnReply = session.request(&Subject::spawn(&args.name), &request).await?;
    screen.reply(&reply, |reply| {
        let pid = reply.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        format!("{} is {}{pid}", style::strong(&reply.agent_id), state(reply.state))
    })
}

/// An agent that is to be started as it was must have been.
fn needs_command(failure: Failure) -> Failure {
    if failure.exit != Exit::UnknownAgent {
        return failure;
    }
    Failure::new(Exit::UnknownAgent, format!("{}, and a new one needs a command", failure.message))
        .hint(COMMAND_HINT)
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn request(words: &[&str]) -> Outcome<SpawnRequest> {
        let line = Line::try_parse_from([&["spawn"], words].concat()).unwrap();
        line.args.definition.request(RestartPolicy::Never, line.args.replace)
    }

    #[test]
    fn everything_behind_the_dashes_is_the_command() {
        let request = request(&["a", "--env", "K=v=w", "--grace", "3s", "--", "sh", "-c", "--json"]).unwrap();
        assert_eq!(request.command, ["sh", "-c", "--json"]);
        assert_eq!(request.env["K"], "v=w");
        assert_eq!(request.stop_grace_ms, Some(3000));
        assert!(request.dir.unwrap().is_absolute());
    }

    #[test]
    fn a_plain_agent_without_a_command_is_a_usage_fault() {
        assert_eq!(request(&["a", "--grace", "1s"]).unwrap_err().exit, Exit::Usage);
        assert!(request(&["a", "--kind", "claude"]).unwrap().command.is_empty());
    }

    #[test]
    fn a_file_in_place_of_a_directory_is_bad_input_with_a_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = request(&["a", "--dir", file.path().to_str().unwrap(), "--", "true"]).unwrap_err();
        assert_eq!(failure.exit, Exit::BadInput);
        let parent = std::fs::canonicalize(file.path().parent().unwrap()).unwrap();
        assert!(failure.hint.unwrap().ends_with(&parent.display().to_string()));
    }

    #[test]
    fn a_missing_directory_is_bad_input_and_named() {
        let failure = request(&["a", "--dir", "/no/such/dir", "--", "true"]).unwrap_err();
        assert_eq!(failure.exit, Exit::BadInput);
        assert!(failure.message.contains("/no/such/dir"), "{}", failure.message);
    }
}
