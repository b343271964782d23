//! Requests: one verb, one file, the same name as in the command line.

pub(crate) mod down;
pub(crate) mod fallback;
pub(crate) mod remove;
pub(crate) mod spawn;
