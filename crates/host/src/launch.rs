//! From the adapter's words to the supervisor's: how the process is started, watched and ended.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ostler_agents::{Launch, Readiness, StopAction};
use ostler_supervise::platform::Identity;
use ostler_supervise::restart::RestartPolicy;
use ostler_supervise::spec::{CommandSpec, Ready, Signal, Stop, StopStep, UnitSpec};
use ostler_wire::RunSpec;

/// The variable that tells an agent its own name.
pub(crate) const AGENT_ID_VARIABLE: &str = "OSTLER_AGENT_ID";

/// The longest line that travels whole, in bytes. Escaped control characters make six bytes of one, and the message must
/// fit the 8 MiB that the bus carries.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// The whole specification of the run's unit.
pub(crate) fn unit_spec(spec: &RunSpec, launch: &Launch, guard: Identity) -> UnitSpec {
    UnitSpec {
        restart: match spec.spawn.restart {
            ostler_wire::RestartPolicy::Never => RestartPolicy::Never,
            ostler_wire::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            ostler_wire::RestartPolicy::Always => RestartPolicy::Always,
        },
        stop: Stop {
            ladder: launch.stop.iter().map(|rung| (step(&rung.action), millis(rung.wait_ms))).collect(),
        },
        ready: match launch.ready {
            Readiness::AtOnce => Ready::OnSpawn,
            Readiness::AfterHandshake { timeout_ms } => Ready::WhenTold { timeout: millis(timeout_ms) },
        },
        cgroup: spec.cgroup.clone(),
        reaper: Some(guard),
        line_bytes_max: LINE_BYTES_MAX,
        ..UnitSpec::new(command(spec, launch), spec.run_id.to_string())
    }
}

/// The command of the next start. The environment is the run's, then the adapter's, then what the person asked for, then
/// the agent's name; a later one wins.
pub(crate) fn command(spec: &RunSpec, launch: &Launch) -> CommandSpec {
    let asked = spec.spawn.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    let name = (AGENT_ID_VARIABLE.to_owned(), spec.agent_id.to_string());
    let layers = spec.env.iter().cloned().chain(launch.env.iter().cloned()).chain(asked).chain([name]);
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    for (name, value) in layers {
        let name = OsString::from(name);
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value.into(),
            None => env.push((name, value.into())),
        }
    }
    CommandSpec {
        program: launch.program.clone().into(),
        args: launch.args.iter().map(OsString::from).collect(),
        dir: spec.spawn.dir.clone().unwrap_or_else(|| PathBuf::from("/")),
        env,
    }
}

fn step(action: &StopAction) -> StopStep {
    match action {
        StopAction::Write(bytes) => StopStep::Write(bytes.clone()),
        StopAction::CloseStdin => StopStep::CloseStdin,
        StopAction::Terminate => StopStep::Signal(Signal::Term),
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_wire::{AgentId, NodeId, RunId, SpawnRequest};

    fn spec() -> RunSpec {
        RunSpec {
            agent_id: AgentId::parse("a").unwrap(),
            run_id: RunId::parse("0190d2a0-0000-7000-8000-000000000001").unwrap(),
            node: NodeId::parse("n").unwrap(),
            spawn: SpawnRequest {
                command: vec!["cat".into()],
                env: [("B".to_owned(), "person".to_owned())].into(),
                dir: Some("/tmp".into()),
                ..SpawnRequest::default()
            },
            env: vec![("A".into(), "run".into()), ("B".into(), "run".into()), ("C".into(), "run".into())],
            agent_dir: "/a".into(),
            run_dir: "/r".into(),
            endpoint_file: "/e".into(),
            key_file: "/k".into(),
            cgroup: None,
            heartbeat_ms: 15_000,
            buffer_bytes_max: 1 << 20,
        }
    }

    #[test]
    fn the_person_outranks_the_adapter_and_nobody_the_agents_name() {
        let launch = Launch {
            program: "cat".into(),
            args: vec!["-u".into()],
            env: vec![("C".into(), "adapter".into()), (AGENT_ID_VARIABLE.into(), "forged".into())],
            ready: Readiness::AfterHandshake { timeout_ms: 5 },
            stop: vec![],
        };
        let command = command(&spec(), &launch);
        let env: Vec<_> = command
            .env
            .iter()
            .map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap()))
            .collect();
        assert_eq!(env, [("A", "run"), ("B", "person"), ("C", "adapter"), (AGENT_ID_VARIABLE, "a")]);
        assert_eq!(command.dir, PathBuf::from("/tmp"));
    }
}
