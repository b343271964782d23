//! The guard with real processes: whoever is killed, nothing of the tree goes on. The example `guarded` is the host.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use ostler_supervise::platform;
use support::{LEAVE_HIDDEN_ORPHAN, LEAVE_ORPHAN, PATIENCE, cgroups, is_running, unique};

/// What is promised for the end of everything after a kill.
const PROMISED: Duration = Duration::from_secs(1);

#[test]
fn kill_9_of_the_host_ends_everything_within_a_second() {
    for cgroup in cgroups() {
        let mut run = Run::start(cgroup.clone(), &format!("{LEAVE_HIDDEN_ORPHAN} sleep 1000"));
        let (orphan, leader) = (run.orphan(), run.leader());
        kill(run.host, "KILL");
        let asked = Instant::now();
        run.gone(&[orphan, leader]);
        assert!(asked.elapsed() < PROMISED, "it took {:?}", asked.elapsed());
        assert_eq!(run.status().code(), Some(128 + 9));
        assert!(cgroup.is_none_or(|dir| !dir.exists()));
    }
}

#[test]
fn kill_9_of_the_host_ends_a_paused_tree_too() {
    for cgroup in cgroups() {
        let mut run = Run::start(cgroup, &format!("{LEAVE_HIDDEN_ORPHAN} sleep 1000"));
        let (orphan, leader) = (run.orphan(), run.leader());
        run.ask("pause");
        run.line("pause granted");
        kill(run.host, "KILL");
        run.gone(&[orphan, leader]);
        run.status();
    }
}

#[test]
fn kill_9_of_the_guard_makes_the_host_end_everything() {
    for cgroup in cgroups() {
        let mut run = Run::start(cgroup, &format!("{LEAVE_ORPHAN} sleep 1000"));
        let (orphan, leader) = (run.orphan(), run.leader());
        kill(run.guard, "KILL");
        let asked = Instant::now();
        run.line("guard lost");
        run.gone(&[orphan, leader, run.host]);
        assert!(asked.elapsed() < PROMISED, "it took {:?}", asked.elapsed());
    }
}

#[test]
fn kill_9_of_host_and_guard_ends_the_leader_and_a_sweep_the_rest() {
    let mut run = Run::start(None, &format!("{LEAVE_ORPHAN} sleep 1000"));
    let (orphan, leader) = (run.orphan(), run.leader());
    // The guard first, stopped so that neither can do anything for the other.
    kill(run.host, "STOP");
    kill(run.guard, "KILL");
    kill(run.host, "KILL");
    run.gone(&[leader]);
    assert!(is_running(orphan));
    let killed = platform::sweep(&run.marker).expect("processes can be listed");
    assert!(killed.contains(&orphan), "{killed:?}");
    assert!(!is_running(orphan));
    assert_eq!(platform::sweep(&run.marker).expect("processes can be listed"), Vec::<u32>::new());
}

#[test]
fn a_hidden_orphan_is_gone_after_stop_kill_crash_and_restart() {
    for cgroup in cgroups() {
        for request in ["stop", "kill", "restart"] {
            let mut run = Run::start(cgroup.clone(), &format!("{LEAVE_HIDDEN_ORPHAN} sleep 1000"));
            let orphan = run.orphan();
            run.ask(request);
            run.line("ended: ");
            assert!(!is_running(orphan), "the end was told too early ({request}, {cgroup:?})");
            run.ask("kill");
            run.status();
        }
        let mut run = Run::start(cgroup.clone(), &format!("{LEAVE_HIDDEN_ORPHAN} exit 3"));
        let orphan = run.line("| left ").parse().expect("a process id");
        run.line("ended: exit code 3");
        assert!(!is_running(orphan), "the end was told too early ({cgroup:?})");
        run.ask("kill");
        run.status();
    }
}

#[test]
fn the_guard_ends_with_the_status_of_its_host() {
    let mut run = Run::start(None, "exec sleep 1000");
    run.leader();
    run.ask("stop");
    assert_eq!(run.status().code(), Some(128 + 15));
}

