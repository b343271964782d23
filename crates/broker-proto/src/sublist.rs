//! The trie from filters to subscribers. It knows no connection: a subscriber is any value its user puts in.
//!
//! One node per token; `*` and `>` have places of their own, so a match walks at most two branches per token. The trie
//! is changed on SUB and UNSUB and read on a cache miss: its users keep [`Matches`] until
//! [`generation`](Sublist::generation) moves on.
//!
//! A change costs the walk and a binary search, however many subscribers share the filter: a client that subscribes a
//! hundred thousand times and hangs up must not hold the lock its users keep around the trie.
//!
//! Nothing here calls itself: how deep the trie is, the clients decide.

use std::collections::{BTreeMap, HashMap};

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
    plain: Members<T>,
    queues: BTreeMap<Box<[u8]>, Members<T>>,
}

/// Subscribers in the order of their ids. Removing leaves a hole; half of them holes, they close ranks.
#[derive(Debug)]
struct Members<T> {
    entries: Vec<(u64, Option<T>)>,
    holes: usize,
}

/// Who gets a message: everyone in `plain`, and one member of each of `queues`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matches<T> {
    /// Subscribers without a queue group.
    pub plain: Vec<T>,
    /// Queue groups by name; members that asked with different filters are merged.
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
        Self { next: Level::default(), plain: Members::default(), queues: BTreeMap::new() }
    }
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), holes: 0 }
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
    ///
    /// `id` tells it from others under this filter; ids that grow are the cheapest, and decide the order of a match.
    pub fn insert(&mut self, filter: &[u8], queue: Option<&[u8]>, id: u64, subscriber: T) {
        let mut level = &mut self.root;
        let mut parts = tokens(filter).peekable();
        while let Some(token) = parts.next() {
            let node = level.child_mut(token);
            if parts.peek().is_some() {
                level = &mut node.next;
                continue;
            }
            match queue {
                None => node.plain.insert(id, subscriber),
                Some(queue) => node.queues.entry(queue.into()).or_default().insert(id, subscriber),
            }
            break;
        }
        self.len += 1;
        self.generation += 1;
    }

    /// Removes the subscriber that was added under exactly this filter, queue and id.
    ///
    /// Returns it; nodes that became empty are freed.
    pub fn remove(&mut self, filter: &[u8], queue: Option<&[u8]>, id: u64) -> Option<T> {
        let removed = self.root.remove(filter, queue, id)?;
        self.len -= 1;
        self.generation += 1;
        Some(removed)
    }

    /// Everyone whose filter matches the literal `subject`; nobody if it has an empty token.
    pub fn matches(&self, subject: &[u8]) -> Matches<T> {
        let mut found = Found { plain: Vec::new(), queues: BTreeMap::new() };
        if tokens(subject).all(|token| !token.is_empty()) {
            self.root.collect(subject, &mut found);
        }
        let queues = found.queues.into_iter();
        let queues = queues.map(|(queue, members)| QueueMatch { queue: queue.into(), members }).collect();
        Matches { plain: found.plain, queues }
    }
}

/// [`Matches`] in the making.
struct Found<'a, T> {
    plain: Vec<T>,
    queues: BTreeMap<&'a [u8], Vec<T>>,
}

impl<T> Level<T> {
    /// Moves the nodes out of it.
    fn empty_into(&mut self, nodes: &mut Vec<Node<T>>) {
        nodes.extend(self.any.take().into_iter().chain(self.tail.take()).map(|node| *node));
        nodes.extend(self.literals.drain().map(|(_, node)| node));
    }
}

/// As drop does by itself, but not one inside the other.
impl<T> Drop for Node<T> {
    fn drop(&mut self) {
        let mut nodes = Vec::new();
        self.next.empty_into(&mut nodes);
        while let Some(mut node) = nodes.pop() {
            node.next.empty_into(&mut nodes);
        }
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

    fn collect<'a>(&'a self, subject: &[u8], found: &mut Found<'a, T>) {
        let mut ahead = vec![(self, subject)];
        while let Some((level, rest)) = ahead.pop() {
            let (token, after) = match memchr::memchr(b'.', rest) {
                Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
                None => (rest, None),
            };
            if let Some(tail) = &level.tail {
                tail.take_into(found);
            }
            let (any, literal) = (level.any.as_deref(), level.literals.get(token));
            match after {
                // The last one comes first.
                Some(after) => {
                    ahead.extend([literal, any].into_iter().flatten().map(|node| (&node.next, after)));
                }
                None => [any, literal].into_iter().flatten().for_each(|node| node.take_into(found)),
            }
        }
    }

