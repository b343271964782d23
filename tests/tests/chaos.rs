//! Two hundred random kills of everything there is; afterwards the books agree with the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ostler_testkit::process::{self, Process};
use ostler_testkit::{Bus, PATIENCE, TestDaemon, assert_every_gap_is_told, script, wait_for, wait_until};
use ostler_wire::{
    AgentId, AgentState, ListReply, LogEntry, OutputStream, ProcessIdentity, RestartPolicy, RunId,
    SpawnRequest, Subject,
};

const ROUNDS: usize = 200;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// The daemon, and for each agent: guard, host, leader and an orphaned grandchild in a session of its own.
const PROCESSES: usize = 1 + NAMES.len() * 4;

/// Kills at random, and restarts by hand what crashed too often for the policy.
struct Monkey {
    daemon: TestDaemon,
    random: fastrand::Rng,
    kills: BTreeMap<&'static str, usize>,
    /// Every run there ever was; the daemon forgets the directories of old ones.
    runs: BTreeSet<String>,
}

impl Monkey {
    /// Kills one process of one agent, or the daemon.
    fn round(&mut self) {
        self.note_runs();
        let name = NAMES[self.random.usize(0..NAMES.len())];
        let record = self.daemon.host_record(name);
        let (what, victim) = match self.random.u32(0..10) {
            0..4 => ("agent", record.and_then(|record| record.agent)),
            4..7 => ("host", record.map(|record| record.host)),
            7..8 => ("guard", record.map(|record| record.guard)),
            _ => {
                *self.kills.entry("daemon").or_default() += 1;
                self.daemon.kill9();
                return self.daemon.up();
            }
        };
        if let Some(victim) = victim.filter(is_running) {
            *self.kills.entry(what).or_default() += 1;
            process::kill9(victim.pid);
        }
    }

    fn note_runs(&mut self) {
        for name in NAMES {
            let agent = AgentId::parse(name).expect("a proper name");
            let runs = std::fs::read_dir(self.daemon.state().agent(&agent).join("runs"));
            let runs = runs.into_iter().flatten().flatten();
            self.runs.extend(runs.map(|run| run.file_name().to_string_lossy().into_owned()));
        }
    }

    /// Starts again what the policy gave up, as a person would.
    async fn revive(&self, bus: &Bus) {
        for agent in bus.try_agents().await.unwrap_or_default() {
            if !agent.state.is_live() {
                // A refusal means that somebody else started it just now.
                let _ = bus.control(Subject::restart(&agent.agent_id)).await;
            }
        }
    }
}

fn is_running(identity: &ProcessIdentity) -> bool {
    Process::of(identity.pid)
        .is_some_and(|process| process.start_time == identity.start_time && !process.is_zombie())
}

