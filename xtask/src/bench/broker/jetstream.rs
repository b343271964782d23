//! Our JetStream beside nats-server's: streams in files of each durability, loaded over raw sockets in turns. What is
//! published, read and kept is in the files below.
//!
//! nats-server acknowledges a message when it was written, and syncs every two minutes; `sync_interval: always` makes
//! it sync each one. Ours is compared in the same class and, where it promises more, with the weaker one too. Publishers
//! have 500 messages in flight, and who reads keys as many questions.

mod client;
mod consume;
mod keep;
mod publish;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use self::consume::Acks;
use self::publish::Load;
use super::latency::Awake;
use super::process::{Access, Launcher, Server};
use super::report::{self, Row, Target};
use super::statistics::Better;
use super::{OURS, THEIRS, facts, process, program};
use crate::bench::JetStreamOptions as Options;

/// What can be measured, by its name on the command line.
pub(super) const NAMES: [&str; 10] =
    ["publish", "sync", "fetch", "push", "put", "get", "recovery", "memory", "lost", "consumers"];

/// Measures and prints.
pub(in crate::bench) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    process::end_servers_on_signal()?;
    let version = process::version(&options.against)?;
    for name in &options.only {
        ensure!(NAMES.contains(&&**name), "there is no {name:?}; there are {}", NAMES.join(", "));
    }
    let bench = Bench::new(root, options);
    let mut rows = Vec::new();
    for (name, measure) in [
        ("publish", Bench::publish as fn(&Bench) -> anyhow::Result<Vec<Row>>),
        ("sync", Bench::sync),
        ("fetch", Bench::fetch),
        ("push", Bench::push),
        ("put", Bench::put),
        ("get", Bench::get),
        ("consumers", Bench::consumers),
        ("recovery", Bench::recovery),
        ("memory", Bench::memory),
        ("lost", Bench::lost),
    ] {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            rows.extend(measure(&bench)?);
        }
    }
    let facts = facts(&version, options.open, options.rounds)?;
    println!("{}\n", facts["text"].as_str().unwrap_or_default());
    println!("{}", report::table(OURS, THEIRS, &rows));
    report::conclude(&facts, &rows, options.json.as_deref())
}

/// What a stream promises. Both servers are asked for the same: nats-server does not know the key in the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Group,
    Process,
    Memory,
}

impl Class {
    fn stream(self) -> Value {
        match self {
            Self::Group => json!({ "metadata": { "ostler.durability": "group" } }),
            Self::Process => json!({ "metadata": { "ostler.durability": "process" } }),
            Self::Memory => json!({ "storage": "memory" }),
        }
    }

    /// With one message per subject, to be read key by key.
    fn bucket(self) -> Value {
        let mut stream = self.stream();
        stream["max_msgs_per_subject"] = 1.into();
        stream["allow_direct"] = true.into();
        stream
    }
}

/// How one run went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    count: u64,
    taken: Duration,
    cpu: Duration,
    /// Messages per second.
    rate: f64,
}

impl Flow {
    fn new(count: u64, taken: Duration, cpu: Duration) -> Self {
        Self { count, taken, cpu, rate: count as f64 / taken.as_secs_f64() }
    }

    /// Looks at a server while it is loaded with so many messages.
    fn measure(
        server: &Server,
        count: u64,
        load: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let (before, started) = (server.cpu()?, Instant::now());
        load()?;
        let taken = started.elapsed();
        Ok(Self::new(count, taken, server.cpu()?.saturating_sub(before)))
    }

    fn and(self, other: &Self) -> Self {
        Self::new(self.count + other.count, self.taken + other.taken, self.cpu + other.cpu)
    }

    fn seconds(self) -> f64 {
        self.taken.as_secs_f64()
    }

    /// Microseconds of the server's processor time for each message.
    fn cpu(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }
}

/// Publishes of a sample of latency.
const TRIPS: usize = 5_000;
/// Of a server that syncs each one.
const TRIPS_SYNCED: usize = 1_000;

struct Bench {
    ours: Launcher,
    theirs: Launcher,
    /// `sync_interval: always`.
    theirs_always: Launcher,
    rounds: u32,
    seconds: f64,
}

