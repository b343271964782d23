//! What is kept in memory of every message: where it is, how large, on which subject, and which is the next one there.
//! No bytes of messages here.

mod entries;
mod subjects;

pub(crate) use entries::{Entries, Entry};
pub(crate) use subjects::Subjects;
