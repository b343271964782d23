//! The life of the program: read, check, listen, wait for signals, end.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use ostler_broker::conf::Settings;
use ostler_broker::{Server, Users};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::args::{Action, Args, parse};
use crate::log::Log;
use crate::ports::{Addresses, PortsFile, write_pid};
use crate::{help, jetstream, options, reload, signal};

/// Does what the command line asks for.
///
/// # Errors
/// What went wrong, for stderr; empty if the log has said it.
pub(crate) fn main(arguments: Vec<String>, name: &str) -> Result<(), String> {
    let args = parse(arguments)?;
    match &args.action {
        Action::Help => print(&help::usage(name))?,
        Action::HelpTls => print(&help::about_tls(name))?,
        Action::Version => print(&help::version(name))?,
        Action::Signal(argument) => signal::send(argument, name)?,
        Action::Test => test(&args, name)?,
        Action::Serve => serve(&args, name)?,
    }
    Ok(())
}

/// Writes to stdout. A reader that leaves before the end has read what it wanted.
fn print(text: &str) -> Result<(), String> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}

/// Writes to stderr, if it takes anything.
pub(crate) fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `-t`: says whether the configuration can be used, certificates and addresses included.
fn test(args: &Args, name: &str) -> Result<(), String> {
    let settings = options::load(args)?;
    // Building it resolves hosts and reads certificates; nothing listens.
    let _builder = options::builder(&settings, &Users::new())?;
    for warning in &settings.warnings {
        complain(format_args!("{name}: warning: {warning}"));
    }
    match &args.config {
        Some(path) => {
            complain(format_args!("{name}: configuration file {} is valid", options::shown(path)));
        }
        None => complain(format_args!("{name}: the options are valid")),
    }
    Ok(())
}

fn serve(args: &Args, name: &str) -> Result<(), String> {
    let settings = options::load(args)?;
    // Before anything else, so that no signal finds the default action, which would be a sudden end.
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let log = Log::start(&settings.log).map_err(|error| match &settings.log.file {
        Some(path) => format!("cannot open the log file {}: {error}; choose another with -l", path.display()),
        None => error.to_string(),
    })?;
    let served = start_and_wait(args, settings, name, &log, signals);
    log.finish();
    served
}

fn start_and_wait(
    args: &Args,
    settings: Settings,
    name: &str,
    log: &Log,
    signals: Signals,
) -> Result<(), String> {
    let started = start(args, &settings, name, log);
    let (server, users, _ports) = started.map_err(|reason| {
        log.fatal(&reason);
        // With a log file stderr would otherwise stay silent.
        if settings.log.file.is_some() { reason } else { String::new() }
    })?;
    wait(args, settings, &server, &users, log, signals)
}

/// Starts the server, tells about it and writes the files by which it is found.
fn start(
    args: &Args,
    settings: &Settings,
    name: &str,
    log: &Log,
) -> Result<(Arc<Server>, Users, Option<PortsFile>), String> {
    log.info(format_args!("Starting {name}"));
    log.info(format_args!("  Version:  {}", ostler_broker::COMPATIBLE_VERSION));
    log.info(format_args!("  Broker:   ostler-broker {}", env!("CARGO_PKG_VERSION")));
    raise_file_limit(log);
    let users = Users::new();
    users.replace_all(settings.identities.clone()).map_err(|problem| problem.to_string())?;
    let mut builder = options::builder(settings, &users)?;
    if let Some(shards) = args.shards {
        builder = builder.shards(shards);
    }
    if let Some(path) = &settings.pid_file {
        write_pid(path)?;
    }
    jetstream::announce(&settings.jetstream, log);
    let started = Instant::now();
    let server = builder.start().map_err(|error| explain(&error))?;
    log.info(format_args!("  Server id: {}", server.server_id()));
    if let Some(path) = &args.config {
        log.info(format_args!("Using configuration file: {}", options::shown(path)));
    }
    jetstream::tell_restored(&server, &settings.jetstream, started, log);
    let addresses = announce(&server, settings, log);
    for warning in options::warnings(settings, server.local_addr()) {
        log.warn(warning);
    }
    let ports = match &settings.ports_file_dir {
        Some(directory) => Some(PortsFile::write(Path::new(directory), name, &addresses)?),
        None => None,
    };
    log.info("Server is ready");
    Ok((Arc::new(server), users, ports))
}

