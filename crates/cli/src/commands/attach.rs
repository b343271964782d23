//! `ostler attach`: the agent's output on the screen, lines from the keyboard as its input.

use std::io::{BufRead, IsTerminal};

use ostler_wire::{AgentId, InputMessage, InputReply, Subject};
use tokio::sync::mpsc;

use crate::commands::logs::Printer;
use crate::connect::{Places, Session};
use crate::exit::{Failure, Outcome};
use crate::follow::Stream;
use crate::render::output::Pace;
use crate::screen::Screen;
use crate::signals::Signals;
use crate::wait::StateWatch;

/// Lines typed ahead; a keyboard is slower, a file on standard input waits.
const TYPED_LINES_MAX: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C and Ctrl-D detach; the agent goes on. A file or pipe on standard input that ends does not detach.")]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    let agent = session.agent(&args.name).await?;
    let mut watch = StateWatch::open(&session, &args.name).await?;
    let mut stream = Stream::new(&session, &args.name);
    stream.skip_recorded(None).await?;
    stream.listen().await?;
    screen.note(format!("attached to {} ({}); Ctrl-C detaches", args.name, agent.state));

    let mut printer = Printer::new(screen, Pace::Pieces);
    let mut typed = typed_lines();
    let mut may_type = true;
    let mut print = |item| printer.item(item);
    let mut signals = Signals::listen()?;
    loop {
        tokio::select! {
            biased;
            () = signals.next() => break,
            // More output comes before the news that the agent has ended: it was said first.
            goes_on = stream.more(&mut print) => if !goes_on? { break },
            line = typed.recv(), if may_type => match line {
                Some(line) => send(&session, &args.name, line?, screen).await?,
                None if std::io::stdin().is_terminal() => break,
                None => may_type = false,
            },
            state = watch.ended() => {
                screen.note(format!("{} is {}", args.name, state?));
                return Ok(());
            }
        }
    }
    screen.note(format!("detached; {} goes on", args.name));
    Ok(())
}

/// Gives the agent one line. A refusal, say because it is paused, is told and does not detach.
async fn send(session: &Session, agent: &AgentId, line: String, screen: Screen) -> Outcome {
    let message = InputMessage { from: Some("operator".to_owned()), ..InputMessage::prompt(line) };
    match session.ask_host::<InputReply>(agent, &Subject::input(agent), &message).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.exit == crate::exit::Exit::NoDaemon => Err(failure),
        Err(failure) => {
            screen.failure(&failure);
            Ok(())
        }
    }
}

/// Lines of standard input, read on a thread of its own: a blocked read cannot be cancelled, and the thread must not
/// hold up the end of the command. It ends with the process.
fn typed_lines() -> mpsc::Receiver<Outcome<String>> {
    let (line_tx, lines) = mpsc::channel(TYPED_LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| Failure::io("standard input cannot be read", &error));
            if line_tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
