//! Subject transforms: a subject that a filter matches becomes another one, made of its tokens. Used on what a stream
//! stores, republishes and takes from other streams. It knows no stream.
//!
//! ```text
//! source       orders.*.*                    destination   eu.$2.{{partition(10,1)}}
//! tokens       orders  7   new                             eu.new.4
//! ```

use std::fmt::Write as _;

use ostler_broker_proto::subject::{self, Filter};
use serde::{Deserialize, Serialize};

/// Which subjects become which.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubjectTransform {
    /// The filter; empty means all subjects.
    pub src: String,
    /// What they become: literal tokens, `$n` or `{{wildcard(n)}}` for the n-th `*` of `src`, functions of such
    /// tokens, and `>` at the end for what the `>` of `src` matched. Empty means that they stay as they are.
    pub dest: String,
}

/// Why a transform cannot be made. The words are nats-server's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransformError {
    /// The source is no filter, the destination no subject, or they do not fit together.
    #[error("invalid subject")]
    Subject,
    /// A token of the destination cannot be read.
    #[error("invalid mapping destination: {reason}{}{token}", if token.is_empty() { "" } else { " in " })]
    Destination { reason: &'static str, token: String },
}

/// What one token of the destination is made of. Tokens of the source are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Token(usize),
    Partition {
        of: Vec<usize>,
        count: u32,
    },
    Random {
        count: u32,
    },
    SplitFromLeft(usize, usize),
    SplitFromRight(usize, usize),
    SliceFromLeft(usize, usize),
    SliceFromRight(usize, usize),
    Left(usize, usize),
    Right(usize, usize),
    Split(usize, String),
    /// Whatever the `>` of the source matched.
    Tail,
}

/// A transform that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transform {
    source: Filter,
    /// Where the tail begins.
    tokens: usize,
    /// Empty when subjects stay as they are.
    parts: Vec<Part>,
}

impl Transform {
    /// Checks and prepares a transform.
    pub(crate) fn parse(src: &str, dest: &str) -> Result<Self, TransformError> {
        let src = if src.is_empty() { ">" } else { src };
        let source = Filter::parse(src).map_err(|_| TransformError::Subject)?;
        let stays = dest.is_empty() || (src == ">" && dest == ">");
        let tokens: Vec<&str> = src.split('.').collect();
        let has_tail = tokens.last() == Some(&">");
        let wildcards: Vec<usize> = (0..tokens.len()).filter(|&index| tokens[index] == "*").collect();
        if stays {
            return Ok(Self { source, tokens: tokens.len(), parts: Vec::new() });
        }
        let mut parts = Vec::new();
        for token in dest.split('.') {
            if token.is_empty() {
                return Err(bad("invalid transform", ""));
            }
            parts.push(part(token, &wildcards)?);
        }
        let tail_at = parts.iter().position(|part| *part == Part::Tail);
        let tail_fits = if has_tail { tail_at == Some(parts.len() - 1) } else { tail_at.is_none() };
        if !tail_fits || parts.contains(&Part::Literal("*".to_owned())) {
            return Err(TransformError::Subject);
        }
        Ok(Self { source, tokens: tokens.len(), parts })
    }

    /// What a subject becomes; `None` when this is not for it. `salt` decides `{{random(n)}}`.
    pub(crate) fn apply(&self, subject: &[u8], salt: u64) -> Option<Vec<u8>> {
        if !self.source.matches(subject) {
            return None;
        }
        Some(self.rewrite(subject, salt))
    }

