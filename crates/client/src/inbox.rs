//! Where answers may go: a reply subject is the asker's word, and whoever answers publishes there with rights of its own.

use std::sync::Arc;

/// The first token of inboxes: `_INBOX` and whatever begins with `_INBOX_`.
const INBOX: &str = "_INBOX";

/// The subjects that are answered. Default: those whose first token is `_INBOX` or begins with `_INBOX_`, which is what
/// NATS clients use and where nobody listens but who asks. Everything else is a subject somebody may act on: an order, a
/// server's command, one of our own requests.
#[derive(Debug, Clone, Default)]
pub struct Inboxes {
    more: Arc<[String]>,
}

/// Text that is no prefix of inboxes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{prefix:?} cannot be a prefix of inboxes: {reason}")]
pub struct InvalidInbox {
    /// The text.
    pub prefix: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Inboxes {
    /// The default ones, and those below each of `prefixes`: `my.inbox` stands for `my.inbox.>`.
    ///
    /// # Errors
    ///
    /// The first text that is not a subject, or that lies where others than the asker listen.
    pub fn with(prefixes: &[String]) -> Result<Self, InvalidInbox> {
        for prefix in prefixes {
            if let Some(reason) = prefix_fault(prefix) {
                return Err(InvalidInbox { prefix: prefix.clone(), reason });
            }
        }
        Ok(Self { more: prefixes.iter().map(|prefix| format!("{prefix}.")).collect() })
    }

    /// True for a subject that may be answered.
    pub fn holds(&self, subject: &str) -> bool {
        if !is_literal(subject) {
            return false;
        }
        let is_usual = subject.split_once('.').is_some_and(|(first, _)| is_inbox_token(first));
        is_usual || self.more.iter().any(|prefix| subject.starts_with(prefix.as_str()))
    }
}

fn prefix_fault(prefix: &str) -> Option<&'static str> {
    const OURS: [&str; 9] =
        ["agent", "agents", "audit", "tools", "captain", "dashboard", "channel", "task", "node"];
    let first = prefix.split('.').next().unwrap_or_default();
    if !is_literal(prefix) {
        Some("it is not a subject without wildcards")
    } else if OURS.contains(&first) {
        Some("whoever names such a reply subject would have the daemon act on it")
    } else if first.starts_with('$') {
        Some("what begins with $ is the server's")
    } else {
        None
    }
}

fn is_inbox_token(token: &str) -> bool {
    token.strip_prefix(INBOX).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// True for a subject that names one place.
fn is_literal(subject: &str) -> bool {
    subject.split('.').all(|token| {
        !token.is_empty()
            && token != "*"
            && token != ">"
            && !token.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_inboxes_and_to_nothing_else() {
        let inboxes = Inboxes::default();
        for inbox in ["_INBOX.a.1", "_INBOX_HOST.a.1", "_INBOX_carol.x"] {
            assert!(inboxes.holds(inbox), "{inbox}");
        }
        for other in [
            "orders.cancel",
            "$JS.API.STREAM.PURGE.ORDERS",
            "$SYS.REQ.X",
            "agent.b.kill",
            "node.local.down",
            "my.own.inbox",
            "_INBOX",
            "_INBOXES.a",
            "_inbox.a",
            "x._INBOX.a",
            "_INBOX..a",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX.a b",
            "",
        ] {
            assert!(!inboxes.holds(other), "{other}");
        }
    }

    #[test]
    fn a_prefix_that_is_named_is_answered_too() {
        let inboxes = Inboxes::with(&["my.inbox".to_owned()]).unwrap();
        assert!(inboxes.holds("my.inbox.1") && inboxes.holds("_INBOX.1"));
        assert!(!inboxes.holds("my.inbox") && !inboxes.holds("my.inboxes.1") && !inboxes.holds("my.orders"));
        assert!(!inboxes.holds("my.inbox.*"));
    }

    #[test]
    fn a_prefix_where_somebody_acts_is_refused() {
        for bad in ["", "a..b", "a.*", ">", "agent", "node.local", "$JS.API", "a b"] {
            let refused = Inboxes::with(&[bad.to_owned()]).unwrap_err();
            assert_eq!(refused.prefix, bad);
        }
    }
}
