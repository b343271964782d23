//! The reader of one block: takes each setting by its names as the type it must have, and at the end complains about
//! whatever nobody took. Nothing is ignored.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Notes;
use super::refused;
use super::units;
use super::value::{Block, Entry, Kind, Value};

/// How like a known name an unknown one must be to be taken for a slip.
const SIMILARITY_MIN: f64 = 0.8;

/// A block whose settings are being read.
pub(super) struct Fields<'a> {
    /// The block's name, as a prefix for its settings: empty or `tls.`.
    prefix: String,
    block: &'a Block,
    known: BTreeSet<&'static str>,
    pub(super) notes: &'a Notes,
}

impl<'a> Fields<'a> {
    pub(super) fn new(prefix: impl Into<String>, block: &'a Block, notes: &'a Notes) -> Self {
        Self { prefix: prefix.into(), block, known: BTreeSet::new(), notes }
    }

    /// The setting of one of these names; the last one counts, as in nats-server, but not silently.
    pub(super) fn take(&mut self, names: &[&'static str]) -> Option<&'a Entry> {
        self.known.extend(names);
        let is_named = |entry: &&Entry| names.iter().any(|name| name.eq_ignore_ascii_case(&entry.key));
        let mut found = self.block.entries.iter().filter(is_named);
        let last = found.next_back()?;
        for earlier in found {
            let text = format!("{} has no effect: it is set again at {}", self.name(&earlier.key), last.at);
            self.notes.warn(&earlier.at, text);
        }
        Some(last)
    }

    fn name(&self, key: &str) -> String {
        format!("{}{}", self.prefix, key.to_ascii_lowercase())
    }

    pub(super) fn wrong(&self, entry: &Entry, text: impl AsRef<str>) {
        self.notes.error(&entry.value.at, format!("{}: {}", self.name(&entry.key), text.as_ref()));
    }

    fn wrong_kind(&self, entry: &Entry, wanted: &str) {
        let hint = match entry.value.kind {
            Kind::Integer { .. } | Kind::Float(_) | Kind::Bool(_) if wanted.starts_with("a text") => {
                "; put it in quotes if it is meant as a text"
            }
            _ => "",
        };
        self.wrong(entry, format!("{wanted} is expected, this is {}{hint}", entry.value.kind.name()));
    }

    /// A text that must not be empty: a file, a name, a secret.
    pub(super) fn filled(&mut self, names: &[&'static str]) -> Option<String> {
        let entry = self.take(names)?;
        match entry.value.as_text() {
            Some("") => {
                self.wrong(entry, "it is empty; give a value or remove the setting");
                None
            }
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_kind(entry, "a text");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, names: &[&'static str]) -> Option<bool> {
        let entry = self.take(names)?;
        match entry.value.kind {
            Kind::Bool(value) => Some(value),
            _ => {
                self.wrong_kind(entry, "true or false");
                None
            }
        }
    }

    pub(super) fn integer(&mut self, names: &[&'static str], range: RangeInclusive<i64>) -> Option<i64> {
        let entry = self.take(names)?;
        let Kind::Integer { value, .. } = entry.value.kind else {
            self.wrong_kind(entry, "a whole number");
            return None;
        };
        if !range.contains(&value) {
            self.wrong(
                entry,
                format!("{value} is out of range, {} to {} are possible", range.start(), range.end()),
            );
            return None;
        }
        Some(value)
    }

    /// A number of which 0 means the default and -1 none at all: that is `None` and `Some(None)`.
    pub(super) fn limit(&mut self, names: &[&'static str]) -> Option<Option<usize>> {
        match self.integer(names, -1..=i64::from(i32::MAX))? {
            0 => None,
            value => Some(usize::try_from(value).ok()),
        }
    }

    /// A time: a text with units, or a plain number of seconds.
    pub(super) fn duration(&mut self, names: &[&'static str]) -> Option<Duration> {
        let entry = self.take(names)?;
        let read = match &entry.value.kind {
            Kind::Text(text) => units::duration(text),
            Kind::Integer { text, .. } if text.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
                units::duration(text)
            }
            Kind::Integer { value, .. } => {
                u64::try_from(*value).map(Duration::from_secs).map_err(|_| "a time cannot be negative".into())
            }
            Kind::Float(seconds) => {
                Duration::try_from_secs_f64(*seconds).map_err(|_| "a time cannot be negative".into())
            }
            _ => {
                self.wrong_kind(entry, "a time such as \"2s\"");
                return None;
            }
        };
        read.and_then(units::bounded).map_err(|problem| self.wrong(entry, problem)).ok()
    }

    pub(super) fn block(&mut self, names: &[&'static str]) -> Option<(&'a Entry, &'a Block)> {
        let entry = self.take(names)?;
        match &entry.value.kind {
            Kind::Block(block) => Some((entry, block)),
            _ => {
                self.wrong_kind(entry, "a block {...}");
                None
            }
        }
    }

    pub(super) fn list(&mut self, names: &[&'static str]) -> Option<(&'a Entry, &'a [Value])> {
        let entry = self.take(names)?;
        match &entry.value.kind {
            Kind::List(values) => Some((entry, values)),
            _ => {
                self.wrong_kind(entry, "a list [...]");
                None
            }
        }
    }

    /// One text or a list of texts.
    pub(super) fn texts(&mut self, names: &[&'static str]) -> Option<(&'a Entry, Vec<String>)> {
        let entry = self.take(names)?;
        let values = match &entry.value.kind {
            Kind::List(values) => values.as_slice(),
            _ => std::slice::from_ref(&entry.value),
        };
        let mut texts = Vec::new();
        for value in values {
            let Some(text) = value.as_text() else {
                let text = format!(
                    "{}: texts are expected, this is {}; put it in quotes if it is meant as a text",
                    self.name(&entry.key),
                    value.kind.name()
                );
                self.notes.error(&value.at, text);
                return None;
            };
            texts.push(text.to_owned());
        }
        Some((entry, texts))
    }

    /// Complains about every setting that nobody took.
    pub(super) fn finish(self) {
        for entry in &self.block.entries {
            let key = entry.key.to_ascii_lowercase();
            if self.known.contains(key.as_str()) {
                continue;
            }
            let name = self.name(&key);
            // A key that a variable names need not be a setting, but may not be one that nats-server would obey.
            let text = match refused::reason(&name) {
                Some(reason) => format!("{name} is not supported: {reason}"),
                None if entry.referenced => continue,
                None => format!("{name} is not a setting{}", self.suggestion(&key)),
            };
            self.notes.error(&entry.at, text);
        }
    }

    fn suggestion(&self, key: &str) -> String {
        let near = self
            .known
            .iter()
            .map(|known| (strsim::jaro_winkler(key, known), known))
            .filter(|(likeness, _)| *likeness >= SIMILARITY_MIN)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        match near {
            Some((_, known)) => format!("; did you mean {known}?"),
            None => "; check its spelling and the block it stands in, or remove it".into(),
        }
    }
}
