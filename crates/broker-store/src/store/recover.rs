//! Reading a stream back: every record of every segment, in order, and a verdict on what cannot be read.
//!
//! Bytes that cannot be read are either the end of a write that nobody was promised, or damage. They are damage when
//! there is evidence that what follows them was acknowledged: the manifest says how long a segment was, the mark how
//! far it was written, and records say what was durable before them. Without evidence the log is cut there: what comes
//! after was promised to nobody, and would stand behind a hole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::evidence::{Evidence, Planned};
use super::files::{Erasure, read_into, segment_name};
use super::{Begun, Segment, Store};
use crate::error::Error;
use crate::format::header::{self, Header, seed};
use crate::format::manifest::{Fold, Listed};
use crate::format::record::{self, Decoded, Record};
use crate::index::Entry;
use crate::report::{Finding, Severity};

/// Where the log ends.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The segment that was cut, and its length.
    pub(super) cut: Option<(u32, u32)>,
    /// Segments behind the cut.
    pub(super) dropped: Vec<String>,
    /// Sequences were given back by a truncation, so that a higher one may be spoken of.
    pub(super) truncated: bool,
}

/// A verdict on bytes that are no record.
enum Verdict {
    Damage,
    Torn,
}

/// One pass over the files of a stream.
pub(super) struct Recovery<'a> {
    pub(super) store: &'a mut Store,
    pub(super) evidence: Evidence,
    pub(super) doubt: bool,
    /// Sequences that may be lost, and where.
    pub(super) suspects: Vec<(u64, u64, String)>,
    /// Records that cannot be read, with the finding and the suspicion about each.
    pub(super) unreadable: Vec<(Erasure, usize, usize)>,
    /// How many such places a segment has.
    pub(super) holes: BTreeMap<u32, usize>,
    pub(super) removed: Vec<(u64, u64)>,
    pub(super) erased: Vec<(u64, u64)>,
    /// Messages whose erasure was complete.
    pub(super) overwritten: Vec<u64>,
    pub(super) end: End,
    pub(super) buffer: Vec<u8>,
    pub(super) floor_applied: bool,
}

impl<'a> Recovery<'a> {
    pub(super) fn new(store: &'a mut Store, evidence: Evidence, doubt: bool) -> Self {
        Self {
            store,
            evidence,
            doubt,
            suspects: Vec::new(),
            unreadable: Vec::new(),
            holes: BTreeMap::new(),
            removed: Vec::new(),
            erased: Vec::new(),
            overwritten: Vec::new(),
            end: End::default(),
            buffer: Vec::new(),
            floor_applied: false,
        }
    }

    /// Reads everything that is planned into the store's index.
    pub(super) fn run(mut self, plan: &[Planned]) -> Result<End, Error> {
        for (index, planned) in plan.iter().enumerate() {
            let appended_later = planned.listed.is_none()
                && planned.id >= self.evidence.next_id
                && planned.header.is_none_or(|header| !header.rewritten);
            if appended_later {
                self.apply_floor();
            }
            if !planned.present {
                self.missing(plan, index);
            } else if !self.segment(plan, index)? {
                let behind = plan[index + 1..].iter().filter(|later| later.present);
                self.end.dropped.extend(behind.map(|later| segment_name(later.id)));
                break;
            }
        }
        self.apply_floor();
        self.finish();
        Ok(self.end)
    }

    fn apply_floor(&mut self) {
        if !std::mem::replace(&mut self.floor_applied, true) {
            self.forget_below(self.evidence.first_seq);
        }
    }

    /// A segment that is listed and not there.
    fn missing(&mut self, plan: &[Planned], index: usize) {
        let Some(listed) = plan[index].listed else { return };
        // The list may be an old one: what was rewritten since is in a later file.
        let replaced = self.doubt
            && plan.iter().any(|other| {
                other.listed.is_none()
                    && other.header.is_some_and(|header| header.rewritten && header.base <= listed.base)
            });
        if replaced || listed.last < listed.base {
            return;
        }
        let name = segment_name(listed.id);
        self.suspects.push((listed.base, listed.last, name.clone()));
        self.found(
            Severity::Damage,
            format!("segment {}", listed.id),
            name,
            format!("the file is missing; it held messages {} to {}", listed.base, listed.last),
            "put the file back from a backup, or run a repair to go on without it",
        );
        self.store.last_seq = self.store.last_seq.max(listed.last);
    }

