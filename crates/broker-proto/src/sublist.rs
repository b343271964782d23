//! The trie from filters to subscribers. It knows no connection: a subscriber is any value its user puts in.
//!
//! One node per token; `*` and `>` have places of their own, so a match walks at most two branches per token. The trie
//! is changed on SUB and UNSUB and read on a cache miss: its users keep [`Matches`] until
//! [`generation`](Sublist::generation) moves on.

use std::collections::HashMap;

use crate::subject::{ANY, TAIL, tokens};

/// Filters and who subscribed to them.
#[derive(Debug)]
pub struct Sublist<T> {
    root: Level<T>,
    generation: u64,
    len: usize,
}

#[derive(Debug)]
struct Level<T> {
    literals: HashMap<Box<[u8]>, Node<T>>,
    any: Option<Box<Node<T>>>,
    tail: Option<Box<Node<T>>>,
}

#[derive(Debug)]
struct Node<T> {
    next: Level<T>,
    plain: Vec<T>,
    queues: Vec<QueueMatch<T>>,
}

/// Who gets a message: everyone in `plain`, and one member of each of `queues`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matches<T> {
    /// Subscribers without a queue group.
    pub plain: Vec<T>,
    /// Queue groups; members that asked with different filters are merged by the group's name.
    pub queues: Vec<QueueMatch<T>>,
}

/// The members of one queue group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMatch<T> {
    /// The name of the group.
    pub queue: Box<[u8]>,
    /// Never empty in a result.
    pub members: Vec<T>,
}

impl<T> Default for Sublist<T> {
    fn default() -> Self {
        Self { root: Level::default(), generation: 0, len: 0 }
    }
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self { literals: HashMap::new(), any: None, tail: None }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { next: Level::default(), plain: Vec::new(), queues: Vec::new() }
    }
}

impl<T> Default for Matches<T> {
    fn default() -> Self {
        Self { plain: Vec::new(), queues: Vec::new() }
    }
}

impl<T: Clone> Sublist<T> {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows by one with each change: equal generations mean equal matches.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of subscriptions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `subscriber` under a filter that was checked with [`is_filter`](crate::subject::is_filter).
    pub fn insert(&mut self, filter: &[u8], queue: Option<&[u8]>, subscriber: T) {
        let mut level = &mut self.root;
        let mut parts = tokens(filter).peekable();
        while let Some(token) = parts.next() {
            let node = level.child_mut(token);
            if parts.peek().is_some() {
                level = &mut node.next;
                continue;
            }
            match queue {
                None => node.plain.push(subscriber),
                Some(queue) => member_list(&mut node.queues, queue).push(subscriber),
            }
            break;
        }
        self.len += 1;
        self.generation += 1;
    }

    /// Removes the first subscriber under exactly this filter and queue for which `is_it` holds.
    ///
    /// Returns it; nodes that became empty are freed.
    pub fn remove(&mut self, filter: &[u8], queue: Option<&[u8]>, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let parts: Vec<&[u8]> = tokens(filter).collect();
        let removed = self.root.remove(&parts, queue, &is_it)?;
        self.len -= 1;
        self.generation += 1;
        Some(removed)
    }

    /// Everyone whose filter matches the literal `subject`; nobody if it has an empty token.
    pub fn matches(&self, subject: &[u8]) -> Matches<T> {
        let mut found = Matches::default();
        if tokens(subject).all(|token| !token.is_empty()) {
            self.root.collect(subject, &mut found);
        }
        found
    }
}

impl<T: Clone> Level<T> {
    fn child_mut(&mut self, token: &[u8]) -> &mut Node<T> {
        match token {
            ANY => self.any.get_or_insert_default(),
            TAIL => self.tail.get_or_insert_default(),
            _ => {
                // Two look-ups for a known token, so that only a new one allocates its key.
                if !self.literals.contains_key(token) {
                    self.literals.insert(token.into(), Node::default());
                }
                self.literals.get_mut(token).expect("inserted above if it was missing")
            }
        }
    }

    fn collect(&self, rest: &[u8], found: &mut Matches<T>) {
        let (token, after) = match memchr::memchr(b'.', rest) {
            Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
            None => (rest, None),
        };
        if let Some(tail) = &self.tail {
            tail.take_into(found);
        }
        for node in [self.any.as_deref(), self.literals.get(token)].into_iter().flatten() {
            match after {
                Some(after) => node.next.collect(after, found),
                None => node.take_into(found),
            }
        }
    }

