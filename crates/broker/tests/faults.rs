//! Clients that misbehave: the server closes them and nobody else notices.
#![cfg(test)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{DEADLINE, Raw, eventually, local, open_server};
use ostler_broker::{Credential, Identity, Permissions, Users};

/// A subscriber that reads nothing.
fn deaf(server: &ostler_broker::Server, subject: &str) -> Raw {
    let mut raw = Raw::connect(server.local_addr());
    raw.send(format!("SUB {subject} 1\r\n"));
    raw.sync();
    raw
}

fn publish(subject: &str, size: usize) -> Vec<u8> {
    let mut frame = format!("PUB {subject} {size}\r\n").into_bytes();
    frame.resize(frame.len() + size, b'x');
    frame.extend(b"\r\n");
    frame
}

#[test]
fn half_a_frame_and_a_hang_up_leave_nothing_behind() {
    let server = open_server();
    let mut witness = deaf(&server, "a");
    for half in ["PU", "PUB a 100\r\nhalf", "SUB ", "CONNECT {\"ver", "HPUB a 12 20\r\nNATS/1.0\r\n"] {
        let mut client = Raw::connect(server.local_addr());
        client.send(half);
        client.hang_up();
    }
    eventually("all are gone", || server.stats().connections == 1);
    assert_eq!(server.stats().in_msgs, 0);
    witness.sync();
}

#[test]
fn an_oversized_payload_is_refused_while_it_is_still_being_sent() {
    let server = local().max_payload(1000).allow_anonymous().start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    let mut writer = client.stream.try_clone().unwrap();
    // The client goes on sending; the words must reach it all the same.
    let sender = std::thread::spawn(move || {
        let _ = writer.write_all(&publish("a", 4 << 20));
    });
    assert_eq!(client.until_closed(), "-ERR 'Maximum Payload Violation'\r\n");
    drop(client);
    sender.join().unwrap();
}

#[test]
fn garbage_from_many_clients_at_once_disturbs_nobody() {
    for shards in [1, 2] {
        let server = local().shards(shards).allow_anonymous().start().unwrap();
        let mut good = deaf(&server, "good");
        let address = server.local_addr();
        let garbage: Vec<_> = (0..64u64)
            .map(|seed| {
                std::thread::spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..10 {
                        let mut stream = TcpStream::connect(address).unwrap();
                        let mut bytes: Vec<u8> = (0..random.usize(1..2000)).map(|_| random.u8(..)).collect();
                        if random.bool() {
                            bytes.splice(0..0, b"CONNECT {}\r\nPUB a 100\r\n".iter().copied());
                        }
                        // The server may hang up before all is written.
                        let _ = stream.write_all(&bytes);
                    }
                })
            })
            .collect();
        let mut publisher = Raw::connect(address);
        for n in 0..1000 {
            publisher.send(format!("PUB good {}\r\n{n}\r\n", n.to_string().len()));
            assert_eq!(good.message().payload, n.to_string().as_bytes());
        }
        garbage.into_iter().for_each(|thread| thread.join().unwrap());
        eventually("only the good are left", || server.stats().connections == 2);
        assert!(server.is_running());
    }
}

#[test]
fn a_slow_reader_is_cut_off_and_the_others_get_everything() {
    let server = local().shards(1).max_pending(4 << 20).allow_anonymous().start().unwrap();
    let mut slow = deaf(&server, "a");
    let mut quick = deaf(&server, "a");
    let mut publisher = Raw::connect(server.local_addr());
    // In steps, so that the quick one is never behind by more than one of them, however busy the machine is.
    for _ in 0..40 {
        for _ in 0..50 {
            publisher.send(publish("a", 16 << 10));
        }
        for _ in 0..50 {
            assert_eq!(quick.message().payload.len(), 16 << 10);
        }
    }
    publisher.sync();
    assert_eq!(server.stats().slow_consumers, 1);
    assert_eq!(server.stats().connections, 2);
    // Cut off without a word.
    assert!(!slow.until_closed().contains("-ERR"));
}

#[test]
fn a_reader_that_takes_nothing_within_the_write_deadline_is_cut_off() {
    let server = local().write_deadline(Duration::from_millis(100)).allow_anonymous().start().unwrap();
    let _slow = deaf(&server, "a");
    let mut publisher = Raw::connect(server.local_addr());
    // More than the kernel buffers, less than max_pending.
    for _ in 0..24 {
        publisher.send(publish("a", 1 << 20));
    }
    publisher.sync();
    eventually("it is cut off", || server.stats().slow_consumers == 1);
}

