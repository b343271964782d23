//! From the command line and the configuration file to what the server is started with. Flags override the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use ostler_broker::conf::{Handshake, MonitorSettings, Settings, System, TlsSettings};
use ostler_broker::{
    Builder, Credential, HandshakeFirst, Identity, LameDuck, Permissions, Server, Tls, TlsError, Users,
    WebSocket,
};

use crate::args::Args;
use crate::jetstream;

/// nats-server's default: every IPv4 address of the machine.
const HOST: &str = "0.0.0.0";
/// The port registered for NATS.
const PORT: u16 = 4222;
/// Connections that `/connz?state=closed` remembers: nats-server's number.
const CLOSED_CONNECTIONS: usize = 10_000;

/// Reads the file, if there is one, and lays the flags over it.
///
/// # Errors
/// Every problem of the file, a line each; or what is wrong with the flags.
pub(crate) fn load(args: &Args) -> Result<Settings, String> {
    let mut settings = match &args.config {
        Some(path) => Settings::load(path, &System).map_err(|invalid| invalid.to_string())?,
        None => Settings::default(),
    };
    override_with(args, &mut settings)?;
    if settings.allow_non_tls && settings.tls.is_none() {
        return Err(
            "allow_non_tls says that tls is optional, but there is no tls; add it, or remove allow_non_tls"
                .into(),
        );
    }
    Ok(settings)
}

fn override_with(args: &Args, settings: &mut Settings) -> Result<(), String> {
    /// Port -1 takes any free one, which is 0 to the system.
    fn any_free(port: i32) -> u16 {
        u16::try_from(port).unwrap_or(0)
    }
    fn set<T: Clone>(to: &mut Option<T>, flag: &Option<T>) {
        if flag.is_some() {
            to.clone_from(flag);
        }
    }
    set(&mut settings.host, &args.host);
    // As in nats-server, 0 is the default port.
    set(&mut settings.port, &args.port.map(|port| if port == 0 { PORT } else { any_free(port) }));
    match args.server_name.as_deref() {
        Some("") => {
            return Err("flag -n: a server's name cannot be empty; give one or leave the flag out".into());
        }
        Some(name) if name.contains(char::is_whitespace) => {
            return Err(format!("flag -n {name:?}: a server's name has no spaces"));
        }
        _ => set(&mut settings.server_name, &args.server_name),
    }
    set(&mut settings.pid_file, &args.pid_file);
    set(&mut settings.ports_file_dir, &args.ports_file_dir);
    set(&mut settings.log.file, &args.log_file);
    set(&mut settings.log.time, &args.log_time);
    settings.log.debug = args.debug.unwrap_or(settings.log.debug);
    settings.log.trace = args.trace.unwrap_or(settings.log.trace);
    settings.log.utc = args.log_utc.unwrap_or(settings.log.utc);
    set(&mut settings.jetstream.store_dir, &args.store_dir);
    set(&mut settings.jetstream.durability, &args.durability);
    settings.jetstream.enabled = args.jetstream.unwrap_or(settings.jetstream.enabled);
    match args.monitor_port {
        None => {}
        Some(0) => settings.monitor = None,
        Some(port) => settings.monitor = Some(MonitorSettings { host: None, port: any_free(port) }),
    }
    if let Some(identity) = identity(args)? {
        settings.identities = vec![identity];
        settings.no_auth_user = None;
    }
    tls(args, settings)
}

/// Whom `--user`, `--pass` and `--auth` let in.
fn identity(args: &Args) -> Result<Option<Identity>, String> {
    let (name, credential) = match (&args.user, &args.password, &args.token) {
        (None, None, None) => return Ok(None),
        (None, None, Some(token)) => ("token", Settings::token(token)),
        (Some(user), Some(password), None) => (user.as_str(), login(user, password)),
        (_, _, Some(_)) => {
            return Err("--auth and --user or --pass exclude each other; keep one of them".into());
        }
        (Some(_), None, None) => return Err("--user needs --pass, else anybody would be it".into()),
        (None, Some(_), None) => return Err("--pass needs --user, the name that goes with it".into()),
    };
    let identity = Identity::new(name, credential, Permissions::all());
    Users::new().set(identity.clone()).map_err(|problem| problem.to_string())?;
    Ok(Some(identity))
}

fn login(user: &str, password: &str) -> Credential {
    match Settings::token(password) {
        Credential::BcryptToken(hash) => Credential::BcryptPassword { user: user.into(), hash },
        _ => Credential::Password { user: user.into(), password: password.into() },
    }
}

fn tls(args: &Args, settings: &mut Settings) -> Result<(), String> {
    if !args.tls && !args.tls_verify {
        if args.tls_cert.is_some() || args.tls_key.is_some() || args.tls_ca.is_some() {
            return Err(
                "--tlscert, --tlskey and --tlscacert need --tls or --tlsverify; see --help_tls".into()
            );
        }
        return Ok(());
    }
    let mut tls: TlsSettings = settings.tls.take().unwrap_or_default();
    tls.cert_file = args.tls_cert.clone().unwrap_or(tls.cert_file);
    tls.key_file = args.tls_key.clone().unwrap_or(tls.key_file);
    tls.ca_file = args.tls_ca.clone().or(tls.ca_file);
    tls.verify |= args.tls_verify;
    if tls.cert_file.as_os_str().is_empty() || tls.key_file.as_os_str().is_empty() {
        return Err("--tls needs --tlscert and --tlskey; see --help_tls".into());
    }
    if tls.verify && tls.ca_file.is_none() {
        return Err("--tlsverify needs --tlscacert, the certificates that clients are checked against".into());
    }
    settings.tls = Some(tls);
    Ok(())
}

