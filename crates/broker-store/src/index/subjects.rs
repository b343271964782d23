//! The subjects of a stream: each name once, with a number, and where its messages begin and end.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Fewer free numbers than this are not worth asking every selection to forget what it knows.
const FREE_MIN: usize = 1024;

/// Tells one table from another, so that a selection does not apply what it learned of the other.
static TABLES: AtomicU64 = AtomicU64::new(1);

/// One subject.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: Box<[u8]>,
    /// Its first message, while there are any.
    pub(crate) first: u64,
    /// Its last message, while there are any.
    pub(crate) last: u64,
    /// Its messages.
    pub(crate) count: u64,
}

/// All subjects of a stream, also some whose messages are all gone.
#[derive(Debug)]
pub(crate) struct Subjects {
    all: Vec<Subject>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// With messages.
    live: u64,
    /// Those that lost their last message since [`Subjects::settle`].
    emptied: Vec<u32>,
    /// Numbers without a name that selections may still know by their old one.
    resting: Vec<u32>,
    /// Numbers that can be given to another subject.
    free: Vec<u32>,
    epoch: u64,
    recent: u32,
}

impl Default for Subjects {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            live: 0,
            emptied: Vec::new(),
            resting: Vec::new(),
            free: Vec::new(),
            epoch: TABLES.fetch_add(1, Ordering::Relaxed) << 32,
            recent: 0,
        }
    }
}

impl Subjects {
    /// The number of a subject, which is added when it is not there.
    pub(crate) fn intern(&mut self, name: &[u8]) -> u32 {
        if self.all.get(self.recent as usize).is_some_and(|subject| *subject.name == *name) {
            return self.recent;
        }
        let hash = self.hasher.hash_one(name);
        let found = self.table.find(hash, |&id| *self.all[id as usize].name == *name).copied();
        let id = found.unwrap_or_else(|| self.add(hash, name));
        self.recent = id;
        id
    }

    fn add(&mut self, hash: u64, name: &[u8]) -> u32 {
        let subject = Subject { name: name.into(), first: 0, last: 0, count: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id as usize] = subject;
                id
            }
            None => {
                self.all.push(subject);
                (self.all.len() - 1) as u32
            }
        };
        let Self { table, all, hasher, .. } = self;
        table.insert_unique(hash, id, |&id| hasher.hash_one(&*all[id as usize].name));
        // Until it has a message it may be forgotten.
        self.emptied.push(id);
        id
    }

    /// The number of a subject that has messages.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let id = self.table.find(hash, |&id| *self.all[id as usize].name == *name).copied()?;
        (self.all[id as usize].count > 0).then_some(id)
    }

    pub(crate) fn get(&self, id: u32) -> &Subject {
        &self.all[id as usize]
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> &mut Subject {
        &mut self.all[id as usize]
    }

    /// Those with messages, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Subject)> {
        let numbered = self.all.iter().enumerate().map(|(id, subject)| (id as u32, subject));
        numbered.filter(|(_, subject)| subject.count > 0)
    }

    /// How many have messages.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Highest number in use, plus one.
    pub(crate) fn bound(&self) -> u32 {
        self.all.len() as u32
    }

    /// Changes whenever a number may mean another subject than before, and differs between tables.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts one message more.
    pub(crate) fn count_up(&mut self, id: u32) {
        let subject = &mut self.all[id as usize];
        subject.count += 1;
        if subject.count == 1 {
            self.live += 1;
        }
    }

    /// Counts one message less.
    pub(crate) fn count_down(&mut self, id: u32) {
        let subject = &mut self.all[id as usize];
        subject.count -= 1;
        if subject.count == 0 {
            self.live -= 1;
            self.emptied.push(id);
        }
    }

    /// Lets go of subjects without messages. Called when no removal can be taken back any more.
    pub(crate) fn settle(&mut self) {
        if self.emptied.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.emptied) {
            let subject = &self.all[id as usize];
            if subject.count > 0 || subject.name.is_empty() {
                continue;
            }
            let hash = self.hasher.hash_one(&*subject.name);
            if let Ok(entry) = self.table.find_entry(hash, |&other| other == id) {
                entry.remove();
            }
            self.all[id as usize].name = Box::default();
            self.resting.push(id);
        }
        if self.resting.len() >= FREE_MIN.max(self.live as usize / 4) {
            self.free.append(&mut self.resting);
            self.epoch += 1;
        }
    }

    /// What it takes in memory, the allocator's share not counted.
    pub(crate) fn memory(&self) -> usize {
        self.all.capacity() * size_of::<Subject>()
            + self.table.capacity() * 5
            + self.all.iter().map(|subject| subject.name.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_keeps_its_number_until_it_is_empty_and_settled() {
        let mut subjects = Subjects::default();
        let a = subjects.intern(b"a");
        subjects.count_up(a);
        assert_eq!((subjects.intern(b"a"), subjects.find(b"a")), (a, Some(a)));
        subjects.count_down(a);
        assert_eq!((subjects.find(b"a"), subjects.live()), (None, 0));
        assert_eq!(subjects.intern(b"a"), a, "a removal that is taken back finds it");
        subjects.settle();
        assert_ne!(subjects.intern(b"a"), a);
    }

    #[test]
    fn numbers_are_used_again_after_an_epoch() {
        let mut subjects = Subjects::default();
        let epoch = subjects.epoch();
        for round in 0..20 {
            for number in 0..FREE_MIN {
                let id = subjects.intern(format!("{round}.{number}").as_bytes());
                subjects.count_up(id);
                subjects.count_down(id);
            }
            subjects.settle();
        }
        assert!(subjects.bound() as usize <= 2 * FREE_MIN, "{}", subjects.bound());
        assert!(subjects.epoch() > epoch);
    }
}
