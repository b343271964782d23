//! One agent run: a process of its own that supervises the agent, carries it to the bus and outlives the daemon.
#![forbid(unsafe_code)]

mod outbox;
