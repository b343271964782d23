//! Encrypted connections: the handshake in all its orders, certificates of clients, and who is turned away.
#![cfg(test)]

use std::io::Read;
use std::time::Duration;

use async_nats::ConnectOptions;
use futures_util::StreamExt;
use ostler_broker::{ConnectionsQuery, HandshakeFirst, Server, Tls, TlsError, WebSocket};

mod common;
mod lines;
use common::{DEADLINE, eventually, local};
use lines::{Line, Papers, plain_line, socket, tls};

fn start(tls: Tls) -> Server {
    local().shards(1).allow_anonymous().tls(tls).start().unwrap()
}

fn options(papers: &Papers) -> ConnectOptions {
    ConnectOptions::new().add_root_certificates(papers.ca()).connection_timeout(DEADLINE)
}

fn url(server: &Server) -> String {
    format!("nats://localhost:{}", server.local_addr().port())
}

async fn round_trip(client: async_nats::Client) {
    let trip = async {
        let mut messages = client.subscribe("a").await.unwrap();
        client.publish("a", vec![7; 100_000].into()).await.unwrap();
        assert_eq!(messages.next().await.unwrap().payload, vec![7; 100_000]);
    };
    tokio::time::timeout(DEADLINE, trip).await.expect("within the deadline");
}

#[tokio::test]
async fn the_official_client_upgrades_after_info() {
    let papers = Papers::new();
    let server = start(papers.server_tls());
    let client = options(&papers).connect(url(&server)).await.unwrap();
    assert!(client.server_info().tls_required);
    round_trip(client).await;
}

