//! What signals mean to the daemon.

use ostler_supervise::platform::reap_orphans;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// SIGINT, a person's Ctrl-C: stop the agents too. Asked a second time: leave at once, with the agents running.
    EndAll,
    /// SIGTERM, a service manager's stop or upgrade: leave the agents running.
    EndAlone,
}

/// The handlers; SIGHUP is taken and ignored, so that closing a terminal does not end the daemon.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    child: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// Waits for the next one that asks for something. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Asked::EndAll,
                _ = self.terminate.recv() => return Asked::EndAlone,
                _ = self.hangup.recv() => tracing::info!("SIGHUP ignored"),
                // Guards of runs that ended, and what a killed guard left: in a container nobody else reaps them.
                _ = self.child.recv() => reap_orphans(),
            }
        }
    }
}
