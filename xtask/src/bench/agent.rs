//! The agents that are measured: they print the time, in nanoseconds since 1970, and do nothing else.

use std::io::{BufRead as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the agent does.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Role {
    /// Prints when it started and when it ends, at once
    Stamp,
    /// Prints when it read each line
    Echo,
}

/// Plays the role until its input ends.
pub(crate) fn play(role: Role) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match role {
        Role::Stamp => {
            writeln!(out, "{}", now())?;
            writeln!(out, "{}", now())?;
        }
        Role::Echo => {
            for line in std::io::stdin().lock().lines() {
                line?;
                writeln!(out, "{}", now())?;
                out.flush()?;
            }
        }
    }
    Ok(())
}

/// The time on the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is not set before 1970");
    u64::try_from(since.as_nanos()).expect("nanoseconds since 1970 fit until 2554")
}