    fn existing_mut(&mut self, token: &[u8]) -> Option<&mut Node<T>> {
        match token {
            ANY => self.any.as_deref_mut(),
            TAIL => self.tail.as_deref_mut(),
            literal => self.literals.get_mut(literal),
        }
    }

    fn remove(&mut self, filter: &[u8], queue: Option<&[u8]>, id: u64) -> Option<T> {
        // The node of the token at `dead` leads to the end of the filter and nowhere else, nor do those behind it.
        let (mut at, mut dead) = (0, 0);
        let mut level = &mut *self;
        let mut parts = tokens(filter).peekable();
        let removed = loop {
            let node = level.existing_mut(parts.next()?)?;
            at += 1;
            if parts.peek().is_none() {
                let removed = node.take(queue, id)?;
                if !node.is_empty() {
                    return Some(removed);
                }
                break removed;
            }
            if node.next.len() > 1 || node.has_members() {
                dead = at;
            }
            level = &mut node.next;
        };
        let mut level = self;
        for (at, token) in tokens(filter).enumerate() {
            if at == dead {
                match token {
                    ANY => level.any = None,
                    TAIL => level.tail = None,
                    literal => drop(level.literals.remove(literal)),
                }
                break;
            }
            level = &mut level.existing_mut(token)?.next;
        }
        Some(removed)
    }

    /// Number of nodes.
    fn len(&self) -> usize {
        self.literals.len() + usize::from(self.any.is_some()) + usize::from(self.tail.is_some())
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Node<T> {
    fn take_into<'a>(&'a self, found: &mut Found<'a, T>) {
        found.plain.extend(self.plain.iter().cloned());
        for (queue, members) in &self.queues {
            found.queues.entry(queue).or_default().extend(members.iter().cloned());
        }
    }

    fn take(&mut self, queue: Option<&[u8]>, id: u64) -> Option<T> {
        let Some(queue) = queue else {
            return self.plain.remove(id);
        };
        let members = self.queues.get_mut(queue)?;
        let removed = members.remove(id)?;
        if members.is_empty() {
            self.queues.remove(queue);
        }
        Some(removed)
    }

    fn has_members(&self) -> bool {
        !self.plain.is_empty() || !self.queues.is_empty()
    }

    fn is_empty(&self) -> bool {
        !self.has_members() && self.next.is_empty()
    }
}

impl<T> Members<T> {
    fn insert(&mut self, id: u64, subscriber: T) {
        let at = match self.entries.last() {
            Some((last, _)) if *last >= id => self.entries.partition_point(|(held, _)| *held < id),
            _ => self.entries.len(),
        };
        self.entries.insert(at, (id, Some(subscriber)));
    }