impl Bench {
    fn new(root: &Path, options: &Options) -> Self {
        let launcher = |name: &str, program: &Path, more: &str| Launcher {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            access: if options.open { Access::Open } else { Access::Closed },
            jetstream: Some(more.to_owned()),
        };
        let ours = options.ours.clone().unwrap_or_else(|| program(root));
        Self {
            ours: launcher(OURS, &ours, ""),
            theirs: launcher(THEIRS, &options.against, ""),
            theirs_always: launcher("nats, sync always", &options.against, "sync_interval: always"),
            rounds: options.rounds,
            seconds: options.seconds,
        }
    }

    /// Runs both sides once per round, and books throughput and processor time.
    fn flows(
        &self,
        figure: &str,
        target: Target,
        mut ours: impl FnMut() -> anyhow::Result<Flow>,
        mut theirs: impl FnMut() -> anyhow::Result<Flow>,
    ) -> anyhow::Result<Vec<Row>> {
        let mut rate = Row::new(figure, "k/s", Better::Higher, target);
        let mut cpu = Row::new("  server CPU per message", "us", Better::Lower, Target::None);
        for round in 1..=self.rounds {
            eprintln!("bench: {figure}: round {round} of {}", self.rounds);
            let ours = ours().with_context(|| format!("{figure}: {OURS}"))?;
            let theirs = theirs().with_context(|| format!("{figure}: {THEIRS}"))?;
            rate.push(ours.rate / 1e3, theirs.rate / 1e3);
            cpu.push(ours.cpu(), theirs.cpu());
        }
        Ok(vec![rate, cpu])
    }

    fn publish(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = (self.ours.start()?, self.theirs.start()?);
        let always = self.theirs_always.start()?;
        let mut rows = Vec::new();
        for payload in [16, 128, 1024] {
            let load = Load::new(payload);
            // Kilobytes are the disk's and the kernel's work for both.
            let wanted = |times| if payload <= 128 { Target::Times(times) } else { Target::None };
            let run = |server, class: Class| publish::run(server, load, &class.stream(), self.seconds);
            let words = format!("publish {payload} B");
            for (class, name, target) in [
                (Class::Process, "process", wanted(3.0)),
                (Class::Group, "group, theirs unsynced", wanted(1.5)),
                (Class::Memory, "memory", Target::None),
            ] {
                let figure = format!("{words}: {name}");
                let their_class = if class == Class::Memory { class } else { Class::Process };
                rows.extend(self.flows(
                    &figure,
                    target,
                    || run(&ours, class),
                    || run(&theirs, their_class),
                )?);
            }
            let figure = format!("{words}: group, theirs synced");
            rows.extend(self.flows(
                &figure,
                wanted(30.0),
                || run(&ours, Class::Group),
                || run(&always, Class::Process),
            )?);
        }
        Ok(rows)
    }

    fn sync(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = (self.ours.start()?, self.theirs.start()?);
        let always = self.theirs_always.start()?;
        let mut rows = Vec::new();
        for (class, their_server, words, target, trips) in [
            (Class::Process, &theirs, "process", 1.3, TRIPS),
            (Class::Group, &always, "group, theirs synced", 1.0, TRIPS_SYNCED),
        ] {
            let figure = format!("publish singly: {words}");
            let mut p50 = Row::new(format!("{figure}: p50"), "us", Better::Lower, Target::Times(target));
            let mut p99 = Row::new("  p99", "us", Better::Lower, Target::None);
            for round in 1..=self.rounds {
                eprintln!("bench: {figure}: round {round} of {}", self.rounds);
                let _awake = Awake::new();
                let ours = publish::latency(&ours, 128, &class.stream(), trips).context(OURS)?;
                let theirs = publish::latency(their_server, 128, &class.stream(), trips).context(THEIRS)?;
                p50.push(ours.p50, theirs.p50);
                p99.push(ours.p99, theirs.p99);
            }
            rows.extend([p50, p99]);
        }
        Ok(rows)
    }

    /// Both servers with a stream of so many messages of 128 bytes.
    fn filled(&self, count: u64) -> anyhow::Result<(Server, Server)> {
        let (ours, theirs) = (self.ours.start()?, self.theirs.start()?);
        for server in [&ours, &theirs] {
            publish::run_counted(server, Load::new(128), &Class::Process.stream(), count)?;
        }
        Ok((ours, theirs))
    }

    fn fetch(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = self.filled(READ)?;
        let mut rows = Vec::new();
        for (acks, words) in [(Acks::None, "not acknowledged"), (Acks::Explicit, "each acknowledged")] {
            rows.extend(self.flows(
                &format!("fetch 500 at a time, 128 B: {words}"),
                Target::Times(2.0),
                || consume::fetch(&ours, acks, self.seconds),
                || consume::fetch(&theirs, acks, self.seconds),
            )?);
        }
        Ok(rows)
    }

