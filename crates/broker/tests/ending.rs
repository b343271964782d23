//! The gentle end of a server, and limits that change while clients are connected.
#![cfg(test)]

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{DEADLINE, Raw, eventually, local, open_server};
use ostler_broker::{LameDuck, Limits, Server};

const HOUR: Duration = Duration::from_secs(3600);

fn with_protocol(server: &Server, protocol: u8) -> Raw {
    let options = format!(r#""verbose":false,"pedantic":false,"headers":true,"protocol":{protocol}"#);
    let mut client = Raw::connect_with(server.local_addr(), &options);
    client.sync();
    if protocol > 0 {
        assert!(client.line().starts_with("INFO "));
    }
    client
}

fn info(client: &mut Raw) -> serde_json::Value {
    serde_json::from_str(client.line().strip_prefix("INFO ").expect("INFO")).unwrap()
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[test]
fn a_lame_duck_closes_the_door_tells_its_clients_and_serves_on() {
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let (mut new, mut old) = (with_protocol(&server, 1), with_protocol(&server, 0));
    server.lame_duck(LameDuck { grace: HOUR, over: HOUR }).unwrap();
    server.lame_duck(LameDuck { grace: Duration::ZERO, over: Duration::ZERO }).unwrap();
    assert_eq!(info(&mut new)["ldm"].as_bool(), Some(true));
    eventually("nobody new is let in", || TcpStream::connect(server.local_addr()).is_err());
    // Everything goes on for those that are there.
    old.send("SUB x 1\r\n");
    old.sync();
    new.send("PUB x 2\r\nhi\r\n");
    assert_eq!(old.message().payload, b"hi");
    assert!(server.is_running());
    // A shutdown makes it short.
    let started = Instant::now();
    server.shutdown();
    server.wait();
    assert!(started.elapsed() < DEADLINE && !server.is_running());
    assert_eq!([new.until_closed(), old.until_closed()], ["", ""]);
}

#[test]
fn a_lame_duck_sends_everybody_away_one_by_one_and_ends() {
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let mut clients: Vec<Raw> = (0..10).map(|_| with_protocol(&server, 1)).collect();
    // What waits for a client is still sent.
    clients[0].send("SUB x 1\r\n");
    clients[0].sync();
    clients[1].send("PUB x 2\r\nhi\r\n");
    clients[1].sync();
    let over = Duration::from_millis(200);
    let started = Instant::now();
    server.lame_duck(LameDuck { grace: Duration::from_millis(50), over }).unwrap();
    assert_eq!(clients[0].message().payload, b"hi");
    for client in &mut clients {
        assert_eq!(info(client)["ldm"].as_bool(), Some(true));
    }
    for client in &mut clients {
        assert_eq!(client.until_closed(), "", "closed without a complaint");
    }
    server.wait();
    assert!(started.elapsed() >= Duration::from_millis(50) + over * 8 / 10, "they left all at once");
    assert!(!server.is_running());
}

#[test]
fn a_lame_duck_without_clients_ends_after_its_grace() {
    let server = open_server();
    server.lame_duck(LameDuck { grace: Duration::ZERO, over: HOUR }).unwrap();
    server.wait();
    assert!(!server.is_running());
}

/// Drain, as clients do it: UNSUB, then PING; what was published before the PONG was sent is there before it.
#[test]
fn a_client_that_drains_loses_nothing() {
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let (mut publisher, mut subscriber) = (with_protocol(&server, 0), with_protocol(&server, 0));
    for round in 0..50 {
        subscriber.send(format!("SUB work.{round} q 1\r\n"));
        subscriber.sync();
        let batch: String = (0..100).map(|n| format!("PUB work.{round} 2\r\n{n:02}\r\n")).collect();
        publisher.send(&batch);
        publisher.sync();
        subscriber.send("UNSUB 1\r\nPING\r\n");
        for n in 0..100 {
            assert_eq!(subscriber.message().payload, format!("{n:02}").as_bytes(), "round {round}");
        }
        assert_eq!(subscriber.line(), "PONG", "nothing after it");
        publisher.send(format!("PUB work.{round} 4\r\nlate\r\n"));
        publisher.sync();
        subscriber.sync();
    }
}

/// Every job is done once, by whichever member, while members come, drain and hang up on both shards.
#[test]
fn members_of_a_queue_group_that_drain_lose_no_job() {
    const JOBS: usize = 5000;
    const DRAINS_AFTER: usize = 100;
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let mut publisher = with_protocol(&server, 0);
    let mut members: Vec<Raw> = (0..2).map(|_| with_protocol(&server, 0)).collect();
    for member in &mut members {
        member.send("SUB jobs workers 1\r\n");
        member.sync();
    }
    let mut stays = members.pop().unwrap();
    stays.send("SUB last 2\r\n");
    stays.sync();
    let job =
        |message: common::Delivered| String::from_utf8(message.payload).unwrap().parse::<usize>().unwrap();
    std::thread::scope(|scope| {
        let (done_tx, done_rx) = std::sync::mpsc::sync_channel(JOBS);
        let mut staying = stays;
        let stays_tx = done_tx.clone();
        scope.spawn(move || {
            loop {
                let job = job(staying.message());
                if job == JOBS {
                    return;
                }
                stays_tx.send(job).unwrap();
            }
        });
        for mut member in members.drain(..).chain((0..6).map(|_| with_protocol(&server, 0))) {
            let done_tx = done_tx.clone();
            member.send("SUB jobs workers 1\r\n");
            member.sync();
            scope.spawn(move || {
                for _ in 0..DRAINS_AFTER {
                    done_tx.send(job(member.message())).unwrap();
                }
                member.send("UNSUB 1\r\nPUB drained 1\r\nx\r\nPING\r\n");
                // What was routed to it before the PONG is done before it leaves.
                while let Some(message) = member.message_or_pong() {
                    done_tx.send(job(message)).unwrap();
                }
            });
        }
        for job in 0..JOBS {
            let job = job.to_string();
            publisher.send(format!("PUB jobs {}\r\n{job}\r\n", job.len()));
        }
        publisher.sync();
        let mut seen = vec![0; JOBS];
        for _ in 0..JOBS {
            seen[done_rx.recv_timeout(DEADLINE).expect("a job was lost")] += 1;
        }
        publisher.send(format!("PUB last 4\r\n{JOBS}\r\n"));
        assert!(seen.iter().all(|times| *times == 1), "a job was done twice");
    });
}

#[test]
fn another_max_payload_holds_at_once_and_clients_are_told() {
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let mut clients: Vec<Raw> = (0..4).map(|_| with_protocol(&server, 1)).collect();
    let mut silent = with_protocol(&server, 0);
    server.set_limits(limits(|limits| limits.payload_bytes_max = 8)).unwrap();
    for client in &mut clients {
        assert_eq!(info(client)["max_payload"].as_u64(), Some(8));
        client.send("PUB x 8\r\n12345678\r\n");
        client.sync();
        client.send("PUB x 9\r\n");
        assert_eq!(client.until_closed(), "-ERR 'Maximum Payload Violation'\r\n");
    }
    silent.sync();
    server.set_limits(limits(|limits| limits.payload_bytes_max = 9)).unwrap();
    let (_, greeting) = Raw::open(server.local_addr());
    assert!(greeting.contains(r#""max_payload":9,"#), "{greeting}");
    silent.send("PUB x 9\r\n123456789\r\n");
    silent.sync();
    assert_eq!(server.limits().payload_bytes_max, 9);
}

#[test]
fn limits_that_cannot_be_change_nothing() {
    let server = open_server();
    let mut client = with_protocol(&server, 1);
    let refused = server.set_limits(limits(|limits| limits.payload_bytes_max = limits.pending_bytes_max + 1));
    assert!(refused.unwrap_err().to_string().contains("max_pending"));
    assert_eq!(server.limits().payload_bytes_max, Limits::default().payload_bytes_max);
    client.sync();
}

/// Adding them to a moment must be possible wherever that is done.
#[test]
fn times_beyond_any_clock_are_refused() {
    let server = open_server();
    let mut client = with_protocol(&server, 1);
    for (name, set) in [
        ("ping_interval", (|limits, time| limits.ping_interval = time) as fn(&mut Limits, Duration)),
        ("auth_timeout", |limits, time| limits.auth_timeout = time),
        ("write_deadline", |limits, time| limits.write_deadline = time),
        ("stall_max", |limits, time| limits.stall_max = time),
    ] {
        for far in [Duration::MAX, 101 * 366 * 24 * HOUR] {
            let refused = server.set_limits(limits(|limits| set(limits, far))).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains("at most 100 years"), "{refused}");
            let limits = limits(|limits| set(limits, far));
            local().limits(limits).start().expect_err("refused before it starts");
        }
        server.set_limits(limits(|limits| set(limits, 99 * 365 * 24 * HOUR))).unwrap();
    }
    for how in [
        LameDuck { grace: Duration::MAX, ..LameDuck::default() },
        LameDuck { over: Duration::MAX, ..LameDuck::default() },
    ] {
        let refused = server.lame_duck(how).unwrap_err().to_string();
        assert!(refused.contains("at most 100 years"), "{refused}");
    }
    // Nothing has begun.
    client.sync();
    with_protocol(&server, 0).sync();
}

#[test]
fn lowered_maximums_are_for_those_to_come() {
    let server = open_server();
    let mut client = with_protocol(&server, 0);
    client.send("SUB a 1\r\nSUB b 2\r\n");
    client.sync();
    server
        .set_limits(limits(|limits| {
            limits.subscriptions_max = 1;
            limits.connections_max = 1;
            limits.control_line_bytes_max = 256;
        }))
        .unwrap();
    let (turned_away, mut long) = (TcpStream::connect(server.local_addr()).unwrap(), String::new());
    turned_away.set_read_timeout(Some(DEADLINE)).unwrap();
    std::io::Read::read_to_string(&mut &turned_away, &mut long).unwrap();
    assert!(
        long.starts_with("INFO {") && long.ends_with("} \r\n-ERR 'maximum connections exceeded'\r\n"),
        "{long}"
    );
    client.send("SUB c 3\r\n");
    assert_eq!(client.line(), "-ERR 'maximum subscriptions exceeded'");
    client.send("PUB a 1\r\nx\r\nPUB b 1\r\nx\r\n");
    assert_eq!([client.message().sid, client.message().sid], ["1", "2"], "those that are there stay");
    client.send(format!("PUB {} 1\r\n", "x".repeat(300)));
    assert_eq!(client.until_closed(), "-ERR 'maximum control line exceeded'\r\n");
}

#[test]
fn a_shorter_ping_interval_is_for_clients_that_are_there() {
    let server = local().shards(1).allow_anonymous().ping_interval(HOUR).start().unwrap();
    let mut client = with_protocol(&server, 0);
    server
        .set_limits(limits(|limits| {
            limits.ping_interval = Duration::from_millis(50);
            limits.pings_out_max = 2;
        }))
        .unwrap();
    assert_eq!(client.until_closed_with_pings(), "PING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
}

#[test]
fn a_lower_max_pending_cuts_who_is_beyond_it() {
    let server = local().shards(1).allow_anonymous().start().unwrap();
    let mut slow = with_protocol(&server, 0);
    slow.send("SUB x 1\r\n");
    slow.sync();
    let mut publisher = with_protocol(&server, 0);
    let body = "x".repeat(1 << 20);
    // More than sockets hold, and it does not read.
    for _ in 0..32 {
        publisher.send(format!("PUB x {}\r\n{body}\r\n", body.len()));
    }
    publisher.sync();
    assert_eq!(server.stats().slow_consumers, 0);
    server.set_limits(limits(|limits| limits.pending_bytes_max = 1 << 20)).unwrap();
    eventually("it is a slow consumer", || server.stats().slow_consumers == 1);
    publisher.sync();
}