/// What the server itself says - PONG, errors, acknowledgements - is bounded like messages are.
#[test]
fn a_client_that_does_not_read_what_the_server_tells_it_is_cut_off() {
    let users = Users::new();
    let credential = Credential::Token("t".into());
    users.set(Identity::new("mute", credential, Permissions::default())).unwrap();
    let floods = [
        "PING\r\n",
        "PUB denied 0\r\n\r\n",
        "SUB denied 1\r\n",
        "UNSUB 1\r\n",
        "PUB $SYS.REQ.USER.INFO 0\r\n\r\n",
    ];
    for (flood, frame) in floods.iter().enumerate() {
        let server = local()
            .shards(1)
            .max_pending(2 << 20)
            .write_deadline(Duration::from_millis(500))
            .users(users.clone())
            .start()
            .unwrap();
        let mut client =
            Raw::connect_with(server.local_addr(), r#""verbose":true,"headers":true,"auth_token":"t""#);
        let block = frame.repeat((64 << 10) / frame.len());
        let mut sent = 0;
        // A write fails once the server hung up.
        let started = Instant::now();
        while client.stream.write_all(block.as_bytes()).is_ok() {
            sent += block.len();
            assert!(started.elapsed() < DEADLINE, "flood {flood}: {sent} bytes were taken");
        }
        eventually("it is cut off", || server.stats().connections == 0);
        assert_eq!(server.stats().slow_consumers, 1, "flood {flood}");
        Raw::open(server.local_addr());
    }
}

/// What they left unread waits for two seconds each; all of it together is bounded.
#[test]
fn clients_that_fill_their_backlog_and_end_do_not_pile_it_up() {
    let server = local().shards(1).max_pending(32 << 20).allow_anonymous().start().unwrap();
    let mut clients: Vec<Raw> = (0..6).map(|_| deaf(&server, "a")).collect();
    let mut publisher = Raw::connect(server.local_addr());
    // More than the kernel buffers, less than max_pending.
    for _ in 0..24 {
        publisher.send(publish("a", 1 << 20));
    }
    publisher.sync();
    for client in &mut clients {
        client.send("NONSENSE\r\n");
    }
    eventually("all are gone", || server.stats().connections == 1);
    // Those that were cut off are told nothing, those that fit are.
    let told = clients.iter_mut().map(Raw::until_closed).filter(|said| said.contains("-ERR")).count();
    assert!(told < 6, "all were drained");
}

#[test]
fn a_reader_that_takes_a_drop_at_a_time_is_cut_off() {
    let server = local().write_deadline(Duration::from_secs(1)).allow_anonymous().start().unwrap();
    let slow = deaf(&server, "a");
    let mut publisher = Raw::connect(server.local_addr());
    for _ in 0..48 {
        publisher.send(publish("a", 1 << 20));
    }
    publisher.sync();
    let mut stream = slow.stream.try_clone().unwrap();
    // Far slower than the deadline wants, but never without progress for as long as it.
    let reader = std::thread::spawn(move || {
        let mut drop_of_it = vec![0; 512 << 10];
        let mut taken = 0;
        while let Ok(len @ 1..) = stream.read(&mut drop_of_it) {
            taken += len;
            std::thread::sleep(Duration::from_millis(100));
        }
        taken
    });
    eventually("it is cut off", || server.stats().slow_consumers == 1);
    assert!(reader.join().unwrap() < 40 << 20);
}

/// Frames a subscriber's library would take for a broken connection, and the words their publisher gets.
const UNREADABLE: [(&[u8], &str); 9] = [
    (b"PUB a.\xff 1\r\nx\r\n", "the subject must be UTF-8 text without white space"),
    (b"PUB a.\xc2\xa0b 1\r\nx\r\n", "the subject must be UTF-8 text without white space"),
    (b"PUB a.\x0bb 1\r\nx\r\n", "the subject must be UTF-8 text without white space"),
    (b"PUB a.b \xff 1\r\nx\r\n", "the reply subject must be UTF-8 text without white space"),
    (b"HPUB a.b 0 1\r\nx\r\n", "a header block must begin with NATS/1.0"),
    (b"HPUB a.b 4 5\r\nNATSx\r\n", "a header block must begin with NATS/1.0"),
    (b"HPUB a.b 10 11\r\nNATS/1.0\r\nx\r\n", "a header block must end with an empty line"),
    (b"HPUB a.b r 18 19\r\nNATS/1.0 no\r\nA\r\n\r\nx\r\n", "a status must be three digits from 100 on"),
    (b"HPUB a.b r 15 16\r\nNATS/1.0\r\nA\r\n\r\nx\r\n", "a header line must be `Name: value`"),
];

#[test]
fn a_strict_server_refuses_what_subscribers_cannot_read() {
    let server = local().shards(1).strict_messages().allow_anonymous().start().unwrap();
    let mut witness = deaf(&server, ">");
    for (frame, words) in UNREADABLE {
        let mut client = Raw::connect(server.local_addr());
        client.send(frame);
        assert_eq!(client.until_closed(), format!("-ERR 'Invalid Message: {words}'\r\n"));
    }
    let mut client = Raw::connect(server.local_addr());
    client.send("HPUB \u{fc}ber r 22 24\r\nNATS/1.0 200\r\nA: b\r\n\r\nok\r\n");
    client.sync();
    let heard = witness.message();
    assert_eq!((heard.subject.as_str(), heard.payload.as_slice()), ("\u{fc}ber", &b"ok"[..]));
}

#[test]
fn a_server_passes_messages_on_verbatim_unless_told_to_be_strict() {
    let server = open_server();
    let mut witness = deaf(&server, "a.>");
    let mut client = Raw::connect(server.local_addr());
    for (frame, _) in UNREADABLE {
        client.send(frame);
        witness.message();
    }
    client.sync();
}

/// Publishes until told to stop; the count tells whether it is stuck.
fn endless_publisher(
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut client = Raw::connect(address);
        let frame = publish("a", 64 << 10);
        while !stop.load(Ordering::Relaxed) {
            client.send(&frame);
            sent.fetch_add(1, Ordering::Relaxed);
        }
        client.sync();
    })
}

