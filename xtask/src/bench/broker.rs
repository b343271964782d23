//! Our server beside nats-server: both as processes of their own, with the same configuration, loaded over raw sockets
//! in turns, in one run.
//!
//! ```text
//! round:  load ours, load theirs, load ours, load theirs ...      a sample of each per round
//! table:  medians, the median of the rounds' ratios, least and best ratio, target
//! ```
//!
//! Sockets are raw because a client library is the bottleneck before a server is. Each message is accounted for: a run
//! with a lost, doubled or misplaced one is an error, not a figure. The load shares the machine with the server; the
//! rows "cores taken by the load" tell how much of it.

mod crowd;
mod flow;
mod frames;
mod in_process;
pub(super) mod jetstream;
mod latency;
mod process;
mod report;
mod shapes;
mod statistics;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::json;

use self::process::{Access, Launcher};
use self::report::{Row, Target};
use self::shapes::Shape;
use self::statistics::Better;
use super::BrokerOptions as Options;
use crate::shell;

/// What our server is called in the table, and the other.
const OURS: &str = "ostler";
const THEIRS: &str = "nats";

/// Measures and prints.
pub(super) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    process::end_servers_on_signal()?;
    let version = process::version(&options.against)?;
    let wanted = Wanted::new(&options.shapes)?;
    let program = options.ours.clone().unwrap_or_else(|| program(root));
    let access = if options.open { Access::Open } else { Access::Closed };
    let launcher = |name: &str, program: &Path, args: &[&str]| Launcher {
        name: name.into(),
        program: program.into(),
        args: args.iter().map(ToString::to_string).collect(),
        access,
        jetstream: None,
    };
    let ours = launcher(OURS, &program, &[]);
    let theirs = launcher(THEIRS, &options.against, &[]);
    let bench = Bench { rounds: options.rounds, seconds: options.seconds };

    let mut rows = bench.flows(&ours, &theirs, &wanted.flows)?;
    if wanted.has("latency") {
        rows.extend(bench.latency(&ours, &theirs)?);
    }
    if wanted.has("crowd") {
        rows.extend(bench.crowd(&ours, &theirs)?);
    }
    if wanted.has("in-process") {
        let example = shell::target_dir(root).join("release/examples").join(super::BROKER_EXAMPLE);
        rows.extend(in_process::measure(&example, options.rounds)?);
    }
    let facts = facts(&version, options.open, options.rounds)?;
    println!("{}\n", facts["text"].as_str().unwrap_or_default());
    println!("{}", report::table(OURS, THEIRS, &rows));
    if wanted.has("shards") {
        let two = launcher("2 shards", &program, &["--shards", "2"]);
        let one = launcher("1 shard", &program, &["--shards", "1"]);
        let some: Vec<_> = shapes::flows().into_iter().filter(|shape| shape.form.payload <= 128).collect();
        let mut compared = bench.flows(&two, &one, &some)?;
        for row in &mut compared {
            row.target = Target::None;
            row.figure.insert_str(0, "shards: ");
        }
        println!("\n{}", report::table("2 shards", "1 shard", &compared));
        rows.extend(compared);
    }
    report::conclude(&facts, &rows, options.json.as_deref())
}

/// What the command line asks for.
struct Wanted {
    flows: Vec<Shape>,
    others: Vec<String>,
}

impl Wanted {
    fn new(names: &[String]) -> anyhow::Result<Self> {
        let all = shapes::flows();
        for name in names {
            let known = all.iter().any(|shape| shape.name == name) || shapes::OTHERS.contains(&name.as_str());
            let every: BTreeSet<_> = all.iter().map(|shape| shape.name).chain(shapes::OTHERS).collect();
            let every: Vec<_> = every.into_iter().collect();
            ensure!(known, "there is no shape {name:?}; there are {}", every.join(", "));
        }
        let flows = all
            .into_iter()
            .filter(|shape| names.is_empty() || names.iter().any(|name| name == shape.name))
            .collect();
        let others =
            if names.is_empty() { shapes::OTHERS.map(String::from).to_vec() } else { names.to_vec() };
        Ok(Self { flows, others })
    }

    fn has(&self, name: &str) -> bool {
        self.others.iter().any(|other| other == name)
    }
}

/// How long and how often.
struct Bench {
    rounds: u32,
    seconds: f64,
}

/// Round trips of a sample.
const TRIPS: usize = 10_000;

