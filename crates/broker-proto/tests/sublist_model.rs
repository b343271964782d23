//! The trie finds exactly what comparing every filter one by one finds, through any history of changes.
#![cfg(test)]

use ostler_broker_proto::{Sublist, subject};
use proptest::prelude::*;

fn subject_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..5)
        .prop_map(|parts| parts.join("."))
}

fn filter_text() -> impl Strategy<Value = String> {
    (
        proptest::collection::vec(prop_oneof![4 => Just("a"), 3 => Just("b"), 2 => Just("*")], 0..4),
        any::<bool>(),
    )
        .prop_map(|(mut parts, tail)| {
            if tail || parts.is_empty() {
                parts.push(">");
            }
            parts.join(".")
        })
}

type Change = (bool, String, Option<u8>);

proptest! {
    #[test]
    fn trie_and_naive_matcher_agree(
        changes in proptest::collection::vec((proptest::bool::weighted(0.7), filter_text(), proptest::option::of(0u8..2)), 1..40),
        subjects in proptest::collection::vec(subject_text(), 1..10),
    ) {
        let mut trie = Sublist::new();
        let mut model: Vec<(usize, String, Option<u8>)> = Vec::new();
        for (id, (add, filter, group)) in (changes as Vec<Change>).into_iter().enumerate() {
            let queue = group.map(|group| [b'q', b'0' + group]);
            if add {
                trie.insert(filter.as_bytes(), queue.as_ref().map(<[u8; 2]>::as_slice), id as u64, id);
                model.push((id, filter, group));
            } else if let Some(at) = model.iter().position(|(_, f, g)| *f == filter && *g == group) {
                let (victim, ..) = model.remove(at);
                let removed = trie.remove(filter.as_bytes(), queue.as_ref().map(<[u8; 2]>::as_slice), victim as u64);
                prop_assert_eq!(removed, Some(victim));
            }
            prop_assert_eq!(trie.len(), model.len());
        }
        for wanted in subjects {
            let found = trie.matches(wanted.as_bytes());
            let mut plain = found.plain;
            plain.sort_unstable();
            let naive = |group: Option<u8>| -> Vec<usize> {
                model.iter().filter(|(_, f, g)| *g == group && subject::matches(f.as_bytes(), wanted.as_bytes())).map(|m| m.0).collect()
            };
            prop_assert_eq!(plain, naive(None));
            for group in 0..2u8 {
                let mut members = found.queues.iter().find(|q| *q.queue == [b'q', b'0' + group]).map(|q| q.members.clone()).unwrap_or_default();
                members.sort_unstable();
                prop_assert_eq!(members, naive(Some(group)));
            }
            prop_assert!(found.queues.iter().all(|q| !q.members.is_empty()));
        }
    }

    #[test]
    fn covering_and_overlapping_agree_with_matching(outer in filter_text(), inner in filter_text(), literal in subject_text()) {
        let (outer, inner, literal) = (outer.as_bytes(), inner.as_bytes(), literal.as_bytes());
        if subject::covers(outer, inner) && subject::matches(inner, literal) {
            prop_assert!(subject::matches(outer, literal));
        }
        if subject::matches(outer, literal) && subject::matches(inner, literal) {
            prop_assert!(subject::overlaps(outer, inner));
        }
        if subject::covers(outer, inner) {
            prop_assert!(subject::overlaps(outer, inner));
        }
    }
}
