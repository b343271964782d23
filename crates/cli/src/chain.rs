//! Checks the hash chains of a node's audit: messages of the stream in, a verdict out. Reads nothing itself.

use std::collections::BTreeMap;

use ostler_client::Stored;
use ostler_wire::{AUDIT_HASH_NONE, AuditEntry, AuditStatus, AuditStream, NodeId, Timestamp, audit_hash};
use serde::Serialize;

/// Faults that are told one by one; the first is what matters.
const FAULTS_MAX: usize = 20;

/// The code of the alert by which the daemon tells that the stream does not end where its chain does.
const TAMPERED: &str = "audit_broken";

/// An entry whose hash somebody noted elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

impl std::str::FromStr for Noted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no entry and hash; write them as verify printed them: 42:9f86d0…");
        let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
        let seq = seq.parse().map_err(|_| wrong())?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash { Ok(Self { seq, hash: hash.to_ascii_lowercase() }) } else { Err(wrong()) }
    }
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// The entry's number in its chain, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entry: Option<u64>,
    /// The message's number in the stream, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream_seq: Option<u64>,
    /// What is wrong.
    pub(crate) text: String,
}

/// What the check of one chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Chain {
    pub(crate) chain: String,
    /// The first entry that is there; from it on the chain is checked.
    pub(crate) first: u64,
    /// The last one.
    pub(crate) last: u64,
    /// Its hash.
    pub(crate) hash: String,
    /// How many there are.
    pub(crate) entries: u64,
}

/// What the whole check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) node: NodeId,
    pub(crate) intact: bool,
    pub(crate) entries: u64,
    /// The chains in the order in which they began; the last is the node's present one.
    pub(crate) chains: Vec<Chain>,
    /// The first faults.
    pub(crate) faults: Vec<Fault>,
    /// How many there are.
    pub(crate) faults_found: u64,
    /// What the check rests on, and what it could not check.
    pub(crate) notes: Vec<String>,
}

/// What is asked once the stream was read.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// What is known of the stream.
    pub(crate) stream: Option<AuditStream>,
    /// The number of the last entry that the node has written by then.
    pub(crate) seq: Option<u64>,
    /// The time by then.
    pub(crate) now: Timestamp,
}

impl After {
    fn may_have_gone(&self, status: &AuditStatus) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| !status.is_elsewhere(stream) && status.may_have_gone(stream, self.now))
    }
}

/// A check under way.
pub(crate) struct Check {
    node: NodeId,
    status: Option<AuditStatus>,
    noted: Vec<Noted>,
    chains: Vec<Chain>,
    /// The hashes of the entries of the node's present chain that somebody asked for.
    seen: BTreeMap<u64, String>,
    faults: Vec<Fault>,
    faults_found: u64,
    /// What the daemon noticed by itself, and told.
    notices: Vec<String>,
}

impl Check {
    /// Begins with what the node says of its chain, which was asked for before the stream is read.
    pub(crate) fn new(node: NodeId, status: Option<AuditStatus>, noted: Vec<Noted>) -> Self {
        Self {
            node,
            status,
            noted,
            chains: Vec::new(),
            seen: BTreeMap::new(),
            faults: Vec::new(),
            faults_found: 0,
            notices: Vec::new(),
        }
    }

    /// The number of the last entry of the node's present chain that was taken.
    pub(crate) fn last(&self) -> u64 {
        self.present().map_or(0, |chain| chain.last)
    }

