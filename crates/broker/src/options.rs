//! The builder of a server: every option in one place, checked before anything binds.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::accounts::{ACCOUNT_RULE, SYSTEM_ACCOUNT, is_account};
use crate::auth::Users;
use crate::error::Error;
use crate::limits::Limits;
use crate::server::Server;
use crate::shared::Announced;

/// The port registered for NATS.
const DEFAULT_PORT: u16 = 4222;
/// Cores from which a second shard is worth its hand-overs.
const CORES_FOR_TWO: usize = 4;
/// Ended connections that a monitored server remembers, as many as nats-server.
const CLOSED_CONNECTIONS_MAX: usize = 10_000;
/// More shards than any machine has use for: a typing error.
const SHARDS_MAX: usize = 256;

/// Options of a [`Server`]. See [`Server::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing listens until `start`"]
pub struct Builder {
    pub(crate) listen: SocketAddr,
    pub(crate) server_name: String,
    pub(crate) shards: Option<usize>,
    pub(crate) limits: Limits,
    pub(crate) users: Users,
    pub(crate) allow_anonymous: bool,
    pub(crate) strict_messages: bool,
    pub(crate) closed_connections_max: Option<usize>,
    pub(crate) monitor: Option<SocketAddr>,
    pub(crate) system_account: String,
    pub(crate) no_auth_user: Option<String>,
    #[cfg(feature = "jetstream")]
    pub(crate) jetstream: Option<ostler_jetstream::Options>,
    #[cfg(feature = "jetstream")]
    pub(crate) jetstream_account: Option<String>,
    #[cfg(feature = "jetstream")]
    pub(crate) jetstream_sealed: Vec<String>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Tls>,
    #[cfg(feature = "websocket")]
    pub(crate) websocket: Option<crate::websocket::WebSocket>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            server_name: "ostler".into(),
            shards: None,
            limits: Limits::default(),
            users: Users::new(),
            allow_anonymous: false,
            strict_messages: false,
            closed_connections_max: None,
            monitor: None,
            system_account: SYSTEM_ACCOUNT.into(),
            no_auth_user: None,
            #[cfg(feature = "jetstream")]
            jetstream: None,
            #[cfg(feature = "jetstream")]
            jetstream_account: None,
            #[cfg(feature = "jetstream")]
            jetstream_sealed: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "websocket")]
            websocket: None,
        }
    }
}

impl Builder {
    /// Where to listen. Default 127.0.0.1:4222; port 0 takes any free one, see [`Server::local_addr`].
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Encrypts the connections of clients. Default not: listen on loopback then.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Switches JetStream on: streams, key-value and object stores for the account of everybody, `$G`. Default off.
    ///
    /// The directory of the options belongs to this server until it is shut down; a second one is refused it. Left as they
    /// are, `seed` is replaced by a random one and `version` by the one that clients are told.
    ///
    /// ```
    /// use ostler_broker::{JetStreamOptions, Server};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let server = Server::builder()
    ///     .listen("127.0.0.1:0".parse()?)
    ///     .allow_anonymous()
    ///     .jetstream(JetStreamOptions::new(dir.path()))
    ///     .start()?;
    /// assert_eq!(server.jetstream()?.map(|jetstream| jetstream.account.streams), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "jetstream")]
    pub fn jetstream(mut self, options: ostler_jetstream::Options) -> Self {
        self.jetstream = Some(options);
        self
    }

    /// The account whose users have streams: one. Default `$G`, that of identities that name none.
    #[cfg(feature = "jetstream")]
    pub fn jetstream_account(mut self, account: impl Into<String>) -> Self {
        self.jetstream_account = Some(account.into());
        self
    }

    /// Filters of subjects on which JetStream itself sends nothing: what a stream republishes there, or a consumer
    /// delivers, goes to nobody. Default none.
    ///
    /// Permissions hold for what a connection publishes. Whoever may create a stream decides by its configuration what
    /// is sent later, and it is nobody's then; what only some may publish is sealed, so that it stays theirs.
    #[cfg(feature = "jetstream")]
    pub fn jetstream_sealed(mut self, filters: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.jetstream_sealed = filters.into_iter().map(Into::into).collect();
        self
    }

    /// Listens for WebSocket connections as well. Default not.
    #[cfg(feature = "websocket")]
    pub fn websocket(mut self, websocket: crate::websocket::WebSocket) -> Self {
        self.websocket = Some(websocket);
        self
    }

