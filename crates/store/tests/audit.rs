//! The audit's chain: numbered without a gap, each entry with the hash of the one before, kept until it is stored.
#![allow(clippy::unwrap_used, reason = "a test's helper may give up like the test itself")]

use std::path::Path;

use ostler_store::{AUDIT_WAITING_MAX, AuditFact, Store, WaitingEntry, Write};
use ostler_wire::{
    AUDIT_HASH_NONE, AgentId, AuditEntry, AuditStatus, JsonMap, NodeId, Timestamp, audit_hash,
};

#[tokio::test]
async fn every_entry_carries_the_hash_of_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![fact("one"), fact("two")]).await.unwrap();
    drop(store);
    let store = open(dir.path());
    store.commit(vec![fact("three")]).await.unwrap();

    let waiting = waiting(&store);
    let mut prev = AUDIT_HASH_NONE.to_owned();
    for (index, waiting) in waiting.iter().enumerate() {
        let entry = entry(waiting);
        assert_eq!((entry.seq, &entry.prev), (index as u64 + 1, &prev));
        assert_eq!(waiting.hash, audit_hash(waiting.payload.as_bytes()));
        assert_eq!(waiting.subject, "audit.box.agent.a");
        prev.clone_from(&waiting.hash);
    }
    assert_eq!(waiting.len(), 3);
    assert_eq!(status(&store).seq, 3);
}

#[tokio::test]
async fn what_the_bus_keeps_waits_no_more_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![fact("one"), fact("two"), fact("three")]).await.unwrap();
    let second = waiting(&store)[1].clone();
    store.commit(vec![stored(2, &second.hash)]).await.unwrap();
    assert_eq!(waiting(&store).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3]);
    let status = status(&store);
    assert_eq!((status.seq, status.stored, status.waiting()), (3, 2, 1));
    assert_eq!(status.stored_hash, second.hash);
    assert_eq!((status.stored_stream_seq, status.stored_at), (12, Some(Timestamp::UNIX_EPOCH)));
}

#[tokio::test]
async fn a_batch_that_fails_leaves_no_entry_and_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![fact("one")]).await.unwrap();
    let event: ostler_wire::EventRecord = serde_json::from_value(serde_json::json!({
        "seq": 1, "timestamp": Timestamp::UNIX_EPOCH, "kind": "k", "text": "t" }))
    .unwrap();
    let twice = vec![fact("never"), Write::AppendEvent(event.clone()), Write::AppendEvent(event)];
    store.commit(twice).await.unwrap_err();
    store.commit(vec![fact("two")]).await.unwrap();
    let texts: Vec<_> =
        waiting(&store).iter().map(|waiting| (entry(waiting).seq, entry(waiting).text)).collect();
    assert_eq!(texts, [(1, "one".to_owned()), (2, "two".to_owned())]);
}

#[tokio::test]
async fn what_happens_while_too_much_waits_is_counted_and_told_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..AUDIT_WAITING_MAX / 10_000 {
        store.commit(vec![fact("x"); 10_000]).await.unwrap();
    }
    assert_eq!(status(&store).waiting(), AUDIT_WAITING_MAX);
    store.commit(vec![fact("lost"), fact("lost")]).await.unwrap();
    assert_eq!((status(&store).seq, status(&store).lost), (AUDIT_WAITING_MAX, 2));

    let last = store.read(|reader| reader.audit_waiting_hash(AUDIT_WAITING_MAX)).unwrap().unwrap();
    store.commit(vec![stored(AUDIT_WAITING_MAX, &last)]).await.unwrap();
    store.commit(vec![fact("after")]).await.unwrap();
    let told = waiting(&store);
    assert_eq!((entry(&told[0]).kind.as_str(), entry(&told[0]).prev), ("audit.lost", last));
    assert_eq!(entry(&told[0]).details["lost"], 2);
    assert_eq!(entry(&told[1]).text, "after");
    assert_eq!(status(&store).lost, 0);
}

#[tokio::test]
async fn a_new_chain_begins_at_one_and_says_what_the_old_one_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![fact("one"), fact("two")]).await.unwrap();
    let old = status(&store).chain;
    store.commit(vec![Write::RenewAudit(Timestamp::UNIX_EPOCH), fact("first")]).await.unwrap();
    let entries: Vec<AuditEntry> = waiting(&store).iter().map(entry).collect();
    assert_eq!((entries[0].seq, entries[0].kind.as_str()), (1, "audit.lost"));
    assert_eq!((entries[1].seq, entries[1].text.as_str()), (2, "first"));
    assert_ne!(entries[0].chain, old);
    assert_eq!(entries[0].prev, AUDIT_HASH_NONE);
}

fn stored(seq: u64, hash: &str) -> Write {
    Write::AuditStored { seq, hash: hash.to_owned(), stream_seq: seq + 10, at: Timestamp::UNIX_EPOCH }
}

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("ostler.db")).unwrap()
}

fn waiting(store: &Store) -> Vec<WaitingEntry> {
    store.read(|reader| reader.audit_waiting(10)).unwrap()
}

fn entry(waiting: &WaitingEntry) -> AuditEntry {
    serde_json::from_str(&waiting.payload).unwrap()
}

fn status(store: &Store) -> AuditStatus {
    store.read(|reader| reader.audit_status()).unwrap()
}

fn fact(text: &str) -> Write {
    Write::AppendAudit(Box::new(AuditFact {
        node: NodeId::parse("box").unwrap(),
        timestamp: Timestamp::UNIX_EPOCH,
        kind: "k".into(),
        agent_id: Some(AgentId::parse("a").unwrap()),
        by: None,
        text: text.into(),
        details: JsonMap::new(),
    }))
}
