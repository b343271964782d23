//! Accounts: who hears whom, and who somebody is that says nothing about itself.
#![cfg(test)]

mod common;

use common::{Raw, eventually, local};
use nkeys::KeyPair;
use ostler_broker::{Credential, Identity, Permissions, Rules, Server, Users};

fn member(name: &str, account: &str) -> Identity {
    let credential = Credential::Password { user: name.into(), password: "pass".into() };
    Identity::new(name, credential, Permissions::all()).account(account)
}

fn server_with(identities: impl IntoIterator<Item = Identity>) -> (Server, Users) {
    let users = Users::new();
    users.replace_all(identities).unwrap();
    (local().shards(2).users(users.clone()).start().unwrap(), users)
}

fn connect_line(name: &str) -> String {
    format!(
        r#"CONNECT {{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":0,"user":"{name}","pass":"pass"}}"#
    ) + "\r\n"
}

fn log_in(server: &Server, name: &str) -> Raw {
    let (mut client, _) = Raw::open(server.local_addr());
    client.send(connect_line(name));
    client.sync();
    client
}

#[test]
fn nothing_crosses_from_one_account_to_another() {
    let (server, _users) =
        server_with([member("a", "A"), member("b", "B"), member("g", "$G"), member("s", "$SYS")]);
    // First, because the system account hears of logins.
    let (mut a, mut a2) = (log_in(&server, "a"), log_in(&server, "a"));
    // Twice, so that there is one on each shard.
    let mut listeners: Vec<Raw> = ["b", "g", "s", "b", "g", "s"].map(|name| log_in(&server, name)).into();
    for client in &mut listeners {
        client.send("SUB > 1\r\nSUB x 2\r\nSUB x q 3\r\nSUB *.> 4\r\n");
        client.sync();
    }
    a.send("SUB inbox 1\r\n");
    a2.send("SUB > 1\r\n");
    a2.sync();
    for subject in ["x", "x.y", "$SYS.ACCOUNT.B.CONNECT", "$SYS.REQ.SERVER.PING"] {
        a.send(format!("PUB {subject} 2\r\nhi\r\n"));
        assert_eq!(a2.message().subject, subject, "one's own account hears it");
    }
    a2.send("UNSUB 1\r\n");
    a2.sync();
    // Others listen, but not for this account: nobody is there to answer.
    a.send("PUB x inbox 0\r\n\r\n");
    let nobody = a.message();
    assert!(nobody.headers.starts_with(b"NATS/1.0 503"), "{nobody:?}");
    // What was said before in one's own account is all there is.
    for client in &mut listeners {
        client.send("UNSUB 1\r\nUNSUB 4\r\n");
        client.sync();
    }
    eventually("all subscriptions are counted, by account", || server.stats().subscriptions == 2 * 6 + 1);
}

