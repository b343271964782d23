//! Waiting for a descriptor that becomes readable once and stays so: a pidfd, a kqueue on one process.

#![expect(unsafe_code, reason = "the runtime wants a promise about the descriptor")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to the runtime.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the `OwnedFd`, always gives the same descriptor for it, and closes it when dropped;
    // nothing here takes it out or exchanges it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Waits until the watched process has ended. Cancel-safe.
pub(crate) async fn readable(watched: &AsyncFd<OwnedFd>) -> io::Result<()> {
    // It stays readable once the process has ended, so readiness is never cleared.
    watched.readable().await.map(drop)
}
