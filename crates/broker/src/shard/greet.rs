//! How a connection begins: it is given its transport, a place, and INFO - in plain text, or once the handshake that
//! its listener asks for is done.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_broker_proto::codec::write_info;
use tokio::net::TcpStream;

use super::conn::Conn;
use super::timers::Due;
use super::{Shard, fresh_nonce, tasks};
use crate::auth::Entry;
use crate::connect::{CLAIMED_VERSION, Info};
use crate::link::Link;
use crate::listen::{Carrier, Incoming};
use crate::transport::Transport;

/// A connection that is about to begin.
struct Beginning {
    stream: Transport,
    peer: SocketAddr,
    /// Who it is, if that needs no proof.
    trusted: Option<Arc<Entry>>,
    /// How long its handshake may take.
    handshake: Option<Duration>,
    greeting: Greeting,
}

/// When INFO is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// At once, through whatever the transport is.
    Through,
    /// At once, in plain text: the handshake follows.
    #[cfg(feature = "tls")]
    Before,
    /// In plain text after so long, or encrypted if the client begins to encrypt earlier.
    #[cfg(feature = "tls")]
    Wait(Duration),
}

impl Shard {
    /// Takes a connection into this thread's runtime.
    pub(super) fn take_over(&mut self, incoming: Incoming) {
        let peer = incoming.peer;
        match self.prepare(incoming) {
            Ok(beginning) => match beginning.greeting {
                #[cfg(feature = "tls")]
                Greeting::Wait(longest) => self.wait_for_hello(beginning, longest),
                _ => self.open(beginning),
            },
            Err(error) => {
                tracing::warn!(%peer, %error, "cannot take over a connection");
                self.shared.dismiss(self.index);
            }
        }
    }

    fn prepare(&self, incoming: Incoming) -> std::io::Result<Beginning> {
        let Incoming { carrier, peer, trusted } = incoming;
        let plain =
            |stream| Beginning { stream, peer, trusted, handshake: None, greeting: Greeting::Through };
        match carrier {
            Carrier::Pipe(pipe) => Ok(plain(Transport::Pipe(pipe))),
            Carrier::Client(socket) => {
                let socket = adopt(socket)?;
                #[cfg(feature = "tls")]
                if let Some(tls) = self.shared.listening.tls() {
                    use crate::tls::HandshakeFirst;
                    let greeting = match tls.handshake_first {
                        HandshakeFirst::No => Greeting::Before,
                        HandshakeFirst::Yes => Greeting::Through,
                        HandshakeFirst::Auto(longest) => Greeting::Wait(longest),
                    };
                    let stream = Transport::Tls(Box::new(tls.stream(socket)?));
                    return Ok(Beginning { handshake: Some(tls.timeout), greeting, ..plain(stream) });
                }
                Ok(plain(Transport::Tcp(socket)))
            }
            #[cfg(feature = "websocket")]
            Carrier::WebSocket(socket, options) => {
                use crate::transport::websocket::{Stream, Wire};
                let socket = adopt(socket)?;
                let handshake = Some(options.handshake_timeout);
                #[cfg(feature = "tls")]
                let wire = match &options.tls {
                    Some(tls) => Wire::Tls(Box::new(tls.encrypted_stream(socket)?)),
                    None => Wire::Tcp(socket),
                };
                #[cfg(not(feature = "tls"))]
                let wire = Wire::Tcp(socket);
                let stream = Transport::WebSocket(Box::new(Stream::new(wire, options)));
                Ok(Beginning { handshake, ..plain(stream) })
            }
        }
    }

    /// Begins a connection when its client began to encrypt, or did not for so long.
    #[cfg(feature = "tls")]
    fn wait_for_hello(&self, mut beginning: Beginning, longest: Duration) {
        let Some(myself) = self.myself.upgrade() else {
            return;
        };
        tokio::task::spawn_local(async move {
            let begun = tokio::time::timeout(longest, beginning.stream.readable()).await.is_ok();
            beginning.greeting = if begun { Greeting::Through } else { Greeting::Before };
            myself.borrow_mut().open(beginning);
        });
    }

