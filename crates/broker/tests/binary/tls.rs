//! TLS and WebSockets of the program `ostler-broker`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Running;
use super::common::{DEADLINE, Raw};

/// A certificate for localhost and its key, as files.
fn certificate(directory: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert.display().to_string(), key.display().to_string())
}

#[test]
fn tls_comes_from_flags_and_from_the_file() {
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(files.path());
    let by_flags = Running::start("", &["--tls", "--tlscert", &cert, "--tlskey", &key]);
    let text = format!("tls {{cert_file: {cert:?}, key_file: {key:?}, timeout: 1}}\n");
    let by_file = Running::start(&text, &[]);
    for running in [&by_flags, &by_file] {
        let (_raw, info) = Raw::open(running.client());
        assert!(info.contains("\"tls_required\":true"), "{info}");
    }
    let verified = Running::start(&text, &["--tlsverify", "--tlscacert", &cert]);
    let (_raw, info) = Raw::open(verified.client());
    assert!(info.contains("\"tls_verify\":true"), "{info}");
    // A renewed certificate is read by a reload; a broken one leaves the old in force.
    fs::write(&key, "no key").unwrap();
    by_file.reload(&text, "[ERR] Failed to reload server configuration: ");
    certificate(files.path());
    by_file.reload(&text, "[INF] Reloaded server configuration");
}

#[test]
fn web_sockets_are_announced() {
    let running = Running::start("websocket {port: -1, no_tls: true}\n", &[]);
    let url = running.url("websocket");
    assert!(url.starts_with("ws://127.0.0.1:"), "{url}");
    running.waits_for(&format!("[INF] Listening for websocket clients on {url}"));
    let mut stream = TcpStream::connect(running.address("websocket")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
}

/// Whether a client that begins with TLS and trusts only this certificate gets through.
fn is_trusted(address: SocketAddr, certificate: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut session = rustls::ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    while session.is_handshaking() {
        if session.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn a_reload_renews_the_certificate_of_web_sockets_too() {
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(files.path());
    let tls = format!("tls {{cert_file: {cert:?}, key_file: {key:?}}}");
    let text = format!("websocket {{port: -1, {tls}}}\n");
    let running = Running::start(&text, &[]);
    let address = running.address("websocket");
    assert!(is_trusted(address, &cert));
    fs::write(&key, "no key").unwrap();
    running.reload(&format!("max_payload: 32KB\n{text}"), "[ERR] Failed to reload server configuration: ");
    assert!(is_trusted(address, &cert));
    assert!(Raw::open(running.client()).1.contains("\"max_payload\":1048576"), "nothing was changed");
    certificate(files.path());
    assert!(!is_trusted(address, &cert), "the new one is not in use yet");
    running.reload(&text, "[INF] Reloaded server configuration");
    assert!(is_trusted(address, &cert));
}
