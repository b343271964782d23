//! Who gets in, what they may do, and what happens when that changes while they are connected.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::{Raw, eventually, local};
use nkeys::KeyPair;
use ostler_broker::{AllowResponses, Credential, Identity, Permissions, Rules, Server, Users};

fn token(name: &str, permissions: Permissions) -> Identity {
    Identity::new(name, Credential::Token(format!("{name}-token")), permissions)
}

fn server_with(identities: impl IntoIterator<Item = Identity>) -> (Server, Users) {
    let users = Users::new();
    identities.into_iter().for_each(|identity| users.set(identity).unwrap());
    (local().shards(2).users(users.clone()).start().unwrap(), users)
}

fn log_in(server: &Server, name: &str) -> Raw {
    let options = format!(r#""verbose":false,"pedantic":false,"headers":true,"auth_token":"{name}-token""#);
    let mut client = Raw::connect_with(server.local_addr(), &options);
    client.sync();
    client
}

fn sign_in(server: &Server, key: &KeyPair, sign: impl FnOnce(&str) -> String) -> Raw {
    let (mut client, info) = Raw::open(server.local_addr());
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let nonce = sign(info["nonce"].as_str().unwrap());
    let signature = data_encoding::BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes()).unwrap());
    let (public, verbose) = (key.public_key(), false);
    client.send(format!(r#"CONNECT {{"verbose":{verbose},"nkey":"{public}","sig":"{signature}"}}"#));
    client.send("\r\n");
    client
}

#[test]
fn an_nkey_gets_in_by_signing_the_nonce_of_its_own_connection() {
    let key = KeyPair::new_user();
    let identity = Identity::new("agent", Credential::Nkey(key.public_key()), Permissions::all());
    let (server, _users) = server_with([identity]);
    sign_in(&server, &key, str::to_owned).sync();

    let refused = "-ERR 'Authorization Violation'\r\n";
    assert_eq!(sign_in(&server, &key, |_| "a nonce of yesterday".into()).until_closed(), refused);
    let stranger = KeyPair::new_user();
    assert_eq!(sign_in(&server, &stranger, str::to_owned).until_closed(), refused);
    let public = key.public_key();
    let mut unsigned = Raw::connect_with(server.local_addr(), &format!(r#""nkey":"{public}""#));
    assert_eq!(unsigned.until_closed(), refused);
    eventually("failures are counted", || server.stats().auth_failures == 3);
}

#[test]
fn user_and_password_get_in() {
    let credential = Credential::Password { user: "joe".into(), password: "pass".into() };
    let (server, _users) = server_with([Identity::new("joe", credential, Permissions::all())]);
    Raw::connect_with(server.local_addr(), r#""verbose":false,"user":"joe","pass":"pass""#).sync();
    let mut wrong = Raw::connect_with(server.local_addr(), r#""verbose":false,"user":"joe","pass":"other""#);
    assert_eq!(wrong.until_closed(), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn anonymous_clients_get_in_only_where_the_builder_says_so() {
    let users = Users::new();
    users.set(token("a", Permissions::all())).unwrap();
    let server = local().users(users).allow_anonymous().start().unwrap();
    Raw::connect(server.local_addr()).sync();
    log_in(&server, "a").sync();
    // A credential that is given must be right.
    let mut wrong = Raw::connect_with(server.local_addr(), r#""auth_token":"wrong""#);
    assert_eq!(wrong.until_closed(), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn an_agent_can_neither_read_nor_forge_anothers_traffic() {
    let agent = |id: &str| Permissions {
        publish: Rules::allow([format!("agent.{id}.>"), "tools.call".into()]),
        subscribe: Rules::allow([
            format!("agent.{id}.>"),
            "captain.broadcast".into(),
            format!("_INBOX.{id}.>"),
        ]),
        allow_responses: None,
    };
    let (server, _users) =
        server_with([token("a", agent("a")), token("b", agent("b")), token("host", Permissions::all())]);
    let mut host = log_in(&server, "host");
    host.send("SUB > 1\r\n");
    host.sync();
    let mut a = log_in(&server, "a");
    a.send("SUB agent.b.input 1\r\n");
    assert_eq!(a.line(), r#"-ERR 'Permissions Violation for Subscription to "agent.b.input"'"#);
    a.send("PUB agent.b.output 1\r\nx\r\n");
    assert_eq!(a.line(), r#"-ERR 'Permissions Violation for Publish to "agent.b.output"'"#);
    a.send("PUB agent.a.output 2\r\nok\r\n");
    a.sync();
    let heard = host.message();
    assert_eq!((heard.subject.as_str(), heard.payload.as_slice()), ("agent.a.output", &b"ok"[..]));
}

#[test]
fn denied_messages_are_left_out_of_a_wildcard_subscription() {
    let limited = Permissions { subscribe: Rules::all().deny(["secret.*"]), ..Permissions::default() };
    let (server, _users) = server_with([token("limited", limited), token("all", Permissions::all())]);
    let mut limited = log_in(&server, "limited");
    limited.send("SUB > 1\r\n");
    limited.sync();
    let mut all = log_in(&server, "all");
    all.send("PUB secret.plan 1\r\nx\r\nPUB secret.plan.b 1\r\ny\r\nPUB open 1\r\nz\r\n");
    assert_eq!(limited.message().payload, b"y");
    assert_eq!(limited.message().payload, b"z");
}

#[test]
fn a_responder_may_answer_what_it_was_asked_so_often_and_so_long() {
    let responder = |ttl| Permissions {
        publish: Rules::none(),
        subscribe: Rules::allow(["service"]),
        allow_responses: Some(AllowResponses { max: 2, ttl }),
    };
    let (server, users) = server_with([
        token("service", responder(Duration::from_secs(60))),
        token("asker", Permissions::all()),
    ]);
    let mut service = log_in(&server, "service");
    service.send("SUB service 1\r\n");
    service.sync();
    let mut asker = log_in(&server, "asker");
    asker.send("SUB inbox.> 1\r\nPUB service inbox.1 1\r\n?\r\n");
    assert_eq!(service.message().reply.as_deref(), Some("inbox.1"));
    service.send("PUB inbox.1 1\r\n1\r\nPUB inbox.1 1\r\n2\r\nPUB inbox.1 1\r\n3\r\nPUB inbox.2 1\r\nx\r\n");
    assert_eq!(service.line(), r#"-ERR 'Permissions Violation for Publish to "inbox.1"'"#);
    assert_eq!(service.line(), r#"-ERR 'Permissions Violation for Publish to "inbox.2"'"#);
    assert_eq!((asker.message().payload, asker.message().payload), (b"1".to_vec(), b"2".to_vec()));

    users.set(token("service", responder(Duration::ZERO))).unwrap();
    asker.send("PUB service inbox.3 1\r\n?\r\n");
    service.message();
    service.send("PUB inbox.3 1\r\nx\r\n");
    assert_eq!(service.line(), r#"-ERR 'Permissions Violation for Publish to "inbox.3"'"#);
}

/// Whoever answers publishes to the reply subject with its own rights, so naming one is borrowing them.
#[test]
fn a_reply_subject_must_be_one_that_the_requester_may_listen_to() {
    let agent = Permissions {
        publish: Rules::allow(["agent.a.>"]).deny(["agent.a.remove"]),
        subscribe: Rules::allow(["agent.a.>", "_INBOX.a.>"]).deny(["_INBOX.a.secret"]),
        allow_responses: Some(AllowResponses::default()),
    };
    let (server, users) = server_with([token("a", agent), token("engine", Permissions::all())]);
    let mut engine = log_in(&server, "engine");
    engine.send("SUB agent.*.logs 1\r\n");
    engine.sync();
    let mut a = log_in(&server, "a");
    let violation =
        |reply: &str| format!("-ERR 'Permissions Violation for Publish with Reply of \"{reply}\"'");
    let refused = ["agent.b.kill", "agent.a.remove", "_INBOX.b.1", "_INBOX.a.secret", "agent.a..x"];
    // Twice, for verdicts are remembered.
    for reply in refused.iter().chain(&refused) {
        a.send(format!("PUB agent.a.logs {reply} 1\r\nx\r\n"));
        assert_eq!(a.line(), violation(reply));
        a.send(format!("HPUB agent.a.logs {reply} 12 13\r\nNATS/1.0\r\n\r\nx\r\n"));
        assert_eq!(a.line(), violation(reply));
    }
    a.send("PUB agent.a.logs _INBOX.a.1 2\r\nok\r\n");
    a.sync();
    let heard = engine.message();
    assert_eq!((heard.reply.as_deref(), heard.payload.as_slice()), (Some("_INBOX.a.1"), &b"ok"[..]));
    // A right to answer is no right to have others publish there.
    a.send("SUB agent.a.ask 1\r\n");
    a.sync();
    engine.send("PUB agent.a.ask my.inbox 1\r\n?\r\n");
    assert_eq!(a.message().reply.as_deref(), Some("my.inbox"));
    a.send("PUB agent.a.logs my.inbox 1\r\nx\r\n");
    assert_eq!(a.line(), violation("my.inbox"));
    // Changed rules are asked again.
    let muted = Permissions { publish: Rules::allow(["agent.a.>"]), ..Permissions::default() };
    users.set(token("a", muted)).unwrap();
    assert_eq!(a.line(), "-ERR 'Permissions Violation for Subscription to \"agent.a.ask\"'");
    a.send("PUB agent.a.logs _INBOX.a.1 1\r\nx\r\n");
    assert_eq!(a.line(), violation("_INBOX.a.1"));
    // Who may publish everything borrows nothing.
    engine.send("PUB agent.x.logs any.reply 4\r\nlast\r\n");
    assert_eq!(engine.message().reply.as_deref(), Some("any.reply"));
    engine.sync();
}

#[test]
fn removing_an_identity_ends_its_connections_and_no_others() {
    let (server, users) = server_with([token("a", Permissions::all()), token("b", Permissions::all())]);
    let mut of_a: Vec<Raw> = (0..4).map(|_| log_in(&server, "a")).collect();
    let mut of_b = log_in(&server, "b");
    assert!(users.remove("a"));
    assert!(!users.remove("a"));
    for client in &mut of_a {
        assert_eq!(client.until_closed(), "-ERR 'Authorization Violation'\r\n");
    }
    of_b.sync();
    let mut again = Raw::connect_with(server.local_addr(), r#""auth_token":"a-token""#);
    assert_eq!(again.until_closed(), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn nothing_sent_after_a_removal_is_accepted() {
    let (server, users) = server_with([token("a", Permissions::all()), token("b", Permissions::all())]);
    let mut witness = log_in(&server, "b");
    witness.send("SUB > 1\r\n");
    witness.sync();
    for _ in 0..50 {
        let mut client = log_in(&server, "a");
        users.remove("a");
        // Closed already, perhaps.
        let _ = std::io::Write::write_all(&mut client.stream, b"PUB forged 1\r\nx\r\n");
        client.until_closed();
        users.set(token("a", Permissions::all())).unwrap();
    }
    witness.sync();
}

#[test]
fn changed_permissions_apply_to_live_connections() {
    let wide = Permissions {
        publish: Rules::allow(["p.>"]),
        subscribe: Rules::allow(["s.>"]),
        allow_responses: None,
    };
    let narrow = Permissions {
        publish: Rules::allow(["p.a"]),
        subscribe: Rules::allow(["s.a"]),
        allow_responses: None,
    };
    let (server, users) = server_with([token("agent", wide.clone()), token("all", Permissions::all())]);
    let mut agent = log_in(&server, "agent");
    agent.send("SUB s.a 1\r\nSUB s.b q 2\r\nPUB p.b 1\r\nx\r\n");
    agent.sync();

    users.set(token("agent", narrow)).unwrap();
    assert_eq!(agent.line(), r#"-ERR 'Permissions Violation for Subscription to "s.b" using queue "q"'"#);
    agent.send("PUB p.b 1\r\nx\r\n");
    assert_eq!(agent.line(), r#"-ERR 'Permissions Violation for Publish to "p.b"'"#);
    let mut all = log_in(&server, "all");
    all.send("PUB s.b 1\r\nb\r\nPUB s.a 1\r\na\r\n");
    assert_eq!(agent.message().payload, b"a");

    users.set(token("agent", wide)).unwrap();
    agent.send("SUB s.b 3\r\nPUB p.b 1\r\nx\r\n");
    agent.sync();
}

#[test]
fn another_credential_for_a_name_ends_the_connections_of_the_old_one() {
    let (server, users) = server_with([token("a", Permissions::all())]);
    let mut client = log_in(&server, "a");
    let credential = Credential::Token("rotated".into());
    users.set(Identity::new("a", credential, Permissions::all())).unwrap();
    assert_eq!(client.until_closed(), "-ERR 'Authorization Violation'\r\n");
    Raw::connect_with(server.local_addr(), r#""verbose":false,"auth_token":"rotated""#).sync();
}

#[test]
fn a_client_cannot_have_the_server_speak_to_others() {
    let narrow =
        Permissions { publish: Rules::none(), subscribe: Rules::allow(["mine"]), allow_responses: None };
    let (server, _users) = server_with([token("agent", narrow), token("all", Permissions::all())]);
    let mut all = log_in(&server, "all");
    all.send("SUB > 1\r\n");
    all.sync();
    let mut agent = log_in(&server, "agent");
    agent.send("PUB $SYS.REQ.USER.INFO agent.b.input 0\r\n\r\n");
    agent.sync();
    agent.send("SUB mine 1\r\nPUB $SYS.REQ.USER.INFO mine 0\r\n\r\n");
    let answer: serde_json::Value = serde_json::from_slice(&agent.message().payload).unwrap();
    assert_eq!(answer["data"]["user"], "agent");
    assert_eq!(answer["data"]["permissions"]["subscribe"]["allow"][0], "mine");
    all.sync();
}
