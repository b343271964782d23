//! What one connection cannot show: queue groups, no responders, headers between clients, INFO, limits on connections,
//! keep-alive, shutdown.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::{Raw, eventually, local, open_server};
use ostler_broker::{Error, Server};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn info_says_what_a_client_must_know_and_nothing_that_does_not_apply() {
    let server = local().server_name("inn").max_payload(8 << 20).allow_anonymous().start().unwrap();
    let (_client, info) = Raw::open(server.local_addr());
    let info = json(&info);
    assert_eq!(info["server_name"], "inn");
    assert_eq!(info["server_id"].as_str().unwrap(), server.server_id());
    assert!(server.server_id().len() == 56 && server.server_id().starts_with('N'));
    assert_eq!(info["max_payload"], 8 << 20);
    assert_eq!(info["headers"], true);
    assert_eq!(info["proto"], 1);
    assert_eq!(info["port"], server.local_addr().port());
    assert_eq!(info["client_ip"], "127.0.0.1");
    assert!(info["client_id"].as_u64().unwrap() > 0);
    for absent in ["auth_required", "nonce", "connect_info", "tls_required", "jetstream"] {
        assert!(info.get(absent).is_none(), "{absent} in {info}");
    }
    let closed = local().start().unwrap();
    let (_client, info) = Raw::open(closed.local_addr());
    let info = json(&info);
    assert_eq!(info["auth_required"], true);
    assert_eq!(info["nonce"].as_str().unwrap().len(), 15);
}

#[test]
fn a_second_info_follows_the_first_pong_of_clients_that_understand_it() {
    let server = open_server();
    let mut client = Raw::connect_with(server.local_addr(), r#""verbose":false,"protocol":1"#);
    client.sync();
    let info = client.line();
    let info = json(info.strip_prefix("INFO ").unwrap());
    assert_eq!((&info["connect_info"], &info["remote_account"]), (&true.into(), &"$G".into()));
    client.sync();
    client.sync();
}

#[test]
fn a_queue_group_gets_each_message_once_and_every_member_gets_some() {
    for shards in [1, 2] {
        let server = local().shards(shards).allow_anonymous().start().unwrap();
        let mut members: Vec<Raw> = (0..4).map(|_| Raw::connect(server.local_addr())).collect();
        for member in &mut members {
            member.send("SUB work.* workers 1\r\n");
            member.sync();
        }
        let mut plain = Raw::connect(server.local_addr());
        plain.send("SUB work.> 9\r\n");
        plain.sync();
        let mut publisher = Raw::connect(server.local_addr());
        for n in 0..400 {
            publisher.send(format!("PUB work.a {}\r\n{n}\r\n", n.to_string().len()));
        }
        publisher.sync();
        for n in 0..400 {
            assert_eq!(plain.message().payload, n.to_string().as_bytes());
        }
        eventually("all 800 were delivered", || server.stats().out_msgs == 800);
        let mut seen = Vec::new();
        for member in &mut members {
            let before = seen.len();
            // What was written before this PONG is all there is, also when it came from another shard.
            member.send("PING\r\n");
            loop {
                let line = member.line();
                if line == "PONG" {
                    break;
                }
                assert!(line.starts_with("MSG work.a 1 "), "{line}");
                seen.push(member.line().parse::<u32>().unwrap());
            }
            assert!(seen.len() > before, "a member got nothing ({shards} shards)");
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..400).collect::<Vec<_>>(), "{shards} shards");
    }
}

#[test]
fn a_member_that_left_is_passed_over() {
    let server = open_server();
    let mut stays = Raw::connect(server.local_addr());
    stays.send("SUB a q 1\r\n");
    stays.sync();
    let mut leaves = Raw::connect(server.local_addr());
    leaves.send("SUB a q 1\r\n");
    leaves.sync();
    leaves.hang_up();
    let mut asker = Raw::connect(server.local_addr());
    asker.send("SUB inbox 7\r\n");
    for n in 0..50 {
        asker.send(format!("PUB a inbox 2\r\n{n:02}\r\n"));
    }
    asker.sync();
    for n in 0..50 {
        let message = stays.message();
        assert_eq!(message.payload, format!("{n:02}").as_bytes());
    }
}

