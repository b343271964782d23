//! Monitoring over real HTTP: what dashboards read is there, live and true.
#![cfg(test)]
#![cfg(feature = "monitor")]

mod common;
mod dashboard;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Raw, eventually, local};
use dashboard::{connections, document, get, list, monitored, open_monitored};
use ostler_broker::{Credential, Identity, Permissions, Users};
use serde_json::{Value, json};

/// What nats-top, prometheus-nats-exporter and nats.py read of `/varz`, or show.
const VARZ_READ: &[&str] = &[
    "server_id",
    "server_name",
    "version",
    "host",
    "port",
    "start",
    "now",
    "uptime",
    "mem",
    "cores",
    "cpu",
    "gomaxprocs",
    "connections",
    "total_connections",
    "routes",
    "remotes",
    "leafnodes",
    "in_msgs",
    "out_msgs",
    "in_bytes",
    "out_bytes",
    "slow_consumers",
    "stale_connections",
    "stalled_clients",
    "subscriptions",
    "max_connections",
    "max_payload",
    "max_pending",
    "max_control_line",
    "ping_interval",
    "ping_max",
    "auth_timeout",
    "tls_timeout",
    "write_deadline",
    "http_port",
    "https_port",
    "jetstream",
    "config_load_time",
    "slow_consumer_stats",
];
/// The same of a connection in `/connz`.
const CONNECTION_READ: &[&str] = &[
    "cid",
    "kind",
    "type",
    "ip",
    "port",
    "start",
    "last_activity",
    "uptime",
    "idle",
    "pending_bytes",
    "in_msgs",
    "out_msgs",
    "in_bytes",
    "out_bytes",
    "subscriptions",
    "name",
    "lang",
    "version",
    "rtt",
];
/// The same of `/subsz`.
const SUBSZ_READ: &[&str] = &[
    "num_subscriptions",
    "num_cache",
    "num_inserts",
    "num_removes",
    "num_matches",
    "cache_hit_rate",
    "max_fanout",
    "avg_fanout",
];

