//! The one room where things meet: requests and facts come in, writes, announcements and launches go out.
//!
//! # Theory of operation
//!
//! One task owns the state (`state.rs`). Its loop has three verbs: `select` waits for messages, notices and the clock
//! and only builds an event (`event.rs`); `apply` decides, without waiting and without I/O; `perform` carries out what
//! was decided, after everything it rests on is on disk. Events that arrive together share one transaction.
//!
//! ```text
//! bus, node, clock -> select -> Event -> State::apply -> Outcome { writes, effects }
//!                                                          |            |
//!                                                   store.commit --> perform: answer, publish, launch
//! ```
//!
//! Start-up is not special: `reconcile.rs` reads what was wanted and what is left running, and the ordinary events
//! follow. A dashboard can never show what a restart forgets, because nothing is announced before it is written.
//!
//! # When the disk is full
//!
//! A batch that cannot be written is kept and tried again every second; nothing of it is announced until it is written.
//! `storage.rs` says what is served meanwhile.
#![forbid(unsafe_code)]

mod agent;
mod apply;
mod audit;
mod control;
mod event;
mod facts;
mod inbound;
mod inputs;
mod neighbours;
mod node;
mod outcome;
mod pages;
mod perform;
mod reconcile;
mod relaunch;
mod run;
mod stale;
mod state;
mod storage;
#[cfg(test)]
mod tests;

pub use audit::{AuditMode, AuditOptions};
pub use node::{Adoption, HostGone, LaunchPlan, Node, Notice};
pub use run::{About, Ended, Error, Handle, Limits, Options, start};
