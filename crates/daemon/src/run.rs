//! Starting and stopping, in order.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_broker::{HandshakeFirst, JetStreamOptions, Server, Tls, Users};
use ostler_client::{Bus as Place, Client, Options as ClientOptions};
use ostler_engine::{About, Handle, Limits};
use ostler_store::Store;
use ostler_supervise::platform::{FileLock, Identity, LockError, adopt_orphans, cgroup_parent, lock_file};
use ostler_wire::{BusTls, DownRequest, Endpoint, ExternalBus, Timestamp};
use tokio::sync::mpsc;

use crate::config::{BusConfig, Config, External, TlsFiles};
use crate::files::{make_dir, replace_json};
use crate::identities::Identities;
use crate::machine::Machine;
use crate::signals::{Asked, Signals};
use crate::{Error, StateDir, external, identities};

/// Reports of ended hosts that may wait for the engine; a full queue makes the watches wait.
const NOTICES_WAITING_MAX: usize = 1024;

/// How long a dead daemon's lock is waited for, and how often is looked: it is free within milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The largest message the bus carries.
const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Subscriptions of one connection: far more than anybody here needs, few enough that one connection cannot multiply
/// what it publishes without measure.
const SUBSCRIPTIONS_MAX: usize = 4096;

/// Runs a daemon until it is asked to end; `ready` is called once, when it can be found and answers.
///
/// Builds a runtime of its own and handles SIGINT, SIGTERM and SIGHUP.
///
/// # Errors
///
/// Any [`Error`]; [`Error::hint`] says what to do.
pub fn main(config: Config, ready: impl FnOnce(&Endpoint)) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("daemon")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(run(config, ready))
}

async fn run(config: Config, ready: impl FnOnce(&Endpoint)) -> Result<(), Error> {
    let started_at = Timestamp::now();
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    adopt_orphans().map_err(Error::Runtime)?;
    let state = StateDir::new(&config.state_dir);
    make_dir(state.path())?;
    make_dir(&state.agents())?;
    let lock = take_lock(&state).await?;
    let (bus, store, engine_client) = match &config.bus {
        BusConfig::Own { listen, tls } => {
            let users = identities::admit_all(&state)?;
            let broker = start_bus(&config, *listen, tls.as_ref(), &state, users.clone())?;
            let bus = Bus::Own { broker, users, tls: tls.as_ref().map(TlsFiles::of_clients) };
            let store = Store::open(&state.database())?;
            let place = match bus.client_tls() {
                Some(tls) => Place::Tls(bus.url(), tls),
                None => Place::Url(bus.url()),
            };
            let client = Client::connect(ClientOptions::new("engine", place, state.engine_key())).await?;
            (bus, store, client)
        }
        BusConfig::External(external) => {
            let store = Store::open(&state.database())?;
            let client = external::join(external, &config.node.name, &state, &mut signals).await?;
            let Some(client) = client else { return Ok(()) };
            (Bus::External(external.clone()), store, client)
        }
    };
    let endpoint = Endpoint {
        bus_url: bus.url(),
        node: config.node.name.clone(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        external: bus.to_wire(),
        tls: bus.client_tls(),
    };
    let damaged = bus.damaged();
    let parts = (store.clone(), engine_client);
    let mut engine = start_engine(&config, &state, &endpoint, bus.identities(), parts, damaged).await?;
    publish_endpoint(&state, &bus, &endpoint)?;
    tracing::info!(bus = endpoint.bus_url, state = %state.path().display(), "ready");
    ready(&endpoint);

    let result = serve(&mut engine, &mut signals).await;
    let _ = fs::remove_file(state.endpoint());
    if let Bus::Own { broker, .. } = bus {
        // Joining its threads blocks; everything else that needs them is over.
        let _ = tokio::task::spawn_blocking(move || broker.shutdown()).await;
    }
    drop(store);
    drop(lock);
    result
}

/// What carries the messages.
enum Bus {
    /// A broker of our own, who may join it, and what clients need for its TLS.
    Own { broker: Server, users: Users, tls: Option<BusTls> },
    /// Somebody else's servers.
    External(External),
}

impl Bus {
    fn url(&self) -> String {
        match self {
            Self::Own { broker, tls: Some(_), .. } => broker.url().replace("nats://", "tls://"),
            Self::Own { broker, .. } => broker.url(),
            Self::External(external) => external.url.first().cloned().unwrap_or_default(),
        }
    }

    fn to_wire(&self) -> Option<Box<ExternalBus>> {
        match self {
            Self::Own { .. } => None,
            Self::External(external) => Some(Box::new(external.to_wire())),
        }
    }

    fn client_tls(&self) -> Option<BusTls> {
        match self {
            Self::Own { tls, .. } => tls.clone(),
            Self::External(_) => None,
        }
    }

    /// What was found damaged of the streams of our own, a sentence each.
    fn damaged(&self) -> Vec<String> {
        let Self::Own { broker, .. } = self else { return Vec::new() };
        // It answers at once or not at all, and everything waits for us.
        let Ok(Some(jetstream)) = tokio::task::block_in_place(|| broker.jetstream()) else {
            return Vec::new();
        };
        let of_each = jetstream.recovered.into_iter().flat_map(|found| {
            let stream = found.stream;
            let damage = found.findings.into_iter().filter(ostler_broker::jetstream::Finding::is_damage);
            let faults = damage.map(|finding| finding.to_string()).chain(found.error);
            faults.map(move |fault| format!("the stream {stream} is damaged: {fault}")).collect::<Vec<_>>()
        });
        of_each.collect()
    }

    fn identities(&self) -> Identities {
        match self {
            Self::Own { users, .. } => Identities::Own(users.clone()),
            Self::External(external) => Identities::External {
                host: external.to_wire().host,
                agent: external.agent_credentials.clone(),
            },
        }
    }
}

/// Waits for the engine's end; signals ask for it.
async fn serve(engine: &mut Handle, signals: &mut Signals) -> Result<(), Error> {
    let mut ending = false;
    loop {
        tokio::select! {
            ended = engine.join() => {
                let ended = ended?;
                tracing::info!(stopped = ended.stopped, kept = ended.kept, "the daemon ends");
                return Ok(());
            }
            asked = signals.next() => {
                let keep_agents = ending || asked == Asked::EndAlone;
                ending = true;
                engine.down(DownRequest { keep_agents }).await;
            }
        }
    }
}

/// Takes the directory's lock, or says who has it.
///
/// A process that a killed daemon was just starting inherited the lock and has it until it becomes its own program;
/// a holder that no longer lives is waited out.
async fn take_lock(state: &StateDir) -> Result<FileLock, Error> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock_file(&state.lock()) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { holder, .. }) => {
                let lives = holder.and_then(Identity::of).is_some_and(Identity::is_alive);
                if lives || Instant::now() > deadline {
                    return Err(Error::AlreadyRunning { dir: state.path().to_owned(), pid: holder });
                }
            }
            Err(LockError::Io { path, source }) => return Err(Error::File { path, verb: "locked", source }),
        }
        tokio::time::sleep(LOCK_LOOK_INTERVAL).await;
    }
}

