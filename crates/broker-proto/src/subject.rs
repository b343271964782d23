//! Subjects and filters: what is well formed and which filter covers which subject. No trie here, see
//! [`Sublist`](crate::Sublist).
//!
//! A *subject* is what a message is published to: tokens separated by dots. A *filter* is what a subscriber asks for:
//! a token may be `*` (any one token) and the last one `>` (one or more tokens). `*` and `>` *inside* a longer token
//! are ordinary bytes: `foo.b*r` is a literal.

use std::fmt;

/// The token that stands for exactly one token.
pub const ANY: &[u8] = b"*";
/// The last token of a filter that stands for one or more tokens.
pub const TAIL: &[u8] = b">";

/// Why a string is not a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// Nothing at all.
    #[error("a subject cannot be empty")]
    Empty,
    /// A leading, trailing or double dot.
    #[error("a subject cannot have an empty token (leading, trailing or double dot)")]
    EmptyToken,
    /// Tokens after `>`.
    #[error("`>` must be the last token")]
    TailNotLast,
    /// Space, tab, CR, LF or NUL: they would end the argument on the wire.
    #[error("a subject cannot contain white space or NUL")]
    WhiteSpace,
}

/// A checked filter (a literal subject is a filter too).
///
/// ```
/// use ostler_broker_proto::subject::Filter;
/// assert!(Filter::parse("agent.*.status").unwrap().matches(b"agent.joe.status"));
/// assert!(Filter::parse("agent..status").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Box<[u8]>);

impl Filter {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`InvalidSubject`] names the rule that was broken.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidSubject> {
        let text = text.as_ref();
        check_filter(text)?;
        Ok(Self(text.into()))
    }

    /// The bytes it was parsed from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a message on `subject` would be delivered to this filter.
    pub fn matches(&self, subject: &[u8]) -> bool {
        matches(&self.0, subject)
    }

    /// Whether every subject that `other` matches is matched by this filter too.
    pub fn covers(&self, other: &[u8]) -> bool {
        covers(&self.0, other)
    }

    /// Whether some subject is matched by both.
    pub fn overlaps(&self, other: &[u8]) -> bool {
        overlaps(&self.0, other)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

/// The tokens of a subject or filter, empty ones included.
pub fn tokens(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    subject.split(|&byte| byte == b'.')
}

/// Whether `filter` may be subscribed to.
///
/// # Errors
/// [`InvalidSubject`] names the rule that was broken.
pub fn check_filter(filter: &[u8]) -> Result<(), InvalidSubject> {
    if filter.is_empty() {
        return Err(InvalidSubject::Empty);
    }
    if filter.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0)) {
        return Err(InvalidSubject::WhiteSpace);
    }
    let mut tail_seen = false;
    for token in tokens(filter) {
        if tail_seen {
            return Err(InvalidSubject::TailNotLast);
        }
        if token.is_empty() {
            return Err(InvalidSubject::EmptyToken);
        }
        tail_seen = token == TAIL;
    }
    Ok(())
}

/// Whether `filter` may be subscribed to; see [`check_filter`] for the reason why not.
pub fn is_filter(filter: &[u8]) -> bool {
    check_filter(filter).is_ok()
}

/// Whether `subject` is well formed and has no wildcard token: what a pedantic publisher must send.
pub fn is_literal(subject: &[u8]) -> bool {
    is_filter(subject) && !has_wildcard(subject)
}

/// Whether every client can read `subject`: UTF-8 without white space and control characters, in ASCII and beyond.
///
/// Says nothing of its tokens. A client splits the line it arrives in at white space, whichever it knows, and takes
/// its connection for broken when the parts are not what it expects.
pub fn is_readable(subject: &[u8]) -> bool {
    subject.iter().all(u8::is_ascii_graphic)
        || std::str::from_utf8(subject)
            .is_ok_and(|text| !text.contains(|char: char| char.is_whitespace() || char.is_control()))
}

