//! Answers that wait until what they promise is true: after a write, or after a sync. Who waits for what is decided by
//! the stream; this keeps them in order and without an allocation each.

use crate::api::{ApiError, refusal};
use crate::bus::{Bus, publish};

/// What is answered when it is true, and what when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A message was stored.
    Stored,
    /// It was stored before.
    Duplicate,
    /// The text kept beside it; on failure a refusal of this type, or nothing when it has none.
    Text { refused_as: Option<&'static str> },
}

impl Kind {
    fn is_message(self) -> bool {
        matches!(self, Self::Stored | Self::Duplicate)
    }

    fn is_api_answer(self) -> bool {
        matches!(self, Self::Text { refused_as: Some(_) })
    }
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    kind: Kind,
    reply: u32,
    text: u32,
}

/// Waiting answers, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    /// `{"stream":"S",` and perhaps the domain.
    stream: Vec<u8>,
    domain: Vec<u8>,
    entries: std::collections::VecDeque<Entry>,
    /// Replies and texts in the order of the entries.
    bytes: Vec<u8>,
    /// Where the first entry's begin.
    start: usize,
    /// How many of the entries are answers of the API.
    api_answers: usize,
    /// How many of the entries were there when the store was last written out.
    written: usize,
    /// How many of the entries the sync under way covers.
    covered: usize,
    scratch: Vec<u8>,
}

