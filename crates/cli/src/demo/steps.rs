//! The seven steps of the demo, in order.

use std::time::Duration;

use ostler_supervise::platform::Identity;
use ostler_wire::{
    AgentId, AgentState, ControlReply, InputMessage, InputReply, JsonMap, LogEntry, LogsReply, LogsRequest,
    NodeInfo, OutputStream, RestartPolicy, RunId, SpawnReply, SpawnRequest, Subject, Timestamp,
};
use tokio::time::Instant;

use super::agents::{CRASH_CODE, CRASH_WORD, Role, answer};
use super::narrator::Narrator;
use super::stage::Stage;
use super::witness::{PATIENCE, Sight, Witness};
use crate::commands::down;
use crate::connect::Session;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::command_line;

/// Fourteen of the counter's intervals: who still counts cannot hide.
const FROZEN_WATCH: Duration = Duration::from_millis(700);

/// How long the daemon stays dead.
const DAEMON_AWAY: Duration = Duration::from_millis(700);

/// Pause between two requests that wait for a record to grow.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// A spawned agent as first seen.
#[derive(Debug, Clone)]
struct Actor {
    id: AgentId,
    run: RunId,
    process: Identity,
}

/// Everybody on stage.
struct Cast {
    echo: Actor,
    counter: Actor,
    crasher: Actor,
}

pub(super) async fn play(stage: &mut Stage, narrator: &mut Narrator) -> Outcome {
    let session = daemon_starts(stage, narrator).await?;
    let mut witness = Witness::listen(&session).await?;
    let mut cast = agents_start(stage, narrator, &session, &mut witness).await?;
    conversation(narrator, &session, &mut witness, &cast.echo).await?;
    pause_freezes(stage, narrator, &session, &mut witness, &cast.counter).await?;
    crash_is_repaired(stage, narrator, &session, &mut witness, &mut cast.crasher).await?;
    drop((session, witness));
    let session = daemon_is_killed(stage, narrator, &cast).await?;
    clean_end(stage, narrator, session).await
}

async fn daemon_starts(stage: &mut Stage, narrator: &mut Narrator) -> Outcome<Session> {
    narrator.step("A daemon starts, its message bus inside")?;
    let endpoint = stage.start_daemon().await?;
    let ready = narrator.elapsed();
    let session = Session::open(&stage.places).await?;
    let subject = Subject::NodeInfo(session.node.clone());
    let node: NodeInfo = session.request(&subject, &JsonMap::new()).await?;
    narrator.saw(format!("{subject} -> ostler {}, pid {}", node.version, node.pid))?;
    narrator.proved(&format!(
        "any NATS client can reach it at {}; ready after {} ms",
        endpoint.bus_url,
        ready.as_millis()
    ))?;
    Ok(session)
}

async fn agents_start(
    stage: &mut Stage,
    narrator: &mut Narrator,
    session: &Session,
    witness: &mut Witness,
) -> Outcome<Cast> {
    narrator.step("Three agents are spawned by message")?;
    let mut actors = Vec::with_capacity(3);
    for role in [Role::Echo, Role::Counter, Role::Crasher] {
        actors.push(spawn(stage, narrator, session, witness, role).await?);
    }
    narrator.proved("each is a process of its own under a host of its own")?;
    let [echo, counter, crasher] = actors.try_into().expect("three roles make three actors");
    Ok(Cast { echo, counter, crasher })
}

async fn spawn(
    stage: &mut Stage,
    narrator: &mut Narrator,
    session: &Session,
    witness: &mut Witness,
    role: Role,
) -> Outcome<Actor> {
    let id = AgentId::parse(role.name())?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("this program's own file is not known", &error))?;
    let command = vec![program.display().to_string(), "demo-agent".to_owned(), role.name().to_owned()];
    let shown = command_line(&["ostler".to_owned(), command[1].clone(), command[2].clone()], 60);
    let request = SpawnRequest {
        command,
        dir: Some(stage.dir().to_owned()),
        restart: RestartPolicy::OnFailure,
        stop_grace_ms: Some(2000),
        ..SpawnRequest::default()
    };
    let subject = Subject::spawn(&id);
    let reply: SpawnReply = session.request(&subject, &request).await?;
    // From here on it must be gone in the end, whatever comes.
    stage.remember_run(reply.run_id);
    stage.expect_gone(format!("the host of {id}"), reply.host_pid)?;
    narrator.saw(format!("{subject} [{shown}] -> {}", reply.state))?;
    let status = witness
        .status(&id, "the process running", |status| {
            status.state == AgentState::Active && status.pid.is_some()
        })
        .await?;
    let pid = status.pid.unwrap_or_default();
    narrator.saw(format!("{} {}, pid {pid}", Subject::status(&id), status.state))?;
    let process = stage.expect_gone(id.to_string(), pid)?;
    Ok(Actor { id, run: reply.run_id, process })
}

