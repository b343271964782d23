//! What a configuration asks for, typed and checked: the settings of nats-server that this server has. Reads values,
//! opens no socket and no certificate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Invalid, Notes, Problem};
use super::fields::Fields;
use super::jetstream::{self, JetStreamSettings};
use super::parse::{Outside, parse};
use super::units;
use super::users;
use super::value::{Block, Entry, Kind};
use crate::auth::Identity;
use crate::limits::Limits;

/// The shortest time over which a lame duck may send its clients away: nats-server's bound.
const LAME_DUCK_OVER_MIN: Duration = Duration::from_secs(30);

/// The settings of a server. What was not set is `None` or the default.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Settings {
    /// `host` or the first half of `listen`.
    pub host: Option<String>,
    /// `port` or the second half of `listen`; `Some(0)` takes any free port (-1 in the file).
    pub port: Option<u16>,
    /// `server_name`
    pub server_name: Option<String>,
    /// All `max_...`, `ping_...` and `write_deadline`, and `authorization.timeout`.
    pub limits: Limits,
    /// `authorization` and `accounts`
    pub identities: Vec<Identity>,
    /// `no_auth_user`
    pub no_auth_user: Option<String>,
    /// `system_account`
    pub system_account: Option<String>,
    /// `tls`
    pub tls: Option<TlsSettings>,
    /// `allow_non_tls`
    pub allow_non_tls: bool,
    /// `websocket`
    pub websocket: Option<WebSocketSettings>,
    /// `http`, `http_port`, `monitor_port`
    pub monitor: Option<MonitorSettings>,
    /// `lame_duck_duration`
    pub lame_duck_over: Option<Duration>,
    /// `lame_duck_grace_period`
    pub lame_duck_grace: Option<Duration>,
    /// `pid_file`
    pub pid_file: Option<PathBuf>,
    /// `ports_file_dir`
    pub ports_file_dir: Option<PathBuf>,
    /// `jetstream`, `store_dir`
    pub jetstream: JetStreamSettings,
    /// `debug`, `trace`, `log_file` and their kin
    pub log: LogSettings,
    /// What deserves a word but stops nobody.
    pub warnings: Vec<Problem>,
}

/// `tls {...}`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `cert_file`
    pub cert_file: PathBuf,
    /// `key_file`
    pub key_file: PathBuf,
    /// `ca_file`; clients are checked against it only with `verify`.
    pub ca_file: Option<PathBuf>,
    /// `verify`: clients need a certificate.
    pub verify: bool,
    /// `timeout` of the handshake
    pub timeout: Option<Duration>,
    /// `handshake_first`
    pub handshake: Handshake,
}

/// `handshake_first`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handshake {
    /// INFO goes first, in plain text.
    #[default]
    AfterInfo,
    /// The client begins with TLS.
    First,
    /// The client has this long to begin with TLS, then INFO is sent.
    Auto(Duration),
}

/// `websocket {...}`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// `host`, or the first half of `listen`
    pub host: Option<String>,
    /// `port`, or the second half of `listen`; 0 takes any free port (-1 in the file).
    pub port: u16,
    /// `tls`; without it `no_tls` was set.
    pub tls: Option<TlsSettings>,
    /// `allowed_origins`
    pub allowed_origins: Vec<String>,
    /// `same_origin`
    pub same_origin: bool,
    /// `handshake_timeout`
    pub handshake_timeout: Option<Duration>,
}

/// `http`, `http_port`, `monitor_port`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitorSettings {
    /// The host of `http: HOST:PORT`. Without one it is loopback, not the host of the clients.
    pub host: Option<String>,
    /// The port; 0 takes any free one (-1 in the file).
    pub port: u16,
}

/// What is logged and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// `log_file`
    pub file: Option<PathBuf>,
    /// `debug`
    pub debug: bool,
    /// `trace`
    pub trace: bool,
    /// `logtime`, on unless switched off
    pub time: Option<bool>,
    /// `logtime_utc`
    pub utc: bool,
}

