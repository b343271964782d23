//! The configuration: every option, its unit, its default; read whole and checked before anything is bound.
//!
//! Unknown keys are errors. Durations are written `"15s"`, sizes `"64MiB"`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use miette::{Diagnostic, NamedSource, SourceSpan};
use ostler_wire::NodeId;
use serde::{Deserialize, Serialize};

mod audit;
mod bus;

pub use audit::{AuditConfig, AuditMode};
pub use bus::{BusConfig, External, TlsFiles};

/// The commented default file, as `ostler config show --default` prints it.
pub const DEFAULT_FILE: &str = include_str!("../ostler.toml");

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Where the daemon keeps everything; not part of the file, because the file may be found through it.
    #[serde(skip)]
    pub state_dir: PathBuf,
    /// The node.
    pub node: NodeConfig,
    /// The bus.
    pub bus: BusConfig,
    /// The audit.
    pub audit: AuditConfig,
    /// All agents.
    pub agents: AgentsConfig,
}

/// The node's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name on the bus. Default `local`.
    pub name: NodeId,
}

/// The settings of all agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentsConfig {
    /// Time between heartbeats. Default 15 s, at least 100 ms; three missed make an agent degraded. The daemon's own heart
    /// beats every 15 s at least.
    pub heartbeat: Interval,
    /// Recorded output kept per agent; the oldest goes first. Default 64 MiB, at least 64 KiB.
    pub log_bytes_max: Size,
    /// Unrecorded output a host keeps in memory while the daemon is away. Default 16 MiB, at least 64 KiB.
    pub buffer_bytes_max: Size,
    /// Recorded events kept. Default 100 000, at least 1000.
    pub events_max: u64,
    /// Variables of the daemon's environment that agents get; all others are withheld.
    pub env_pass: Vec<String>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { name: NodeId::parse("local").expect("the literal follows the rule") }
    }
}

impl Default for AgentsConfig {
    fn default() -> Self {
        let pass = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];
        Self {
            heartbeat: Interval(15_000),
            log_bytes_max: Size(64 << 20),
            buffer_bytes_max: Size(16 << 20),
            events_max: 100_000,
            env_pass: pass.map(String::from).to_vec(),
        }
    }
}

impl AgentsConfig {
    /// The part of `variables` that agents get, and a terminal type that promises nothing.
    pub fn environment(&self, variables: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
        let mut env: Vec<_> = variables.filter(|(name, _)| self.env_pass.contains(name)).collect();
        env.push(("TERM".into(), "dumb".into()));
        env
    }
}

/// What the command line changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// `--state-dir`.
    pub state_dir: PathBuf,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--port`.
    pub port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    node: NodeConfig,
    bus: bus::File,
    audit: AuditConfig,
    agents: AgentsConfig,
}

/// Reads the configuration at `path`; a missing file means all defaults, unless `required`.
///
/// # Errors
///
/// [`Error`] shows the place in the file and the remedy.
pub fn load(path: &Path, required: bool, overrides: Overrides) -> Result<Config, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => String::new(),
        Err(source) => return Err(Error::Unreadable { path: path.to_owned(), source }),
    };
    parse(&path.display().to_string(), &text, overrides)
}

/// Reads a configuration from text; `name` is what errors call it.
///
/// # Errors
///
/// As [`load`].
pub fn parse(name: &str, text: &str, overrides: Overrides) -> Result<Config, Error> {
    let file: File =
        toml::from_str(text).map_err(|error| invalid(name, text, error.message(), error.span()))?;
    let wrong = |(key, reason): (&str, String)| {
        let span = text.find(key).map(|at| at..at + key.len());
        invalid(name, text, &format!("{key}: {reason}"), span)
    };
    let bus = file.bus.check(overrides.listen, overrides.port).map_err(wrong)?;
    file.audit.check().map_err(wrong)?;
    check(&file.agents).map_err(wrong)?;
    Ok(Config {
        state_dir: overrides.state_dir,
        node: file.node,
        bus,
        audit: file.audit,
        agents: file.agents,
    })
}

fn check(agents: &AgentsConfig) -> Result<(), (&'static str, String)> {
    let at_least = |key, value: u64, min: u64, shown: &str| {
        if value < min { Err((key, format!("must be at least {shown}"))) } else { Ok(()) }
    };
    at_least("heartbeat", agents.heartbeat.millis(), 100, "\"100ms\"")?;
    at_least("log_bytes_max", agents.log_bytes_max.bytes(), 64 << 10, "\"64KiB\"")?;
    at_least("buffer_bytes_max", agents.buffer_bytes_max.bytes(), 64 << 10, "\"64KiB\"")?;
    at_least("events_max", agents.events_max, 1000, "1000")
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", .path.display())]
    #[diagnostic(help("`ostler config path` shows where it is looked for"))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file says something that makes no sense.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(Box<Invalid>),
}

/// What makes no sense in a configuration, and where.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("the configuration {name} is not valid: {reason}")]
pub struct Invalid {
    name: String,
    reason: String,
    #[label("here")]
    place: Option<SourceSpan>,
    #[source_code]
    text: NamedSource<String>,
    #[help]
    help: Option<String>,
}

fn invalid(name: &str, text: &str, reason: &str, span: Option<std::ops::Range<usize>>) -> Error {
    // Only the first line: the rest repeats the place, which is shown better.
    let reason = reason.lines().next().unwrap_or_default().to_owned();
    Error::Invalid(Box::new(Invalid {
        name: name.to_owned(),
        help: did_you_mean(&reason).or_else(|| {
            Some("`ostler config show --default` prints every option with its default".to_owned())
        }),
        reason,
        place: span.map(|span| (span.start, span.len().max(1)).into()),
        text: NamedSource::new(name, text.to_owned()),
    }))
}

/// Reads the candidates out of "unknown field `x`, expected one of `a`, `b`" and names the nearest.
fn did_you_mean(reason: &str) -> Option<String> {
    let mut quoted = reason.split('`').skip(1).step_by(2);
    let unknown = reason.starts_with("unknown field").then(|| quoted.next()).flatten()?;
    let nearest = quoted.max_by(|a, b| strsim::jaro(unknown, a).total_cmp(&strsim::jaro(unknown, b)))?;
    (strsim::jaro(unknown, nearest) > 0.7).then(|| format!("did you mean `{nearest}`?"))
}

