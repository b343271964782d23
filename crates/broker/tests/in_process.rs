//! The client inside the process: what it gives its user beyond the bytes of the protocol.
#![cfg(test)]

use std::time::Duration;

use ostler_broker::{
    Builder, Credential, Identity, InProcess, InProcessError, InProcessOptions, Limits, Login, Permissions,
    Rules, Server, Users,
};

mod common;
use common::{DEADLINE, eventually, local};

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("within the deadline")
}

async fn trusted(server: &Server) -> InProcess {
    let options = InProcessOptions::trusted("test", Permissions::all());
    within(server.connect_in_process(options)).await.unwrap()
}

fn small() -> Builder {
    local().shards(1)
}

#[tokio::test]
async fn messages_arrive_in_order_with_all_their_parts() {
    let server = small().start().unwrap();
    let client = trusted(&server).await;
    let mut all = client.subscribe("a.>", None).await.unwrap();
    client.publish("a.b", "plain").await.unwrap();
    client.publish_with_reply("a.c", "reply.here", "with reply").await.unwrap();
    client.publish_with_headers("a.d", None, "NATS/1.0\r\nX: y\r\n\r\n", "with headers").await.unwrap();
    let first = within(all.next()).await.unwrap();
    assert_eq!((first.subject(), first.payload(), first.reply()), (&b"a.b"[..], &b"plain"[..], None));
    let second = within(all.next()).await.unwrap();
    assert_eq!((second.reply(), second.payload()), (Some(&b"reply.here"[..]), &b"with reply"[..]));
    let third = within(all.next()).await.unwrap();
    assert_eq!((third.header("X"), third.payload_bytes().as_ref()), (Some(&b"y"[..]), &b"with headers"[..]));
}

#[tokio::test]
async fn clients_over_tcp_and_in_process_hear_each_other() {
    let server = small().allow_anonymous().start().unwrap();
    let client = trusted(&server).await;
    let mut here = client.subscribe("to.here", None).await.unwrap();
    client.flush().await.unwrap();
    let mut raw = common::Raw::connect(server.local_addr());
    raw.send("SUB to.there 1\r\nPUB to.here 2\r\nhi\r\n");
    raw.sync();
    assert_eq!(within(here.next()).await.unwrap().payload(), b"hi");
    client.publish("to.there", "ho").await.unwrap();
    assert_eq!(raw.message().payload, b"ho");
}

#[tokio::test]
async fn requests_are_answered_time_out_or_find_nobody() {
    let server = small().start().unwrap();
    let (asker, service) = (trusted(&server).await, trusted(&server).await);
    let mut requests = service.subscribe("echo", Some("workers")).await.unwrap();
    let mut silent = service.subscribe("silent", None).await.unwrap();
    service.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply().unwrap().to_vec();
            service.publish(reply, request.payload()).await.unwrap();
        }
    });
    for n in 0..100 {
        let answer = within(asker.request("echo", n.to_string(), DEADLINE)).await.unwrap();
        assert_eq!(answer.payload(), n.to_string().as_bytes());
    }
    let nobody = within(asker.request("nobody", "", DEADLINE)).await.unwrap_err();
    assert_eq!(nobody, InProcessError::NoResponders("nobody".into()));
    let late = within(asker.request("silent", "", Duration::from_millis(20))).await.unwrap_err();
    assert!(matches!(late, InProcessError::Timeout { .. }) && late.is_retryable());
    assert_eq!(within(silent.next()).await.unwrap().subject(), b"silent");
    server.shutdown();
    drop(silent);
    within(answering).await.unwrap();
}

#[tokio::test]
async fn a_trusted_identity_is_held_to_its_permissions() {
    let server = small().start().unwrap();
    let permissions = Permissions {
        publish: Rules::allow(["out.>"]),
        subscribe: Rules::allow(["in.>"]),
        allow_responses: None,
    };
    let options = InProcessOptions::trusted("narrow", permissions);
    let narrow = within(server.connect_in_process(options)).await.unwrap();
    let wide = trusted(&server).await;
    let mut heard = wide.subscribe(">", None).await.unwrap();
    wide.flush().await.unwrap();
    narrow.publish("forbidden", "x").await.unwrap();
    narrow.publish("out.allowed", "y").await.unwrap();
    assert_eq!(within(heard.next()).await.unwrap().subject(), b"out.allowed");
    narrow.flush().await.unwrap();
    let error = narrow.last_error().unwrap();
    assert!(error.contains("Permissions Violation for Publish to \"forbidden\""), "{error}");
    // Changes of the set are none of its business.
    let users = server.users();
    users.set(Identity::new("narrow", Credential::Token("t".into()), Permissions::all())).unwrap();
    users.remove("narrow");
    narrow.flush().await.expect("it is still there");
}

