//! Whole daemons for tests: the real binary, real processes, a directory of its own, nothing left behind.
//!
//! Not part of the product: only tests name this crate. [`TestDaemon`] runs `ostler up`, [`script`] builds agents out
//! of the `fake-agent` program, [`Recorder`] keeps what went over the bus, [`wait_for`] and [`wait_until`] wait for a
//! condition instead of sleeping, [`NatsServer`] is a bus that is not the daemon's own, and [`process`] looks at the operating system's processes.
//!
//! ```no_run
//! # async fn example() {
//! use ostler_testkit::{TestDaemon, script};
//! let daemon = TestDaemon::start();
//! let bus = daemon.bus().await;
//! bus.spawn("counter", script(["lines:3", "wait"])).await;
//! bus.wait_for_line("counter", "line 3").await;
//! # }
//! ```
#![forbid(unsafe_code)]

mod bus;
mod daemon;
mod nats;
pub mod process;
mod record;
mod wait;

pub use bus::{Bus, assert_every_gap_is_told, assert_gapless, lines, script};
pub use daemon::{BUS_VARIABLE, BusKind, CliOutput, Options, TestDaemon, fake_agent, ostler_bin};
pub use nats::{NATS_SERVER_VARIABLE, NatsServer, REQUIRE_VARIABLE};
pub use record::Recorder;
pub use wait::{PATIENCE, wait_for, wait_until, wait_until_blocking};
