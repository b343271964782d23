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
  ostler spawn reviewer --kind claude --dir ~/project --prompt 'review the last commit'")]
pub(crate) struct Args {
    /// Its name: 1 to 64 characters out of A-Z a-z 0-9 _ -
    name: AgentId,
    /// When to start it again after its process has ended by itself
    #[arg(long, value_enum, value_name = "POLICY", default_value = "on-failure")]
    restart: Restart,
    /// Start a stopped agent of this name again with this definition, instead of refusing the name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    definition: Definition,
}

/// What defines an agent beside its name.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Definition {
    /// How it is launched and spoken to: any program of lines, or Claude Code
    #[arg(long, value_enum, default_value = "plain")]
    kind: Kind,
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
    /// The request to start it.
    pub(crate) fn request(self, restart: RestartPolicy, replace: bool) -> Outcome<SpawnRequest> {
        if self.kind == Kind::Plain && self.command.is_empty() {
            return Err(Failure::new(Exit::Usage, "a plain agent needs a command")
                .hint("give it behind two dashes: ostler spawn NAME -- COMMAND; or choose --kind claude"));
        }
        // The daemon has another working directory; what this terminal means by a path is decided here.
        let dir = self.dir.unwrap_or_else(|| PathBuf::from("."));
        let dir = match std::fs::canonicalize(&dir) {
            Ok(dir) if dir.is_dir() => dir,
            Ok(_) => {
                return Err(Failure::new(Exit::BadInput, format!("`{}` is no directory", dir.display())));
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
            kind: match self.kind {
                Kind::Plain => AgentKind::Plain,
                Kind::Claude => AgentKind::Claude,
            },
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
    let restart = match args.restart {
        Restart::Never => RestartPolicy::Never,
        Restart::OnFailure => RestartPolicy::OnFailure,
        Restart::Always => RestartPolicy::Always,
    };
    let request = args.definition.request(restart, args.replace)?;
    let session = Session::open(places).await?;
    let reply: SpawnReply = session.client.request(&Subject::spawn(&args.name), &request).await?;
    screen.reply(&reply, |reply| {
        let pid = reply.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        format!("{} is {}{pid}", style::strong(&reply.agent_id), state(reply.state))
    })
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
        assert_eq!(request(&["a"]).unwrap_err().exit, Exit::Usage);
        assert!(request(&["a", "--kind", "claude"]).unwrap().command.is_empty());
    }

    #[test]
    fn a_missing_directory_is_bad_input_and_named() {
        let failure = request(&["a", "--dir", "/no/such/dir", "--", "true"]).unwrap_err();
        assert_eq!(failure.exit, Exit::BadInput);
        assert!(failure.message.contains("/no/such/dir"), "{}", failure.message);
    }
}
