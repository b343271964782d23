//! Which stream a subject belongs to. At most one: streams may not share subjects, which is checked before they come
//! here.

use ostler_broker_proto::Sublist;
use ostler_broker_proto::subject::Filter;

/// Comparing so many filters one by one is quicker than looking into the trie.
const FEW: usize = 8;

/// The subjects of all streams.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// With the stream and a number of their own, by which they are sorted.
    filters: Vec<(Filter, usize, u64)>,
    /// Their numbers, for when they are many.
    trie: Sublist<u64>,
    added: u64,
    /// The place in `filters` of the last one that was found: a batch mostly repeats its stream.
    recent: usize,
}

impl Routes {
    /// Adds a subject of a stream.
    pub(crate) fn add(&mut self, filter: Filter, stream: usize) {
        self.added += 1;
        self.trie.insert(filter.as_bytes(), None, self.added, self.added);
        self.filters.push((filter, stream, self.added));
    }

    /// Takes out the subjects of a stream and says which they were.
    pub(crate) fn remove(&mut self, stream: usize) -> Vec<Filter> {
        let mut removed = Vec::new();
        let trie = &mut self.trie;
        self.filters.retain(|(filter, of, number)| {
            if *of == stream {
                trie.remove(filter.as_bytes(), None, *number);
                removed.push(filter.clone());
            }
            *of != stream
        });
        removed
    }

    /// The stream of a subject.
    pub(crate) fn find(&mut self, subject: &[u8]) -> Option<usize> {
        if let Some((_, stream, _)) = self.filters.get(self.recent).filter(|route| route.0.matches(subject)) {
            return Some(*stream);
        }
        self.recent = if self.filters.len() <= FEW {
            self.filters.iter().position(|(filter, ..)| filter.matches(subject))?
        } else {
            let number = *self.trie.matches(subject).plain.first()?;
            self.filters.binary_search_by_key(&number, |(.., number)| *number).ok()?
        };
        Some(self.filters[self.recent].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_found_among_few_and_among_many() {
        for count in [1, FEW, 100] {
            let mut routes = Routes::default();
            for stream in 0..count {
                for filter in [format!("s{stream}.>"), format!("t{stream}")] {
                    routes.add(Filter::parse(&filter).unwrap(), stream);
                }
            }
            for stream in (0..count).chain((0..count).rev()) {
                assert_eq!(routes.find(format!("s{stream}.a.b").as_bytes()), Some(stream));
                assert_eq!(routes.find(format!("t{stream}").as_bytes()), Some(stream));
            }
            assert_eq!(routes.find(b"t0.a"), None);
            assert_eq!(routes.remove(0).len(), 2);
            assert_eq!((routes.find(b"t0"), routes.find(b"s0.a")), (None, None));
            assert!(count == 1 || routes.find(b"t1") == Some(1));
        }
    }
}
