//! The end of a server: at once ([`Server::shutdown`](crate::Server::shutdown)) or gently, as a lame duck. Decides when
//! who is sent away; closing connections is the shards' work.

use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::limits::check_time;
use crate::shard::inbox::Envelope;
use crate::shared::Shared;

/// Clients are not sent away in smaller portions of time than this.
const STEP_MIN: Duration = Duration::from_millis(10);

/// How a server ends gently, see [`Server::lame_duck`](crate::Server::lame_duck).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LameDuck {
    /// From the word to the clients until the first is closed: time to connect elsewhere by themselves. Default 10 s.
    pub grace: Duration,
    /// From then until the last is closed, so that they do not all reconnect at the same moment. Default 2 min.
    pub over: Duration,
}

impl Default for LameDuck {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), over: Duration::from_secs(120) }
    }
}

impl LameDuck {
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_time("lame_duck", "grace", self.grace)?;
        check_time("lame_duck", "over", self.over)
    }
}

/// Who asked for the end, and whether it came. A lock, because threads wait for both.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_asked: bool,
    threads: usize,
}

impl Ending {
    pub(crate) fn ask(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_asked = true;
        self.changed.notify_all();
    }

    /// Waits so long, or until the end is asked for; returns whether it is.
    fn pause(&self, longest: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, longest, |state| !state.is_asked);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_asked
    }

    /// Counts a thread that serves, until what this returns is dropped.
    pub(crate) fn enter(&self) -> Serving<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).threads += 1;
        Serving(self)
    }

    /// Waits until no thread serves.
    pub(crate) fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| state.threads > 0));
    }
}

/// A thread that serves.
#[derive(Debug)]
pub(crate) struct Serving<'a>(&'a Ending);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).threads -= 1;
        self.0.changed.notify_all();
    }
}

/// Ends the server when it is dropped, unless that was asked for: a shard that is gone takes its clients and maybe the
/// listeners along, and a server that goes on without them would look alive.
pub(crate) struct Watch<'a>(pub(crate) &'a Shared);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.0.stopping.load(Ordering::Acquire) {
            tracing::error!("a thread of the server failed; the server ends");
            self.0.stop();
        }
    }
}

/// Sends the clients away one after the other, then ends the server. Blocks until then, or until the end is asked for.
pub(crate) fn send_all_away(shared: &Shared, how: LameDuck) {
    // Without clients there is nobody to give time to.
    if shared.connections() > 0 && shared.ending.pause(how.grace) {
        return;
    }
    let until = Instant::now() + how.over;
    loop {
        let clients = shared.connections();
        let left = until.saturating_duration_since(Instant::now());
        if clients == 0 || left.is_zero() {
            return shared.stop();
        }
        let (portion, pause) = portion(clients, left);
        shared.send_away(portion);
        if shared.ending.pause(pause) {
            return;
        }
    }
}

/// How many of `clients` to send away before which pause, to be done in `left`.
fn portion(clients: usize, left: Duration) -> (usize, Duration) {
    let steps = (left.as_nanos() / STEP_MIN.as_nanos()).max(1);
    let portion = (clients as u128).div_ceil(steps) as usize;
    let pause = left.mul_f64(portion as f64 / clients as f64);
    (portion, pause.clamp(STEP_MIN.min(left), left))
}

impl Shared {
    /// Asks everybody to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.doors.send_replace(Doors::Closed);
        self.ending.ask();
        for shard in &self.shards {
            shard.inbox.push(Envelope::Shutdown);
        }
    }

    /// Whether everybody was asked to end.
    #[cfg(feature = "jetstream")]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Has the listeners closed and the clients told; returns whether that is new.
    pub(crate) fn begin_lame_duck(&self) -> bool {
        if self.is_lame_duck() || self.doors.send_replace(Doors::Closed) == Doors::Closed {
            return false;
        }
        for shard in &self.shards {
            shard.inbox.push(Envelope::LameDuck);
        }
        true
    }

    /// Whether nobody new is let in.
    pub(crate) fn is_lame_duck(&self) -> bool {
        *self.doors.borrow() == Doors::Closed
    }

    /// Waits until nobody new is let in. Cancel-safe.
    pub(crate) async fn until_doors_close(&self) {
        // An error would mean that the sender, which is in here, is gone.
        let _ = self.doors.subscribe().wait_for(|doors| *doors == Doors::Closed).await;
    }

    fn send_away(&self, mut portion: usize) {
        let mut loads: Vec<_> =
            (0..self.shards.len()).map(|shard| (self.connections_of(shard), shard)).collect();
        loads.sort_unstable();
        for (load, shard) in loads.into_iter().rev() {
            let here = portion.min(load);
            if here > 0 {
                self.shards[shard].inbox.push(Envelope::SendAway(here));
            }
            portion -= here;
        }
    }
}

/// Whether a server lets clients in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doors {
    /// It does.
    Open,
    /// It does not any more.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_one_by_one_if_there_is_time_and_in_portions_if_not() {
        let second = Duration::from_secs(1);
        assert_eq!(portion(1, second), (1, second));
        assert_eq!(portion(4, second), (1, second / 4));
        assert_eq!(portion(1000, second), (10, STEP_MIN));
        assert_eq!(portion(7, Duration::from_millis(1)), (7, Duration::from_millis(1)));
    }

    #[test]
    fn portions_come_to_an_end_in_time() {
        for (clients, over) in [(1, 5), (3, 30), (999, 100), (50_000, 2_000), (10, 120_000)] {
            let over = Duration::from_millis(over);
            let (mut left, mut time) = (clients, over);
            while left > 0 && !time.is_zero() {
                let (portion, pause) = portion(left, time);
                left -= portion;
                time = time.saturating_sub(pause);
            }
            assert_eq!(left, 0, "{clients} in {over:?}");
        }
    }

    #[test]
    fn a_pause_ends_when_the_end_is_asked_for() {
        let ending = Ending::default();
        assert!(!ending.pause(Duration::ZERO));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(ending.pause(Duration::from_secs(3600))));
            ending.ask();
        });
    }

    #[test]
    fn waiting_lasts_until_the_last_thread_left() {
        let ending = Ending::default();
        let (one, other) = (ending.enter(), ending.enter());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ending.wait());
            drop(one);
            assert!(!waiting.is_finished());
            drop(other);
        });
    }
}