    fn push(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = self.filled(READ)?;
        self.flows(
            "pushed in order, 128 B",
            Target::None,
            || consume::push(&ours, self.seconds),
            || consume::push(&theirs, self.seconds),
        )
    }

    fn put(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = (self.ours.start()?, self.theirs.start()?);
        let load = Load::new(128).with_subjects(consume::KEYS);
        let run = |server, class: Class| publish::run(server, load, &class.bucket(), self.seconds);
        let mut rows = Vec::new();
        for (class, words) in [(Class::Process, "process"), (Class::Group, "group, theirs unsynced")] {
            let figure = format!("put a key, 128 B: {words}");
            // A key that is replaced leaves one message: the stream's count is that of keys.
            rows.extend(self.flows(&figure, Target::None, || run(&ours, class), || run(&theirs, class))?);
        }
        Ok(rows)
    }

    fn get(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = (self.ours.start()?, self.theirs.start()?);
        let load = Load::new(128).with_subjects(consume::KEYS);
        for server in [&ours, &theirs] {
            publish::run_counted(server, load, &Class::Process.bucket(), consume::KEYS)?;
        }
        self.flows(
            "get a key, 128 B",
            Target::None,
            || consume::get(&ours, publish::SUBJECTS, self.seconds),
            || consume::get(&theirs, publish::SUBJECTS, self.seconds),
        )
    }

    /// What a hundred consumers that want other subjects cost a publisher.
    fn consumers(&self) -> anyhow::Result<Vec<Row>> {
        let (ours, theirs) = (self.ours.start()?, self.theirs.start()?);
        let load = Load::new(128).with_consumers(100);
        let run = |server| publish::run(server, load, &Class::Process.stream(), self.seconds);
        self.flows(
            "publish beside 100 consumers, 128 B: process",
            Target::None,
            || run(&ours),
            || run(&theirs),
        )
    }

    fn recovery(&self) -> anyhow::Result<Vec<Row>> {
        let lower = |figure: &str, unit, target| Row::new(figure, unit, Better::Lower, target);
        let mut rows = [
            lower("start with 1 M messages after an orderly end", "ms", Target::Times(1.0)),
            lower("start with 1 M messages after kill -9", "ms", Target::Times(1.0)),
            lower("disk per message of 128 B", "bytes", Target::Times(1.0)),
        ];
        for round in 1..=self.rounds {
            eprintln!("bench: recovery: round {round} of {}", self.rounds);
            let stream = Class::Process.stream();
            let ours = keep::recovery(&self.ours, &stream).context(OURS)?;
            let theirs = keep::recovery(&self.theirs, &stream).context(THEIRS)?;
            for (row, of) in rows.iter_mut().zip([
                |kept: &keep::Kept| kept.orderly,
                |kept: &keep::Kept| kept.killed,
                |kept: &keep::Kept| kept.disk,
            ]) {
                row.push(of(&ours), of(&theirs));
            }
        }
        Ok(rows.into())
    }

    fn memory(&self) -> anyhow::Result<Vec<Row>> {
        let figure = format!("memory with 1 M messages, {} subjects", keep::SPREAD);
        let mut row = Row::new(figure, "MB", Better::Lower, Target::Times(2.0));
        for round in 1..=self.rounds {
            eprintln!("bench: memory: round {round} of {}", self.rounds);
            let stream = Class::Process.stream();
            let ours = keep::memory(&self.ours, &stream).context(OURS)?;
            row.push(ours / 1e6, keep::memory(&self.theirs, &stream).context(THEIRS)? / 1e6);
        }
        Ok(vec![row])
    }

    fn lost(&self) -> anyhow::Result<Vec<Row>> {
        let figure = "acknowledged and lost by kill -9";
        let mut row = Row::new(figure, "msgs", Better::Lower, Target::AtMost(0.0));
        for round in 1..=self.rounds {
            for class in [Class::Process, Class::Group] {
                eprintln!("bench: kill -9, {class:?}: round {round} of {}", self.rounds);
                let ours = keep::lost(&self.ours, &class.stream()).context(OURS)?;
                row.push(ours, keep::lost(&self.theirs, &class.stream()).context(THEIRS)?);
            }
        }
        Ok(vec![row])
    }
}

/// Messages that are read back.
const READ: u64 = 500_000;
