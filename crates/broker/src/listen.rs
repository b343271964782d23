//! Where connections come from: the listeners, and pipes of this process. Each is given to the shard that has the
//! fewest; what is said on them is the shard's business.

#[cfg(feature = "websocket")]
use std::sync::OnceLock;
#[cfg(any(feature = "tls", feature = "websocket"))]
use std::sync::{PoisonError, RwLock};

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ostler_broker_proto::codec::{write_err, write_info};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::auth::Entry;
use crate::options::Builder;
use crate::shard::inbox::Envelope;
use crate::shared::Shared;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::transport::Transport;
use crate::transport::pipe::End;
#[cfg(feature = "websocket")]
use crate::websocket::WebSocket;

/// How long a client that is turned away may take to fetch the reason.
const TURN_AWAY_MAX: Duration = Duration::from_secs(2);

/// A connection on its way to its shard.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) carrier: Carrier,
    pub(crate) peer: SocketAddr,
    /// Who it is, where this process vouches for that.
    pub(crate) trusted: Option<Arc<Entry>>,
}

/// What carries it. The runtime of another thread cannot take a tokio stream; the way through std is the same for all.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// A socket of the client listener.
    Client(std::net::TcpStream),
    /// A socket of the WebSocket listener.
    #[cfg(feature = "websocket")]
    WebSocket(std::net::TcpStream, Arc<WebSocket>),
    /// The server's end of a pipe.
    Pipe(End),
}

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// For clients that speak NATS, encrypted or not.
    Clients,
    /// For clients that speak NATS inside WebSocket frames.
    #[cfg(feature = "websocket")]
    WebSockets,
}

/// The terms of the listeners. Locks, because they change while the server runs; read once per connection.
#[derive(Debug)]
pub(crate) struct Listening {
    #[cfg(feature = "tls")]
    tls: RwLock<Option<Tls>>,
    #[cfg(feature = "websocket")]
    websocket: RwLock<Option<Arc<WebSocket>>>,
    #[cfg(feature = "websocket")]
    pub(crate) websocket_addr: OnceLock<SocketAddr>,
}

/// What INFO says about encryption.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) is_required: bool,
    pub(crate) is_available: bool,
    pub(crate) verifies_clients: bool,
}

impl Listening {
    #[cfg_attr(
        not(any(feature = "tls", feature = "websocket")),
        expect(unused_variables, reason = "no terms")
    )]
    pub(crate) fn new(options: &Builder) -> Self {
        Self {
            #[cfg(feature = "tls")]
            tls: RwLock::new(options.tls.clone()),
            #[cfg(feature = "websocket")]
            websocket: RwLock::new(options.websocket.clone().map(Arc::new)),
            #[cfg(feature = "websocket")]
            websocket_addr: OnceLock::new(),
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<Tls> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the terms of connections from now on, unless there were none: those who connect would not know.
    #[cfg(feature = "tls")]
    pub(crate) fn set_tls(&self, tls: Tls) -> bool {
        let mut held = self.tls.write().unwrap_or_else(PoisonError::into_inner);
        held.as_mut().map(|held| *held = tls).is_some()
    }

    #[cfg(feature = "websocket")]
    pub(crate) fn websocket(&self) -> Option<Arc<WebSocket>> {
        self.websocket.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same for WebSockets.
    #[cfg(all(feature = "tls", feature = "websocket"))]
    pub(crate) fn set_websocket_tls(&self, tls: Tls) -> bool {
        let mut held = self.websocket.write().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut().filter(|held| held.tls.is_some()) {
            Some(held) => {
                *held = Arc::new(WebSocket::clone(held).tls(tls));
                true
            }
            None => false,
        }
    }

    /// The address a connection came to, if that is not the clients'.
    pub(crate) fn address_of(&self, stream: &Transport) -> Option<SocketAddr> {
        match stream {
            #[cfg(feature = "websocket")]
            Transport::WebSocket(_) => self.websocket_addr.get().copied(),
            _ => None,
        }
    }

    /// What the client of `stream` is told. Over an encrypted WebSocket nats-server repeats what holds for the others.
    pub(crate) fn terms_of(&self, stream: &Transport) -> Terms {
        match stream {
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => Terms {
                is_required: !tls.terms.allows_plain,
                is_available: tls.terms.allows_plain,
                verifies_clients: tls.terms.verifies_clients,
            },
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Transport::WebSocket(websocket) if websocket.is_encrypted() => {
                let tls = self.tls();
                Terms {
                    is_required: tls.as_ref().is_some_and(|tls| !tls.allows_plain),
                    is_available: true,
                    verifies_clients: tls.is_some_and(|tls| tls.verifies_clients),
                }
            }
            _ => Terms::default(),
        }
    }
}

/// Accepts connections and gives each to a shard.
pub(crate) async fn accept(listener: TcpListener, door: Door, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Dropping the listener closes it.
            () = shared.until_doors_close() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes when somebody hangs up.
                tracing::error!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(shard) = shared.admit() else {
            tracing::warn!(%peer, "maximum connections exceeded");
            if door == Door::Clients {
                tokio::task::spawn_local(turn_away(Arc::clone(&shared), stream, peer));
            }
            continue;
        };
        match stream.into_std() {
            Ok(stream) => {
                let carrier = match door {
                    Door::Clients => Carrier::Client(stream),
                    #[cfg(feature = "websocket")]
                    Door::WebSockets => match shared.listening.websocket() {
                        Some(options) => Carrier::WebSocket(stream, options),
                        None => Carrier::Client(stream),
                    },
                };
                let incoming = Incoming { carrier, peer, trusted: None };
                shared.shards[shard].inbox.push(Envelope::Connection(Box::new(incoming)));
            }
            Err(error) => {
                tracing::warn!(%peer, %error, "cannot hand a connection over");
                shared.dismiss(shard);
            }
        }
    }
}

/// Gives the server's end of a pipe to a shard; returns whether there was room for one more connection.
pub(crate) fn admit_pipe(shared: &Shared, end: End, trusted: Option<Arc<Entry>>) -> bool {
    let Some(shard) = shared.admit() else {
        tracing::warn!("maximum connections exceeded by an in-process connection");
        return false;
    };
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let incoming = Incoming { carrier: Carrier::Pipe(end), peer, trusted };
    shared.shards[shard].inbox.push(Envelope::Connection(Box::new(incoming)));
    true
}

/// Says who speaks and why it may not stay: a client that is told the reason before INFO takes it for nonsense.
async fn turn_away(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let mut words = Vec::new();
    write_info(&mut words, shared.info_before_anything(peer.ip()).as_bytes());
    write_err(&mut words, "maximum connections exceeded");
    let _ = timeout(TURN_AWAY_MAX, crate::shard::tasks::say_last(stream, words)).await;
}