#[test]
fn dashboards_find_what_they_read() {
    let (server, monitor) = open_monitored();
    let mut client = Raw::connect_with(
        server.local_addr(),
        r#""verbose":false,"name":"app","lang":"rust","version":"1.2","protocol":0"#,
    );
    client.send("SUB a 1\r\n");
    client.sync();
    // The counters are laid open after the answers of a batch are written.
    eventually("the subscription is counted", || document(monitor, "/varz")["subscriptions"] == 1);
    let varz = document(monitor, "/varz");
    assert_has(&varz, VARZ_READ);
    assert_eq!(varz["http_port"], monitor.port());
    assert_eq!(varz["connections"], 1);
    assert!(varz["mem"].as_u64().unwrap() > 0 || !cfg!(target_os = "linux"));
    // The first PING comes after two seconds; its answer gives the round trip.
    assert_eq!(client.line_or_ping(), "PING");
    client.send("PONG\r\n");
    eventually("the round trip is known", || connections(monitor, "")[0].get("rtt").is_some());
    let connection = connections(monitor, "").remove(0);
    assert_has(&connection, CONNECTION_READ);
    assert_eq!((&connection["name"], &connection["lang"]), (&json!("app"), &json!("rust")));
    assert_has(&document(monitor, "/subsz"), SUBSZ_READ);
    let (status, head, body) = get(monitor, "/healthz");
    assert_eq!((status, body.as_str()), (200, r#"{"status":"ok"}"#));
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    let (status, _, index) = get(monitor, "/");
    assert!(status == 200 && index.contains("/varz") && index.contains("/connz"));
    assert_eq!(document(monitor, "/varz")["http_req_stats"]["/healthz"], 1);
}

#[test]
fn connz_sees_live_counters_and_subscriptions() {
    let (server, monitor) = open_monitored();
    let mut subscriber = Raw::connect(server.local_addr());
    subscriber.send("SUB foo.* 1\r\nSUB bar q 2\r\nSUB baz 3\r\nUNSUB 3 5\r\n");
    subscriber.sync();
    let mut publisher = Raw::connect(server.local_addr());
    publisher.send("PUB foo.x 5\r\nhello\r\nHPUB foo.y 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    publisher.sync();
    let [subscriber, publisher] = connections(monitor, "subs=1").try_into().unwrap();
    assert_eq!((&publisher["in_msgs"], &publisher["in_bytes"]), (&json!(2), &json!(19)));
    assert_eq!((&subscriber["out_msgs"], &subscriber["out_bytes"]), (&json!(2), &json!(19)));
    assert_eq!(subscriber["subscriptions_list"], json!(["foo.*", "bar", "baz"]));
    assert!(publisher.get("subscriptions_list").is_none());
    let detailed = connections(monitor, "subs=detail&cid=1").remove(0);
    let cid = &detailed["cid"];
    assert_eq!(
        detailed["subscriptions_list_detail"],
        json!([
            { "subject": "foo.*", "sid": "1", "msgs": 2, "cid": cid },
            { "subject": "bar", "qgroup": "q", "sid": "2", "msgs": 0, "cid": cid },
            { "subject": "baz", "sid": "3", "msgs": 0, "max": 5, "cid": cid },
        ])
    );
    let tested = document(monitor, "/subsz?subs=1&test=foo.z");
    assert_eq!((&tested["total"], &tested["num_subscriptions"]), (&json!(1), &json!(3)));
    assert_eq!(tested["subscriptions_list"][0]["subject"], "foo.*");
    assert_eq!(tested["subscriptions_list"][0]["account"], "$G");
    let [first, _] = connections(monitor, "sort=msgs_from").try_into().unwrap();
    assert_eq!(first["cid"], publisher["cid"], "most messages first");
    let account = &document(monitor, "/accstatz")["account_statz"][0];
    assert_eq!((&account["acc"], &account["conns"]), (&json!("$G"), &json!(2)));
    assert_eq!((&account["received"]["msgs"], &account["sent"]["bytes"]), (&json!(2), &json!(19)));
}

#[test]
fn ended_connections_say_why() {
    let users = Users::new();
    users.set(Identity::new("worker", Credential::Token("s3cret".into()), Permissions::all())).unwrap();
    let server = monitored()
        .users(users.clone())
        .max_payload(1024)
        .max_pending(64 << 10)
        .auth_timeout(Duration::from_millis(400))
        .start()
        .unwrap();
    let monitor = server.monitor_addr().unwrap();
    let connect = |token: &str| {
        Raw::connect_with(server.local_addr(), &format!(r#""verbose":false,"auth_token":"{token}""#))
    };
    let reason_of_last = |what: &str| {
        let mut reason = Value::Null;
        eventually(what, || {
            let closed = connections(monitor, "state=closed&sort=stop");
            reason = closed.first().map_or(Value::Null, |last| last["reason"].clone());
            reason == what
        });
    };
    let mut client = connect("s3cret");
    client.sync();
    drop(client);
    reason_of_last("Client Closed");
    connect("wrong").until_closed();
    reason_of_last("Authentication Failure");
    Raw::open(server.local_addr()).0.until_closed();
    reason_of_last("Authentication Timeout");
    let mut client = connect("s3cret");
    client.send("GARBAGE\r\n");
    client.until_closed();
    reason_of_last("Protocol Violation");
    let mut client = connect("s3cret");
    client.send("PUB a 2000\r\n");
    client.until_closed();
    reason_of_last("Maximum Message Payload Exceeded");
    let mut client = connect("s3cret");
    client.send([b"PUB ".as_slice(), &[b'x'; 5000]].concat());
    client.until_closed();
    reason_of_last("Maximum Control Line Exceeded");
    let mut slow = connect("s3cret");
    slow.send("SUB flood 1\r\n");
    slow.sync();
    let mut publisher = connect("s3cret");
    let frame = [b"PUB flood 1000\r\n".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
    eventually("the subscriber is cut off", || {
        publisher.send(frame.repeat(500));
        publisher.sync();
        server.stats().slow_consumers > 0
    });
    reason_of_last("Slow Consumer (Pending Bytes)");
    users.remove("worker");
    publisher.until_closed();
    reason_of_last("Credentials Revoked");
    let closed = connections(monitor, "state=closed");
    assert!(closed.iter().all(|connection| connection["stop"].is_string()));
    let all = document(monitor, "/connz?state=all");
    assert_eq!(all["total"], closed.len(), "none lives");
    assert_eq!(document(monitor, "/varz")["slow_consumer_stats"]["clients"], 1);
}

/// What is left to be sent when a connection ends is not what was left when it is listed.
#[test]
fn ended_connections_say_who_they_claimed_to_be_and_what_was_left() {
    let server = monitored().users(two_accounts()).max_payload(1024).start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    let mut refused = Raw::connect_with(server.local_addr(), r#""user":"a","pass":"wrong""#);
    refused.until_closed();
    let mut client = log_in(server.local_addr(), "b");
    client.send("PUB a 2000\r\n");
    client.until_closed();
    eventually("what was sent is not left", || {
        let closed = connections(monitor, "state=closed&auth=1");
        closed.len() == 2 && closed.iter().all(|ended| ended["pending_bytes"] == 0)
    });
    let [refused, client] = connections(monitor, "state=closed&auth=1").try_into().unwrap();
    assert_eq!((&refused["authorized_user"], &refused["account"]), (&json!("a"), &Value::Null));
    assert_eq!((&client["authorized_user"], &client["account"]), (&json!("b"), &json!("B")));
    assert_eq!(connections(monitor, "state=closed&user=a").len(), 1);
}

/// As in nats-server: of an account all are its own, while a user or an id is looked for among all.
#[test]
fn totals_are_those_of_the_account_that_is_asked_for() {
    let server = monitored().users(two_accounts()).start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    let clients = ["a", "a", "b"].map(|name| log_in(server.local_addr(), name));
    drop(log_in(server.local_addr(), "a"));
    eventually("one ended", || connections(monitor, "state=closed").len() == 1);
    for (query, listed, total) in [
        ("", 3, 3),
        ("acc=A", 2, 2),
        ("acc=A&limit=1", 1, 2),
        ("acc=A&state=closed", 1, 1),
        ("acc=A&state=any", 3, 3),
        ("acc=NOPE", 0, 0),
        ("user=a", 2, 3),
        ("cid=1", 1, 3),
        ("cid=1&acc=A", 1, 2),
        ("cid=1&acc=B", 0, 1),
        ("cid=4", 0, 3),
        ("cid=4&state=closed", 1, 1),
        ("cid=4&state=any", 1, 4),
        ("cid=99", 0, 3),
    ] {
        let told = document(monitor, &format!("/connz?{query}"));
        let numbers = (&told["num_connections"], &told["total"]);
        assert_eq!(numbers, (&json!(listed), &json!(total)), "{query}");
    }
    drop(clients);
}

#[test]
fn that_nobody_listens_is_no_message() {
    let (server, monitor) = open_monitored();
    let mut client = Raw::connect(server.local_addr());
    client.send("SUB inbox 1\r\nPUB nobody inbox 2\r\nhi\r\n");
    assert_eq!(client.message().headers, b"NATS/1.0 503\r\nNats-Subject: nobody\r\n\r\n");
    client.send("PUB inbox 2\r\nhi\r\n");
    assert_eq!(client.message().payload, b"hi");
    client.sync();
    let told = connections(monitor, "subs=detail").remove(0);
    assert_eq!((&told["out_msgs"], &told["out_bytes"]), (&json!(1), &json!(2)));
    let varz = document(monitor, "/varz");
    assert_eq!((&varz["out_msgs"], &varz["out_bytes"]), (&json!(1), &json!(2)));
}

#[test]
fn the_configuration_was_loaded_when_it_last_changed() {
    let (server, monitor) = open_monitored();
    let times = || {
        let varz = document(monitor, "/varz");
        ["start", "config_load_time"].map(|key| varz[key].as_str().unwrap().to_owned())
    };
    let [start, loaded] = times();
    assert_eq!(start, loaded);
    server.set_limits(server.limits()).unwrap();
    let [still, later] = times();
    // One notation of one length: the order of texts is that of times.
    assert!(still == start && later > loaded, "{later}");
}

#[test]
fn without_a_monitor_nothing_ended_is_remembered() {
    let server = local().shards(1).allow_anonymous().start().unwrap();
    assert_eq!(server.monitor_addr(), None);
    drop(Raw::connect(server.local_addr()));
    eventually("it is gone", || server.stats().connections == 0);
    let answer = server.monitor("/connz?state=closed");
    assert!(answer.status == 200 && answer.body.contains("\"total\": 0"), "{answer:?}");
}

#[test]
fn two_thousand_connections_are_listed_page_by_page() {
    const CLIENTS: usize = 2000;
    if !more_descriptors(2 * CLIENTS as u64 + 100) {
        eprintln!("SKIPPED: not enough file descriptors");
        return;
    }
    let server = local().shards(2).allow_anonymous().monitor("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Raw::connect(server.local_addr())).collect();
    let mut seen = BTreeSet::new();
    for page in 0.. {
        let document = document(monitor, &format!("/connz?limit=300&offset={}", page * 300));
        assert_eq!((&document["total"], &document["limit"]), (&json!(CLIENTS), &json!(300)));
        let ids: Vec<u64> = list(&document).iter().map(|entry| entry["cid"].as_u64().unwrap()).collect();
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(document["num_connections"], ids.len());
        if ids.is_empty() {
            break;
        }
        assert!(ids.iter().all(|id| seen.insert(*id)), "twice on pages");
    }
    assert_eq!(seen.len(), CLIENTS);
    assert_eq!(connections(monitor, "").len(), 1024, "nats-server's page");
    let started = Instant::now();
    assert_eq!(connections(monitor, "limit=5000&subs=1").len(), CLIENTS);
    println!("{CLIENTS} connections listed in {:?}", started.elapsed());
    drop(clients);
}

#[test]
fn secrets_are_told_to_nobody() {
    let users = Users::new();
    let password = Credential::Password { user: "joe".into(), password: "hunter2".into() };
    users.set(Identity::new("joe", password, Permissions::all())).unwrap();
    users.set(Identity::new("tom", Credential::Token("s3cret".into()), Permissions::all())).unwrap();
    let server = monitored().users(users).start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    let options =
        [r#""user":"joe","pass":"hunter2","verbose":false"#, r#""auth_token":"s3cret","verbose":false"#];
    let clients = options.map(|options| {
        let mut client = Raw::connect_with(server.local_addr(), options);
        client.send("SUB a 1\r\n");
        client.sync();
        client
    });
    let connections = connections(monitor, "auth=1");
    assert_eq!(connections[0]["authorized_user"], "joe");
    for target in
        ["/varz", "/connz?auth=1&subs=detail&state=all", "/subsz?subs=1", "/accountz?acc=$G", "/accstatz"]
    {
        let (status, _, body) = get(monitor, target);
        assert_eq!(status, 200, "{target}");
        assert!(!body.contains("hunter2") && !body.contains("s3cret"), "{target}: {body}");
    }
    drop(clients);
}

#[test]
fn what_does_not_exist_here_is_empty() {
    let (_server, monitor) = open_monitored();
    for (target, key, empty) in [
        ("/routez", "routes", json!([])),
        ("/gatewayz", "outbound_gateways", json!({})),
        ("/leafz", "leafs", json!([])),
        ("/jsz", "disabled", json!(true)),
    ] {
        assert_eq!(document(monitor, target)[key], empty, "{target}");
    }
    assert_eq!(document(monitor, "/accountz")["accounts"], json!(["$G", "$SYS"]));
}

#[cfg(feature = "tls")]
#[test]
fn encryption_and_its_failures_are_told() {
    use std::io::{Read as _, Write as _};
    use std::sync::Arc;

    let dir = tempfile::tempdir().unwrap();
    let papers = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    std::fs::write(&certificate, papers.cert.pem()).unwrap();
    std::fs::write(&key, papers.signing_key.serialize_pem()).unwrap();
    let tls = ostler_broker::Tls::from_pem_files(&certificate, &key).unwrap();
    let server = monitored().allow_anonymous().tls(tls).start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    assert_eq!(document(monitor, "/varz")["tls_required"], true);

    let (mut plain, _) = Raw::open(server.local_addr());
    plain.send("CONNECT {}\r\nPING\r\n");
    plain.until_closed();
    eventually("the failure is told", || {
        connections(monitor, "state=closed")
            .first()
            .is_some_and(|last| last["reason"] == "TLS Handshake Failure")
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(papers.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let (raw, _) = Raw::open(server.local_addr());
    let mut client = rustls::StreamOwned::new(session, raw.stream);
    client.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").unwrap();
    client.read_exact(&mut [0; 6]).expect("PONG");
    let told = connections(monitor, "").remove(0);
    assert_eq!(told["tls_version"], "1.3");
    assert!(told["tls_cipher_suite"].as_str().is_some_and(|suite| suite.starts_with("TLS_")), "{told}");
}

#[cfg(feature = "websocket")]
#[test]
fn the_websocket_listener_is_told_as_nats_server_does() {
    let websocket = ostler_broker::WebSocket::on("127.0.0.1:0".parse().unwrap())
        .same_origin()
        .allowed_origins(["http://a.example"]);
    let server = monitored().allow_anonymous().websocket(websocket).start().unwrap();
    let varz = document(server.monitor_addr().unwrap(), "/varz");
    assert_eq!(
        varz["websocket"],
        json!({ "host": "127.0.0.1", "port": server.websocket_addr().unwrap().port(), "no_tls": true,
            "handshake_timeout": 2_000_000_000_u64, "same_origin": true, "allowed_origins": ["http://a.example"] })
    );
}

fn two_accounts() -> Users {
    let member = |name: &str, account: &str| {
        let credential = Credential::Password { user: name.into(), password: "pass".into() };
        Identity::new(name, credential, Permissions::all()).account(account)
    };
    let users = Users::new();
    users.replace_all([member("a", "A"), member("b", "B")]).unwrap();
    users
}

fn log_in(address: SocketAddr, name: &str) -> Raw {
    let options = format!(r#""verbose":false,"user":"{name}","pass":"pass""#);
    let mut client = Raw::connect_with(address, &options);
    client.sync();
    client
}

fn assert_has(document: &Value, keys: &[&str]) {
    for key in keys {
        assert!(document.get(*key).is_some_and(|value| !value.is_null()), "no {key}: {document:#}");
    }
}

/// Raises this process's limit of open files.
fn more_descriptors(wanted: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).is_ok()
}
