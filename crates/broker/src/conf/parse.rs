//! The configuration language of nats-server: text to values, with variables and includes resolved. It knows no
//! settings. Everything it builds is bounded, so that no file, however odd, takes the program down.

use std::io;
use std::path::{Path, PathBuf};

use super::error::Invalid;
use super::text::Text;
use super::units;
use super::value::{Block, Entry, Kind, Position, Value};

/// Blocks and lists within each other. Real files have five.
const DEPTH_MAX: usize = 32;
/// Files that include each other in a chain.
const INCLUDE_DEPTH_MAX: usize = 10;
/// Files included by all of them together: a chain of ten could otherwise name millions.
const INCLUDES_MAX: usize = 100;
/// Bytes of one file.
const FILE_BYTES_MAX: usize = 4 << 20;
/// Values in all: variables copy what they name, and copies of copies grow without bound.
const VALUES_MAX: usize = 200_000;

/// What a configuration takes from outside its text.
pub trait Outside {
    /// The bytes of a file.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The real files and the real environment.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Outside for System {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Reads a file and what it includes.
///
/// # Errors
/// [`Invalid`] with the first problem: a file that cannot be read, a text that is not in the language.
pub fn parse(path: &Path, outside: &dyn Outside) -> Result<Block, Invalid> {
    let mut parser =
        Parser { outside, scopes: vec![Block::default()], files: Vec::new(), includes: 0, left: VALUES_MAX };
    parser.file(path, None)?;
    Ok(parser.scopes.pop().unwrap_or_default())
}

struct Parser<'o> {
    outside: &'o dyn Outside,
    /// The blocks that are being read, the outermost first: where variables are looked up.
    scopes: Vec<Block>,
    /// The files that are being read, each included by the one before.
    files: Vec<PathBuf>,
    includes: usize,
    left: usize,
}

/// What ends a row of entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    EndOfFile,
    Brace,
}