#[test]
fn the_second_info_tells_the_account() {
    let (server, _users) = server_with([member("a", "A"), member("s", "$SYS")]);
    for (name, account, is_system) in [("a", "A", false), ("s", "$SYS", true)] {
        let (mut client, first) = Raw::open(server.local_addr());
        let first: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert!(first["remote_account"].is_null() && first["acc_is_sys"].is_null());
        client.send(connect_line(name).replace(r#""protocol":0"#, r#""protocol":1"#));
        client.sync();
        let info: serde_json::Value =
            serde_json::from_str(client.line().trim_start_matches("INFO ")).unwrap();
        assert_eq!(
            (info["connect_info"].as_bool(), info["remote_account"].as_str()),
            (Some(true), Some(account))
        );
        assert_eq!(info["acc_is_sys"].as_bool(), is_system.then_some(true), "absent, not false");
    }
}

#[test]
fn a_second_connect_moves_to_the_account_of_the_other_identity() {
    let (server, _users) = server_with([member("a", "A"), member("b", "B")]);
    let (mut client, mut a, mut b) = (log_in(&server, "a"), log_in(&server, "a"), log_in(&server, "b"));
    client.send("SUB x 1\r\n");
    client.sync();
    client.send(connect_line("b") + "SUB x 2\r\n");
    client.sync();
    a.send("PUB x 1\r\na\r\n");
    a.sync();
    b.send("PUB x 1\r\nb\r\n");
    let heard = client.message();
    assert_eq!((heard.sid.as_str(), heard.payload.as_slice()), ("2", &b"b"[..]));
    assert_eq!(server.stats().subscriptions, 1);
    client.send(connect_line("b").replace("pass\"}", "wrong\"}"));
    assert_eq!(client.until_closed(), "-ERR 'Authorization Violation'\r\n");
    eventually("its subscription is gone", || server.stats().subscriptions == 0);
}

#[test]
fn who_is_moved_to_another_account_must_connect_again() {
    let (server, users) = server_with([member("a", "A"), member("b", "A")]);
    let (mut a, mut b) = (log_in(&server, "a"), log_in(&server, "b"));
    users.set(member("a", "B")).unwrap();
    assert_eq!(a.until_closed(), "-ERR 'Authorization Violation'\r\n");
    b.sync();
    log_in(&server, "a").send("PUB x 0\r\n\r\n");
}

#[test]
fn replacing_all_ends_those_that_are_gone_and_no_others() {
    let (server, users) = server_with([member("stays", "A"), member("goes", "A"), member("narrows", "A")]);
    let mut clients = ["stays", "goes", "narrows"].map(|name| log_in(&server, name));
    clients[2].send("SUB x 1\r\n");
    clients[2].sync();
    let mut narrow = member("narrows", "A");
    narrow.permissions = Permissions { publish: Rules::all(), ..Permissions::default() };
    users.replace_all([member("stays", "A"), narrow, member("new", "A")]).unwrap();
    let [stays, goes, narrows] = &mut clients;
    assert_eq!(goes.until_closed(), "-ERR 'Authorization Violation'\r\n");
    assert_eq!(narrows.line(), r#"-ERR 'Permissions Violation for Subscription to "x"'"#);
    stays.sync();
    log_in(&server, "new").sync();
}

#[test]
fn whoever_gives_no_credential_is_the_no_auth_user() {
    let key = KeyPair::new_user();
    let users = Users::new();
    let mut guest = member("guest", "G");
    guest.permissions = Permissions { publish: Rules::allow(["public"]), ..Permissions::default() };
    users.set(guest.clone()).unwrap();
    users.set(member("member", "G")).unwrap();
    let credential = Credential::Nkey(key.public_key());
    users.set(Identity::new("signer", credential, Permissions::all())).unwrap();
    let server = local().users(users.clone()).no_auth_user("guest").start().unwrap();

    let mut member = log_in(&server, "member");
    member.send("SUB public 1\r\n");
    member.sync();
    // As nats-server, also to whoever does not say CONNECT.
    let (mut telnet, info) = Raw::open(server.local_addr());
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert!(info["auth_required"].is_null(), "{info}");
    telnet.send("PUB public 1\r\nx\r\nPUB private 1\r\nx\r\n");
    assert_eq!(telnet.line(), "+OK");
    assert_eq!(telnet.line(), r#"-ERR 'Permissions Violation for Publish to "private"'"#);
    assert_eq!(member.message().payload, b"x");
    let mut guest_client = Raw::connect(server.local_addr());
    guest_client.send("SUB public 1\r\n");
    assert_eq!(guest_client.line(), r#"-ERR 'Permissions Violation for Subscription to "public"'"#);
    // Who gives a credential must have a right one, and may sign.
    let mut wrong = Raw::connect_with(server.local_addr(), r#""user":"guest","pass":"wrong""#);
    assert_eq!(wrong.until_closed(), "-ERR 'Authorization Violation'\r\n");
    let signature =
        data_encoding::BASE64URL_NOPAD.encode(&key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap());
    let public = key.public_key();
    telnet.send(format!("CONNECT {{\"verbose\":false,\"nkey\":\"{public}\",\"sig\":\"{signature}\"}}\r\n"));
    telnet.sync();

    users.remove("guest");
    assert_eq!(guest_client.until_closed(), "-ERR 'Authorization Violation'\r\n");
    let mut late = Raw::connect(server.local_addr());
    assert_eq!(
        late.until_closed(),
        "-ERR 'Authorization Violation'\r\n",
        "there is no such identity any more"
    );
    users.set(guest).unwrap();
    Raw::connect(server.local_addr()).sync();
}

#[test]
fn a_client_is_told_its_account_when_it_asks_who_it_is() {
    let (server, _users) = server_with([member("a", "A")]);
    let mut client = log_in(&server, "a");
    client.send("SUB inbox 1\r\nPUB $SYS.REQ.USER.INFO inbox 0\r\n\r\n");
    let answer: serde_json::Value = serde_json::from_slice(&client.message().payload).unwrap();
    assert_eq!((answer["data"]["user"].as_str(), answer["data"]["account"].as_str()), (Some("a"), Some("A")));
}

#[test]
fn queue_groups_may_be_what_a_rule_is_about() {
    let subscribe = Rules::allow(["jobs workers.*", "news"]).deny(["news spies"]);
    let mut limited = member("limited", "A");
    limited.permissions = Permissions { subscribe, ..Permissions::default() };
    let (server, users) = server_with([limited.clone(), member("all", "A")]);
    let mut client = log_in(&server, "limited");
    let refused = |filter: &str, queue: &str| {
        format!("-ERR 'Permissions Violation for Subscription to \"{filter}\" using queue \"{queue}\"'")
    };
    client.send("SUB jobs workers.a 1\r\nSUB news 2\r\nSUB news readers 3\r\n");
    client.sync();
    client.send("SUB jobs 4\r\nSUB jobs others 5\r\nSUB news spies 6\r\n");
    assert_eq!(client.line(), "-ERR 'Permissions Violation for Subscription to \"jobs\"'");
    assert_eq!(client.line(), refused("jobs", "others"));
    assert_eq!(client.line(), refused("news", "spies"));
    let mut all = log_in(&server, "all");
    all.send("PUB jobs 1\r\nx\r\n");
    assert_eq!(client.message().sid, "1");
    limited.permissions.subscribe = Rules::allow(["jobs workers.b", "news"]);
    users.set(limited).unwrap();
    assert_eq!(client.line(), refused("jobs", "workers.a"));
    all.send("PUB jobs 1\r\nx\r\nPUB news 1\r\nx\r\n");
    assert_eq!([client.message().subject, client.message().subject], ["news", "news"]);
}
