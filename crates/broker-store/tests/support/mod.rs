//! A stream as simple as it can be, and random calls to compare it with the real one. No store code here.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use ostler_broker_proto::subject::Filter;
use ostler_broker_store::{NewMessage, Selection, Store};

/// How many times more than in the suite; set by hand for a long run.
pub(crate) fn effort() -> u32 {
    std::env::var("OSTLER_STORE_EFFORT").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A message as the model keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) subject: Vec<u8>,
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) time_ns: i64,
    pub(crate) expires_ns: Option<i64>,
}

impl Kept {
    pub(crate) fn new_message(&self) -> NewMessage<'_> {
        NewMessage {
            subject: &self.subject,
            headers: &self.headers,
            payload: &self.payload,
            time_ns: self.time_ns,
            expires_ns: self.expires_ns,
        }
    }
}

/// The whole stream in a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) messages: BTreeMap<u64, Kept>,
    pub(crate) last_seq: u64,
}

impl Model {
    pub(crate) fn append(&mut self, seq: u64, kept: Kept) {
        self.messages.insert(seq, kept);
        self.last_seq = seq;
    }

    pub(crate) fn first_seq(&self) -> u64 {
        self.messages.keys().next().copied().unwrap_or(self.last_seq + 1)
    }

    pub(crate) fn matching(&self, filters: &[Filter], from: u64) -> Vec<u64> {
        self.messages
            .range(from..)
            .filter(|(_, kept)| matches(filters, &kept.subject))
            .map(|(seq, _)| *seq)
            .collect()
    }

    pub(crate) fn last_per_subject(&self, filters: &[Filter], up_to: u64) -> Vec<u64> {
        let mut last = BTreeMap::new();
        for (seq, kept) in self.messages.range(..=up_to) {
            if matches(filters, &kept.subject) {
                last.insert(&kept.subject, *seq);
            }
        }
        let mut last: Vec<u64> = last.into_values().collect();
        last.sort_unstable();
        last
    }

    pub(crate) fn purge(&mut self, filters: &[Filter], before: u64, keep: u64) -> u64 {
        let chosen = self.matching(filters, 0);
        let kept = chosen.len().saturating_sub(keep as usize);
        let victims: Vec<u64> = chosen[..kept].iter().copied().filter(|&seq| seq < before).collect();
        for seq in &victims {
            self.messages.remove(seq);
        }
        victims.len() as u64
    }

    pub(crate) fn bytes(&self, file: bool) -> u64 {
        let each = self.messages.values().map(|kept| {
            let content = (kept.subject.len() + kept.headers.len() + kept.payload.len()) as u64;
            match (file, kept.headers.is_empty()) {
                (true, true) => content + 30,
                (true, false) => content + 34,
                (false, _) => content + 16,
            }
        });
        each.sum()
    }
}

pub(crate) fn matches(filters: &[Filter], subject: &[u8]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(subject))
}

pub(crate) fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::parse(text).expect("a filter")).collect()
}

/// Everything a reader can ask, compared.
pub(crate) fn assert_same(store: &mut Store, model: &Model) {
    let state = store.state();
    assert_eq!(state.last_seq, model.last_seq, "last sequence");
    assert_eq!(state.first_seq, model.first_seq(), "first sequence");
    assert_eq!(state.msgs, model.messages.len() as u64, "messages");
    assert_eq!(state.bytes, model.bytes(store.is_file()), "bytes");
    assert_eq!(state.lost, 0, "{:?}", store.findings());
    for (seq, kept) in &model.messages {
        let message =
            store.get(*seq).expect("readable").unwrap_or_else(|| panic!("message {seq} is missing"));
        assert_eq!(
            (message.subject, message.headers, message.payload, message.time_ns, message.expires_ns),
            (&kept.subject[..], &kept.headers[..], &kept.payload[..], kept.time_ns, kept.expires_ns),
            "message {seq}"
        );
    }
    let present: Vec<u64> = (state.first_seq..=state.last_seq)
        .filter(|seq| !model.messages.contains_key(seq))
        .take(10_000)
        .collect();
    assert_eq!(store.deleted(10_000), present, "deleted");
    for texts in [&[][..], &["a"], &["a.*"], &["b.1", "c.>"], &["none"], &["*.1"], &["a.1"]] {
        assert_same_selection(store, model, texts);
    }
    let expired: Vec<i64> = model.messages.values().filter_map(|kept| kept.expires_ns).collect();
    assert_eq!(store.next_expiry(), expired.into_iter().min(), "next expiry");
}

fn assert_same_selection(store: &mut Store, model: &Model, texts: &[&str]) {
    let filters = filters(texts);
    let mut selection = Selection::new(filters.clone());
    let middle = model.first_seq() + (model.last_seq.saturating_sub(model.first_seq())) / 2;
    for from in [0, model.first_seq() + 1, middle, model.last_seq, model.last_seq + 1] {
        let expected = model.matching(&filters, from);
        let mut found = Vec::new();
        let mut at = from;
        while let Some(seq) = store.next(&mut selection, at) {
            found.push(seq);
            at = seq + 1;
        }
        assert_eq!(found, expected, "next {texts:?} from {from}");
        assert_eq!(
            store.num_pending(&mut selection, from, false),
            expected.len() as u64,
            "pending {texts:?} {from}"
        );
        let last: Vec<u64> = model.last_per_subject(&filters, u64::MAX);
        let last_pending = last.iter().filter(|&&seq| seq >= from).count() as u64;
        assert_eq!(
            store.num_pending(&mut selection, from, true),
            last_pending,
            "last pending {texts:?} {from}"
        );
        assert_eq!(
            store.last_per_subject(&mut selection, from),
            model.last_per_subject(&filters, from),
            "last per subject {texts:?} up to {from}"
        );
    }
    let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
    for kept in model.messages.values().filter(|kept| matches(&filters, &kept.subject)) {
        *counts.entry(&kept.subject).or_default() += 1;
    }
    let page = store.subjects(&mut selection, 1, 3);
    assert_eq!(page.total, counts.len());
    let expected: Vec<(Box<[u8]>, u64)> =
        counts.into_iter().skip(1).take(3).map(|(name, count)| (name.into(), count)).collect();
    assert_eq!(page.items, expected, "subjects {texts:?}");
}
