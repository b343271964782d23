//! What the system account hears, and what its users may ask; beside a real nats-server where there is one.
#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Delivered, Raw, eventually, local, nats_server};
use ostler_broker::{Credential, Identity, LameDuck, Permissions, Server, Users};
use serde_json::Value;

fn server() -> Server {
    let users = Users::new();
    for (name, account) in [("sys", "$SYS"), ("a", "A"), ("b", "B")] {
        let credential = Credential::Password { user: name.into(), password: name.into() };
        users.set(Identity::new(name, credential, Permissions::all()).account(account)).unwrap();
    }
    local().shards(2).users(users).start().unwrap()
}

fn connect_line(name: &str, password: &str) -> String {
    let options = [
        r#""verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":0"#,
        r#""name":"my program","lang":"rust","version":"1.2.3""#,
        &format!(r#""user":"{name}","pass":"{password}""#),
    ];
    format!("CONNECT {{{}}}\r\n", options.join(","))
}

fn log_in(address: SocketAddr, name: &str) -> Raw {
    let (mut client, _) = Raw::open(address);
    client.send(connect_line(name, name));
    client.sync();
    client
}

/// A user of the system account who hears of clients.
fn listener(address: SocketAddr) -> Raw {
    let mut listener = log_in(address, "sys");
    // Not of its own account: of its own login it hears, or is too late for that.
    listener.send("SUB $SYS.ACCOUNT.A.* 1\r\nSUB $SYS.ACCOUNT.B.* 2\r\nSUB $SYS.ACCOUNT.$G.* 5\r\n");
    listener.send("SUB $SYS.SERVER.*.CLIENT.AUTH.ERR 3\r\nSUB answers.> 4\r\n");
    listener.sync();
    listener
}

fn json(message: &Delivered) -> Value {
    serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("{error}: {message:?}"))
}

/// Everything that clients of account A may do wrong, and what is heard of it.
fn story(address: SocketAddr) -> Vec<(String, Value)> {
    let mut system = listener(address);
    let mut heard = Vec::new();
    let mut hear = |count: usize| {
        for _ in 0..count {
            let message = system.message();
            let event = json(&message);
            let id = event["server"]["id"].as_str().unwrap();
            heard.push((message.subject.replace(id, "ID"), event));
        }
    };
    let mut client = log_in(address, "a");
    hear(1);
    client.send("SUB x 1\r\nPUB x 5\r\nhello\r\nPUB y 1\r\n!\r\n");
    assert_eq!(client.message().payload, b"hello");
    client.sync();
    drop(client);
    hear(1);

    let (mut wrong, _) = Raw::open(address);
    wrong.send(connect_line("a", "wrong"));
    assert_eq!(wrong.until_closed(), "-ERR 'Authorization Violation'\r\n");
    hear(2);

    let mut large = log_in(address, "a");
    large.send("PUB x 99999999\r\n");
    assert_eq!(large.until_closed(), "-ERR 'Maximum Payload Violation'\r\n");
    hear(2);
    let mut odd = log_in(address, "a");
    odd.send("WHAT\r\n");
    odd.until_closed();
    hear(2);

    let mut moves = log_in(address, "a");
    moves.send(connect_line("b", "b"));
    moves.sync();
    drop(moves);
    hear(3);
    heard
}

#[test]
fn the_system_account_hears_who_comes_and_why_they_go() {
    let server = server();
    let heard = story(server.local_addr());
    let told: Vec<_> = heard
        .iter()
        .map(|(subject, event)| (subject.as_str(), event["reason"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ("$SYS.ACCOUNT.A.CONNECT", ""),
            ("$SYS.ACCOUNT.A.DISCONNECT", "Client Closed"),
            ("$SYS.SERVER.ID.CLIENT.AUTH.ERR", "Authentication Failure"),
            ("$SYS.ACCOUNT.$G.DISCONNECT", "Authentication Failure"),
            ("$SYS.ACCOUNT.A.CONNECT", ""),
            ("$SYS.ACCOUNT.A.DISCONNECT", "Maximum Message Payload Exceeded"),
            ("$SYS.ACCOUNT.A.CONNECT", ""),
            ("$SYS.ACCOUNT.A.DISCONNECT", "Protocol Violation"),
            ("$SYS.ACCOUNT.A.CONNECT", ""),
            ("$SYS.ACCOUNT.B.CONNECT", ""),
            ("$SYS.ACCOUNT.B.DISCONNECT", "Client Closed"),
        ]
    );
    let gone = &heard[1].1;
    assert_eq!(gone["type"], "io.nats.server.advisory.v1.client_disconnect");
    assert_eq!((&gone["client"]["user"], &gone["client"]["name"]), (&Value::from("a"), &"my program".into()));
    assert_eq!(gone["sent"], serde_json::json!({ "msgs": 2, "bytes": 6 }));
    assert_eq!(gone["received"], serde_json::json!({ "msgs": 1, "bytes": 5 }));
    assert_eq!(gone["client"]["id"], heard[0].1["client"]["id"]);
    for (_, event) in &heard {
        assert!(!event.to_string().contains("wrong"), "a secret: {event}");
    }
}

/// The keys of a document with the kinds of their values, nested ones with dots.
fn shape(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                shape(value, &format!("{path}.{key}"), found);
            }
        }
        Value::String(_) => drop(found.insert(format!("{path}: text"))),
        Value::Number(_) => drop(found.insert(format!("{path}: number"))),
        Value::Bool(_) => drop(found.insert(format!("{path}: flag"))),
        Value::Array(_) => drop(found.insert(format!("{path}: list"))),
        Value::Null => drop(found.insert(format!("{path}: null"))),
    }
}

