//! What a server needs for encrypted connections: its certificate, whom it trusts, and when the handshake begins. The
//! handshake itself is in [`transport::tls`](crate::transport).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::limits::check_time;
use crate::transport::tls::{Stream, Terms};

/// nats-server's default.
const TIMEOUT: Duration = Duration::from_secs(2);

/// When the TLS handshake begins. Clients of NATS expect INFO in plain text first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HandshakeFirst {
    /// After INFO, as every client knows it.
    #[default]
    No,
    /// At once: nothing is ever said in plain text. Clients must be told to (`tls_first`).
    Yes,
    /// At once if the client begins within this time, else after INFO. nats-server's `auto` is 50 ms.
    Auto(Duration),
}

/// Certificate, key and terms of encrypted connections. TLS 1.2 and 1.3.
///
/// ```no_run
/// use ostler_broker::{Server, Tls};
///
/// let tls = Tls::from_pem_files("server-cert.pem", "server-key.pem")?.verify_clients("ca.pem")?;
/// let server = Server::builder().listen("0.0.0.0:4222".parse()?).tls(tls).start()?;
/// // A renewed certificate, for connections from now on:
/// server.set_tls(Tls::from_pem_files("server-cert.pem", "server-key.pem")?.verify_clients("ca.pem")?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) handshake_first: HandshakeFirst,
    pub(crate) timeout: Duration,
    pub(crate) verifies_clients: bool,
    pub(crate) allows_plain: bool,
    certificate: Arc<Certificate>,
}

struct Certificate {
    chain_file: PathBuf,
    key_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate.chain_file)
            .field("handshake_first", &self.handshake_first)
            .field("timeout", &self.timeout)
            .field("verifies_clients", &self.verifies_clients)
            .field("allows_plain", &self.allows_plain)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the certificate, followed by those it was signed with, and its private key.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn from_pem_files(certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        let (chain_file, key_file) = (certificate.as_ref().to_path_buf(), key.as_ref().to_path_buf());
        let chain = certificates(&chain_file)?;
        let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey { file: key_file.clone() },
            error => unreadable(&key_file, error),
        })?;
        let certificate = Certificate { chain_file, key_file, chain, key };
        let config = certificate.config(None)?;
        Ok(Self {
            config: Arc::new(config),
            handshake_first: HandshakeFirst::No,
            timeout: TIMEOUT,
            verifies_clients: false,
            allows_plain: false,
            certificate: Arc::new(certificate),
        })
    }

    /// Admits only clients that show a certificate signed by one of those in this file.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn verify_clients(self, ca_file: impl AsRef<Path>) -> Result<Self, TlsError> {
        let file = ca_file.as_ref();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            let unusable =
                |error: rustls::Error| TlsError::Unusable { file: file.into(), reason: error.to_string() };
            roots.add(certificate).map_err(unusable)?;
        }
        let config = self.certificate.config(Some((file, roots)))?;
        Ok(Self { config: Arc::new(config), verifies_clients: true, ..self })
    }

    /// When the handshake begins. Default after INFO.
    pub fn handshake_first(self, when: HandshakeFirst) -> Self {
        Self { handshake_first: when, ..self }
    }

    /// How long a handshake may take. Default 2 s, then the client is cut off.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if let HandshakeFirst::Auto(longest) = self.handshake_first {
            check_time("tls", "the wait of handshake_first", longest)?;
        }
        check_time("tls", "timeout", self.timeout)
    }

    /// Serves clients that do not encrypt as well. For a time of transition: who listens in on those hears everything.
    pub fn allow_plain(self) -> Self {
        Self { allows_plain: true, ..self }
    }
}

impl Certificate {
    fn config(&self, trusted: Option<(&Path, RootCertStore)>) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |file: &Path, reason: String| TlsError::Unusable { file: file.to_path_buf(), reason };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&self.chain_file, error.to_string()))?;
        let builder = match trusted {
            None => builder.with_no_client_auth(),
            Some((file, roots)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| unusable(file, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        builder.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyMismatch { certificate: self.chain_file.clone(), key: self.key_file.clone() }
            }
            error => unusable(&self.chain_file, error.to_string()),
        })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found = found.map_err(|error| unreadable(file, error))?;
    if found.is_empty() { Err(TlsError::NoCertificate { file: file.into() }) } else { Ok(found) }
}

fn unreadable(file: &Path, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::Read { file: file.into(), source },
        error => TlsError::Unusable { file: file.into(), reason: error.to_string() },
    }
}

/// Why a certificate or key cannot be used. All are for the operator to fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}: check the path and who may read it", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no certificate in the file.
    #[error("{} holds no certificate: a PEM file has `-----BEGIN CERTIFICATE-----` in it", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// There is no private key in the file.
    #[error("{} holds no private key: a PEM file has `-----BEGIN PRIVATE KEY-----` in it", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The key is of another certificate.
    #[error("the key in {} does not fit the certificate in {}: take the two that were made together",
        key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// What is in the file cannot be used.
    #[error("{} cannot be used: {reason}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// The library's words.
        reason: String,
    },
}

impl Tls {
    /// The transport of a client connection, on these terms.
    pub(crate) fn stream(&self, socket: TcpStream) -> io::Result<Stream> {
        let terms = Terms { verifies_clients: self.verifies_clients, allows_plain: self.allows_plain };
        Stream::new(socket, Arc::clone(&self.config), terms)
    }

    /// The same where nobody may go without.
    pub(crate) fn encrypted_stream(&self, socket: TcpStream) -> io::Result<Stream> {
        let terms = Terms { verifies_clients: self.verifies_clients, allows_plain: false };
        Stream::new(socket, Arc::clone(&self.config), terms)
    }
}
