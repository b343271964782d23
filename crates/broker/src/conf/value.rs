//! What a configuration file says, before anybody knows what it means: values, each with its place in the file.

use std::fmt;
use std::sync::Arc;

/// A place in a configuration file. Lines and columns count from 1, columns in characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Position {
    /// The file as it was named.
    pub file: Arc<str>,
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub struct Value {
    /// Where it begins; for a variable where it is used, not where it was set.
    pub at: Position,
    /// What it is.
    pub kind: Kind,
    /// As it was written, if that was bare or outside of the file.
    pub text: Option<String>,
    /// Whether a `$variable` brought it: then it is a text wherever one is wanted, whatever it looks like.
    pub is_variable: bool,
}

impl Value {
    /// What it says where a text is wanted; `None` if it is none.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => self.text.as_deref().filter(|_| self.is_variable),
        }
    }
}

/// The kinds of values the language has.
#[derive(Clone)]
pub enum Kind {
    /// Text, in quotes or bare.
    Text(String),
    /// A whole number. Its text is kept, because `2m` is two million as a size and two minutes as a time.
    Integer {
        /// Its value, with the size suffix applied.
        value: i64,
        /// As it was written.
        text: String,
    },
    /// A number with a point.
    Float(f64),
    /// `true`, `yes`, `on` or the opposite, in any case.
    Bool(bool),
    /// `[a, b]`
    List(Vec<Value>),
    /// `{key: value}`
    Block(Block),
}

impl Kind {
    /// What a person would call it, with its article.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer { .. } => "a number",
            Self::Float(_) => "a number with a point",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list [...]",
            Self::Block(_) => "a block {...}",
        }
    }

    /// How many values it holds, itself included: what a copy of it costs.
    pub(super) fn size(&self) -> usize {
        1 + match self {
            Self::List(values) => values.iter().map(|value| value.kind.size()).sum(),
            Self::Block(block) => block.entries.iter().map(|entry| entry.value.kind.size()).sum(),
            _ => 0,
        }
    }
}

/// The entries of a block, or of a whole file, in their order.
#[derive(Clone, Default)]
pub struct Block {
    /// Keys may repeat: the last one counts.
    pub entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Clone)]
pub struct Entry {
    /// As it was written.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// What it is set to.
    pub value: Value,
    /// Whether a `$variable` asked for it: such a key need not be a setting.
    pub referenced: bool,
}

/// Text and numbers do not show: any of them may be a password.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::List(values) => f.debug_list().entries(values).finish(),
            Kind::Block(block) => fmt::Debug::fmt(block, f),
            other => f.write_str(other.name()),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|entry| (&entry.key, &entry.value))).finish()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("value", &self.value).finish_non_exhaustive()
    }
}
