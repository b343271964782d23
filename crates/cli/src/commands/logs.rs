//! `ostler logs`, and how outputs are printed by every verb that shows them.

use ostler_wire::{AgentId, LogsRequest, OutputMessage, Timestamp};

use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::follow::{Item, Stream};
use crate::render::output::{Pace, Piece, Renderer, missing};
use crate::screen::Screen;
use crate::when::{Since, parse_since};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler logs -f --tail 20 reviewer
  ostler logs --since 10m reviewer

Lines of the agent are printed as they were, its standard error to standard error. With --json each \
output is one line: the message as it was published, with its `position` when it was read from the record.")]
pub(crate) struct Args {
    /// The agent
    name: AgentId,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only what came since then: 10m (ago), or 2026-11-20T21:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only the last N lines and events
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let mut session = Session::open(places).await?;
    if args.follow {
        session = session.kept(screen);
    }
    let since = args.since.map(|since| since.resolve(Timestamp::now()));
    session.check_own(&args.name).await?;
    let mut stream = Stream::new(&session, &args.name);
    if since.is_some() || args.tail == Some(0) {
        stream.skip_recorded(since).await?;
    }
    if args.follow {
        stream.listen().await?;
    }
    let mut printer = Printer::new(screen, Pace::Blocks);
    if args.tail != Some(0) {
        let request = LogsRequest { since, tail: args.tail, ..LogsRequest::default() };
        stream
            .history(request, |entry| {
                if screen.is_json() { screen.json(entry) } else { printer.output(&entry.output) }
            })
            .await?;
    }
    while stream.more(&mut |item| printer.item(item)).await? {}
    Ok(())
}

/// Prints outputs, for people or as JSON.
pub(crate) struct Printer {
    screen: Screen,
    renderer: Renderer,
}

impl Printer {
    pub(crate) fn new(screen: Screen, pace: Pace) -> Self {
        Self { screen, renderer: Renderer::new(pace) }
    }

    pub(crate) fn output(&mut self, output: &OutputMessage) -> Outcome {
        if self.screen.is_json() {
            return self.screen.json(output);
        }
        self.renderer.render(output).iter().try_for_each(|piece| match piece {
            Piece::Raw(target, bytes) => self.screen.raw(bytes, *target),
            Piece::Ours(text) => self.screen.text(text),
        })
    }

    pub(crate) fn item(&mut self, item: Item) -> Outcome {
        match item {
            Item::Output(output) => self.output(&output),
            Item::Missing { from, to } => {
                self.screen.note(missing(from, to));
                Ok(())
            }
        }
    }
}
