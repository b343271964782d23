//! Where the bus is: given, or as the daemon's endpoint file says, and then also who we are there.

use std::path::{Path, PathBuf};

use async_nats::ServerAddr;
use ostler_wire::{AgentId, BusTls, Endpoint, ExternalBus};

use crate::Error;

/// Where the bus is.
#[derive(Debug, Clone)]
pub enum Bus {
    /// Where the daemon's file says ([`ostler_wire::ENDPOINT_FILE`]), read by [`crate::Client::connect`].
    File(PathBuf),
    /// At a fixed address, `nats://127.0.0.1:4222`.
    Url(String),
    /// At a fixed address, with TLS.
    Tls(String, BusTls),
    /// On somebody else's servers.
    External(Box<ExternalBus>),
}

/// Who connects, as far as the endpoint file of an external bus has a credential for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The person's command line.
    Operator,
    /// The host of an agent.
    Host(AgentId),
    /// Anybody else: brings a credential along.
    Other,
}

/// A place as it was found.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) urls: Vec<String>,
    pub(crate) tls: Option<BusTls>,
    /// What the endpoint file names for the role.
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) is_external: bool,
    /// Prefixes of further inboxes.
    pub(crate) inboxes: Vec<String>,
}

impl Bus {
    /// Finds the addresses.
    ///
    /// # Errors
    ///
    /// [`Error::NoEndpoint`] or [`Error::BadEndpoint`].
    pub fn urls(&self) -> Result<Vec<String>, Error> {
        self.place(&Role::Other).map(|place| place.urls)
    }

    pub(crate) fn place(&self, role: &Role) -> Result<Place, Error> {
        match self {
            Self::Url(url) => Ok(own(url.clone(), None)),
            Self::Tls(url, tls) => Ok(own(url.clone(), Some(tls.clone()))),
            Self::External(bus) => Ok(external(bus, role)),
            Self::File(path) => {
                let endpoint = read_endpoint(path)?;
                Ok(match &endpoint.external {
                    Some(bus) => external(bus, role),
                    None => own(endpoint.bus_url, endpoint.tls),
                })
            }
        }
    }
}

impl Place {
    /// # Errors
    ///
    /// [`Error::BadAddress`]: what is no address, and a list that asks for TLS in some places only. A server names others
    /// without saying how they are to be reached, so that TLS is for all of a list or for none.
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddr>, Error> {
        let bad = |url: &String, reason: String| Error::BadAddress { url: url.clone(), reason };
        if let (true, Some(url)) = (self.wants_tls(), self.urls.iter().find(|url| !is_tls(url)))
            && self.tls.is_none()
        {
            let reason =
                "it is without TLS, and others of the list are not: write tls:// for all or for none";
            return Err(bad(url, reason.to_owned()));
        }
        let parse = |url: &String| url.parse().map_err(|error: std::io::Error| bad(url, error.to_string()));
        self.urls.iter().map(parse).collect()
    }

    /// Whether nothing may go over the wire in the clear, wherever a connection is made to: an address says so, or files
    /// for it are named.
    pub(crate) fn wants_tls(&self) -> bool {
        self.tls.is_some() || self.urls.iter().any(|url| is_tls(url))
    }
}

fn is_tls(url: &str) -> bool {
    url.starts_with("tls://")
}

fn own(url: String, tls: Option<BusTls>) -> Place {
    Place { urls: vec![url], tls, credentials: None, is_external: false, inboxes: Vec::new() }
}

fn external(bus: &ExternalBus, role: &Role) -> Place {
    let credentials = match role {
        Role::Operator => Some(bus.operator.clone()),
        Role::Host(agent) => Some(bus.host_of(agent)),
        Role::Other => None,
    };
    Place {
        urls: bus.urls.clone(),
        tls: bus.tls.clone(),
        credentials,
        is_external: true,
        inboxes: bus.inboxes.clone(),
    }
}

fn read_endpoint(path: &Path) -> Result<Endpoint, Error> {
    let text = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NoEndpoint(path.to_owned()),
        _ => Error::BadEndpoint { path: path.to_owned(), reason: error.to_string() },
    })?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::BadEndpoint { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_for_all_addresses_or_for_none() {
        let place = |urls: &[&str], tls: Option<BusTls>| Place {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            tls,
            credentials: None,
            is_external: true,
            inboxes: Vec::new(),
        };
        let plain = place(&["nats://a:1", "nats://b:2"], None);
        assert!(plain.addresses().is_ok() && !plain.wants_tls());
        let tls = place(&["tls://a:1", "tls://b:2"], None);
        assert!(tls.addresses().is_ok() && tls.wants_tls());
        let mixed = place(&["tls://a:1", "nats://b:2"], None).addresses().unwrap_err();
        assert!(matches!(&mixed, Error::BadAddress { url, .. } if url == "nats://b:2"), "{mixed}");
        let with_files = place(&["nats://a:1"], Some(BusTls::default()));
        assert!(with_files.addresses().is_ok() && with_files.wants_tls());
        let bad = place(&["nats://::1:4222"], None).addresses().unwrap_err();
        assert!(!bad.is_retryable(), "{bad}");
    }

    #[test]
    fn a_missing_daemon_is_told_from_a_broken_address_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        assert!(matches!(Bus::File(path.clone()).urls(), Err(Error::NoEndpoint(_))));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Bus::File(path).urls(), Err(Error::BadEndpoint { .. })));
    }

    #[test]
    fn the_file_of_an_external_bus_names_the_credential_of_each_role() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        let text = r#"{"bus_url":"nats://a:1","node":"n","pid":1,"version":"0","started_at":"2026-11-20T21:00:00Z",
            "external":{"urls":["nats://a:1","nats://b:2"],"operator":"/o.nk","host":"/h/{id}.nk"}}"#;
        std::fs::write(&path, text).unwrap();
        let bus = Bus::File(path);
        assert_eq!(bus.urls().unwrap(), ["nats://a:1", "nats://b:2"]);
        let file = |role| bus.place(&role).unwrap().credentials;
        assert_eq!(file(Role::Operator), Some("/o.nk".into()));
        assert_eq!(file(Role::Host(AgentId::parse("x").unwrap())), Some("/h/x.nk".into()));
        assert_eq!(file(Role::Other), None);
    }
}
