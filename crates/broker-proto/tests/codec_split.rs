//! A stream of operations means the same however it is cut into reads.
#![cfg(test)]

use ostler_broker_proto::codec::write_client;
use ostler_broker_proto::{ClientOp, Limits, Parsed, ProtocolError, Publish, parse_client};
use proptest::prelude::*;

/// Feeds `bytes` in pieces ending at `cuts`, the way a connection does; renders each operation.
fn feed(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Option<ProtocolError>) {
    let limits = Limits::default();
    let (mut ops, mut from, mut needed) = (Vec::new(), 0, 1);
    for &until in cuts.iter().chain([&bytes.len()]) {
        while until - from >= needed {
            match parse_client(&bytes[from..until], &limits) {
                Ok(Parsed::Op { op, consumed }) => {
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

const STREAM: &[u8] = b"CONNECT {\"verbose\":false}\r\nping\r\nSUB a.> q 1\r\nPUB a.b 0\r\n\r\nPUB  a.b\tinbox.1  5 \r\nhe\r\no\r\n\
hpub a.b 12 17\nNATS/1.0\r\n\r\nhello\r\nUNSUB 1 7\r\nPONG\r\n+OK\r\n-ERR 'x'\r\n";

#[test]
fn every_split_into_two_reads_gives_the_same_operations() {
    let whole = feed(STREAM, &[]);
    assert_eq!((whole.0.len(), whole.1), (10, None));
    for cut in 0..=STREAM.len() {
        assert_eq!(feed(STREAM, &[cut]), whole, "cut at {cut}");
    }
}

#[test]
fn one_byte_per_read_gives_the_same_operations() {
    let cuts: Vec<usize> = (0..STREAM.len()).collect();
    assert_eq!(feed(STREAM, &cuts), feed(STREAM, &[]));
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![b'a'..=b'z', Just(b'.'), Just(b'*')], 1..12)
}

#[derive(Debug, Clone)]
enum Owned {
    Ping,
    Sub(Vec<u8>, Option<Vec<u8>>, Vec<u8>),
    Unsub(Vec<u8>, Option<u64>),
    Pub(Vec<u8>, Option<Vec<u8>>, Option<usize>, Vec<u8>),
}

fn owned() -> impl Strategy<Value = Owned> {
    prop_oneof![
        Just(Owned::Ping),
        (token(), proptest::option::of(token()), token()).prop_map(|(f, q, s)| Owned::Sub(f, q, s)),
        (token(), proptest::option::of(1u64..1000)).prop_map(|(s, m)| Owned::Unsub(s, m)),
        (
            token(),
            proptest::option::of(token()),
            any::<bool>(),
            proptest::collection::vec(any::<u8>(), 0..64)
        )
            .prop_map(|(s, r, headers, body)| Owned::Pub(
                s,
                r,
                headers.then_some(body.len() / 2),
                body
            )),
    ]
}

fn with_op<R>(owned: &Owned, use_it: impl FnOnce(ClientOp<'_>) -> R) -> R {
    match owned {
        Owned::Ping => use_it(ClientOp::Ping),
        Owned::Sub(filter, queue, sid) => use_it(ClientOp::Sub { filter, queue: queue.as_deref(), sid }),
        Owned::Unsub(sid, max) => use_it(ClientOp::Unsub { sid, max: *max }),
        Owned::Pub(subject, reply, header_len, body) => {
            let body_crlf = [body.as_slice(), b"\r\n"].concat();
            use_it(ClientOp::Pub(Publish {
                subject,
                reply: reply.as_deref(),
                header_len: *header_len,
                body,
                body_crlf: &body_crlf,
            }))
        }
    }
}

proptest! {
    #[test]
    fn written_operations_are_read_back_at_any_cut(
        ops in proptest::collection::vec(owned(), 1..8),
        mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for op in &ops {
            with_op(op, |op| { write_client(&mut bytes, &op); expected.push(format!("{op:?}")); });
        }
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(feed(&bytes, &cuts), (expected, None));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_always_make_progress(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes, &[]);
    }

    #[test]
    fn arbitrary_arguments_never_panic(verb in "(PUB|HPUB|SUB|UNSUB|CONNECT|PING|MSG) ", rest in "[ -~\r\n]{0,60}") {
        feed(format!("{verb}{rest}").as_bytes(), &[]);
        let _ = ostler_broker_proto::parse_server(format!("{verb}{rest}").as_bytes());
    }
}