    /// Begins a connection: sends INFO and starts its task.
    fn open(&mut self, beginning: Beginning) {
        let Beginning { stream, peer, trusted, handshake, greeting } = beginning;
        let now = Instant::now();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let link = Arc::new(Link::new(self.shared.next_client_id(), self.index, slot));
        let must_prove = trusted.is_none() && self.shared.auth_required();
        let nonce =
            if trusted.is_none() && self.shared.needs_nonce() { fresh_nonce() } else { String::new() };
        let mut conn = Conn::new(Arc::clone(&link), Rc::new(stream), peer, nonce, now);
        if let Some(entry) = trusted {
            conn.account = self.place_of_account(&entry.identity.account);
            conn.entry = Some(entry);
        }
        let info = self.info(&conn, false);
        let stream = Rc::clone(&conn.stream);
        let is_known = conn.entry.is_some();
        self.conns[slot] = Some(Box::new(conn));
        if !is_known {
            self.welcome(slot);
        }
        self.stats.connections += 1;
        self.stats.connections_total += 1;
        self.say_info(slot, &stream, greeting, &info);
        if let Some(handshake) = handshake {
            self.remind(now + handshake, Due::Handshake, slot, link.id);
        }
        if must_prove {
            let from = now + handshake.unwrap_or_default();
            self.remind(from + self.limits.auth_timeout, Due::Auth, slot, link.id);
        }
        // Also of a client that never says CONNECT; the other end of a pipe cannot be gone without being missed.
        if stream.as_pipe().is_none() {
            self.ping_after(handshake.unwrap_or_default() + self.limits.ping_interval, slot, link.id);
        }
        if let Some(myself) = self.myself.upgrade() {
            tokio::task::spawn_local(tasks::serve(myself, link, stream));
        }
    }

    /// Has the client looked at for silence after so long.
    pub(super) fn ping_after(&mut self, delay: Duration, slot: usize, id: u64) {
        let at = Instant::now() + delay;
        if let Some(conn) = self.at(slot) {
            conn.ping_at = at;
            self.remind(at, Due::Ping, slot, id);
        }
    }

    fn say_info(&mut self, slot: usize, stream: &Transport, greeting: Greeting, info: &str) {
        #[cfg(feature = "tls")]
        if let (Greeting::Before, Transport::Tls(tls)) = (greeting, stream) {
            let mut words = Vec::new();
            write_info(&mut words, info.as_bytes());
            return tls.greet(&words);
        }
        let _ = (stream, greeting);
        self.send_with(slot, |out| write_info(out, info.as_bytes()));
    }

    pub(super) fn info(&self, conn: &Conn, connect_info: bool) -> String {
        let shared = &self.shared;
        let account = self.routes[conn.account].account();
        let address = shared.listening.address_of(&conn.stream).unwrap_or(shared.listen);
        let terms = shared.listening.terms_of(&conn.stream);
        let info = Info {
            server_id: &shared.server_id,
            server_name: &shared.server_name,
            version: CLAIMED_VERSION,
            proto: 1,
            host: address.ip(),
            port: address.port(),
            headers: true,
            jetstream: shared.jetstream.is_on,
            domain: shared.jetstream.domain.as_deref(),
            api_lvl: shared.jetstream.api_level,
            tls_required: terms.is_required,
            tls_verify: terms.verifies_clients,
            tls_available: terms.is_available,
            max_payload: self.limits.payload_bytes_max,
            client_id: conn.link.id,
            client_ip: conn.peer.ip(),
            auth_required: shared.auth_required() && !conn.is_trusted(),
            nonce: Some(conn.nonce.as_str()).filter(|nonce| !nonce.is_empty()),
            ldm: shared.is_lame_duck(),
            connect_info,
            remote_account: connect_info.then_some(&*account.name),
            acc_is_sys: connect_info && Arc::ptr_eq(account, shared.accounts.system()),
        };
        serde_json::to_string(&info).expect("INFO has string keys and plain values only")
    }
}

fn adopt(socket: std::net::TcpStream) -> std::io::Result<TcpStream> {
    let socket = TcpStream::from_std(socket)?;
    // Small answers must not wait for an acknowledgement; a socket that refuses this works all the same.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}