    fn remove(&mut self, id: u64) -> Option<T> {
        let first = self.entries.partition_point(|(held, _)| *held < id);
        // More than one of an id: a hole and who came after it.
        let same = self.entries[first..].iter_mut().take_while(|(held, _)| *held == id);
        let removed = same.filter_map(|(_, subscriber)| subscriber.take()).next()?;
        self.holes += 1;
        if self.holes * 2 > self.entries.len() {
            self.entries.retain(|(_, subscriber)| subscriber.is_some());
            self.entries.shrink_to(2 * self.entries.len());
            self.holes = 0;
        }
        Some(removed)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, subscriber)| subscriber.as_ref())
    }

    fn is_empty(&self) -> bool {
        self.entries.len() == self.holes
    }
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
            list.insert(filter.as_bytes(), None, id as u64, id as u32);
        }
        assert_eq!(plain(&list, "a.b"), [0, 1, 2, 3, 4]);
        assert_eq!(plain(&list, "a.b.c"), [2, 3, 5]);
        assert_eq!(plain(&list, "a"), [3]);
        assert_eq!(plain(&list, "a..b"), [] as [u32; 0]);
    }

    #[test]
    fn members_of_a_group_are_merged_across_filters() {
        let mut list = Sublist::new();
        list.insert(b"a.b", Some(b"q"), 1, 1);
        list.insert(b"a.*", Some(b"q"), 2, 2);
        list.insert(b"a.*", Some(b"other"), 3, 3);
        let groups = list.matches(b"a.b").queues;
        let mut seen: Vec<_> = groups.into_iter().map(|group| (group.queue, group.members)).collect();
        seen.iter_mut().for_each(|(_, members)| members.sort_unstable());
        seen.sort();
        assert_eq!(seen, [(b"other".to_vec().into(), vec![3]), (b"q".to_vec().into(), vec![1, 2])]);
    }

    #[test]
    fn removing_frees_the_branch_and_moves_the_generation() {
        let mut list = Sublist::new();
        list.insert(b"a.b.c", None, 1, 1);
        list.insert(b"a.b.c", Some(b"q"), 2, 2);
        let before = list.generation();
        assert_eq!(list.remove(b"a.b.c", None, 9), None);
        assert_eq!(list.generation(), before);
        assert_eq!(list.remove(b"a.b.c", None, 1), Some(1));
        assert_eq!(list.remove(b"a.b.c", Some(b"q"), 2), Some(2));
        assert!(list.generation() > before && list.is_empty() && list.root.is_empty());
    }

    /// As deep as a control line of a MiB allows, in threads with little stack.
    #[test]
    fn a_filter_may_have_as_many_tokens_as_anybody_can_send() {
        let deep = || {
            let literal = vec!["a"; 500_000].join(".");
            let any = literal.replace('a', "*");
            for filter in [&literal, &any] {
                let mut list = Sublist::new();
                list.insert(filter.as_bytes(), None, 1, 1);
                list.insert(format!("{filter}.>").as_bytes(), Some(b"q"), 2, 2);
                assert_eq!(plain(&list, &literal), [1]);
                assert_eq!(list.matches(format!("{literal}.a").as_bytes()).queues[0].members, [2]);
                assert_eq!(list.remove(filter.as_bytes(), None, 1), Some(1));
                assert_eq!(list.remove(format!("{filter}.>").as_bytes(), Some(b"q"), 2), Some(2));
                assert!(list.root.is_empty());
                // Freed with the list.
                list.insert(filter.as_bytes(), None, 3, 3);
            }
        };
        std::thread::Builder::new().stack_size(128 << 10).spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn removing_frees_what_nobody_else_needs_and_nothing_more() {
        let mut list = Sublist::new();
        for (id, filter) in ["a.b.c.d", "a.b.*.d", "a.b", "a.b.c.>"].iter().enumerate() {
            list.insert(filter.as_bytes(), None, id as u64, id as u32);
        }
        let below = |list: &Sublist<u32>| list.root.literals[&b"a"[..]].next.literals[&b"b"[..]].next.len();
        assert_eq!(list.remove(b"a.b.c.d", None, 0), Some(0));
        assert_eq!((plain(&list, "a.b.c.d"), below(&list)), (vec![1, 3], 2));
        assert_eq!(list.remove(b"a.b.*.d", None, 1), Some(1));
        assert_eq!((plain(&list, "a.b.c.d"), below(&list)), (vec![3], 1));
        assert_eq!(list.remove(b"a.b.c.>", None, 3), Some(3));
        assert_eq!((plain(&list, "a.b"), below(&list)), (vec![2], 0));
        assert_eq!(list.remove(b"a.b", None, 2), Some(2));
        assert!(list.is_empty() && list.root.is_empty());
    }

    /// The steps are not counted, they are made: at a cost that grows with the square this test would take minutes.
    #[test]
    fn removing_one_of_very_many_under_a_filter_does_not_look_at_the_others() {
        const MANY: u64 = 200_000;
        for queue in [None, Some(&b"q"[..])] {
            let orders: [Box<dyn Iterator<Item = u64>>; 3] = [
                Box::new(0..MANY),
                Box::new((0..MANY).rev()),
                // Coprime to their number, so each comes once.
                Box::new((0..MANY).map(|n| n * 77_777 % MANY)),
            ];
            for order in orders {
                let mut list = Sublist::new();
                (0..MANY).for_each(|id| list.insert(b"a", queue, id, id));
                for id in order {
                    assert_eq!(list.remove(b"a", queue, id), Some(id));
                }
                assert!(list.is_empty() && list.root.is_empty());
            }
        }
    }

    #[test]
    fn holes_never_outnumber_the_members_and_order_is_kept() {
        let mut members = Members::default();
        for id in [3, 1, 2, 5, 4] {
            members.insert(id, id);
        }
        assert_eq!(members.remove(1), Some(1));
        assert_eq!(members.remove(1), None, "a hole is nobody");
        members.insert(1, 10);
        assert_eq!(members.iter().copied().collect::<Vec<_>>(), [10, 2, 3, 4, 5]);
        for id in [1, 5, 3, 4] {
            members.remove(id).unwrap();
            assert!(members.holes * 2 <= members.entries.len());
        }
        assert_eq!(members.iter().copied().collect::<Vec<_>>(), [2]);
    }
}
