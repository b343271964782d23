//! What a server needs for WebSocket connections: where it listens and whom it lets in. The protocol is in
//! [`transport::websocket`](crate::transport).

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::Error;
use crate::limits::check_time;

/// A second listener, for clients that speak NATS inside WebSocket frames: browsers, mostly.
///
/// ```
/// use ostler_broker::{Server, WebSocket};
///
/// let websocket = WebSocket::on("127.0.0.1:0".parse()?).same_origin();
/// let server = Server::builder().listen("127.0.0.1:0".parse()?).websocket(websocket).start()?;
/// println!("ws://{}", server.websocket_addr().ok_or("it was asked for")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WebSocket {
    /// Where to listen; port 0 takes any free one, see [`Server::websocket_addr`](crate::Server::websocket_addr).
    pub listen: SocketAddr,
    /// Encrypts (`wss://`). [`Tls::handshake_first`](crate::Tls::handshake_first) and
    /// [`Tls::allow_plain`](crate::Tls::allow_plain) have no meaning here. Default not.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Tls>,
    /// Whether a page must come from the host and port that it connects to. Default false.
    pub same_origin: bool,
    /// Origins of pages that may connect, as `https://example.org:8443`; the port may be left out where it is the
    /// scheme's. Empty: any. Default empty.
    ///
    /// Only browsers tell the origin, and only of browsers it can be believed: clients that tell none are let in.
    pub allowed_origins: Vec<String>,
    /// How long the handshake may take, that of TLS included. Default 2 s.
    pub handshake_timeout: Duration,
}

impl WebSocket {
    /// A listener on `address` that lets pages of any origin in.
    pub fn on(address: SocketAddr) -> Self {
        Self {
            listen: address,
            #[cfg(feature = "tls")]
            tls: None,
            same_origin: false,
            allowed_origins: Vec::new(),
            handshake_timeout: Duration::from_secs(2),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        self.tls.as_ref().map_or(Ok(()), crate::tls::Tls::check)?;
        check_time("websocket", "handshake_timeout", self.handshake_timeout)
    }

    /// Sets [`tls`](Self::tls).
    #[cfg(feature = "tls")]
    pub fn tls(self, tls: crate::tls::Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Sets [`same_origin`](Self::same_origin).
    pub fn same_origin(self) -> Self {
        Self { same_origin: true, ..self }
    }

    /// Sets [`allowed_origins`](Self::allowed_origins).
    pub fn allowed_origins<S: Into<String>>(self, origins: impl IntoIterator<Item = S>) -> Self {
        Self { allowed_origins: origins.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether a page of `origin` may connect to `host`, as the browser names both.
    pub(crate) fn admits(&self, origin: &str, host: &str, is_encrypted: bool) -> bool {
        let Some(origin) = Origin::parse(origin) else {
            return !self.same_origin && self.allowed_origins.is_empty();
        };
        let own_scheme = if is_encrypted { "https" } else { "http" };
        let own = Origin::parse(&format!("{own_scheme}://{host}"));
        let is_own = own.is_some_and(|own| own.host == origin.host && own.port == origin.port);
        if self.same_origin && !is_own {
            return false;
        }
        self.allowed_origins.is_empty()
            || self.allowed_origins.iter().any(|allowed| Origin::parse(allowed).as_ref() == Some(&origin))
    }
}

/// Scheme, host and port: what makes two pages one site.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim_end_matches('/').split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = match rest.rsplit_once(':') {
            // In `[::1]` the last colon is no port's.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (rest, if scheme == "https" { 443 } else { 80 }),
        };
        let valid = !host.is_empty() && !host.contains(['/', '@']);
        valid.then(|| Self { scheme, host: host.to_ascii_lowercase(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        let any = WebSocket::on(([127, 0, 0, 1], 0).into());
        assert!(any.admits("http://evil.example", "localhost:8080", false));
        let same = any.clone().same_origin();
        assert!(same.admits("http://LOCALHOST:8080", "localhost:8080", false));
        assert!(same.admits("https://example.org", "example.org", true));
        assert!(same.admits("http://[::1]:80", "[::1]", false));
        for other in ["http://localhost:8081", "http://evil.example:8080", "null", "", "http://"] {
            assert!(!same.admits(other, "localhost:8080", false), "{other}");
        }
        let listed = any.allowed_origins(["https://app.example", "http://localhost:3000"]);
        assert!(listed.admits("https://app.example:443", "whatever", false));
        assert!(listed.admits("http://localhost:3000", "whatever", false));
        for other in ["http://app.example", "https://app.example:444", "https://app.example.evil", "null"] {
            assert!(!listed.admits(other, "whatever", false), "{other}");
        }
    }
}