    /// What a subject that the source is known to match becomes.
    fn rewrite(&self, subject: &[u8], salt: u64) -> Vec<u8> {
        if self.parts.is_empty() {
            return subject.to_vec();
        }
        let tokens: Vec<&[u8]> = subject::tokens(subject).collect();
        let token = |index: &usize| tokens.get(*index).copied().unwrap_or_default();
        let mut made: Vec<u8> = Vec::with_capacity(subject.len() + 16);
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                made.push(b'.');
            }
            match part {
                Part::Literal(text) => made.extend_from_slice(text.as_bytes()),
                Part::Token(of) => made.extend_from_slice(token(of)),
                Part::Partition { of, count } => {
                    let hash =
                        if of.is_empty() { fnv1a(subject.iter()) } else { fnv1a(of.iter().flat_map(&token)) };
                    put(&mut made, hash.checked_rem(*count).unwrap_or(0));
                }
                Part::Random { count } => {
                    put(&mut made, fnv1a(salt.to_le_bytes().iter()).checked_rem(*count).unwrap_or(0));
                }
                Part::SplitFromLeft(of, at) => cut(&mut made, token(of), Some(*at)),
                Part::SplitFromRight(of, at) => {
                    cut(&mut made, token(of), token(of).len().checked_sub(*at).filter(|_| *at > 0));
                }
                Part::SliceFromLeft(of, size) => join(&mut made, slices(token(of), *size, 0)),
                Part::SliceFromRight(of, size) => {
                    let first = token(of).len().checked_rem(*size).unwrap_or(0);
                    join(&mut made, slices(token(of), *size, first));
                }
                Part::Left(of, len) => made.extend_from_slice(ends(token(of), *len).0),
                Part::Right(of, len) => made.extend_from_slice(ends(token(of), *len).1),
                Part::Split(of, by) => {
                    let text = String::from_utf8_lossy(token(of));
                    join(&mut made, text.split(&**by).filter(|piece| !piece.is_empty()).map(str::as_bytes));
                }
                Part::Tail => join(&mut made, tokens.iter().skip(self.tokens - 1).copied()),
            }
        }
        made
    }

    /// The filter of what it is for.
    pub(crate) fn source(&self) -> &Filter {
        &self.source
    }
}

fn put(out: &mut Vec<u8>, number: u32) {
    crate::acks::write_number(out, u64::from(number));
}

fn join<'a>(out: &mut Vec<u8>, pieces: impl Iterator<Item = &'a [u8]>) {
    for (index, piece) in pieces.enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(piece);
    }
}

/// In two at a place that is inside of it, else whole.
fn cut(out: &mut Vec<u8>, token: &[u8], at: Option<usize>) {
    match at.filter(|at| *at > 0 && *at < token.len()) {
        Some(at) => join(out, [&token[..at], &token[at..]].into_iter()),
        None => out.extend_from_slice(token),
    }
}

/// Pieces of a size; the first one shorter when `first` says so.
fn slices(token: &[u8], size: usize, first: usize) -> impl Iterator<Item = &[u8]> {
    let whole = size == 0 || size >= token.len();
    let (head, rest) = if whole { (token, &token[..0]) } else { token.split_at(first) };
    std::iter::once(head).filter(|head| !head.is_empty()).chain(rest.chunks(size.max(1)))
}

/// The first and the last so many bytes; all of it when it has no more.
fn ends(token: &[u8], len: usize) -> (&[u8], &[u8]) {
    if len == 0 || len >= token.len() {
        return (token, token);
    }
    (&token[..len], &token[token.len() - len..])
}

/// FNV-1a with 32 bits: what partitions are made with, so that they are the same as nats-server's.
fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn bad(reason: &'static str, token: impl Into<String>) -> TransformError {
    TransformError::Destination { reason, token: token.into() }
}

const OUT_OF_RANGE: &str = "wildcard index out of range";
const INVALID_ARGUMENT: &str = "function argument is invalid or in the wrong format";
const NOT_ENOUGH: &str = "not enough arguments passed to the function";
const TOO_MANY: &str = "too many arguments passed to the function";