    fn remove(&mut self, parts: &[&[u8]], queue: Option<&[u8]>, is_it: &impl Fn(&T) -> bool) -> Option<T> {
        let (token, rest) = parts.split_first()?;
        let node = match *token {
            ANY => self.any.as_deref_mut()?,
            TAIL => self.tail.as_deref_mut()?,
            literal => self.literals.get_mut(literal)?,
        };
        let removed =
            if rest.is_empty() { node.take(queue, is_it)? } else { node.next.remove(rest, queue, is_it)? };
        if node.is_empty() {
            match *token {
                ANY => self.any = None,
                TAIL => self.tail = None,
                literal => drop(self.literals.remove(literal)),
            }
        }
        Some(removed)
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.any.is_none() && self.tail.is_none()
    }
}

impl<T: Clone> Node<T> {
    fn take_into(&self, found: &mut Matches<T>) {
        found.plain.extend_from_slice(&self.plain);
        for group in &self.queues {
            member_list(&mut found.queues, &group.queue).extend_from_slice(&group.members);
        }
    }

    fn take(&mut self, queue: Option<&[u8]>, is_it: &impl Fn(&T) -> bool) -> Option<T> {
        let Some(queue) = queue else {
            let at = self.plain.iter().position(is_it)?;
            return Some(self.plain.remove(at));
        };
        let group = self.queues.iter().position(|group| &*group.queue == queue)?;
        let members = &mut self.queues[group].members;
        let at = members.iter().position(is_it)?;
        let removed = members.remove(at);
        if members.is_empty() {
            self.queues.remove(group);
        }
        Some(removed)
    }

    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.queues.is_empty() && self.next.is_empty()
    }
}

fn member_list<'a, T>(groups: &'a mut Vec<QueueMatch<T>>, queue: &[u8]) -> &'a mut Vec<T> {
    let at = groups.iter().position(|group| &*group.queue == queue).unwrap_or_else(|| {
        groups.push(QueueMatch { queue: queue.into(), members: Vec::new() });
        groups.len() - 1
    });
    &mut groups[at].members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(list: &Sublist<u32>, subject: &str) -> Vec<u32> {
        let mut found = list.matches(subject.as_bytes()).plain;
        found.sort_unstable();
        found
    }

    #[test]
    fn each_kind_of_filter_finds_its_subjects() {
        let mut list = Sublist::new();
        for (id, filter) in ["a.b", "a.*", "a.>", ">", "*.b", "a.b.c"].iter().enumerate() {
            list.insert(filter.as_bytes(), None, id as u32);
        }
        assert_eq!(plain(&list, "a.b"), [0, 1, 2, 3, 4]);
        assert_eq!(plain(&list, "a.b.c"), [2, 3, 5]);
        assert_eq!(plain(&list, "a"), [3]);
        assert_eq!(plain(&list, "a..b"), [] as [u32; 0]);
    }

    #[test]
    fn members_of_a_group_are_merged_across_filters() {
        let mut list = Sublist::new();
        list.insert(b"a.b", Some(b"q"), 1);
        list.insert(b"a.*", Some(b"q"), 2);
        list.insert(b"a.*", Some(b"other"), 3);
        let groups = list.matches(b"a.b").queues;
        let mut seen: Vec<_> = groups.into_iter().map(|group| (group.queue, group.members)).collect();
        seen.iter_mut().for_each(|(_, members)| members.sort_unstable());
        seen.sort();
        assert_eq!(seen, [(b"other".to_vec().into(), vec![3]), (b"q".to_vec().into(), vec![1, 2])]);
    }

    #[test]
    fn removing_frees_the_branch_and_moves_the_generation() {
        let mut list = Sublist::new();
        list.insert(b"a.b.c", None, 1);
        list.insert(b"a.b.c", Some(b"q"), 2);
        let before = list.generation();
        assert_eq!(list.remove(b"a.b.c", None, |id| *id == 9), None);
        assert_eq!(list.generation(), before);
        assert_eq!(list.remove(b"a.b.c", None, |id| *id == 1), Some(1));
        assert_eq!(list.remove(b"a.b.c", Some(b"q"), |id| *id == 2), Some(2));
        assert!(list.generation() > before && list.is_empty() && list.root.is_empty());
    }
}