/// Whether any token is a wildcard.
pub fn has_wildcard(filter: &[u8]) -> bool {
    // Most subjects hold neither byte, and scanning is cheaper than splitting.
    filter.iter().any(|&byte| byte == b'*' || byte == b'>')
        && tokens(filter).any(|token| token == ANY || token == TAIL)
}

/// Whether `filter` matches the literal `subject`. An empty token in `subject` matches nothing.
pub fn matches(filter: &[u8], subject: &[u8]) -> bool {
    if tokens(subject).any(<[u8]>::is_empty) {
        return false;
    }
    let mut wanted = tokens(filter);
    let mut found = tokens(subject);
    loop {
        match (wanted.next(), found.next()) {
            (Some(TAIL), Some(_)) => return wanted.next().is_none(),
            (Some(want), Some(token)) if want == ANY || want == token => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Whether every subject matched by the filter `inner` is matched by `outer`.
pub fn covers(outer: &[u8], inner: &[u8]) -> bool {
    let mut outer = tokens(outer);
    let mut inner = tokens(inner);
    loop {
        match (outer.next(), inner.next()) {
            (Some(TAIL), Some(_)) => return true,
            (Some(_), Some(TAIL)) => return false,
            (Some(ANY), Some(_)) => {}
            (Some(want), Some(token)) if want == token => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Whether some literal subject is matched by both filters.
pub fn overlaps(left: &[u8], right: &[u8]) -> bool {
    let mut left = tokens(left);
    let mut right = tokens(right);
    loop {
        match (left.next(), right.next()) {
            (Some(TAIL), Some(_)) | (Some(_), Some(TAIL)) => return true,
            (Some(a), Some(b)) if a == ANY || b == ANY || a == b => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_inside_a_token_are_literals() {
        assert!(is_literal(b"foo.b*r"));
        assert!(is_literal(b"foo.>bar"));
        assert!(!matches(b"foo.b*r", b"foo.bar"));
        assert!(matches(b"foo.b*r", b"foo.b*r"));
    }

    #[test]
    fn empty_tokens_and_a_tail_in_the_middle_are_refused_with_the_rule() {
        assert_eq!(check_filter(b""), Err(InvalidSubject::Empty));
        for bad in [&b".a"[..], b"a.", b"a..b", b"."] {
            assert_eq!(check_filter(bad), Err(InvalidSubject::EmptyToken), "{bad:?}");
        }
        assert_eq!(check_filter(b"a.>.b"), Err(InvalidSubject::TailNotLast));
        assert_eq!(check_filter(b"a b"), Err(InvalidSubject::WhiteSpace));
        assert!(is_filter(b">") && is_filter(b"*.>") && is_filter(b"a.*.c"));
    }

    #[test]
    fn tail_needs_at_least_one_token() {
        assert!(!matches(b"foo.>", b"foo"));
        assert!(matches(b"foo.>", b"foo.a"));
        assert!(matches(b"foo.>", b"foo.a.b"));
        assert!(!matches(b">", b"foo."));
    }

    #[test]
    fn covering_compares_sets_not_text() {
        for (outer, inner, expected) in [
            ("foo.*", "foo.*", true),
            ("foo.>", "foo.*", true),
            ("foo.*", "foo.>", false),
            (">", ">", true),
            ("*", ">", false),
            ("foo.bar", "foo.*", false),
            ("foo.*.x", "foo.a.x", true),
            ("foo.>", "foo", false),
        ] {
            assert_eq!(covers(outer.as_bytes(), inner.as_bytes()), expected, "{outer} covers {inner}");
        }
    }

    #[test]
    fn overlap_is_symmetric() {
        for (left, right, expected) in [
            ("foo.*", "*.bar", true),
            ("foo.>", "foo", false),
            ("foo.a", "foo.b", false),
            (">", "x", true),
            ("a.*.c", "a.b.>", true),
        ] {
            assert_eq!(overlaps(left.as_bytes(), right.as_bytes()), expected);
            assert_eq!(overlaps(right.as_bytes(), left.as_bytes()), expected);
        }
    }
}
