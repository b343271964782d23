//! WebSocket connections: the official client over them, and what a browser and a stranger get.
#![cfg(test)]

use std::io::{Read, Write};

use async_nats::ConnectOptions;
use futures_util::StreamExt;
use ostler_broker::{Server, WebSocket};

mod common;
mod lines;
use common::{DEADLINE, eventually, local};
use lines::{Papers, socket};

fn start(websocket: WebSocket) -> Server {
    local().shards(1).allow_anonymous().websocket(websocket).start().unwrap()
}

fn anywhere() -> WebSocket {
    WebSocket::on(([127, 0, 0, 1], 0).into())
}

/// Asks for an upgrade with these header lines added; returns the status line.
fn ask(server: &Server, more: &str) -> (std::net::TcpStream, String) {
    let address = server.websocket_addr().unwrap();
    let mut stream = socket(address);
    let request = format!(
        "GET /any/path HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(char::from(byte[0]));
    }
    (stream, head)
}

/// What follows the head, INFO left out.
fn rest(mut stream: std::net::TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let info_end = rest.windows(2).position(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
    rest.split_off(info_end)
}

async fn round_trip(client: async_nats::Client) {
    let trip = async {
        let mut messages = client.subscribe("a").await.unwrap();
        client.publish("a", vec![7; 300_000].into()).await.unwrap();
        assert_eq!(messages.next().await.unwrap().payload, vec![7; 300_000]);
    };
    tokio::time::timeout(DEADLINE, trip).await.expect("within the deadline");
}

#[tokio::test]
async fn the_official_client_speaks_over_it() {
    let server = start(anywhere());
    let url = format!("ws://{}", server.websocket_addr().unwrap());
    let client = ConnectOptions::new().connect(url).await.unwrap();
    assert_eq!(client.server_info().port, server.websocket_addr().unwrap().port());
    round_trip(client).await;
}

#[tokio::test]
async fn the_official_client_speaks_over_it_encrypted() {
    let papers = Papers::new();
    let server = start(anywhere().tls(papers.server_tls()));
    let url = format!("wss://localhost:{}", server.websocket_addr().unwrap().port());
    let client = ConnectOptions::new().add_root_certificates(papers.ca()).connect(url).await.unwrap();
    assert!(!client.server_info().tls_required);
    round_trip(client).await;
    assert!(
        server.set_websocket_tls(papers.server_tls()).is_ok() && server.set_tls(papers.server_tls()).is_err()
    );
}

#[test]
fn pages_of_other_origins_are_refused() {
    let server = start(anywhere().same_origin());
    let address = server.websocket_addr().unwrap();
    assert!(ask(&server, "Origin: http://evil.example\r\n").1.starts_with("HTTP/1.1 403 "));
    assert!(ask(&server, "Origin: null\r\n").1.starts_with("HTTP/1.1 403 "));
    assert!(ask(&server, &format!("Origin: http://{address}\r\n")).1.starts_with("HTTP/1.1 101 "));
    assert!(ask(&server, "").1.starts_with("HTTP/1.1 101 "), "who is no browser");
    eventually("all places are free", || server.stats().connections == 0);
}

#[test]
fn compression_is_declined() {
    let server = start(anywhere());
    let (_, head) = ask(&server, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n");
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.to_ascii_lowercase().contains("extensions"), "{head}");
}

#[test]
fn who_does_not_ask_for_websocket_is_told_so() {
    let server = start(anywhere());
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "CONNECT {}\r\n\r\n",
    ] {
        let mut stream = socket(server.websocket_addr().unwrap());
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }
    let mut stream = socket(server.websocket_addr().unwrap());
    stream.write_all(&[b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 20_000]].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    eventually("all places are free", || server.stats().connections == 0);
}

#[test]
fn control_frames_are_answered_and_rules_are_kept() {
    let server = start(anywhere());
    let cases: [(&[u8], &[u8]); 4] = [
        // A ping, then a farewell.
        (b"\x89\x82\0\0\0\0hi\x88\x82\0\0\0\0\x03\xe8", b"\x8a\x02hi\x88\x02\x03\xe8"),
        // Text is as good as binary.
        (b"\x81\x86\0\0\0\0PING\r\n\x88\x80\0\0\0\0", b"\x82\x06PONG\r\n\x88\x00"),
        // Not masked; and a reserved bit.
        (b"\x82\x06PING\r\n", b""),
        (b"\xc2\x86\0\0\0\0PING\r\n", b""),
    ];
    for (said, expected) in cases {
        let (mut stream, _) = ask(&server, "");
        stream.write_all(said).unwrap();
        assert_eq!(rest(stream), expected, "{}", said.escape_ascii());
    }
    eventually("all places are free", || server.stats().connections == 0);
}

/// Sent before the upgrade was answered, as no browser does.
#[test]
fn frames_that_come_with_the_request_are_read() {
    let server = start(anywhere());
    let frames: &[u8] = b"\x82\x86\0\0\0\0PING\r\n\x88\x80\0\0\0\0";
    let mut stream = socket(server.websocket_addr().unwrap());
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(&[request, frames].concat()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(b"\x82\x06PONG\r\n\x88\x00"), "{}", all.escape_ascii());
}