#[test]
fn sigterm_to_the_guard_reaches_the_host_and_what_a_terminal_sends_does_not() {
    let mut run = Run::start(None, &format!("{LEAVE_HIDDEN_ORPHAN} sleep 1000"));
    let (orphan, leader) = (run.orphan(), run.leader());
    for signal in ["HUP", "INT", "QUIT"] {
        kill(run.guard, signal);
    }
    run.ask("pause");
    run.line("pause granted");
    // This host leaves SIGTERM at its default, so it ends and the guard clears away.
    kill(run.guard, "TERM");
    run.gone(&[orphan, leader, run.host]);
    assert_eq!(run.status().code(), Some(128 + 15));
}

#[test]
fn the_guard_reaps_orphans() {
    let mut run = Run::start(
        None,
        "for i in 1 2 3 4 5 6 7 8 9; do setsid sh -c 'true & exit' & done; wait; echo done; sleep 1000",
    );
    run.line("| done");
    let guard = run.guard.to_string();
    let deadline = Instant::now() + PATIENCE;
    while zombies_of(&guard) > 0 {
        assert!(Instant::now() < deadline, "zombies stay");
        std::thread::yield_now();
    }
    run.ask("kill");
    run.status();
}

#[test]
fn a_guard_after_other_threads_have_started_is_refused() {
    let error = ostler_supervise::guard::enter(Default::default()).expect_err("the test harness has threads");
    assert!(error.to_string().contains("before other threads start"), "{error}");
}

/// One run of the example.
struct Run {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    seen: Vec<String>,
    guard: u32,
    host: u32,
    marker: String,
}

impl Run {
    fn start(cgroup: Option<PathBuf>, script: &str) -> Run {
        let marker = unique("guarded");
        let cgroup = cgroup.map_or("none".into(), PathBuf::into_os_string);
        let mut child = Command::new(example())
            .arg(&marker)
            .arg(cgroup)
            .args(["/bin/sh", "-c", script])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (line_tx, lines) = sync_channel(64);
        // Ends with the run: when host and guard are gone the pipe is.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line_tx.send(line).is_err() {
                    return;
                }
            }
        });
        let mut run = Run { child, stdin, lines, seen: Vec::new(), guard: 0, host: 0, marker };
        let pids = run.line("guard ");
        let (guard, host) = pids.split_once(" host ").expect("both");
        run.guard = guard.parse().expect("a process id");
        run.host = host.parse().expect("a process id");
        assert_eq!(run.guard, run.child.id());
        run
    }

    /// Waits for a line that starts so and returns its rest.
    fn line(&mut self, start: &str) -> String {
        loop {
            if let Some(found) = self.seen.iter().position(|line| line.starts_with(start)) {
                return self.seen.remove(found)[start.len()..].trim().to_owned();
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no line `{start}...`: {error}; seen: {:?}", self.seen),
            }
        }
    }

    fn orphan(&mut self) -> u32 {
        let pid = self.line("| left ").parse().expect("a process id");
        assert!(is_running(pid));
        pid
    }

    fn leader(&mut self) -> u32 {
        self.line("state active pid ").parse().expect("a process id")
    }

    fn ask(&mut self, request: &str) {
        // A run that is over already reads nothing; what follows tells.
        let _ = writeln!(self.stdin, "{request}");
    }

    /// Waits until none of these run.
    fn gone(&self, pids: &[u32]) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(pid) = pids.iter().find(|pid| is_running(**pid)) {
            assert!(Instant::now() < deadline, "process {pid} goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn status(&mut self) -> ExitStatus {
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Run {
    /// A failed test leaves nothing behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = platform::sweep(&self.marker);
            kill(self.host, "KILL");
            let _ = self.child.wait();
        }
    }
}

/// Cargo builds the examples beside the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("we run");
    let path = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join("examples/guarded");
    assert!(path.exists(), "build it first: cargo build -p ostler-supervise --example guarded");
    path
}

fn kill(pid: u32, signal: &str) {
    // Gone already is fine.
    let _ =
        Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

fn zombies_of(parent: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("proc is there").flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {parent} ")))
        })
        .count()
}