impl Settings {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`Invalid`] lists everything that is wrong with it; a file that is not in the language, only the first.
    pub fn load(path: &Path, outside: &dyn Outside) -> Result<Self, Invalid> {
        let block = parse(path, outside)?;
        let notes = Notes::default();
        let mut settings = read(&block, &notes);
        settings.warnings = notes.finish()?;
        if let Err(crate::Error::Option { option, problem }) = settings.limits.check() {
            return Err(Invalid::one(None, format!("{}: {option}: {problem}", path.display())));
        }
        Ok(settings)
    }
}

fn read(block: &Block, notes: &Notes) -> Settings {
    let mut fields = Fields::new("", block, notes);
    let mut settings = Settings::default();
    if let Some((host, port)) = address(&mut fields, &["listen"]) {
        (settings.host, settings.port) = (host, port.or_default());
    }
    if let Some(host) = fields.filled(&["host", "net"]) {
        settings.host = Some(host);
    }
    if let Some(port) = port(&mut fields, &["port"]) {
        settings.port = port.or_default();
    }
    if let Some(name) = fields.filled(&["server_name", "name"]) {
        if name.contains(char::is_whitespace) {
            fields
                .take(&["server_name", "name"])
                .into_iter()
                .for_each(|entry| fields.wrong(entry, "a server's name has no spaces"));
        }
        settings.server_name = Some(name);
    }
    settings.limits = limits(&mut fields);
    settings.jetstream = jetstream::jetstream(&mut fields);
    security(&mut fields, &mut settings);
    settings.websocket =
        fields.block(&["websocket", "ws"]).and_then(|(entry, block)| websocket(entry, block, notes));
    settings.monitor = monitor(&mut fields);
    lame_duck(&mut fields, &mut settings);
    settings.pid_file = fields.filled(&["pid_file", "pidfile"]).map(Into::into);
    settings.ports_file_dir = fields.filled(&["ports_file_dir"]).map(Into::into);
    settings.log = LogSettings {
        file: fields.filled(&["log_file", "logfile"]).map(Into::into),
        debug: fields.boolean(&["debug"]).unwrap_or(false),
        trace: fields.boolean(&["trace"]).unwrap_or(false),
        time: fields.boolean(&["logtime"]),
        utc: fields.boolean(&["logtime_utc"]).unwrap_or(false),
    };
    fields.finish();
    settings
}

