//! Whose hash is computed next. A hash takes a core for a tenth of a second and anybody may ask for one, so who asks
//! much must not keep out who asks once:
//!
//! - Who claims to be somebody comes before who is nobody anyway, and nobodies have one core at most.
//! - Addresses, and the users claimed from them, take turns.
//! - Of one address and user the last comes first: it has the most time left, the others may have given up.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::link::Link;

/// Logins that wait at a time. Beyond, the oldest of whom most wait is refused.
const WAITING_MAX: usize = 1024;

/// On whose account a turn goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimant {
    /// A part of it where one subscriber has many.
    address: IpAddr,
    /// The identity; `None` for who claims none.
    name: Option<Box<str>>,
}

impl Claimant {
    pub(super) fn new(address: IpAddr, name: Option<&str>) -> Self {
        let address = match address.to_canonical() {
            // Whoever has one has 2^64 of them.
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        };
        Self { address, name: name.map(Into::into) }
    }
}

/// The turns of a server.
pub(crate) struct Turns {
    at_a_time: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    nobodies_running: usize,
    somebodies: Line,
    nobodies: Line,
}

struct Waiter {
    link: Arc<Link>,
    start: oneshot::Sender<Turn>,
}

/// The right to compute one hash; others wait for its end.
pub(crate) struct Turn {
    /// `None` if it ended already.
    turns: Option<Arc<Turns>>,
    is_nobody: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.state().end(self.is_nobody);
            turns.start();
        }
    }
}

impl Turns {
    pub(crate) fn new(at_a_time: usize) -> Arc<Self> {
        Arc::new(Self { at_a_time, state: Mutex::default() })
    }

    /// Waits for a turn of `claimant`, which `link` is the connection of. `None` if there is none for it.
    pub(crate) async fn take(self: &Arc<Self>, claimant: Claimant, link: &Arc<Link>) -> Option<Turn> {
        let (start, started) = oneshot::channel();
        let waiter = Waiter { link: Arc::clone(link), start };
        {
            let mut state = self.state();
            let line = if claimant.name.is_some() { &mut state.somebodies } else { &mut state.nobodies };
            if line.len >= WAITING_MAX {
                line.retain(|waiter| !waiter.link.is_closed());
            }
            line.push(claimant, waiter);
        }
        self.start();
        started.await.ok()
    }

