//! `ostler completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Outcome;
use crate::screen::{Screen, Target};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ostler completions bash > ~/.local/share/bash-completion/completions/ostler"
)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, screen: Screen) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ostler", &mut script);
    screen.raw(&script, Target::Out)
}