/// Sizes and times; 0 is the default, as in nats-server.
fn limits(fields: &mut Fields<'_>) -> Limits {
    let mut limits = Limits::default();
    let mut set = |to: &mut usize, names: &[&'static str]| match fields.limit(names) {
        None => {}
        Some(None) => *to = usize::MAX,
        Some(Some(number)) => *to = number,
    };
    set(&mut limits.connections_max, &["max_connections", "max_conn"]);
    set(&mut limits.subscriptions_max, &["max_subscriptions", "max_subs"]);
    let mut size = |to: &mut usize, names: &[&'static str]| match fields
        .integer(names, 0..=i64::from(i32::MAX))
        .map(usize::try_from)
    {
        None | Some(Err(_) | Ok(0)) => {}
        Some(Ok(bytes)) => *to = bytes,
    };
    size(&mut limits.payload_bytes_max, &["max_payload"]);
    size(&mut limits.pending_bytes_max, &["max_pending"]);
    size(&mut limits.control_line_bytes_max, &["max_control_line"]);
    let mut time = |to: &mut Duration, names: &[&'static str]| {
        if let Some(time) = fields.duration(names).filter(|time| !time.is_zero()) {
            *to = time;
        }
    };
    time(&mut limits.ping_interval, &["ping_interval"]);
    time(&mut limits.write_deadline, &["write_deadline"]);
    if let Some(pings) = fields.integer(&["ping_max"], 1..=1000) {
        limits.pings_out_max = u32::try_from(pings).unwrap_or(limits.pings_out_max);
    }
    limits
}

fn security(fields: &mut Fields<'_>, settings: &mut Settings) {
    let notes = fields.notes;
    if let Some((entry, block)) = fields.block(&["authorization"]) {
        let read = users::authorization(entry, block, notes);
        settings.identities = read.identities;
        match read.timeout {
            Some(timeout) if timeout.is_zero() => {
                notes.error(&entry.at, "authorization.timeout: it must be longer than nothing");
            }
            Some(timeout) => settings.limits.auth_timeout = timeout,
            None => {}
        }
    }
    let accounts = fields.take(&["accounts"]);
    if let Some(entry) = accounts {
        let read = users::accounts(entry, notes);
        settings.identities.extend(read.identities);
        if let Some((account, limits)) = read.streams {
            (settings.jetstream.account, settings.jetstream.account_limits) = (Some(account), limits);
        }
    }
    for entry in fields.take(&["authorization"]).into_iter().chain(fields.take(&["accounts"])).take(1) {
        users::check_unique(&settings.identities, entry, notes);
    }
    settings.system_account = fields.filled(&["system_account", "system"]);
    if let Some(name) = &settings.system_account
        && !users::is_declared(name, accounts)
        && let Some(entry) = fields.take(&["system_account", "system"])
    {
        fields.wrong(entry, format!("there is no account {name:?} under accounts; add it"));
    }
    if let Some(name) = fields.filled(&["no_auth_user"]) {
        if !settings.identities.iter().any(|identity| identity.name == name)
            && let Some(entry) = fields.take(&["no_auth_user"])
        {
            fields.wrong(entry, format!("there is no user {name:?} under authorization or accounts; add it"));
        }
        settings.no_auth_user = Some(name);
    }
    settings.tls = fields.block(&["tls"]).and_then(|(entry, block)| tls(entry, block, "tls.", notes));
    settings.allow_non_tls = fields.boolean(&["allow_non_tls"]).unwrap_or(false);
}

/// `tls {...}`; `None` if it is empty or wrong.
fn tls(entry: &Entry, block: &Block, prefix: &str, notes: &Notes) -> Option<TlsSettings> {
    let mut fields = Fields::new(prefix, block, notes);
    let cert_file = fields.filled(&["cert_file"]);
    let key_file = fields.filled(&["key_file"]);
    let ca_file: Option<PathBuf> = fields.filled(&["ca_file"]).map(Into::into);
    let verify = fields.boolean(&["verify"]).unwrap_or(false);
    let timeout = fields.duration(&["timeout"]).filter(|timeout| !timeout.is_zero());
    let handshake = handshake(&mut fields);
    fields.finish();
    if verify && ca_file.is_none() {
        notes.error(
            &entry.at,
            format!(
                "{prefix}verify needs {prefix}ca_file, the certificates that clients are checked against"
            ),
        );
    }
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Some(TlsSettings {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            ca_file,
            verify,
            timeout,
            handshake,
        }),
        _ => {
            notes.error(&entry.at, format!("{prefix}cert_file and {prefix}key_file are both needed; give both, or remove the block to serve in plain text"));
            None
        }
    }
}

fn handshake(fields: &mut Fields<'_>) -> Handshake {
    /// How long `auto` waits: nats-server's value.
    const AUTO: Duration = Duration::from_millis(50);
    let Some(entry) = fields.take(&["handshake_first", "first", "immediate"]) else {
        return Handshake::AfterInfo;
    };
    let text = match &entry.value.kind {
        Kind::Bool(true) => return Handshake::First,
        Kind::Bool(false) => return Handshake::AfterInfo,
        Kind::Text(text) | Kind::Integer { text, .. } => text,
        _ => "",
    };
    if text.eq_ignore_ascii_case("auto") || text.eq_ignore_ascii_case("auto_fallback") {
        return Handshake::Auto(AUTO);
    }
    match units::duration(text) {
        Ok(wait) if !wait.is_zero() => Handshake::Auto(wait),
        _ => {
            fields.wrong(entry, "true, false, auto or a time such as \"300ms\" is expected");
            Handshake::AfterInfo
        }
    }
}

