//! The trie after any history of changes finds exactly who a list of filters, tried one by one, finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_broker_proto::Sublist;
use ostler_fuzz::{is_filter, matches};

/// One entry of the list the trie is compared with.
struct Held<'a> {
    id: u64,
    filter: &'a [u8],
    queue: Option<&'a [u8]>,
}

fuzz_target!(|input: &[u8]| {
    let mut trie: Sublist<u64> = Sublist::new();
    let mut list: Vec<Held<'_>> = Vec::new();
    // A line each: `+filter`, `+filter queue`, `-N` (remove the N-th held), anything else is a subject to look up.
    for (id, line) in input.split(|byte| *byte == b'\n').take(200).enumerate() {
        let id = id as u64;
        match line.split_first() {
            Some((b'+', rest)) => {
                let mut words = rest.split(|byte| *byte == b' ');
                let filter = words.next().unwrap_or_default();
                let queue = words.next();
                if is_filter(filter) {
                    let generation = trie.generation();
                    trie.insert(filter, queue, id, id);
                    assert_ne!(trie.generation(), generation, "a change must be seen by caches");
                    list.push(Held { id, filter, queue });
                }
            }
            Some((b'-', rest)) => {
                let at =
                    rest.iter().fold(0usize, |at, byte| at.wrapping_mul(10).wrapping_add(usize::from(*byte)));
                if list.is_empty() {
                    assert_eq!(trie.remove(rest, None, id), None);
                } else {
                    let victim = list.remove(at % list.len());
                    let generation = trie.generation();
                    assert_eq!(trie.remove(victim.filter, victim.queue, victim.id), Some(victim.id));
                    assert_ne!(trie.generation(), generation, "a change must be seen by caches");
                    assert_eq!(
                        trie.remove(victim.filter, victim.queue, victim.id),
                        None,
                        "it was there twice"
                    );
                }
            }
            _ => look_up(&trie, &list, line),
        }
        assert_eq!((trie.len(), trie.is_empty()), (list.len(), list.is_empty()));
    }
    // What is left can be taken out, and then nothing is left.
    for held in list.drain(..) {
        assert_eq!(trie.remove(held.filter, held.queue, held.id), Some(held.id));
    }
    assert!(trie.is_empty());
});

fn look_up(trie: &Sublist<u64>, list: &[Held<'_>], subject: &[u8]) {
    let found = trie.matches(subject);
    let naive = |queue: Option<&[u8]>| -> Vec<u64> {
        list.iter()
            .filter(|held| held.queue == queue && matches(held.filter, subject))
            .map(|held| held.id)
            .collect()
    };
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(sorted(found.plain), naive(None));
    let mut names: Vec<&[u8]> =
        list.iter().filter(|held| matches(held.filter, subject)).filter_map(|held| held.queue).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(found.queues.len(), names.len(), "a group is missing or there twice");
    for group in found.queues {
        assert_eq!(sorted(group.members), naive(Some(&group.queue)));
    }
}
