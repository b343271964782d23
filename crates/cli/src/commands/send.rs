//! `ostler send`: one turn, and with `--wait` its answer.

use std::io::Read;
use std::time::Duration;

use ostler_wire::{
    AgentEvent, AgentId, AgentKind, InputMessage, InputReply, InputType, OutputMessage, Subject,
};

use crate::commands::logs::Printer;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::follow::{Item, Stream};
use crate::render::output::Pace;
use crate::render::style;
use crate::screen::Screen;
use crate::when::{parse_duration, span};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler send reviewer 'what changed since Monday?' --wait
  git diff | ostler send reviewer -")]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
    /// What to say; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// Write it to the agent's stdin as it is, without a line end; for plain agents
    #[arg(long, conflicts_with = "wait")]
    raw: bool,
    /// Print what the agent does until this turn has its result; for conversational agents
    #[arg(short, long)]
    wait: bool,
    /// How long to wait for the result [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: Args, places: &Places, screen: Screen) -> Outcome {
    let text = if args.text == "-" { read_stdin()? } else { args.text };
    let mut session = Session::open(places).await?;
    if args.wait {
        session = session.kept(screen);
    }
    let input_id = uuid::Uuid::new_v4().to_string();
    let message = InputMessage {
        input: if args.raw { InputType::Raw } else { InputType::Prompt },
        text,
        input_id: Some(input_id.clone()),
        from: Some("operator".to_owned()),
    };
    if !args.wait {
        let reply: InputReply = session.ask_host(&args.name, &Subject::input(&args.name), &message).await?;
        return screen.reply(&reply, |reply| {
            let how = if reply.delivered { "has it" } else { "gets it after the running turn" };
            format!("{} {how}", style::strong(&reply.agent_id))
        });
    }
    if session.agent(&args.name).await?.kind == AgentKind::Plain {
        return Err(Failure::new(
            Exit::Refused,
            format!("agent `{}` is plain: it has no turns to wait for", args.name),
        )
        .hint(format!("see what it prints with: ostler attach {}", args.name)));
    }
    let mut stream = Stream::new(&session, &args.name);
    stream.skip_recorded(None).await?;
    stream.listen().await?;
    let reply: InputReply = session.ask_host(&args.name, &Subject::input(&args.name), &message).await?;
    let turn = answer(&mut stream, &reply.input_id, Printer::new(screen, Pace::Pieces));
    match args.timeout {
        None => turn.await,
        Some(patience) => tokio::time::timeout(patience, turn).await.unwrap_or_else(|_| {
            Err(Failure::new(Exit::Timeout, format!("no result within {}; the turn goes on", span(patience)))
                .hint(format!("see it with: ostler logs -f {}", args.name)))
        }),
    }
}

/// Prints the turn until its result.
async fn answer(stream: &mut Stream<'_>, input_id: &str, mut printer: Printer) -> Outcome {
    loop {
        let mut result = None;
        let mut take = |item: Item| match item {
            Item::Output(output) if output.input_id.as_deref() == Some(input_id) => {
                result = result.take().or_else(|| turn_result(&output));
                printer.output(&output)
            }
            // Output of another turn, or between turns.
            Item::Output(_) => Ok(()),
            missing => printer.item(missing),
        };
        let goes_on = stream.more(&mut take).await?;
        if let Some(result) = result {
            return result;
        }
        if !goes_on {
            return Err(ostler_client::Error::Closed("while waiting for the answer".into()).into());
        }
    }
}

/// How the turn ended, when this output says so.
fn turn_result(output: &OutputMessage) -> Option<Outcome> {
    match output.event.as_ref()? {
        AgentEvent::Result { is_error: true, text, reason, .. } => {
            let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            Some(Err(Failure::new(Exit::Failed, format!("the turn failed{reason}: {text}"))))
        }
        AgentEvent::Result { .. } => Some(Ok(())),
        _ => None,
    }
}

fn read_stdin() -> Outcome<String> {
    let mut text = String::new();
    match std::io::stdin().lock().read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(stdin_fault(&error)),
    }
}

/// Why standard input gave no text.
pub(crate) fn stdin_fault(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return Failure::new(Exit::BadInput, "standard input is no UTF-8 text").hint(
            "convert it (iconv -f LATIN1 -t UTF-8), or put it into a file and name the file to the agent",
        );
    }
    Failure::io("standard input cannot be read", error)
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

    #[test]
    fn options_stand_before_or_behind_the_text_and_text_may_begin_with_a_dash() {
        for words in [["send", "a", "--wait", "hello"], ["send", "a", "hello", "--wait"]] {
            let args = Line::try_parse_from(words).unwrap().args;
            assert_eq!((args.text.as_str(), args.wait), ("hello", true));
        }
        for text in ["-", "- a list", "-5 degrees"] {
            assert_eq!(Line::try_parse_from(["send", "a", text]).unwrap().args.text, text);
        }
        assert!(Line::try_parse_from(["send", "a", "hello", "--raw", "--wait"]).is_err());
    }
}
