//! What consumers are sent: acknowledgements on any subject with any payload, requests for messages, messages with any
//! headers. Nothing is delivered that was not published, and the consumers' numbers stay true.
//!
//! | line | what it does |
//! |---|---|
//! | `P` headers, with a vertical bar between lines, space, payload | publishes |
//! | `N` digit, space, payload | asks one of the consumers for messages |
//! | `A` letter, space, payload | answers one of the messages that came, the latest first |
//! | `R` tokens, space, payload | says something on `$JS.ACK.` |
//! | `F` tokens, space, payload | says something on `$JS.FC.` |
//! | `+` | lets time pass, more with each further character |
//! | `!` | restarts |
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::jetstream::{House, Sent};
use ostler_fuzz::pieces;

const LINES_MAX: usize = 32;
const CONSUMERS: [(&str, &str); 6] = [
    ("c", r#""ack_policy":"explicit","max_ack_pending":4,"ack_wait":1000000000,"max_deliver":3"#),
    ("b", r#""ack_policy":"explicit","backoff":[1000000000,2000000000],"max_deliver":3"#),
    ("a", r#""ack_policy":"all""#),
    ("n", r#""ack_policy":"none""#),
    ("w", r#""ack_policy":"explicit","max_waiting":2"#),
    (
        "p",
        r#""ack_policy":"explicit","deliver_subject":"to","flow_control":true,"idle_heartbeat":1000000000,"max_ack_pending":3"#,
    ),
];

fn stream_of(consumer: &str) -> &'static str {
    if consumer == "w" { "W" } else { "S" }
}

fuzz_target!(|input: &[u8]| {
    let mut house = House::default();
    house.api(
        "STREAM.CREATE.S",
        r#"{"name":"S","subjects":["s"],"allow_msg_ttl":true,"allow_rollup_hdrs":true}"#,
    );
    house.api("STREAM.CREATE.W", r#"{"name":"W","subjects":["w"],"retention":"workqueue"}"#);
    for (name, config) in CONSUMERS {
        let stream = stream_of(name);
        let request =
            format!(r#"{{"stream_name":"{stream}","config":{{"durable_name":"{name}",{config}}}}}"#);
        let made = house.api(&format!("CONSUMER.CREATE.{stream}.{name}"), &request);
        assert!(made.get("error").is_none(), "{made}");
    }
    let mut published = BTreeSet::new();
    let mut replies: Vec<Vec<u8>> = Vec::new();
    for (number, line) in pieces(input, b'\n', LINES_MAX).into_iter().enumerate() {
        let Some((&what, rest)) = line.split_first() else { continue };
        let at = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (rest, payload) = (&rest[..at], rest.get(at + 1..).unwrap_or_default());
        let sent = match what {
            b'P' => {
                published.insert(payload.to_vec());
                let mut headers = Vec::new();
                if !rest.is_empty() {
                    let lines = rest.split(|byte| *byte == b'|').collect::<Vec<_>>().join(&b"\r\n"[..]);
                    headers = [b"NATS/1.0\r\n", &lines[..], b"\r\n\r\n"].concat();
                }
                let mut sent = house.ask(b"s", &headers, payload);
                sent.extend(house.ask(b"w", &headers, payload));
                sent
            }
            b'N' => {
                let (name, _) = CONSUMERS[usize::from(rest.first().copied().unwrap_or(0)) % CONSUMERS.len()];
                let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{name}", stream_of(name));
                house.ask(subject.as_bytes(), b"", payload)
            }
            b'A' => {
                let back = usize::from(rest.first().copied().unwrap_or(0)) % replies.len().max(1);
                match replies.iter().rev().nth(back).cloned() {
                    Some(reply) => house.ask(&reply, b"", payload),
                    None => continue,
                }
            }
            b'R' => house.ask(&[b"$JS.ACK.", rest].concat(), b"", payload),
            b'F' => house.ask(&[b"$JS.FC.", rest].concat(), b"", payload),
            b'+' => house.pass(100_000_000 << rest.len().min(8)),
            b'!' => {
                house.restart();
                Vec::new()
            }
            _ => continue,
        };
        keep_delivered(&sent, &published, &mut replies);
        if number % 8 == 7 {
            CONSUMERS.iter().for_each(|(name, _)| judge(&mut house, name));
        }
    }
    CONSUMERS.iter().for_each(|(name, _)| judge(&mut house, name));
});

/// Checks what was delivered and remembers how to acknowledge it.
fn keep_delivered(sent: &[Sent], published: &BTreeSet<Vec<u8>>, replies: &mut Vec<Vec<u8>>) {
    for sent in sent.iter().filter(|sent| sent.reply.starts_with(b"$JS.ACK.")) {
        assert!(published.contains(&sent.payload), "never published: {sent:?}");
        replies.push(sent.reply.clone());
    }
}

/// Checks a consumer's numbers against the stream's.
fn judge(house: &mut House, name: &str) {
    let stream = stream_of(name);
    let state = &house.api(&format!("STREAM.INFO.{stream}"), "")["state"];
    let (messages, last) = (state["messages"].as_u64(), state["last_seq"].as_u64());
    let (Some(messages), Some(last)) = (messages, last) else { panic!("no numbers: {state}") };
    let info = house.api(&format!("CONSUMER.INFO.{stream}.{name}"), "");
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_else(|| panic!("no number: {info}"));
    let out = number(&info["num_ack_pending"]);
    assert!(number(&info["num_pending"]) <= messages, "{info} of {messages}");
    if let Some(max) = info["config"]["max_ack_pending"].as_u64() {
        assert!(out <= max, "{info}");
    }
    for position in ["delivered", "ack_floor"] {
        assert!(number(&info[position]["stream_seq"]) <= last, "{info} of {last}");
    }
    assert!(
        number(&info["ack_floor"]["consumer_seq"]) <= number(&info["delivered"]["consumer_seq"]),
        "{info}"
    );
    assert!(number(&info["ack_floor"]["stream_seq"]) <= number(&info["delivered"]["stream_seq"]), "{info}");
}