#[test]
fn a_stalled_publisher_goes_on_as_soon_as_its_subscriber_dies() {
    for shards in [1, 2] {
        // It would wait for ten minutes: only the subscriber's death can release it in time.
        let server = local()
            .shards(shards)
            .max_pending(8 << 20)
            .stall_max(Duration::from_secs(600))
            .write_deadline(Duration::from_secs(600))
            .allow_anonymous()
            .start()
            .unwrap();
        let mut subscriber = deaf(&server, "a");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let publisher = endless_publisher(server.local_addr(), Arc::clone(&stop), Arc::clone(&sent));
        // Stalled means: nothing moved for a while. A false "stalled" only makes the test easier to pass.
        let mut last = (sent.load(Ordering::Relaxed), Instant::now());
        eventually("the publisher is stalled", || {
            let now = sent.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
            now > 0 && last.1.elapsed() > Duration::from_millis(300)
        });
        assert_eq!(server.stats().slow_consumers, 0, "it was paced, not cut off");
        // Another client is served meanwhile.
        Raw::connect(server.local_addr()).sync();
        let stalled_at = sent.load(Ordering::Relaxed);
        subscriber.hang_up();
        eventually("the publisher goes on", || sent.load(Ordering::Relaxed) > stalled_at + 1000);
        stop.store(true, Ordering::Relaxed);
        publisher.join().unwrap();
    }
}

#[test]
fn a_publisher_faster_than_its_subscriber_is_paced_and_nothing_is_lost() {
    for shards in [1, 2] {
        let server = local()
            .shards(shards)
            .max_pending(8 << 20)
            .stall_max(DEADLINE)
            .allow_anonymous()
            .start()
            .unwrap();
        let mut subscriber = deaf(&server, "a");
        let mut publisher = Raw::connect(server.local_addr());
        let writer = std::thread::spawn(move || {
            for n in 0..2000u32 {
                let mut frame = b"PUB a 20000\r\n".to_vec();
                frame.extend(n.to_be_bytes());
                frame.resize(frame.len() + 20_000 - 4, 0);
                frame.extend(b"\r\n");
                publisher.send(frame);
            }
            publisher.sync();
        });
        for n in 0..2000u32 {
            if n % 500 == 0 {
                // Lets the backlog grow to where the publisher is paced.
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(subscriber.message().payload[..4], n.to_be_bytes(), "{shards} shards");
        }
        writer.join().unwrap();
        assert_eq!(server.stats().slow_consumers, 0);
    }
}

#[test]
fn thousands_of_connections_come_and_go() {
    let server = local().shards(2).allow_anonymous().start().unwrap();
    let address = server.local_addr();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..150 {
                    let mut client = Raw::connect(address);
                    client.send("SUB a 1\r\nSUB b.* q 2\r\n");
                    client.sync();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    eventually("nothing is left", || {
        let stats = server.stats();
        stats.connections == 0 && stats.subscriptions == 0
    });
    assert_eq!(server.stats().connections_total, 1200);
}

/// Somebody who sends `frame` over and over until told to stop, and throws away what is said in return.
fn babble(mut stream: TcpStream, frame: Vec<u8>) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, mut reader) = (Arc::clone(&stop), stream.try_clone().unwrap());
    let reading = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while matches!(reader.read(&mut bytes), Ok(count) if count > 0) {}
    });
    let babbling = std::thread::spawn(move || {
        while !stopped.load(Ordering::Acquire) && stream.write_all(&frame).is_ok() {}
        let _ = stream.shutdown(std::net::Shutdown::Both);
        reading.join().unwrap();
    });
    (stop, babbling)
}

