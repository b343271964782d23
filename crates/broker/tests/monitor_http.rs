//! The HTTP server of monitoring: who asks badly, slowly or from a web page hurts nobody.
#![cfg(test)]
#![cfg(feature = "monitor")]

mod common;
mod dashboard;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use common::{DEADLINE, Raw, local};
use dashboard::{get, open_monitored, request};
use ostler_broker::Error;

#[test]
fn what_cannot_be_understood_is_refused_with_a_reason() {
    let (_server, monitor) = open_monitored();
    for (target, status, reason) in [
        ("/connz?limit=x", 400, "Error decoding int for 'limit'"),
        ("/connz?sort=nope", 400, "invalid sorting option: nope"),
        ("/connz?sort=stop", 400, "sort by stop only valid on closed connections"),
        ("/connz?state=nope", 400, "Error decoding state for nope"),
        ("/connz?subs=maybe", 400, "Error decoding boolean for 'subs'"),
        ("/subsz?test=foo..x", 400, "invalid test subject, must be valid publish subject: foo..x"),
        ("/healthz?js-enabled-only=maybe", 400, "Error decoding boolean for 'js-enabled-only'"),
        ("/accountz?acc=nope", 400, "Account nope does not exist"),
        ("/nope", 404, "404 page not found"),
    ] {
        let (got, _, body) = get(monitor, target);
        assert_eq!(got, status, "{target}");
        assert!(body.contains(reason), "{target}: {body}");
    }
    let (status, head, _) =
        request(monitor, "POST /varz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
    assert!(status == 405 && head.to_lowercase().contains("allow: get"), "{head}");
    let (status, head, body) = request(monitor, "HEAD /varz HTTP/1.1\r\nHost: localhost\r\n");
    assert!(status == 200 && body.is_empty() && head.to_lowercase().contains("content-length: "), "{head}");
}

#[test]
fn web_pages_cannot_read_it() {
    let (_server, monitor) = open_monitored();
    let (status, head, body) =
        request(monitor, "GET /varz HTTP/1.1\r\nHost: evil.example:8222\r\nOrigin: http://evil.example\r\n");
    assert_eq!(status, 403, "a name of its own that leads here");
    assert!(!head.to_lowercase().contains("access-control") && body.contains("localhost"), "{head}{body}");
    let (status, head, _) =
        request(monitor, "GET /varz HTTP/1.1\r\nHost: 127.0.0.1:8222\r\nOrigin: http://x\r\n");
    assert!(status == 200 && !head.to_lowercase().contains("access-control"), "{head}");
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let error = local().allow_anonymous().monitor(address).start().unwrap_err();
    assert!(matches!(error, Error::Monitor { .. }) && error.is_retryable());
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot serve monitoring on {address}: the port is in use")), "{text}");
}

#[test]
fn slow_readers_and_writers_hurt_nobody() {
    let (server, monitor) = open_monitored();
    let mut client = Raw::connect(server.local_addr());
    client.send("SUB a 1\r\n");
    client.sync();
    // Half of them send requests that never end, half never read what they asked for.
    let slow: Vec<_> = (0..64)
        .map(|n| {
            let mut stream = TcpStream::connect(monitor).unwrap();
            let request = if n % 2 == 0 {
                "GET /varz HTTP/1.1\r\nHost: loc"
            } else {
                "GET /connz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            };
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(get(monitor, "/healthz").0, 200);
        client.send("PUB a 2\r\nhi\r\n");
        assert_eq!(client.message().payload, b"hi");
    }
    let mut endless = TcpStream::connect(monitor).unwrap();
    endless.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = endless.write_all(b"GET /varz HTTP/1.1\r\n");
    let _ = endless.write_all(&[b"X: ".as_slice(), &[b'x'; 64 << 10]].concat());
    let mut answer = String::new();
    // The server hangs up while it is still being told more: a reset is as good as an end.
    let _ = endless.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    drop(slow);
}

#[test]
fn shutting_down_ends_the_monitor_too() {
    let (server, monitor) = open_monitored();
    let idle = TcpStream::connect(monitor).unwrap();
    assert_eq!(get(monitor, "/healthz").0, 200);
    server.shutdown();
    assert!(TcpStream::connect(monitor).is_err(), "nobody listens any more");
    assert_eq!(server.monitor("/healthz").status, 503);
    assert_eq!(server.monitor("/connz").status, 503);
    TcpListener::bind(monitor).expect("the port is free");
    drop(idle);
}
/// A health check must not wait for those that ask for nothing.
#[test]
fn whoever_asks_is_heard_however_many_connections_are_idle() {
    // More than the monitor keeps.
    const IDLE: usize = 200;
    let (_server, monitor) = open_monitored();
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = vec![0; 4096];
        let len = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..len]).starts_with("HTTP/1.1 200")
    };
    let connect = || {
        let stream = TcpStream::connect(monitor).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    let mut in_use = connect();
    assert!(ask(&mut in_use));
    let mut idle = Vec::new();
    for count in 0..IDLE {
        idle.push(connect());
        if count % 50 == 0 {
            assert!(ask(&mut in_use), "who asks now and then keeps its place");
        }
    }
    assert_eq!(get(monitor, "/healthz").0, 200);
    assert!(ask(&mut in_use));
    // The oldest made room.
    assert!(matches!(idle[0].read(&mut [0]), Ok(0) | Err(_)));
    assert!(ask(idle.last_mut().unwrap()));
}

/// Half a request, or an answer that is not read, is not asking either.
#[test]
fn whoever_asks_is_heard_however_many_connections_are_stuck() {
    let (_server, monitor) = open_monitored();
    let stuck: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(monitor).unwrap();
            stream.write_all(b"GET /varz HTTP/1.1\r\nHost: loc").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(monitor, "/healthz").0, 200);
    drop(stuck);
}
