//! Logins by bcrypt: they are slow, and nobody else may notice.
#![cfg(test)]

mod common;

use std::io::{ErrorKind, Read};
use std::time::Duration;

use common::{Raw, eventually, local};
use ostler_broker::{Credential, Identity, Permissions, Server, Users};

/// `wrong` takes as long as right.
const COST: u32 = 11;

fn server(cost: u32, auth_timeout: Duration) -> (Server, Users) {
    let users = Users::new();
    let hash = bcrypt::hash("s3cret", cost).unwrap();
    let credential = Credential::BcryptPassword { user: "joe".into(), hash };
    users.set(Identity::new("joe", credential, Permissions::all())).unwrap();
    let plain = Credential::Token("plain".into());
    users.set(Identity::new("plain", plain, Permissions::all())).unwrap();
    let server = local().shards(1).auth_timeout(auth_timeout).users(users.clone()).start().unwrap();
    (server, users)
}

fn joe(server: &Server, password: &str) -> Raw {
    Raw::connect_with(server.local_addr(), &format!(r#""verbose":false,"user":"joe","pass":"{password}""#))
}

fn plain(server: &Server) -> Raw {
    let mut client = Raw::connect_with(server.local_addr(), r#""verbose":false,"auth_token":"plain""#);
    client.sync();
    client
}

/// Whether the server said nothing yet.
fn is_waiting(client: &Raw) -> bool {
    client.stream.set_nonblocking(true).unwrap();
    let nothing =
        matches!((&client.stream).read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    client.stream.set_nonblocking(false).unwrap();
    nothing
}

#[test]
fn a_hashed_secret_opens_the_door_and_nothing_else_does() {
    let (server, _users) = server(4, Duration::from_secs(20));
    joe(&server, "s3cret").sync();
    for wrong in ["wrong", "", "s3cret "] {
        assert_eq!(joe(&server, wrong).until_closed(), "-ERR 'Authorization Violation'\r\n");
    }
    let mut nobody = Raw::connect_with(server.local_addr(), r#""user":"nobody","pass":"s3cret""#);
    assert_eq!(nobody.until_closed(), "-ERR 'Authorization Violation'\r\n");
    eventually("failures are counted", || server.stats().auth_failures == 4);
}

#[test]
fn what_follows_connect_in_the_same_read_is_executed_after_the_login() {
    let (server, _users) = server(4, Duration::from_secs(20));
    let (mut client, _) = Raw::open(server.local_addr());
    // The last operation arrives in halves, one of them after the login.
    client.send(
        "CONNECT {\"verbose\":true,\"user\":\"joe\",\"pass\":\"s3cret\"}\r\nSUB x 1\r\nPUB x 2\r\nhi\r\nPI",
    );
    for _ in 0..3 {
        assert_eq!(client.line(), "+OK");
    }
    assert_eq!(client.message().payload, b"hi");
    client.send("NG\r\n");
    assert_eq!(client.line(), "PONG");
    // A second CONNECT by hash, right behind the first.
    let again = "CONNECT {\"verbose\":false,\"user\":\"joe\",\"pass\":\"s3cret\"}\r\n";
    client.send([again, again, "PUB x 2\r\nho\r\nSUB x 2\r\nPUB x 2\r\nha\r\nPING\r\n"].concat());
    let heard = client.message();
    assert_eq!(
        (heard.sid.as_str(), heard.payload.as_slice()),
        ("2", &b"ha"[..]),
        "what was subscribed before is gone"
    );
    assert_eq!(client.line(), "PONG");
}

#[test]
fn others_are_served_while_hashes_are_computed() {
    let (server, _users) = server(COST, Duration::from_secs(120));
    let mut other = plain(&server);
    other.send("SUB ready 1\r\n");
    other.sync();
    let mut logins: Vec<Raw> = (0..20).map(|_| joe(&server, "s3cret")).collect();
    for login in &mut logins {
        login.send("PUB ready 0\r\n\r\nPING\r\n");
    }
    for _ in 0..20 {
        other.send("PUB elsewhere 0\r\n\r\n");
        other.send("PING\r\n");
        while other.line_or_ping() != "PONG" {}
    }
    let waiting = logins.iter().filter(|login| is_waiting(login)).count();
    assert!(waiting > 0, "all were through before another client had its answer");
    for login in &mut logins[20 - waiting.min(20)..] {
        if is_waiting(login) {
            assert_eq!(login.line(), "PONG");
        }
    }
}

#[test]
fn the_time_to_log_in_counts_while_waiting_for_a_hash() {
    let (server, _users) = server(COST, Duration::from_millis(200));
    let mut logins: Vec<Raw> = (0..40).map(|_| joe(&server, "s3cret")).collect();
    // Some forty times a tenth of a second, and each has two of them.
    let said = logins.last_mut().unwrap().until_closed();
    assert_eq!(said, "-ERR 'Authentication Timeout'\r\n");
    drop(logins);
    eventually("all are gone", || server.stats().connections == 0);
    plain(&server);
}

#[test]
fn who_claims_to_be_nobody_does_not_keep_out_who_knows_the_secret() {
    let (server, _users) = server(COST, Duration::from_secs(120));
    let nobody = r#""verbose":false,"user":"nobody","pass":"s3cret""#;
    let guess = r#""verbose":false,"auth_token":"a guess""#;
    let guesses: Vec<Raw> =
        (0..40).map(|n| Raw::connect_with(server.local_addr(), [nobody, guess][n % 2])).collect();
    eventually("the first is refused", || server.stats().auth_failures > 0);
    joe(&server, "s3cret").sync();
    let waiting = guesses.iter().filter(|guess| is_waiting(guess)).count();
    assert!(waiting > 20, "it came after {} of 40 guesses", 40 - waiting);
}

#[test]
fn an_identity_that_goes_while_its_hash_is_computed_is_not_admitted() {
    let (server, users) = server(COST, Duration::from_secs(120));
    let mut logins: Vec<Raw> = (0..8).map(|_| joe(&server, "s3cret")).collect();
    eventually("they are there", || server.stats().connections == 8);
    users.remove("joe");
    assert_eq!(logins.last_mut().unwrap().until_closed(), "-ERR 'Authorization Violation'\r\n");
}
