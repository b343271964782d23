//! `/varz`: the server as a whole. The names, types and units of nats-server, so that its dashboards read it; what does
//! not exist here is nothing or empty, not absent, where they expect it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::connect::CLAIMED_VERSION;
use crate::process::ProcessUsage;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::time::{rfc3339, uptime};

/// A second look within this time tells the load of the first: a shorter time measures noise.
const LOAD_SPAN_MIN: Duration = Duration::from_secs(1);

/// What monitoring itself remembers.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    requests: [AtomicU64; super::PATHS.len()],
    load: Mutex<Load>,
    /// When the options last changed, if they did.
    configured: Mutex<Option<SystemTime>>,
}

impl Seen {
    /// Counts a request over HTTP, if it is for a document.
    pub(crate) fn count(&self, path_and_query: &str) {
        let path = path_and_query.split('?').next();
        let mut counted = super::PATHS.iter().zip(&self.requests);
        if let Some((_, requests)) = counted.find(|(known, _)| Some(**known) == path) {
            requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Other options are in force since `now`.
    pub(crate) fn note_options(&self, now: SystemTime) {
        *self.configured.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

/// Per cent of a core between two looks.
#[derive(Debug, Default)]
struct Load {
    last: Option<(Instant, Duration)>,
    percent: f64,
}

impl Load {
    fn look(&mut self, started: Instant, now: Instant, cpu: Option<Duration>) -> f64 {
        let Some(cpu) = cpu else {
            return 0.0;
        };
        // The first look tells the average since the start.
        let (last, before) = self.last.unwrap_or((started, Duration::ZERO));
        let span = now.saturating_duration_since(last);
        if span >= LOAD_SPAN_MIN || self.last.is_none() {
            let share = cpu.saturating_sub(before).as_secs_f64() / span.as_secs_f64().max(0.001);
            self.percent = (share * 1000.0).round() / 10.0;
            self.last = Some((now, cpu));
        }
        self.percent
    }
}

#[derive(Debug, Serialize)]
struct Empty {}

/// How clients' connections are encrypted.
struct Encryption {
    is_required: bool,
    verifies_clients: bool,
    timeout: Duration,
}

impl Encryption {
    /// Not at all; the time for a handshake is nevertheless told, nats-server's.
    fn none() -> Self {
        Self { is_required: false, verifies_clients: false, timeout: Duration::from_secs(2) }
    }
}

/// The WebSocket listener; nothing of it is told where there is none.
#[derive(Debug, Default, Serialize)]
struct WebSockets {
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
    #[serde(skip_serializing_if = "is_nothing")]
    port: u16,
    #[serde(skip_serializing_if = "is_nothing")]
    handshake_timeout: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_tls: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    same_origin: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_origins: Vec<String>,
}

fn is_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// By kind of connection; there are clients only.
#[derive(Debug, Serialize)]
struct ByKind {
    clients: u64,
    routes: u64,
    gateways: u64,
    leafs: u64,
}

impl ByKind {
    fn clients(clients: u64) -> Self {
        Self { clients, routes: 0, gateways: 0, leafs: 0 }
    }
}

/// The document. Durations are nanoseconds where nats-server's are, sizes bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Varz<'a> {
    server_id: &'a str,
    server_name: &'a str,
    version: &'a str,
    proto: u8,
    /// The language a dashboard shows.
    go: &'a str,
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auth_required: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_required: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_verify: bool,
    max_connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_subscriptions: Option<usize>,
    ping_interval: u64,
    ping_max: u32,
    http_host: String,
    http_port: u16,
    http_base_path: &'a str,
    https_port: u16,
    /// Seconds.
    auth_timeout: f64,
    max_control_line: usize,
    max_payload: usize,
    max_pending: usize,
    cluster: Empty,
    gateway: Empty,
    leaf: Empty,
    mqtt: Empty,
    websocket: WebSockets,
    jetstream: serde_json::Value,
    /// Seconds.
    tls_timeout: f64,
    write_deadline: u64,
    start: String,
    now: String,
    uptime: String,
    mem: u64,
    cores: usize,
    gomaxprocs: usize,
    cpu: f64,
    connections: u64,
    total_connections: u64,
    routes: u64,
    remotes: u64,
    leafnodes: u64,
    in_msgs: u64,
    in_bytes: u64,
    in_client_msgs: u64,
    in_client_bytes: u64,
    out_msgs: u64,
    out_bytes: u64,
    out_client_msgs: u64,
    out_client_bytes: u64,
    slow_consumers: u64,
    stale_connections: u64,
    stalled_clients: u64,
    subscriptions: u64,
    http_req_stats: BTreeMap<&'a str, u64>,
    config_load_time: String,
    config_digest: &'a str,
    feature_flags: Empty,
    system_account: &'a str,
    slow_consumer_stats: ByKind,
    stale_connection_stats: ByKind,
}

/// The document of this moment. Some ten microseconds.
pub(crate) fn document(shared: &Shared, jetstream: serde_json::Value) -> Varz<'_> {
    let stats = Stats::of(shared);
    let usage = ProcessUsage::now();
    let limits = shared.limits();
    let now = Instant::now();
    let seen = &shared.monitored;
    let configured = *seen.configured.lock().unwrap_or_else(PoisonError::into_inner);
    let cpu = {
        let mut load = seen.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.look(shared.started.instant, now, usage.cpu)
    };
    let http = shared.monitor_addr.get();
    let encryption = encryption(shared);
    let counted = super::PATHS.iter().zip(&seen.requests);
    let counted = counted.map(|(path, requests)| (*path, requests.load(Ordering::Relaxed)));
    Varz {
        server_id: &shared.server_id,
        server_name: &shared.server_name,
        version: CLAIMED_VERSION,
        proto: 1,
        go: "rust",
        host: shared.listen.ip().to_string(),
        port: shared.listen.port(),
        auth_required: shared.auth_required(),
        tls_required: encryption.is_required,
        tls_verify: encryption.verifies_clients,
        max_connections: limits.connections_max,
        max_subscriptions: Some(limits.subscriptions_max).filter(|max| *max != usize::MAX),
        ping_interval: nanos(limits.ping_interval),
        ping_max: limits.pings_out_max,
        http_host: http.map_or_else(String::new, |address| address.ip().to_string()),
        http_port: http.map_or(0, std::net::SocketAddr::port),
        http_base_path: "",
        https_port: 0,
        auth_timeout: limits.auth_timeout.as_secs_f64(),
        max_control_line: limits.control_line_bytes_max,
        max_payload: limits.payload_bytes_max,
        max_pending: limits.pending_bytes_max,
        cluster: Empty {},
        gateway: Empty {},
        leaf: Empty {},
        mqtt: Empty {},
        websocket: websockets(shared),
        jetstream,
        tls_timeout: encryption.timeout.as_secs_f64(),
        write_deadline: nanos(limits.write_deadline),
        now: rfc3339(SystemTime::now()),
        uptime: uptime(now.saturating_duration_since(shared.started.instant)),
        config_load_time: rfc3339(configured.unwrap_or(shared.started.wall)),
        start: rfc3339(shared.started.wall),
        mem: usage.memory_bytes.unwrap_or(0),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        gomaxprocs: shared.shards.len(),
        cpu,
        connections: stats.connections,
        total_connections: stats.connections_total,
        routes: 0,
        remotes: 0,
        leafnodes: 0,
        in_msgs: stats.in_msgs,
        in_bytes: stats.in_bytes,
        in_client_msgs: stats.in_msgs,
        in_client_bytes: stats.in_bytes,
        out_msgs: stats.out_msgs,
        out_bytes: stats.out_bytes,
        out_client_msgs: stats.out_msgs,
        out_client_bytes: stats.out_bytes,
        slow_consumers: stats.slow_consumers,
        stale_connections: stats.stale_connections,
        stalled_clients: stats.stalls,
        subscriptions: stats.subscriptions,
        http_req_stats: counted.filter(|(_, requests)| *requests > 0).collect(),
        config_digest: "",
        feature_flags: Empty {},
        system_account: &shared.accounts.system().name,
        slow_consumer_stats: ByKind::clients(stats.slow_consumers),
        stale_connection_stats: ByKind::clients(stats.stale_connections),
    }
}

#[cfg(feature = "tls")]
fn encryption(shared: &Shared) -> Encryption {
    shared.listening.tls().map_or_else(Encryption::none, |tls| Encryption {
        is_required: !tls.allows_plain,
        verifies_clients: tls.verifies_clients,
        timeout: tls.timeout,
    })
}

#[cfg(not(feature = "tls"))]
fn encryption(_shared: &Shared) -> Encryption {
    Encryption::none()
}

#[cfg(feature = "websocket")]
fn websockets(shared: &Shared) -> WebSockets {
    let (Some(options), Some(address)) =
        (shared.listening.websocket(), shared.listening.websocket_addr.get())
    else {
        return WebSockets::default();
    };
    #[cfg(feature = "tls")]
    let no_tls = options.tls.is_none();
    #[cfg(not(feature = "tls"))]
    let no_tls = true;
    WebSockets {
        host: address.ip().to_string(),
        port: address.port(),
        handshake_timeout: nanos(options.handshake_timeout),
        no_tls,
        same_origin: options.same_origin,
        allowed_origins: options.allowed_origins.clone(),
    }
}

#[cfg(not(feature = "websocket"))]
fn websockets(_shared: &Shared) -> WebSockets {
    WebSockets::default()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_that_of_the_time_between_two_looks() {
        let started = Instant::now();
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
        let mut load = Load::default();
        assert_eq!(load.look(started, started + 10 * second, Some(5 * second)), 50.0, "since the start");
        assert_eq!(load.look(started, started + 10 * second + ms, Some(6 * second)), 50.0, "too soon");
        assert_eq!(load.look(started, started + 12 * second, Some(5 * second + 20 * ms)), 1.0);
        assert_eq!(load.look(started, started + 14 * second, Some(9 * second + 20 * ms)), 200.0, "two cores");
        assert_eq!(Load::default().look(started, started, None), 0.0, "where it is not told");
    }
}
