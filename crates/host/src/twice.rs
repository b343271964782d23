//! A request that came twice: directly, and once more from the node. Decides only.
//!
//! Between a host's subscription and the moment the node has heard of it, the node takes the host for silent and keeps
//! requests to send them again. The host may have got the first copy as well. Both copies are alike to the byte and
//! come on the same connection, the forwarded one last: so a forwarded request that was seen directly is left out, once
//! for each time it was seen.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Direct requests remembered; a node forwards at most 64.
const SEEN_MAX: usize = 256;

/// The direct requests of the present connection.
#[derive(Debug, Default)]
pub(crate) struct Twice {
    seen: VecDeque<u64>,
}

impl Twice {
    /// A new connection: what was seen on the last one is not forwarded on this.
    pub(crate) fn reset(&mut self) {
        self.seen.clear();
    }

    /// True when the request is to be carried out.
    pub(crate) fn take(
        &mut self,
        forwarded: bool,
        subject: &str,
        reply: Option<&str>,
        payload: &[u8],
    ) -> bool {
        let mut hasher = DefaultHasher::new();
        (subject, reply, payload).hash(&mut hasher);
        let digest = hasher.finish();
        if !forwarded {
            if self.seen.len() == SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back(digest);
            return true;
        }
        match self.seen.iter().position(|seen| *seen == digest) {
            Some(index) => {
                self.seen.remove(index);
                false
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_request_is_left_out_once_for_each_direct_one() {
        let mut twice = Twice::default();
        assert!(twice.take(true, "agent.a.input", None, b"hi"), "only the node sent it");
        assert!(twice.take(false, "agent.a.input", None, b"hi"));
        assert!(twice.take(false, "agent.a.input", None, b"hi"), "said twice, meant twice");
        assert!(!twice.take(true, "agent.a.input", None, b"hi"));
        assert!(!twice.take(true, "agent.a.input", None, b"hi"));
        assert!(twice.take(true, "agent.a.input", None, b"hi"));
        assert!(twice.take(true, "agent.a.input", Some("_INBOX.1"), b"hi"), "another asker");
    }

    #[test]
    fn what_was_seen_on_the_last_connection_does_not_count() {
        let mut twice = Twice::default();
        twice.take(false, "agent.a.restart", Some("_INBOX.1"), b"");
        twice.reset();
        assert!(twice.take(true, "agent.a.restart", Some("_INBOX.1"), b""));
    }
}
