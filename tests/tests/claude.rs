//! The real Claude Code under the real daemon, driven over the bus, against a scripted model server on loopback.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::rig::{FakeLlm, claude_program, clean_env};
use ostler_client::{Client, Subscription};
use ostler_testkit::{Bus, TestDaemon, assert_gapless, wait_until};
use ostler_wire::{
    AgentEvent, AgentId, AgentKind, AgentState, ControlReply, InputMessage, InputReply, InputType,
    OutputMessage, RestartPolicy, SpawnReply, SpawnRequest, StatusMessage, StopRequest, Subject, Usage,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::time::timeout;

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything a Claude agent needs, and a bus client that listens to it.
struct Bench {
    llm: FakeLlm,
    dirs: TempDir,
    bus: Bus,
    client: Client,
    agent: AgentId,
    output: Subscription,
    status: Subscription,
    /// All output so far.
    seen: Vec<OutputMessage>,
}

impl Bench {
    async fn new(daemon: &TestDaemon) -> Self {
        let llm = FakeLlm::start();
        let dirs = tempfile::tempdir().expect("a temporary directory");
        for name in ["home", "project"] {
            std::fs::create_dir(dirs.path().join(name)).expect("a directory in it");
        }
        let bus = daemon.bus().await;
        let client = bus.client.clone();
        let agent = AgentId::parse("claude").expect("the literal follows the rule");
        let output = client.subscribe(Subject::output(&agent).to_string()).await.expect("the bus is there");
        let status = client.subscribe(Subject::status(&agent).to_string()).await.expect("the bus is there");
        client.flush().await.expect("the bus is there");
        Self { llm, dirs, bus, client, agent, output, status, seen: Vec::new() }
    }

    fn spawn_request(&self) -> SpawnRequest {
        SpawnRequest {
            kind: AgentKind::Claude,
            command: vec![claude_program().to_str().expect("a UTF-8 path").to_owned()],
            dir: Some(self.dirs.path().join("project")),
            env: clean_env(&self.dirs.path().join("home"), &self.llm.base_url),
            restart: RestartPolicy::OnFailure,
            ..SpawnRequest::default()
        }
    }

    /// Waits for a published status.
    async fn until_status(&mut self, what: &str, wanted: impl Fn(&StatusMessage) -> bool) -> StatusMessage {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while let Ok(message) =
            timeout(deadline.saturating_duration_since(Instant::now()), self.status.next()).await
        {
            let message = message.expect("the connection stays");
            // Our own queries come by as well; they are no status.
            let Ok(status) = message.json::<StatusMessage>() else { continue };
            if wanted(&status) {
                return status;
            }
            last = Some(status);
        }
        panic!("no status with {what} in time; the last one: {last:#?}");
    }

    /// Waits for an output message.
    async fn until_output(&mut self, what: &str, wanted: impl Fn(&OutputMessage) -> bool) -> OutputMessage {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            match self.next_output(patience).await {
                Some(message) if wanted(&message) => return message,
                Some(_) => {}
                None => {
                    let last = &self.seen[self.seen.len().saturating_sub(10)..];
                    panic!("no output with {what} in time; the last ones: {last:#?}");
                }
            }
        }
    }

    /// The next output message, if one comes in time.
    async fn next_output(&mut self, patience: Duration) -> Option<OutputMessage> {
        let message = timeout(patience, self.output.next()).await.ok()?.expect("the connection stays");
        let message: OutputMessage = message.json().expect("output is an OutputMessage");
        self.seen.push(message.clone());
        Some(message)
    }

    /// Sends a prompt and waits until it is in the agent's hands.
    async fn prompt(&self, input_id: &str, text: &str) {
        let input = InputMessage { input_id: Some(input_id.to_owned()), ..InputMessage::prompt(text) };
        let reply: InputReply = self
            .client
            .request(&Subject::input(&self.agent), &input)
            .await
            .expect("the host takes the input");
        assert_eq!(reply.input_id, input_id);
    }

    /// Waits for the end of an input's turn: whether it failed, its text, what it used.
    async fn turn_end(&mut self, input_id: &str) -> (bool, String, Usage) {
        let ends = |message: &OutputMessage| {
            message.input_id.as_deref() == Some(input_id)
                && matches!(message.event, Some(AgentEvent::Result { .. }))
        };
        match self.until_output(&format!("the result of {input_id}"), ends).await.event {
            Some(AgentEvent::Result { is_error, text, usage, .. }) => (is_error, text, usage),
            other => unreachable!("the filter takes only results: {other:?}"),
        }
    }

    /// Waits for some deltas of an input's answer.
    async fn until_streaming(&mut self, input_id: &str) {
        let delta = |message: &OutputMessage| {
            message.input_id.as_deref() == Some(input_id)
                && matches!(message.event, Some(AgentEvent::Text { delta: true, .. }))
        };
        for _ in 0..3 {
            self.until_output(&format!("a piece of the answer to {input_id}"), delta).await;
        }
    }

    async fn control(&self, subject: &Subject) -> ControlReply {
        self.client.request(subject, &serde_json::json!({})).await.expect("the host does as asked")
    }

    /// The text pieces of one input's answer, in order.
    fn streamed(&self, input_id: &str) -> String {
        let piece = |message: &OutputMessage| match &message.event {
            Some(AgentEvent::Text { text, delta: true }) if message.input_id.as_deref() == Some(input_id) => {
                Some(text.clone())
            }
            _ => None,
        };
        self.seen.iter().filter_map(piece).collect()
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("a process id")).expect("not zero")
}

