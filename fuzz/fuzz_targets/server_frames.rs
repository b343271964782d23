//! What servers send, read by the client's half of the codec: no panic, always progress, and readable again once
//! written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_broker_proto::codec::write_server;
use ostler_broker_proto::{Parsed, ServerOp, parse_server};

fuzz_target!(|input: &[u8]| {
    let mut bytes = input;
    loop {
        match parse_server(bytes) {
            Ok(Parsed::Op { op, consumed }) => {
                assert!(consumed > 0 && consumed <= bytes.len(), "consumed what was not there");
                if let ServerOp::Msg(_) | ServerOp::Ping | ServerOp::Pong | ServerOp::Ok = op {
                    let mut written = Vec::new();
                    write_server(&mut written, &op);
                    assert_eq!(parse_server(&written), Ok(Parsed::Op { op, consumed: written.len() }));
                }
                bytes = &bytes[consumed..];
            }
            Ok(Parsed::Incomplete { needed }) => {
                assert!(needed > bytes.len(), "must ask for more than there is");
                return;
            }
            Err(_) => return,
        }
    }
});