#[test]
fn a_request_nobody_hears_is_answered_by_503() {
    let server = open_server();
    let mut asker = Raw::connect(server.local_addr());
    asker.send("SUB inbox.* 7\r\nPUB nobody.home inbox.1 2\r\nhi\r\n");
    let answer = asker.message();
    assert_eq!((answer.subject.as_str(), answer.sid.as_str(), answer.reply), ("inbox.1", "7", None));
    assert_eq!(answer.headers, b"NATS/1.0 503\r\nNats-Subject: nobody.home\r\n\r\n");
    assert!(answer.payload.is_empty());
    // Without an own subscription on the reply, and without a reply, nothing is said.
    asker.send("PUB nobody.home elsewhere 2\r\nhi\r\nPUB nobody.home 2\r\nhi\r\n");
    asker.sync();
    // Who did not ask for it in CONNECT does not get it.
    let mut old = Raw::connect_with(server.local_addr(), r#""verbose":false"#);
    old.send("SUB inbox.* 7\r\nPUB nobody.home inbox.1 2\r\nhi\r\n");
    old.sync();
}

#[test]
fn headers_pass_verbatim_and_are_left_out_for_clients_without() {
    let server = open_server();
    let mut modern = Raw::connect(server.local_addr());
    modern.send("SUB a 1\r\n");
    modern.sync();
    let mut old = Raw::connect_with(server.local_addr(), r#""verbose":false"#);
    old.send("SUB a 1\r\n");
    old.sync();
    let mut publisher = Raw::connect(server.local_addr());
    let block = "NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n";
    publisher.send(format!("HPUB a inbox {} {}\r\n{block}hello\r\n", block.len(), block.len() + 5));
    let message = modern.message();
    assert_eq!((message.headers.as_slice(), message.payload.as_slice()), (block.as_bytes(), &b"hello"[..]));
    assert_eq!(message.reply.as_deref(), Some("inbox"));
    let message = old.message();
    assert_eq!((message.headers.len(), message.payload.as_slice()), (0, &b"hello"[..]));
}

#[test]
fn large_payloads_arrive_whole_at_every_subscriber() {
    for shards in [1, 2] {
        let server = local().shards(shards).max_payload(8 << 20).allow_anonymous().start().unwrap();
        let mut subscribers: Vec<Raw> = (0..4).map(|_| Raw::connect(server.local_addr())).collect();
        for subscriber in &mut subscribers {
            subscriber.send("SUB big 1\r\n");
            subscriber.sync();
        }
        let mut publisher = Raw::connect(server.local_addr());
        let sizes = [0, 1, 15 << 10, 20 << 10, 65_530, 65_536, 300_000, 8 << 20];
        let body = |size: usize| (0..size).map(|at| (at * 7 + size) as u8).collect::<Vec<u8>>();
        let writer = std::thread::spawn(move || {
            for size in sizes {
                publisher.send(format!("PUB big {size}\r\n"));
                publisher.send(body(size));
                publisher.send("\r\n");
            }
            publisher.sync();
        });
        let readers: Vec<_> = subscribers
            .into_iter()
            .map(|mut subscriber| {
                std::thread::spawn(move || {
                    for size in sizes {
                        assert!(
                            subscriber.message().payload == body(size),
                            "{size} bytes came out different"
                        );
                    }
                })
            })
            .collect();
        writer.join().unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }
}

#[test]
fn frames_cut_into_single_bytes_are_understood() {
    let server = open_server();
    let mut client = Raw::connect(server.local_addr());
    for byte in b"SUB a 1\r\nPUB a 5\r\nhello\r\nPING\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.message().payload, b"hello");
    assert_eq!(client.line(), "PONG");
}

#[test]
fn order_from_one_publisher_is_kept_across_shards() {
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let mut subscribers: Vec<Raw> = (0..3).map(|_| Raw::connect(server.local_addr())).collect();
    for subscriber in &mut subscribers {
        subscriber.send("SUB seq.> 1\r\n");
        subscriber.sync();
    }
    let address = server.local_addr();
    let publishers: Vec<_> = (0..2)
        .map(|publisher| {
            std::thread::spawn(move || {
                let mut client = Raw::connect(address);
                let mut bytes = Vec::new();
                for n in 0..20_000 {
                    let text = n.to_string();
                    bytes.extend(
                        format!("PUB seq.{publisher}.{} {}\r\n{text}\r\n", n % 5, text.len()).bytes(),
                    );
                }
                client.send(bytes);
                client.sync();
            })
        })
        .collect();
    for subscriber in &mut subscribers {
        let mut next = [0u32; 2];
        for _ in 0..40_000 {
            let message = subscriber.message();
            let publisher: usize = message.subject[4..5].parse().unwrap();
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            assert_eq!(n, next[publisher], "lost or out of order");
            next[publisher] += 1;
        }
    }
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    eventually("the counters agree", || server.stats().out_msgs == 120_000);
    assert_eq!(server.stats().in_msgs, 40_000);
}

#[test]
fn one_connection_too_many_is_told_and_closed() {
    let server = local().max_connections(2).allow_anonymous().start().unwrap();
    let mut first = Raw::connect(server.local_addr());
    first.sync();
    let mut second = Raw::connect(server.local_addr());
    second.sync();
    let stream = std::net::TcpStream::connect(server.local_addr()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut { stream }, &mut text).unwrap();
    assert!(
        text.starts_with("INFO {") && text.ends_with("} \r\n-ERR 'maximum connections exceeded'\r\n"),
        "{text}"
    );
    first.hang_up();
    eventually("the place is free again", || server.stats().connections == 1);
    Raw::connect(server.local_addr()).sync();
}

#[test]
fn a_client_that_answers_no_ping_is_stale() {
    let interval = Duration::from_millis(50);
    let server = local().ping_interval(interval).max_pings_out(2).allow_anonymous().start().unwrap();
    let mut silent = Raw::connect(server.local_addr());
    assert_eq!(silent.until_closed_with_pings(), "PING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
    let mut alive = Raw::connect(server.local_addr());
    for _ in 0..5 {
        assert_eq!(alive.line_or_ping(), "PING");
        alive.send("PONG\r\n");
    }
}

#[test]
fn who_does_not_authenticate_in_time_is_told_and_closed() {
    let server = local().auth_timeout(Duration::from_millis(50)).start().unwrap();
    let (mut client, _) = Raw::open(server.local_addr());
    assert_eq!(client.until_closed(), "-ERR 'Authentication Timeout'\r\n");
    eventually("it is gone", || server.stats().connections == 0);
}

#[test]
fn the_server_tells_a_client_who_it_is() {
    let server = open_server();
    let mut client = Raw::connect(server.local_addr());
    client.send("SUB inbox 1\r\nPUB $SYS.REQ.USER.INFO inbox 0\r\n\r\n");
    let answer: serde_json::Value = serde_json::from_slice(&client.message().payload).unwrap();
    assert_eq!(answer["data"]["account"], "$G");
    assert_eq!(answer["server"]["id"], server.server_id());
    client.sync();
}

#[test]
fn shutdown_sends_what_waits_then_closes_and_frees_the_port() {
    for shards in [1, 2] {
        let server = local().shards(shards).allow_anonymous().start().unwrap();
        let address = server.local_addr();
        let mut clients: Vec<Raw> = (0..4).map(|_| Raw::connect(address)).collect();
        for client in &mut clients {
            client.send("SUB a 1\r\n");
            client.sync();
        }
        clients[0].send("PUB a 3\r\nbye\r\n");
        clients[0].message();
        assert!(server.is_running());
        let readers: Vec<_> =
            clients.into_iter().map(|mut client| std::thread::spawn(move || client.until_closed())).collect();
        server.shutdown();
        server.shutdown();
        assert!(!server.is_running());
        let said: Vec<String> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!(said.iter().filter(|text| text.contains("bye")).count(), 3, "{said:?}");
        assert!(std::net::TcpStream::connect(address).is_err(), "still listening");
        Server::builder().listen(address).start().expect("the port is free again");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let first = open_server();
    let error = Server::builder().listen(first.local_addr()).start().unwrap_err();
    assert!(matches!(error, Error::Listen { .. }) && error.is_retryable());
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()) && text.contains("port 0"), "{text}");
}

#[test]
fn the_longest_line_may_be_one_filter_of_as_many_tokens_as_it_holds() {
    let server = local().allow_anonymous().max_control_line(1 << 20).start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    let subject = vec!["a"; (1 << 19) - 8].join(".");
    client.send(format!("SUB {subject} 1\r\nPUB {subject} 1\r\nx\r\n"));
    assert_eq!(client.message().subject.len(), subject.len());
    client.send(format!("UNSUB 1\r\nSUB {subject} 2\r\n"));
    client.sync();
    client.hang_up();
    eventually("its subscription is gone with it", || server.stats().subscriptions == 0);
    Raw::connect(server.local_addr()).sync();
}

#[test]
fn options_that_cannot_be_are_refused_before_anything_binds() {
    let error = local().max_payload(65 << 20).start().unwrap_err().to_string();
    assert!(error.contains("max_payload") && error.contains("max_pending"), "{error}");
    assert!(local().shards(0).start().is_err());
    let error = local().max_control_line((1 << 20) + 1).start().unwrap_err().to_string();
    assert!(error.contains("max_control_line") && error.contains("1048576"), "{error}");
    assert!(local().max_payload(1 << 30).max_pending(2 << 30).start().is_err());
    assert_eq!(open_server().url().split(':').next(), Some("nats"));
}
