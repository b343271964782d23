//! A cursor over the text of one configuration file that knows its line and column. Knows characters, not settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Invalid;
use super::value::Position;

/// What ends a bare value besides white space.
const VALUE_ENDS: &[char] = &[',', ';', ']', '}'];
/// What ends a bare key besides white space.
const KEY_ENDS: &[char] = &[':', '=', '{'];

/// A file that is being read.
pub(super) struct Text<'t> {
    file: Arc<str>,
    /// Where what it includes is looked for.
    pub(super) directory: PathBuf,
    rest: &'t str,
    line: u32,
    column: u32,
}

impl<'t> Text<'t> {
    pub(super) fn new(path: &Path, text: &'t str) -> Self {
        Self {
            file: path.to_string_lossy().into(),
            directory: path.parent().map(Path::to_path_buf).unwrap_or_default(),
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            line: 1,
            column: 1,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position { file: Arc::clone(&self.file), line: self.line, column: self.column }
    }

    pub(super) fn fail<T>(&self, text: impl Into<String>) -> Result<T, Invalid> {
        Err(Invalid::one(Some(self.position()), text))
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    /// What stands here, as an error message names it.
    pub(super) fn found(&self) -> String {
        match self.peek() {
            None => "the end of the file".into(),
            Some('\n') => "the end of the line".into(),
            Some(c) => format!("{c:?}"),
        }
    }

    /// Takes `c` if it is next.
    pub(super) fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn at_comment(&self) -> bool {
        self.rest.starts_with('#') || self.rest.starts_with("//")
    }

    /// Skips white space within the line.
    pub(super) fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|c| c != '\n' && c.is_whitespace()) {
            self.next();
        }
    }

    /// Skips white space and the ends of lines.
    pub(super) fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    /// Skips to the next key or value: white space, lines, comments, and the commas and semicolons between entries.
    pub(super) fn skip_between(&mut self) {
        loop {
            if self.at_comment() {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.next();
                }
            }
            match self.peek() {
                Some(c) if c.is_whitespace() || c == ',' || c == ';' => self.next(),
                _ if self.at_comment() => continue,
                _ => return,
            };
        }
    }

    /// A key or the name of a file, bare.
    pub(super) fn bare_key(&mut self) -> String {
        let end = self.rest.find(|c: char| c.is_whitespace() || KEY_ENDS.contains(&c));
        self.take_bytes(end.unwrap_or(self.rest.len())).to_owned()
    }

    /// A bare value, escapes resolved.
    pub(super) fn bare_value(&mut self) -> Result<String, Invalid> {
        let mut value = String::new();
        while let Some(c) = self.peek().filter(|c| !c.is_whitespace() && !VALUE_ENDS.contains(c)) {
            value.push(if c == '\\' { self.escape()? } else { c });
            if c != '\\' {
                self.next();
            }
        }
        Ok(value)
    }

    /// A text in double quotes, with escapes, or in single ones, without. The quote is next.
    pub(super) fn quoted(&mut self) -> Result<String, Invalid> {
        let start = self.position();
        let quote = self.next();
        let mut value = String::new();
        loop {
            match self.peek() {
                None => {
                    let text = "this quote is not closed before the end of the file";
                    return Err(Invalid::one(Some(start), text));
                }
                c if c == quote => {
                    self.next();
                    return Ok(value);
                }
                Some('\\') if quote == Some('"') => value.push(self.escape()?),
                Some(c) => {
                    value.push(c);
                    self.next();
                }
            }
        }
    }

    /// A text between parentheses, of which the closing one stands alone at the start of a line. The opening is next.
    pub(super) fn parenthesised(&mut self) -> Result<String, Invalid> {
        let start = self.position();
        self.next();
        let ends = |at: usize| {
            let after = &self.rest[at + 2..];
            after.trim_start_matches([' ', '\t', '\r']).is_empty()
                || after.trim_start_matches([' ', '\t', '\r']).starts_with('\n')
        };
        let Some((end, _)) = self.rest.match_indices("\n)").find(|&(at, _)| ends(at)) else {
            let text = "this parenthesis is not closed; the closing ) stands alone at the start of a line";
            return Err(Invalid::one(Some(start), text));
        };
        let value = self.take_bytes(end + 1).to_owned();
        self.next();
        Ok(value)
    }

    /// The character that an escape stands for. The backslash is next.
    fn escape(&mut self) -> Result<char, Invalid> {
        let start = self.position();
        let refuse = |what: &str| {
            let text = format!(
                "{what}; there are \\t \\n \\r \\\" \\\\ and \\xHH (for a backslash write \\\\ or use 'single quotes')"
            );
            Err(Invalid::one(Some(start.clone()), text))
        };
        self.next();
        match self.next() {
            Some('t') => Ok('\t'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('"') => Ok('"'),
            Some('\\') => Ok('\\'),
            Some('x') => {
                let mut digit = || self.next().and_then(|c| c.to_digit(16));
                match (digit(), digit()) {
                    (Some(high @ 0..8), Some(low)) => Ok(char::from(
                        u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte"),
                    )),
                    (Some(_), Some(_)) => refuse("\\x beyond 7F is no character of its own"),
                    _ => refuse("\\x needs two hexadecimal digits"),
                }
            }
            _ => refuse("this escape is not known"),
        }
    }

    fn take_bytes(&mut self, bytes: usize) -> &'t str {
        let taken = &self.rest[..bytes];
        for _ in taken.chars() {
            self.next();
        }
        taken
    }
}
