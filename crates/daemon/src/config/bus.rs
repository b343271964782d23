//! `[bus]`: the daemon's own bus, or somebody else's nats-server or cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ostler_client::Inboxes;
use ostler_wire::{BusTls, ExternalBus};
use serde::{Deserialize, Serialize};

/// Where the daemon's own bus listens unless it is told otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4222);

/// Where the bus is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BusConfig {
    /// In the daemon.
    Own {
        /// Where it listens. Default `127.0.0.1:4222`; port 0 picks a free one and takes it again at the next start.
        listen: SocketAddr,
        /// Its certificate and key, and what vouches for them; without it what is said can be read on the way. Default:
        /// none, which will do on loopback.
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<TlsFiles>,
    },
    /// On other servers: the daemon starts none.
    External(External),
}

/// A bus on other servers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct External {
    /// Their addresses, at least one, each `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub url: Vec<String>,
    /// The daemon's credential file.
    pub credentials: PathBuf,
    /// The credential file of the command line. Default: the daemon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_credentials: Option<PathBuf>,
    /// The credential file of hosts; `{id}` in it stands for the agent's id. Default: the daemon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_credentials: Option<PathBuf>,
    /// The credential file agents are told of; `{id}` in it stands for the agent's id. Default: none, and agents do not
    /// join the bus themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_credentials: Option<PathBuf>,
    /// Prefixes of reply subjects that are answered beside `_INBOX`: `my.inbox` for `my.inbox.>`. Whoever may ask us
    /// anything can have us publish there. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inboxes: Vec<String>,
    /// The files of its TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

/// The files of TLS: our side's certificate and key, and whom we take the other's from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates that vouch for the server, PEM, also for the own bus: hosts and the command line look at them.
    /// Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Our certificate, PEM: the own bus's, or what we show to a server that asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Whether the server expects TLS from the first byte. Default false.
    pub first: bool,
}

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    listen: Option<SocketAddr>,
    url: Option<Urls>,
    credentials: Option<PathBuf>,
    operator_credentials: Option<PathBuf>,
    host_credentials: Option<PathBuf>,
    agent_credentials: Option<PathBuf>,
    inboxes: Vec<String>,
    tls: Option<TlsFiles>,
}

/// One address, several between commas, or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Urls {
    Text(String),
    List(Vec<String>),
}

impl Default for BusConfig {
    fn default() -> Self {
        Self::Own { listen: LISTEN, tls: None }
    }
}

impl BusConfig {
    /// Where the daemon's own bus is to listen; `None` when it starts none.
    pub fn listen(&self) -> Option<SocketAddr> {
        match self {
            Self::Own { listen, .. } => Some(*listen),
            Self::External(_) => None,
        }
    }
}

impl External {
    /// The same as the daemon's endpoint file tells it.
    pub fn to_wire(&self) -> ExternalBus {
        let or_own = |path: &Option<PathBuf>| path.clone().unwrap_or_else(|| self.credentials.clone());
        ExternalBus {
            urls: self.url.clone(),
            operator: or_own(&self.operator_credentials),
            host: or_own(&self.host_credentials),
            tls: self.tls.as_ref().map(|tls| BusTls {
                ca: tls.ca.clone(),
                cert: tls.cert.clone(),
                key: tls.key.clone(),
                first: tls.first,
            }),
            inboxes: self.inboxes.clone(),
        }
    }
}

impl File {
    /// Checks the section together with what the command line says; a fault names its key.
    pub(super) fn check(
        self,
        listen: Option<SocketAddr>,
        port: Option<u16>,
    ) -> Result<BusConfig, (&'static str, String)> {
        let Some(url) = &self.url else {
            self.nothing_external()?;
            let mut listen = listen.or(self.listen).unwrap_or(LISTEN);
            if let Some(port) = port {
                listen.set_port(port);
            }
            if let Some(tls) = &self.tls {
                tls.check()?;
                if tls.cert.is_none() {
                    let reason =
                        "the daemon's own bus needs `cert` and `key`; `ca` names what vouches for them";
                    return Err(("tls", reason.to_owned()));
                }
            }
            return Ok(BusConfig::Own { listen, tls: self.tls });
        };
        if self.listen.is_some() {
            let reason = "goes with the daemon's own bus, and `url` names another; remove one of the two";
            return Err(("listen", reason.to_owned()));
        }
        if listen.is_some() || port.is_some() {
            let reason =
                "the daemon starts no bus of its own; leave --listen and --port out, or remove `url`";
            return Err(("url", reason.to_owned()));
        }
        let url = url.read()?;
        let Some(credentials) = self.credentials else {
            let reason = "needs `credentials` beside it: the file with the daemon's nkey seed, creds, user and \
                          password, or token";
            return Err(("url", reason.to_owned()));
        };
        let paths = [
            ("credentials", Some(&credentials)),
            ("operator_credentials", self.operator_credentials.as_ref()),
            ("host_credentials", self.host_credentials.as_ref()),
            ("agent_credentials", self.agent_credentials.as_ref()),
        ];
        for (key, path) in paths {
            is_absolute(key, path.map(PathBuf::as_path))?;
        }
        if let Some(tls) = &self.tls {
            tls.check()?;
        }
        // The files ask for TLS everywhere, whatever the addresses say.
        let is_tls = |url: &String| url.starts_with("tls://");
        if self.tls.is_none()
            && url.iter().any(is_tls)
            && let Some(plain) = url.iter().find(|url| !is_tls(url))
        {
            let reason =
                format!("{plain:?} is without TLS, and others are not: write tls:// for all or for none");
            return Err(("url", reason));
        }
        Inboxes::with(&self.inboxes).map_err(|error| ("inboxes", error.to_string()))?;
        Ok(BusConfig::External(External {
            url,
            credentials,
            operator_credentials: self.operator_credentials,
            host_credentials: self.host_credentials,
            agent_credentials: self.agent_credentials,
            inboxes: self.inboxes,
            tls: self.tls,
        }))
    }

