//! When a lost host is replaced: a pure policy and the clock that acts on it.

use ostler_wire::{RestartPolicy, Timestamp};

use crate::outcome::Outcome;
use crate::state::{Moment, Origin, State};

/// A run that lived this long makes the losses before it forgotten.
const STABLE_MS: i64 = 60_000;
/// So many hosts lost in a row are a loop, not an accident.
const LOSSES_MAX: u32 = 5;
/// The first and the longest wait before a lost host is replaced.
const WAIT_FIRST_MS: u64 = 200;
const WAIT_LONGEST_MS: u64 = 30_000;

/// What to do about a host that vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start another after so many milliseconds; the second number counts the losses in a row.
    After(u64, u32),
    /// The agent's policy is not to be restarted.
    Leave,
    /// It happened too often too soon.
    Loop(u32),
}

/// Decides from the policy, the losses before and how long the lost run lived. `random` is in 0..1 and spreads the
/// wait by up to a quarter.
pub(crate) fn decide(policy: RestartPolicy, losses_before: u32, lived_ms: i64, random: f64) -> Decision {
    if policy == RestartPolicy::Never {
        return Decision::Leave;
    }
    let losses = if lived_ms >= STABLE_MS { 1 } else { losses_before + 1 };
    if losses > LOSSES_MAX {
        return Decision::Loop(losses);
    }
    let wait = (WAIT_FIRST_MS << (losses - 1)).min(WAIT_LONGEST_MS);
    Decision::After((wait as f64 * (0.75 + random / 4.0)) as u64, losses)
}

/// Replaces the hosts whose wait is over.
pub(crate) fn tick(state: &mut State, out: &mut Outcome, moment: &Moment) {
    if state.down.is_some() {
        return;
    }
    let due: Vec<_> = state
        .agents
        .values()
        .filter(|agent| agent.relaunch_at.is_some_and(|at| at <= moment.now))
        .map(|agent| (agent.id().clone(), agent.run.as_ref().map_or(0, |run| run.losses)))
        .collect();
    for (id, losses) in due {
        state.start_run(out, &id, losses, Origin::Recovery, moment);
    }
}

/// The time of the next wait that ends, for the loop's timer.
pub(crate) fn next(state: &State) -> Option<Timestamp> {
    state.agents.values().filter_map(|agent| agent.relaunch_at).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_the_sixth_loss_in_a_row_is_a_loop() {
        let waits: Vec<_> = (0..6).map(|before| decide(RestartPolicy::OnFailure, before, 0, 1.0)).collect();
        assert_eq!(
            waits,
            [
                Decision::After(200, 1),
                Decision::After(400, 2),
                Decision::After(800, 3),
                Decision::After(1600, 4),
                Decision::After(3200, 5),
                Decision::Loop(6),
            ]
        );
    }

    #[test]
    fn a_long_life_makes_earlier_losses_forgotten() {
        assert_eq!(decide(RestartPolicy::Always, 5, STABLE_MS, 1.0), Decision::After(200, 1));
    }

    #[test]
    fn an_agent_that_is_never_restarted_is_left() {
        assert_eq!(decide(RestartPolicy::Never, 0, 0, 0.5), Decision::Leave);
    }
}