    /// Takes the next message of the stream.
    pub(crate) fn take(&mut self, stored: &Stored) {
        let at = Some(stored.seq);
        let entry = match AuditEntry::read(&stored.payload) {
            Ok(entry) => entry,
            Err(error) => return self.fault(None, at, format!("this message is no entry: {error}")),
        };
        let seq = Some(entry.seq);
        if entry.subject().to_string() != stored.subject || entry.node != self.node {
            let text = format!("it stands on {}, and says it belongs on {}", stored.subject, entry.subject());
            self.fault(seq, at, text);
        }
        let hash = audit_hash(&stored.payload);
        match &stored.header {
            Some(told) if *told == hash => {}
            Some(_) => self.fault(seq, at, "its content is not what its hash says".to_owned()),
            None => self.fault(seq, at, "it has no hash".to_owned()),
        }
        self.link(&entry, &hash, stored.seq);
        if entry.details.get("code").is_some_and(|code| code == TAMPERED) && self.notices.len() < FAULTS_MAX {
            self.notices.push(format!("the daemon noticed at entry {}: {}", entry.seq, entry.text));
        }
        let is_present = self.status.as_ref().is_none_or(|status| status.chain == entry.chain);
        let is_stored = self.status.as_ref().is_some_and(|status| status.stored == entry.seq);
        if is_present && (is_stored || self.noted.iter().any(|noted| noted.seq == entry.seq)) {
            self.seen.insert(entry.seq, hash);
        }
    }

    /// Joins an entry to its chain.
    fn link(&mut self, entry: &AuditEntry, hash: &str, stream_seq: u64) {
        let (seq, at) = (Some(entry.seq), Some(stream_seq));
        if let Some(present) = self.status.as_ref().map(|status| &status.chain)
            && *present != entry.chain
            && self.chains.iter().any(|chain| chain.chain == *present)
        {
            let text = format!(
                "it is of chain {} and stands behind entries of the node's own: somebody put it in",
                short(&entry.chain)
            );
            self.fault(seq, at, text);
        }
        let found = self.chains.iter().position(|chain| chain.chain == entry.chain);
        let Some(chain) = found.map(|index| &mut self.chains[index]) else {
            // Every entry before it was a message of the stream before it, whether its limits took it or not.
            if stream_seq < entry.seq {
                let text = format!(
                    "it is message {stream_seq} of the stream: the {} entries before it cannot have been in it, the \
                     stream was made anew",
                    entry.seq - 1
                );
                self.fault(seq, at, text);
            }
            if entry.seq == 1 && entry.prev != AUDIT_HASH_NONE {
                self.fault(seq, at, "it is the first entry and names one before it".to_owned());
            }
            self.chains.push(Chain {
                chain: entry.chain.clone(),
                first: entry.seq,
                last: entry.seq,
                hash: hash.to_owned(),
                entries: 1,
            });
            return;
        };
        let (last, last_hash) = (chain.last, std::mem::replace(&mut chain.hash, hash.to_owned()));
        chain.entries += 1;
        chain.last = entry.seq;
        if entry.seq == last + 1 {
            if entry.prev != last_hash {
                let text = format!("it does not follow entry {last}: one of the two was changed");
                self.fault(seq, at, text);
            }
        } else if entry.seq > last {
            self.fault(seq, at, format!("{} before it", missing(last + 1, entry.seq - 1)));
        } else {
            self.fault(seq, at, format!("it comes behind entry {last}: it is there twice, or was moved"));
        }
    }

    /// Compares the end with what the node knows, and concludes. `after` is what is known behind the last message.
    pub(crate) fn finish(mut self, after: &After) -> Verdict {
        let mut notes = std::mem::take(&mut self.notices);
        self.compare_with_node(after, &mut notes);
        for noted in std::mem::take(&mut self.noted) {
            let Noted { seq, hash } = noted;
            match self.seen.get(&seq) {
                Some(found) if *found == hash => notes.push(format!("entry {seq} is the one that was noted")),
                Some(_) => self.fault(Some(seq), None, "it is not the one that was noted".to_owned()),
                None => self.fault(Some(seq), None, "it was noted, and is not there".to_owned()),
            }
        }
        for chain in &self.chains {
            if chain.first > 1 {
                notes.push(format!(
                    "chain {} is checked from entry {} on: {} for the stream's limits",
                    short(&chain.chain),
                    chain.first,
                    went(1, chain.first - 1)
                ));
            }
            if self.status.as_ref().is_some_and(|status| status.chain != chain.chain) {
                notes.push(format!(
                    "chain {} is of an earlier database: nobody knows whether it ended at entry {}",
                    short(&chain.chain),
                    chain.last
                ));
            }
        }
        // The node's own is the last, whatever was put in behind it.
        if let Some(status) = &self.status {
            self.chains.sort_by_key(|chain| chain.chain == status.chain);
        }
        Verdict {
            node: self.node,
            intact: self.faults_found == 0,
            entries: self.chains.iter().map(|chain| chain.entries).sum(),
            chains: self.chains,
            faults: self.faults,
            faults_found: self.faults_found,
            notes,
        }
    }

