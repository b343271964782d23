//! What a client says and is told does not depend on what carries it: the same scripts over each kind of connection.
#![cfg(test)]

use std::io::Write;
use std::time::{Duration, Instant};

use ostler_broker::{Credential, Identity, Limits, Permissions, Rules, Users};

mod common;
mod lines;
use common::{DEADLINE, eventually, local};
use lines::{ALL, House, Kind, socket};

fn open_house(kind: Kind) -> House {
    House::new(kind, local().shards(1).allow_anonymous())
}

#[test]
fn messages_replies_headers_and_no_responders() {
    for kind in ALL {
        let house = open_house(kind);
        let mut client = house.connect();
        client.send(
            "SUB a.* 1\r\nSUB inbox 2\r\nPUB a.b 5\r\nhello\r\nHPUB a.c re 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        );
        assert_eq!(client.line(), "MSG a.b 1 5", "{kind:?}");
        assert_eq!(client.line(), "hello");
        assert_eq!(client.line(), "HMSG a.c 1 re 12 14");
        assert_eq!((client.line().as_str(), client.line().as_str()), ("NATS/1.0", ""));
        assert_eq!(client.line(), "hi");
        client.send("PUB nobody inbox 0\r\n\r\n");
        assert_eq!(client.line(), "HMSG inbox 2 38 38", "{kind:?}");
    }
}

#[test]
fn operations_may_be_cut_anywhere() {
    for kind in ALL {
        let house = open_house(kind);
        let mut client = house.connect();
        client.sync();
        for byte in b"SUB x 1\r\nPUB x 3\r\nabc\r\nPING\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.payload(), b"abc", "{kind:?}");
        assert_eq!(client.line(), "PONG");
    }
}

#[test]
fn a_wrong_credential_is_told_and_the_place_is_free_again() {
    for kind in ALL {
        let users = Users::new();
        users.set(Identity::new("a", Credential::Token("right".into()), Permissions::all())).unwrap();
        let house = House::new(kind, local().shards(1).users(users));
        let (mut wrong, info) = house.open();
        assert!(info.contains(r#""auth_required":true"#), "{kind:?}: {info}");
        wrong.send("CONNECT {\"auth_token\":\"wrong\"}\r\n");
        assert_eq!(wrong.until_closed(), b"-ERR 'Authorization Violation'\r\n", "{kind:?}");
        let (mut right, _) = house.open();
        right.send("CONNECT {\"auth_token\":\"right\",\"verbose\":true}\r\n");
        assert_eq!(right.line(), "+OK");
        drop((wrong, right));
        eventually("all places are free", || house.server.stats().connections == 0);
    }
}

#[test]
fn permissions_hold() {
    for kind in ALL {
        let users = Users::new();
        let permissions = Permissions { publish: Rules::allow(["yes"]), ..Permissions::default() };
        users.set(Identity::new("a", Credential::Token("t".into()), permissions)).unwrap();
        let house = House::new(kind, local().shards(1).users(users));
        let (mut client, _) = house.open();
        client.send("CONNECT {\"auth_token\":\"t\",\"verbose\":false,\"pedantic\":false}\r\nPUB no 0\r\n\r\nSUB s 1\r\n");
        assert_eq!(client.line(), "-ERR 'Permissions Violation for Publish to \"no\"'", "{kind:?}");
        assert_eq!(client.line(), "-ERR 'Permissions Violation for Subscription to \"s\"'");
        client.sync();
    }
}

#[test]
fn large_messages_pass_whole_and_larger_ones_are_refused() {
    let payload: Vec<u8> = (0..1 << 20).map(|n| (n % 251) as u8).collect();
    for kind in ALL {
        let house = open_house(kind);
        let (mut sender, mut receiver) = (house.connect(), house.connect());
        receiver.send("SUB large 1\r\n");
        receiver.sync();
        let frame = [format!("PUB large {}\r\n", payload.len()).as_bytes(), &payload, b"\r\n"].concat();
        for _ in 0..3 {
            sender.send(&frame);
            assert!(receiver.payload() == payload, "{kind:?}");
        }
        sender.send(format!("PUB large {}\r\n", payload.len() + 1));
        assert_eq!(sender.until_closed(), b"-ERR 'Maximum Payload Violation'\r\n", "{kind:?}");
    }
}

/// Messages in both directions at once, more than any buffer on the way holds.
#[test]
fn nothing_is_lost_or_changed_under_load() {
    const MESSAGES: usize = 20_000;
    for kind in ALL {
        let mut limits = Limits::default();
        limits.write_deadline = DEADLINE;
        let house = House::new(kind, local().shards(1).allow_anonymous().limits(limits));
        let (mut sender, mut receiver) = (house.connect(), house.connect());
        receiver.send("SUB load 1\r\n");
        receiver.sync();
        let sending = std::thread::spawn(move || {
            let mut block = Vec::new();
            for n in 0..MESSAGES {
                let payload = format!("{n:0width$}", width = 1 + n % 500);
                write!(block, "PUB load {}\r\n{payload}\r\n", payload.len()).unwrap();
                if block.len() > 30_000 {
                    sender.send(std::mem::take(&mut block));
                }
            }
            sender.send(&block);
            sender.sync();
        });
        for n in 0..MESSAGES {
            let expected = format!("{n:0width$}", width = 1 + n % 500);
            assert_eq!(receiver.payload(), expected.as_bytes(), "{kind:?}");
        }
        sending.join().unwrap();
    }
}

#[test]
fn who_does_not_read_is_closed_and_its_publisher_goes_on() {
    for kind in ALL {
        let mut limits = Limits::default();
        limits.pending_bytes_max = 1 << 20;
        limits.stall_max = Duration::from_millis(1);
        let house = House::new(kind, local().shards(1).allow_anonymous().limits(limits));
        let (mut sender, mut lazy) = (house.connect(), house.connect());
        lazy.send("SUB flood 1\r\n");
        lazy.sync();
        let frame = [b"PUB flood 60000\r\n".as_slice(), &[b'x'; 60_000], b"\r\n"].concat();
        let started = Instant::now();
        while house.server.stats().slow_consumers == 0 {
            assert!(started.elapsed() < DEADLINE, "{kind:?}: never closed");
            sender.send(&frame);
        }
        sender.sync();
        eventually("one connection is left", || house.server.stats().connections == 1);
        lazy.until_closed();
    }
}

#[test]
fn a_server_that_ends_sends_what_waits() {
    const MESSAGES: usize = 40;
    for kind in ALL {
        let house = open_house(kind);
        let (mut sender, mut receiver) = (house.connect(), house.connect());
        receiver.send("SUB last 1\r\n");
        receiver.sync();
        let frame = [b"PUB last 100000\r\n".as_slice(), &[b'x'; 100_000], b"\r\n"].concat();
        for _ in 0..MESSAGES {
            sender.send(&frame);
        }
        sender.sync();
        let ending = std::thread::spawn(move || house.server.shutdown());
        for _ in 0..MESSAGES {
            assert_eq!(receiver.payload().len(), 100_000, "{kind:?}");
        }
        assert_eq!(receiver.until_closed(), b"", "{kind:?}");
        drop((sender, receiver));
        ending.join().unwrap();
    }
}

#[test]
fn a_cut_connection_leaves_nothing() {
    for kind in ALL {
        let house = open_house(kind);
        let mut client = house.connect();
        client.send("SUB a 1\r\nSUB b 2\r\n");
        client.sync();
        client.send("PUB a 10\r\nhalf");
        drop(client);
        eventually("nothing is left", || {
            let stats = house.server.stats();
            (stats.connections, stats.subscriptions) == (0, 0)
        });
    }
}

#[test]
fn half_a_handshake_times_out_and_frees_its_place() {
    for kind in [Kind::Tls, Kind::WebSocket, Kind::WebSocketTls] {
        // The authentication timeout, which comes later, is not what ends them.
        let house = House::new(kind, local().shards(1).allow_anonymous().max_connections(2));
        let mut silent = socket(house.address());
        let mut begun = socket(house.address());
        begun.write_all(if kind == Kind::WebSocket { b"GET / HT" } else { b"\x16\x03\x01\x02" }).unwrap();
        for stream in [&mut silent, &mut begun] {
            lines::Line::new(stream.try_clone().unwrap()).until_closed();
        }
        eventually("their places are free", || house.server.stats().connections == 0);
        house.connect().sync();
    }
}