fn shape_of(event: &Value, without: &[&str]) -> Vec<String> {
    let mut found = BTreeSet::new();
    shape(event, "", &mut found);
    found.retain(|key| !without.iter().any(|name| key.contains(name)));
    found.into_iter().collect()
}

#[test]
fn events_have_the_fields_of_a_real_nats_server() {
    let Some(program) = nats_server() else {
        return;
    };
    let (theirs, ours) = (Theirs::start(&program), server());
    let (theirs, ours) = (story(theirs.address), story(ours.local_addr()));
    let told = |story: &[(String, Value)]| -> Vec<_> {
        let reason = |event: &Value| event["reason"].as_str().map(str::to_owned);
        // Flags of JetStream, which announces itself so.
        let shape = |event: &Value| shape_of(event, &["feature_flags"]);
        story.iter().map(|(subject, event)| (subject.clone(), reason(event), shape(event))).collect()
    };
    assert_eq!(told(&ours), told(&theirs));
    let fixed = |event: &Value| {
        let client = &event["client"];
        ["acc", "user", "name", "lang", "ver", "name_tag", "kind", "client_type", "host"]
            .map(|key| client[key].clone())
    };
    for ((subject, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        assert_eq!(fixed(ours), fixed(theirs), "{subject}");
        assert_eq!((&ours["sent"], &ours["received"]), (&theirs["sent"], &theirs["received"]), "{subject}");
    }
}

fn ask(system: &mut Raw, subject: &str, options: &str) -> Delivered {
    system.send(format!("PUB {subject} answers.1 {}\r\n{options}\r\n", options.len()));
    system.message()
}

#[test]
fn answers_about_the_server_have_the_fields_of_a_real_nats_server() {
    let Some(program) = nats_server() else {
        return;
    };
    let (theirs, ours) = (Theirs::start(&program), server());
    let mut systems = [listener(ours.local_addr()), listener(theirs.address)];
    for question in ["PING", "PING.STATSZ", "PING.IDZ", "PING.HEALTHZ"] {
        let subject = format!("$SYS.REQ.SERVER.{question}");
        let [ours, theirs] = systems
            .each_mut()
            .map(|system| shape_of(&json(&ask(system, &subject, "")), &["feature_flags", "gomaxprocs"]));
        assert_eq!(ours, theirs, "{question}");
    }
}

#[test]
fn system_users_may_ask_the_server_about_itself() {
    let server = server();
    let mut system = listener(server.local_addr());
    let id = server.server_id().to_owned();
    let statistics = json(&ask(&mut system, "$SYS.REQ.SERVER.PING", ""));
    assert_eq!(statistics["statsz"]["connections"], 1);
    assert_eq!(json(&ask(&mut system, &format!("$SYS.REQ.SERVER.{id}.IDZ"), ""))["id"], *id);
    let varz = json(&ask(&mut system, "$SYS.REQ.SERVER.PING.VARZ", ""));
    assert_eq!((&varz["server"]["id"], &varz["data"]["server_id"]), (&id.clone().into(), &id.into()));
    let connz = json(&ask(&mut system, "$SYS.REQ.SERVER.PING.CONNZ", r#"{"limit":1}"#));
    assert_eq!((&connz["data"]["limit"], &connz["data"]["num_connections"]), (&1.into(), &1.into()));
    let bad = json(&ask(&mut system, "$SYS.REQ.SERVER.PING.CONNZ", r#"{"auth":7}"#));
    assert!(bad["error"]["description"].is_string(), "{bad}");
    let subsz = json(&ask(&mut system, "$SYS.REQ.SERVER.PING.SUBSZ", ""));
    assert!(subsz["data"]["num_subscriptions"].as_u64() >= Some(4), "{subsz}");
    assert_eq!(json(&ask(&mut system, "$SYS.REQ.SERVER.PING.HEALTHZ", ""))["data"]["status"], "ok");
    for nobody in ["$SYS.REQ.SERVER.OTHER.IDZ", "$SYS.REQ.SERVER.PING.NONSENSE"] {
        assert!(ask(&mut system, nobody, "").headers.starts_with(b"NATS/1.0 503"), "{nobody}");
    }
    // So many at a time that most are not gathered, and the server is well.
    for _ in 0..500 {
        system.send("PUB $SYS.REQ.SERVER.PING.VARZ other 0\r\n\r\n");
    }
    system.sync();
}

#[test]
fn an_ordinary_account_can_neither_hear_nor_forge_nor_ask() {
    let server = server();
    let mut system = listener(server.local_addr());
    let mut a = log_in(server.local_addr(), "a");
    assert_eq!(system.message().subject, "$SYS.ACCOUNT.A.CONNECT");
    a.send("SUB $SYS.> 1\r\nSUB inbox 2\r\n");
    a.sync();
    drop(log_in(server.local_addr(), "b"));
    assert_eq!(system.message().subject, "$SYS.ACCOUNT.B.CONNECT");
    assert_eq!(system.message().subject, "$SYS.ACCOUNT.B.DISCONNECT");
    a.sync();
    a.send("UNSUB 1\r\nPUB $SYS.ACCOUNT.B.CONNECT 2\r\n{}\r\nPUB $SYS.REQ.SERVER.PING inbox 0\r\n\r\n");
    assert!(a.message().headers.starts_with(b"NATS/1.0 503"));
    a.sync();
    system.sync();
}

#[test]
fn everybody_on_every_shard_hears_the_end() {
    let server = server();
    let mut systems: Vec<Raw> = (0..4).map(|_| log_in(server.local_addr(), "sys")).collect();
    for system in &mut systems {
        system.send("SUB $SYS.SERVER.> 1\r\n");
        system.sync();
    }
    server.lame_duck(LameDuck { grace: Duration::from_secs(3600), ..LameDuck::default() }).unwrap();
    let subject = |what: &str| format!("$SYS.SERVER.{}.{what}", server.server_id());
    for system in &mut systems {
        assert_eq!(system.message().subject, subject("LAMEDUCK"));
    }
    server.shutdown();
    for system in &mut systems {
        let last = system.message();
        assert_eq!(last.subject, subject("SHUTDOWN"));
        assert_eq!(json(&last)["id"], *server.server_id());
        assert_eq!(system.until_closed(), "");
    }
}

/// A listener that is cut off is an event for the next one, which may be cut off for that.
#[test]
fn listeners_that_do_not_read_take_nobody_along() {
    let users = Users::new();
    for (name, account) in [("sys", "$SYS"), ("a", "A")] {
        let credential = Credential::Password { user: name.into(), password: name.into() };
        users.set(Identity::new(name, credential, Permissions::all()).account(account)).unwrap();
    }
    let server = local().shards(1).users(users).max_payload(64 << 10).max_pending(64 << 10).start().unwrap();
    let mut deaf: Vec<Raw> = (0..50).map(|_| log_in(server.local_addr(), "sys")).collect();
    for system in &mut deaf {
        system.send("SUB $SYS.> 1\r\nSUB flood 2\r\n");
        system.sync();
    }
    let mut flood = log_in(server.local_addr(), "sys");
    let body = "x".repeat(32 << 10);
    let mut rounds = 0;
    while server.stats().slow_consumers < 50 {
        flood.send(format!("PUB flood {}\r\n{body}\r\nPING\r\n", body.len()));
        while flood.line_or_ping() != "PONG" {}
        rounds += 1;
        assert!(rounds < 100_000, "{:?}", server.stats());
    }
    eventually("only the living are there", || server.stats().connections == 1);
    log_in(server.local_addr(), "a").sync();
}

/// A nats-server with the same accounts. It ends with the value.
struct Theirs {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Theirs {
    fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server.conf");
        let configuration = r#"
            listen: "127.0.0.1:-1"
            system_account: "$SYS"
            accounts {
                "$SYS" { users: [{ user: sys, password: sys }] }
                A { users: [{ user: a, password: a }] }
                B { users: [{ user: b, password: b }] }
            }"#;
        std::fs::write(&file, configuration).unwrap();
        let process = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("--ports_file_dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        let ports = folder.path().join(format!("{name}_{}.ports", process.id()));
        let read = || serde_json::from_slice::<Value>(&std::fs::read(&ports).ok()?).ok();
        eventually("nats-server writes down its ports", || read().is_some());
        let url = read().unwrap()["nats"][0].as_str().unwrap().to_owned();
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        Self { process, address, _folder: folder }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