/// Reads one token of a destination.
fn part(token: &str, wildcards: &[usize]) -> Result<Part, TransformError> {
    if token == ">" {
        return Ok(Part::Tail);
    }
    if let Some(number) = token.strip_prefix('$') {
        // Other subjects begin with `$` too.
        return match number.parse::<usize>() {
            Ok(index) => Ok(Part::Token(source_token(index, wildcards, token)?)),
            Err(_) => Ok(Part::Literal(token.to_owned())),
        };
    }
    let Some(call) = token.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) else {
        let plain = !token.contains(|c: char| c.is_ascii_whitespace() || c == '\0');
        return if plain { Ok(Part::Literal(token.to_owned())) } else { Err(TransformError::Subject) };
    };
    let inner = call.trim().strip_suffix(')').and_then(|call| call.split_once('('));
    let Some((name, arguments)) = inner else { return Err(bad("unknown function", token)) };
    let name = name.trim().to_ascii_lowercase();
    let arguments: Vec<&str> =
        if arguments.trim().is_empty() { Vec::new() } else { arguments.split(',').collect() };
    let number = |index: usize| -> Result<usize, TransformError> {
        arguments[index].trim().parse().map_err(|_| bad(INVALID_ARGUMENT, token))
    };
    let exactly = |count: usize| match arguments.len() {
        given if given < count => Err(bad(NOT_ENOUGH, token)),
        given if given > count => Err(bad(TOO_MANY, token)),
        _ => Ok(()),
    };
    let of = |index: usize| source_token(number(index)?, wildcards, token);
    Ok(match &*name {
        "wildcard" => {
            exactly(1)?;
            Part::Token(of(0)?)
        }
        "partition" => {
            if arguments.is_empty() {
                return Err(bad(NOT_ENOUGH, token));
            }
            let count = u32::try_from(number(0)?).map_err(|_| bad(INVALID_ARGUMENT, token))?;
            // Of a literal source nothing can be chosen: the whole subject counts.
            let chosen = if wildcards.is_empty() { 1 } else { arguments.len() };
            let tokens = (1..chosen).map(of).collect::<Result<_, _>>()?;
            Part::Partition { of: tokens, count }
        }
        "random" => {
            exactly(1)?;
            Part::Random { count: u32::try_from(number(0)?).map_err(|_| bad(INVALID_ARGUMENT, token))? }
        }
        "split" => {
            exactly(2)?;
            let by = arguments[1].trim_start();
            if by.contains([' ', '.']) || by.is_empty() {
                return Err(bad(INVALID_ARGUMENT, token));
            }
            Part::Split(of(0)?, by.to_owned())
        }
        "splitfromleft" | "splitfromright" | "slicefromleft" | "slicefromright" | "left" | "right" => {
            exactly(2)?;
            number(0)?;
            let (size, of) = (number(1)?, of(0)?);
            match &*name {
                "splitfromleft" => Part::SplitFromLeft(of, size),
                "splitfromright" => Part::SplitFromRight(of, size),
                "slicefromleft" => Part::SliceFromLeft(of, size),
                "slicefromright" => Part::SliceFromRight(of, size),
                "left" => Part::Left(of, size),
                _ => Part::Right(of, size),
            }
        }
        _ => return Err(bad("unknown function", token)),
    })
}

