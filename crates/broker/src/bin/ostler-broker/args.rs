//! The flags of nats-server in Go's syntax: one dash or two, `-flag value` or `-flag=value`, switches with an optional
//! `=true`. Pure: texts to [`Args`].

use std::ffi::OsString;
use std::path::PathBuf;

use ostler_broker::conf::Durability;

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) host: Option<String>,
    /// -1 takes any free port.
    pub(crate) port: Option<i32>,
    pub(crate) server_name: Option<String>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) monitor_port: Option<i32>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) ports_file_dir: Option<PathBuf>,
    pub(crate) debug: Option<bool>,
    pub(crate) trace: Option<bool>,
    pub(crate) log_time: Option<bool>,
    pub(crate) log_utc: Option<bool>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) tls: bool,
    pub(crate) tls_verify: bool,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) jetstream: Option<bool>,
    pub(crate) store_dir: Option<PathBuf>,
    /// What streams promise that do not say; nats-server has no such flag.
    pub(crate) durability: Option<Durability>,
    /// Reactor threads; nats-server has no such flag.
    pub(crate) shards: Option<usize>,
}

/// What the program does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Serves.
    #[default]
    Serve,
    /// Checks the configuration and ends.
    Test,
    /// Sends a signal to another process, `COMMAND[=PID]`, and ends.
    Signal(String),
    Help,
    HelpTls,
    Version,
}

/// Flags of nats-server that are refused, and why.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &[
            "cluster",
            "cluster_name",
            "cluster_listen",
            "cluster_advertise",
            "routes",
            "no_advertise",
            "connect_retries",
            "client_advertise",
        ],
        "this server is one node; clusters need nats-server",
    ),
    (&["s", "syslog", "r", "remote_syslog"], "the log goes to stderr or a file (-l)"),
    (&["log_size_limit"], "rotate the log file from outside and send SIGUSR1 to have it opened again"),
    (
        &["max_traced_msg_len", "VV", "DVV"],
        "the protocol is not traced; -V shows what the server does in detail",
    ),
    (&["ms", "https_port"], "monitoring is plain HTTP on loopback; use -m, with a proxy in front for TLS"),
    (&["profile"], "profile the process from outside, for instance with perf"),
    (&["tlsocsp"], "OCSP needs nats-server"),
];

/// The arguments as texts.
///
/// # Errors
/// One is no UTF-8 text, as only the name of a file can be.
pub(crate) fn texts(arguments: impl Iterator<Item = OsString>) -> Result<Vec<String>, String> {
    let text = |argument: OsString| {
        argument.into_string().map_err(|odd| format!("argument {odd:?} is not UTF-8 text; rename the file"))
    };
    arguments.map(text).collect()
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// What is wrong with which, and what to do.
pub(crate) fn parse(arguments: Vec<String>) -> Result<Args, String> {
    let mut args = Args::default();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        let Some(flag) = flag.filter(|flag| !flag.is_empty()) else {
            // Everything after `--` is no flag either.
            let command = if argument == "--" { rest.next() } else { Some(argument) };
            match command.as_deref() {
                None => break,
                Some("help") => args.action = Action::Help,
                Some("version") => args.action = Action::Version,
                Some(other) => {
                    return Err(format!(
                        "unrecognized command: {other:?}; options begin with a dash, see --help"
                    ));
                }
            }
            break;
        };
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || {
            given
                .clone()
                .or_else(|| rest.next())
                .ok_or_else(|| format!("flag needs an argument: -{name}; see --help"))
        };
        match name {
            "a" | "addr" | "net" => args.host = Some(value()?),
            "p" | "port" => args.port = Some(port(name, &value()?)?),
            "n" | "name" | "server_name" => args.server_name = Some(value()?),
            "c" | "config" => args.config = Some(value()?.into()),
            "m" | "http_port" => args.monitor_port = Some(port(name, &value()?)?),
            "P" | "pid" => args.pid_file = Some(value()?.into()),
            "l" | "log" => args.log_file = Some(value()?.into()),
            "ports_file_dir" => args.ports_file_dir = Some(value()?.into()),
            "user" => args.user = Some(value()?),
            "pass" => args.password = Some(value()?),
            "auth" => args.token = Some(value()?),
            "tlscert" => args.tls_cert = Some(value()?.into()),
            "tlskey" => args.tls_key = Some(value()?.into()),
            "tlscacert" => args.tls_ca = Some(value()?.into()),
            "sd" | "store_dir" => args.store_dir = Some(directory(name, value()?)?),
            "durability" => args.durability = Some(durability(&value()?)?),
            "sl" | "signal" => args.action = Action::Signal(value()?),
            "shards" => args.shards = Some(shards(&value()?)?),
            "D" | "debug" => args.debug = Some(switch(name, given)?),
            "V" | "trace" => args.trace = Some(switch(name, given)?),
            "DV" => {
                let on = switch(name, given)?;
                (args.debug, args.trace) = (Some(on), Some(on));
            }
            "T" | "logtime" => args.log_time = Some(switch(name, given)?),
            "logtime_utc" => args.log_utc = Some(switch(name, given)?),
            "tls" => args.tls = switch(name, given)?,
            "tlsverify" => args.tls_verify = switch(name, given)?,
            "js" | "jetstream" => args.jetstream = Some(switch(name, given)?),
            "t" if switch(name, given.clone())? => args.action = Action::Test,
            "h" | "help" if switch(name, given.clone())? => args.action = Action::Help,
            "help_tls" if switch(name, given.clone())? => args.action = Action::HelpTls,
            "v" | "version" if switch(name, given.clone())? => args.action = Action::Version,
            "t" | "h" | "help" | "help_tls" | "v" | "version" => {}
            _ => return Err(unknown(name)),
        }
    }
    Ok(args)
}