    /// Reads one segment. Says `false` when the log ends in it or before it.
    fn segment(&mut self, plan: &[Planned], index: usize) -> Result<bool, Error> {
        let planned = plan[index];
        let bytes = self.read(planned.id)?;
        let evident =
            index < self.evidence.until.0 || (index == self.evidence.until.0 && self.evidence.until.1 > 0);
        let header = match planned.header {
            Some(header) => {
                self.enter(plan, index, &header, &bytes, evident)?;
                header
            }
            None if !evident && !self.speaks_later(plan, index, &bytes, header::LEN) => {
                self.buffer = bytes;
                self.torn(planned.id, 0);
                self.end.dropped.push(segment_name(planned.id));
                return Ok(false);
            }
            None => {
                *self.holes.entry(planned.id).or_default() += 1;
                let base = planned.listed.map_or(self.store.last_seq + 1, |listed| listed.base);
                let name = segment_name(planned.id);
                self.found(
                    Severity::Damage,
                    format!("segment {}", planned.id),
                    format!("{name} at offset 0"),
                    "its header cannot be read",
                    "its messages are read as far as they can be; run a repair to write them anew",
                );
                Header {
                    id: planned.id,
                    salt: self.salt(),
                    base,
                    first_seq: 0,
                    last_seq: u64::MAX,
                    last_time: i64::MIN,
                    rewritten: false,
                }
            }
        };
        if self.end.cut.is_some() {
            self.buffer = bytes;
            self.end.dropped.push(segment_name(planned.id));
            return Ok(false);
        }
        let goes_on = self.records(plan, index, &header, &bytes)?;
        self.buffer = bytes;
        Ok(goes_on)
    }

    /// Compares what a header says of the log before it with what was read.
    fn enter(
        &mut self,
        plan: &[Planned],
        index: usize,
        header: &Header,
        bytes: &[u8],
        evident: bool,
    ) -> Result<(), Error> {
        self.cut_above(header.last_seq);
        self.forget_below(header.first_seq);
        let previous = self.store.segments.last();
        let incomplete = plan[index].listed.is_none()
            && !header.rewritten
            && header.last_seq > self.store.last_seq
            && previous.is_none_or(|segment| !segment.closed);
        if incomplete && self.store.last_seq + 1 >= header.first_seq {
            let place = previous.map_or_else(|| "the segment before".to_owned(), |s| segment_name(s.id));
            if evident || self.speaks_later(plan, index, bytes, header::LEN) {
                let (from, to) = (self.store.last_seq + 1, header.last_seq);
                self.suspects.push((from, to, place.clone()));
                self.found(
                    Severity::Damage,
                    format!("messages {from} to {to}"),
                    place,
                    "the segment ends before them",
                    "take them from a backup, or run a repair to go on without them",
                );
            } else {
                let at = previous.map_or((0, 0), |segment| (segment.id, segment.len));
                self.torn(at.0, at.1);
                return Ok(());
            }
        }
        self.store.last_seq = self.store.last_seq.max(header.last_seq);
        if header.last_time != i64::MIN {
            self.store.last_time = Some(header.last_time);
        }
        Ok(())
    }

