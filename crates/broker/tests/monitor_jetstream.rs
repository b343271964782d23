//! What monitoring tells of JetStream, beside a real nats-server where there is one.
#![cfg(test)]
#![cfg(all(feature = "monitor", feature = "jetstream"))]

mod common;
mod dashboard;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use common::{Raw, eventually, nats_server};
use dashboard::{document, get, monitored, request};
use ostler_broker::jetstream::ServerLimits;
use ostler_broker::{Credential, Identity, JetStreamOptions, Permissions, Server, Users};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Asks JetStream and gives its answer.
#[track_caller]
fn ask(client: &mut Raw, subject: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.send(format!("PUB {subject} answers {}\r\n{body}\r\n", body.len()));
    serde_json::from_slice(&client.message().payload).unwrap()
}

/// A stream in a file with a consumer and messages, one in memory.
fn fill(address: SocketAddr, options: &str) -> Raw {
    let mut client = Raw::connect_with(address, options);
    client.send("SUB answers 1\r\n");
    let stream = json!({ "name": "A", "subjects": ["a.>"], "metadata": { "k": "v" } });
    assert!(ask(&mut client, "$JS.API.STREAM.CREATE.A", &stream).get("error").is_none());
    let stream = json!({ "name": "M", "storage": "memory", "max_bytes": 1000 });
    assert!(ask(&mut client, "$JS.API.STREAM.CREATE.M", &stream).get("error").is_none());
    let consumer = json!({ "stream_name": "A", "config": { "durable_name": "c", "name": "c", "ack_policy": "explicit" } });
    assert!(ask(&mut client, "$JS.API.CONSUMER.CREATE.A.c", &consumer).get("error").is_none());
    for _ in 0..3 {
        ask(&mut client, "a.b", &json!("hello"));
    }
    client
}

fn limits() -> ServerLimits {
    let mut limits = ServerLimits::default();
    (limits.memory_bytes_max, limits.storage_bytes_max) = (Some(64 << 20), Some(1 << 30));
    (limits.request_batch_max, limits.ack_pending_max) = (Some(100), Some(500));
    (limits.duplicate_window_max, limits.consumers_default) = (Some(60_000_000_000), Some(1000));
    limits
}

fn ours(dir: &TempDir) -> (Server, SocketAddr) {
    let mut options = JetStreamOptions::new(dir.path());
    options.server = limits();
    options.domain = Some("hub".into());
    let server = monitored().allow_anonymous().jetstream(options).start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    (server, monitor)
}

const ANYBODY: &str = r#""verbose":false"#;

#[test]
fn streams_and_consumers_are_told_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let (server, monitor) = ours(&dir);
    let mut client = fill(server.local_addr(), ANYBODY);
    for n in 0..150 {
        let name = format!("S{n:03}");
        ask(
            &mut client,
            &format!("$JS.API.STREAM.CREATE.{name}"),
            &json!({ "name": name, "storage": "memory" }),
        );
        let push = json!({ "stream_name": "M", "config": { "name": name, "deliver_subject": if n == 7 { "answers" } else { "d" } } });
        ask(&mut client, &format!("$JS.API.CONSUMER.CREATE.M.{name}"), &push);
    }
    let whole = document(monitor, "/jsz?consumers=1");
    assert_eq!(
        (&whole["streams"], &whole["consumers"], &whole["messages"]),
        (&json!(152), &json!(151), &json!(3))
    );
    assert_eq!(
        (&whole["storage"], &whole["reserved_memory"], &whole["total"]),
        (&json!(120), &json!(1000), &json!(1))
    );
    assert_eq!(whole["config"]["max_memory"], 64 << 20);
    assert_eq!(whole["limits"]["max_request_batch"], 100);
    let streams = whole["account_details"][0]["stream_detail"].as_array().unwrap();
    assert_eq!(streams.len(), 152);
    assert!(streams.is_sorted_by_key(|stream| stream["name"].as_str().unwrap().to_owned()));
    let consumers = streams[1]["consumer_detail"].as_array().unwrap();
    assert_eq!(consumers.len(), 150);
    let bound: Vec<_> = consumers.iter().filter(|consumer| consumer["push_bound"] == true).collect();
    assert_eq!(bound.len(), 1, "somebody listens where S007 pushes");
    assert!(streams[0].get("config").is_none(), "it was not asked for");
    // Only what is asked for.
    assert!(document(monitor, "/jsz").get("account_details").is_none());
    assert!(document(monitor, "/jsz?acc=other&streams=1").get("account_details").is_none());
    assert!(
        document(monitor, "/jsz?streams=1")["account_details"][0]["stream_detail"][0]
            .get("consumer_detail")
            .is_none()
    );
    assert_eq!(document(monitor, "/accountz?acc=$G")["account_detail"]["jetstream_enabled"], true);
    assert_eq!(document(monitor, "/varz")["jetstream"]["stats"]["storage"], 120);
}