    fn compare_with_node(&mut self, after: &After, notes: &mut Vec<String>) {
        let Some(status) = self.status.clone() else {
            notes.push("the node keeps no audit at the moment: where its chain ends is not known".to_owned());
            return;
        };
        let last = self.last();
        if let Some(stream) = after.stream.as_ref().filter(|stream| status.is_elsewhere(stream)) {
            let text = format!(
                "the stream was made at {}, and is not the one the node stored its entries in",
                stream.created
            );
            self.fault(None, None, text);
        }
        if let Some(seq) = after.seq.filter(|seq| last > *seq) {
            self.fault(Some(seq + 1), None, "the node never wrote it".to_owned());
        }
        if last < status.stored && last == 0 && after.may_have_gone(&status) {
            notes.push(format!("{} for the stream's limits", went(1, status.stored)));
        } else if last < status.stored {
            self.fault(None, None, format!("{} at the end of the stream", missing(last + 1, status.stored)));
        } else if status.stored > 0 {
            match self.seen.get(&status.stored) {
                Some(hash) if *hash == status.stored_hash => {}
                Some(_) => {
                    let text = "it is not the one the node stored: the chain was written anew".to_owned();
                    self.fault(Some(status.stored), None, text);
                }
                None => {
                    self.fault(Some(status.stored), None, "the node stored it, and it is gone".to_owned());
                }
            }
        }
        if status.waiting() > 0 {
            notes.push(format!("{} more wait in the node's database to be stored", status.waiting()));
        }
        if status.lost > 0 {
            notes.push(format!("{} things happened while too many waited; no entry tells them", status.lost));
        }
    }

    fn present(&self) -> Option<&Chain> {
        match &self.status {
            Some(status) => self.chains.iter().find(|chain| chain.chain == status.chain),
            None => self.chains.last(),
        }
    }

    fn fault(&mut self, entry: Option<u64>, stream_seq: Option<u64>, text: String) {
        self.faults_found += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { entry, stream_seq, text });
        }
    }
}

fn missing(first: u64, last: u64) -> String {
    if first == last {
        format!("entry {first} is missing")
    } else {
        format!("entries {first} to {last} are missing")
    }
}

fn went(first: u64, last: u64) -> String {
    if first == last { format!("entry {first} went") } else { format!("entries {first} to {last} went") }
}