    /// Starts who may start.
    fn start(self: &Arc<Self>) {
        loop {
            // A line of its own: the lock must not be held when a turn ends.
            let next = self.state().next(self.at_a_time);
            let Some((waiter, is_nobody)) = next else { return };
            let turn = Turn { turns: Some(Arc::clone(self)), is_nobody };
            if let Err(mut turn) = waiter.start.send(turn) {
                // It is not waited for any more. Ended here, so that it does not start the next from in here.
                turn.turns = None;
                self.state().end(is_nobody);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who is next, and whether it is a nobody. It runs from here on.
    fn next(&mut self, at_a_time: usize) -> Option<(Waiter, bool)> {
        if self.running >= at_a_time {
            return None;
        }
        let mut found = self.somebodies.pop_live().map(|waiter| (waiter, false));
        if found.is_none() && self.nobodies_running == 0 {
            found = self.nobodies.pop_live().map(|waiter| (waiter, true));
        }
        let (waiter, is_nobody) = found?;
        self.running += 1;
        self.nobodies_running += usize::from(is_nobody);
        Some((waiter, is_nobody))
    }

    fn end(&mut self, is_nobody: bool) {
        self.running -= 1;
        self.nobodies_running -= usize::from(is_nobody);
    }
}

/// Who waits, by claimant. The claimants take turns.
#[derive(Default)]
struct Line {
    claimants: VecDeque<(Claimant, Vec<Waiter>)>,
    len: usize,
}

impl Line {
    fn push(&mut self, claimant: Claimant, waiter: Waiter) {
        if self.len >= WAITING_MAX
            && let Some((_, most)) = self.claimants.iter_mut().max_by_key(|(_, waiters)| waiters.len())
        {
            most.remove(0);
            self.len -= 1;
        }
        self.claimants.retain(|(_, waiters)| !waiters.is_empty());
        match self.claimants.iter_mut().find(|(known, _)| *known == claimant) {
            Some((_, waiters)) => waiters.push(waiter),
            None => self.claimants.push_back((claimant, vec![waiter])),
        }
        self.len += 1;
    }

    fn retain(&mut self, keep: impl Fn(&Waiter) -> bool) {
        for (_, waiters) in &mut self.claimants {
            waiters.retain(&keep);
        }
        self.claimants.retain(|(_, waiters)| !waiters.is_empty());
        self.len = self.claimants.iter().map(|(_, waiters)| waiters.len()).sum();
    }

    /// The next whose connection is still there.
    fn pop_live(&mut self) -> Option<Waiter> {
        while let Some((claimant, mut waiters)) = self.claimants.pop_front() {
            let before = waiters.len();
            let found = std::iter::from_fn(|| waiters.pop()).find(|waiter| !waiter.link.is_closed());
            self.len -= before - waiters.len();
            if !waiters.is_empty() {
                self.claimants.push_back((claimant, waiters));
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(address: &str, name: Option<&str>) -> Claimant {
        Claimant::new(address.parse().unwrap(), name)
    }

    /// Puts a connection into a line; returns it and what would start it.
    fn push(line: &mut Line, claimant: Claimant, id: u64) -> (Arc<Link>, oneshot::Receiver<Turn>) {
        let (start, started) = oneshot::channel();
        let link = Arc::new(Link::new(id, 0, 0));
        line.push(claimant, Waiter { link: Arc::clone(&link), start });
        (link, started)
    }

    fn order(line: &mut Line) -> Vec<u64> {
        std::iter::from_fn(|| line.pop_live()).map(|waiter| waiter.link.id).collect()
    }

    #[test]
    fn claimants_take_turns_and_of_each_the_last_comes_first() {
        let mut line = Line::default();
        let many = || claimant("10.0.0.1", Some("a"));
        let _held: Vec<_> = (1..=3).map(|id| push(&mut line, many(), id)).collect();
        let _other = push(&mut line, claimant("10.0.0.2", Some("a")), 4);
        let _another = push(&mut line, claimant("10.0.0.1", Some("b")), 5);
        assert_eq!(order(&mut line), [3, 4, 5, 2, 1]);
        assert_eq!(line.len, 0);
    }

    #[test]
    fn who_hung_up_is_passed_over() {
        let mut line = Line::default();
        let (gone, mut told) = push(&mut line, claimant("10.0.0.1", None), 1);
        let _here = push(&mut line, claimant("10.0.0.2", None), 2);
        gone.close();
        assert_eq!(order(&mut line), [2]);
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn of_too_many_the_oldest_of_whom_most_wait_goes() {
        let mut line = Line::default();
        let mut held: Vec<_> =
            (0..WAITING_MAX as u64 - 1).map(|id| push(&mut line, claimant("10.0.0.1", None), id)).collect();
        held.push(push(&mut line, claimant("10.0.0.2", None), 5000));
        let _one_more = push(&mut line, claimant("10.0.0.3", None), 5001);
        assert_eq!(line.len, WAITING_MAX);
        assert!(matches!(held[0].1.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        let order = order(&mut line);
        assert!(order.contains(&5000) && order.contains(&5001) && !order.contains(&0));
    }

    #[test]
    fn an_address_is_what_one_subscriber_has() {
        assert_eq!(claimant("2001:db8::1", None), claimant("2001:db8::2:3", None));
        assert_ne!(claimant("2001:db8::1", None), claimant("2001:db8:0:1::1", None));
        assert_eq!(claimant("::ffff:10.0.0.1", None), claimant("10.0.0.1", None));
        assert_ne!(claimant("10.0.0.1", None), claimant("10.0.0.2", None));
    }

    #[tokio::test]
    async fn nobodies_come_after_somebodies_and_never_take_all_turns() {
        let turns = Turns::new(2);
        let link = Arc::new(Link::new(1, 0, 0));
        let nobody = || turns.take(claimant("10.0.0.1", None), &link);
        let somebody = || turns.take(claimant("10.0.0.1", Some("a")), &link);
        let first = nobody().await.unwrap();
        let mut second = Box::pin(nobody());
        assert!(now(&mut second).is_none(), "one nobody at a time");
        let third = somebody().await.unwrap();
        let mut fourth = Box::pin(somebody());
        assert!(now(&mut fourth).is_none(), "two at a time");
        drop(first);
        let fourth = fourth.await.unwrap();
        assert!(now(&mut second).is_none());
        drop((third, fourth));
        drop(second.await.unwrap());
        let state = turns.state();
        assert_eq!((state.running, state.nobodies_running), (0, 0));
    }

    #[tokio::test]
    async fn a_turn_nobody_waits_for_any_more_is_the_next_ones() {
        let turns = Turns::new(1);
        let link = Arc::new(Link::new(1, 0, 0));
        let take = |address| turns.take(claimant(address, Some("a")), &link);
        let first = take("10.0.0.1").await.unwrap();
        let mut gone = Box::pin(take("10.0.0.2"));
        let mut next = Box::pin(take("10.0.0.3"));
        assert!(now(&mut gone).is_none() && now(&mut next).is_none());
        drop(gone);
        drop(first);
        assert!(next.await.is_some());
    }

    /// What a future is at once.
    fn now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