#[test]
fn health_may_be_asked_of_a_stream_and_a_consumer() {
    let dir = tempfile::tempdir().unwrap();
    let (server, monitor) = ours(&dir);
    let _client = fill(server.local_addr(), ANYBODY);
    for (query, status, says) in [
        ("", 200, "ok"),
        ("?js-enabled-only=1", 200, "ok"),
        ("?js-server-only=true", 200, "ok"),
        ("?account=$G&stream=A&consumer=c", 200, "ok"),
        ("?account=$G&stream=X", 404, "JetStream stream \\\"X\\\" not found on account \\\"$G\\\""),
        ("?account=$G&stream=A&consumer=x", 404, "JetStream consumer \\\"x\\\" not found for stream"),
        ("?account=nope", 404, "JetStream account \\\"nope\\\" not found"),
        ("?stream=A", 400, "must not be empty when checking stream health"),
        ("?account=$G&consumer=c", 400, "must not be empty when checking consumer health"),
        ("?js-server-only=maybe", 400, "Error decoding boolean"),
        ("?details=1&account=nope", 404, "\"errors\":[{"),
    ] {
        let (found, _, body) = get(monitor, &format!("/healthz{query}"));
        assert_eq!(found, status, "{query}: {body}");
        assert!(body.contains(says), "{query}: {body}");
    }
    let (plain, without) = (monitored().allow_anonymous().start().unwrap(), "/healthz?js-enabled-only=1");
    assert_eq!(plain.monitor("/healthz").status, 200);
    assert_eq!(plain.monitor(without).status, 503);
}

#[test]
fn a_stream_that_is_not_served_makes_the_server_unhealthy() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = ours(&dir);
    drop(fill(server.local_addr(), ANYBODY));
    server.shutdown();
    let bad = dir.path().join("streams/A");
    for entry in std::fs::read_dir(&bad).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    std::fs::write(bad.join("something"), "else").unwrap();
    let (_server, monitor) = ours(&dir);
    let (status, _, body) = get(monitor, "/healthz");
    assert!(
        status == 503 && body.contains("\\\"A\\\" is not served") && body.contains("ostler-broker check"),
        "{body}"
    );
    let (status, _, body) = get(monitor, "/healthz?account=$G&stream=A");
    assert_eq!(status, 503, "{body}");
    // Whether it should be started again is another question.
    assert_eq!(get(monitor, "/healthz?js-server-only=1").0, 200);
}

