//! The official Rust client against this server: what users will run, reconnects included.
#![cfg(test)]

mod common;

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, RequestErrorKind, ServerAddr};
use common::{DEADLINE, local};
use futures_util::StreamExt as _;
use nkeys::KeyPair;
use ostler_broker::{Credential, Identity, LameDuck, Permissions, Rules, Server, Users};
use tokio::time::timeout;

struct Inn {
    server: Server,
    users: Users,
    key: KeyPair,
}

/// A server with one nkey identity that may do everything.
fn inn(shards: usize) -> Inn {
    let (users, key) = (Users::new(), KeyPair::new_user());
    let credential = Credential::Nkey(key.public_key());
    users.set(Identity::new("guest", credential, Permissions::all())).unwrap();
    let server = local().shards(shards).max_payload(8 << 20).users(users.clone()).start().unwrap();
    Inn { server, users, key }
}

async fn connect(inn: &Inn) -> Client {
    ConnectOptions::with_nkey(inn.key.seed().unwrap()).connect(inn.server.url()).await.unwrap()
}

/// Returns once the server executed everything this client sent: `flush` only hands it to the socket.
async fn settle(client: &Client) {
    within(client.request("$SYS.REQ.USER.INFO", "".into())).await.unwrap();
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it takes too long")
}

#[tokio::test]
async fn publish_subscribe_and_wildcards() {
    let inn = inn(2);
    let (publisher, subscriber) = (connect(&inn).await, connect(&inn).await);
    let mut all = subscriber.subscribe("agent.>").await.unwrap();
    let mut beats = subscriber.subscribe("agent.*.heartbeat").await.unwrap();
    settle(&subscriber).await;
    publisher.publish("agent.joe.output", "hello".into()).await.unwrap();
    publisher.publish("agent.joe.heartbeat", "beat".into()).await.unwrap();
    publisher.flush().await.unwrap();
    assert_eq!(within(all.next()).await.unwrap().payload, "hello");
    assert_eq!(within(all.next()).await.unwrap().payload, "beat");
    assert_eq!(within(beats.next()).await.unwrap().subject.as_str(), "agent.joe.heartbeat");
}

#[tokio::test]
async fn request_reply_with_headers() {
    let inn = inn(2);
    let service = connect(&inn).await;
    let mut requests = service.subscribe("tools.call").await.unwrap();
    settle(&service).await;
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let headers = request.headers.unwrap();
            assert_eq!(headers.get("Trace").unwrap().as_str(), "t-1");
            service.publish_with_headers(request.reply.unwrap(), headers, request.payload).await.unwrap();
        }
    });
    let client = connect(&inn).await;
    for n in 0..100 {
        let mut headers = HeaderMap::new();
        headers.insert("Trace", "t-1");
        let answer =
            within(client.request_with_headers("tools.call", headers, n.to_string().into())).await.unwrap();
        assert_eq!(answer.payload, n.to_string());
        assert_eq!(answer.headers.unwrap().get("Trace").unwrap().as_str(), "t-1");
    }
    answering.abort();
}