impl AckQueue {
    pub(crate) fn new(stream: &str, domain: Option<&str>) -> Self {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        Self {
            stream: format!("{{\"stream\":{},\"seq\":", quoted(stream)).into_bytes(),
            domain: domain
                .map(|domain| format!(",\"domain\":{}", quoted(domain)).into_bytes())
                .unwrap_or_default(),
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it keeps in memory for those who wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Waits to say that a message is stored.
    pub(crate) fn stored(&mut self, reply: &[u8], seq: u64, duplicate: bool) {
        let kind = if duplicate { Kind::Duplicate } else { Kind::Stored };
        self.push(reply, b"", seq, kind);
    }

    /// Waits to say that a message is stored, and something behind that.
    pub(crate) fn stored_with(&mut self, reply: &[u8], seq: u64, more: &str) {
        self.push(reply, more.as_bytes(), seq, Kind::Stored);
    }

    /// Waits to say that a message was stored before, and something behind that.
    pub(crate) fn duplicate_with(&mut self, reply: &[u8], seq: u64, more: &str) {
        self.push(reply, more.as_bytes(), seq, Kind::Duplicate);
    }

    /// Waits to say something else.
    pub(crate) fn text(&mut self, reply: &[u8], text: &[u8], refused_as: Option<&'static str>) {
        self.push(reply, text, 0, Kind::Text { refused_as });
    }

    fn push(&mut self, reply: &[u8], text: &[u8], seq: u64, kind: Kind) {
        if reply.is_empty() {
            return;
        }
        if kind.is_api_answer() {
            self.api_answers += 1;
        }
        self.bytes.extend_from_slice(reply);
        self.bytes.extend_from_slice(text);
        self.entries.push_back(Entry { seq, kind, reply: reply.len() as u32, text: text.len() as u32 });
    }

    /// Whether an answer of the API waits.
    pub(crate) fn has_api_answers(&self) -> bool {
        self.api_answers > 0
    }

    /// What waits at this moment waits for the sync that begins.
    pub(crate) fn cover(&mut self) {
        self.covered = self.entries.len();
    }

    /// Sends what was covered.
    pub(crate) fn release_covered(&mut self, bus: &mut impl Bus) {
        let count = std::mem::take(&mut self.covered);
        self.settle(count, bus);
    }

    /// Sends everything.
    pub(crate) fn release(&mut self, bus: &mut impl Bus) {
        self.covered = 0;
        self.settle(self.entries.len(), bus);
    }

    /// What waits at this moment was written.
    pub(crate) fn written(&mut self) {
        self.written = self.entries.len();
    }

    /// Refuses what was not written, but for messages up to `last_seq`, which were written on the way. The rest goes on
    /// waiting.
    pub(crate) fn refuse_unwritten(&mut self, last_seq: u64, reason: &ApiError, bus: &mut impl Bus) {
        let (written, covered) = (self.written, self.covered);
        let entries = self.take_all();
        for (index, (entry, bytes)) in entries.into_iter().enumerate() {
            if index < written || (entry.kind.is_message() && entry.seq <= last_seq) {
                self.put_back(entry, &bytes);
            } else {
                self.refuse_entry(&entry, &bytes, reason, bus);
            }
        }
        (self.written, self.covered) = (written, covered);
    }

    /// Refuses everything but messages up to `durable`, which are acknowledged.
    pub(crate) fn refuse_above(&mut self, durable: u64, reason: &ApiError, bus: &mut impl Bus) {
        for (entry, bytes) in self.take_all() {
            if entry.kind.is_message() && entry.seq <= durable {
                self.put_back(entry, &bytes);
            } else {
                self.refuse_entry(&entry, &bytes, reason, bus);
            }
        }
        self.release(bus);
    }

    /// Takes everything out. Rare: a disk failed.
    fn take_all(&mut self) -> Vec<(Entry, Vec<u8>)> {
        let mut at = std::mem::take(&mut self.start);
        let entries = std::mem::take(&mut self.entries);
        let bytes = std::mem::take(&mut self.bytes);
        (self.written, self.covered, self.api_answers) = (0, 0, 0);
        let with_bytes = entries.into_iter().map(|entry| {
            let end = at + (entry.reply + entry.text) as usize;
            let own = bytes[at..end].to_vec();
            at = end;
            (entry, own)
        });
        with_bytes.collect()
    }

    fn put_back(&mut self, entry: Entry, bytes: &[u8]) {
        if entry.kind.is_api_answer() {
            self.api_answers += 1;
        }
        self.bytes.extend_from_slice(bytes);
        self.entries.push_back(entry);
    }

    fn refuse_entry(&self, entry: &Entry, bytes: &[u8], reason: &ApiError, bus: &mut impl Bus) {
        let reply = &bytes[..entry.reply as usize];
        match entry.kind {
            Kind::Text { refused_as: Some(kind) } => publish(bus, reply, b"", &refusal(kind, reason)),
            Kind::Text { refused_as: None } => {}
            Kind::Stored | Kind::Duplicate => {
                publish(bus, reply, b"", &refused_publish(&self.stream, reason));
            }
        }
    }

    /// Sends the first so many.
    fn settle(&mut self, count: usize, bus: &mut impl Bus) {
        self.written = self.written.saturating_sub(count);
        for entry in self.entries.drain(..count.min(self.entries.len())) {
            if entry.kind.is_api_answer() {
                self.api_answers -= 1;
            }
            let reply_end = self.start + entry.reply as usize;
            let end = reply_end + entry.text as usize;
            let reply = &self.bytes[self.start..reply_end];
            match entry.kind {
                Kind::Text { .. } => publish(bus, reply, b"", &self.bytes[reply_end..end]),
                kind => {
                    let body = &mut self.scratch;
                    body.clear();
                    body.extend_from_slice(&self.stream);
                    write_number(body, entry.seq);
                    body.extend_from_slice(&self.domain);
                    if kind == Kind::Duplicate {
                        body.extend_from_slice(b",\"duplicate\": true");
                    }
                    body.extend_from_slice(&self.bytes[reply_end..end]);
                    body.push(b'}');
                    publish(bus, reply, b"", body);
                }
            }
            self.start = end;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Refuses a message at once.
    pub(crate) fn refuse_one(&self, reply: &[u8], error: &ApiError, bus: &mut impl Bus) {
        if !reply.is_empty() {
            publish(bus, reply, b"", &refused_publish(&self.stream, error));
        }
    }
}

/// `{"error":{...},"stream":"S","seq":0}`
fn refused_publish(stream: &[u8], error: &ApiError) -> Vec<u8> {
    let error = serde_json::to_vec(error).unwrap_or_default();
    let mut body = Vec::with_capacity(error.len() + stream.len() + 16);
    for part in [b"{\"error\":", &error[..], b",", &stream[1..], b"0}"] {
        body.extend_from_slice(part);
    }
    body
}

/// Appends a number in decimal.
pub(crate) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Recorder;

    #[test]
    fn an_ack_is_what_nats_server_sends() {
        let (mut acks, mut bus) = (AckQueue::new("S", None), Recorder::default());
        acks.stored(b"r", 1, false);
        acks.stored(b"r", 2, true);
        acks.stored_with(b"r", 3, ",\"val\":\"7\"");
        acks.text(b"t", b"said", None);
        acks.release(&mut bus);
        let sent = bus.take_text();
        assert_eq!(
            sent,
            [
                ("r", r#"{"stream":"S","seq":1}"#),
                ("r", r#"{"stream":"S","seq":2,"duplicate": true}"#),
                ("r", r#"{"stream":"S","seq":3,"val":"7"}"#),
                ("t", "said")
            ]
            .map(|(to, body)| (to.to_owned(), body.to_owned()))
        );
        acks.refuse_one(b"r", &ApiError::stream_sealed(), &mut bus);
        assert_eq!(
            bus.take_text()[0].1,
            r#"{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"},"stream":"S","seq":0}"#
        );
        assert!(acks.is_empty());
    }

    #[test]
    fn a_sync_releases_what_it_covers_and_a_failed_write_refuses_the_rest() {
        let (mut acks, mut bus) = (AckQueue::new("S", Some("hub")), Recorder::default());
        acks.stored(b"a", 1, false);
        acks.written();
        acks.cover();
        acks.stored(b"b", 2, false);
        acks.written();
        acks.stored(b"c", 3, false);
        acks.stored(b"d", 4, false);
        acks.text(b"e", b"gone", None);
        acks.refuse_unwritten(3, &ApiError::store_failed("full"), &mut bus);
        assert_eq!(bus.take_text().iter().map(|(to, _)| &**to).collect::<Vec<_>>(), ["d"]);
        acks.release_covered(&mut bus);
        assert_eq!(
            bus.take_text(),
            [("a".to_owned(), r#"{"stream":"S","seq":1,"domain":"hub"}"#.to_owned())]
        );
        acks.refuse_above(2, &ApiError::store_failed("broken"), &mut bus);
        let sent = bus.take_text();
        assert!(sent[0].0 == "c" && sent[0].1.contains("broken"), "{sent:?}");
        assert_eq!(sent[1], ("b".to_owned(), r#"{"stream":"S","seq":2,"domain":"hub"}"#.to_owned()));
        assert!(acks.is_empty());
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