#[test]
fn an_account_of_its_own_may_have_the_streams() {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new();
    for (name, account) in [("a", "A"), ("b", "B"), ("g", "$G"), ("sys", "$SYS")] {
        let credential = Credential::Password { user: name.into(), password: name.into() };
        users.set(Identity::new(name, credential, Permissions::all()).account(account)).unwrap();
    }
    let options = JetStreamOptions::new(dir.path());
    let server =
        monitored().users(users).shards(2).jetstream(options).jetstream_account("A").start().unwrap();
    let monitor = server.monitor_addr().unwrap();
    let login = |name: &str| {
        format!(r#""verbose":false,"headers":true,"no_responders":true,"user":"{name}","pass":"{name}""#)
    };
    let mut clients: Vec<_> = (0..2).map(|_| Raw::connect_with(server.local_addr(), &login("a"))).collect();
    drop(fill(server.local_addr(), &login("a")));
    for client in &mut clients {
        client.send("SUB answers 1\r\n");
        assert_eq!(ask(client, "$JS.API.INFO", &Value::Null)["streams"], 2, "in whichever shard it is");
    }
    for stranger in ["b", "g"] {
        let mut client = Raw::connect_with(server.local_addr(), &login(stranger));
        client.send("SUB answers 1\r\nPUB $JS.API.INFO answers 0\r\n\r\n");
        let nobody = client.message();
        assert!(nobody.headers.starts_with(b"NATS/1.0 503"), "{stranger}");
    }
    assert_eq!(document(monitor, "/jsz?accounts=1")["account_details"][0]["name"], "A");
    assert_eq!(document(monitor, "/accountz?acc=A")["account_detail"]["jetstream_enabled"], true);
    assert_eq!(document(monitor, "/accountz?acc=$G")["account_detail"]["jetstream_enabled"], false);
    // And the system account may ask the same over NATS.
    let mut system = Raw::connect_with(server.local_addr(), &login("sys"));
    system.send("SUB answers 1\r\n");
    let asked = json!({ "accounts": true, "streams": true, "consumer": true });
    let answer = ask(&mut system, "$SYS.REQ.SERVER.PING.JSZ", &asked);
    assert_eq!(answer["data"]["account_details"][0]["stream_detail"][0]["consumer_detail"][0]["name"], "c");
    let answer = ask(&mut system, "$SYS.REQ.SERVER.PING.HEALTHZ", &json!({ "account": "A", "stream": "X" }));
    assert_eq!(answer["data"]["status_code"], 404);
}

/// Every field a real nats-server has, of the same type.
#[test]
fn documents_have_the_fields_of_a_real_nats_server() {
    let dir = tempfile::tempdir().unwrap();
    let Some(real) = Real::start(&dir) else { return };
    let store = tempfile::tempdir().unwrap();
    let (server, monitor) = ours(&store);
    let _clients = [fill(server.local_addr(), ANYBODY), fill(real.clients, ANYBODY)];
    for target in [
        "/jsz",
        "/jsz?accounts=1",
        "/jsz?streams=1",
        "/jsz?consumers=1&config=1",
        "/varz",
        "/accountz?acc=$G",
        "/healthz",
    ] {
        let wanted = |target: &Value| match target.get("jetstream") {
            Some(jetstream) => jetstream.clone(),
            None => target.clone(),
        };
        let missing = missing(&wanted(&whole(real.monitor, target)), &wanted(&document(monitor, target)), "");
        let missing: Vec<_> = missing
            .into_iter()
            // Nothing is mapped and imported.
            .filter(|path| !["imports", "mappings", "sublist_stats"].iter().any(|word| path.contains(word)))
            .collect();
        assert!(missing.is_empty(), "{target}: {missing:?}");
    }
}

/// A document in one piece: to later versions of HTTP nats-server sends large ones in chunks.
fn whole(monitor: SocketAddr, target: &str) -> Value {
    let (status, _, body) = request(monitor, &format!("GET {target} HTTP/1.0\r\n"));
    assert_eq!(status, 200, "{target}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Paths of what `theirs` has and `ours` has not, or of another type. Lists are compared by their first entries.
fn missing(theirs: &Value, ours: &Value, path: &str) -> Vec<String> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let missing_of = |(key, value): (&String, &Value)| match ours.get(key) {
                Some(known) => missing(value, known, &format!("{path}.{key}")),
                None => vec![format!("{path}.{key}")],
            };
            theirs.iter().flat_map(missing_of).collect()
        }
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(theirs), Some(ours)) => missing(theirs, ours, path),
            (Some(_), None) => vec![format!("{path}[0]")],
            _ => vec![],
        },
        _ if std::mem::discriminant(theirs) == std::mem::discriminant(ours) => vec![],
        _ => vec![format!("{path}: {theirs} / {ours}")],
    }
}

/// A nats-server with JetStream and monitoring. It ends with the value.
struct Real {
    process: Child,
    clients: SocketAddr,
    monitor: SocketAddr,
}

impl Real {
    fn start(dir: &TempDir) -> Option<Self> {
        let program = nats_server()?;
        let text = "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\njetstream {store_dir: store, max_mem: 64MB, max_file: 1GB\n\
                    domain: hub, limits {max_request_batch: 100, max_ack_pending: 500, duplicate_window: \"1m\"}}\n";
        std::fs::write(dir.path().join("f.conf"), text).unwrap();
        let mut process = Command::new(program)
            .args(["-c", "f.conf", "--ports_file_dir", "."])
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ports = Value::Null;
        let path = dir.path().join(format!("nats-server_{}.ports", process.id()));
        eventually("nats-server writes down its ports", || {
            assert!(process.try_wait().unwrap().is_none(), "it ended");
            let text = std::fs::read(&path).unwrap_or_default();
            ports = serde_json::from_slice(&text).unwrap_or_default();
            ports["monitoring"][0].is_string()
        });
        let address = |kind: &str| {
            let url = ports[kind][0].as_str().unwrap();
            url.split_once("://").unwrap().1.parse().unwrap()
        };
        Some(Self { clients: address("nats"), monitor: address("monitoring"), process })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