/// The token that the n-th wildcard stands for.
fn source_token(number: usize, wildcards: &[usize], token: &str) -> Result<usize, TransformError> {
    let found = number.checked_sub(1).and_then(|index| wildcards.get(index));
    found.copied().ok_or_else(|| {
        let mut place = token.to_owned();
        // nats-server names the number only when there is another that would do. Writing to text cannot fail.
        if !wildcards.is_empty() {
            let _ = write!(place, ": [{number}]");
        }
        bad(OUT_OF_RANGE, place)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn becomes(src: &str, dest: &str, subject: &str) -> Option<String> {
        let made = Transform::parse(src, dest).unwrap().apply(subject.as_bytes(), 7)?;
        Some(String::from_utf8(made).unwrap())
    }

    #[test]
    fn subjects_become_what_nats_server_makes_of_them() {
        for (src, dest, subject, made) in [
            ("foo.*.*", "bar.$2.$1", "foo.a.b", Some("bar.b.a")),
            ("foo.*.*", "bar.$2.$1", "foo.a", None),
            ("foo.>", "bar.x.>", "foo.a.b", Some("bar.x.a.b")),
            ("", "all.>", "a.b", Some("all.a.b")),
            ("foo.>", "", "foo.a", Some("foo.a")),
            ("foo.*.>", "o.$1.x.>", "foo.a.b.c", Some("o.a.x.b.c")),
            ("foo.*", "$x.$1", "foo.a", Some("$x.a")),
            ("foo", "bar", "foo", Some("bar")),
            ("g.*", "o.{{SplitFromLeft(1,3)}}", "g.abcd", Some("o.abc.d")),
            ("g.*", "o.{{SplitFromLeft(1,3)}}", "g.abc", Some("o.abc")),
            ("g.*", "o.{{ splitfromright( 1 , 3 ) }}", "g.abcd", Some("o.a.bcd")),
            ("g.*", "o.{{SplitFromRight(1,0)}}", "g.abcd", Some("o.abcd")),
            ("g.*", "o.{{SplitFromRight(1,9)}}", "g.abcd", Some("o.abcd")),
            ("g.*", "o.{{SliceFromLeft(1,3)}}", "g.abcdefgh", Some("o.abc.def.gh")),
            ("g.*", "o.{{SliceFromRight(1,3)}}", "g.abcdefgh", Some("o.ab.cde.fgh")),
            ("g.*", "o.{{SliceFromRight(1,3)}}", "g.abcdef", Some("o.abc.def")),
            ("g.*", "o.{{SliceFromLeft(1,0)}}", "g.abc", Some("o.abc")),
            ("g.*", "o.{{split(1,-)}}", "g.-a--b-", Some("o.a.b")),
            ("g.*", "o.{{left(1,2)}}.{{right(1,2)}}", "g.abcd", Some("o.ab.cd")),
            ("g.*", "o.{{partition(5,1)}}", "g.b", Some("o.2")),
            ("g.*.*", "o.{{partition(10,1,2)}}", "g.foo.bar", Some("o.0")),
            ("g.*", "o.{{partition(0,1)}}", "g.b", Some("o.0")),
            ("g18.*", "o.{{partition(3)}}", "g18.abc", Some("o.0")),
        ] {
            assert_eq!(becomes(src, dest, subject).as_deref(), made, "{src} {dest} {subject}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (src, dest) in [("t.*", "u.*"), ("t.>", "u"), ("t.*", "u.>"), ("t..x", "u"), ("t.>", "u.>.x")] {
            assert_eq!(Transform::parse(src, dest), Err(TransformError::Subject), "{src} {dest}");
        }
        for (dest, reason) in [
            ("u.$2", "invalid mapping destination: wildcard index out of range in $2: [2]"),
            ("u.{{bogus(1)}}", "invalid mapping destination: unknown function in {{bogus(1)}}"),
            ("u..$1", "invalid mapping destination: invalid transform"),
        ] {
            assert_eq!(Transform::parse("t.*", dest).unwrap_err().to_string(), reason);
        }
    }

    proptest! {
        #[test]
        fn any_destination_is_read_or_refused_and_makes_a_subject(
            dest in "(a|\\$[0-3]|\\{\\{(split|left|partition|sliceFromRight)\\((1|2|9),?(-|2|x)?\\)\\}\\}|>|\\.){1,6}",
            first in "[a-z-]{1,9}",
            second in "[a-z-]{1,9}",
        ) {
            for src in ["t.*.*", "t.*.>", ">"] {
                if let Ok(transform) = Transform::parse(src, &dest) {
                    let subject = format!("t.{first}.{second}");
                    prop_assert!(transform.apply(subject.as_bytes(), 1).is_some());
                    prop_assert!(transform.apply(b"other", 1).is_some() == (src == ">"));
                }
            }
        }
    }
}