/// A length of time, written `"15s"`, `"2m"`, `"100ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(u64);

impl Interval {
    /// In milliseconds.
    pub fn millis(self) -> u64 {
        self.0
    }
}

impl FromStr for Interval {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a length of time; write it like \"15s\", \"2m\" or \"100ms\"");
        let duration: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
        u64::try_from(duration.as_millis()).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 60_000 == 0 && ms > 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A number of bytes, written `"64MiB"`, `"512KiB"`, `"1GiB"` or as a plain number in quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Size {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
            .unwrap_or((text, 0));
        number
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size; write it like \"64MiB\", \"512KiB\" or \"1GiB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}
text_form!(Interval, Size);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Error> {
        parse("ostler.toml", text, Overrides::default())
    }

    fn shown(text: &str) -> String {
        let error = read(text).unwrap_err();
        let help = error.help().map(|help| help.to_string()).unwrap_or_default();
        format!("{error}\n{help}")
    }

    #[test]
    fn the_default_file_says_what_the_defaults_are() {
        assert_eq!(read(DEFAULT_FILE).unwrap(), read("").unwrap());
        let uncommented: String = DEFAULT_FILE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(read(&uncommented).unwrap(), read("").unwrap());
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_the_nearest() {
        let text = shown("[bus]\nlisen = \"127.0.0.1:1\"\n");
        assert!(text.contains("unknown field `lisen`") && text.contains("did you mean `listen`?"), "{text}");
        assert!(shown("[busses]\n").contains("did you mean `bus`?"));
    }

    #[test]
    fn wrong_values_name_the_rule() {
        assert!(shown("[agents]\nheartbeat = \"soon\"\n").contains("write it like \"15s\""));
        assert!(shown("[agents]\nheartbeat = \"1ms\"\n").contains("at least \"100ms\""));
        assert!(shown("[agents]\nlog_bytes_max = \"1 lot\"\n").contains("64MiB"));
        assert!(shown("[node]\nname = \"a.b\"\n").contains("A-Z a-z 0-9"));
        assert!(shown("[bus]\nlisten = \"everywhere\"\n").contains("ostler config show --default"));
        assert!(shown("[bus\n").contains("ostler.toml"));
    }

    #[test]
    fn shown_values_read_back() {
        for text in ["15s", "2m", "100ms", "90s"] {
            let interval: Interval = text.parse().unwrap();
            assert_eq!(interval.to_string().parse::<Interval>(), Ok(interval));
        }
        for text in ["64MiB", "1GiB", "512KiB", "1000"] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.to_string(), *text);
        }
        assert!("99999999999999GiB".parse::<Size>().is_err());
    }

    #[test]
    fn agents_get_only_the_named_variables() {
        let variables = [("PATH", "/bin"), ("SECRET_TOKEN", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = AgentsConfig::default().environment(variables.into_iter());
        assert_eq!(env, [("PATH".to_owned(), "/bin".to_owned()), ("TERM".to_owned(), "dumb".to_owned())]);
    }
}
