//! What the tests of the whole share: a scripted model server and the place of the real agent CLI. The tests are in
//! `tests/`.
#![forbid(unsafe_code)]

pub mod driven;
pub mod rig;
