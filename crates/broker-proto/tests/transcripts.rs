//! Golden transcripts of the parser: client bytes, `---`, the operations they mean.
//!
//! In a script each line is one line of input ending in CR LF; `\n`, `\r`, `\t`, `\0` and `\\` are escapes, and a line
//! that ends in a lone `\` gets no line end. Blocks are separated by an empty line; `#` begins a comment.
#![cfg(test)]

use std::fmt::Write;
use std::path::Path;

use ostler_broker_proto::{ClientOp, Limits, Parsed, parse_client};

#[test]
fn scripts_mean_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut blocks = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        for block in script.split("\n\n").filter(|block| block.lines().any(|line| !line.starts_with('#'))) {
            let block: String =
                block.lines().filter(|line| !line.starts_with('#')).map(|l| format!("{l}\n")).collect();
            let (input, expected) = block.split_once("---\n").expect("a block is input, ---, output");
            assert_eq!(render(&unescape(input)), expected, "{}:\n{input}", path.display());
            blocks += 1;
        }
    }
    assert!(blocks > 20, "only {blocks} blocks were found");
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let mut chars = line.chars();
        let mut ended = true;
        while let Some(char) = chars.next() {
            match (char, char == '\\') {
                (_, true) => match chars.next() {
                    Some('n') => bytes.push(b'\n'),
                    Some('r') => bytes.push(b'\r'),
                    Some('t') => bytes.push(b'\t'),
                    Some('0') => bytes.push(0),
                    Some(other) => bytes.push(other as u8),
                    None => ended = false,
                },
                (char, false) => bytes.extend(char.to_string().bytes()),
            }
        }
        if ended {
            bytes.extend(b"\r\n");
        }
    }
    bytes
}

fn render(mut input: &[u8]) -> String {
    let limits = Limits { payload_bytes_max: 64, control_line_bytes_max: 40 };
    let mut out = String::new();
    while !input.is_empty() {
        match parse_client(input, &limits) {
            Ok(Parsed::Op { op, consumed }) => {
                writeln!(out, "{}", show(&op)).unwrap();
                input = &input[consumed..];
            }
            Ok(Parsed::Incomplete { needed }) => {
                writeln!(out, "needs {needed} of {}", input.len()).unwrap();
                break;
            }
            Err(error) => {
                match error.message() {
                    Some(message) => writeln!(out, "-ERR '{message}' and close").unwrap(),
                    None => writeln!(out, "silent close ({error})").unwrap(),
                }
                break;
            }
        }
    }
    out
}

fn show(op: &ClientOp<'_>) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match op {
        ClientOp::Connect(json) => format!("connect {}", text(json)),
        ClientOp::Ping => "ping".into(),
        ClientOp::Pong => "pong".into(),
        ClientOp::Err(said) => format!("err {}", text(said)),
        ClientOp::Ignored => "ignored".into(),
        ClientOp::Sub { filter, queue, sid } => {
            format!("sub {} queue={} sid={}", text(filter), queue.map_or("-".into(), text), text(sid))
        }
        ClientOp::Unsub { sid, max } => format!("unsub {} max={max:?}", text(sid)),
        ClientOp::Pub(publish) => format!(
            "pub {} reply={} headers=\"{}\" payload=\"{}\"",
            text(publish.subject),
            publish.reply.map_or("-".into(), text),
            text(publish.headers()),
            text(publish.payload())
        ),
    }
}