#[tokio::test]
async fn every_kind_of_credential_is_asked_for_and_checked() {
    let users = Users::new();
    let key = nkeys::KeyPair::new_user();
    let all = Permissions::all;
    users.set(Identity::new("key", Credential::Nkey(key.public_key()), all())).unwrap();
    users.set(Identity::new("token", Credential::Token("s3cret".into()), all())).unwrap();
    let password = Credential::Password { user: "u".into(), password: "p".into() };
    users.set(Identity::new("user", password, all())).unwrap();
    let server = small().users(users).start().unwrap();
    let good = [
        Login::Nkey(key.seed().unwrap()),
        Login::Token("s3cret".into()),
        Login::Password { user: "u".into(), password: "p".into() },
    ];
    for login in good {
        let shown = format!("{login:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("SU"), "{shown}");
        within(server.connect_in_process(InProcessOptions::login("x", login))).await.expect(&shown);
    }
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    for login in [Login::None, Login::Token("wrong".into()), Login::Nkey(stranger)] {
        let refused =
            within(server.connect_in_process(InProcessOptions::login("x", login))).await.unwrap_err();
        assert_eq!(refused, InProcessError::Refused("Authorization Violation".into()));
    }
    let nonsense =
        within(server.connect_in_process(InProcessOptions::login("x", Login::Nkey("no".into())))).await;
    assert_eq!(nonsense.unwrap_err(), InProcessError::Seed);
    eventually("all places are free again", || server.stats().connections == 0);
}

#[tokio::test]
async fn what_would_break_the_protocol_is_refused_here() {
    let server = small().max_payload(10).start().unwrap();
    let client = trusted(&server).await;
    for subject in ["", "a b", "a\r\nPUB x 0", "a\tb"] {
        assert!(matches!(client.publish(subject, "").await, Err(InProcessError::Subject(_))), "{subject:?}");
        assert!(client.subscribe(subject, None).await.is_err());
    }
    assert!(client.publish_with_reply("a", "b c", "").await.is_err());
    let large = client.publish("a", "01234567890").await.unwrap_err();
    assert_eq!(large, InProcessError::TooLarge { len: 11, max: 10 });
    client.flush().await.expect("the connection is none the worse");
}

#[tokio::test]
async fn a_dropped_subscription_gets_no_more_and_leaves_nothing() {
    let server = small().start().unwrap();
    let client = trusted(&server).await;
    let dropped = client.subscribe("a", None).await.unwrap();
    let mut kept = client.subscribe("b", None).await.unwrap();
    client.flush().await.unwrap();
    drop(dropped);
    client.flush().await.unwrap();
    eventually("one subscription is left", || server.stats().subscriptions == 1);
    client.publish("b", "x").await.unwrap();
    kept.drain().await.unwrap();
    assert_eq!(within(kept.next()).await.unwrap().payload(), b"x", "what came before the drain can be taken");
    assert!(within(kept.next()).await.is_none());
    drop((client, kept));
    eventually("the connection is gone", || server.stats().connections == 0);
}

#[tokio::test]
async fn the_end_of_the_server_ends_everything_that_waits() {
    let server = small().start().unwrap();
    let client = trusted(&server).await;
    let mut messages = client.subscribe("a", None).await.unwrap();
    client.publish("a", "last").await.unwrap();
    client.flush().await.unwrap();
    tokio::task::spawn_blocking(move || server.shutdown()).await.unwrap();
    assert_eq!(within(messages.next()).await.unwrap().payload(), b"last");
    assert!(within(messages.next()).await.is_none());
    assert!(client.is_closed());
    assert!(matches!(within(client.flush()).await, Err(InProcessError::Closed(_))));
    assert!(matches!(within(client.publish("a", "")).await, Err(InProcessError::Closed(_))));
    assert!(matches!(within(client.request("a", "", DEADLINE)).await, Err(InProcessError::Closed(_))));
}

#[tokio::test]
async fn close_waits_until_everything_was_executed() {
    let server = small().start().unwrap();
    let (sender, receiver) = (trusted(&server).await, trusted(&server).await);
    let mut messages = receiver.subscribe("a", None).await.unwrap();
    receiver.flush().await.unwrap();
    for n in 0..1000_u32 {
        sender.publish("a", n.to_be_bytes()).await.unwrap();
    }
    within(sender.close()).await;
    assert!(sender.is_closed());
    receiver.flush().await.unwrap();
    for n in 0..1000_u32 {
        assert_eq!(within(messages.next()).await.unwrap().payload(), n.to_be_bytes());
    }
}

/// Nothing is lost between a fast publisher and a subscriber that pauses: the publisher is made to wait.
#[tokio::test]
async fn a_slow_subscriber_holds_the_publisher_back() {
    const MESSAGES: u32 = 100_000;
    let mut limits = Limits::default();
    limits.pending_bytes_max = 8 << 20;
    limits.stall_max = DEADLINE;
    let server = small().limits(limits).start().unwrap();
    let (sender, receiver) = (trusted(&server).await, trusted(&server).await);
    let mut messages = receiver.subscribe("flood", None).await.unwrap();
    receiver.flush().await.unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let mut payload = [0; 256];
            payload[..4].copy_from_slice(&n.to_be_bytes());
            sender.publish("flood", payload).await.unwrap();
        }
        sender.flush().await.unwrap();
    });
    for n in 0..MESSAGES {
        if n % 10_000 == 0 {
            // Others run meanwhile, as far as the limits let them.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        let message = within(messages.next()).await.expect("still connected");
        assert_eq!(message.payload()[..4], n.to_be_bytes());
    }
    within(sending).await.unwrap();
    assert_eq!(server.stats().slow_consumers, 0);
}

#[tokio::test]
async fn large_messages_pass() {
    let server = small().start().unwrap();
    let client = trusted(&server).await;
    let mut messages = client.subscribe("large", None).await.unwrap();
    let payload: Vec<u8> = (0..1 << 20).map(|n| (n % 251) as u8).collect();
    for _ in 0..3 {
        within(client.publish("large", &payload)).await.unwrap();
        client.publish("large", "small").await.unwrap();
    }
    for _ in 0..3 {
        assert!(within(messages.next()).await.unwrap().payload() == payload);
        assert_eq!(within(messages.next()).await.unwrap().payload(), b"small");
    }
}
