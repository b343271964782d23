//! Waiting for a condition with a deadline; the only place of the tests that sleeps.

use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for anything on a busy machine: reaching it is a fault, not bad luck.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` finds something, and returns it.
///
/// # Panics
///
/// When `patience` is over; the message names `what`.
pub async fn wait_for<T, F, Fut>(what: &str, patience: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Looks until `holds` does, and returns how long that took.
///
/// # Panics
///
/// As [`wait_for`].
pub async fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_for(what, patience, || std::future::ready(holds().then_some(()))).await;
    start.elapsed()
}

/// [`wait_until`] for places that cannot await.
///
/// # Panics
///
/// As [`wait_for`].
pub fn wait_until_blocking(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
    start.elapsed()
}