fn start_bus(
    config: &Config,
    address: SocketAddr,
    files: Option<&TlsFiles>,
    state: &StateDir,
    users: Users,
) -> Result<Server, Error> {
    let tls = match files {
        Some(TlsFiles { cert: Some(cert), key: Some(key), first, .. }) => {
            let first = if *first { HandshakeFirst::Yes } else { HandshakeFirst::No };
            let tls = Tls::from_pem_files(cert, key).map_err(|error| Error::Tls(Box::new(error)))?;
            Some(tls.handshake_first(first))
        }
        _ => None,
    };
    if tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            listen = %address,
            "the bus listens beyond this machine without TLS: what agents say goes over the network in the clear; \
             set `tls` in [bus], or listen on 127.0.0.1"
        );
    }
    let builder = |keeps: bool| {
        let builder = match &tls {
            Some(tls) => Server::builder().tls(tls.clone()),
            None => Server::builder(),
        };
        let builder = if keeps {
            builder
                .jetstream(JetStreamOptions::new(state.streams()))
                .jetstream_sealed(identities::only_the_engines())
        } else {
            builder
        };
        builder
            .server_name(config.node.name.as_str())
            .max_payload(PAYLOAD_BYTES_MAX)
            .max_subscriptions(SUBSCRIPTIONS_MAX)
            // Agents publish what they like; one that could garble a frame could cut the engine off.
            .strict_messages()
            .users(users.clone())
    };
    let listen_and_start = |address| match builder(true).listen(address).start() {
        // Agents are looked after without streams as well; the audit waits, and says why.
        Err(error @ ostler_broker::Error::JetStream(_)) => {
            tracing::error!(%error, "the bus keeps nothing: its streams cannot be opened");
            builder(false).listen(address).start()
        }
        started => started,
    };
    if address.port() == 0 {
        // The last port again when it is free: hosts and people find the bus where it was.
        let last = fs::read_to_string(state.port()).ok().and_then(|port| port.trim().parse().ok());
        if let Some(port) = last
            && let Ok(server) = listen_and_start(SocketAddr::new(address.ip(), port))
        {
            return Ok(server);
        }
    }
    Ok(listen_and_start(address)?)
}

async fn start_engine(
    config: &Config,
    state: &StateDir,
    endpoint: &Endpoint,
    identities: Identities,
    (store, client): (Store, Client),
    damaged: Vec<String>,
) -> Result<Handle, Error> {
    let (notices_tx, notices) = mpsc::channel(NOTICES_WAITING_MAX);
    let program = std::env::current_exe().map_err(|source| Error::File {
        path: "/proc/self/exe".into(),
        verb: "read",
        source,
    })?;
    let machine = Machine {
        state: state.clone(),
        node: config.node.name.clone(),
        identities,
        program,
        env: config.agents.environment(std::env::vars()),
        cgroup_parent: cgroup_parent(),
        heartbeat_ms: config.agents.heartbeat.millis(),
        buffer_bytes_max: config.agents.buffer_bytes_max.bytes(),
        notices: notices_tx,
        runtime: tokio::runtime::Handle::current(),
    };
    let options = ostler_engine::Options {
        client,
        store,
        node: Arc::new(machine),
        notices,
        node_id: config.node.name.clone(),
        about: About {
            version: endpoint.version.clone(),
            bus_url: endpoint.bus_url.clone(),
            state_dir: state.path().display().to_string(),
            started_at: endpoint.started_at,
            shared_bus: endpoint.external.is_some(),
            damaged,
        },
        limits: Limits {
            heartbeat_ms: config.agents.heartbeat.millis(),
            log_bytes_max: config.agents.log_bytes_max.bytes(),
            events_max: config.agents.events_max,
        },
        audit: config.audit.to_engine(endpoint.external.is_some()),
    };
    Ok(ostler_engine::start(options).await?)
}

fn publish_endpoint(state: &StateDir, bus: &Bus, endpoint: &Endpoint) -> Result<(), Error> {
    let fault = |path, source| Error::File { path, verb: "written", source };
    if let Bus::Own { broker, .. } = bus {
        let port = broker.local_addr().port();
        replace_json(&state.port(), &port).map_err(|source| fault(state.port(), source))?;
    }
    replace_json(&state.endpoint(), endpoint).map_err(|source| fault(state.endpoint(), source))
}