#[test]
fn times_beyond_any_clock_are_refused() {
    let papers = Papers::new();
    let server = start(papers.server_tls());
    let far = Duration::MAX;
    for tls in
        [papers.server_tls().timeout(far), papers.server_tls().handshake_first(HandshakeFirst::Auto(far))]
    {
        let refused = server.set_tls(tls.clone()).unwrap_err().to_string();
        assert!(refused.contains("tls") && refused.contains("at most 100 years"), "{refused}");
        local().tls(tls).start().expect_err("refused before it starts");
    }
    let mut websocket = WebSocket::on("127.0.0.1:0".parse().unwrap());
    websocket.handshake_timeout = far;
    let refused = local().websocket(websocket).start().unwrap_err().to_string();
    assert!(refused.contains("handshake_timeout") && refused.contains("at most 100 years"), "{refused}");
    let websocket = WebSocket::on("127.0.0.1:0".parse().unwrap()).tls(papers.server_tls().timeout(far));
    local().websocket(websocket).start().expect_err("refused before it starts");
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_stays_away() {
    let server = start(Papers::new().server_tls());
    let stranger = Papers::new();
    assert!(options(&stranger).connect(url(&server)).await.is_err());
    eventually("its place is free", || server.stats().connections == 0);
}

#[tokio::test]
async fn certificates_of_clients_are_asked_for_and_checked() {
    let papers = Papers::new();
    let server = start(papers.server_tls().verify_clients(papers.ca()).unwrap());
    let (certificate, key) = papers.issue("client");
    let known =
        options(&papers).add_client_certificate(certificate, key).connect(url(&server)).await.unwrap();
    round_trip(known).await;
    assert!(options(&papers).connect(url(&server)).await.is_err(), "no certificate");
    let (certificate, key) = Papers::new().issue("stranger");
    let strange = options(&papers).add_client_certificate(certificate, key);
    assert!(strange.connect(url(&server)).await.is_err(), "signed by somebody else");
    let mut plain = socket(server.local_addr());
    assert!(plain_line(&mut plain).contains(r#""tls_required":true,"tls_verify":true"#));
}

#[tokio::test]
async fn the_handshake_may_come_first() {
    let papers = Papers::new();
    let server = start(papers.server_tls().handshake_first(HandshakeFirst::Yes));
    round_trip(options(&papers).tls_first().connect(url(&server)).await.unwrap()).await;
    // Not a word in plain text.
    let mut line = Line::new(tls(socket(server.local_addr()), papers.client_config(None)));
    assert!(line.line().starts_with("INFO {"));
}

#[tokio::test]
async fn clients_of_both_habits_are_served_where_the_server_waits() {
    let papers = Papers::new();
    let when = HandshakeFirst::Auto(Duration::from_millis(50));
    let server = start(papers.server_tls().handshake_first(when));
    round_trip(options(&papers).tls_first().connect(url(&server)).await.unwrap()).await;
    round_trip(options(&papers).connect(url(&server)).await.unwrap()).await;
}

/// As nats-server does it.
#[test]
fn who_goes_on_in_plain_text_is_closed_without_a_word() {
    let papers = Papers::new();
    let server = start(papers.server_tls());
    let mut plain = socket(server.local_addr());
    assert!(plain_line(&mut plain).starts_with("INFO {"));
    let mut line = Line::new(plain);
    line.send("CONNECT {}\r\nPING\r\n");
    assert_eq!(line.until_closed(), b"");
    eventually("its place is free", || server.stats().connections == 0);
}

#[test]
fn both_are_served_where_that_is_allowed() {
    let papers = Papers::new();
    let server = start(papers.server_tls().allow_plain());
    let mut plain = socket(server.local_addr());
    let info = plain_line(&mut plain);
    assert!(info.contains(r#""tls_available":true"#) && !info.contains("tls_required"), "{info}");
    let mut line = Line::new(plain);
    line.send("CONNECT {\"verbose\":false}\r\n");
    line.sync();
    let mut other = socket(server.local_addr());
    plain_line(&mut other);
    let mut line = Line::new(tls(other, papers.client_config(None)));
    line.send("CONNECT {\"verbose\":false}\r\n");
    line.sync();
}

#[test]
fn a_renewed_certificate_is_shown_to_those_who_come_later() {
    let (old, new) = (Papers::new(), Papers::new());
    let server = start(old.server_tls());
    let open = |papers: &Papers| {
        let mut stream = socket(server.local_addr());
        plain_line(&mut stream);
        Line::new(tls(stream, papers.client_config(None)))
    };
    let mut early = open(&old);
    early.send("CONNECT {\"verbose\":false}\r\n");
    early.sync();
    server.set_tls(new.server_tls()).unwrap();
    let mut late = open(&new);
    late.send("CONNECT {\"verbose\":false}\r\n");
    late.sync();
    early.sync();
    assert!(open(&old).try_send("PING\r\n").is_err());
    let plain = common::open_server();
    let error = plain.set_tls(new.server_tls()).unwrap_err().to_string();
    assert!(error.contains("started without TLS"), "{error}");
}

#[test]
fn a_farewell_follows_the_last_bytes() {
    let papers = Papers::new();
    let server = start(papers.server_tls());
    let mut stream = socket(server.local_addr());
    plain_line(&mut stream);
    let mut encrypted = tls(stream, papers.client_config(None));
    std::io::Write::write_all(&mut encrypted, b"CONNECT {\"verbose\":false}\r\nNONSENSE\r\n").unwrap();
    let mut said = String::new();
    // An end without a farewell would be an error here.
    encrypted.read_to_string(&mut said).unwrap();
    assert_eq!(said, "-ERR 'Unknown Protocol Operation'\r\n");
}

#[test]
fn lists_of_connections_say_how_each_is_encrypted() {
    let papers = Papers::new();
    let server = start(papers.server_tls());
    let mut stream = socket(server.local_addr());
    plain_line(&mut stream);
    let mut line = Line::new(tls(stream, papers.client_config(None)));
    line.send("CONNECT {\"verbose\":false}\r\n");
    line.sync();
    let page = server.connections(&ConnectionsQuery::default()).unwrap();
    let transport = &page.connections[0].transport;
    assert_eq!(transport.tls_version.as_deref(), Some("1.3"));
    assert!(
        transport.tls_cipher.as_deref().is_some_and(|cipher| cipher.starts_with("TLS_")),
        "{transport:?}"
    );
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let papers = Papers::new();
    let (certificate, key) = papers.issue("a");
    let (_, other_key) = papers.issue("b");
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.pem");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let refusals = [
        Tls::from_pem_files(&missing, &key).unwrap_err(),
        Tls::from_pem_files(&empty, &key).unwrap_err(),
        Tls::from_pem_files(&certificate, &missing).unwrap_err(),
        Tls::from_pem_files(&certificate, &empty).unwrap_err(),
        Tls::from_pem_files(&certificate, &other_key).unwrap_err(),
        papers.server_tls().verify_clients(&empty).unwrap_err(),
    ];
    assert!(matches!(&refusals[0], TlsError::Read { file, .. } if *file == missing));
    assert!(matches!(&refusals[1], TlsError::NoCertificate { file } if *file == empty));
    assert!(matches!(&refusals[2], TlsError::Read { file, .. } if *file == missing));
    assert!(matches!(&refusals[3], TlsError::NoKey { file } if *file == empty));
    assert!(matches!(&refusals[4], TlsError::KeyMismatch { key, .. } if *key == other_key));
    assert!(matches!(&refusals[5], TlsError::NoCertificate { file } if *file == empty));
    for refusal in refusals {
        assert!(refusal.to_string().contains(".pem") || refusal.to_string().contains(".key"), "{refusal}");
    }
}
