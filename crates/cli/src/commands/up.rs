//! `ostler up`: the daemon itself, in the foreground or started in the background.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use ostler_daemon::config::{self, Config, Overrides};
use ostler_wire::Endpoint;
use tracing_subscriber::filter::LevelFilter;

use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, Outcome};
use crate::launch;
use crate::render::config::snippet;
use crate::render::style;
use crate::screen::{Detail, Screen};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C stops the daemon and its agents; SIGTERM stops the daemon alone, and the next one takes the agents over.")]
pub(crate) struct Args {
    /// Start it in the background and return when it is ready; its log is daemon.log in the state directory
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Where the bus listens, instead of what the configuration says
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "port")]
    listen: Option<SocketAddr>,
    /// The port the bus listens on, instead of the configuration's; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// How much the daemon logs to standard error [default: warn, in the background info]
    #[arg(long, value_enum, value_name = "LEVEL", env = "OSTLER_LOG", hide_env_values = true)]
    log: Option<Level>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Runs the daemon here until it is asked to end.
pub(crate) fn foreground(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let config = load(args, places)?;
    let usual = if screen.detail == Detail::Verbose { Level::Info } else { Level::Warn };
    tracing_subscriber::fmt()
        .with_max_level(args.log.unwrap_or(usual).filter())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // A log that cannot be written, on a full disk say, is no reason to end: the default complains with a panic.
        .log_internal_errors(false)
        .init();
    // A closed standard output is no reason to end a daemon.
    let ready = |endpoint: &Endpoint| drop(screen.reply(endpoint, sentence));
    ostler_daemon::main(config, ready).map_err(Failure::from)
}

/// Starts the daemon in the background.
pub(crate) async fn background(args: &Args, places: &Places, screen: Screen) -> Outcome {
    // Checked here as well, because here somebody reads the answer.
    load(args, places)?;
    if let Ok(session) = Session::open(places).await
        && session.has_daemon().await
    {
        return Err(already_running(&places.state_dir, Some(session.endpoint.pid)));
    }
    let endpoint = launch::start(places, &arguments(args)).await?;
    screen.reply(&endpoint, |endpoint| format!("{}\n{}", sentence(endpoint), log_line(places)))
}

fn log_line(places: &Places) -> String {
    style::dim(format!("  its log: {}", launch::log_file(places).display()))
}

/// The arguments for the same daemon without `--detach`.
fn arguments(args: &Args) -> Vec<OsString> {
    let level = args.log.unwrap_or(Level::Info).to_possible_value().map(|value| value.get_name().to_owned());
    let mut all: Vec<OsString> = vec!["--log".into(), level.unwrap_or_default().into()];
    if let Some(listen) = args.listen {
        all.extend(["--listen".into(), listen.to_string().into()]);
    }
    if let Some(port) = args.port {
        all.extend(["--port".into(), port.to_string().into()]);
    }
    all
}

fn load(args: &Args, places: &Places) -> Outcome<Config> {
    load_with(places, Overrides { listen: args.listen, port: args.port, ..Overrides::default() })
}

/// The configuration as it is in effect.
pub(crate) fn load_config(places: &Places) -> Outcome<Config> {
    load_with(places, Overrides::default())
}

/// The configuration with what the command line changes.
fn load_with(places: &Places, overrides: Overrides) -> Outcome<Config> {
    let overrides = Overrides { state_dir: places.state_dir.clone(), ..overrides };
    config::load(&places.config, places.config_is_given, overrides).map_err(|error| {
        let place = snippet(&error).map(|snippet| format!("\n{snippet}")).unwrap_or_default();
        let failure = Failure::new(Exit::BadConfig, format!("{error}{place}"));
        match miette::Diagnostic::help(&error) {
            Some(help) => failure.hint(help.to_string()),
            None => failure,
        }
    })
}

/// Where the bus is, how to spawn, how to stop.
fn sentence(endpoint: &Endpoint) -> String {
    format!(
        "{} at {}; start an agent: {}; stop: {}",
        style::good("ostler is up"),
        style::strong(&endpoint.bus_url),
        style::hint("ostler spawn NAME -- COMMAND"),
        style::hint("ostler down")
    )
}

/// The same words whoever finds the other daemon first.
fn already_running(state_dir: &Path, pid: Option<u32>) -> Failure {
    let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Failure::new(Exit::Refused, format!("a daemon runs already for {}{pid}", state_dir.display()))
        .hint("`ostler status` shows it, `ostler down` stops it; another one needs its own --state-dir")
}

impl From<ostler_daemon::Error> for Failure {
    fn from(error: ostler_daemon::Error) -> Self {
        if let ostler_daemon::Error::AlreadyRunning { dir, pid } = &error {
            return already_running(dir, *pid);
        }
        let failure = Self::new(Exit::Failed, error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
