//! One stream that another takes from: which of its messages are wanted, under which subject, and how far they were
//! taken. It moves nothing itself; see [`feeds`](crate::feeds).
//!
//! How far is known from what was taken: a mirror has the sequences of its origin, a message from a source says in
//! `Nats-Stream-Source` where it is from. So a crash neither loses nor doubles anything. A checkpoint keeps the position
//! of sources whose messages may be gone since.

use ostler_broker_proto::subject::Filter;
use ostler_broker_store::Selection;
use serde::{Deserialize, Serialize};

use super::source::{FeedKind, StreamConsumerSource, StreamSource};
use super::transform::{SubjectTransform, Transform};
use crate::api::{ApiError, SourceInfo};
use crate::feeds::RETRY;
use crate::through::Through;
use crate::time::Time;

/// Between the filters of one source in `Nats-Stream-Source`.
const SEPARATOR: &str = "\u{c}";

/// How far a stream was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The last sequence that was seen to, 0 for none.
    pub(crate) seq: u64,
    /// Of which stream: one that is created anew under the same name begins again. Empty before it was seen.
    pub(crate) identity: String,
}

/// A stream that messages are taken from, and how far that is.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) kind: FeedKind,
    pub(crate) origin: String,
    pub(crate) position: Position,
    /// What is wanted of it.
    pub(crate) wanted: Selection,
    /// Everything below it was seen to.
    pub(crate) next: u64,
    /// Everything up to it is as safe here as the stream that takes it promises.
    pub(crate) sure: u64,
    /// With this last sequence here, everything up to that one there was seen to.
    unsure: Option<(u64, u64)>,
    /// When it was last heard of.
    pub(crate) active: Option<i64>,
    /// How much more there is, as of then.
    pub(crate) lag: u64,
    /// Not before this moment, because something was refused.
    pub(crate) retry_at: Option<i64>,
    pub(crate) error: Option<ApiError>,
    /// How it stands with the consumer that it takes through.
    pub(crate) through: Through,
    /// The origin as labels name it, with the consumer that it is taken through.
    labelled: String,
    start_seq: u64,
    start_time: Time,
    transforms: Vec<Transform>,
    filters: String,
    dests: String,
    config: StreamSource,
}

impl Feed {
    /// Prepares one that has taken nothing yet.
    pub(crate) fn new(kind: FeedKind, config: &StreamSource) -> Self {
        let rules = if config.subject_transforms.is_empty() {
            vec![SubjectTransform { src: config.filter_subject.clone(), dest: String::new() }]
        } else {
            config.subject_transforms.clone()
        };
        // They were checked when the configuration came in.
        let transforms: Vec<Transform> =
            rules.iter().filter_map(|rule| Transform::parse(&rule.src, &rule.dest).ok()).collect();
        let named = |text: &String| if text.is_empty() { ">".to_owned() } else { text.clone() };
        let joined = |part: fn(&SubjectTransform) -> &String| {
            rules.iter().map(|rule| named(part(rule))).collect::<Vec<_>>().join(SEPARATOR)
        };
        Self {
            kind,
            origin: config.name.clone(),
            position: Position::default(),
            wanted: Selection::new(transforms.iter().map(|transform| transform.source().clone())),
            next: 1,
            sure: 0,
            unsure: None,
            active: None,
            lag: 0,
            retry_at: None,
            error: None,
            through: Through::default(),
            labelled: match &config.consumer {
                Some(consumer) => format!("{}:C={}", config.name, consumer_identity(consumer)),
                None => config.name.clone(),
            },
            start_seq: config.opt_start_seq,
            start_time: config.opt_start_time,
            filters: joined(|rule| &rule.src),
            dests: joined(|rule| &rule.dest),
            transforms,
            config: config.clone(),
        }
    }

