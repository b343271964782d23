//! The answers of the trie, kept per shard: from a subject to the subscriptions that get it, sorted by what must be
//! done for them. One atomic load tells whether an answer still holds.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use ostler_broker_proto::Matches;

use super::verdicts::Hashed;
use crate::accounts::Account;
use crate::link::{NO_SLOT, Subscription};
use crate::snapshot::Routing;

/// Subjects kept. nats-server keeps 1024 for all; a shard forgets all of them when it has more.
const ROUTES_MAX: usize = 4096;
/// Subscriptions in all routes kept: a subject that thousands listen to weighs as much as thousands of others.
const TARGETS_MAX: usize = 1 << 17;

/// Who gets messages of one subject, seen from one shard.
#[derive(Debug)]
pub(crate) struct Route {
    /// The state of the trie it was read from.
    generation: u64,
    subject: Box<[u8]>,
    /// Plain subscriptions of this shard.
    pub(crate) local: Vec<Arc<Subscription>>,
    /// Plain subscriptions of other shards; only shards that have some. Shared with the batches on their way there.
    pub(crate) remote: Vec<(usize, Arc<[Arc<Subscription>]>)>,
    /// Members of queue groups, wherever they are.
    pub(crate) groups: Vec<Vec<Arc<Subscription>>>,
}

impl Route {
    fn new(generation: u64, subject: &[u8], matches: Matches<Arc<Subscription>>, shard: usize) -> Self {
        let (mut local, mut remote) = (Vec::new(), Vec::<(usize, Vec<_>)>::new());
        // JetStream takes a message once, on however many of its filters.
        let mut is_taken = false;
        for subscription in matches.plain {
            if subscription.link.slot == NO_SLOT && std::mem::replace(&mut is_taken, true) {
                continue;
            }
            let owner = subscription.link.shard;
            if owner == shard {
                local.push(subscription);
                continue;
            }
            match remote.iter_mut().find(|(known, _)| *known == owner) {
                Some((_, list)) => list.push(subscription),
                None => remote.push((owner, vec![subscription])),
            }
        }
        let remote = remote.into_iter().map(|(owner, list)| (owner, list.into())).collect();
        let groups = matches.queues.into_iter().map(|group| group.members).collect();
        Self { generation, subject: subject.into(), local, remote, groups }
    }

    /// Subscriptions it holds.
    fn targets(&self) -> usize {
        let remote: usize = self.remote.iter().map(|(_, targets)| targets.len()).sum();
        self.local.len() + remote + self.groups.iter().map(Vec::len).sum::<usize>()
    }
}

/// Routes of one account, by subject.
pub(crate) struct Routes {
    account: Arc<Account>,
    /// By the hash of the subject. Of two subjects with one hash the later stays: this is a cache.
    known: HashMap<u64, Rc<Route>, BuildHasherDefault<Hash>>,
    /// The one used last: a batch mostly repeats its subject.
    last: Option<Rc<Route>>,
    /// Subscriptions in `known`, those of replaced routes included.
    targets: usize,
    /// Subjects that were looked up in the trie.
    misses: u64,
}

impl Routes {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self { account, known: HashMap::default(), last: None, targets: 0, misses: 0 }
    }

    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The route of a subject as of this moment.
    #[inline]
    pub(crate) fn get(&mut self, hashed: Hashed<'_>, shard: usize) -> Rc<Route> {
        let generation = self.account.generation();
        let holds = |route: &&Rc<Route>| route.generation == generation && *route.subject == *hashed.subject;
        if let Some(last) = self.last.as_ref().filter(holds) {
            return Rc::clone(last);
        }
        let route = match self.known.get(&hashed.hash).filter(holds) {
            Some(known) => Rc::clone(known),
            None => self.learn(hashed, shard),
        };
        self.last = Some(Rc::clone(&route));
        route
    }

    #[cold]
    fn learn(&mut self, hashed: Hashed<'_>, shard: usize) -> Rc<Route> {
        self.misses += 1;
        let (generation, matches) =
            self.account.read_subscriptions(|sublist| sublist.matches(hashed.subject));
        let route = Rc::new(Route::new(generation, hashed.subject, matches, shard));
        let targets = route.targets();
        if self.known.len() >= ROUTES_MAX || self.targets + targets > TARGETS_MAX {
            self.known.clear();
            self.targets = 0;
        }
        if targets <= TARGETS_MAX {
            self.targets += targets;
            self.known.insert(hashed.hash, Rc::clone(&route));
        }
        route
    }

    /// What is remembered, for whoever asks.
    pub(crate) fn survey(&self) -> Routing {
        let mut routing = Routing { misses: self.misses, ..Routing::default() };
        for route in self.known.values() {
            let remote: usize = route.remote.iter().map(|(_, targets)| targets.len()).sum();
            let fanout = (route.local.len() + remote + route.groups.len()) as u64;
            routing.subjects += 1;
            routing.fanout_max = routing.fanout_max.max(fanout);
            routing.fanout_sum += fanout;
        }
        routing
    }

    /// Forgets answers that no longer hold: they keep closed connections in memory.
    pub(crate) fn sweep(&mut self) {
        let generation = self.account.generation();
        self.known.retain(|_, known| known.generation == generation);
        self.known.shrink_to(2 * self.known.len());
        self.targets = self.known.values().map(|route| route.targets()).sum();
        self.last.take_if(|known| known.generation != generation);
    }
}

/// Multiply and fold, eight bytes at a time. Not proof against chosen collisions: the table is small and is emptied
/// when full, so the worst a client can do is slow itself down.
#[derive(Default)]
pub(crate) struct SubjectHasher(u64);

impl SubjectHasher {
    fn mix(&mut self, word: u64) {
        // The odd constant of the golden ratio; the high half of the product carries into the low one.
        let product = u128::from(self.0 ^ word) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for SubjectHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= (bytes.len() as u64) << 56;
        let mut at = 0;
        while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            self.mix(u64::from_le_bytes(*chunk));
            at += 8;
        }
        // The end is read in one piece too, with some of what is mixed in already: gathering the odd bytes costs more.
        self.mix(match bytes.last_chunk() {
            Some(chunk) => u64::from_le_bytes(*chunk),
            None => bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        });
    }

    fn finish(&self) -> u64 {
        // hashbrown takes its tag from the top bits and its bucket from the low ones.
        self.0 ^ (self.0 << 32)
    }
}

/// Passes on what is a hash already.
#[derive(Default)]
pub(crate) struct Hash(u64);

impl Hasher for Hash {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("the keys are of type u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_subjects_hash_apart() {
        let hash = |subject: String| {
            let mut hasher = SubjectHasher::default();
            hasher.write(subject.as_bytes());
            hasher.finish()
        };
        let mut seen: Vec<u64> = (0..10_000).map(|n| hash(format!("agent.a{n}.heartbeat"))).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
    }
}