impl Parser<'_> {
    /// Reads a file into the innermost scope.
    fn file(&mut self, path: &Path, named_at: Option<&Position>) -> Result<(), Invalid> {
        let refuse = |text: String| Err(Invalid::one(named_at.cloned(), text));
        let shown = path.display();
        if self.files.iter().any(|open| open == path) {
            return refuse(format!("{shown} includes itself; remove one of the includes"));
        }
        self.includes += 1;
        if self.files.len() >= INCLUDE_DEPTH_MAX || self.includes > INCLUDES_MAX {
            return refuse(format!(
                "too many includes: at most {INCLUDE_DEPTH_MAX} in a chain and {INCLUDES_MAX} in all"
            ));
        }
        let bytes = match self.outside.read(path) {
            Ok(bytes) => bytes,
            Err(error) => return refuse(format!("cannot read {shown}: {error}; check the path")),
        };
        if bytes.len() > FILE_BYTES_MAX {
            return refuse(format!("{shown} has more than {FILE_BYTES_MAX} bytes: is it a configuration?"));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return refuse(format!("{shown} is not UTF-8 text: is it a configuration?"));
        };
        self.files.push(path.to_owned());
        self.root(&mut Text::new(path, &text))?;
        self.files.pop();
        Ok(())
    }

    /// The entries of a file. All of them may stand in braces, which makes JSON a configuration.
    fn root(&mut self, text: &mut Text<'_>) -> Result<(), Invalid> {
        text.skip_between();
        if !text.take('{') {
            return self.entries(text, Until::EndOfFile, 0);
        }
        self.entries(text, Until::Brace, 0)?;
        text.skip_between();
        match text.peek() {
            None => Ok(()),
            Some(_) => text.fail(format!("the file ended with its }}, but {} follows", text.found())),
        }
    }

    fn entries(&mut self, text: &mut Text<'_>, until: Until, depth: usize) -> Result<(), Invalid> {
        let opened = text.position();
        loop {
            text.skip_between();
            match (text.peek(), until) {
                (None, Until::EndOfFile) => return Ok(()),
                (None, Until::Brace) => {
                    let problem = "this block is not closed before the end of the file; a } is missing";
                    return Err(Invalid::one(Some(opened), problem));
                }
                (Some('}'), Until::Brace) => {
                    text.next();
                    return Ok(());
                }
                (Some('}'), Until::EndOfFile) => return text.fail("this } closes nothing; remove it"),
                (Some(_), _) => self.entry(text, until, depth)?,
            }
        }
    }

    fn entry(&mut self, text: &mut Text<'_>, until: Until, depth: usize) -> Result<(), Invalid> {
        let at = text.position();
        let quoted = matches!(text.peek(), Some('"' | '\''));
        let key = match text.peek() {
            Some('"' | '\'') => text.quoted()?,
            Some(':' | '=' | '[' | ']' | '(' | ')' | '{') => {
                return text.fail(format!("a setting's name should stand here, but it is {}", text.found()));
            }
            _ => text.bare_key(),
        };
        text.skip_space();
        let separated = text.take(':') || text.take('=');
        text.skip_blanks();
        match text.peek() {
            None => return text.fail(format!("{key:?} has no value; write {key}: VALUE")),
            Some('\n') => {
                return text.fail(format!(
                    "the value of {key:?} must begin on the line of its {}",
                    if separated { "colon" } else { "name" }
                ));
            }
            Some('}' | ']' | ',' | ';') => {
                return text.fail(format!("{key:?} has no value; write {key}: VALUE"));
            }
            Some(_) => {}
        }
        if key == "include" && !quoted {
            let named_at = text.position();
            let path = match text.peek() {
                Some('"' | '\'') => text.quoted()?,
                _ => text.bare_value()?,
            };
            self.file(&text.directory.join(path), Some(&named_at))?;
        } else {
            let value = self.value(text, depth)?;
            let scope = self.scopes.last_mut().expect("the outermost scope is never taken while reading");
            scope.entries.push(Entry { key, at, value, referenced: false });
        }
        end_of_entry(text, until)
    }

    fn value(&mut self, text: &mut Text<'_>, depth: usize) -> Result<Value, Invalid> {
        let at = text.position();
        self.spend(1, &at)?;
        if depth >= DEPTH_MAX {
            return text.fail(format!("more than {DEPTH_MAX} blocks and lists within each other"));
        }
        let kind = match text.peek() {
            Some('{') => {
                text.next();
                self.scopes.push(Block::default());
                self.entries(text, Until::Brace, depth + 1)?;
                Kind::Block(self.scopes.pop().unwrap_or_default())
            }
            Some('[') => Kind::List(self.list(text, depth + 1)?),
            Some('(') => Kind::Text(text.parenthesised()?),
            Some('"' | '\'') => Kind::Text(text.quoted()?),
            _ => {
                let bare = text.bare_value()?;
                match bare.strip_prefix('$').filter(|_| !is_bcrypt(&bare)) {
                    Some(name) => return self.variable(name, at, depth),
                    None => {
                        let kind = bare_kind(&bare, &at)?;
                        return Ok(Value { at, kind, text: Some(bare), is_variable: false });
                    }
                }
            }
        };
        Ok(Value { at, kind, text: None, is_variable: false })
    }

    fn list(&mut self, text: &mut Text<'_>, depth: usize) -> Result<Vec<Value>, Invalid> {
        let opened = text.position();
        text.next();
        let mut values = Vec::new();
        loop {
            text.skip_between();
            match text.peek() {
                None => {
                    let problem = "this list is not closed before the end of the file; a ] is missing";
                    return Err(Invalid::one(Some(opened), problem));
                }
                Some(']') => {
                    text.next();
                    return Ok(values);
                }
                Some('}') => return text.fail("a list ends with ], not with }"),
                Some(_) => values.push(self.value(text, depth)?),
            }
            text.skip_blanks();
            if !matches!(text.peek(), None | Some('\n' | ',' | ';' | ']')) && !text.at_comment() {
                return text
                    .fail(format!("a comma, a new line or ] should stand here, but it is {}", text.found()));
            }
        }
    }

    /// What `$name` stands for: the key set last before it, in this block or one around it, else the environment.
    fn variable(&mut self, name: &str, at: Position, depth: usize) -> Result<Value, Invalid> {
        let found = self
            .scopes
            .iter_mut()
            .rev()
            .find_map(|scope| scope.entries.iter_mut().rev().find(|entry| entry.key == name));
        if let Some(entry) = found {
            entry.referenced = true;
            let Value { kind, text, .. } = entry.value.clone();
            self.spend(kind.size(), &at)?;
            return Ok(Value { at, kind, text, is_variable: true });
        }
        let Some(set) = self.outside.variable(name) else {
            let text = format!(
                "${name} is not set: no key {name} stands before it and the environment has none; \
                 set it, or quote the value if the $ is part of it"
            );
            return Err(Invalid::one(Some(at), text));
        };
        // Read as a value; what is none, a text with spaces for instance, is a text.
        let mut inner = Text::new(Path::new(&format!("${name}")), &set);
        let (scopes, files) = (self.scopes.len(), self.files.len());
        let kind = match self.value(&mut inner, depth + 1) {
            Ok(value) if inner.peek().is_none() => value.kind,
            _ => Kind::Text(set.clone()),
        };
        // What broke off half-way left its blocks open.
        self.scopes.truncate(scopes);
        self.files.truncate(files);
        Ok(Value { at, kind, text: Some(set), is_variable: true })
    }

    fn spend(&mut self, values: usize, at: &Position) -> Result<(), Invalid> {
        match self.left.checked_sub(values) {
            Some(left) => self.left = left,
            None => {
                let text = format!("more than {VALUES_MAX} values: do variables copy each other?");
                return Err(Invalid::one(Some(at.clone()), text));
            }
        }
        Ok(())
    }
}

/// After a value the line ends, or a comma or semicolon or the block's brace follows.
fn end_of_entry(text: &mut Text<'_>, until: Until) -> Result<(), Invalid> {
    text.skip_blanks();
    match text.peek() {
        None | Some('\n' | ',' | ';') => Ok(()),
        Some('}') if until == Until::Brace => Ok(()),
        Some(_) if text.at_comment() => Ok(()),
        Some(_) => text.fail(format!(
            "the line should end here, but {} follows; separate settings with a comma, and quote values with spaces",
            text.found()
        )),
    }
}

/// `$2a$..` is a bcrypt hash and no variable.
pub(super) fn is_bcrypt(text: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| text.starts_with(prefix))
}

fn bare_kind(bare: &str, at: &Position) -> Result<Kind, Invalid> {
    let is_any = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(bare));
    if bare.is_empty() {
        return Err(Invalid::one(Some(at.clone()), "a value should stand here"));
    }
    if is_any(&["true", "yes", "on"]) {
        return Ok(Kind::Bool(true));
    }
    if is_any(&["false", "no", "off"]) {
        return Ok(Kind::Bool(false));
    }
    match (units::integer(bare), units::float(bare)) {
        (Some(Some(value)), _) => Ok(Kind::Integer { value, text: bare.to_owned() }),
        (Some(None), _) => Err(Invalid::one(Some(at.clone()), format!("{bare} is too large a number"))),
        (None, Some(number)) => Ok(Kind::Float(number)),
        (None, None) => Ok(Kind::Text(bare.to_owned())),
    }
}
