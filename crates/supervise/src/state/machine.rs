//! The transitions: one function per event, each a `match` on the state. The drawing is in the parent.

use std::time::{Duration, Instant};

use super::{Effect, Event, OVER, Refusal, Request, Running, State, Step, Then};
use crate::exit::{Cause, Exit};
use crate::platform::SpawnError;
use crate::restart::{Decision, History, RestartPolicy, Rules, decide};

/// The machine: the state with the rules and memory its transitions need.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    rules: Rules,
    history: History,
    ladder: Vec<Duration>,
    ready_timeout: Option<Duration>,
    generation: u32,
    restarts: u32,
    exit: Option<Exit>,
}

impl Machine {
    /// Builds a machine that wants to launch at `now`. `ladder` holds the wait after each step of the stop ladder;
    /// `ready_timeout` is `None` when a spawned process counts as active at once.
    pub fn new(rules: Rules, ladder: Vec<Duration>, ready_timeout: Option<Duration>, now: Instant) -> Self {
        Machine {
            state: State::Waiting { until: now },
            rules,
            history: History::default(),
            ladder,
            ready_timeout,
            generation: 0,
            restarts: 0,
            exit: None,
        }
    }

    /// Returns the state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the number of the current incarnation, from 1; 0 before the first launch.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns how often the restart rules started it again; requested restarts do not count.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Returns how the last ended incarnation ended.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Returns when [`Event::Due`] is due, if ever.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until }
            | State::Warming { until, .. }
            | State::Stopping { step: Step::Ladder { until, .. }, .. } => Some(*until),
            _ => None,
        }
    }

    /// Applies an event.
    ///
    /// # Errors
    /// [`Refusal`] when the event does not fit the state; the state is unchanged.
    pub fn apply(&mut self, event: Event, now: Instant) -> Result<Vec<Effect>, Refusal> {
        match event {
            Event::Request(Request::Stop) => Ok(self.stop(now)),
            Event::Request(Request::Kill) => Ok(self.kill()),
            Event::Request(Request::Pause) => self.pause(),
            Event::Request(Request::Resume) => self.resume(),
            Event::Request(Request::Restart) => self.restart(now),
            Event::Request(Request::Ready) => self.ready(),
            Event::Due => self.due(now),
            Event::Spawned { pid } => self.spawned(pid, now),
            Event::SpawnFailed { error, random_unit } => self.spawn_failed(error, random_unit, now),
            Event::Frozen => self.frozen(),
            Event::Thawed => self.thawed(),
            Event::LeaderExited => self.leader_exited(),
            Event::Emptied { exit, random_unit } => self.emptied(exit, random_unit, now),
        }
    }

    fn stop(&mut self, now: Instant) -> Vec<Effect> {
        match &mut self.state {
            State::Waiting { .. } => self.finish(Cause::Requested),
            State::Warming { run, .. } | State::Active { run } | State::Paused { run } => {
                let run = *run;
                self.begin_stopping(run, Then::Stop { killed: false }, now)
            }
            State::Stopping { then, .. } => {
                // A stop outranks what would have come: a restart, or a decision of the rules.
                if !matches!(then, Then::Stop { .. }) {
                    *then = Then::Stop { killed: false };
                }
                Vec::new()
            }
            State::Terminated { .. } | State::Error { .. } => Vec::new(),
        }
    }

    fn kill(&mut self) -> Vec<Effect> {
        let then = Then::Stop { killed: true };
        match self.state {
            State::Waiting { .. } => self.finish(Cause::Killed),
            State::Warming { run, .. }
            | State::Active { run }
            | State::Paused { run }
            | State::Stopping { run, step: Step::Ladder { .. }, .. } => {
                self.state = State::Stopping { run, step: Step::Clearing, then };
                vec![Effect::Announce, Effect::Clear]
            }
            State::Stopping { run, step: Step::Clearing, .. } => {
                self.state = State::Stopping { run, step: Step::Clearing, then };
                Vec::new()
            }
            State::Terminated { .. } | State::Error { .. } => Vec::new(),
        }
    }

    fn pause(&mut self) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Active { .. } => Ok(vec![Effect::Freeze]),
            State::Paused { .. } => Ok(Vec::new()),
            State::Waiting { .. } => Err(self.refuse("pause", "no process runs; stop it instead")),
            State::Warming { .. } => {
                Err(self.refuse("pause", "it is not ready yet; ask again once it is active"))
            }
            State::Stopping { .. } => Err(self.refuse("pause", "it is on its way out")),
            State::Terminated { .. } | State::Error { .. } => Err(self.refuse("pause", OVER)),
        }
    }

    fn resume(&mut self) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Paused { .. } => Ok(vec![Effect::Thaw]),
            State::Waiting { .. } | State::Warming { .. } | State::Active { .. } => Ok(Vec::new()),
            State::Stopping { .. } => Err(self.refuse("resume", "it is on its way out")),
            State::Terminated { .. } | State::Error { .. } => Err(self.refuse("resume", OVER)),
        }
    }

    fn restart(&mut self, now: Instant) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Waiting { .. } => {
                self.state = State::Waiting { until: now };
                Ok(vec![Effect::Announce])
            }
            State::Warming { run, .. } | State::Active { run } | State::Paused { run } => {
                Ok(self.begin_stopping(run, Then::Restart, now))
            }
            State::Stopping { then: Then::Stop { .. }, .. } => {
                Err(self.refuse("restart", "a stop was asked for; start it again once it is over"))
            }
            State::Stopping { run, step, .. } => {
                self.state = State::Stopping { run, step, then: Then::Restart };
                Ok(Vec::new())
            }
            State::Terminated { .. } | State::Error { .. } => Err(self.refuse("restart", OVER)),
        }
    }

    fn ready(&mut self) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Warming { run, .. } => {
                self.state = State::Active { run };
                Ok(vec![Effect::Announce])
            }
            State::Active { .. } | State::Paused { .. } => Ok(Vec::new()),
            State::Waiting { .. } => Err(self.refuse("ready", "no process runs")),
            State::Stopping { .. } => Err(self.refuse("ready", "it is on its way out")),
            State::Terminated { .. } | State::Error { .. } => Err(self.refuse("ready", OVER)),
        }
    }

    fn due(&mut self, now: Instant) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Waiting { .. } => {
                self.generation += 1;
                Ok(vec![Effect::Launch])
            }
            State::Warming { run, .. } => {
                self.state =
                    State::Stopping { run, step: Step::Clearing, then: Then::Decide { not_ready: true } };
                Ok(vec![Effect::Announce, Effect::Clear])
            }
            State::Stopping { run, step: Step::Ladder { index, .. }, then } => {
                Ok(self.take_step(run, index + 1, then, now))
            }
            _ => Err(self.refuse("due", "no timer is set in this state")),
        }
    }

    fn spawned(&mut self, pid: u32, now: Instant) -> Result<Vec<Effect>, Refusal> {
        if !matches!(self.state, State::Waiting { .. }) {
            return Err(self.refuse("spawned", "no launch was under way"));
        }
        let run = Running { pid, since: now };
        self.state = match self.ready_timeout {
            None => State::Active { run },
            Some(timeout) => State::Warming { run, until: now + timeout },
        };
        Ok(vec![Effect::Announce])
    }

    fn spawn_failed(
        &mut self,
        error: SpawnError,
        random_unit: f64,
        now: Instant,
    ) -> Result<Vec<Effect>, Refusal> {
        if !matches!(self.state, State::Waiting { .. }) {
            return Err(self.refuse("spawn-failed", "no launch was under way"));
        }
        let cause = Cause::SpawnFailed(error.clone());
        let hopeless = self.generation <= 1 && !error.is_retryable();
        if hopeless || self.rules.policy == RestartPolicy::Never {
            return Ok(self.fail(cause));
        }
        Ok(self.follow(None, Duration::ZERO, cause, random_unit, now))
    }

    fn frozen(&mut self) -> Result<Vec<Effect>, Refusal> {
        let State::Active { run } = self.state else {
            return Err(self.refuse("frozen", "no freeze was under way"));
        };
        self.state = State::Paused { run };
        Ok(vec![Effect::Announce])
    }

    fn thawed(&mut self) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Paused { run } => {
                self.state = State::Active { run };
                Ok(vec![Effect::Announce])
            }
            // Thawed as part of stopping.
            State::Stopping { .. } => Ok(Vec::new()),
            _ => Err(self.refuse("thawed", "no thaw was under way")),
        }
    }

    fn leader_exited(&mut self) -> Result<Vec<Effect>, Refusal> {
        let (run, then) = match self.state {
            State::Warming { run, .. } | State::Active { run } | State::Paused { run } => {
                (run, Then::Decide { not_ready: false })
            }
            State::Stopping { run, step: Step::Ladder { .. }, then } => (run, then),
            _ => return Err(self.refuse("leader-exited", "no leader was running")),
        };
        self.state = State::Stopping { run, step: Step::Clearing, then };
        Ok(vec![Effect::Clear])
    }

    fn emptied(&mut self, exit: Exit, random_unit: f64, now: Instant) -> Result<Vec<Effect>, Refusal> {
        let State::Stopping { run, step: Step::Clearing, then } = self.state else {
            return Err(self.refuse("emptied", "no tree was being cleared"));
        };
        self.exit = Some(exit);
        let uptime = now.saturating_duration_since(run.since);
        let mut effects = vec![Effect::AnnounceExit { exit, uptime }];
        effects.extend(match then {
            Then::Stop { killed: false } => self.finish(Cause::Requested),
            Then::Stop { killed: true } => self.finish(Cause::Killed),
            Then::Restart => {
                self.state = State::Waiting { until: now };
                vec![Effect::Announce]
            }
            Then::Decide { not_ready: false } => {
                self.follow(Some(exit), uptime, Cause::OwnExit, random_unit, now)
            }
            Then::Decide { not_ready: true } => {
                let timeout = self.ready_timeout.unwrap_or_default();
                // Whatever code it ended with and however long it was given, it never did what it was started for.
                self.follow(None, Duration::ZERO, Cause::NotReady { timeout }, random_unit, now)
            }
        });
        Ok(effects)
    }

    /// Asks the restart rules.
    fn follow(
        &mut self,
        exit: Option<Exit>,
        uptime: Duration,
        cause: Cause,
        random_unit: f64,
        now: Instant,
    ) -> Vec<Effect> {
        match decide(&mut self.history, &self.rules, exit, uptime, now, random_unit) {
            Decision::RestartAfter(wait) => {
                self.restarts += 1;
                self.state = State::Waiting { until: now + wait };
                vec![Effect::Announce]
            }
            Decision::Done => self.finish(cause),
            Decision::Failed => self.fail(cause),
            Decision::CrashLoop { restarts, window } => self.fail(match cause {
                Cause::OwnExit => Cause::CrashLoop { restarts, window },
                // Why it never came up says more than how often it was tried.
                cause => cause,
            }),
        }
    }

    fn begin_stopping(&mut self, run: Running, then: Then, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        // A frozen process hears nothing: thaw first, so that the ladder has a chance.
        if matches!(self.state, State::Paused { .. }) {
            effects.push(Effect::Thaw);
        }
        effects.push(Effect::Announce);
        effects.extend(self.take_step(run, 0, then, now));
        effects
    }

    fn take_step(&mut self, run: Running, index: usize, then: Then, now: Instant) -> Vec<Effect> {
        let (step, effect) = match self.ladder.get(index) {
            Some(wait) => (Step::Ladder { index, until: now + *wait }, Effect::Take(index)),
            None => (Step::Clearing, Effect::Clear),
        };
        self.state = State::Stopping { run, step, then };
        vec![effect]
    }

    fn finish(&mut self, cause: Cause) -> Vec<Effect> {
        self.state = State::Terminated { exit: self.exit, cause };
        vec![Effect::Announce, Effect::End]
    }

    fn fail(&mut self, reason: Cause) -> Vec<Effect> {
        self.state = State::Error { exit: self.exit, reason };
        vec![Effect::Announce, Effect::End]
    }

    fn refuse(&self, request: &'static str, reason: &str) -> Refusal {
        Refusal { request, state: self.state.name(), reason: reason.to_owned() }
    }
}
