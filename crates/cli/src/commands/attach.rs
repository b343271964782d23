//! `ostler attach`: the agent's output on the screen, lines from the keyboard as its input.

use std::io::{BufRead, IsTerminal};

use ostler_wire::{AgentId, InputMessage, InputReply, Subject};
use tokio::sync::mpsc;

use crate::commands::logs::Printer;
use crate::commands::send::stdin_fault;
use crate::connect::{Places, Session};
use crate::exit::Outcome;
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
    let session = Session::open(places).await?.kept(screen);
    let agent = session.agent(&args.name).await?;
    let mut watch = StateWatch::open(&session, &args.name).await?;
    let mut stream = Stream::new(&session, &args.name);
    stream.skip_recorded(None).await?;
    stream.listen().await?;
    screen.note(format!("attached to {} ({}); Ctrl-C detaches", args.name, agent.state));

    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        biased;
        // Beside everything else: whatever waits for an answer, a person who wants to leave does not.
        () = signals.next() => None,
        ended = async {
            tokio::select! {
                biased;
                // More output comes before the news that the agent has ended: it was said first.
                left = listen(&mut stream, screen) => left.map(|()| None),
                left = speak(&session, &args.name, screen) => left.map(|()| None),
                state = watch.ended() => state.map(Some),
            }
        } => ended?,
    };
    match ended {
        Some(state) => screen.note(format!("{} is {state}", args.name)),
        None => screen.note(format!("detached; {} goes on", args.name)),
    }
    Ok(())
}

/// Shows the output until there is no more.
async fn listen(stream: &mut Stream<'_>, screen: Screen) -> Outcome {
    let mut printer = Printer::new(screen, Pace::Pieces);
    while stream.more(&mut |item| printer.item(item)).await? {}
    Ok(())
}

/// Gives the agent what is typed, line by line, until the person at the terminal has ended the input. A refusal, say
/// because it is paused, is told and does not detach.
async fn speak(session: &Session, agent: &AgentId, screen: Screen) -> Outcome {
    let mut typed = typed_lines();
    while let Some(line) = typed.recv().await {
        let message = InputMessage { from: Some("operator".to_owned()), ..InputMessage::prompt(line?) };
        if let Err(failure) = session.ask_host::<InputReply>(agent, &Subject::input(agent), &message).await {
            screen.failure(&failure);
        }
    }
    if !std::io::stdin().is_terminal() {
        // The end of a file; the output is still wanted.
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Lines of standard input, read on a thread of its own: a blocked read cannot be cancelled, and the thread must not
/// hold up the end of the command. It ends with the process.
fn typed_lines() -> mpsc::Receiver<Outcome<String>> {
    let (line_tx, lines) = mpsc::channel(TYPED_LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| stdin_fault(&error));
            if line_tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