    fn records(
        &mut self,
        plan: &[Planned],
        index: usize,
        header: &Header,
        bytes: &[u8],
    ) -> Result<bool, Error> {
        let planned = plan[index];
        let begun = Begun {
            first_seq: header.first_seq,
            last_seq: header.last_seq,
            last_time: (header.last_time != i64::MIN).then_some(header.last_time),
        };
        self.store.segments.push(Segment::new(planned.id, header.base, begun));
        let at = self.store.segments.len() - 1;
        self.store.segments[at].damaged = planned.header.is_none();
        // A closed segment's length is known; behind it may stand what was refused.
        let listed = planned.listed.filter(|listed| listed.closed);
        let mut end = listed.map_or(bytes.len(), |listed| bytes.len().min(listed.len as usize));
        let promised = if index == self.evidence.until.0 { self.evidence.until.1 as usize } else { 0 };
        let promised = promised.max(planned.listed.map_or(0, |listed| listed.len as usize));
        let mut offset = header::LEN.min(end);
        while offset < end.max(promised) {
            let decoded = bytes
                .get(offset..end)
                .and_then(|rest| record::decode(rest, seed(self.salt(), planned.id, offset as u32)));
            if let Some(decoded) = decoded {
                self.apply(at, offset as u32, &decoded);
                offset += decoded.len;
                continue;
            }
            if offset < end && bytes[offset..end].iter().all(|byte| *byte == 0) {
                // Room for more, or bytes that never reached the disk: the file ends here.
                end = offset;
                continue;
            }
            let next = resync(&bytes[..end], self.salt(), planned.id, offset, self.store.last_seq);
            let verdict = if offset < promised
                || index < self.evidence.until.0
                || self.speaks_later(plan, index, bytes, offset)
            {
                Verdict::Damage
            } else {
                Verdict::Torn
            };
            match verdict {
                Verdict::Torn => {
                    self.store.segments[at].len = offset as u32;
                    self.torn_bytes(planned.id, offset, bytes.len());
                    return Ok(false);
                }
                Verdict::Damage => {
                    self.damage(planned, at, offset, next, &bytes[..end.max(offset).min(bytes.len())]);
                    let Some(next) = next else { break };
                    offset = next;
                }
            }
        }
        let segment = &mut self.store.segments[at];
        segment.len = offset.min(end) as u32;
        self.complete(at, listed);
        Ok(true)
    }

    /// Compares a segment that was read to its end with what the manifest says of it.
    fn complete(&mut self, at: usize, listed: Option<Listed>) {
        let segment = &mut self.store.segments[at];
        let Some(listed) = listed else { return };
        segment.closed = true;
        segment.last = segment.last.max(listed.last);
        if !segment.damaged && segment.fold.value != listed.checksum {
            segment.damaged = true;
            let name = segment_name(segment.id);
            let object = format!("segment {}", segment.id);
            self.found(
                Severity::Damage,
                object,
                name,
                "its records are whole, but not those that were listed: it is another version of the file",
                "put the right file back from a backup, or run a repair to accept this one",
            );
        }
    }

    fn apply(&mut self, at: usize, offset: u32, decoded: &Decoded<'_>) {
        let store = &mut *self.store;
        if !matches!(decoded.record, Record::Seal { .. }) {
            store.segments[at].fold.add(decoded.len as u32);
        }
        match &decoded.record {
            Record::Message(message, size) => {
                let known = message.seq <= store.last_in_index();
                if !known {
                    store.segments[at].rebase(message.seq);
                }
                if known || message.seq < store.segments[at].base {
                    // A rewritten segment and its source are both there.
                    store.segments[at].physical += 1;
                    return;
                }
                let subject = store.subjects.intern(message.subject);
                store.last_seq = store.last_seq.max(message.seq);
                let last_seq = store.last_seq;
                store.index(at, message.seq, Entry::new(offset, *size, subject), message.time_ns);
                store.last_seq = last_seq;
                if let Some(expires) = message.expires_ns {
                    store.expiries.push(std::cmp::Reverse((expires, message.seq)));
                }
            }
            Record::Removed { ranges, erase } => {
                for &(first, last) in ranges {
                    self.forget_range(first, last, *erase);
                }
                self.removed.extend_from_slice(ranges);
                if *erase {
                    self.erased.extend_from_slice(ranges);
                }
            }
            Record::Head { first_seq, last_seq, last_time } => {
                store.last_seq = store.last_seq.max(*last_seq);
                store.last_time = last_time.or(store.last_time);
                self.forget_below(*first_seq);
            }
            Record::Skip(seq) => {
                store.last_seq = store.last_seq.max(*seq);
                store.segments[at].last = store.segments[at].last.max(*seq);
                self.removed.push((*seq, *seq));
            }
            Record::Erased(seq) => {
                store.last_seq = store.last_seq.max(*seq);
                store.segments[at].last = store.segments[at].last.max(*seq);
                self.removed.push((*seq, *seq));
                self.overwritten.push(*seq);
            }
            Record::Commit => {}
            Record::Seal { records, checksum } => {
                let read = store.segments[at].fold;
                store.segments[at].closed = true;
                if read != (Fold { records: *records, value: *checksum }) && !store.segments[at].damaged {
                    store.segments[at].damaged = true;
                    let id = store.segments[at].id;
                    self.found(
                        Severity::Damage,
                        format!("segment {id}"),
                        format!("{} at offset {offset}", segment_name(id)),
                        "its last record counts other records than there are",
                        "take it from a backup, or run a repair to accept what is there",
                    );
                }
                self.store.segments[at].fold.add(decoded.len as u32);
            }
        }
    }

