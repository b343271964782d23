//! A run from start to end: the agent's output, its states and its files, with a real broker and real processes.

mod support;

use ostler_wire::{AgentEvent, AgentState, RestartPolicy, SpawnRequest, StatusCause};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{World, is_alive, read_json, signal, until};

#[tokio::test]
async fn every_line_is_published_in_order_and_recorded_once() {
    let world = World::new().await;
    let mut host = world.host("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; echo done >&2");
    assert_eq!(host.ended().await.code(), Some(0));
    world.look(|recorded| {
        recorded.assert_gapless();
        let expected: Vec<String> = (1..=3000).map(|i| format!("line {i}")).collect();
        assert_eq!(recorded.lines(), expected);
        let last = recorded.statuses.last().unwrap();
        assert_eq!((last.state, last.cause), (AgentState::Terminated, StatusCause::Exited));
        assert_eq!(last.exit.unwrap().code, Some(0));
        assert!(recorded.statuses.is_sorted_by(|a, b| a.revision < b.revision));
    });
    let record = host.record().unwrap();
    assert_eq!(record.status.state, AgentState::Terminated);
    assert_eq!(record.last_seq, 3001);
    assert!(!host.run_dir.join("spool.jsonl").exists(), "everything was acknowledged");
}

#[tokio::test]
async fn the_agent_knows_its_run_and_its_name_and_nothing_else() {
    let world = World::new().await;
    let mut host = world.host_of(SpawnRequest {
        command: vec!["env".into()],
        env: [("COLOUR".to_owned(), "blue".to_owned())].into(),
        ..SpawnRequest::default()
    });
    host.ended().await;
    let mut lines = world.look(support::Recorded::lines);
    lines.sort();
    let expected = [
        "COLOUR=blue".to_owned(),
        "OSTLER_AGENT_ID=a1".to_owned(),
        format!("OSTLER_RUN={}", host.run_id),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn input_is_answered_when_the_agent_has_it() {
    let world = World::new().await;
    let _host = world.host("while read line; do echo got $line; done");
    let reply = world.send("hello").await;
    assert_eq!(reply["delivered"], true);
    world.line("got hello").await;
    let reply: Value = world.ask_bytes("input", b"raw line\n".to_vec()).await.unwrap();
    assert_eq!(reply["delivered"], true);
    world.line("got raw line").await;
    let reply: Value =
        world.ask("command", json!({"type": "task", "payload": {"text": "job"}})).await.unwrap();
    assert_eq!(reply["agent_id"], "a1");
    world.line("got job").await;
}

#[tokio::test]
async fn the_first_prompt_is_sent_when_the_agent_is_ready() {
    let world = World::new().await;
    let _host = world.host_of(SpawnRequest {
        command: vec!["cat".into()],
        prompt: Some("good morning".into()),
        ..SpawnRequest::default()
    });
    world.line("good morning").await;
}

#[tokio::test]
async fn heartbeats_tell_process_facts() {
    let world = World::new().await;
    let _host = world.host("while read line; do :; done");
    let pid = world.active().await.pid.unwrap();
    let beat = until("a heartbeat of the running agent", || {
        world.look(|recorded| recorded.heartbeats.iter().find(|beat| beat["facts"]["pid"] == pid).cloned())
    })
    .await;
    assert_eq!((&beat["state"], &beat["status"]), (&json!("active"), &json!("running")));
    assert_eq!(beat["facts"]["processes"], 1);
    assert!(beat["facts"]["rss_bytes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_crash_is_followed_by_a_restart_that_is_told() {
    let world = World::new().await;
    let _host = world.host("echo started; read line; exit 7");
    let first = world.active().await;
    world.send("crash").await;
    let waiting = world
        .status("the back-off", |s| s.state == AgentState::Starting && s.cause == StatusCause::Exited)
        .await;
    assert!(waiting.message.unwrap().starts_with("ended with exit code 7; starts again in"));
    let second = world.status("the restart", |s| s.restarts == 1 && s.state == AgentState::Active).await;
    assert_ne!(second.pid, first.pid);
    assert_eq!((second.generation, second.exit.unwrap().code), (2, Some(7)));
    until("the second start", || (world.look(|r| r.lines().len()) == 2).then_some(())).await;
    world.look(support::Recorded::assert_gapless);
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_names_it() {
    let world = World::new().await;
    let mut host =
        world.host_of(SpawnRequest { command: vec!["no-such-program".into()], ..SpawnRequest::default() });
    assert_eq!(host.ended().await.code(), Some(1));
    let status = world.status("the error", |status| status.state == AgentState::Error).await;
    assert_eq!(status.cause, StatusCause::SpawnFailed);
    assert!(status.message.unwrap().contains("`no-such-program` not found"));
    assert_eq!(host.record().unwrap().status.cause, StatusCause::SpawnFailed);
}

#[tokio::test]
async fn a_request_without_a_command_is_an_error_too() {
    let world = World::new().await;
    let mut host = world.host_of(SpawnRequest::default());
    assert_eq!(host.ended().await.code(), Some(1));
    let status = world.status("the error", |status| status.state == AgentState::Error).await;
    assert!(status.message.unwrap().contains("needs a command"));
}

#[tokio::test]
async fn a_second_host_of_the_same_agent_refuses_to_start() {
    let world = World::new().await;
    let _first = world.host("while read line; do :; done");
    world.active().await;
    let mut second = world.host("echo never");
    assert_eq!(second.ended().await.code(), Some(3));
    assert!(second.log().contains("has a host already"), "{}", second.log());
}

#[tokio::test]
async fn a_killed_host_takes_its_whole_tree_along() {
    let world = World::new().await;
    let mut host = world.host("setsid sh -c 'echo $$; exec sleep 1000' </dev/null & read line");
    let grandchild = until("the grandchild", || world.look(|r| r.lines().first().cloned())).await;
    let grandchild: u32 = grandchild.parse().unwrap();
    let record = until("the agent's pid", || host.record().filter(|record| record.agent.is_some())).await;
    let agent = record.agent.unwrap().pid;
    assert!(is_alive(agent) && is_alive(grandchild));
    signal(record.host.pid, Signal::KILL);
    assert_eq!(host.ended().await.code(), Some(128 + 9));
    assert!(!is_alive(agent) && !is_alive(grandchild));
}

#[tokio::test]
async fn a_lost_guard_ends_the_agent() {
    let world = World::new().await;
    let host = world.host("while read line; do :; done");
    let record = until("the agent's pid", || host.record().filter(|record| record.agent.is_some())).await;
    world.active().await;
    signal(host.guard_pid(), Signal::KILL);
    let status = world.status("the error", |status| status.state == AgentState::Error).await;
    assert_eq!(status.cause, StatusCause::HostLost);
    assert!(!is_alive(record.agent.unwrap().pid));
    until("the host to end", || (!is_alive(record.host.pid)).then_some(())).await;
}

#[tokio::test]
async fn sigterm_stops_the_agent_and_keeps_it_desired() {
    let world = World::new().await;
    let mut host = world.host("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    world.line("up").await;
    signal(host.record().unwrap().host.pid, Signal::INT);
    signal(host.guard_pid(), Signal::TERM);
    assert_eq!(host.ended().await.code(), Some(0));
    world.line("bye").await;
    let record = host.record().unwrap();
    assert!(record.keep_desired);
    assert_eq!((record.status.state, record.status.cause), (AgentState::Terminated, StatusCause::Requested));
}

#[tokio::test]
async fn bytes_that_are_no_text_and_lines_beyond_the_limit_arrive_whole() {
    let world = World::new().await;
    let mut host = world.host_of(SpawnRequest {
        command: vec![
            "python3".into(),
            "-c".into(),
            "import sys; w=sys.stdout.buffer.write; w(b'\\xff\\xfe\\n'); w(b'x'*3000000+b'\\n'); w(b'\\x01'*1048576+b'\\n')".into(),
        ],
        restart: RestartPolicy::Never,
        ..SpawnRequest::default()
    });
    assert_eq!(host.ended().await.code(), Some(0));
    world.look(|recorded| {
        recorded.assert_gapless();
        assert!(recorded.events().iter().all(|event| !matches!(event, AgentEvent::Dropped { .. })));
        assert_eq!(recorded.messages[0].data_base64.as_deref(), Some("//4="));
        let long: String = recorded.messages[1..]
            .iter()
            .filter_map(|message| message.data.as_deref())
            .filter(|data| data.starts_with('x'))
            .collect();
        assert_eq!(long.len(), 3_000_000);
        assert!(recorded.messages[1].partial);
        let control: usize = recorded
            .messages
            .iter()
            .filter_map(|m| m.data.as_ref())
            .map(|data| data.matches('\x01').count())
            .sum();
        assert_eq!(control, 1_048_576);
    });
}

#[tokio::test]
async fn an_early_end_without_a_bus_leaves_everything_in_files() {
    let world = World::without_bus();
    let mut host = world.host("echo one; echo two; exit 0");
    assert_eq!(host.ended().await.code(), Some(0));
    let spool = std::fs::read_to_string(host.run_dir.join("spool.jsonl")).unwrap();
    let lines: Vec<Value> = spool.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[1]["seq"], &lines[1]["data"]), (&json!(2), &json!("two")));
    let record: Value = read_json(&host.run_dir.join("host.json")).unwrap();
    assert_eq!((&record["status"]["state"], &record["last_seq"]), (&json!("terminated"), &json!(2)));
}
