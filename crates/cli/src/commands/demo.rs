//! `ostler demo`, and the hidden `ostler demo-agent` that plays its agents.

use crate::demo::agents::Role;
use crate::demo::{Afterwards, play};
use crate::exit::Outcome;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is needed and nothing of yours is touched: no key, no network, a directory of its own. Ends with 0 only if \
every step was observed. With --json each step is one line.")]
pub(crate) struct Args {
    /// Keep the demo's directory to look into it
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    #[arg(value_enum)]
    pub(crate) role: Role,
}

pub(crate) async fn run(args: &Args, screen: Screen) -> Outcome {
    play(screen, if args.keep { Afterwards::Keep } else { Afterwards::Remove }).await
}