fn unknown(name: &str) -> String {
    match REFUSED.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, reason)) => format!("flag -{name} is not supported: {reason}"),
        None => format!("flag provided but not defined: -{name}; see --help"),
    }
}

/// A switch: on without a value, else what Go's parser takes for true and false.
fn switch(name: &str, given: Option<String>) -> Result<bool, String> {
    match given.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => {
            Err(format!("invalid boolean value {other:?} for -{name}: write -{name} or -{name}=false"))
        }
    }
}

fn port(name: &str, text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(port @ -1..=65535) => Ok(port),
        _ => Err(format!("invalid value {text:?} for flag -{name}: a port is -1 (any free one) to 65535")),
    }
}

fn shards(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|shards| *shards > 0);
    number.ok_or_else(|| format!("invalid value {text:?} for flag -shards: a number of threads, at least 1"))
}

fn directory(name: &str, text: String) -> Result<PathBuf, String> {
    match text.is_empty() {
        true => Err(format!("flag -{name}: the name of a directory is missing")),
        false => Ok(text.into()),
    }
}

fn durability(text: &str) -> Result<Durability, String> {
    Durability::parse(text).ok_or_else(|| {
        format!("invalid value {text:?} for flag -durability: group, process or async, see --help")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(Into::into).collect())
    }

    #[test]
    fn a_flag_has_one_dash_or_two_and_its_value_behind_a_space_or_an_equals_sign() {
        for line in ["-p 4333", "--p 4333", "-p=4333", "--port 4333", "-port=4333", "--port=4333"] {
            assert_eq!(read(line).unwrap().port, Some(4333), "{line}");
        }
        assert_eq!(read("-p -1").unwrap().port, Some(-1));
        assert_eq!(
            read("-n -x").unwrap().server_name.as_deref(),
            Some("-x"),
            "a value may begin with a dash"
        );
    }

    #[test]
    fn every_name_of_a_flag_is_the_same_flag() {
        for line in ["-a h", "--addr h", "--net=h"] {
            assert_eq!(read(line).unwrap().host.as_deref(), Some("h"), "{line}");
        }
        for line in ["-n s", "--name s", "--server_name s"] {
            assert_eq!(read(line).unwrap().server_name.as_deref(), Some("s"), "{line}");
        }
        for line in ["-m 1", "--http_port 1"] {
            assert_eq!(read(line).unwrap().monitor_port, Some(1), "{line}");
        }
        for line in ["-t", "--t=true"] {
            assert_eq!(read(line).unwrap().action, Action::Test, "{line}");
        }
        for line in ["-v", "--version", "version"] {
            assert_eq!(read(line).unwrap().action, Action::Version, "{line}");
        }
        for line in ["--signal ldm=7", "-sl=ldm=7"] {
            assert_eq!(read(line).unwrap().action, Action::Signal("ldm=7".into()), "{line}");
        }
    }

    #[test]
    fn switches_take_no_value_behind_a_space() {
        let args = read("-DV -T=false -js -sd dir --tls -p 1").unwrap();
        assert_eq!((args.debug, args.trace, args.log_time), (Some(true), Some(true), Some(false)));
        assert!(args.jetstream == Some(true) && args.tls && args.port == Some(1));
        assert_eq!(args.store_dir.as_deref(), Some("dir".as_ref()));
        assert_eq!(read("-D=false").unwrap().debug, Some(false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, says) in [
            ("-p abc", "invalid value \"abc\" for flag -p"),
            ("-p 70000", "to 65535"),
            ("-p", "flag needs an argument: -p"),
            ("-sd=", "flag -sd: the name of a directory is missing"),
            ("--durability sometimes", "group, process or async"),
            ("--shards 0", "invalid value \"0\" for flag -shards"),
            ("-zz", "flag provided but not defined: -zz"),
            ("serve", "unrecognized command: \"serve\""),
            ("-- serve", "unrecognized command: \"serve\""),
            ("-D=perhaps", "invalid boolean value \"perhaps\""),
            ("--cluster nats://h:1", "one node"),
            ("--routes x", "one node"),
            ("-s", "stderr or a file"),
            ("-ms 1", "plain HTTP"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