    fn forget_below(&mut self, first_seq: u64) {
        let mut at = 0;
        while self.store.first_seq < first_seq && self.store.msgs > 0 && self.store.first_seq > at {
            at = self.store.first_seq;
            let Some((segment, position, _)) = self.store.find(at) else { break };
            self.store.forget(segment, position, at);
        }
        if first_seq > 1 {
            self.removed.push((0, first_seq - 1));
        }
    }

    fn forget_range(&mut self, first: u64, last: u64, erase: bool) {
        let mut at = first;
        while let Some(seq) = self.store.next_any(at).filter(|&seq| seq <= last) {
            let Some((segment, position, entry)) = self.store.find(seq) else { break };
            if let (true, Some(offset), Some(files)) = (erase, entry.offset(), &mut self.store.files) {
                files.erasures.push(Erasure {
                    seq,
                    segment: self.store.segments[segment].id,
                    offset,
                    len: entry.size.record(),
                    after: 0,
                });
            }
            self.store.forget(segment, position, seq);
            at = seq + 1;
        }
    }

    /// What a later segment says was not there when it was begun is not there: it was refused or truncated.
    fn cut_above(&mut self, last_seq: u64) {
        let mut at = last_seq.saturating_add(1);
        while let Some(seq) = self.store.next_any(at) {
            if let Some((segment, position, _)) = self.store.find(seq) {
                self.store.forget(segment, position, seq);
                self.store.segments[segment].suspect = true;
            }
            at = seq + 1;
        }
        if self.store.last_seq > last_seq {
            self.end.truncated = true;
            self.store.last_seq = last_seq;
            self.store.drop_above(last_seq);
        }
    }

    /// Whether a record behind an offset, or of a later segment, says that everything before was durable.
    fn speaks_later(&self, plan: &[Planned], index: usize, bytes: &[u8], offset: usize) -> bool {
        if self.speaks(plan[index].id, bytes, offset, offset as u32) {
            return true;
        }
        plan[index + 1..].iter().filter(|later| later.present).any(|later| {
            let mut bytes = Vec::new();
            let Some(files) = &self.store.files else { return false };
            let path = files.path(&segment_name(later.id));
            let Ok(file) = files.disk.open_read_only(&path) else { return false };
            read_into(&*file, &path, &mut bytes).is_ok() && self.speaks(later.id, &bytes, header::LEN, 0)
        })
    }

    fn speaks(&self, id: u32, bytes: &[u8], from: usize, beyond: u32) -> bool {
        let mut at = from;
        while at < bytes.len() {
            match record::decode(&bytes[at..], seed(self.salt(), id, at as u32)) {
                Some(decoded) if decoded.committed.is_some_and(|committed| committed > beyond) => {
                    return true;
                }
                Some(decoded) => at += decoded.len,
                None => match resync(bytes, self.salt(), id, at, 0) {
                    Some(next) => at = next,
                    None => return false,
                },
            }
        }
        false
    }

    fn torn(&mut self, id: u32, len: u32) {
        self.end.cut = Some((id, len));
        self.found(
            Severity::Info,
            "the end of the log",
            format!("{} at offset {len}", segment_name(id)),
            "a write was cut short; what follows was acknowledged to nobody",
            "it is cut off; nothing needs to be done",
        );
    }

