//! What the tests with real processes share: commands, waiting on a condition, looking at `/proc`.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ostler_supervise::platform;
use ostler_supervise::restart::RestartPolicy;
use ostler_supervise::spec::{CommandSpec, Signal, Stop, StopStep, UnitSpec};
use ostler_supervise::state::StateName;
use ostler_supervise::unit::{Events, Snapshot, UnitEvent};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A leader that leaves a process behind which has left its session and its parent, prints `left <pid>` and goes on.
pub(crate) const LEAVE_ORPHAN: &str = "setsid sh -c 'sleep 1000 & echo left $!' & wait $!; ";

/// The same, with an empty environment as well: only a guard or a cgroup can find it.
pub(crate) const LEAVE_HIDDEN_ORPHAN: &str =
    "env -i /usr/bin/setsid /bin/sh -c '/bin/sleep 1000 & echo left $!' & wait $!; ";

/// A shell script as a specification: no restart, SIGTERM with 5 s of grace.
pub(crate) fn shell(script: &str) -> UnitSpec {
    let mut spec = UnitSpec::new(command(&["sh", "-c", script]), unique("run"));
    spec.restart = RestartPolicy::Never;
    spec.stop = term_then(Duration::from_secs(5));
    spec
}

pub(crate) fn command(words: &[&str]) -> CommandSpec {
    CommandSpec {
        program: words[0].into(),
        args: words[1..].iter().map(Into::into).collect(),
        dir: "/".into(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
    }
}

pub(crate) fn term_then(grace: Duration) -> Stop {
    Stop { ladder: vec![(StopStep::Signal(Signal::Term), grace)] }
}

/// Without a cgroup, and with one where the machine lets us make one.
pub(crate) fn cgroups() -> Vec<Option<PathBuf>> {
    let made = platform::cgroup_parent().map(|parent| parent.join(unique("ostler-test")));
    if made.is_none() {
        eprintln!("no writable cgroup v2 here: only the way without is tested");
    }
    std::iter::once(None).chain(made.map(Some)).collect()
}

pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Returns the letter `ps` shows, or `None` if there is no such process.
pub(crate) fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Returns whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: u32) -> bool {
    !matches!(process_state(pid), None | Some('Z' | 'X'))
}

/// Everything a unit said, so that a test can wait for one thing without losing another.
pub(crate) struct Heard {
    events: Events,
    pub(crate) lines: Vec<String>,
    pub(crate) states: Vec<StateName>,
    pub(crate) notes: Vec<String>,
    pub(crate) exits: u32,
    pub(crate) last: Option<Snapshot>,
}

impl Heard {
    pub(crate) fn new(events: Events) -> Self {
        Heard { events, lines: vec![], states: vec![], notes: vec![], exits: 0, last: None }
    }

    /// Waits for the first line that starts so and returns its rest.
    pub(crate) async fn line(&mut self, start: &str) -> String {
        loop {
            if let Some(rest) = self.lines.iter().find_map(|line| line.strip_prefix(start)) {
                return rest.trim().to_owned();
            }
            assert!(
                self.next().await,
                "no line `{start}...` came; lines: {:?}, notes: {:?}",
                self.lines,
                self.notes
            );
        }
    }

    /// Waits for the process that [`LEAVE_ORPHAN`] left behind.
    pub(crate) async fn orphan(&mut self) -> u32 {
        let pid = self.line("left ").await.parse().expect("a process id");
        assert!(is_running(pid));
        pid
    }

    /// Waits until this state is announced (again).
    pub(crate) async fn state(&mut self, name: StateName) -> Snapshot {
        let seen = self.states.len();
        while !self.states[seen..].contains(&name) {
            assert!(self.next().await, "never {name}; states: {:?}, notes: {:?}", self.states, self.notes);
        }
        self.last.clone().expect("a state was announced")
    }

    /// Waits until the unit is over.
    pub(crate) async fn end(&mut self) -> Snapshot {
        while self.next().await {}
        self.last.clone().expect("a state was announced")
    }

    /// Takes the next event; `false` at the end.
    pub(crate) async fn next(&mut self) -> bool {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        match event.unwrap_or_else(|_| panic!("silence; lines: {:?}, states: {:?}", self.lines, self.states))
        {
            Some(UnitEvent::Changed(snapshot)) => {
                self.states.push(snapshot.state);
                self.last = Some(snapshot);
            }
            Some(UnitEvent::Output { line, .. }) => {
                self.lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            Some(UnitEvent::Exited { .. }) => self.exits += 1,
            Some(UnitEvent::Note(text)) => self.notes.push(text),
            None => return false,
        }
        true
    }
}
