//! Second opinions for the fuzz targets: the slowest way to say what matches what, and nothing of the product; and a
//! JetStream that stands on nothing but memory.

pub mod jetstream;

/// Cuts at dots.
pub fn tokens(subject: &[u8]) -> Vec<&[u8]> {
    subject.split(|byte| *byte == b'.').collect()
}

/// Whether `filter` matches `subject`, straight from the protocol's words: `*` is any one token, `>` at the end one or
/// more, everything else is itself; a subject with an empty token is matched by nothing.
pub fn matches(filter: &[u8], subject: &[u8]) -> bool {
    fn from(filter: &[&[u8]], subject: &[&[u8]]) -> bool {
        match (filter, subject) {
            ([], []) => true,
            ([b">"], [_, ..]) => true,
            ([b"*", filter @ ..], [_, subject @ ..]) => from(filter, subject),
            ([want, filter @ ..], [token, subject @ ..]) => want == token && from(filter, subject),
            _ => false,
        }
    }
    let subject = tokens(subject);
    subject.iter().all(|token| !token.is_empty()) && from(&tokens(filter), &subject)
}

/// Whether `filter` may be subscribed to, from the protocol's words.
pub fn is_filter(filter: &[u8]) -> bool {
    let tokens = tokens(filter);
    let (last, front) = tokens.split_last().expect("splitting yields at least one piece");
    !last.is_empty()
        && front.iter().all(|token| !token.is_empty() && *token != b">")
        && !filter.iter().any(|byte| b" \t\r\n\0".contains(byte))
}

/// Cuts input into pieces at `separator`, at most `max`.
pub fn pieces(input: &[u8], separator: u8, max: usize) -> Vec<&[u8]> {
    input.split(|byte| *byte == separator).take(max).collect()
}
