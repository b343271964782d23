//! How the agent is, in the words of the wire: conversions only, no state of its own.

use std::time::SystemTime;

use ostler_supervise::exit::{Cause, Exit};
use ostler_supervise::state::StateName;
use ostler_supervise::unit::Snapshot;
use ostler_wire::{AgentKind, AgentState, ExitStatus, StatusCause, Timestamp};

/// The agent's process as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The lifecycle state.
    pub(crate) state: AgentState,
    /// Why, for a program.
    pub(crate) cause: StatusCause,
    /// Why, for a person.
    pub(crate) message: Option<String>,
    /// Which start of the process; 0 before the first.
    pub(crate) generation: u64,
    /// The leader, while one runs.
    pub(crate) pid: Option<u32>,
    /// When it was started.
    pub(crate) started_at: Option<Timestamp>,
    /// Restarts nobody asked for.
    pub(crate) restarts: u64,
    /// How the last process ended.
    pub(crate) exit: Option<ExitStatus>,
}

impl View {
    /// Before anything was started.
    pub(crate) fn starting() -> Self {
        Self {
            state: AgentState::Starting,
            cause: StatusCause::Normal,
            message: None,
            generation: 0,
            pid: None,
            started_at: None,
            restarts: 0,
            exit: None,
        }
    }

    /// What the unit says, in the wire's words. `now` is for the wait until the next start.
    pub(crate) fn of(snapshot: &Snapshot, now: SystemTime) -> Self {
        let exit = snapshot.exit.map(exit_status);
        let (cause, message) = match &snapshot.cause {
            Some(cause) => final_cause(cause, snapshot.exit),
            None => waiting_cause(snapshot, now),
        };
        Self {
            state: agent_state(snapshot.state),
            cause,
            message,
            generation: snapshot.generation.into(),
            pid: snapshot.pid,
            started_at: snapshot.started_at.and_then(|time| Timestamp::try_from(time).ok()),
            restarts: snapshot.restarts.into(),
            exit,
        }
    }

    /// The same end, not as it was meant: a start that failed before there was a process.
    pub(crate) fn failed(message: String) -> Self {
        let cause = StatusCause::SpawnFailed;
        Self { state: AgentState::Error, cause, message: Some(message), ..Self::starting() }
    }

    /// True when nothing runs and nothing will.
    pub(crate) fn is_final(&self) -> bool {
        !self.state.is_live()
    }
}

/// The wire's word for a unit's state.
pub(crate) fn agent_state(state: StateName) -> AgentState {
    match state {
        StateName::Starting => AgentState::Starting,
        StateName::Active => AgentState::Active,
        StateName::Paused => AgentState::Paused,
        StateName::Stopping => AgentState::Stopping,
        StateName::Terminated => AgentState::Terminated,
        StateName::Error => AgentState::Error,
    }
}

/// The activity text: what a conversational agent does, `running` for a program we cannot look into, the state's name
/// while it is not active.
pub(crate) fn activity_text(
    state: AgentState,
    kind: AgentKind,
    activity: Option<&'static str>,
) -> &'static str {
    match (state, kind) {
        (AgentState::Active, AgentKind::Plain) => "running",
        (AgentState::Active, AgentKind::Claude) => activity.unwrap_or("idle"),
        (state, _) => state.as_str(),
    }
}

fn exit_status(exit: Exit) -> ExitStatus {
    ExitStatus { code: exit.code(), signal: exit.signal() }
}

fn final_cause(cause: &Cause, exit: Option<Exit>) -> (StatusCause, Option<String>) {
    let told = match cause {
        Cause::Requested | Cause::Killed => StatusCause::Requested,
        Cause::OwnExit => StatusCause::Exited,
        Cause::CrashLoop { .. } => StatusCause::CrashLoop,
        Cause::NotReady { .. } | Cause::SpawnFailed(_) => StatusCause::SpawnFailed,
    };
    let text = match (cause, exit) {
        (Cause::OwnExit, Some(exit)) => format!("ended by itself with {exit}"),
        (Cause::CrashLoop { .. }, Some(exit)) => {
            format!("{cause}, the last with {exit}; see its log for the reason, then start it again")
        }
        _ => cause.to_string(),
    };
    (told, Some(text))
}

fn waiting_cause(snapshot: &Snapshot, now: SystemTime) -> (StatusCause, Option<String>) {
    let (Some(until), StateName::Starting) = (snapshot.backoff_until, snapshot.state) else {
        return (StatusCause::Normal, None);
    };
    let seconds = until.duration_since(now).unwrap_or_default().as_secs_f64();
    match snapshot.exit {
        Some(exit) => {
            (StatusCause::Exited, Some(format!("ended with {exit}; starts again in {seconds:.1} s")))
        }
        None => (StatusCause::Normal, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_final_cause_says_how_it_ended_and_what_to_do() {
        let (cause, text) = final_cause(&Cause::OwnExit, Some(Exit::Code(3)));
        assert_eq!((cause, text.as_deref()), (StatusCause::Exited, Some("ended by itself with exit code 3")));
        let looped = Cause::CrashLoop { restarts: 5, window: Duration::from_secs(60) };
        let (cause, text) = final_cause(&looped, Some(Exit::Signal(9)));
        assert_eq!(cause, StatusCause::CrashLoop);
        assert!(text.unwrap().contains("5 restarts within 60 s, the last with signal 9"));
        assert_eq!(final_cause(&Cause::Killed, None).0, StatusCause::Requested);
    }

    #[test]
    fn the_activity_is_the_state_while_it_is_not_active() {
        assert_eq!(activity_text(AgentState::Active, AgentKind::Plain, None), "running");
        assert_eq!(activity_text(AgentState::Active, AgentKind::Claude, None), "idle");
        assert_eq!(activity_text(AgentState::Active, AgentKind::Claude, Some("working")), "working");
        assert_eq!(activity_text(AgentState::Paused, AgentKind::Claude, Some("working")), "paused");
    }
}
