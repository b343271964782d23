//! Claude Code's command line: one persistent process that speaks stream-json both ways, and what may not be changed.

use crate::launch::{check_arguments, stop_grace_ms};
use crate::{Launch, LaunchContext, LaunchError, Readiness, StopAction, StopRung};

use super::control;

/// The program when the spawn request names none.
const PROGRAM: &str = "claude";

/// Time from the start to the answer of the handshake, in milliseconds. An idle machine needs 300 to 500 ms; the rest
/// is room for a loaded one and for tool servers the person has configured.
pub(super) const HANDSHAKE_TIMEOUT_MS: u64 = 60_000;

/// The protocol: prompts and control requests in, messages and control requests out, deltas included. `stdio` makes
/// the CLI ask us before it runs a tool that needs permission.
const PROTOCOL_ARGS: [&str; 9] = [
    "-p",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--verbose", // without it `-p` refuses stream-json output
    "--include-partial-messages",
    "--permission-prompt-tool",
    "stdio",
];

/// Variables every Claude agent gets unless the person sets them.
const ENVIRONMENT: [(&str, &str); 2] = [
    // A supervised program must not replace itself while it runs.
    ("DISABLE_AUTOUPDATER", "1"),
    // Makes it say when it runs, idles or waits for an answer.
    ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
];

const SPEAKS: &str = "ostler speaks stream-json with it; leave the formats alone";
const RESUMES: &str =
    "ostler keeps the session and resumes it by itself; remove the agent to start with a new one";
const KEEPS: &str = "without a stored session the agent would forget its conversation at every restart";
const DECIDES: &str = "permission questions are answered over stream-json";
const ECHOES: &str = "it echoes ostler's own answers back as if the agent had written them";

/// Arguments that would take the protocol or the session away from the adapter.
const RESERVED: [(&str, &str); 11] = [
    ("--input-format", SPEAKS),
    ("--output-format", SPEAKS),
    ("--resume", RESUMES),
    ("-r", RESUMES),
    ("--continue", RESUMES),
    ("-c", RESUMES),
    ("--session-id", RESUMES),
    ("--fork-session", RESUMES),
    ("--no-session-persistence", KEEPS),
    ("--permission-prompt-tool", DECIDES),
    ("--replay-user-messages", ECHOES),
];

/// Builds the command line.
pub(super) fn launch(context: &LaunchContext<'_>) -> Result<Launch, LaunchError> {
    let spawn = context.spawn;
    check_arguments(&spawn.command)?;
    // `-- --allowedTools=Bash` names only arguments: the program stays the default one.
    let (program, extra) = match spawn.command.split_first() {
        Some((first, rest)) if !first.is_empty() && !first.starts_with('-') => (first.as_str(), rest),
        Some((first, rest)) if first.is_empty() => (PROGRAM, rest),
        _ => (PROGRAM, spawn.command.as_slice()),
    };
    if let Some((argument, reason)) = extra.iter().find_map(|argument| reserved(argument)) {
        return Err(LaunchError::ReservedArgument { argument: argument.to_owned(), reason });
    }

    let mut args: Vec<String> = PROTOCOL_ARGS.map(str::to_owned).to_vec();
    if let Some(model) = &spawn.model {
        args.extend(["--model".to_owned(), model.clone()]);
    }
    if let Some(session) = context.session {
        args.extend(["--resume".to_owned(), session.to_owned()]);
    }
    // Last, because `--allowedTools A B` takes everything up to the next flag.
    args.extend_from_slice(extra);

    Ok(Launch {
        program: program.to_owned(),
        args,
        env: ENVIRONMENT
            .iter()
            .filter(|(name, _)| !spawn.env.contains_key(*name))
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ready: Readiness::AfterHandshake { timeout_ms: HANDSHAKE_TIMEOUT_MS },
        stop: stop_ladder(stop_grace_ms(spawn)),
    })
}

/// Interrupt, end of input, SIGTERM. The CLI reads the interrupt and the end of input one after the other, so the first
/// needs no wait of its own: a running turn ends within 0.2 s and an idle process leaves at once, both by their own
/// exit. Never SIGINT: it exits 0 then, as if it had succeeded.
fn stop_ladder(grace_ms: u64) -> Vec<StopRung> {
    let terminate_ms = grace_ms / 3;
    vec![
        StopRung { action: StopAction::Write(control::interrupt("ostler-stop")), wait_ms: 0 },
        StopRung { action: StopAction::CloseStdin, wait_ms: grace_ms - terminate_ms },
        StopRung { action: StopAction::Terminate, wait_ms: terminate_ms },
    ]
}

/// The argument and the reason, when it is reserved; `--flag=value` counts as `--flag`.
fn reserved(argument: &str) -> Option<(&str, &'static str)> {
    let flag = argument.split_once('=').map_or(argument, |(flag, _)| flag);
    RESERVED.iter().find(|(name, _)| *name == flag).map(|(_, reason)| (argument, *reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_wire::{AgentKind, SpawnRequest};

    fn spawn(command: &[&str]) -> SpawnRequest {
        SpawnRequest {
            kind: AgentKind::Claude,
            command: command.iter().map(ToString::to_string).collect(),
            ..SpawnRequest::default()
        }
    }

    fn fresh(spawn: &SpawnRequest) -> Launch {
        launch(&LaunchContext { spawn, session: None }).unwrap()
    }

    #[test]
    fn an_empty_command_starts_the_default_program() {
        let launch = fresh(&spawn(&[]));
        assert_eq!(launch.program, "claude");
        assert_eq!(launch.args, PROTOCOL_ARGS);
        assert_eq!(launch.ready, Readiness::AfterHandshake { timeout_ms: HANDSHAKE_TIMEOUT_MS });
    }

    #[test]
    fn model_and_session_come_before_the_persons_own_arguments() {
        let request = SpawnRequest {
            model: Some("opus".into()),
            ..spawn(&["/opt/claude", "--allowedTools", "Read", "Edit"])
        };
        let launch = launch(&LaunchContext { spawn: &request, session: Some("s-1") }).unwrap();
        assert_eq!(launch.program, "/opt/claude");
        assert_eq!(
            launch.args[PROTOCOL_ARGS.len()..],
            ["--model", "opus", "--resume", "s-1", "--allowedTools", "Read", "Edit"]
        );
    }

    #[test]
    fn a_command_of_flags_only_keeps_the_default_program() {
        let launch = fresh(&spawn(&["--permission-mode", "plan"]));
        assert_eq!(launch.program, "claude");
        assert_eq!(launch.args[PROTOCOL_ARGS.len()..], ["--permission-mode", "plan"]);
    }

    #[test]
    fn arguments_that_break_the_protocol_are_refused_by_name() {
        for argument in
            ["--output-format=text", "--resume", "-c", "--no-session-persistence", "--replay-user-messages"]
        {
            let request = spawn(&["claude", argument]);
            let error = launch(&LaunchContext { spawn: &request, session: None }).unwrap_err();
            assert!(error.to_string().contains(argument), "{error}");
        }
    }

    #[test]
    fn the_persons_own_variables_win() {
        let mut request = spawn(&[]);
        request.env.insert("DISABLE_AUTOUPDATER".into(), "0".into());
        let names: Vec<_> = fresh(&request).env.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"]);
    }

    #[test]
    fn the_waits_of_the_stop_ladder_are_the_grace_period() {
        for grace_ms in [0, 1, 250, 10_000, u64::MAX] {
            let sum: u64 = stop_ladder(grace_ms).iter().map(|rung| rung.wait_ms).sum();
            assert_eq!(sum, grace_ms);
        }
    }
}