    fn torn_bytes(&mut self, id: u32, offset: usize, len: usize) {
        self.end.cut = Some((id, offset as u32));
        self.found(
            Severity::Info,
            "the end of the log",
            format!("{} at offset {offset}", segment_name(id)),
            format!("{} bytes of a write that was cut short; acknowledged to nobody", len - offset),
            "they are cut off; nothing needs to be done",
        );
    }

    fn damage(&mut self, planned: Planned, at: usize, offset: usize, next: Option<usize>, bytes: &[u8]) {
        let (id, len) = (planned.id, bytes.len());
        let name = segment_name(id);
        self.store.segments[at].damaged = true;
        *self.holes.entry(id).or_default() += 1;
        let place = format!("{name} at offset {offset}");
        // What is lost is known when the next message, or the end, is.
        self.suspects.push((self.store.last_seq + 1, u64::MAX, place.clone()));
        // An erasure writes the same length and sequence again, so they can be read in the middle of it. A place that
        // is longer holds more than that message.
        let seq =
            bytes.get(offset + 7..).and_then(|rest| rest.first_chunk().copied()).map(u64::from_le_bytes);
        let said = bytes.get(offset..).and_then(|rest| rest.first_chunk().copied()).map(u32::from_le_bytes);
        if let (Some(seq), Some(next)) = (seq, next)
            && said == u32::try_from(next - offset).ok()
        {
            let (offset, len) = (offset as u32, (next - offset) as u32);
            self.store.segments[at].fold.add(len);
            let finding = self.store.findings.len();
            let erasure = Erasure { seq, segment: id, offset, len, after: 0 };
            self.unreadable.push((erasure, finding, self.suspects.len() - 1));
        }
        let reason = match next {
            Some(next) => format!("{} bytes are not what was written", next - offset),
            None if offset >= len => "the file ends before what was acknowledged".to_owned(),
            None => format!("the last {} bytes are not what was written", len - offset),
        };
        self.found(
            Severity::Damage,
            format!("segment {id}, after message {}", self.store.last_seq),
            place,
            reason,
            "messages there are lost and removals may be undone; take the file from a backup, or run a repair",
        );
    }

    fn read(&mut self, id: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = std::mem::take(&mut self.buffer);
        let Some(files) = &self.store.files else { return Ok(bytes) };
        let path: PathBuf = files.path(&segment_name(id));
        let file = files.disk.open_read_only(&path).map_err(|error| Error::io("open", &path, error))?;
        read_into(&*file, &path, &mut bytes)?;
        Ok(bytes)
    }

    fn salt(&self) -> u64 {
        self.store.files.as_ref().map_or(0, |files| files.salt)
    }

    pub(super) fn found(
        &mut self,
        severity: Severity,
        object: impl Into<String>,
        place: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.store.findings.push(Finding::new(severity, object, place, reason, remedy));
    }
}

/// The offset of the next record after bytes that are none.
///
/// A length that leads to a record is believed, also through others that cannot be read: an erasure cut short by the
/// power leaves the lengths. Otherwise every offset is tried.
pub(super) fn resync(bytes: &[u8], salt: u64, id: u32, from: usize, last_seq: u64) -> Option<usize> {
    const HOPS: usize = 64;
    let decodes = |at: usize| {
        bytes.get(at..).is_some_and(|rest| record::decode(rest, seed(salt, id, at as u32)).is_some())
    };
    let hop = |at: usize| {
        let len = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
        (len >= record::MIN).then(|| at.saturating_add(len)).filter(|&next| next <= bytes.len())
    };
    if let Some(first) = hop(from) {
        let mut at = first;
        for _ in 0..HOPS {
            if at == bytes.len() || decodes(at) {
                return Some(first);
            }
            match hop(at) {
                Some(next) => at = next,
                None => break,
            }
        }
    }
    (from + 1..bytes.len().saturating_sub(record::MIN))
        .find(|&at| record::worth_decoding(&bytes[at..], last_seq) && decodes(at))
}
