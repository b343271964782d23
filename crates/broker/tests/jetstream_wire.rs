//! JetStream seen from the wire: what bare sockets, connections inside the process and clients with few permissions get
//! of it.
#![cfg(test)]

use std::path::Path;

use ostler_broker::jetstream::Recovered;
use ostler_broker::{
    Builder, Credential, Error, Identity, InProcessOptions, JetStreamError, JetStreamOptions, LameDuck,
    Permissions, Rules, Server, Users,
};
use serde_json::Value;

mod common;
use common::{DEADLINE, Raw, eventually, local};

fn builder(dir: &Path) -> Builder {
    local().shards(1).allow_anonymous().jetstream(JetStreamOptions::new(dir))
}

/// Sends a request and returns the JSON that answers it.
fn ask(client: &mut Raw, subject: &str, request: &str) -> Value {
    client.send(format!("SUB answer 77\r\nPUB {subject} answer {}\r\n{request}\r\n", request.len()));
    let answer = client.message();
    client.send("UNSUB 77\r\n");
    serde_json::from_slice(&answer.payload).unwrap_or_else(|_| panic!("no JSON: {answer:?}"))
}

fn create(client: &mut Raw, name: &str, rest: &str) {
    let answer =
        ask(client, &format!("$JS.API.STREAM.CREATE.{name}"), &format!(r#"{{"name":"{name}",{rest}}}"#));
    assert!(answer["error"].is_null(), "{answer}");
}

/// Creates a consumer that pushes and wants no acknowledgements.
fn push(client: &mut Raw, stream: &str, name: &str, rest: &str) {
    let config = format!(r#"{{"durable_name":"{name}","ack_policy":"none",{rest}}}"#);
    let request = format!(r#"{{"stream_name":"{stream}","config":{config}}}"#);
    let made = ask(client, &format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}"), &request);
    assert!(made["error"].is_null(), "{made}");
}

fn messages(client: &mut Raw, stream: &str) -> u64 {
    ask(client, &format!("$JS.API.STREAM.INFO.{stream}"), "")["state"]["messages"].as_u64().unwrap()
}

#[test]
fn info_tells_that_there_is_jetstream() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = JetStreamOptions::new(dir.path());
    options.domain = Some("hub".into());
    let server = local().allow_anonymous().jetstream(options).start().unwrap();
    let info =
        |server: &Server| -> Value { serde_json::from_str(&Raw::open(server.local_addr()).1).unwrap() };
    let told = info(&server);
    assert_eq!((&told["jetstream"], &told["domain"]), (&true.into(), &"hub".into()));
    let mut client = Raw::connect(server.local_addr());
    assert_eq!(ask(&mut client, "$JS.hub.API.INFO", "")["domain"], "hub");
    let without = local().allow_anonymous().start().unwrap();
    let told = info(&without);
    assert!(told["jetstream"].is_null() && told["domain"].is_null(), "{told}");
    assert!(without.jetstream().unwrap().is_none());
}

#[test]
fn without_jetstream_and_in_other_accounts_nobody_responds() {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new();
    let elsewhere = Identity::new("far", Credential::Token("t".into()), Permissions::all()).account("B");
    users.set(elsewhere).unwrap();
    let without = local().allow_anonymous().start().unwrap();
    let with = local().users(users).jetstream(JetStreamOptions::new(dir.path())).start().unwrap();
    let quiet = r#""verbose":false,"headers":true,"no_responders":true"#;
    for (server, login) in [(&without, String::new()), (&with, r#","auth_token":"t""#.to_owned())] {
        let mut client = Raw::connect_with(server.local_addr(), &format!("{quiet}{login}"));
        client.send("SUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\n");
        let answer = client.message();
        assert!(answer.headers.starts_with(b"NATS/1.0 503"), "{answer:?}");
    }
}

#[test]
fn a_directory_serves_one_server_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).start().unwrap();
    let Error::JetStream(error @ JetStreamError::InUse(_)) = builder(dir.path()).start().unwrap_err() else {
        panic!("the directory is in use");
    };
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    server.shutdown();
    builder(dir.path()).start().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = builder(&file).start().unwrap_err();
    assert!(matches!(error, Error::JetStream(JetStreamError::Open(_))), "{error:?}");
}

#[test]
fn what_jetstream_says_can_be_stored_by_jetstream() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    create(&mut client, "EVENTS", r#""subjects":["$JS.EVENT.ADVISORY.>"]"#);
    create(&mut client, "COPY", r#""subjects":["copy.>"],"storage":"memory""#);
    let republish = r#""subjects":["a.>"],"republish":{"src":"a.>","dest":"copy.>"}"#;
    create(&mut client, "A", republish);
    client.send("SUB ack 1\r\nPUB a.b ack 1\r\nx\r\n");
    assert_eq!(client.message().payload, br#"{"stream":"A","seq":1}"#);
    client.send("UNSUB 1\r\n");
    eventually("the copy is stored", || messages(&mut client, "COPY") == 1);
    assert!(messages(&mut client, "EVENTS") >= 2, "the creation of the others");
}

#[test]
fn streams_that_feed_each_other_leave_time_for_clients() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    for (name, from, to) in [("A", "a", "b"), ("B", "b", "a")] {
        create(&mut client, name, &format!(r#""subjects":["{from}"],"storage":"memory","max_msgs":10"#));
        push(&mut client, name, "forth", &format!(r#""deliver_subject":"{to}""#));
    }
    client.send("PUB a 1\r\nx\r\n");
    let last =
        |client: &mut Raw| ask(client, "$JS.API.STREAM.INFO.A", "")["state"]["last_seq"].as_u64().unwrap();
    eventually("the message goes round", || last(&mut client) > 3000);
    // The circle ends with a stream.
    ask(&mut client, "$JS.API.STREAM.DELETE.B", "");
    client.sync();
}

#[test]
fn who_subscribes_in_another_shard_is_pushed_to() {
    for account in ["$G", "B"] {
        pushes_between_shards(account);
    }
}

fn pushes_between_shards(account: &str) {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new();
    users
        .set(Identity::new("it", Credential::Token("t".into()), Permissions::all()).account(account))
        .unwrap();
    let options = JetStreamOptions::new(dir.path());
    let builder = local().shards(2).users(users).jetstream(options).jetstream_account(account);
    let server = builder.start().unwrap();
    let login = r#""verbose":false,"headers":true,"auth_token":"t""#;
    let mut clients = [(); 2].map(|()| Raw::connect_with(server.local_addr(), login));
    let [client, other] = &mut clients;
    create(client, "S", r#""subjects":["s.>"]"#);
    push(client, "S", "one", r#""deliver_subject":"to.one""#);
    push(client, "S", "two", r#""deliver_subject":"to.two","deliver_group":"g""#);
    client.send("SUB ack 1\r\n");
    for n in 1..=3 {
        client.send(format!("PUB s.{n} ack 1\r\n{n}\r\n"));
        assert_eq!(client.message().payload, format!(r#"{{"stream":"S","seq":{n}}}"#).as_bytes());
    }
    other.send("SUB to.one 5\r\n");
    for n in 1..=3 {
        let message = other.message();
        assert_eq!((message.subject.as_str(), message.sid.as_str()), (&*format!("s.{n}"), "5"));
        assert!(message.reply.is_some_and(|reply| reply.starts_with("$JS.ACK.S.one.")));
    }
    other.send("SUB to.two g 6\r\n");
    for n in 1..=3 {
        assert_eq!(other.message().subject, format!("s.{n}"));
    }
}

/// A slow reader would be closed with more than `max_pending` waiting for it.
#[test]
fn who_asks_for_more_than_it_reads_gets_it_bit_by_bit() {
    const MESSAGES: usize = 20_000;

    let dir = tempfile::tempdir().unwrap();
    for shards in [1, 2] {
        let server = builder(dir.path()).shards(shards).max_pending(4 << 20).start().unwrap();
        let mut clients = [Raw::connect(server.local_addr()), Raw::connect(server.local_addr())];
        let [client, reader] = &mut clients;
        create(client, "S", r#""subjects":["s"],"storage":"memory""#);
        let frame = format!("PUB s 1000\r\n{}\r\n", "x".repeat(1000));
        client.send(frame.repeat(MESSAGES));
        client.sync();
        let request = r#"{"stream_name":"S","config":{"durable_name":"all","ack_policy":"none"}}"#;
        assert!(ask(client, "$JS.API.CONSUMER.DURABLE.CREATE.S.all", request)["error"].is_null());
        let batch = format!(r#"{{"batch":{MESSAGES}}}"#);
        reader.send(format!(
            "SUB in 1\r\nPUB $JS.API.CONSUMER.MSG.NEXT.S.all in {}\r\n{batch}\r\n",
            batch.len()
        ));
        // Others are served while it does not read.
        eventually("what fits is on its way", || {
            let info = ask(client, "$JS.API.CONSUMER.INFO.S.all", "");
            info["delivered"]["stream_seq"].as_u64().unwrap() > 2000
        });
        for _ in 0..MESSAGES {
            assert_eq!(reader.message().payload.len(), 1000);
        }
        server.shutdown();
    }
}

#[test]
fn messages_of_publishers_in_another_shard_keep_their_order() {
    const EACH: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).shards(2).start().unwrap();
    let mut clients: Vec<_> = (0..4).map(|_| Raw::connect(server.local_addr())).collect();
    create(&mut clients[0], "S", r#""subjects":["s.>"]"#);
    for (index, client) in clients.iter_mut().enumerate() {
        client.send("SUB ack.* 1\r\n");
        let frames: Vec<_> =
            (0..EACH).map(|n| format!("PUB s.{index} ack.{index} 4\r\n{n:04}\r\n")).collect();
        client.send(frames.concat());
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut last = 0;
        let mut own = 0;
        while own < EACH {
            let ack = client.message();
            if ack.subject == format!("ack.{index}") {
                let seq = serde_json::from_slice::<Value>(&ack.payload).unwrap()["seq"].as_u64().unwrap();
                assert!(seq > last, "acknowledged out of order");
                (last, own) = (seq, own + 1);
            }
        }
    }
    let mut next = [0; 4];
    let mut reader = Raw::connect(server.local_addr());
    for seq in 1..=4 * EACH {
        let found = ask(&mut reader, "$JS.API.STREAM.MSG.GET.S", &format!(r#"{{"seq":{seq}}}"#));
        let index: usize = found["message"]["subject"].as_str().unwrap()[2..].parse().unwrap();
        let data =
            data_encoding::BASE64.decode(found["message"]["data"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(String::from_utf8(data).unwrap(), format!("{:04}", next[index]));
        next[index] += 1;
    }
}

#[tokio::test]
async fn connections_inside_the_process_use_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).start().unwrap();
    let client =
        server.connect_in_process(InProcessOptions::trusted("test", Permissions::all())).await.unwrap();
    let config = r#"{"name":"AUDIT","subjects":["audit.>"],"deny_delete":true,"deny_purge":true}"#;
    client.request("$JS.API.STREAM.CREATE.AUDIT", config, DEADLINE).await.unwrap();
    for n in 1..=100 {
        let ack = client.request("audit.entry", n.to_string(), DEADLINE).await.unwrap();
        assert_eq!(ack.payload(), format!(r#"{{"stream":"AUDIT","seq":{n}}}"#).as_bytes());
    }
    let refused = client.request("$JS.API.STREAM.PURGE.AUDIT", "", DEADLINE).await.unwrap();
    assert!(String::from_utf8_lossy(refused.payload()).contains("\"error\""));
}

#[test]
fn permissions_decide_who_may_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new();
    let agent = Permissions {
        publish: Rules::allow(["work.>"]),
        subscribe: Rules::allow(["_INBOX.agent.>"]),
        allow_responses: None,
    };
    users.set(Identity::new("agent", Credential::Token("a".into()), agent)).unwrap();
    users.set(Identity::new("admin", Credential::Token("b".into()), Permissions::all())).unwrap();
    let server = local().shards(1).users(users).jetstream(JetStreamOptions::new(dir.path())).start().unwrap();
    let login = |token: &str| {
        let quiet = r#""verbose":false,"headers":true,"no_responders":true"#;
        Raw::connect_with(server.local_addr(), &format!(r#"{quiet},"auth_token":"{token}""#))
    };
    let (mut admin, mut agent) = (login("b"), login("a"));
    create(&mut admin, "WORK", r#""subjects":["work.>"]"#);
    agent.send("PUB $JS.API.STREAM.DELETE.WORK _INBOX.agent.1 0\r\n\r\n");
    assert!(agent.line().contains("Permissions Violation for Publish to \"$JS.API.STREAM.DELETE.WORK\""));
    // JetStream answers with rights of its own: the place for its answer must be one the agent may listen to.
    agent.send("PUB work.1 control.kill 1\r\nx\r\n");
    assert!(agent.line().contains("Permissions Violation for Publish with Reply of \"control.kill\""));
    agent.send("SUB _INBOX.agent.1 1\r\nPUB work.1 _INBOX.agent.1 1\r\nx\r\n");
    assert_eq!(agent.message().payload, br#"{"stream":"WORK","seq":1}"#);
    assert_eq!(messages(&mut admin, "WORK"), 1);
}

#[test]
fn what_recovery_found_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    create(&mut client, "GOOD", r#""subjects":["good"]"#);
    server.shutdown();
    std::fs::create_dir(dir.path().join("streams/STRAY")).unwrap();
    std::fs::write(dir.path().join("streams/STRAY/of_somebody"), "else").unwrap();
    let server = builder(dir.path()).start().unwrap();
    let recovered = server.jetstream().unwrap().expect("it is on").recovered;
    let served: Vec<_> =
        recovered.iter().map(|Recovered { stream, served, .. }| (&**stream, *served)).collect();
    assert_eq!(served, [("GOOD", true), ("STRAY", false)]);
}

#[test]
fn a_lame_duck_serves_streams_until_the_last_client_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder(dir.path()).start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    create(&mut client, "S", r#""subjects":["s"]"#);
    client.send("SUB ack 1\r\n");
    server.lame_duck(LameDuck { grace: DEADLINE, over: DEADLINE }).unwrap();
    for n in 1..=10 {
        client.send("PUB s ack 1\r\nx\r\n");
        assert_eq!(client.message().payload, format!(r#"{{"stream":"S","seq":{n}}}"#).as_bytes());
    }
    server.shutdown();
    let server = builder(dir.path()).start().unwrap();
    assert_eq!(messages(&mut Raw::connect(server.local_addr()), "S"), 10);
}
