//! Publishing and delivering over plain sockets within one shard, to users without `allow_responses`, allocates nothing
//! per message: the allocations of the whole process are counted while messages go through a server. Other transports,
//! responders and ways between shards are not counted. One test, because others in this process would be counted too.
//!
//! The client side is raw sockets and buffers that are made before. Messages go in batches of different sizes, single
//! ones as well: what is allocated per batch would show there.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ostler_broker::{Credential, Identity, Permissions, Rules, Server, Users};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Messages of a measurement, which ends before a connection gets its first PING.
const MESSAGES: usize = 4000;
/// Allocations that may happen all the same: timers, and what the runtime does for itself.
const ALLOCATIONS_MAX: usize = MESSAGES / 100;
/// Batches of one message, of a few, and larger than one read.
const BATCHES: [usize; 3] = [1, 50, 2000];

/// A path that messages take.
struct Path {
    name: &'static str,
    subscriptions: &'static [&'static str],
    /// What is published; `{}` becomes one of many numbers of three digits.
    publish: &'static str,
    /// What arrives for it, all subscribers together.
    delivered: &'static str,
}

const PATHS: [Path; 6] = [
    Path {
        name: "plain",
        subscriptions: &["SUB a.b 1"],
        publish: "PUB a.b 5\r\nhello\r\n",
        delivered: "MSG a.b 1 5\r\nhello\r\n",
    },
    Path {
        name: "several subscribers",
        subscriptions: &["SUB a.c 1", "SUB a.* 2", "SUB a.> 3"],
        publish: "PUB a.c 5\r\nhello\r\n",
        delivered: "MSG a.c 1 5\r\nhello\r\nMSG a.c 2 5\r\nhello\r\nMSG a.c 3 5\r\nhello\r\n",
    },
    Path {
        name: "queue group",
        subscriptions: &["SUB q.a workers 1", "SUB q.a workers 2", "SUB q.a workers 3"],
        publish: "PUB q.a 5\r\nhello\r\n",
        delivered: "MSG q.a 1 5\r\nhello\r\n",
    },
    Path {
        name: "headers and reply",
        subscriptions: &["SUB h.a 1"],
        publish: "HPUB h.a _INBOX.x 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
        delivered: "HMSG h.a 1 _INBOX.x 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
    },
    Path {
        name: "many subjects",
        subscriptions: &["SUB w.> 1"],
        publish: "PUB w.s{} 5\r\nhello\r\n",
        delivered: "MSG w.s{} 1 5\r\nhello\r\n",
    },
    Path {
        name: "a line that is made anew",
        subscriptions: &["SUB n.a 1"],
        publish: "PUB  n.a  05\r\nhello\r\n",
        delivered: "MSG n.a 1 5\r\nhello\r\n",
    },
];

#[test]
fn messages_cause_no_allocations() {
    let users = Users::new();
    // Lists on both sides, so that every message is judged.
    let rules = Rules::allow(["a.>", "q.>", "h.>", "w.>", "n.>", "_INBOX.>"]).deny(["a.secret.>"]);
    let permissions = Permissions { publish: rules.clone(), subscribe: rules, allow_responses: None };
    let credential = Credential::Password { user: "u".into(), password: "p".into() };
    users.set(Identity::new("u", credential, permissions)).unwrap();
    let server = Server::builder().listen(([127, 0, 0, 1], 0).into()).shards(1).users(users).start().unwrap();

    let mut counted = Vec::new();
    for path in &PATHS {
        for batch in BATCHES {
            let allocations = allocations_of(&server, path, batch);
            println!("{}, {batch} at a time: {allocations} allocations", path.name);
            counted.push((path.name, batch, allocations));
        }
    }
    let too_many: Vec<_> =
        counted.iter().filter(|(_, _, allocations)| *allocations > ALLOCATIONS_MAX).collect();
    assert!(too_many.is_empty(), "of {MESSAGES} messages each: {too_many:?}");
    // The count must be able to fail: what allocates is seen.
    let region = Region::new(ALLOCATOR);
    std::hint::black_box(vec![0u8; 100]);
    assert!(region.change().allocations > 0, "allocations are not counted");
}

/// Allocations while [`MESSAGES`] messages go through, `batch` at a time, after a batch or two that may allocate.
fn allocations_of(server: &Server, path: &Path, batch: usize) -> usize {
    let mut client = TcpStream::connect(server.local_addr()).expect("the server listens");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes a timeout");
    client.set_nodelay(true).expect("a socket takes the option");
    let connect = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"user":"u","pass":"p"}"#;
    let mut greeting = format!("{connect}\r\n");
    for subscription in path.subscriptions {
        greeting += &format!("{subscription}\r\n");
    }
    client.write_all(format!("{greeting}PING\r\n").as_bytes()).expect("the server reads");
    let mut seen = Vec::new();
    while !seen.ends_with(b"PONG\r\n") {
        let mut chunk = [0; 4096];
        let len = client.read(&mut chunk).expect("the server answers");
        assert!(len > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..len]);
    }
    let repeated = |text: &str| -> Vec<u8> {
        (0..batch).flat_map(|n| text.replace("{}", &format!("{:03}", n % 500)).into_bytes()).collect()
    };
    let (publish, delivered) = (repeated(path.publish), repeated(path.delivered));
    let mut received = vec![0; delivered.len()];
    let mut exchange = |client: &mut TcpStream| {
        client.write_all(&publish).expect("the server reads");
        client.read_exact(&mut received).expect("all of it is delivered");
    };
    // Routes, verdicts and buffers are learned here; a queue group must have had its turns.
    let warm_up = (500 / batch).max(2);
    (0..warm_up).for_each(|_| exchange(&mut client));
    let region = Region::new(ALLOCATOR);
    (0..MESSAGES / batch).for_each(|_| exchange(&mut client));
    let change = region.change();
    assert!(received.starts_with(b"MSG ") || received.starts_with(b"HMSG "));
    change.allocations + change.reallocations
}
