//! A monitored server, and what a dashboard does with it: asks over HTTP and reads documents.
#![allow(dead_code, reason = "each test file uses its part of it, so an expectation fails in some")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use ostler_broker::{Builder, Server};
use serde_json::Value;

use crate::common::{DEADLINE, local};

pub(crate) fn monitored() -> Builder {
    local().shards(1).monitor("127.0.0.1:0".parse().unwrap())
}

pub(crate) fn open_monitored() -> (Server, SocketAddr) {
    let server = monitored().allow_anonymous().start().unwrap();
    let address = server.monitor_addr().expect("it serves monitoring");
    (server, address)
}

#[track_caller]
pub(crate) fn document(monitor: SocketAddr, target: &str) -> Value {
    let (status, _, body) = get(monitor, target);
    assert_eq!(status, 200, "{target}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[track_caller]
pub(crate) fn connections(monitor: SocketAddr, query: &str) -> Vec<Value> {
    list(&document(monitor, &format!("/connz?{query}")))
}

pub(crate) fn list(document: &Value) -> Vec<Value> {
    document["connections"].as_array().cloned().unwrap_or_default()
}

#[track_caller]
pub(crate) fn get(monitor: SocketAddr, target: &str) -> (u16, String, String) {
    request(monitor, &format!("GET {target} HTTP/1.1\r\nHost: {monitor}\r\n"))
}

/// Status, head and body of the answer to a request, whose last header and empty line are added.
#[track_caller]
pub(crate) fn request(monitor: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(monitor).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, head.to_owned(), body.to_owned())
}