/// As much of a chain's name as a person compares.
pub(crate) fn short(chain: &str) -> &str {
    chain.get(..8).unwrap_or(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody may have done to a stream, on the messages of a chain of five and what the node knows of it.
    fn verdict_after(change: impl FnOnce(&mut Vec<Stored>)) -> Verdict {
        checked(change, Vec::new())
    }

    fn checked(change: impl FnOnce(&mut Vec<Stored>), noted: Vec<Noted>) -> Verdict {
        let mut messages = chain("c1", 5);
        let status = status_of(&messages);
        change(&mut messages);
        let mut check = Check::new(node(), Some(status), noted);
        messages.iter().for_each(|message| check.take(message));
        check.finish(&After::default())
    }

    fn node() -> NodeId {
        NodeId::parse("box").unwrap()
    }

    fn status_of(messages: &[Stored]) -> AuditStatus {
        AuditStatus {
            chain: "c1".into(),
            seq: messages.len() as u64,
            stored: messages.len() as u64,
            stored_hash: audit_hash(&messages.last().unwrap().payload),
            ..AuditStatus::default()
        }
    }

    fn chain(name: &str, entries: u64) -> Vec<Stored> {
        let mut prev = AUDIT_HASH_NONE.to_owned();
        let entry = |seq, prev: &str| {
            let json = serde_json::json!({ "seq": seq, "chain": name, "prev": prev, "node": "box",
                "timestamp": "2026-11-20T22:00:00Z", "kind": "k", "text": format!("text {seq}") });
            stored(seq, json.to_string())
        };
        (1..=entries)
            .map(|seq| {
                let message = entry(seq, &prev);
                prev = audit_hash(&message.payload);
                message
            })
            .collect()
    }

    fn stored(seq: u64, payload: String) -> Stored {
        Stored {
            seq,
            subject: "audit.box.node".into(),
            time: Timestamp::UNIX_EPOCH,
            header: Some(audit_hash(payload.as_bytes())),
            payload: payload.into(),
        }
    }

    /// Changes the payload, and the hash beside it as somebody would who knows how.
    fn rewrite(message: &mut Stored, from: &str, to: &str) {
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        assert!(text.contains(from), "{text}");
        *message = stored(message.seq, text.replace(from, to));
    }

    fn first_fault(found: &Verdict) -> (Option<u64>, &str) {
        assert!(!found.intact);
        (found.faults[0].entry, &found.faults[0].text)
    }

    #[test]
    fn an_untouched_chain_is_intact() {
        let found = verdict_after(|_| {});
        assert!(found.intact, "{:?}", found.faults);
        assert_eq!((found.entries, found.chains[0].last), (5, 5));
    }

    #[test]
    fn a_changed_entry_shows_whether_its_hash_was_changed_with_it_or_not() {
        let found = verdict_after(|messages| messages[2].payload = "{}".into());
        assert!(first_fault(&found).1.contains("no entry"));
        let found = verdict_after(|messages| {
            let told = messages[2].header.clone();
            rewrite(&mut messages[2], "text 3", "text X");
            messages[2].header = told;
        });
        assert_eq!(first_fault(&found), (Some(3), "its content is not what its hash says"));
        let found = verdict_after(|messages| rewrite(&mut messages[2], "text 3", "text X"));
        assert_eq!(first_fault(&found).0, Some(4), "the next one does not follow it");
    }

    #[test]
    fn a_chain_that_was_written_anew_to_its_end_shows_at_the_nodes_own_hash() {
        let found = verdict_after(|messages| {
            let mut prev = audit_hash(&messages[1].payload);
            for message in &mut messages[2..] {
                let text = String::from_utf8(message.payload.to_vec()).unwrap();
                let mut entry: AuditEntry = serde_json::from_str(&text).unwrap();
                (entry.text, entry.prev) = ("forged".into(), prev);
                *message = stored(message.seq, serde_json::to_string(&entry).unwrap());
                prev = audit_hash(&message.payload);
            }
        });
        assert_eq!(first_fault(&found).0, Some(5));
        assert!(first_fault(&found).1.contains("written anew"));
    }

    #[test]
    fn what_was_taken_out_is_named() {
        let found = verdict_after(|messages| drop(messages.drain(1..3)));
        assert_eq!(first_fault(&found), (Some(4), "entries 2 to 3 are missing before it"));
        let found = verdict_after(|messages| messages.truncate(3));
        assert_eq!(first_fault(&found), (None, "entries 4 to 5 are missing at the end of the stream"));
        let found = verdict_after(Vec::clear);
        assert_eq!(first_fault(&found), (None, "entries 1 to 5 are missing at the end of the stream"));
        let found = verdict_after(|messages| drop(messages.drain(..2)));
        assert!(found.intact, "limits take from the front");
        let made_anew = verdict_after(|messages| {
            messages.drain(..2);
            messages.iter_mut().for_each(|message| message.seq -= 2);
        });
        assert!(first_fault(&made_anew).1.contains("made anew"));
        assert!(found.notes.iter().any(|note| note.contains("from entry 3 on")), "{:?}", found.notes);
    }

    #[test]
    fn what_was_put_in_or_moved_shows() {
        let found = verdict_after(|messages| messages.insert(2, messages[1].clone()));
        assert!(first_fault(&found).1.contains("twice"));
        let found = verdict_after(|messages| messages.swap(1, 2));
        assert!(!found.intact);
        let found = verdict_after(|messages| messages[1].subject = "audit.box.agent.a".into());
        assert_eq!(first_fault(&found).0, Some(2));
        let found = verdict_after(|messages| messages.push(stored(6, "hello".into())));
        assert_eq!(found.faults[0].stream_seq, Some(6));
    }

    #[test]
    fn another_stream_in_its_place_shows() {
        let found = verdict_after(|messages| *messages = chain("c2", 9));
        assert!(first_fault(&found).1.contains("1 to 5 are missing"));
        assert!(found.notes.iter().any(|note| note.contains("earlier database")));
        let after = |created: &str| After {
            stream: Some(AuditStream { created: created.into(), ..AuditStream::default() }),
            ..After::default()
        };
        assert!(verdict_of(&chain("c1", 5), &after("then")).intact);
        let found = verdict_of(&chain("c1", 5), &after("later"));
        assert!(first_fault(&found).1.contains("was made at later"));
    }

    /// A verdict on messages with what is known after them.
    fn verdict_of(messages: &[Stored], after: &After) -> Verdict {
        let known = AuditStatus {
            stream_created: "then".into(),
            stored_stream_seq: 5,
            stored_at: Some(Timestamp::UNIX_EPOCH),
            ..status_of(&chain("c1", 5))
        };
        let mut check = Check::new(node(), Some(known), Vec::new());
        messages.iter().for_each(|message| check.take(message));
        check.finish(after)
    }

    #[test]
    fn a_chain_put_in_behind_the_nodes_own_shows_and_is_not_the_one_to_note() {
        let mut messages = chain("c1", 5);
        messages.extend(chain("c2", 1).into_iter().map(|message| Stored { seq: 6, ..message }));
        let found = verdict_of(&messages, &After::default());
        assert_eq!(found.faults[0].stream_seq, Some(6));
        assert!(first_fault(&found).1.contains("put it in"));
        assert_eq!(found.chains.last().unwrap().chain, "c1");
    }

    #[test]
    fn an_entry_behind_the_last_the_node_wrote_shows() {
        let after = |seq| After { seq: Some(seq), ..After::default() };
        assert!(verdict_of(&chain("c1", 6), &after(6)).intact, "written while it was read");
        assert_eq!(
            first_fault(&verdict_of(&chain("c1", 6), &after(5))),
            (Some(6), "the node never wrote it")
        );
    }

    #[test]
    fn a_quiet_nodes_entries_may_all_have_gone_for_limits() {
        let stream =
            AuditStream { created: "then".into(), first_seq: 6, age_ms_max: 1000, ..AuditStream::default() };
        let at = |ms| After {
            stream: Some(stream.clone()),
            now: Timestamp::from_millisecond(ms).unwrap(),
            ..After::default()
        };
        let found = verdict_of(&[], &at(1000));
        assert!(found.intact && found.notes[0].contains("entries 1 to 5 went"), "{found:?}");
        assert!(!verdict_of(&[], &at(999)).intact);
        assert!(!verdict_of(&chain("c1", 3), &at(1000)).intact, "limits take the oldest first");
    }

    #[test]
    fn an_entry_that_was_noted_must_be_the_same() {
        let hash = audit_hash(&chain("c1", 5)[1].payload);
        let noted = |seq, hash: &str| vec![Noted { seq, hash: hash.to_owned() }];
        assert!(checked(|_| {}, noted(2, &hash)).intact);
        assert_eq!(first_fault(&checked(|_| {}, noted(3, &hash))).0, Some(3));
        assert_eq!(first_fault(&checked(|_| {}, noted(77, &hash))).0, Some(77));
        assert!(format!("2:{hash}").parse::<Noted>().is_ok() && "2:abc".parse::<Noted>().is_err());
    }

    #[test]
    fn what_waits_is_not_missing() {
        let messages = chain("c1", 5);
        let mut status = status_of(&messages);
        status.seq = 9;
        let mut check = Check::new(node(), Some(status), Vec::new());
        messages.iter().for_each(|message| check.take(message));
        let found = check.finish(&After::default());
        assert!(found.intact && found.notes[0].contains("4 more wait"), "{:?}", found.notes);
    }
}
