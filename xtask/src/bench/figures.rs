//! The measurements themselves.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use ostler_client::Subscription;
use ostler_wire::{
    AgentId, AgentState, HOST_FILE, HostRecord, InputMessage, OutputMessage, StatusMessage, Subject,
};

use super::Name;
use super::agent::now;
use super::daemon::{Daemon, next};
use super::table::{Goal, Row, Unit};

/// Inputs of one round of [`Name::Input`]: one alone would mostly measure a core that wakes up.
const INPUTS_PER_ROUND: u32 = 20;

/// Measures what `wants` says, in the order of the table.
pub(super) async fn measure(
    binary: &Path,
    rounds: u32,
    wants: impl Fn(Name) -> bool,
) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if wants(Name::Start) || wants(Name::Memory) {
        rows.extend(idle(binary, rounds, wants(Name::Start), wants(Name::Memory)).await?);
    }
    if wants(Name::Spawn) || wants(Name::ExitStatus) {
        rows.extend(life(binary, rounds, wants(Name::Spawn), wants(Name::ExitStatus)).await?);
    }
    if wants(Name::Input) {
        rows.push(input(binary, rounds).await?);
    }
    if wants(Name::Size) {
        let bytes = binary.metadata().with_context(|| format!("no {}", binary.display()))?.len();
        rows.push(Row::new("release binary, stripped", Goal::Below(20.0), Unit::Megabytes, vec![bytes]));
    }
    Ok(rows)
}

/// A fresh daemon each round: how soon it is ready, and what it holds with one agent that does nothing.
async fn idle(binary: &Path, rounds: u32, start: bool, memory: bool) -> anyhow::Result<Vec<Row>> {
    let agent = AgentId::parse("idle").expect("the literal follows the rule");
    let (mut ready, mut daemon_rss, mut host_private, mut guard_private) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let daemon = Daemon::start(binary).await?;
        ready.push(u64::try_from(daemon.ready_after.as_nanos())?);
        if memory {
            daemon_rss.push(kilobytes(daemon.pid(), "status", &["VmRSS"])? * 1024);
            let mut states = daemon.client.subscribe(Subject::status(&agent).to_string()).await?;
            daemon.client.flush().await?;
            let reply = daemon.spawn(&agent, &["cat"]).await?;
            next(&mut states, |message| {
                let status: StatusMessage = message.json().ok()?;
                (status.state == AgentState::Active).then_some(())
            })
            .await?;
            let record: HostRecord =
                serde_json::from_slice(&std::fs::read(daemon.run_dir(&agent, &reply).join(HOST_FILE))?)?;
            let private = |pid| kilobytes(pid, "smaps_rollup", &["Private_Clean", "Private_Dirty"]);
            host_private.push(private(record.host.pid)? * 1024);
            guard_private.push(private(record.guard.pid)? * 1024);
        }
        daemon.end().await?;
    }
    let mut rows = Vec::new();
    if start {
        rows.push(Row::new("daemon start to ready", Goal::Below(50.0), Unit::Milliseconds, ready));
    }
    if memory {
        rows.push(Row::new("daemon, resident", Goal::Below(25.0), Unit::Megabytes, daemon_rss));
        rows.push(Row::new("host, private", Goal::Below(3.0), Unit::Megabytes, host_private));
        rows.push(Row::new("guard, private", Goal::None, Unit::Megabytes, guard_private));
    }
    Ok(rows)
}

/// An agent that prints when it starts and when it ends, beside the same program started by hand.
async fn life(binary: &Path, rounds: u32, spawn: bool, exit: bool) -> anyhow::Result<Vec<Row>> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is no UTF-8")?;
    let daemon = Daemon::start(binary).await?;
    let mut output = daemon.client.subscribe("agent.*.output").await?;
    let mut states = daemon.client.subscribe("agent.*.status").await?;
    daemon.client.flush().await?;
    let (mut running, mut plain, mut announced) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let asked = now();
        let by_hand = Command::new(program).args(["bench-agent", "stamp"]).stdin(Stdio::null()).output()?;
        let started: u64 = String::from_utf8(by_hand.stdout)?.lines().next().context("no stamp")?.parse()?;
        plain.push(started - asked);

        let agent = AgentId::parse(&format!("stamp-{round}"))?;
        let asked = now();
        daemon.spawn(&agent, &[program, "bench-agent", "stamp"]).await?;
        let started = stamp(&mut output, &agent, 1).await?;
        let ended = stamp(&mut output, &agent, 2).await?;
        let told = next(&mut states, |message| {
            let at = now();
            let status: StatusMessage = message.json().ok()?;
            (status.agent_id == agent && status.state == AgentState::Terminated).then_some(at)
        })
        .await?;
        running.push(started - asked);
        announced.push(told - ended);
        daemon.remove(&agent).await?;
    }
    daemon.end().await?;

    let mut rows = Vec::new();
    if spawn {
        let above = running.iter().zip(&plain).map(|(ours, plain)| ours.saturating_sub(*plain)).collect();
        rows.push(Row::new("spawn request to process running", Goal::None, Unit::Milliseconds, running));
        rows.push(Row::new("  plain fork+exec of the same", Goal::None, Unit::Milliseconds, plain));
        rows.push(Row::new("  above plain fork+exec", Goal::Below(10.0), Unit::Milliseconds, above));
    }
    if exit {
        rows.push(Row::new("exit to status on the bus", Goal::Below(5.0), Unit::Milliseconds, announced));
    }
    Ok(rows)
}

/// An agent that prints when it read a line.
async fn input(binary: &Path, rounds: u32) -> anyhow::Result<Row> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is no UTF-8")?;
    let daemon = Daemon::start(binary).await?;
    let agent = AgentId::parse("echo").expect("the literal follows the rule");
    let mut output = daemon.client.subscribe(Subject::output(&agent).to_string()).await?;
    let mut states = daemon.client.subscribe(Subject::status(&agent).to_string()).await?;
    daemon.client.flush().await?;
    daemon.spawn(&agent, &[program, "bench-agent", "echo"]).await?;
    next(&mut states, |message| {
        let status: StatusMessage = message.json().ok()?;
        (status.state == AgentState::Active).then_some(())
    })
    .await?;
    let mut taken = Vec::new();
    for seq in 1..=u64::from(rounds * INPUTS_PER_ROUND) {
        let sent = now();
        daemon.client.publish(&Subject::input(&agent), &InputMessage::prompt("x")).await?;
        daemon.client.flush().await?;
        taken.push(stamp(&mut output, &agent, seq).await? - sent);
    }
    daemon.remove(&agent).await?;
    daemon.end().await?;
    Ok(Row::new("input message to the agent's stdin", Goal::Below(1.0), Unit::Milliseconds, taken))
}

/// The time an agent printed as its output number `seq`; a host may send an output twice.
async fn stamp(output: &mut Subscription, agent: &AgentId, seq: u64) -> anyhow::Result<u64> {
    next(output, |message| {
        let output: OutputMessage = message.json().ok()?;
        if output.agent_id != *agent || output.seq != seq {
            return None;
        }
        output.data?.parse().ok()
    })
    .await
}

/// The sum of the named lines of a file in `/proc/<pid>`, which counts in kilobytes.
fn kilobytes(pid: u32, file: &str, names: &[&str]) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum())
}