fn websocket(entry: &Entry, block: &Block, notes: &Notes) -> Option<WebSocketSettings> {
    let mut fields = Fields::new("websocket.", block, notes);
    let (mut host, mut number) = match address(&mut fields, &["listen"]) {
        Some((host, port)) => (host, Some(port)),
        None => (None, None),
    };
    host = fields.filled(&["host", "net"]).or(host);
    number = port(&mut fields, &["port"]).or(number);
    let no_tls = fields.boolean(&["no_tls"]).unwrap_or(false);
    let inner = fields.block(&["tls"]);
    let tls = inner.and_then(|(entry, block)| tls(entry, block, "websocket.tls.", notes));
    let allowed_origins = fields
        .texts(&["allowed_origins", "allowed_origin", "allow_origins", "allow_origin", "origins", "origin"])
        .map(|(_, texts)| texts)
        .unwrap_or_default();
    let same_origin = fields.boolean(&["same_origin"]).unwrap_or(false);
    let handshake_timeout = fields.duration(&["handshake_timeout"]).filter(|timeout| !timeout.is_zero());
    if let Some(entry) = fields.take(&["compression"])
        && !matches!(entry.value.kind, Kind::Bool(false))
    {
        fields.wrong(entry, "frames are not compressed; remove it or set it to false");
    }
    fields.finish();
    // As in nats-server, port 0 switches them off.
    if number == Some(Port::Default) {
        return None;
    }
    let Some(port) = number.and_then(Port::or_default) else {
        notes.error(&entry.at, "websocket.port is needed: there is no port that web sockets have by default");
        return None;
    };
    if inner.is_none() && !no_tls {
        notes.error(&entry.at, "websocket.tls is needed; where plain text will do, say so with no_tls: true");
        return None;
    }
    if inner.is_some() && no_tls {
        notes.error(&entry.at, "websocket.tls and websocket.no_tls exclude each other; keep one of them");
    }
    Some(WebSocketSettings { host, port, tls, allowed_origins, same_origin, handshake_timeout })
}

fn monitor(fields: &mut Fields<'_>) -> Option<MonitorSettings> {
    let only_port = port(fields, &["http_port", "monitor_port"]);
    let (host, port) = address(fields, &["http"]).or_else(|| only_port.map(|port| (None, port)))?;
    // Its default is to be off.
    Some(MonitorSettings { host, port: port.or_default()? })
}

fn lame_duck(fields: &mut Fields<'_>, settings: &mut Settings) {
    settings.lame_duck_over = fields.duration(&["lame_duck_duration"]);
    settings.lame_duck_grace = fields.duration(&["lame_duck_grace_period"]);
    if settings.lame_duck_over.is_some_and(|over| over < LAME_DUCK_OVER_MIN)
        && let Some(entry) = fields.take(&["lame_duck_duration"])
    {
        fields.wrong(entry, "at least \"30s\": clients that all reconnect at once are what it is to prevent");
    }
}

/// What a file says of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// 0: the default, where there is one, else none at all.
    Default,
    /// -1: any that is free.
    Free,
    Number(u16),
}

impl Port {
    fn new(number: i64) -> Option<Self> {
        match u16::try_from(number) {
            Ok(0) => Some(Self::Default),
            Ok(number) => Some(Self::Number(number)),
            Err(_) => (number == -1).then_some(Self::Free),
        }
    }

    /// As the system counts: 0 is any free one. `None` for the default.
    fn or_default(self) -> Option<u16> {
        match self {
            Self::Default => None,
            Self::Free => Some(0),
            Self::Number(number) => Some(number),
        }
    }
}

fn port(fields: &mut Fields<'_>, names: &[&'static str]) -> Option<Port> {
    Port::new(fields.integer(names, -1..=i64::from(u16::MAX))?)
}

/// `HOST:PORT`, `[v6]:PORT`, `:PORT` or `PORT`.
fn address(fields: &mut Fields<'_>, names: &[&'static str]) -> Option<(Option<String>, Port)> {
    let entry = fields.take(names)?;
    let text = match &entry.value.kind {
        Kind::Integer { .. } => return port(fields, names).map(|port| (None, port)),
        Kind::Text(text) => text,
        _ => "",
    };
    let read = split_address(text);
    if read.is_none() {
        fields.wrong(
            entry,
            "an address HOST:PORT is expected, such as 127.0.0.1:4222; port -1 takes any free one",
        );
    }
    read
}

/// Splits `HOST:PORT`.
fn split_address(text: &str) -> Option<(Option<String>, Port)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = Port::new(port.parse().ok()?)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some(((!host.is_empty()).then(|| host.to_owned()), port))
}
