//! What was found wrong with files, in words and as JSON. It finds nothing itself.

use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// What a crash leaves behind and nobody was promised.
    Info,
    /// Nothing is lost, but a protection was: one of two copies, or a file that helps to detect damage.
    Warning,
    /// Something that was stored cannot be read, or was changed.
    Damage,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Damage => "damage",
        }
    }
}

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is concerned: a message, a range of messages, a segment, a checkpoint.
    pub object: String,
    /// The file, and the offset in it where there is one.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        object: impl Into<String>,
        place: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            object: object.into(),
            place: place.into(),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

impl Finding {
    /// Whether something that was stored is lost or was changed. Everything else is for the log: what a crash leaves
    /// behind, and protections that are there again after the next sync.
    pub fn is_damage(&self) -> bool {
        self.severity == Severity::Damage
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, object, place, reason, remedy } = self;
        write!(f, "{}: {object} ({place}): {reason}; {remedy}", severity.word())
    }
}

/// The outcome of [`check`](crate::check) or [`repair`](crate::repair).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages that can be read.
    pub messages: u64,
    /// Their bytes, as [`State::bytes`](crate::State::bytes) counts them.
    pub bytes: u64,
    /// The first sequence.
    pub first_seq: u64,
    /// The last sequence.
    pub last_seq: u64,
    /// Sequences whose message was stored and cannot be read.
    pub lost: u64,
    /// Segment files that were read.
    pub segments: usize,
    /// The names under which something is saved and can be read.
    pub checkpoints: Vec<String>,
    /// Everything that was found, in the order it was found.
    pub findings: Vec<Finding>,
    /// Whether something was changed on disk.
    pub repaired: bool,
}

impl Report {
    /// The worst that was found; `None` when nothing was.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// One object: `{"messages":1,"bytes":42,"first_seq":1,"last_seq":1,"lost":0,"segments":1,"repaired":false,
    /// "findings":[{"severity":"damage","object":"..","place":"..","reason":"..","remedy":".."}]}`.
    pub fn to_json(&self) -> String {
        let findings: Vec<String> = self
            .findings
            .iter()
            .map(|finding| {
                format!(
                    r#"{{"severity":"{}","object":{},"place":{},"reason":{},"remedy":{}}}"#,
                    finding.severity.word(),
                    quoted(&finding.object),
                    quoted(&finding.place),
                    quoted(&finding.reason),
                    quoted(&finding.remedy),
                )
            })
            .collect();
        format!(
            r#"{{"messages":{},"bytes":{},"first_seq":{},"last_seq":{},"lost":{},"segments":{},"repaired":{},"findings":[{}]}}"#,
            self.messages,
            self.bytes,
            self.first_seq,
            self.last_seq,
            self.lost,
            self.segments,
            self.repaired,
            findings.join(",")
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        write!(
            f,
            "{} messages ({} bytes) from {} to {} in {} segments, {} lost, {} findings",
            self.messages,
            self.bytes,
            self.first_seq,
            self.last_seq,
            self.segments,
            self.lost,
            self.findings.len()
        )
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            char if char < ' ' => out.push_str(&format!("\\u{:04x}", char as u32)),
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_text_and_as_json() {
        let finding = Finding::new(Severity::Damage, "message \"7\"", "a\\b", "it\nbroke", "mend it");
        let report = Report { messages: 1, findings: vec![finding], ..Report::default() };
        assert!(
            report.to_string().starts_with("damage: message \"7\" (a\\b): it\nbroke; mend it\n1 messages")
        );
        let expected = r#""findings":[{"severity":"damage","object":"message \"7\"","place":"a\\b","reason":"it\u000abroke","remedy":"mend it"}]}"#;
        assert!(report.to_json().ends_with(expected), "{}", report.to_json());
        assert_eq!(report.severity(), Some(Severity::Damage));
    }
}