/// Whether everybody without a credential may do everything. As in nats-server: where no user is configured, or none
/// but users of the system account, which others could not do without.
pub(crate) fn is_open(settings: &Settings) -> bool {
    /// The system account where the configuration names none.
    const SYSTEM: &str = "$SYS";
    let system = settings.system_account.as_deref().unwrap_or(SYSTEM);
    settings.no_auth_user.is_none() && settings.identities.iter().all(|identity| identity.account == system)
}

/// The server's options.
///
/// # Errors
/// A host without an address, a certificate that cannot be used.
pub(crate) fn builder(settings: &Settings, users: &Users) -> Result<Builder, String> {
    let host = settings.host.as_deref().unwrap_or(HOST);
    let mut builder = Server::builder()
        .listen(resolve(host, settings.port.unwrap_or(PORT))?)
        .limits(settings.limits.clone())
        .users(users.clone())
        .closed_connections_max(if settings.monitor.is_some() { CLOSED_CONNECTIONS } else { 0 });
    if let Some(name) = &settings.server_name {
        builder = builder.server_name(name);
    }
    if is_open(settings) {
        builder = builder.allow_anonymous();
    }
    if let Some(name) = &settings.no_auth_user {
        builder = builder.no_auth_user(name);
    }
    if let Some(account) = &settings.system_account {
        builder = builder.system_account(account);
    }
    if let Some(monitor) = &settings.monitor {
        let host = monitor.host.clone().unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
        builder = builder.monitor(resolve(&host, monitor.port)?);
    }
    if settings.jetstream.enabled {
        builder = builder.jetstream(jetstream::options(&settings.jetstream));
        if let Some(account) = &settings.jetstream.account {
            builder = builder.jetstream_account(account);
        }
    }
    if let Some(tls) = tls_of(settings)? {
        builder = builder.tls(tls);
    }
    if let Some(websocket) = websocket_of(settings, host)? {
        builder = builder.websocket(websocket);
    }
    Ok(builder)
}

/// The certificates of web sockets, read anew.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(crate) fn websocket_tls_of(settings: &Settings) -> Result<Option<Tls>, String> {
    let tls = settings.websocket.as_ref().and_then(|websocket| websocket.tls.as_ref());
    tls.map(read_tls).transpose()
}

/// The certificates of client connections, read anew.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(crate) fn tls_of(settings: &Settings) -> Result<Option<Tls>, String> {
    let Some(tls) = &settings.tls else { return Ok(None) };
    let tls = read_tls(tls)?;
    Ok(Some(if settings.allow_non_tls { tls.allow_plain() } else { tls }))
}

fn read_tls(settings: &TlsSettings) -> Result<Tls, String> {
    let explain = |error: TlsError| error.to_string();
    let mut tls = Tls::from_pem_files(&settings.cert_file, &settings.key_file).map_err(explain)?;
    if let Some(authorities) = settings.ca_file.as_ref().filter(|_| settings.verify) {
        tls = tls.verify_clients(authorities).map_err(explain)?;
    }
    if let Some(timeout) = settings.timeout {
        tls = tls.timeout(timeout);
    }
    Ok(tls.handshake_first(match settings.handshake {
        Handshake::AfterInfo => HandshakeFirst::No,
        Handshake::First => HandshakeFirst::Yes,
        Handshake::Auto(wait) => HandshakeFirst::Auto(wait),
    }))
}

fn websocket_of(settings: &Settings, host: &str) -> Result<Option<WebSocket>, String> {
    let Some(asked) = &settings.websocket else { return Ok(None) };
    let mut websocket = WebSocket::on(resolve(asked.host.as_deref().unwrap_or(host), asked.port)?);
    websocket.tls = websocket_tls_of(settings)?;
    websocket.same_origin = asked.same_origin;
    websocket.allowed_origins.clone_from(&asked.allowed_origins);
    websocket.handshake_timeout = asked.handshake_timeout.unwrap_or(websocket.handshake_timeout);
    Ok(Some(websocket))
}

/// The gentle end that SIGUSR2 asks for.
pub(crate) fn lame_duck(settings: &Settings) -> LameDuck {
    let default = LameDuck::default();
    LameDuck {
        grace: settings.lame_duck_grace.unwrap_or(default.grace),
        over: settings.lame_duck_over.unwrap_or(default.over),
    }
}

/// The address of a host, an IPv4 one where it has both.
pub(crate) fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found = (host, port).to_socket_addrs().map_err(|error| {
        format!("cannot listen on host {host:?}: {error}; give an address, such as 127.0.0.1")
    })?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
        .first()
        .copied()
        .ok_or_else(|| format!("host {host:?} has no address; give one, such as 127.0.0.1"))
}

/// What a look at the settings tells the operator to think about.
pub(crate) fn warnings(settings: &Settings, listen: SocketAddr) -> Vec<String> {
    let mut warnings: Vec<String> = settings.warnings.iter().map(ToString::to_string).collect();
    let reachable = !is_loopback(listen.ip());
    if reachable && is_open(settings) {
        warnings.push(format!(
            "{listen} is reachable from other machines and everybody may do everything; set users, or listen on \
             127.0.0.1 (-a)"
        ));
    } else if reachable && settings.tls.is_none() {
        warnings.push(format!(
            "{listen} is reachable from other machines and passwords travel in plain text; set tls, or listen on \
             127.0.0.1 (-a)"
        ));
    }
    warnings.extend(jetstream::warnings(settings));
    if settings.log.trace {
        warnings.push("the protocol is not traced; -V shows what the server does in more detail".into());
    }
    warnings
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// The configuration file as it is named in the log.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
