//! Golden transcripts of a whole server: client bytes, `---`, server bytes. Each block is a connection of its own.
//!
//! The client's half ends with an implicit `PING` where the connection is expected to live, so that the answer has an
//! end; its `PONG` is part of the output. A block whose output ends in `closed` is read until the server hangs up.
//! Lines end in CR LF; `\n \r \t \0 \\` are escapes, a line that ends in a lone `\` gets no line end. INFO is not
//! shown. Options of the server stand in a first line `! name`.
#![cfg(test)]

mod common;

use std::path::Path;

use common::{Raw, local};
use ostler_broker::{AllowResponses, Credential, Identity, Permissions, Rules, Server, Users};

fn server(name: &str) -> Server {
    let token = |name: &str, token: &str, permissions| Identity::new(name, Credential::Token(token.into()), permissions);
    let builder = local().shards(1);
    match name {
        "open" => builder.allow_anonymous(),
        "small" => builder.allow_anonymous().max_payload(16).max_control_line(256).max_subscriptions(2),
        "closed" => builder,
        "users" => {
            let users = Users::new();
            users.set(token("all", "all", Permissions::all())).unwrap();
            let limited = Permissions {
                publish: Rules::allow(["agent.a.>", "secret.>"]).deny(["secret.plan"]),
                subscribe: Rules::allow(["agent.a.>", "_INBOX.a.>", "news.>"]).deny(["news.secret"]),
                allow_responses: Some(AllowResponses { max: 1, ..AllowResponses::default() }),
            };
            users.set(token("limited", "limited", limited)).unwrap();
            builder.users(users)
        }
        other => panic!("no such server: {other}"),
    }
    .start()
    .unwrap()
}

#[test]
fn scripts_are_answered_to_the_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut blocks = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        for block in script.split("\n\n") {
            let mut block: Vec<&str> = block.lines().filter(|line| !line.starts_with('#')).collect();
            if block.is_empty() {
                continue;
            }
            let name = block[0].strip_prefix("! ").unwrap_or("open").to_owned();
            block.retain(|line| !line.starts_with("! "));
            let divider =
                block.iter().position(|line| *line == "---").expect("a block is input, ---, output");
            let (input, expected) = (&block[..divider], &block[divider + 1..]);
            assert_eq!(
                play(&server(&name), input, expected),
                expected,
                "{}: {name}:\n{input:#?}",
                path.display()
            );
            blocks += 1;
        }
    }
    assert!(blocks > 35, "only {blocks} blocks were found");
}

fn play(server: &Server, input: &[&str], expected: &[&str]) -> Vec<String> {
    let (mut client, _) = Raw::open(server.local_addr());
    client.send(unescape(input));
    let mut said: Vec<String> = Vec::new();
    if expected.last() == Some(&"closed") {
        let text = client.until_closed();
        said.extend(text.lines().map(|line| line.trim_end().to_owned()));
        said.push("closed".into());
    } else {
        client.send("PING\r\n");
        let wanted = expected.iter().filter(|line| **line == "PONG").count();
        assert!(wanted > 0, "the output of a living connection ends in PONG");
        let mut pongs = 0;
        while pongs < wanted {
            let line = client.line();
            pongs += usize::from(line == "PONG");
            said.push(line);
        }
    }
    said.iter().map(|line| line.replace('\t', "\\t")).collect()
}

fn unescape(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let mut chars = line.chars();
        let mut ended = true;
        while let Some(char) = chars.next() {
            if char != '\\' {
                bytes.extend(char.to_string().bytes());
                continue;
            }
            match chars.next() {
                Some('n') => bytes.push(b'\n'),
                Some('r') => bytes.push(b'\r'),
                Some('t') => bytes.push(b'\t'),
                Some('0') => bytes.push(0),
                Some(other) => bytes.push(other as u8),
                None => ended = false,
            }
        }
        if ended {
            bytes.extend(b"\r\n");
        }
    }
    bytes
}
