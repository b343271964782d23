//! What a hostile or broken sender may send: samples cut, overwritten and with fields of the wrong type.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::sample::fixtures;

#[test]
fn a_field_of_the_wrong_type_is_refused_and_the_refusal_names_the_message() {
    for fixture in fixtures() {
        for field in fixture.json().as_object().unwrap().keys() {
            let mut json = fixture.json();
            json[field] = json!([[{ "never": "this" }]]);
            let refusal = match (fixture.message.read_back)(&serde_json::to_vec(&json).unwrap()) {
                // A field that takes any JSON.
                Ok(written) => {
                    assert_eq!(written[field], json[field], "{} with {field}", fixture.file);
                    continue;
                }
                Err(refusal) => refusal,
            };
            let text = refusal.error.message;
            assert!(text.starts_with(fixture.message.name), "{}: {text}", fixture.file);
        }
    }
}

#[test]
fn a_payload_that_is_no_object_is_refused() {
    for fixture in fixtures() {
        for payload in [&b""[..], b"null", b"[]", b"7", b"\"x\"", b"\xff\xfe", b"{", b"{}}"] {
            assert!(
                (fixture.message.read_back)(payload).is_err(),
                "{} from {payload:?}",
                fixture.message.name
            );
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(which: Index, at: Index, byte: u8, cut: Index) {
        let fixtures = fixtures();
        let fixture = which.get(&fixtures);
        let mut bytes = fixture.text.clone().into_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        // What is accepted in spite of it reads back as what was written.
        if let Ok(written) = (fixture.message.read_back)(&bytes) {
            let again: Value = (fixture.message.read_back)(&serde_json::to_vec(&written).unwrap()).unwrap();
            prop_assert_eq!(again, written);
        }
    }
}