    /// Without `url` the keys that go with it mean nothing, and whoever wrote them meant something.
    fn nothing_external(&self) -> Result<(), (&'static str, String)> {
        let keys = [
            ("credentials", self.credentials.is_some()),
            ("operator_credentials", self.operator_credentials.is_some()),
            ("host_credentials", self.host_credentials.is_some()),
            ("agent_credentials", self.agent_credentials.is_some()),
            ("inboxes", !self.inboxes.is_empty()),
        ];
        match keys.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err((key, "goes with `url`, which is missing".to_owned())),
            None => Ok(()),
        }
    }
}

impl Urls {
    fn read(&self) -> Result<Vec<String>, (&'static str, String)> {
        let urls: Vec<&str> = match self {
            Self::Text(text) => text.split(',').collect(),
            Self::List(list) => list.iter().map(String::as_str).collect(),
        };
        let urls: Result<Vec<String>, String> = urls.into_iter().map(|url| read_url(url.trim())).collect();
        match urls {
            Ok(urls) if urls.is_empty() => Err(("url", "names no server".to_owned())),
            urls => urls.map_err(|reason| ("url", reason)),
        }
    }
}

impl TlsFiles {
    /// What clients of the own bus need: they show no certificate, their keys say who they are.
    pub(crate) fn of_clients(&self) -> BusTls {
        BusTls { ca: self.ca.clone(), cert: None, key: None, first: self.first }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, path) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            is_absolute(key, path.as_deref())?;
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(("tls", "`cert` and `key` go together".to_owned()));
        }
        Ok(())
    }
}

/// Hosts and the command line read the same paths from other working directories.
fn is_absolute(key: &'static str, path: Option<&Path>) -> Result<(), (&'static str, String)> {
    match path {
        Some(path) if !path.is_absolute() => Err((key, "must be an absolute path".to_owned())),
        _ => Ok(()),
    }
}

/// Reads one address. Its text is quoted only when it cannot hold a secret.
fn read_url(url: &str) -> Result<String, String> {
    if url.contains('@') {
        return Err(
            "user, password and token do not belong into an address, where everybody reads them: put them \
                    into a file of mode 0600 and name it with `credentials`"
                .to_owned(),
        );
    }
    let bad = |reason: &str| format!("{url:?} {reason}; write it like \"nats://HOST:4222\"");
    let (scheme, place) = url.split_once("://").unwrap_or(("nats", url));
    if scheme != "nats" && scheme != "tls" {
        return Err(bad("is neither nats:// nor tls://"));
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.parse::<Ipv6Addr>().is_ok() || (place.matches(':').count() > 1 && !place.contains('[')) {
        // Where its port begins nobody can tell.
        return Err(format!(
            "{url:?} is an IPv6 address without brackets; write it like \"nats://[::1]:4222\""
        ));
    }
    // The part behind the brackets of an IPv6 address, where there are any.
    let behind = place.rsplit_once(']').map_or(place, |(_, behind)| behind);
    let (host, port) = match behind.rsplit_once(':') {
        Some((_, port)) => (&place[..place.len() - port.len() - 1], port),
        None => (place, "4222"),
    };
    if !is_host(host) {
        return Err(bad("names no host"));
    }
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(format!("{scheme}://{host}:{port}")),
        _ => Err(bad("has no valid port")),
    }
}