    /// Whether both take the same messages.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.kind, &self.config) == (other.kind, &other.config)
    }

    /// Whether it is what a configuration says.
    pub(crate) fn is_of(&self, config: &StreamSource) -> bool {
        self.config == *config
    }

    /// Goes on behind a position.
    pub(crate) fn move_to(&mut self, position: Position) {
        self.next = position.seq.saturating_add(1);
        self.position = position;
        // What was undone is not behind it any more, and what was sure stays so.
        self.unsure = None;
    }

    /// Takes note of how far the stream that takes is, and how much of it stays whatever happens. Says from where to
    /// where more became sure at the origin.
    pub(crate) fn settle(&mut self, last: u64, last_sure: u64) -> Option<(u64, u64)> {
        let before = self.sure;
        loop {
            match self.unsure {
                Some((here, there)) if here <= last_sure => {
                    self.unsure = None;
                    self.sure = self.sure.max(there);
                }
                None if self.next > self.sure.saturating_add(1) => self.unsure = Some((last, self.next - 1)),
                _ => break,
            }
        }
        (self.sure > before).then_some((before, self.sure))
    }

    /// Which subjects are taken.
    pub(crate) fn filters(&self) -> Vec<Filter> {
        self.transforms.iter().map(|transform| transform.source().clone()).collect()
    }

    /// Takes nothing more for a while, because the disk failed.
    pub(crate) fn try_later(&mut self, now: i64) {
        self.retry_at = Some(now + RETRY);
    }

    /// The subject a message is taken under.
    pub(crate) fn subject(&self, subject: &[u8], seq: u64) -> Option<Vec<u8>> {
        self.transforms.iter().find_map(|transform| transform.apply(subject, seq))
    }

    /// Where to begin in an origin; `by_time` finds the first message at a moment.
    pub(crate) fn begin(&mut self, identity: &str, by_time: impl FnOnce(i64) -> Option<u64>) {
        if self.position.identity == identity {
            return;
        }
        // A mirror keeps its sequences, whatever becomes of its origin.
        let anew = self.kind == FeedKind::Source && !self.position.identity.is_empty();
        if anew {
            self.position.seq = 0;
        }
        if self.position.seq == 0 && !anew {
            let by_time = self.start_time.nanos().map(|time| by_time(time).unwrap_or(u64::MAX));
            let first = if self.start_seq > 0 { self.start_seq } else { by_time.unwrap_or(1) };
            self.position.seq = first.saturating_sub(1);
        }
        self.next = self.position.seq.saturating_add(1);
        self.position.identity = identity.to_owned();
        // What was behind it before it began is not for it to let go.
        (self.sure, self.unsure) = (self.position.seq, None);
    }

    /// What a message that is taken says of where it is from.
    pub(crate) fn label(&self, seq: u64, subject: &[u8]) -> String {
        let Self { labelled, filters, dests, position, .. } = self;
        format!(
            "{labelled} {seq} {filters} {dests} {} {}",
            String::from_utf8_lossy(subject),
            position.identity
        )
    }

    /// Takes note of a message that was taken before, by its label. False when it is from somewhere else.
    pub(crate) fn recall(&mut self, label: &str) -> bool {
        let mut fields = label.split(' ');
        let (origin, seq) = (fields.next(), fields.next().and_then(|seq| seq.parse().ok()));
        let (filters, dests, _) = (fields.next(), fields.next(), fields.next());
        if origin != Some(&self.labelled) || filters != Some(&self.filters) || dests != Some(&self.dests) {
            return false;
        }
        if let Some(seq) = seq {
            self.move_to(Position { seq, identity: fields.next().unwrap_or("").to_owned() });
        }
        true
    }

    /// Names it among the sources of its stream.
    pub(crate) fn key(&self) -> String {
        format!("{} {} {}", self.labelled, self.filters, self.dests)
    }

    /// The consumer that it takes through.
    pub(crate) fn consumer(&self) -> Option<&StreamConsumerSource> {
        self.config.consumer.as_ref()
    }

    /// What the API shows of it.
    pub(crate) fn info(&self, now: i64) -> SourceInfo {
        SourceInfo {
            name: self.origin.clone(),
            external: self.config.external.clone(),
            lag: self.lag,
            seq: if self.kind == FeedKind::Source { self.position.seq } else { 0 },
            active: self.active.map_or(-1, |active| now.saturating_sub(active).max(0)),
            filter_subject: self.config.filter_subject.clone(),
            subject_transforms: self.config.subject_transforms.clone(),
            error: self.error.clone(),
        }
    }
}

/// Tells one consumer of a stream from another.
fn consumer_identity(consumer: &StreamConsumerSource) -> String {
    identity(&format!("{} {}", consumer.name, consumer.deliver_subject), Time::NONE)
}

/// Tells a stream from another one that has or had the same name: eight letters and digits.
pub(crate) fn identity(name: &str, created: Time) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let created = created.nanos().unwrap_or(0).to_le_bytes();
    // FNV-1a with 64 bits.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = name.as_bytes().iter().chain(&created).fold(0xcbf2_9ce4_8422_2325, mix);
    let mut text = String::with_capacity(8);
    for _ in 0..8 {
        text.push(char::from(LETTERS[(hash % 62) as usize]));
        hash /= 62;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(json: &str) -> Feed {
        Feed::new(FeedKind::Source, &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_label_says_what_nats_server_says_and_is_recalled() {
        let rules =
            r#"{"name":"O","subject_transforms":[{"src":"o.1","dest":"d.one"},{"src":"o.2","dest":""}]}"#;
        let mut taken = feed(rules);
        taken.begin("hash", |_| None);
        let label = taken.label(2, b"o.1");
        assert_eq!(label, "O 2 o.1\u{c}o.2 d.one\u{c}> o.1 hash");
        let mut again = feed(rules);
        assert!(again.recall(&label));
        assert_eq!(again.position, Position { seq: 2, identity: "hash".to_owned() });
        assert!(!feed(r#"{"name":"O"}"#).recall(&label));
        assert_eq!(feed(r#"{"name":"O"}"#).label(3, b"o.2"), "O 3 > > o.2 ");
    }

    #[test]
    fn an_origin_that_is_created_anew_is_taken_from_its_beginning() {
        let mut taken = feed(r#"{"name":"O","opt_start_seq":5}"#);
        taken.begin("first", |_| None);
        assert_eq!(taken.position.seq, 4);
        taken.position.seq = 9;
        taken.begin("first", |_| None);
        assert_eq!(taken.position.seq, 9);
        taken.begin("second", |_| None);
        assert_eq!(taken.position.seq, 0);
    }

    #[test]
    fn identities_differ_by_name_and_moment() {
        let at = |nanos| Time::from_nanos(nanos);
        assert_eq!(identity("O", at(1)), identity("O", at(1)));
        assert_ne!(identity("O", at(1)), identity("O", at(2)));
        assert_ne!(identity("O", at(1)), identity("P", at(1)));
    }
}