fn seed() -> u64 {
    let given = std::env::var("OSTLER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_hundred_random_kills_the_books_agree_with_the_processes() {
    let seed = seed();
    println!("run it again with OSTLER_TEST_SEED={seed}");
    let daemon = TestDaemon::start();
    let mut monkey = Monkey {
        daemon,
        random: fastrand::Rng::with_seed(seed),
        kills: BTreeMap::new(),
        runs: BTreeSet::new(),
    };
    let bus = monkey.daemon.bus().await;
    for name in NAMES {
        let file = monkey.daemon.scratch().join(format!("{name}.pid"));
        let steps = [&*format!("grandchild:{}", file.display()), "forever:10"];
        bus.spawn_active(name, SpawnRequest { restart: RestartPolicy::Always, ..script(steps) }).await;
    }
    let start = Instant::now();
    for round in 0..ROUNDS {
        monkey.round();
        // The pace of the kills, not a wait for anything: from at once to long enough for a restart.
        tokio::time::sleep(Duration::from_millis(monkey.random.u64(0..200))).await;
        if round % 5 == 0 {
            monkey.revive(&bus).await;
        }
    }
    println!("{ROUNDS} rounds in {:?}: {:?}", start.elapsed(), monkey.kills);

    wait_for("every agent is active", PATIENCE, async || {
        monkey.revive(&bus).await;
        let agents = bus.try_agents().await.ok()?;
        agents.iter().all(|agent| agent.state == AgentState::Active).then_some(())
    })
    .await;
    monkey.note_runs();
    let (daemon, runs) = (monkey.daemon, monkey.runs);
    wait_until("as many processes as there should be", PATIENCE, || daemon.processes().len() == PROCESSES)
        .await;
    check_books(&daemon).await;
    check_no_zombies(&daemon).await;
    println!("the books agree {:?} after the first kill", start.elapsed());

    for name in NAMES {
        let log = bus.log(name).await;
        assert_every_gap_is_told(&log);
        check_lines(&log);
    }
    let cgroups = daemon.host_record("a").and_then(|record| record.cgroup);
    for name in NAMES {
        bus.stop(name).await;
    }
    wait_until("only the daemon is left", PATIENCE, || daemon.processes().len() == 1).await;
    if let Some(parent) = cgroups.as_deref().and_then(std::path::Path::parent) {
        println!("{} runs", runs.len());
        for run in runs {
            let group = parent.join(format!("ostler-{run}"));
            wait_until(&format!("{} is gone", group.display()), PATIENCE, || !group.exists()).await;
        }
    }
}

/// What `ostler ps` lists is what runs: the leaders, their hosts, and nothing of any earlier run.
async fn check_books(daemon: &TestDaemon) {
    let ps = daemon.ostler(["ps", "--json"]);
    assert_eq!(ps.code, Some(0), "{ps:?}");
    let list: ListReply = serde_json::from_str(&ps.stdout).expect("ps prints a list");
    assert_eq!(list.agents.len(), NAMES.len());
    let mut expected: BTreeSet<u32> = BTreeSet::from([daemon.pid()]);
    let mut runs: BTreeMap<RunId, AgentId> = BTreeMap::new();
    for agent in list.agents {
        assert_eq!(agent.state, AgentState::Active, "{agent:?}");
        let record = daemon.host_record(agent.agent_id.as_str()).expect("a live host has a record");
        assert_eq!(agent.run_id, Some(record.run_id));
        assert_eq!(agent.host_pid, Some(record.host.pid));
        assert_eq!(agent.pid, record.agent.map(|leader| leader.pid));
        expected.extend(agent.pid);
        expected.extend([record.host.pid, record.guard.pid]);
        runs.insert(record.run_id, agent.agent_id);
    }
    for process in daemon.processes() {
        let is_grandchild = run_of(process.pid).is_some_and(|run| runs.contains_key(&run));
        assert!(expected.remove(&process.pid) || is_grandchild, "not in the books: {process:?}");
    }
    assert!(expected.is_empty(), "in the books, but no process: {expected:?}");
}

/// The run whose mark a process carries.
fn run_of(pid: u32) -> Option<RunId> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variables = String::from_utf8_lossy(&environment);
    RunId::parse(variables.split('\0').find_map(|variable| variable.strip_prefix("OSTLER_RUN="))?).ok()
}

async fn check_no_zombies(daemon: &TestDaemon) {
    let zombies = || {
        let parents: BTreeSet<u32> = daemon.processes().iter().map(|process| process.pid).collect();
        let all = process::all().into_iter();
        all.filter(|process| process.is_zombie() && parents.contains(&process.parent)).count()
    };
    wait_until("no zombie is left", PATIENCE, || zombies() == 0).await;
}

/// The lines of every process are 1, 2, 3, … up to where it was killed.
fn check_lines(log: &[LogEntry]) {
    let mut last: BTreeMap<(RunId, u64), u64> = BTreeMap::new();
    for output in log.iter().map(|entry| &entry.output).filter(|output| output.stream == OutputStream::Stdout)
    {
        let last = last.entry((output.run_id, output.generation)).or_default();
        *last += 1;
        let line = output.data.as_deref().unwrap_or_default();
        // The last line of a killed process may have been cut off while it was written.
        assert!(
            line == format!("line {last}") || format!("line {last}").starts_with(line),
            "line {last} of run {} start {} is {line:?}",
            output.run_id,
            output.generation
        );
    }
    assert!(last.len() > 1, "there were several processes");
}