/// True for what can be looked up or connected to: waiting for anything else would be waiting for ever.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    // A name whose last label is a number is an address or a mistake, as browsers have it too.
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides, parse};

    fn read(text: &str, overrides: Overrides) -> Result<Config, String> {
        parse("ostler.toml", text, overrides).map_err(|error| error.to_string())
    }

    fn refused(text: &str) -> String {
        read(text, Overrides::default()).unwrap_err()
    }

    fn urls(text: &str) -> Vec<String> {
        let text = format!("[bus]\nurl = {text}\ncredentials = \"/c\"\n");
        match read(&text, Overrides::default()).unwrap().bus {
            BusConfig::External(bus) => bus.url,
            BusConfig::Own { .. } => panic!("an external bus"),
        }
    }

    #[test]
    fn addresses_come_alone_between_commas_or_as_a_list() {
        assert_eq!(urls("\"nats://a:1\""), ["nats://a:1"]);
        assert_eq!(urls("\"a, nats://b:2/\""), ["nats://a:4222", "nats://b:2"]);
        assert_eq!(urls("\"tls://a, tls://b:2/\""), ["tls://a:4222", "tls://b:2"]);
        assert_eq!(urls("[\"nats://[::1]:3\", \"nats://[::1]\"]"), ["nats://[::1]:3", "nats://[::1]:4222"]);
    }

    #[test]
    fn a_secret_in_an_address_is_refused_and_not_repeated() {
        let text = refused("[bus]\nurl = \"nats://me:hunter2@a:1\"\ncredentials = \"/c\"\n");
        assert!(text.contains("credentials") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn an_address_without_tls_does_not_mix_with_one_that_has_it() {
        let text = refused("[bus]\nurl = \"tls://a:1, b:2\"\ncredentials = \"/c\"\n");
        assert!(text.contains("nats://b:2") && text.contains("for all or for none"), "{text}");
        let tls = "tls = { ca = \"/ca\" }";
        let with_files = format!("[bus]\nurl = \"tls://a:1, b:2\"\ncredentials = \"/c\"\n{tls}\n");
        assert!(read(&with_files, Overrides::default()).is_ok(), "the files ask for TLS everywhere");
    }

    #[test]
    fn a_prefix_of_inboxes_is_not_a_subject_of_ours() {
        let with =
            |prefix: &str| format!("[bus]\nurl = \"a\"\ncredentials = \"/c\"\ninboxes = [{prefix:?}]\n");
        assert!(read(&with("my.inbox"), Overrides::default()).is_ok());
        for bad in ["agent", "$JS.API", "a.*"] {
            let text = refused(&with(bad));
            assert!(text.contains("inboxes") && text.contains(bad), "{text}");
        }
        assert!(refused("[bus]\ninboxes = [\"a\"]").contains("`url`, which is missing"));
    }

    #[test]
    fn the_two_kinds_of_bus_do_not_mix() {
        assert!(
            refused("[bus]\nurl = \"a\"\ncredentials = \"/c\"\nlisten = \"127.0.0.1:1\"").contains("listen")
        );
        assert!(refused("[bus]\ncredentials = \"/c\"").contains("`url`, which is missing"));
        assert!(refused("[bus]\ntls = { first = true }").contains("needs `cert` and `key`"));
        assert!(refused("[bus]\nurl = \"a\"").contains("needs `credentials`"));
        let overrides = Overrides { port: Some(1), ..Overrides::default() };
        let text = read("[bus]\nurl = \"a\"\ncredentials = \"/c\"", overrides).unwrap_err();
        assert!(text.contains("--port"), "{text}");
    }

    #[test]
    fn wrong_addresses_and_paths_name_the_rule() {
        let with = |url: &str| refused(&format!("[bus]\nurl = {url}\ncredentials = \"/c\"\n"));
        assert!(with("\"http://a\"").contains("nats://"));
        assert!(with("\"nats://a:x\"").contains("port"));
        assert!(with("\"nats://:4222\"").contains("host"));
        for bare in ["nats://::1:4222", "::1", "tls://fe80::1", "nats://::1"] {
            let text = with(&format!("{bare:?}"));
            assert!(text.contains("brackets") && text.contains("nats://[::1]:4222"), "{text}");
        }
        for odd in [
            "nats://[::g]:1",
            "nats://[127.0.0.1]:1",
            "nats://[::1]x:1",
            "nats://[::1:1",
            "nats://a[::1]:1",
            "nats://300.0.0.1:1",
            "nats://a b:1",
            "nats://a\\b",
            "nats://ä:1",
            "nats://a%20:1",
        ] {
            assert!(with(&format!("'{odd}'")).contains("host"), "{odd}");
        }
        assert_eq!(urls("\"nats://bus_1.example-2.com.:1, 10.0.0.1\"").len(), 2);
        assert!(with("[]").contains("no server"));
        let bus = "[bus]\nurl = \"a\"\n";
        assert!(refused(&format!("{bus}credentials = \"c\"")).contains("absolute"));
        assert!(
            refused(&format!("{bus}credentials = \"/c\"\ntls = {{ cert = \"/c\" }}")).contains("go together")
        );
        assert!(
            refused(&format!("{bus}credentials = \"/c\"\ntls = {{ certs = \"/c\" }}")).contains("unknown")
        );
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in [
            "",
            "[bus]\nlisten = \"127.0.0.1:0\"",
            "[bus]\ntls = { cert = \"/c\", key = \"/k\", ca = \"/ca\" }",
            "[bus]\nurl = \"tls://a:1,tls://b\"\ninboxes = [\"my.inbox\"]\ncredentials = \"/c\"\nhost_credentials = \"/h/{id}\"\n\
             tls = { ca = \"/ca\", first = true }",
        ] {
            let config = read(text, Overrides::default()).unwrap();
            let shown = toml::to_string_pretty(&config).unwrap();
            assert_eq!(read(&shown, Overrides::default()).unwrap(), config, "{shown}");
        }
    }
}