#[tokio::test]
async fn a_request_without_responder_fails_at_once() {
    let inn = inn(1);
    let client = connect(&inn).await;
    let error = within(client.request("nobody", "?".into())).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn queue_groups_share_the_work() {
    let inn = inn(2);
    let workers = [connect(&inn).await, connect(&inn).await, connect(&inn).await];
    let mut streams = Vec::new();
    for worker in &workers {
        streams.push(worker.queue_subscribe("jobs", "tool-workers".into()).await.unwrap());
        settle(worker).await;
    }
    let client = connect(&inn).await;
    for n in 0..300 {
        client.publish("jobs", n.to_string().into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let mut seen: Vec<u32> = Vec::new();
    let mut merged = futures_util::stream::select_all(streams);
    while seen.len() < 300 {
        let message = within(merged.next()).await.unwrap();
        seen.push(std::str::from_utf8(&message.payload).unwrap().parse().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn unsubscribe_after_and_drain_lose_nothing() {
    let inn = inn(1);
    let client = connect(&inn).await;
    let mut three = client.subscribe("a").await.unwrap();
    three.unsubscribe_after(3).await.unwrap();
    let mut drained = client.subscribe("a").await.unwrap();
    for n in 0..5 {
        client.publish("a", n.to_string().into()).await.unwrap();
    }
    client.flush().await.unwrap();
    drained.drain().await.unwrap();
    let mut count = 0;
    while within(three.next()).await.is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
    let mut count = 0;
    while within(drained.next()).await.is_some() {
        count += 1;
    }
    assert_eq!(count, 5);
}

#[tokio::test]
async fn eight_megabytes_go_through() {
    let inn = inn(1);
    let client = connect(&inn).await;
    let mut messages = client.subscribe("big").await.unwrap();
    let body: Vec<u8> = (0..8 << 20).map(|at: usize| (at * 31) as u8).collect();
    client.publish("big", body.clone().into()).await.unwrap();
    assert!(within(messages.next()).await.unwrap().payload == body);
    assert_eq!(client.server_info().max_payload, 8 << 20);
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let inn = inn(1);
    let stranger = KeyPair::new_user();
    let refused = ConnectOptions::with_nkey(stranger.seed().unwrap()).connect(inn.server.url()).await;
    assert!(refused.is_err());
    assert!(async_nats::connect(inn.server.url()).await.is_err(), "without a credential");
}

#[tokio::test]
async fn a_violation_is_reported_and_the_connection_goes_on() {
    let inn = inn(1);
    let key = KeyPair::new_user();
    let permissions =
        Permissions { publish: Rules::allow(["ok"]), subscribe: Rules::allow(["ok"]), allow_responses: None };
    inn.users.set(Identity::new("narrow", Credential::Nkey(key.public_key()), permissions)).unwrap();
    let (event_tx, mut event_rx) = tokio::sync::mpsc::channel(16);
    let client = ConnectOptions::with_nkey(key.seed().unwrap())
        .event_callback(move |event| {
            let event_tx = event_tx.clone();
            async move {
                event_tx.send(event).await.unwrap();
            }
        })
        .connect(inn.server.url())
        .await
        .unwrap();
    let mut messages = client.subscribe("ok").await.unwrap();
    client.publish("forbidden", "x".into()).await.unwrap();
    client.publish("ok", "still here".into()).await.unwrap();
    assert_eq!(within(messages.next()).await.unwrap().payload, "still here");
    loop {
        if let Event::ServerError(error) = within(event_rx.recv()).await.unwrap() {
            assert!(error.to_string().to_lowercase().contains("permissions violation"), "{error}");
            break;
        }
    }
}

#[tokio::test]
async fn clients_come_back_when_the_server_does() {
    let Inn { server, users, key } = inn(2);
    let address = server.local_addr();
    let options = || {
        ConnectOptions::with_nkey(key.seed().unwrap()).reconnect_delay_callback(|_| Duration::from_millis(20))
    };
    let subscriber = options().connect(server.url()).await.unwrap();
    let publisher = options().connect(server.url()).await.unwrap();
    let mut messages = subscriber.subscribe("a.*").await.unwrap();
    settle(&subscriber).await;
    publisher.publish("a.1", "before".into()).await.unwrap();
    assert_eq!(within(messages.next()).await.unwrap().payload, "before");

    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    let server = local().listen(address).shards(2).users(users).start().unwrap();
    // Subscriptions are set up again by the client; until then a message may find nobody.
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let received = within(async {
        loop {
            tokio::select! {
                _ = tick.tick() => publisher.publish("a.2", "after".into()).await.unwrap(),
                message = messages.next() => break message.unwrap(),
            }
        }
    })
    .await;
    assert_eq!(received.payload, "after");
    assert_eq!(server.stats().connections, 2);
}

#[tokio::test]
async fn who_listens_to_all_inboxes_still_gets_the_server_s_own_answers() {
    let inn = inn(1);
    let client = connect(&inn).await;
    let _all = client.subscribe("_INBOX.>").await.unwrap();
    settle(&client).await;
    let error = within(client.request("nobody.here", "".into())).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::NoResponders);
}

/// Unreadable frames make this library drop its connection, so no publisher may get one through.
#[tokio::test]
async fn no_publisher_can_break_the_connection_of_a_subscriber_of_a_strict_server() {
    let server = local().shards(1).strict_messages().allow_anonymous().start().unwrap();
    let (breaks_tx, mut breaks) = tokio::sync::mpsc::channel(16);
    let options = ConnectOptions::new().event_callback(move |event| {
        let breaks_tx = breaks_tx.clone();
        async move {
            if !matches!(event, Event::Connected) {
                let _ = breaks_tx.try_send(event.to_string());
            }
        }
    });
    let subscriber = options.connect(server.url()).await.unwrap();
    let mut all = subscriber.subscribe(">").await.unwrap();
    settle(&subscriber).await;
    let address = server.local_addr();
    let attacks = tokio::task::spawn_blocking(move || {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces: [&[u8]; 10] =
            [b"\r\n", b"\r\n", b"A: 1", b"NATS/1.0", b" 503", b"\n", b":", b"\xff", b" x", b"\xc2\xa0"];
        let mut some = |most: usize| -> Vec<u8> {
            (0..random.usize(0..=most)).flat_map(|_| pieces[random.usize(..pieces.len())]).copied().collect()
        };
        for _ in 0..400 {
            let (head, tail, name) = (some(6), some(1), some(1));
            let block = [b"NATS/1.0".as_slice(), &head, b"\r\n", &tail, b"\r\n"].concat();
            let name: Vec<u8> = name.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let line = format!(" r {0} {0}\r\n", block.len());
            let frame = [b"HPUB a", name.as_slice(), line.as_bytes(), &block, b"\r\n"].concat();
            let mut client = common::Raw::connect(address);
            client.send(frame);
            client.send("ERR\r\n");
            client.until_closed();
        }
    });
    attacks.await.unwrap();
    subscriber.publish("last", "".into()).await.unwrap();
    let mut heard = 0;
    while within(all.next()).await.unwrap().subject.as_str() != "last" {
        heard += 1;
    }
    assert!(heard > 20, "only {heard} of the blocks were readable");
    assert_eq!(breaks.try_recv().ok(), None);
}

#[tokio::test]
async fn a_client_of_a_lame_duck_is_told_and_goes_on_with_another_server() {
    let (old, new) = (inn(2), inn(2));
    new.users
        .replace_all([Identity::new("guest", Credential::Nkey(old.key.public_key()), Permissions::all())])
        .unwrap();
    let (event_tx, mut event_rx) = tokio::sync::mpsc::channel(16);
    let client = ConnectOptions::with_nkey(old.key.seed().unwrap())
        .retain_servers_order()
        .event_callback(move |event| {
            let event_tx = event_tx.clone();
            async move {
                event_tx.send(event).await.unwrap();
            }
        })
        .connect(
            [old.server.url(), new.server.url()].map(|url| url.parse::<ServerAddr>().unwrap()).as_slice(),
        )
        .await
        .unwrap();
    let mut messages = client.subscribe("ok").await.unwrap();
    settle(&client).await;
    assert_eq!(client.server_info().server_id, old.server.server_id());
    let grace = Duration::from_millis(200);
    old.server.lame_duck(LameDuck { grace, over: Duration::ZERO }).unwrap();
    while !matches!(within(event_rx.recv()).await.unwrap(), Event::LameDuckMode) {}
    while !matches!(within(event_rx.recv()).await.unwrap(), Event::Connected) {}
    settle(&client).await;
    assert_eq!(client.server_info().server_id, new.server.server_id());
    client.publish("ok", "still here".into()).await.unwrap();
    assert_eq!(within(messages.next()).await.unwrap().payload, "still here");
    tokio::task::spawn_blocking(move || old.server.wait()).await.unwrap();
}