/// Its socket is never found empty, and no read of it is a full one.
#[test]
fn a_client_that_never_stops_leaves_others_their_turn() {
    let server = local().shards(1).allow_anonymous().start().unwrap();
    let loud = Raw::connect(server.local_addr());
    let flood = "PUB $SYS.REQ.USER.INFO x 0\r\n\r\n".repeat(8000).into_bytes();
    let (stop, babbling) = babble(loud.stream.try_clone().unwrap(), flood);
    eventually("it babbles", || server.stats().in_msgs > 10_000);
    let mut quiet = Raw::connect(server.local_addr());
    for _ in 0..50 {
        quiet.sync();
    }
    stop.store(true, Ordering::Release);
    babbling.join().unwrap();
}

#[cfg(feature = "websocket")]
#[test]
fn frames_without_payload_leave_others_their_turn() {
    let users = Users::new();
    users.set(Identity::new("a", Credential::Token("t".into()), Permissions::all())).unwrap();
    let websocket = ostler_broker::WebSocket::on("127.0.0.1:0".parse().unwrap());
    let server = local().shards(1).users(users).websocket(websocket).start().unwrap();
    let mut stream = TcpStream::connect(server.websocket_addr().unwrap()).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    // Empty binary frames, masked as those of clients are.
    let (stop, babbling) = babble(stream, b"\x82\x80\0\0\0\0".repeat(20_000));
    let mut quiet = Raw::connect_with(server.local_addr(), r#""auth_token":"t","verbose":false"#);
    for _ in 0..50 {
        quiet.sync();
    }
    stop.store(true, Ordering::Release);
    babbling.join().unwrap();
}

/// One read of the publisher makes far more than the server lets wait for one client.
#[test]
fn a_subscriber_that_reads_is_never_too_slow() {
    const SUBSCRIPTIONS: usize = 40;
    const MESSAGES: usize = 3000;
    let server = local().shards(1).allow_anonymous().max_pending(2 << 20).start().unwrap();
    let mut reader = Raw::connect(server.local_addr());
    for sid in 0..SUBSCRIPTIONS {
        reader.send(format!("SUB a {sid}\r\n"));
    }
    reader.sync();
    let mut stream = reader.stream.try_clone().unwrap();
    let counting = std::thread::spawn(move || {
        let (mut bytes, mut seen) = (vec![0; 1 << 20], 0);
        while seen < SUBSCRIPTIONS * MESSAGES * 3000 {
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => return Err(seen),
                Ok(count) => seen += count,
            }
        }
        Ok(())
    });
    let mut publisher = Raw::connect(server.local_addr());
    publisher.send(publish("a", 3000).repeat(MESSAGES));
    publisher.sync();
    counting.join().unwrap().expect("the subscriber is cut off after so many bytes");
    eventually("everything is delivered", || server.stats().out_msgs == (SUBSCRIPTIONS * MESSAGES) as u64);
    assert_eq!(server.stats().slow_consumers, 0);
}

/// It holds its place and what it announced for as long as it lives.
#[test]
fn a_client_that_never_says_connect_is_asked_for_a_sign_of_life() {
    let server = local().allow_anonymous().ping_interval(Duration::from_millis(50)).start().unwrap();
    let (mut silent, _info) = Raw::open(server.local_addr());
    silent.send("PUB a 100\r\nhalf");
    assert_eq!(silent.until_closed_with_pings(), "PING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
    eventually("its place is free", || server.stats().connections == 0);
}
