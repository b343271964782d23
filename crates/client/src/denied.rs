//! What the bus does not permit us: a NATS server says so once, beside the data, and drops what was denied.

use std::fmt;

use tokio::sync::watch;

/// Different denials kept of one connection: more than there are subjects of ours, so that a wrong configuration is told
/// in full, and few enough that nobody who makes us answer elsewhere fills anything.
const DENIALS_MAX: usize = 64;

/// Something the bus does not permit our credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What was tried.
    pub verb: Verb,
    /// On which subject or filter.
    pub subject: String,
}

/// What the bus asks for permission for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Publishing, also requests and answers.
    Publish,
    /// Listening.
    Subscribe,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        })
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bus does not let this credential {} {}", self.verb, self.subject)
    }
}

impl Denied {
    /// True for an answer, whose subject is the asker's choice.
    pub fn is_answer(&self) -> bool {
        self.verb == Verb::Publish && self.subject.starts_with("_INBOX")
    }

    /// Reads a server's `-ERR`: `Permissions Violation for Publish to "a.b"`, `… for Subscription to "a.*" using queue
    /// "q"`. `None` for any other.
    pub(crate) fn read(error: &str) -> Option<Self> {
        let (_, rest) = error.split_once("Permissions Violation for ")?;
        let (what, rest) = rest.split_once(" \"")?;
        let verb = if what.starts_with("Subscription") { Verb::Subscribe } else { Verb::Publish };
        let (subject, _) = rest.split_once('"')?;
        Some(Self { verb, subject: subject.to_owned() })
    }

    /// Notes it, and tells it when it is new on this connection. Answers are noted by what their inboxes have in common.
    pub(crate) fn note(mut self, denials: &watch::Sender<Vec<Self>>) {
        if self.is_answer() {
            self.subject = self.subject.split('.').take(1).chain([">"]).collect::<Vec<_>>().join(".");
        }
        denials.send_if_modified(|known| {
            if known.contains(&self) || known.len() >= DENIALS_MAX {
                tracing::debug!("{self}");
                return false;
            }
            tracing::error!(
                subject = self.subject,
                "{self}; what it is for does not work until the permissions of the user are corrected: \
                 docs/guide/external-bus.md lists them"
            );
            known.push(self);
            true
        });
    }

    /// Forgets that publishing on `subject` was denied, so that the next time is told anew.
    pub(crate) fn forget(denials: &watch::Sender<Vec<Self>>, subject: &str) {
        denials.send_if_modified(|known| {
            known.retain(|denied| denied.verb != Verb::Publish || denied.subject != subject);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_what_was_tried_and_where() {
        let read = |text: &str| Denied::read(text).map(|denied| (denied.verb, denied.subject));
        let publish = |subject: &str| Some((Verb::Publish, subject.to_owned()));
        let subscribe = |subject: &str| Some((Verb::Subscribe, subject.to_owned()));
        assert_eq!(read("Permissions Violation for Publish to \"node.a\""), publish("node.a"));
        assert_eq!(read("Permissions Violation for Publish with Reply of \"a.b\""), publish("a.b"));
        assert_eq!(read("Permissions Violation for Subscription to \"node.*\""), subscribe("node.*"));
        assert_eq!(
            read("nats: Permissions Violation for Subscription to \"x\" using queue \"q\""),
            subscribe("x")
        );
        assert_eq!(read("Maximum Payload Violation"), None);
    }

    #[test]
    fn denials_are_noted_once_and_are_bounded() {
        let (denials, denials_rx) = watch::channel(Vec::new());
        let publish = |subject: String| Denied { verb: Verb::Publish, subject };
        for n in 0..1000 {
            publish("node.local.info".into()).note(&denials);
            publish(format!("_INBOX.{n}.x")).note(&denials);
        }
        let subjects: Vec<String> = denials_rx.borrow().iter().map(|denied| denied.subject.clone()).collect();
        assert_eq!(subjects, ["node.local.info", "_INBOX.>"]);
        for n in 0..1000 {
            publish(format!("agent.{n}.x")).note(&denials);
        }
        assert_eq!(denials_rx.borrow().len(), DENIALS_MAX);
    }
}
