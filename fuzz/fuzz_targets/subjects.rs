//! Subjects and filters: validity, matching, covering and overlapping against second opinions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_broker_proto::subject;
use ostler_fuzz::{is_filter, matches, pieces, tokens};

fuzz_target!(|input: &[u8]| {
    // A line each: two filters and a subject.
    let [left, right, literal] = pieces(input, b'\n', 3)[..] else { return };
    // The oracles below are exact for lengths a control line allows.
    if input.len() > 4096 {
        return;
    }
    for filter in [left, right, literal] {
        assert_eq!(subject::is_filter(filter), is_filter(filter), "{}", filter.escape_ascii());
        let wild = tokens(filter).iter().any(|token| *token == b"*" || *token == b">");
        assert_eq!(subject::has_wildcard(filter), wild);
        assert_eq!(subject::is_literal(filter), is_filter(filter) && !wild);
        if subject::is_readable(filter) {
            assert_eq!(
                String::from_utf8(filter.to_vec()).expect("text").split_whitespace().count().max(1),
                1
            );
        }
    }
    for filter in [left, right] {
        if is_filter(filter) {
            assert_eq!(subject::matches(filter, literal), matches(filter, literal));
        }
    }
    if is_filter(left) && is_filter(right) {
        assert_eq!(subject::covers(left, right), covers(left, right));
        assert_eq!(subject::overlaps(left, right), overlaps(left, right));
        assert_eq!(subject::overlaps(right, left), overlaps(left, right));
    }
});

/// A token that occurs in neither filter: it is longer than both.
fn fresh(left: &[u8], right: &[u8]) -> Vec<u8> {
    vec![b'x'; left.len().max(right.len()) + 1]
}

/// `outer` covers `inner` when it matches the most general subjects that `inner` matches: with a token nobody named in
/// place of each wildcard, and with the shortest and a long tail.
fn covers(outer: &[u8], inner: &[u8]) -> bool {
    let unknown = fresh(outer, inner);
    let long = tokens(outer).len() + 1;
    let with_tail = |tail: usize| {
        let parts = tokens(inner).into_iter().flat_map(|token| match token {
            b"*" => vec![unknown.as_slice()],
            b">" => vec![unknown.as_slice(); tail],
            token => vec![token],
        });
        parts.collect::<Vec<_>>().join(&b'.')
    };
    matches(outer, &with_tail(1)) && matches(outer, &with_tail(long))
}

/// Two filters overlap when the subject that obeys both as far as possible is matched by both.
fn overlaps(left: &[u8], right: &[u8]) -> bool {
    let unknown = fresh(left, right);
    let (l, r) = (tokens(left), tokens(right));
    let mut parts: Vec<&[u8]> = Vec::new();
    for at in 0..l.len().max(r.len()) {
        let named =
            [l.get(at), r.get(at)].into_iter().flatten().find(|token| **token != b"*" && **token != b">");
        parts.push(named.copied().unwrap_or(&unknown));
    }
    let witness = parts.join(&b'.');
    matches(left, &witness) && matches(right, &witness)
}