/// Processes that were started for this test's agent: its home directory is in nobody else's environment.
fn processes_of(home: &Path) -> Vec<String> {
    let home = format!("HOME={}", home.display());
    let entries = std::fs::read_dir("/proc").expect("Linux has /proc");
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::read(path.join("environ")).is_ok_and(|environ| {
                environ.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
            })
        })
        .map(|path| path.display().to_string())
        .collect()
}

fn chunks(count: usize) -> String {
    (0..count).map(|number| format!("chunk{number} ")).collect()
}

#[tokio::test]
async fn claude_talks_pauses_survives_a_kill_with_its_session_and_stops() {
    let daemon = TestDaemon::start();
    let mut bench = Bench::new(&daemon).await;
    let agent = bench.agent.clone();

    // Spawn by message.
    let spawned: SpawnReply =
        bench.client.request(&Subject::spawn(&agent), &bench.spawn_request()).await.expect("it is spawned");
    let active = bench.until_status("an active agent", |status| status.state == AgentState::Active).await;
    assert_eq!(active.run_id, spawned.run_id);
    let first_pid = active.pid.expect("an active agent has a process");

    // Three turns: text, thinking, a tool.
    let mut total = Usage::default();
    let turns = [
        ("one", "remember the blue horse", "echo: remember the blue horse"),
        ("two", "fake: think deep", "thought about it"),
        ("three", "fake: bash echo from-bash", "result: from-bash"),
    ];
    for (input_id, text, answer) in turns {
        bench.prompt(input_id, text).await;
        let (is_error, result, usage) = bench.turn_end(input_id).await;
        assert_eq!((is_error, result.as_str()), (false, answer));
        assert!(usage.input_tokens > 1000 && usage.output_tokens > 0 && usage.cost_usd > 0.0, "{usage:?}");
        total += usage;
    }
    assert_eq!(bench.streamed("one"), "echo: remember the blue horse", "the pieces make the whole");
    let events: Vec<&AgentEvent> = bench.seen.iter().filter_map(|message| message.event.as_ref()).collect();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, AgentEvent::Thinking { delta: false, text } if text == "deep"))
    );
    assert!(events.iter().any(|event| matches!(event, AgentEvent::ToolUse { name, .. } if name == "Bash")));
    assert!(events.iter().any(|event| matches!(event, AgentEvent::ToolResult { is_error: false, .. })));
    let results =
        bench.seen.iter().filter(|message| matches!(message.event, Some(AgentEvent::Result { .. })));
    for message in results {
        let raw = message.raw.as_deref().expect("the untouched line stands beside the event");
        assert_eq!(serde_json::from_str::<serde_json::Value>(raw).expect("it is JSON")["type"], "result");
    }

    // What it used is in its status, and so is its session.
    let used = |status: &StatusMessage| {
        status.usage.is_some_and(|usage| (usage.cost_usd - total.cost_usd).abs() < 1e-9)
    };
    let status = bench.until_status("the usage of three turns", used).await;
    let usage = status.usage.expect("the filter wants it");
    assert_eq!((usage.input_tokens, usage.output_tokens), (total.input_tokens, total.output_tokens));
    let session = status.session_id.expect("the agent told its session");

    // Pause in the middle of a stream: nothing comes, although the server goes on; then everything does.
    bench.prompt("slow", "fake: slow 40 50").await;
    bench.until_streaming("slow").await;
    let paused = bench.control(&Subject::pause(&agent)).await;
    assert_eq!(paused.state, AgentState::Paused);
    // What the agent had written before it froze is still on its way; the stream's pieces come every 50 ms.
    while bench.next_output(Duration::from_millis(500)).await.is_some() {}
    assert_ne!(bench.streamed("slow"), chunks(40), "it froze in the middle");
    let during = bench.next_output(Duration::from_millis(2500)).await;
    assert_eq!(during, None, "a paused agent writes nothing");
    let resumed = bench.control(&Subject::resume(&agent)).await;
    assert_eq!(resumed.state, AgentState::Active);
    let (is_error, text, _) = bench.turn_end("slow").await;
    assert_eq!((is_error, text.trim()), (false, chunks(40).trim()));
    assert_eq!(bench.streamed("slow"), chunks(40), "no piece is lost, none doubled");

    // Interrupt by message: the turn fails, the agent lives.
    bench.prompt("long", "fake: slow 1000 50").await;
    bench.until_streaming("long").await;
    let interrupt = InputMessage { input: InputType::Interrupt, ..InputMessage::prompt("") };
    let _: InputReply = bench
        .client
        .request(&Subject::input(&agent), &interrupt)
        .await
        .expect("a running turn can be interrupted");
    assert!(bench.turn_end("long").await.0);

    // Kill the agent in the middle of a turn: that turn is lost and said to be; the session goes on.
    bench.prompt("killed", "fake: slow 1000 50").await;
    bench.until_streaming("killed").await;
    kill_process(pid(first_pid), Signal::KILL).expect("the agent runs");
    assert!(bench.turn_end("killed").await.0, "the sender learns that its turn is lost");
    let again = bench
        .until_status("a second process", |status| {
            status.state == AgentState::Active && status.generation == 2
        })
        .await;
    assert_ne!(again.pid, Some(first_pid));
    assert_eq!((again.restarts, again.session_id.as_deref()), (1, Some(session.as_str())));
    bench.prompt("after", "what did I ask you to remember?").await;
    let (is_error, text, usage) = bench.turn_end("after").await;
    assert_eq!((is_error, text.as_str()), (false, "echo: what did I ask you to remember?"));
    assert!(usage.cost_usd > 0.0 && usage.cost_usd < total.cost_usd, "a turn's own cost: {usage:?}");
    let conversation = bench.llm.last_conversation().join("\n");
    assert!(
        conversation.contains("remember the blue horse"),
        "the model is told the old context: {conversation}"
    );

    // Every number came once, in order.
    let numbers: Vec<u64> = bench.seen.iter().map(|message| message.seq).collect();
    let expected: Vec<u64> = (numbers[0]..numbers[0] + numbers.len() as u64).collect();
    assert_eq!(numbers, expected);
    let last = *numbers.last().expect("the agent wrote");
    let log = bench.bus.log(agent.as_str()).await;
    assert_gapless(&log);
    assert!(log.iter().any(|entry| entry.output.seq == last), "the log has what the bus had");

    // Stop by message: nothing is left.
    let host_pid = again.host_pid.expect("a host tells its process");
    let agent_pid = again.pid.expect("an active agent has a process");
    let _: ControlReply =
        bench.client.request(&Subject::stop(&agent), &StopRequest::default()).await.expect("it stops");
    let ended = bench.until_status("the end", |status| !status.state.is_live()).await;
    assert_eq!(ended.state, AgentState::Terminated, "{ended:?}");
    wait_until("no process of the agent is left", PATIENCE, || {
        test_kill_process(pid(agent_pid)).is_err()
            && test_kill_process(pid(host_pid)).is_err()
            && processes_of(&bench.dirs.path().join("home")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn claude_goes_on_with_its_session_after_a_stop_and_a_new_spawn() {
    let daemon = TestDaemon::start();
    let mut bench = Bench::new(&daemon).await;
    let agent = bench.agent.clone();
    let _: SpawnReply =
        bench.client.request(&Subject::spawn(&agent), &bench.spawn_request()).await.expect("it is spawned");
    bench.until_status("an active agent", |status| status.state == AgentState::Active).await;
    bench.prompt("one", "remember the red hen").await;
    let (_, _, first) = bench.turn_end("one").await;
    let _: ControlReply =
        bench.client.request(&Subject::stop(&agent), &StopRequest::default()).await.expect("it stops");
    bench.until_status("the end", |status| status.state == AgentState::Terminated).await;

    let again = SpawnRequest { replace: true, ..bench.spawn_request() };
    let spawned: SpawnReply =
        bench.client.request(&Subject::spawn(&agent), &again).await.expect("it is spawned again");
    let active =
        |status: &StatusMessage| status.run_id == spawned.run_id && status.state == AgentState::Active;
    bench.until_status("an active agent", active).await;
    bench.prompt("two", "what was it?").await;
    let (is_error, _, second) = bench.turn_end("two").await;
    assert!(!is_error);
    assert!(bench.llm.last_conversation().join("\n").contains("remember the red hen"));
    // A clean exit leaves the session's totals behind, and a new host has no memory of them.
    assert!(second.cost_usd > 0.0 && second.cost_usd < 1.5 * first.cost_usd, "{second:?} after {first:?}");
}

#[tokio::test]
async fn claude_starts_afresh_when_its_session_is_gone() {
    let daemon = TestDaemon::start();
    let mut bench = Bench::new(&daemon).await;
    let agent = bench.agent.clone();
    // Never restarted after an exit: the fresh start is no restart after a failure.
    let request = SpawnRequest { restart: RestartPolicy::Never, ..bench.spawn_request() };
    let _: SpawnReply = bench.client.request(&Subject::spawn(&agent), &request).await.expect("it is spawned");
    bench.until_status("an active agent", |status| status.state == AgentState::Active).await;
    bench.prompt("one", "remember the green goose").await;
    bench.turn_end("one").await;
    let _: ControlReply =
        bench.client.request(&Subject::stop(&agent), &StopRequest::default()).await.expect("it stops");
    let stopped = bench.until_status("the end", |status| status.state == AgentState::Terminated).await;
    let session = stopped.session_id.expect("the agent told its session");
    // Somebody tidied up the CLI's own files.
    std::fs::remove_dir_all(bench.dirs.path().join("home/.claude/projects"))
        .expect("the CLI keeps them there");

    let again = SpawnRequest { replace: true, ..request };
    let spawned: SpawnReply =
        bench.client.request(&Subject::spawn(&agent), &again).await.expect("it is spawned again");
    let active =
        |status: &StatusMessage| status.run_id == spawned.run_id && status.state == AgentState::Active;
    bench.until_status("an active agent", active).await;
    bench.prompt("two", "hello").await;
    assert_eq!(bench.turn_end("two").await.1, "echo: hello");
    let status: StatusMessage = bench
        .client
        .request(&Subject::status(&agent), &serde_json::json!({}))
        .await
        .expect("the host answers");
    assert_ne!(status.session_id.expect("the agent told its session"), session);
}
