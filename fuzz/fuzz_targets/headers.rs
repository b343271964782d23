//! Header blocks: what passes the strict check is read by everybody the same way, and what is read can be built again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_broker_proto::headers::{HeaderBlock, check, write_no_responders};

fuzz_target!(|block: &[u8]| {
    let parsed = HeaderBlock::parse(block);
    if check(block).is_ok() {
        let ours = parsed.as_ref().expect("the strict check lets through what the lenient reader refuses");
        let pairs: Vec<_> = ours.iter().collect();
        assert_eq!(pairs, naive(block), "two readers disagree");
        assert!(ours.status().is_none_or(|status| (100..1000).contains(&status)));
    }
    if let Ok(parsed) = parsed {
        let mut again = b"NATS/1.0\r\n".to_vec();
        for (name, value) in parsed.iter() {
            assert!(!name.is_empty() && !name.contains(&b':'));
            for part in [name, b": ", value, b"\r\n"] {
                again.extend_from_slice(part);
            }
        }
        again.extend_from_slice(b"\r\n");
        let again = HeaderBlock::parse(&again).expect("a block that was built is a block");
        assert!(again.iter().eq(parsed.iter()), "the copy says something else");
        for (name, _) in parsed.iter() {
            if let Ok(name) = std::str::from_utf8(name) {
                assert!(parsed.get(name).is_some());
            }
        }
    }
    // A subject is a word without line ends by the time it gets here.
    if !block.iter().any(u8::is_ascii_whitespace) {
        let mut built = Vec::new();
        write_no_responders(&mut built, block);
        let read = HeaderBlock::parse(&built).expect("what the server says of itself can be read");
        assert_eq!(read.status(), Some(503));
        assert_eq!(read.get("Nats-Subject"), Some(block));
    }
});

/// Lines by CR LF, halves by the first colon.
fn naive(block: &[u8]) -> Vec<(&[u8], &[u8])> {
    let text = std::str::from_utf8(block).expect("strict blocks are text");
    let lines = text.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    lines
        .map(|line| line.split_once(':').expect("strict lines have a colon"))
        .map(|(name, value)| (name.as_bytes(), value.as_bytes().trim_ascii()))
        .collect()
}
