//! The real binary against its own daemon: what a person types, what comes back, and the exit codes.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its part has failed the test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A daemon of its own; it and its agents end with the test.
struct World {
    dir: TempDir,
}

/// What a command left behind.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl World {
    fn up() -> Self {
        let world = Self { dir: TempDir::new().unwrap() };
        let done = world.ostler(&["up", "--detach", "--port", "0"]);
        assert_eq!(done.code, 0, "{}", done.err);
        world
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program(assert_cmd::cargo::cargo_bin!("ostler"));
        command.args(args);
        command
    }

    /// Any program in this world's directory, with this world's daemon as the default.
    fn program(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        command.env("OSTLER_STATE_DIR", self.dir.path().join("state"));
        command.env("XDG_CONFIG_HOME", self.dir.path()).env_remove("OSTLER_CONFIG").env_remove("OSTLER_LOG");
        command
    }

    fn ostler(&self, args: &[&str]) -> Done {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a command that must succeed and returns its JSON lines.
    fn json(&self, args: &[&str]) -> Vec<Value> {
        let done = self.ostler(&[args, &["--json"]].concat());
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn spawn(&self, name: &str, script: &str) {
        let done = self.ostler(&["spawn", name, "--", "sh", "-c", script]);
        assert_eq!(done.code, 0, "{}", done.err);
    }

    fn bus_url(&self) -> Value {
        self.json(&["status"])[0]["bus_url"].clone()
    }

    /// The next daemon takes any free port instead of the last one's.
    fn forget_port(&self) {
        for entry in std::fs::read_dir(self.dir.path().join("state")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().contains("port") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    fn kill_daemon(&self) {
        let pid = self.json(&["status"])[0]["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Starts one where the test killed it, so that the agents are found and stopped.
        self.ostler(&["up", "--detach", "--port", "0"]);
        self.ostler(&["down"]);
    }
}

/// A command that goes on; killed with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const COUNT: &str = "i=0; while sleep 0.02; do i=$((i+1)); echo $i; done";

#[test]
fn an_agent_lives_through_every_verb() {
    let world = World::up();
    world.spawn("counter", COUNT);
    let agent = &world.json(&["ps"])[0]["agents"][0];
    assert_eq!((agent["agent_id"].as_str(), agent["state"].as_str()), (Some("counter"), Some("active")));

    assert_eq!(world.json(&["pause", "counter"])[0]["state"], "paused");
    assert_eq!(world.json(&["pause", "counter"])[0]["changed"], false);
    let done = world.ostler(&["send", "counter", "hello"]);
    assert_eq!(done.code, 5, "{}", done.err);
    assert!(done.err.contains("hint: resume it first"), "{}", done.err);
    assert_eq!(world.json(&["resume", "counter"])[0]["state"], "active");

    assert_eq!(world.json(&["restart", "counter"])[0]["state"], "active");
    assert_ne!(world.json(&["status", "counter"])[0]["pid"], agent["pid"], "a new process");
    assert_eq!(world.json(&["stop", "counter"])[0]["state"], "terminated");
    assert_eq!(world.json(&["stop", "counter"])[0]["changed"], false);
    assert_eq!(world.json(&["ps"])[0]["agents"].as_array().unwrap().len(), 0);
    assert_eq!(world.json(&["ps", "--all"])[0]["agents"].as_array().unwrap().len(), 1);
    let events = world.json(&["events", "--agent", "counter"]);
    assert!(events.iter().any(|event| event["kind"] == "agent.spawned"), "{events:?}");
    assert_eq!(world.ostler(&["rm", "counter"]).code, 0);
    assert_eq!(world.ostler(&["rm", "counter"]).code, 4);
}

#[test]
fn what_cannot_be_done_has_its_exit_code_and_a_hint() {
    let world = World::up();
    world.spawn("a", "sleep 100");
    let stubborn = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
    let done = world.ostler(&["spawn", "stubborn", "--grace", "1s", "--", "sh", "-c", stubborn]);
    assert_eq!(done.code, 0, "{}", done.err);
    let mut follow = Running::start(world.command(&["logs", "-f", "stubborn"]));
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "deaf");
    for (args, code) in [
        (&["up", "--detach"][..], 5),
        (&["spawn", "a", "--", "true"], 5),
        (&["spawn", "b", "--", "/no/such/program"], 8),
        (&["rm", "a"], 5),
        (&["send", "a", "hello", "--wait"], 5),
        (&["status", "nobody"], 4),
        (&["logs", "nobody"], 4),
        (&["stop", "nobody"], 4),
        (&["attach", "nobody"], 4),
        (&["stop", "stubborn", "--timeout", "100ms"], 6),
    ] {
        let done = world.ostler(args);
        assert_eq!(done.code, code, "{args:?}: {}", done.err);
        assert!(done.err.starts_with("error: ") && done.err.contains("\nhint: "), "{args:?}: {}", done.err);
    }
    let done = world.ostler(&["stop", "stubborn", "--timeout", "1ms"]);
    assert!(done.err.contains("within 1ms"), "{}", done.err);
    // The same words from the daemon's side and from ours.
    for args in [&["status", "nobody"][..], &["logs", "nobody"], &["pause", "nobody"], &["rm", "nobody"]] {
        let done = world.ostler(args);
        assert!(
            done.err.contains("error: no agent is called nobody\nhint: `ostler ps --all`"),
            "{}",
            done.err
        );
    }
    let done = world.ostler(&["up", "--port", "0"]);
    assert_eq!(done.code, 5, "{}", done.err);
    assert_eq!(done.err, world.ostler(&["up", "--detach"]).err, "in the foreground as in the background");
}

#[test]
fn run_is_the_command_it_runs() {
    let world = World::up();
    let done = world.ostler(&["run", "-q", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(world.ostler(&["run", "--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(world.ostler(&["run", "--", "/no/such/program"]).code, 8);
    assert_eq!(world.json(&["ps", "-a"])[0]["agents"], serde_json::json!([]), "nothing of it is left");
    assert_eq!(world.ostler(&["run", "--keep", "--name", "kept", "--", "true"]).code, 0);
    assert_eq!(world.json(&["status", "kept"])[0]["state"], "terminated");
}

#[test]
fn run_shows_the_whole_output_of_a_command_that_is_faster_than_we_are() {
    let world = World::up();
    let done = world.ostler(&["run", "--", "seq", "5000"]);
    let expected: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    assert_eq!(
        (done.code, done.out == expected),
        (0, true),
        "{} lines: {}",
        done.out.lines().count(),
        done.err
    );
}

#[test]
fn interrupting_run_stops_the_agent_and_gives_its_code() {
    let world = World::up();
    let script = "trap 'echo bye; exit 9' TERM; echo start; while :; do sleep 0.02; done";
    let mut run = Running::start(world.command(&["run", "--", "sh", "-c", script]));
    let mut lines = BufReader::new(run.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "start");
    assert!(Command::new("kill").args(["-INT", &run.0.id().to_string()]).status().unwrap().success());
    assert_eq!(lines.next().unwrap().unwrap(), "bye");
    assert_eq!(run.0.wait().unwrap().code(), Some(9));
    assert_eq!(world.json(&["ps", "-a"])[0]["agents"], serde_json::json!([]));
}

#[test]
fn following_loses_and_doubles_nothing_when_the_daemon_is_killed() {
    let world = World::up();
    world.spawn("counter", COUNT);
    let mut follow = Running::start(world.command(&["logs", "-f", "counter"]));
    let mut numbers = BufReader::new(follow.0.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap().parse::<u64>().unwrap());
    let before: Vec<u64> = numbers.by_ref().take(20).collect();
    assert_eq!(before, (1..=20).collect::<Vec<_>>());
    world.kill_daemon();
    assert_eq!(world.ostler(&["ps"]).code, 3);
    assert_eq!(world.ostler(&["up", "--detach", "--port", "0"]).code, 0);
    // More than can be said before the daemon is back: some of it comes after.
    let after: Vec<u64> = numbers.take(200).collect();
    assert_eq!(after, (21..=220).collect::<Vec<_>>());
}

#[test]
fn following_goes_on_when_the_daemon_comes_back_at_another_address() {
    let world = World::up();
    world.spawn("counter", COUNT);
    let mut command = world.command(&["logs", "-f", "counter"]);
    let mut follow =
        Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut events = Running::start(world.command(&["events", "-f", "--json"]));
    let mut numbers = BufReader::new(follow.0.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap().parse::<u64>().unwrap());
    let mut notes = BufReader::new(follow.0.stderr.take().unwrap()).lines();
    let before: Vec<u64> = numbers.by_ref().take(20).collect();
    let address = world.bus_url();
    world.kill_daemon();
    assert!(notes.next().unwrap().unwrap().contains("the daemon is away"));
    world.forget_port();
    assert_eq!(world.ostler(&["up", "--detach", "--port", "0"]).code, 0);
    assert_ne!(world.bus_url(), address, "the test needs another address");
    assert!(notes.next().unwrap().unwrap().contains("the daemon is back"));
    let after: Vec<u64> = numbers.take(200).collect();
    assert_eq!([before, after].concat(), (1..=220).collect::<Vec<_>>());
    world.spawn("late", "sleep 100");
    let mut told = BufReader::new(events.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|event| event.contains("agent.spawned") && event.contains("late")));
}

#[test]
fn run_goes_on_when_the_daemon_comes_back_at_another_address() {
    let world = World::up();
    let script = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 3";
    let mut run = Running::start(world.command(&["run", "--", "sh", "-c", script]));
    let mut numbers = BufReader::new(run.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let before: Vec<String> = numbers.by_ref().take(10).collect();
    world.kill_daemon();
    world.forget_port();
    assert_eq!(world.ostler(&["up", "--detach", "--port", "0"]).code, 0);
    let after: Vec<String> = numbers.collect();
    assert_eq!([before, after].concat(), (1..=100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(run.0.wait().unwrap().code(), Some(3));
    assert_eq!(world.json(&["ps", "-a"])[0]["agents"], serde_json::json!([]));
}

#[test]
fn an_attached_person_speaks_and_listens() {
    let world = World::up();
    world.spawn("cat", "exec cat");
    let mut attach = Running::start(world.command(&["attach", "cat"]));
    let mut said = BufReader::new(attach.0.stdout.take().unwrap()).lines();
    let mut keyboard = attach.0.stdin.take().unwrap();
    writeln!(keyboard, "hello").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "hello");
    assert!(Command::new("kill").args(["-INT", &attach.0.id().to_string()]).status().unwrap().success());
    assert_eq!(attach.0.wait().unwrap().code(), Some(0));
    assert_eq!(world.json(&["status", "cat"])[0]["state"], "active", "detaching leaves it running");
}

#[test]
fn a_person_who_leaves_does_not_wait_for_a_host() {
    let world = World::up();
    world.spawn("cat", "exec cat");
    let mut attach = Running::start(world.command(&["attach", "cat"]));
    let mut said = BufReader::new(attach.0.stdout.take().unwrap()).lines();
    let mut keyboard = attach.0.stdin.take().unwrap();
    writeln!(keyboard, "hello").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "hello");
    let host = world.json(&["status", "cat"])[0]["host_pid"].to_string();
    let signal = |signal: &str, pid: &str| {
        assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
    };
    signal("-STOP", &host);
    writeln!(keyboard, "nobody takes this").unwrap();
    let start = std::time::Instant::now();
    signal("-INT", &attach.0.id().to_string());
    assert_eq!(attach.0.wait().unwrap().code(), Some(0));
    let waited = start.elapsed();
    signal("-CONT", &host);
    assert!(waited < std::time::Duration::from_secs(4), "{waited:?}");
}

#[test]
fn a_stopped_agent_is_started_again_by_its_name() {
    let world = World::up();
    let done = world.ostler(&["spawn", "a"]);
    assert_eq!(done.code, 4, "{}", done.err);
    assert!(done.err.contains("no agent is called a, and a new one needs a command"), "{}", done.err);
    assert!(done.err.contains("hint: give it behind two dashes"), "{}", done.err);
    let spawned = world.ostler(&["spawn", "a", "--restart", "always", "--grace", "3s", "--", "sleep", "100"]);
    assert_eq!(spawned.code, 0, "{}", spawned.err);
    assert_eq!(world.ostler(&["spawn", "a"]).code, 5, "it runs");
    assert_eq!(world.json(&["stop", "a"])[0]["state"], "terminated");
    assert_eq!(world.json(&["spawn", "a"])[0]["agent_id"], "a");
    let agent = &world.json(&["status", "a"])[0];
    assert_eq!(agent["command"], serde_json::json!(["sleep", "100"]));
    assert_eq!((agent["restart"].as_str(), agent["stop_grace_ms"].as_u64()), (Some("always"), Some(3000)));
}

#[test]
fn agents_left_running_are_taken_over() {
    let world = World::up();
    world.spawn("a", "sleep 100");
    let pid = world.json(&["status", "a"])[0]["pid"].clone();
    assert_eq!(world.json(&["down", "--keep-agents"])[0]["kept"], 1);
    assert_eq!(world.ostler(&["ps"]).code, 3);
    assert_eq!(world.ostler(&["up", "--detach", "--port", "0"]).code, 0);
    assert_eq!(world.json(&["status", "a"])[0]["pid"], pid);
}

#[test]
fn logs_start_where_they_are_asked_to() {
    let world = World::up();
    world.spawn("few", "for i in 1 2 3 4 5; do echo $i; done; exec sleep 100");
    let mut follow = Running::start(world.command(&["logs", "-f", "few"]));
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.by_ref().nth(4).unwrap().unwrap(), "5");
    // Shown live and recorded are not the same moment.
    let recorded = || world.json(&["logs", "few"]).len() == 5;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !recorded() {
        assert!(std::time::Instant::now() < deadline, "the lines were not recorded");
    }
    assert_eq!(world.ostler(&["logs", "few", "--tail", "2"]).out, "4\n5\n");
    assert_eq!(world.ostler(&["logs", "few", "--tail", "0"]).out, "");
    assert_eq!(world.ostler(&["logs", "few", "--since", "1h"]).out, "1\n2\n3\n4\n5\n");
    assert_eq!(world.ostler(&["logs", "few", "--since", "2100-01-01T00:00:00Z"]).out, "");
    let entry = &world.json(&["logs", "few", "--tail", "1"])[0];
    assert_eq!((entry["seq"].as_u64(), entry["stream"].as_str()), (Some(5), Some("stdout")));
}

#[test]
fn run_leaves_no_agent_behind_when_nobody_reads() {
    let world = World::up();
    let binary = assert_cmd::cargo::cargo_bin!("ostler");
    let script = format!("{} run -- sh -c 'while echo y; do sleep 0.01; done' | head -n 1", binary.display());
    let mut shell = world.program("sh".as_ref());
    shell.args(["-c", &script]);
    let output = shell.stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "y\n");
    assert_eq!(world.json(&["ps", "-a"])[0]["agents"], serde_json::json!([]));
}
