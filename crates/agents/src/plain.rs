//! Any program that reads lines on stdin and writes lines on stdout; nothing in its lines is interpreted.

use ostler_wire::AgentKind;

use crate::launch::{check_arguments, stop_grace_ms};
use crate::{
    Adapter, Effect, Launch, LaunchContext, LaunchError, Readiness, Refusal, StopAction, StopRung, Stream,
};

/// The adapter without a protocol: a prompt is a line in, every line out is published as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Adapter for Plain {
    fn launch(&self, context: &LaunchContext<'_>) -> Result<Launch, LaunchError> {
        let (program, args) = context.spawn.command.split_first().ok_or(LaunchError::NoProgram)?;
        if program.is_empty() {
            return Err(LaunchError::NoProgram);
        }
        check_arguments(&context.spawn.command)?;
        Ok(Launch {
            program: program.clone(),
            args: args.to_vec(),
            env: Vec::new(),
            ready: Readiness::AtOnce,
            stop: vec![StopRung { action: StopAction::Terminate, wait_ms: stop_grace_ms(context.spawn) }],
        })
    }

    fn started(&mut self) -> Vec<Effect> {
        Vec::new()
    }

    fn line(&mut self, _stream: Stream, _line: &[u8], _partial: bool) -> Vec<Effect> {
        vec![Effect::Line]
    }

    fn turn(&mut self, _input_id: &str, text: &str) -> Result<Vec<u8>, Refusal> {
        // An empty line is a legitimate input: many programs wait for just that.
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn interrupt(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(bytes.to_vec())
    }

    fn serialises_turns(&self) -> bool {
        false
    }

    fn exited(&mut self) -> Vec<Effect> {
        Vec::new()
    }
}

impl Plain {
    /// The kind this adapter is for.
    pub const KIND: AgentKind = AgentKind::Plain;
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_wire::SpawnRequest;

    fn spawn(command: &[&str]) -> SpawnRequest {
        SpawnRequest { command: command.iter().map(ToString::to_string).collect(), ..SpawnRequest::default() }
    }

    fn launch(spawn: &SpawnRequest) -> Result<Launch, LaunchError> {
        Plain.launch(&LaunchContext { spawn, session: Some("ignored") })
    }

    #[test]
    fn launches_the_command_as_it_is_given() {
        let launch = launch(&spawn(&["sh", "-c", "cat"])).unwrap();
        assert_eq!(launch.program, "sh");
        assert_eq!(launch.args, ["-c", "cat"]);
        assert_eq!(launch.ready, Readiness::AtOnce);
        assert_eq!(launch.stop, [StopRung { action: StopAction::Terminate, wait_ms: 10_000 }]);
    }

    #[test]
    fn refuses_to_launch_nothing() {
        assert_eq!(launch(&spawn(&[])), Err(LaunchError::NoProgram));
        assert_eq!(launch(&spawn(&[""])), Err(LaunchError::NoProgram));
        assert!(matches!(launch(&spawn(&["sh", "a\0b"])), Err(LaunchError::NulInArgument { .. })));
    }

    #[test]
    fn honours_the_grace_period_of_the_request() {
        let request = SpawnRequest { stop_grace_ms: Some(250), ..spawn(&["cat"]) };
        assert_eq!(launch(&request).unwrap().stop[0].wait_ms, 250);
    }

    #[test]
    fn passes_prompts_as_lines_and_raw_bytes_untouched() {
        let mut plain = Plain;
        assert_eq!(plain.turn("1", "hello").unwrap(), b"hello\n");
        assert_eq!(plain.turn("2", "").unwrap(), b"\n");
        assert_eq!(plain.raw(b"\xff\0no line feed").unwrap(), b"\xff\0no line feed");
        assert_eq!(plain.interrupt(), None);
        assert!(!plain.serialises_turns());
    }

    #[test]
    fn publishes_every_line_once() {
        let mut plain = Plain;
        assert_eq!(plain.line(Stream::Stdout, b"\xff{", false), [Effect::Line]);
        assert_eq!(plain.line(Stream::Stderr, b"", true), [Effect::Line]);
    }
}
