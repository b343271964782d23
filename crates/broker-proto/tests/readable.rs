//! What passes the strict checks is read by a client library of the pickiest kind: one that decodes text, splits at any
//! white space and gives its connection up at the first surprise.
#![cfg(test)]

use ostler_broker_proto::{headers, subject};
use proptest::prelude::*;

/// Reads a block the way async-nats and nats.go do, lines and folds included; `None` where one of them gives up.
fn lenient_lines_strict_content(block: &[u8]) -> Option<Vec<(String, String)>> {
    let text = std::str::from_utf8(block).ok()?;
    let mut lines = text.lines();
    let suffix = lines.next()?.strip_prefix("NATS/1.0")?.trim();
    let status = suffix.split(' ').next().unwrap_or_default();
    if !status.is_empty() {
        let code: u16 = (status.len() == 3).then(|| status.parse().ok())??;
        (100..1000).contains(&code).then_some(())?;
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        if line.starts_with(char::is_whitespace) {
            pairs.last_mut()?.1.push_str(line.trim());
            continue;
        }
        let (name, value) = line.split_once(':')?;
        (!name.is_empty() && name.chars().all(|char| char.is_ascii_graphic())).then_some(())?;
        pairs.push((name.to_owned(), value.trim().to_owned()));
    }
    Some(pairs)
}

/// Blocks that are nearly right: every piece may be one that some reader stumbles over.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => Just(&b"\r\n"[..]),
        3 => Just(&b"A: 1"[..]),
        2 => Just(&b"Name:\xc3\xbc x"[..]),
        1 => Just(&b" folded"[..]),
        1 => Just(&b"\n"[..]),
        1 => Just(&b"\r"[..]),
        1 => Just(&b"no colon"[..]),
        1 => Just(&b":"[..]),
        1 => Just(&b"\xff"[..]),
        1 => Just(&b"\0"[..]),
        1 => Just(&b"\xc2\xa0"[..]),
    ];
    let first = prop_oneof![
        6 => Just(&b"NATS/1.0"[..]),
        2 => Just(&b"NATS/1.0 503"[..]),
        1 => Just(&b"NATS/1.0 404 Gone away"[..]),
        1 => Just(&b"NATS/1.0 99"[..]),
        1 => Just(&b"NATS/1.0x"[..]),
        1 => Just(&b""[..]),
    ];
    (first, proptest::collection::vec(piece, 0..8), proptest::bool::weighted(0.8)).prop_map(
        |(first, pieces, ended)| {
            let mut block = first.to_vec();
            block.extend_from_slice(if ended { b"\r\n" } else { b"" });
            pieces.iter().for_each(|piece| block.extend_from_slice(piece));
            block.extend_from_slice(if ended { b"\r\n\r\n" } else { b"" });
            block
        },
    )
}

proptest! {
    #[test]
    fn a_block_that_passes_is_read_by_clients_and_means_the_same(block in block()) {
        if headers::check(&block).is_ok() {
            let read = lenient_lines_strict_content(&block);
            let ours: Vec<_> = headers::HeaderBlock::parse(&block).unwrap().iter()
                .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()))
                .collect();
            let trimmed: Vec<_> = ours.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
            prop_assert_eq!(read, Some(trimmed));
        }
    }

    #[test]
    fn any_name_and_value_a_client_would_send_passes(
        pairs in proptest::collection::vec(("[!-9;-~]{1,12}", "[^\r\n]{0,20}"), 0..5),
    ) {
        let lines: String = pairs.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        prop_assert_eq!(headers::check(format!("NATS/1.0\r\n{lines}\r\n").as_bytes()), Ok(()));
    }

    #[test]
    fn a_subject_that_passes_is_one_word_of_text(bytes in proptest::collection::vec(any::<u8>(), 1..12), text in "\\PC{1,8}") {
        for subject in [bytes.as_slice(), text.as_bytes()] {
            if subject::is_readable(subject) {
                let text = std::str::from_utf8(subject).unwrap();
                prop_assert_eq!(text.split_whitespace().collect::<Vec<_>>(), vec![text]);
            }
        }
    }
}