impl Bench {
    /// Every shape on one pair of servers, whose memory is looked at in the end.
    fn flows(&self, ours: &Launcher, theirs: &Launcher, shapes: &[Shape]) -> anyhow::Result<Vec<Row>> {
        if shapes.is_empty() {
            return Ok(Vec::new());
        }
        let (our_server, their_server) = (ours.start()?, theirs.start()?);
        let mut rows = Vec::new();
        for shape in shapes {
            let figure = format!("{}, {} B", shape.words, shape.form.payload);
            let cpu_target = shape.cpu.map_or(Target::None, Target::Times);
            let mut delivered = Row::new(&figure, "M/s", Better::Higher, Target::Times(shape.delivered));
            let mut cpu = Row::new("  server CPU per message", "us", Better::Lower, cpu_target);
            let mut load = Row::new("  cores taken by the load", "cores", Better::Lower, Target::None);
            for round in 1..=self.rounds {
                eprintln!("bench: {figure}: round {round} of {}", self.rounds);
                let measure = |launcher: &Launcher, server| {
                    flow::run(server, shape.pattern, shape.form, self.seconds)
                        .with_context(|| format!("{figure}: {}", launcher.name))
                };
                let ours = measure(ours, &our_server)?;
                let theirs = measure(theirs, &their_server)?;
                delivered.push(ours.delivered / 1e6, theirs.delivered / 1e6);
                cpu.push(ours.cpu, theirs.cpu);
                load.push(ours.load, theirs.load);
            }
            rows.extend([delivered, cpu, load]);
        }
        let mut memory = Row::new("memory after all of this", "MB", Better::Lower, Target::None);
        memory.push(our_server.resident()? / 1e6, their_server.resident()? / 1e6);
        rows.push(memory);
        Ok(rows)
    }

    fn latency(&self, ours: &Launcher, theirs: &Launcher) -> anyhow::Result<Vec<Row>> {
        let (our_server, their_server) = (ours.start()?, theirs.start()?);
        let mut rows = Vec::new();
        for (words, awake, targets) in [
            ("cores awake", true, [Target::Times(1.3), Target::Times(1.5)]),
            ("cores asleep", false, [Target::None, Target::None]),
        ] {
            let [p50, p99] = targets;
            let mut p50 = Row::new(format!("request-reply p50, {words}"), "us", Better::Lower, p50);
            let mut p99 = Row::new(format!("request-reply p99, {words}"), "us", Better::Lower, p99);
            for round in 1..=self.rounds {
                eprintln!("bench: request-reply, {words}: round {round} of {}", self.rounds);
                let _awake = awake.then(latency::Awake::new);
                let ours = latency::round_trips(&our_server, TRIPS).context("request-reply: ours")?;
                let theirs = latency::round_trips(&their_server, TRIPS).context("request-reply: theirs")?;
                p50.push(ours.p50, theirs.p50);
                p99.push(ours.p99, theirs.p99);
            }
            rows.extend([p50, p99]);
        }
        Ok(rows)
    }

    fn crowd(&self, ours: &Launcher, theirs: &Launcher) -> anyhow::Result<Vec<Row>> {
        let lower = |figure: &str, unit, target| Row::new(figure, unit, Better::Lower, target);
        let count = crowd::CONNECTIONS;
        let mut rows = [
            lower("start to the first PONG", "ms", Target::Times(2.0)),
            lower("memory when idle", "MB", Target::Times(3.0)),
            lower("memory per connection", "KiB", Target::AtMost(8.0)),
            lower(&format!("{count} idle connections"), "% core", Target::AtMost(0.3)),
            lower(&format!("{count} beating once a second"), "% core", Target::AtMost(5.0)),
        ];
        for round in 1..=self.rounds {
            eprintln!("bench: {count} connections: round {round} of {}", self.rounds);
            // Long enough for a share of a core to mean something.
            let seconds = self.seconds.max(1.0) * 3.0;
            let samples = |launcher| -> anyhow::Result<[f64; 5]> {
                let found = crowd::run(launcher, seconds)?;
                let per_connection = found.per_connection / 1024.0;
                Ok([found.start, found.idle / 1e6, per_connection, found.cpu_idle, found.cpu_beating])
            };
            for (row, (ours, theirs)) in rows.iter_mut().zip(samples(ours)?.into_iter().zip(samples(theirs)?))
            {
                row.push(ours, theirs);
            }
        }
        Ok(rows.into())
    }
}

/// Where and with what this was measured.
fn facts(version: &str, open: bool, rounds: u32) -> anyhow::Result<serde_json::Value> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']).to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = shell::output(Command::new("uname").arg("-sr")).unwrap_or_default().trim().to_owned();
    let date = shell::output(Command::new("date").args(["-u", "+%F %H:%M UTC"]))?.trim().to_owned();
    let ours = env!("CARGO_PKG_VERSION");
    let access = if open { "without authentication" } else { "with password, permissions and limits" };
    let text = format!(
        "{OURS} {ours} beside {version}, {access}; medians of {rounds} rounds, {date}\n{model}, {cores} cores, {kernel}"
    );
    Ok(
        json!({ "text": text, "ours": ours, "theirs": version, "access": access, "rounds": rounds, "date": date,
        "processor": model, "cores": cores, "kernel": kernel, "load": "shares the machine with the server" }),
    )
}

/// Where the release build of our server lies.
fn program(root: &Path) -> PathBuf {
    shell::target_dir(root).join("release/ostler-broker")
}