/// An error with everything behind it.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(behind) = source {
        let said = behind.to_string();
        // What wraps another error whole says the same words again.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = behind.source();
    }
    text
}

/// Says where the server listens, in nats-server's words: harnesses wait for these lines.
fn announce(server: &Server, settings: &Settings, log: &Log) -> Addresses {
    let mut addresses = Addresses::default();
    if let Some(address) = server.monitor_addr() {
        log.info(format_args!("Starting http monitor on {address}"));
        addresses.monitoring.push(format!("http://{address}"));
    }
    if let Some(address) = server.websocket_addr() {
        let encrypted = settings.websocket.as_ref().is_some_and(|websocket| websocket.tls.is_some());
        let url = format!("{}://{address}", if encrypted { "wss" } else { "ws" });
        log.info(format_args!("Listening for websocket clients on {url}"));
        if !encrypted && !address.ip().is_loopback() {
            log.warn("Websocket not configured with TLS. DO NOT USE IN PRODUCTION!");
        }
        addresses.websocket.push(url);
    }
    let address = server.local_addr();
    log.info(format_args!("Listening for client connections on {address}"));
    if settings.tls.is_some() {
        log.info("TLS required for client connections");
    }
    let scheme = if settings.tls.is_some() { "tls" } else { "nats" };
    addresses.nats.push(format!("{scheme}://{address}"));
    addresses
}

/// Takes as many open files as the system grants: each connection is one.
fn raise_file_limit(log: &Log) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log.warn(format_args!("the number of open files stays as it was: {error}"));
    }
}

/// What the main thread waits for.
enum Happening {
    Signal(i32),
    /// The server ended, as a lame duck or because a thread of it failed.
    Ended,
}

fn wait(
    args: &Args,
    mut settings: Settings,
    server: &Arc<Server>,
    users: &Users,
    log: &Log,
    signals: Signals,
) -> Result<(), String> {
    // Bounded, because who sends waits: a signal is not lost, and the system merges those that pile up.
    let (happened_tx, happened) = sync_channel(1);
    spawn("signals", listen_for(signals, happened_tx.clone()))?;
    let watched = Arc::clone(server);
    spawn("end", move || {
        watched.wait();
        let _ = happened_tx.send(Happening::Ended);
    })?;
    let mut lame = false;
    while let Ok(happening) = happened.recv() {
        match happening {
            Happening::Signal(SIGHUP) => {
                log.info("Trapped \"hangup\" signal");
                match reload::reload(args, &settings, server, users, log) {
                    Ok(new) => {
                        new.warnings.iter().for_each(|warning| log.warn(warning));
                        settings = new;
                        log.info("Reloaded server configuration");
                    }
                    Err(reason) => log.error(format_args!("Failed to reload server configuration: {reason}")),
                }
            }
            Happening::Signal(SIGUSR1) => {
                log.info("Trapped \"user defined signal 1\" signal");
                match log.reopen() {
                    Ok(true) => log.info("File log re-opened"),
                    Ok(false) => log.info("File log re-open ignored, not a file logger"),
                    Err(error) => log.error(format_args!("The log file cannot be opened again: {error}")),
                }
            }
            Happening::Signal(SIGUSR2) => {
                log.info("Trapped \"user defined signal 2\" signal");
                match server.lame_duck(options::lame_duck(&settings)) {
                    Ok(()) => log.info("Entering lame duck mode, stop accepting new clients"),
                    Err(error) => log.error(format_args!("No lame duck mode: {error}")),
                }
                lame = true;
            }
            Happening::Signal(signal) => {
                let name = if signal == SIGINT { "interrupt" } else { "terminated" };
                log.info(format_args!("Trapped {name:?} signal"));
                log.info("Initiating Shutdown...");
                server.shutdown();
                break;
            }
            Happening::Ended if lame => break,
            Happening::Ended => {
                log.fatal("a thread of the server ended unexpectedly");
                return Err(String::new());
            }
        }
    }
    log.info("Server Exiting..");
    Ok(())
}

fn listen_for(mut signals: Signals, happened: SyncSender<Happening>) -> impl FnOnce() + Send + 'static {
    move || {
        for signal in signals.forever() {
            if happened.send(Happening::Signal(signal)).is_err() {
                return;
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    match thread::Builder::new().name(name.into()).spawn(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot start a thread: {error}")),
    }
}
