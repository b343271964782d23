//! Rust text with comments and literals blanked out, so that a rule about code does not trip over prose.
//!
//! Not a parser: it knows where comments, strings and characters begin and end, and nothing else.

/// The same text, line for line and byte for byte, with spaces in place of comments and of what literals say.
pub(super) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).expect("only whole literals are replaced, by ASCII")
}

/// The end of the comment or literal that begins at `at`; `at` itself when none does.
fn literal_or_comment(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'b' | b'c', b'"', ..] if !after_word => at + 1 + quoted(&rest[1..], b'"'),
        [b'b', b'\'', ..] if !after_word => at + 1 + quoted(&rest[1..], b'\''),
        [b'r', b'"' | b'#', ..] if !after_word => at + raw(rest, 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !after_word => at + raw(rest, 2),
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        // 'x' is a character, 'x without a second quote a lifetime.
        [b'\'', ..] => match rest.iter().skip(2).take(4).position(|&b| b == b'\'') {
            Some(width) if is_one_char(&rest[1..2 + width]) => at + 3 + width,
            _ => at,
        },
        _ => at,
    }
}

fn is_one_char(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == 1)
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        // A raw identifier, r#type.
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    end.map_or(rest.len(), |end| open + 1 + end + close.len())
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn comments_and_literals_go_and_code_stays() {
        // In the expectations a dot stands for a space.
        for (text, masked) in [
            ("let a = 1; // unsafe", "let a = 1; ........."),
            ("a /* x /* y */ z */ b", "a ................. b"),
            (r#"f("un\"safe") + 1"#, "f(..........) + 1"),
            (r##"f(r#"un"safe"#, b)"##, "f(............, b)"),
            ("r#type + br", "r#type + br"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("x == '\"' && y == '\\'' || z == 'é'", "x == ... && y == .... || z == ...."),
            ("b'x', b\"y\", cr\"z\";", "...., ...., .....;"),
        ] {
            let masked = masked.replace('.', " ");
            assert_eq!(mask(text), masked, "{text}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n\"two\nlines\"\n/* c\n */ b\n";
        assert_eq!(mask(text).matches('\n').count(), text.matches('\n').count());
        assert_eq!(mask(text).len(), text.len());
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_file() {
        for text in ["\"abc", "r#\"abc", "/* abc", "'\\", "\"\\"] {
            assert_eq!(mask(text).trim(), "", "{text}");
        }
    }
}
