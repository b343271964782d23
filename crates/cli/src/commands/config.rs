//! `ostler config show|check|path`.

use serde::Serialize;

use crate::commands::up::load_config;
use crate::connect::Places;
use crate::exit::{Exit, Failure, Outcome};
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print every option as it is in effect
    Show {
        /// Print the commented default file instead
        #[arg(long)]
        default: bool,
    },
    /// Check the configuration
    Check,
    /// Print where it is looked for
    Path,
}

/// What `path` and `check` print with `--json`.
#[derive(Serialize)]
struct Place<'a> {
    path: &'a std::path::Path,
    exists: bool,
}

pub(crate) fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let place = Place { path: &places.config, exists: places.config.exists() };
    let shown = place.path.display();
    match args.verb {
        Verb::Path if screen.is_json() => screen.json(&place),
        Verb::Path => screen.line(shown),
        Verb::Check => {
            load_config(places)?;
            screen.reply(&place, |place| match place.exists {
                true => format!("{shown} is valid"),
                false => format!("{shown} does not exist; all defaults apply"),
            })
        }
        Verb::Show { default: true } => screen.text(ostler_daemon::config::DEFAULT_FILE),
        Verb::Show { default: false } => {
            let config = load_config(places)?;
            if screen.is_json() {
                return screen.json(&config);
            }
            let text = toml::to_string_pretty(&config).map_err(|error| {
                Failure::new(Exit::Failed, format!("the configuration cannot be shown: {error}"))
            })?;
            screen.text(&text)
        }
    }
}