    /// The name in INFO. Default `ostler`.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = name.into();
        self
    }

    /// Reactor threads. Default 1, on four cores or more 2. Connections are spread over them; messages between
    /// connections of one shard are the cheapest.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Who may connect. The set may change while the server runs. Default nobody.
    pub fn users(mut self, users: Users) -> Self {
        self.users = users;
        self
    }

    /// Lets everybody who gives no credential in, with all permissions. For tests and closed machines only.
    pub fn allow_anonymous(mut self) -> Self {
        self.allow_anonymous = true;
        self
    }

    /// Lets clients that give no credential in as the identity of this name. It may be added, changed and removed later:
    /// as long as there is none, they are refused.
    pub fn no_auth_user(mut self, name: impl Into<String>) -> Self {
        self.no_auth_user = Some(name.into());
        self
    }

    /// The account that system events are published into and that may ask the server about itself. Default `$SYS`.
    pub fn system_account(mut self, account: impl Into<String>) -> Self {
        self.system_account = account.into();
        self
    }

    /// Refuses messages that client libraries cannot read: a subject or reply that is not UTF-8 text without white
    /// space, or an `HPUB` whose header block is not one. The publisher is told and closed.
    ///
    /// Off by default, as nats-server, which passes such bytes on. A subscriber that gets them takes its connection
    /// for broken and drops it, so where publishers are not trusted this should be on.
    pub fn strict_messages(mut self) -> Self {
        self.strict_messages = true;
        self
    }

    /// Connections that are remembered after they ended, for
    /// [`ConnectionsQuery::state`](crate::ConnectionsQuery::state). Default none, with `monitor` 10,000 as in
    /// nats-server; some 400 bytes each.
    pub fn closed_connections_max(mut self, connections: usize) -> Self {
        self.closed_connections_max = Some(connections);
        self
    }

    /// Serves monitoring over HTTP: `/varz`, `/connz`, `/subsz`, `/healthz` and more, as nats-server does. Default off;
    /// port 0 takes any free one, see [`Server::monitor_addr`]. It asks for no password: listen on loopback.
    #[cfg(feature = "monitor")]
    pub fn monitor(mut self, address: SocketAddr) -> Self {
        self.monitor = Some(address);
        self
    }

    /// All limits at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// See [`Limits::payload_bytes_max`].
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes_max = bytes;
        self
    }

    /// See [`Limits::control_line_bytes_max`].
    pub fn max_control_line(mut self, bytes: usize) -> Self {
        self.limits.control_line_bytes_max = bytes;
        self
    }

    /// See [`Limits::connections_max`].
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections_max = connections;
        self
    }

    /// See [`Limits::subscriptions_max`].
    pub fn max_subscriptions(mut self, subscriptions: usize) -> Self {
        self.limits.subscriptions_max = subscriptions;
        self
    }

    /// See [`Limits::pending_bytes_max`].
    pub fn max_pending(mut self, bytes: usize) -> Self {
        self.limits.pending_bytes_max = bytes;
        self
    }

    /// See [`Limits::auth_timeout`].
    pub fn auth_timeout(mut self, timeout: Duration) -> Self {
        self.limits.auth_timeout = timeout;
        self
    }

    /// See [`Limits::ping_interval`].
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.limits.ping_interval = interval;
        self
    }

    /// See [`Limits::pings_out_max`].
    pub fn max_pings_out(mut self, pings: u32) -> Self {
        self.limits.pings_out_max = pings;
        self
    }

    /// See [`Limits::write_deadline`].
    pub fn write_deadline(mut self, deadline: Duration) -> Self {
        self.limits.write_deadline = deadline;
        self
    }

    /// See [`Limits::stall_max`].
    pub fn stall_max(mut self, longest: Duration) -> Self {
        self.limits.stall_max = longest;
        self
    }

    /// Binds and starts the reactor threads. When it returns, clients can connect.
    ///
    /// # Errors
    /// [`Error::Option`] for options that cannot be, before anything was bound; [`Error::Listen`] names the address
    /// and what to do; `Error::JetStream` if its directory cannot be used; [`Error::Start`] if the system gives no thread.
    pub fn start(self) -> Result<Server, Error> {
        self.limits.check()?;
        #[cfg(feature = "tls")]
        self.tls.as_ref().map_or(Ok(()), crate::tls::Tls::check)?;
        #[cfg(feature = "websocket")]
        self.websocket.as_ref().map_or(Ok(()), crate::websocket::WebSocket::check)?;
        if !is_account(&self.system_account) {
            let problem = format!("{:?} is no account: {ACCOUNT_RULE}", self.system_account);
            return Err(Error::Option { option: "system_account", problem });
        }
        #[cfg(feature = "jetstream")]
        if let Some(account) = self.jetstream_account.as_deref().filter(|account| !is_account(account)) {
            let problem = format!("{account:?} is no account: {ACCOUNT_RULE}");
            return Err(Error::Option { option: "jetstream_account", problem });
        }
        #[cfg(feature = "jetstream")]
        if let Some(filter) = self
            .jetstream_sealed
            .iter()
            .find(|filter| !ostler_broker_proto::subject::is_filter(filter.as_bytes()))
        {
            let problem = format!("{filter:?} is no filter of subjects");
            return Err(Error::Option { option: "jetstream_sealed", problem });
        }
        match self.shards {
            Some(0) => Err(Error::Option { option: "shards", problem: "at least 1".into() }),
            Some(n) if n > SHARDS_MAX => {
                Err(Error::Option { option: "shards", problem: format!("at most {SHARDS_MAX}") })
            }
            _ => Server::start(&self),
        }
    }

    /// What is told of JetStream.
    pub(crate) fn announced(&self) -> Announced {
        #[cfg(feature = "jetstream")]
        if let Some(options) = &self.jetstream {
            let account =
                self.jetstream_account.clone().filter(|name| name != crate::accounts::GLOBAL_ACCOUNT);
            let (domain, api_level) = (options.domain.clone(), Some(ostler_jetstream::API_LEVEL));
            return Announced { is_on: true, domain, api_level, account };
        }
        Announced::default()
    }

    /// Ended connections to remember.
    pub(crate) fn remembered(&self) -> usize {
        let default = if self.monitor.is_some() { CLOSED_CONNECTIONS_MAX } else { 0 };
        self.closed_connections_max.unwrap_or(default)
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            if cores >= CORES_FOR_TWO { 2 } else { 1 }
        })
    }
}
