//! What clients send, cut into reads anywhere, means what it means whole; and what was read can be written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_broker_proto::codec::write_client;
use ostler_broker_proto::{ClientOp, Limits, Parsed, ProtocolError, parse_client};

/// Small, so that the fuzzer finds what happens at them.
const LIMITS: Limits = Limits { payload_bytes_max: 512, control_line_bytes_max: 128 };

fuzz_target!(|input: &[u8]| {
    // The first bytes say how long each read is; they are used over and over.
    let Some((count, rest)) = input.split_first() else { return };
    let count = usize::from(*count % 8).min(rest.len());
    let (reads, bytes) = rest.split_at(count);

    let whole = feed(bytes, &[]);
    assert_eq!(feed(bytes, reads), whole, "reads of {reads:?} bytes changed the meaning");
    written_is_read_back(bytes);
});

/// Feeds `bytes` as a connection does: in reads of these lengths, asking the parser only when what it wants is there.
fn feed(bytes: &[u8], reads: &[u8]) -> (Vec<String>, Option<ProtocolError>) {
    let (mut ops, mut from, mut until, mut needed) = (Vec::new(), 0, 0, 1);
    let mut lengths = reads.iter().map(|len| usize::from(*len).max(1)).cycle();
    while until < bytes.len() {
        until = lengths.next().map_or(bytes.len(), |len| (until + len).min(bytes.len()));
        while until - from >= needed {
            match parse_client(&bytes[from..until], &LIMITS) {
                Ok(Parsed::Op { op, consumed }) => {
                    assert!(consumed > 0 && consumed <= until - from, "consumed what was not there");
                    ops.push(format!("{op:?}"));
                    from += consumed;
                    needed = 1;
                }
                Ok(Parsed::Incomplete { needed: more }) => {
                    assert!(more > until - from, "must ask for more than there is");
                    needed = more;
                }
                Err(error) => return (ops, Some(error)),
            }
        }
    }
    (ops, None)
}

fn written_is_read_back(mut bytes: &[u8]) {
    let mut written = Vec::new();
    while let Ok(Parsed::Op { op, consumed }) = parse_client(bytes, &LIMITS) {
        bytes = &bytes[consumed..];
        // An empty CONNECT or -ERR reads as something else once it is written with a blank.
        if matches!(op, ClientOp::Connect(_) | ClientOp::Err(_) | ClientOp::Ignored) {
            continue;
        }
        written.clear();
        write_client(&mut written, &op);
        let again = parse_client(&written, &Limits::default());
        assert_eq!(again, Ok(Parsed::Op { op, consumed: written.len() }));
    }
}
