//! The command line: global options and the list of verbs. What a verb does is in its own file under `commands`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    attach, audit, completions, config, control, demo, doctor, down, events, host, logs, ps, replay, restart,
    rm, run, send, spawn, status, stop, up,
};
use crate::exit::EXIT_CODES_HELP;
use crate::screen::{Detail, Format, Screen};

const EXAMPLES_HELP: &str = "\
Try it:
  ostler demo                                  see all of it in ten seconds, nothing needed
  ostler up -d                                 start the daemon
  ostler spawn counter -- sh -c 'while sleep 1; do date; done'
  ostler logs -f counter                       watch it
  ostler down                                  stop everything";

/// Looks after command-line AI agents: starts them, keeps them alive, pauses, talks to and watches them.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, propagate_version = false, max_term_width = 100)]
#[command(after_help = format!("{EXAMPLES_HELP}\n\n{EXIT_CODES_HELP}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options every verb takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The daemon's state directory [default: $XDG_STATE_HOME/ostler or ~/.local/state/ostler]
    #[arg(long, global = true, value_name = "DIR", env = "OSTLER_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// The configuration file [default: $XDG_CONFIG_HOME/ostler/config.toml or ~/.config/ostler/config.toml]
    #[arg(long, global = true, value_name = "FILE", env = "OSTLER_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON: one document, or one line per item for logs and events; errors too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print without colours (NO_COLOR is honoured as well)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Print more: command lines in full (ps), what the daemon does (up)
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl Global {
    pub(crate) fn screen(&self) -> Screen {
        Screen {
            format: if self.json { Format::Json } else { Format::Text },
            detail: match (self.quiet, self.verbose) {
                (true, _) => Detail::Quiet,
                (_, true) => Detail::Verbose,
                _ => Detail::Normal,
            },
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// See all of it in ten seconds: a daemon, three agents, a crash, a kill -9
    Demo(demo::Args),
    /// Start the daemon, its message bus inside
    Up(up::Args),
    /// Stop the daemon and its agents
    Down(down::Args),
    /// Start a new agent, or a stopped one again
    Spawn(spawn::Args),
    /// Start an agent, show its output, end with its exit code
    Run(run::Args),
    /// List agents
    Ps(ps::Args),
    /// Show the daemon, or one agent
    Status(status::Args),
    /// Say something to an agent: one turn of input
    Send(send::Args),
    /// Show what an agent printed and did
    Logs(logs::Args),
    /// Show an agent's output and type into it; Ctrl-C detaches
    Attach(attach::Args),
    /// Freeze an agent and everything it started
    Pause(control::Args),
    /// Let a paused agent go on
    Resume(control::Args),
    /// Ask an agent to end, and wait until it has
    Stop(stop::Args),
    /// End an agent at once, without grace
    Kill(stop::KillArgs),
    /// Stop an agent and start it again; a stopped one is started
    Restart(restart::Args),
    /// Forget a stopped agent and its logs
    Rm(rm::Args),
    /// Show what happened to the agents and the daemon
    Events(events::Args),
    /// Show what the audit keeps: who did what, when; or check that it is intact
    Audit(audit::Args),
    /// Show an agent's history again, in its own time or faster
    Replay(replay::Args),
    /// Check that everything needed is there
    Doctor(doctor::Args),
    /// Show or check the configuration
    Config(config::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
    /// Run one agent; started by the daemon
    #[command(hide = true)]
    Host(host::Args),
    /// Play an agent of the demo
    #[command(hide = true)]
    DemoAgent(demo::AgentArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_help_of_every_verb_is_as_reviewed() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut pages = vec![command.render_long_help().to_string()];
        for verb in
            command.get_subcommands_mut().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        {
            let help = verb.render_help();
            pages.push(format!("===== {} =====\n{help}", verb.get_name()));
        }
        insta::assert_snapshot!(pages.join("\n"));
    }

    #[test]
    fn global_options_stand_before_or_behind_the_verb() {
        for words in [["ostler", "--json", "ps", "-q"], ["ostler", "-q", "ps", "--json"]] {
            let screen = Cli::try_parse_from(words).unwrap().global.screen();
            assert_eq!((screen.format, screen.detail), (Format::Json, Detail::Quiet));
        }
        assert!(Cli::try_parse_from(["ostler", "ps", "-q", "-v"]).is_err());
    }

    #[test]
    fn a_name_that_is_no_id_is_refused_with_the_rule() {
        let text = Cli::try_parse_from(["ostler", "pause", "a.b"]).unwrap_err().to_string();
        assert!(text.contains("it contains '.'") && text.contains("1 to 64 characters"), "{text}");
    }
}