async fn conversation(
    narrator: &mut Narrator,
    session: &Session,
    witness: &mut Witness,
    echo: &Actor,
) -> Outcome {
    narrator.step("A conversation")?;
    for text in ["hello, is anybody there?", "good, goodbye"] {
        let asked = Instant::now();
        say(session, echo, text).await?;
        narrator.saw(format!("{} {text:?}", Subject::input(&echo.id)))?;
        let expected = answer(text).unwrap_or_default();
        let output = witness.line(&echo.id, "an answer", |line| line == expected).await?;
        narrator.saw(format!(
            "{} seq {}: {expected} ({:.1} ms)",
            Subject::output(&echo.id),
            output.seq,
            asked.elapsed().as_secs_f64() * 1000.0
        ))?;
    }
    narrator.proved("what was said reached its stdin, what it printed reached the bus")
}

async fn pause_freezes(
    stage: &Stage,
    narrator: &mut Narrator,
    session: &Session,
    witness: &mut Witness,
    counter: &Actor,
) -> Outcome {
    narrator.step("A pause that really freezes")?;
    let id = &counter.id;
    let before =
        witness.line(id, "a number", |line| line.parse::<u64>().is_ok_and(|number| number >= 5)).await?;
    narrator.saw(format!(
        "{} seq {}: {}",
        Subject::output(id),
        before.seq,
        before.data.unwrap_or_default()
    ))?;

    let reply: ControlReply = session.request(&Subject::pause(id), &JsonMap::new()).await?;
    narrator.saw(format!("{} -> {}", Subject::pause(id), reply.state))?;
    let mut last = before.seq;
    witness
        .until(&format!("{id}: paused"), |sight| match sight {
            Sight::Output(output) if output.agent_id == *id => {
                last = output.seq.max(last);
                None
            }
            Sight::Status(status) => {
                (status.agent_id == *id && status.state == AgentState::Paused).then_some(())
            }
            Sight::Output(_) => None,
        })
        .await?;
    // What was already in the pipe when the freeze began may still come; what comes later is a number too many.
    if let Some(late) = number_within(witness, id, Duration::from_millis(100)).await? {
        last = last.max(late);
    }
    let frozen = frozen(stage, counter)?;
    narrator.saw(format!("pid {}: {frozen}", counter.process.pid))?;
    if let Some(seq) = number_within(witness, id, FROZEN_WATCH).await? {
        return Err(Failure::new(
            Exit::Failed,
            format!("{id} is paused and still said something (seq {seq})"),
        ));
    }
    narrator.saw(format!(
        "{} silent for {} ms after seq {last}",
        Subject::output(id),
        FROZEN_WATCH.as_millis()
    ))?;

    let reply: ControlReply = session.request(&Subject::resume(id), &JsonMap::new()).await?;
    narrator.saw(format!("{} -> {}", Subject::resume(id), reply.state))?;
    let next = witness.line(id, "the next number", |line| line.parse::<u64>().is_ok()).await?;
    if next.seq != last + 1 {
        return Err(Failure::new(Exit::Failed, format!("{id} went on with seq {} after {last}", next.seq)));
    }
    narrator.saw(format!("{} seq {}: {}", Subject::output(id), next.seq, next.data.unwrap_or_default()))?;
    narrator.proved("it stood still and went on with the very next number")
}

/// The last number of an output of the agent within `patience`; `None` when it kept silent.
async fn number_within(witness: &mut Witness, id: &AgentId, patience: Duration) -> Outcome<Option<u64>> {
    let mut last = None;
    let deadline = Instant::now() + patience;
    let output = |sight| match sight {
        Sight::Output(output) if output.agent_id == *id => Some(output.seq),
        _ => None,
    };
    while let Some(seq) = witness.within(deadline.saturating_duration_since(Instant::now()), output).await? {
        last = Some(seq);
    }
    Ok(last)
}

