//! The project's own chores, as `cargo xtask <chore>`. Nothing here is part of the product.

mod bench;
mod claude;
mod compliance;
mod fuzz;
mod protocol;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Install what the tests need, and say what is installed; safe to repeat
    Setup,
    /// Set up, then run every test of the workspace
    Test(test::Options),
    /// Write docs/protocol.md and schemas/ from the crate that holds the messages
    Protocol(protocol::Options),
    /// Measure the release binary and print a table
    Bench(bench::Options),
    /// Play an agent that is measured
    #[cfg(feature = "bench")]
    #[command(hide = true)]
    BenchAgent {
        /// What it does
        role: bench::agent::Role,
    },
    /// Run the official client's own tests against our NATS server
    Compliance(compliance::Options),
    /// Feed the parsers and matchers with what a fuzzer makes up
    Fuzz(fuzz::Options),
    /// Check the rules of the house that no compiler checks
    Tidy,
}

fn main() -> ExitCode {
    let root = shell::workspace_root();
    let done = match Chore::parse() {
        Chore::Setup => setup::run(&root),
        Chore::Test(options) => test::run(&root, &options),
        Chore::Protocol(options) => protocol::run(&root, &options),
        Chore::Bench(options) => bench::run(&root, &options),
        #[cfg(feature = "bench")]
        Chore::BenchAgent { role } => bench::agent::play(role),
        Chore::Compliance(options) => compliance::run(&root, &options),
        Chore::Fuzz(options) => fuzz::run(&root, &root.join(setup::RIG), &options),
        Chore::Tidy => tidy::run(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
