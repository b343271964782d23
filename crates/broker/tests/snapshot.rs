//! What an embedder can see of a running server: the same numbers as its clients caused.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant, SystemTime};

use common::{Raw, eventually, local, open_server};
use ostler_broker::{
    CloseReason, ConnectionsQuery, Credential, Identity, Permissions, ProcessUsage, Server, SortBy,
    StateFilter, SubscriptionsQuery, Unanswered, Users,
};

fn query(change: impl FnOnce(&mut ConnectionsQuery)) -> ConnectionsQuery {
    let mut query = ConnectionsQuery::default();
    change(&mut query);
    query
}

/// Two shards, identities in two accounts.
fn with_accounts() -> Server {
    let users = Users::new();
    for (name, account) in [("ann", "$G"), ("bob", "$G"), ("eve", "OTHER")] {
        let password = Credential::Password { user: name.into(), password: "p".into() };
        users.set(Identity::new(name, password, Permissions::all()).account(account)).unwrap();
    }
    local().shards(2).users(users).closed_connections_max(10).start().unwrap()
}

fn log_in(server: &Server, user: &str) -> Raw {
    let options = format!(r#""verbose":false,"user":"{user}","pass":"p","name":"{user}'s""#);
    let mut client = Raw::connect_with(server.local_addr(), &options);
    client.sync();
    client
}

#[test]
fn a_connection_is_told_with_who_it_is_and_what_it_did() {
    let server = open_server();
    let before = SystemTime::now();
    let mut client = Raw::connect_with(server.local_addr(), r#""verbose":false,"lang":"x","version":"7""#);
    client.send("SUB a.* q 1\r\nPUB a.b 5\r\nhello\r\n");
    client.message();
    client.sync();
    let page = server.connections(&query(|query| query.subscriptions = true)).unwrap();
    assert_eq!((page.matching, page.total, page.pending_bytes), (1, 1, 0));
    let [seen] = page.connections.try_into().unwrap();
    assert_eq!(seen.peer, client.stream.local_addr().unwrap());
    assert_eq!((seen.lang.as_deref(), seen.version.as_deref(), seen.name), (Some("x"), Some("7"), None));
    assert_eq!((seen.identity, seen.user, seen.account.as_deref()), (None, None, Some("$G")));
    let traffic = seen.traffic;
    assert_eq!((traffic.in_msgs, traffic.in_bytes, traffic.out_msgs, traffic.out_bytes), (1, 5, 1, 5));
    assert!(seen.start + Duration::from_millis(100) >= before && seen.last_activity >= seen.start);
    assert!(!seen.transport.is_websocket && !seen.transport.is_in_process && seen.ended.is_none());
    let [held] = seen.subscriptions_list.try_into().unwrap();
    assert_eq!((held.filter.as_str(), held.queue.as_deref(), held.sid.as_str()), ("a.*", Some("q"), "1"));
    assert_eq!((held.delivered, held.max, held.connection), (1, None, seen.id));
    let (start, uptime) = server.uptime();
    assert!(start <= SystemTime::now() && uptime >= seen.uptime);
}

#[test]
fn connections_are_found_by_user_and_account_in_all_shards() {
    let server = with_accounts();
    let clients: Vec<_> = ["ann", "bob", "eve", "ann"].map(|user| log_in(&server, user)).into();
    let of = |change: fn(&mut ConnectionsQuery)| {
        let page = server.connections(&query(change)).unwrap();
        page.connections.into_iter().map(|seen| seen.identity.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of(|_| ()), ["ann", "bob", "eve", "ann"], "by id over all shards");
    assert_eq!(of(|query| query.user = Some("ann".into())), ["ann", "ann"]);
    assert_eq!(of(|query| query.account = Some("OTHER".into())), ["eve"]);
    assert_eq!(of(|query| (query.offset, query.limit) = (1, Some(2))), ["bob", "eve"]);
    assert_eq!(of(|query| query.id = Some(2)), ["bob"]);
    assert_eq!(of(|query| query.sort = SortBy::Uptime), ["ann", "bob", "eve", "ann"]);
    drop(clients);
}

#[test]
fn accounts_keep_what_ended_connections_did() {
    let server = with_accounts();
    let mut ann = log_in(&server, "ann");
    ann.send("SUB x 1\r\nPUB x 3\r\nabc\r\n");
    ann.message();
    let mut eve = log_in(&server, "eve");
    eve.send("PUB x 3\r\nabc\r\n");
    eve.sync();
    eve.hang_up();
    eventually("eve is gone", || server.stats().connections == 1);
    let [global, other] = server.accounts().unwrap().try_into().unwrap();
    assert_eq!((global.name.as_str(), global.connections, global.connections_total), ("$G", 1, 1));
    assert_eq!((global.subscriptions, global.traffic.out_msgs), (1, 1));
    assert_eq!((other.name.as_str(), other.connections, other.connections_total), ("OTHER", 0, 1));
    assert_eq!((other.traffic.in_msgs, other.traffic.in_bytes, other.traffic.out_msgs), (1, 3, 0));
}

#[test]
fn ended_connections_are_remembered_up_to_the_number_asked_for() {
    let server = with_accounts();
    for _ in 0..30 {
        log_in(&server, "ann").hang_up();
    }
    eventually("all are gone", || server.stats().connections == 0);
    let closed = query(|query| query.state = StateFilter::Closed);
    let page = server.connections(&closed).unwrap();
    assert!(page.total <= 10 && page.total >= 5, "{}", page.total);
    assert!(page.connections.iter().all(|seen| seen.ended.unwrap().1 == CloseReason::ClientClosed));
}

#[test]
fn subscriptions_are_found_by_the_subject_they_get() {
    let server = with_accounts();
    let mut ann = log_in(&server, "ann");
    ann.send("SUB a.> 1\r\nSUB a.b q 2\r\nSUB b 3\r\n");
    ann.sync();
    let mut eve = log_in(&server, "eve");
    eve.send("SUB a.b 9\r\n");
    eve.sync();
    let found = |account: Option<&str>, subject: Option<&str>| {
        let mut query = SubscriptionsQuery::default();
        (query.account, query.subject) = (account.map(Into::into), subject.map(Into::into));
        let page = server.subscriptions(&query).unwrap();
        assert_eq!(page.matching, page.subscriptions.len());
        page.subscriptions.into_iter().map(|found| found.sid).collect::<Vec<_>>()
    };
    assert_eq!(found(None, None), ["1", "2", "3", "9"]);
    assert_eq!(found(None, Some("a.b")), ["1", "2", "9"]);
    assert_eq!(found(Some("OTHER"), Some("a.b")), ["9"]);
    assert!(found(None, Some("a.*")).is_empty(), "a wildcard is no subject");
}

#[test]
fn slow_consumers_are_counted_by_cause() {
    let server = local().shards(1).allow_anonymous().max_payload(1024).max_pending(64 << 10).start().unwrap();
    let mut slow = Raw::connect(server.local_addr());
    slow.send("SUB flood 1\r\n");
    slow.sync();
    let mut publisher = Raw::connect(server.local_addr());
    let frames = [b"PUB flood 1000\r\n".as_slice(), &[b'x'; 1000], b"\r\n"].concat().repeat(200);
    eventually("the subscriber is cut off", || {
        publisher.send(&frames);
        publisher.sync();
        server.stats().slow_consumers == 1
    });
    let stats = server.stats();
    assert_eq!((stats.slow_consumers_by_deadline, stats.stale_connections), (0, 0));
    assert!(stats.subscriptions_total == 1 && stats.subscriptions == 0);
}

#[tokio::test]
async fn a_runtime_may_ask_without_being_needed_for_the_answer() {
    let server = open_server();
    let mut client = Raw::connect(server.local_addr());
    client.sync();
    assert_eq!(server.connections(&ConnectionsQuery::default()).unwrap().total, 1);
}

#[test]
fn a_server_that_ended_does_not_answer_and_does_not_hang() {
    let server = open_server();
    server.shutdown();
    let started = Instant::now();
    assert_eq!(server.connections(&ConnectionsQuery::default()), Err(Unanswered));
    assert_eq!(server.subscriptions(&SubscriptionsQuery::default()), Err(Unanswered));
    assert_eq!(server.accounts(), Err(Unanswered));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(Unanswered.to_string().contains("is_running"));
}

#[test]
fn the_process_tells_what_it_takes() {
    let usage = ProcessUsage::now();
    assert!(!cfg!(target_os = "linux") || usage.memory_bytes.is_some() && usage.cpu.is_some());
}

/// Messages go on while somebody looks at everything again and again.
#[test]
fn looking_does_not_hold_up_messages() {
    let server = open_server();
    let mut clients: Vec<_> = (0..200).map(|_| Raw::connect(server.local_addr())).collect();
    for client in &mut clients {
        client.send("SUB own.> 1\r\n");
        client.sync();
    }
    let mut talker = Raw::connect(server.local_addr());
    talker.send("SUB t 1\r\n");
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            for _ in 0..50 {
                let page = server.connections(&query(|query| query.subscriptions = true)).unwrap();
                assert_eq!(page.total, 201);
            }
        });
        let mut exchanged = 0;
        while !looking.is_finished() {
            talker.send("PUB t 1\r\nx\r\n");
            assert_eq!(talker.message().payload, b"x");
            exchanged += 1;
        }
        assert!(exchanged > 0);
    });
}