/// What the system says about a paused process, or that it is not frozen.
fn frozen(stage: &Stage, actor: &Actor) -> Outcome<String> {
    let record = stage.host_record(&actor.id, actor.run)?;
    if let Some(cgroup) = &record.cgroup {
        let events = std::fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|line| line == "frozen 1") {
            return Ok("its control group says frozen".to_owned());
        }
    }
    let state = process_state(actor.process.pid)?;
    match state {
        'T' | 't' => Ok(format!("stopped by the system (state {state})")),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{} is paused, its process is in state {state}", actor.id),
        )),
    }
}

/// The letter of the process's state, as `ps` shows it.
fn process_state(pid: u32) -> Outcome<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| Failure::io(format!("process {pid} cannot be looked at"), &error))?;
    // The name in parentheses may hold anything, so the state is what follows the last one.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.ok_or_else(|| Failure::new(Exit::Failed, format!("/proc/{pid}/stat is not understood")))
}

async fn crash_is_repaired(
    stage: &mut Stage,
    narrator: &mut Narrator,
    session: &Session,
    witness: &mut Witness,
    crasher: &mut Actor,
) -> Outcome {
    narrator.step("A crash and its restart")?;
    let id = crasher.id.clone();
    say(session, crasher, CRASH_WORD).await?;
    narrator.saw(format!("{} {CRASH_WORD:?}", Subject::input(&id)))?;
    let ended = witness
        .status(&id, "its crash", |status| status.exit.is_some_and(|exit| exit.code == Some(CRASH_CODE)))
        .await?;
    narrator.saw(format!("{} {}, exit code {CRASH_CODE}", Subject::status(&id), ended.state))?;
    let old = crasher.process;
    let again = if ended.state == AgentState::Active && ended.pid != Some(old.pid) {
        ended
    } else {
        witness
            .status(&id, "its restart", |status| {
                status.state == AgentState::Active && status.pid.is_some_and(|pid| pid != old.pid)
            })
            .await?
    };
    let pid = again.pid.unwrap_or_default();
    narrator.saw(format!(
        "{} {}, pid {pid}, restarts {}",
        Subject::status(&id),
        again.state,
        again.restarts
    ))?;
    if again.restarts != 1 || old.is_alive() {
        let text = format!(
            "after one crash {id} reports {} restarts; pid {} is alive: {}",
            again.restarts,
            old.pid,
            old.is_alive()
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    crasher.process = stage.expect_gone(format!("{id}, restarted"), pid)?;
    narrator.proved("a new process took its place, by the agent's restart policy")
}

async fn daemon_is_killed(stage: &mut Stage, narrator: &mut Narrator, cast: &Cast) -> Outcome<Session> {
    narrator.step("kill -9 of the daemon; the agents carry on")?;
    let killed_at = Timestamp::now();
    let pid = stage.kill_daemon().await?;
    narrator.saw(format!("SIGKILL to the daemon (pid {pid}); the bus is gone"))?;
    let written_before = bytes_written(cast.counter.process.pid);
    tokio::time::sleep(DAEMON_AWAY).await;
    let actors = [&cast.echo, &cast.counter, &cast.crasher];
    if let Some(dead) = actors.iter().find(|actor| !actor.process.is_alive()) {
        return Err(Failure::new(Exit::Failed, format!("{} died with the daemon", dead.id)));
    }
    let written =
        bytes_written(cast.counter.process.pid).zip(written_before).map(|(now, before)| now - before);
    let written =
        written.map(|bytes| format!("; {} wrote {bytes} more bytes", cast.counter.id)).unwrap_or_default();
    narrator
        .saw(format!("{} ms without a daemon: all three processes live{written}", DAEMON_AWAY.as_millis()))?;

    let endpoint = stage.start_daemon().await?;
    let restarted_at = Timestamp::now();
    narrator.saw(format!("a new daemon is ready (pid {})", endpoint.pid))?;
    let session = Session::open(&stage.places).await?;
    adopted(&session, &actors).await?;
    let subject = Subject::NodeAgents(session.node.clone());
    let pids = actors.map(|actor| format!("{} {}", actor.id, actor.process.pid)).join(", ");
    narrator.saw(format!("{subject} -> the same processes: {pids}"))?;

    let record = complete_record(&session, &cast.counter, restarted_at).await?;
    let away =
        record.iter().filter(|entry| (killed_at..restarted_at).contains(&entry.output.timestamp)).count();
    if away == 0 {
        return Err(Failure::new(
            Exit::Failed,
            "nothing the counter said while the daemon was away is recorded",
        ));
    }
    narrator.saw(format!(
        "{} seq 1 to {} without a gap, {away} of them from the time without a daemon",
        Subject::logs(&cast.counter.id),
        record.len()
    ))?;
    narrator.proved("the new daemon took the agents over, and not one line is missing")?;
    Ok(session)
}

/// Waits until the new daemon knows every agent as live, with the process it had before.
async fn adopted(session: &Session, actors: &[&Actor]) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let agents = session.agents().await?.agents;
        let is_adopted = |actor: &&Actor| {
            agents.iter().any(|agent| {
                agent.agent_id == actor.id
                    && agent.state == AgentState::Active
                    && agent.pid == Some(actor.process.pid)
                    && agent.run_id == Some(actor.run)
            })
        };
        if actors.iter().all(is_adopted) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(Exit::Failed, "the new daemon did not take the agents over"));
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// Waits until something said after `until` is recorded, and checks that every number up to it is there.
async fn complete_record(session: &Session, actor: &Actor, until: Timestamp) -> Outcome<Vec<LogEntry>> {
    let deadline = Instant::now() + PATIENCE;
    let mut record: Vec<LogEntry> = Vec::new();
    loop {
        let after = record.last().map(|entry| entry.position);
        let request = LogsRequest { after, limit: Some(1000), ..LogsRequest::default() };
        let page: LogsReply = session.request(&Subject::logs(&actor.id), &request).await?;
        record.extend(page.entries);
        if record.last().is_some_and(|entry| entry.output.timestamp > until) {
            break;
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(Exit::Failed, format!("nothing new of {} is recorded", actor.id)));
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
    gapless(&record)?;
    Ok(record)
}

/// Each output once, numbered from 1; each line the number it must be.
fn gapless(record: &[LogEntry]) -> Outcome {
    let mut number = 0;
    for (entry, seq) in record.iter().zip(1..) {
        let output = &entry.output;
        if output.seq != seq {
            return Err(Failure::new(
                Exit::Failed,
                format!("the record has seq {} where {seq} belongs", output.seq),
            ));
        }
        if output.stream == OutputStream::Stdout {
            number += 1;
            if output.data.as_deref() != Some(number.to_string().as_str()) {
                let text = format!("the record has line {:?} where {number} belongs", output.data);
                return Err(Failure::new(Exit::Failed, text));
            }
        }
    }
    Ok(())
}

/// What a process has written so far, where the system tells.
fn bytes_written(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).and_then(|bytes| bytes.parse().ok())
}

async fn clean_end(stage: &Stage, narrator: &mut Narrator, session: Session) -> Outcome {
    narrator.step("A clean end")?;
    let subject = Subject::NodeDown(session.node.clone());
    let reply = down::end(&session, false, PATIENCE).await?;
    narrator.saw(format!("{subject} -> {} agents stopped", reply.stopped))?;
    drop(session);
    stage.daemon_gone().await?;
    let looked_for = stage.nothing_left().await?;
    narrator.saw(format!(
        "{looked_for} processes looked for, none found; no process carries a mark of the demo"
    ))?;
    narrator.proved("no process is left")
}

/// One line to an agent, delivered.
async fn say(session: &Session, actor: &Actor, text: &str) -> Outcome {
    let reply: InputReply = session.request(&Subject::input(&actor.id), &InputMessage::prompt(text)).await?;
    if reply.delivered {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{} did not get its input", actor.id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(lines: &[(u64, &str)]) -> Vec<LogEntry> {
        let entry = |(seq, data): &(u64, &str)| {
            serde_json::from_value(json!({
                "position": seq, "agent_id": "counter", "run_id": "01890000-0000-7000-8000-000000000000",
                "seq": seq, "stream": "stdout", "data": data, "timestamp": "2026-11-20T22:00:00Z",
            }))
            .unwrap()
        };
        lines.iter().map(entry).collect()
    }

    #[test]
    fn a_record_with_a_gap_or_a_doubled_line_is_found_out() {
        assert!(gapless(&record(&[(1, "1"), (2, "2"), (3, "3")])).is_ok());
        assert!(gapless(&record(&[(1, "1"), (3, "3")])).is_err());
        assert!(gapless(&record(&[(1, "1"), (2, "1")])).is_err());
        assert!(gapless(&record(&[(2, "1")])).is_err());
    }

    #[test]
    fn the_state_of_a_process_is_the_letter_behind_its_name() {
        assert!(matches!(process_state(std::process::id()).unwrap(), 'R' | 'S'));
    }
}
