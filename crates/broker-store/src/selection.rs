//! Which messages a reader wants: everything, one subject, or what some filters match. It remembers which subjects
//! match, so that walking a stream compares numbers instead of texts.

use ostler_broker_proto::subject::{self, Filter};

use crate::index::Subjects;

/// A choice of subjects, with a memory of up to two bits for each subject of the stream it is used on.
///
/// Keep one per reader: the memory is what makes the second call fast. It may be used on another stream; it begins
/// anew there.
///
/// ```
/// use ostler_broker_proto::subject::Filter;
/// use ostler_broker_store::Selection;
/// let both = Selection::new([Filter::parse("a.*").unwrap(), Filter::parse("b").unwrap()]);
/// assert!(!both.is_all());
/// ```
#[derive(Debug, Clone)]
pub struct Selection {
    shape: Shape,
    epoch: u64,
    known: Vec<u64>,
    matched: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    All,
    One(Box<[u8]>),
    Some(Vec<Filter>),
}

impl Selection {
    /// Every message.
    pub fn all() -> Self {
        Self::of(Shape::All)
    }

    /// The messages of one subject; wildcards in it mean nothing.
    pub fn subject(subject: &[u8]) -> Self {
        Self::of(Shape::One(subject.into()))
    }

    /// Messages that at least one filter matches; without filters, and with `>` among them, every message.
    pub fn new(filters: impl IntoIterator<Item = Filter>) -> Self {
        let mut filters: Vec<Filter> = filters.into_iter().collect();
        if filters.is_empty() || filters.iter().any(|filter| filter.as_bytes() == subject::TAIL) {
            return Self::all();
        }
        match &mut filters[..] {
            [only] if !subject::has_wildcard(only.as_bytes()) => Self::subject(only.as_bytes()),
            _ => Self::of(Shape::Some(filters)),
        }
    }

    fn of(shape: Shape) -> Self {
        Self { shape, epoch: 0, known: Vec::new(), matched: Vec::new() }
    }

    /// Whether it leaves nothing out.
    pub fn is_all(&self) -> bool {
        self.shape == Shape::All
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Forgets what it learned of subjects whose numbers mean something else by now. Call before a walk.
    pub(crate) fn attune(&mut self, subjects: &Subjects) {
        if self.epoch != subjects.epoch() {
            self.epoch = subjects.epoch();
            self.known.clear();
            self.matched.clear();
        }
        let words = subjects.bound() as usize / 64 + 1;
        if self.known.len() < words && matches!(self.shape, Shape::Some(_)) {
            self.known.resize(words, 0);
            self.matched.resize(words, 0);
        }
    }

    /// Whether it wants the subject with this number.
    pub(crate) fn wants(&mut self, subjects: &Subjects, id: u32) -> bool {
        match &self.shape {
            Shape::All => true,
            Shape::One(name) => *subjects.get(id).name == **name,
            Shape::Some(filters) => {
                let (word, bit) = (id as usize / 64, 1u64 << (id % 64));
                if self.known[word] & bit == 0 {
                    self.known[word] |= bit;
                    let name = &subjects.get(id).name;
                    if filters.iter().any(|filter| filter.matches(name)) {
                        self.matched[word] |= bit;
                    }
                }
                self.matched[word] & bit != 0
            }
        }
    }
}
