//! The project's own chores, as `cargo xtask <chore>`. Nothing here is part of the product.

mod setup;
mod shell;
mod test;

use clap::Parser;

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Install what the tests need, and say what is installed; safe to repeat
    Setup,
    /// Set up, then run every test of the workspace
    Test(test::Options),
}

fn main() -> anyhow::Result<()> {
    let root = shell::workspace_root();
    match Chore::parse() {
        Chore::Setup => setup::run(&root),
        Chore::Test(options) => test::run(&root, &options),
    }
}
