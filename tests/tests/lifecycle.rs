//! The life of an agent, seen from the bus: every verb, every restart policy, every way to end.

use std::time::Duration;

use ostler_testkit::{PATIENCE, Recorder, TestDaemon, assert_gapless, lines, process, script, wait_until};
use ostler_wire::{
    AgentId, AgentState, AlertMessage, CommandMessage, CommandType, ControlReply, DesiredState, ErrorCode,
    JsonMap, RestartPolicy, ShutdownMessage, SpawnRequest, StatusCause, StatusMessage, StopRequest, Subject,
};

fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("a proper name")
}

fn restart(policy: RestartPolicy, request: SpawnRequest) -> SpawnRequest {
    SpawnRequest { restart: policy, ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawned_agent_becomes_active_and_answers_its_input() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let reply = bus.spawn("echo", script(["echo"])).await;
    assert!(process::is_alive(reply.host_pid));
    let agent = bus.wait_for_state("echo", AgentState::Active).await;
    assert!(process::is_alive(agent.pid.expect("an active agent has a process")));
    assert_eq!((agent.run_id, agent.desired), (Some(reply.run_id), DesiredState::Running));

    let answered = bus.send("echo", "hello").await;
    assert!(answered.delivered);
    let line = bus.wait_for_line("echo", "echo: hello").await;
    assert_eq!((line.seq, line.generation, line.run_id), (1, 1, reply.run_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_prompt_is_given_when_the_agent_is_ready() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn("echo", SpawnRequest { prompt: Some("good morning".into()), ..script(["echo"]) }).await;
    bus.wait_for_line("echo", "echo: good morning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_stands_still_with_all_its_children_and_goes_on_without_a_gap() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let child = daemon.scratch().join("grandchild.pid");
    let agent =
        bus.spawn_active("counter", script([&format!("grandchild:{}", child.display()), "forever:5"])).await;
    bus.wait_for_line("counter", "line 10").await;
    let beats = Recorder::start(&bus.client, Subject::heartbeat(&id("counter"))).await;

    let reply = bus.pause("counter").await;
    assert_eq!((reply.state, reply.changed), (AgentState::Paused, true));
    assert!(!bus.pause("counter").await.changed, "asked twice, done once");
    bus.wait_for_state("counter", AgentState::Paused).await;
    // Two beats of a paused agent: two seconds in which a running one prints four hundred lines.
    let paused = |beat: &ostler_wire::HeartbeatMessage| beat.state == Some(AgentState::Paused);
    beats.first("a beat of the paused agent", PATIENCE, paused).await;
    let frozen = bus.log("counter").await.len();
    let seen = beats.messages().len();
    wait_until("another beat", PATIENCE, || beats.messages().len() > seen).await;
    assert_eq!(bus.log("counter").await.len(), frozen, "a frozen counter prints nothing");
    let leader = process::Process::of(agent.pid.expect("a process")).expect("it lives");
    assert!(leader.is_alive());

    let reply = bus.resume("counter").await;
    assert_eq!((reply.state, reply.changed), (AgentState::Active, true));
    assert!(!bus.resume("counter").await.changed);
    bus.wait_for_line("counter", &format!("line {}", frozen + 10)).await;
    let log = bus.log("counter").await;
    assert_gapless(&log);
    let expected: Vec<String> = (1..=log.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(lines(&log), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_takes_no_input_and_says_what_to_do() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("echo", script(["echo"])).await;
    bus.pause("echo").await;
    let input = ostler_wire::InputMessage::prompt("hello");
    let refused = bus
        .client
        .request::<ostler_wire::InputReply>(&Subject::input(&id("echo")), &input)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::IllegalState), "{refused}");
    // A paused agent can be stopped.
    bus.stop("echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_states_of_a_life_are_announced_in_order() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let statuses = Recorder::start(&bus.client, Subject::status(&id("a"))).await;
    bus.spawn_active("a", script(["wait"])).await;
    bus.pause("a").await;
    bus.resume("a").await;
    bus.stop("a").await;
    let is_end = |status: &StatusMessage| status.state == AgentState::Terminated;
    let last = statuses.first("the last word", PATIENCE, is_end).await;
    assert_eq!(last.cause, StatusCause::Requested);

    let said: Vec<StatusMessage> = statuses.all();
    let mut states: Vec<AgentState> = said.iter().map(|status| status.state).collect();
    states.dedup();
    use AgentState::{Active, Paused, Starting, Stopping, Terminated};
    let expected = [Starting, Active, Paused, Active, Stopping, Terminated];
    // The host may connect after its agent was started.
    assert!(states == expected || states == expected[1..], "{states:?}: {said:#?}");
    assert!(said.windows(2).all(|pair| pair[0].revision < pair[1].revision), "revisions grow: {said:?}");
    let recorded: Vec<String> = bus
        .events()
        .await
        .into_iter()
        .filter(|event| event.kind == "agent.state")
        .map(|event| event.details.get("state").and_then(|state| state.as_str()).unwrap_or("?").to_owned())
        .collect();
    // However late the publications come: the end is heard of on another way, and brings along what went before.
    assert!(
        recorded.ends_with(&expected[1..].iter().map(ToString::to_string).collect::<Vec<_>>()),
        "{recorded:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_gets_notice_ends_wholly_and_can_be_started_again_and_removed() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let notices = Recorder::start(&bus.client, Subject::shutdown(&id("a"))).await;
    let file = daemon.scratch().join("pid");
    let first = bus.spawn_active("a", script([&format!("grandchild:{}", file.display()), "wait"])).await;
    let grandchild = pid_in(&file).await;

    let request = StopRequest { reason: Some("supper".into()), ..StopRequest::default() };
    let reply: ControlReply = bus.client.request(&Subject::stop(&id("a")), &request).await.unwrap();
    assert!(reply.changed);
    let notice = notices.first("the notice", PATIENCE, |_: &ShutdownMessage| true).await;
    assert_eq!((notice.reason.as_str(), notice.force), ("supper", false));
    let ended = bus.wait_for_state("a", AgentState::Terminated).await;
    assert_eq!(ended.pid, None);
    // Terminated is said only when the whole tree is gone; what is wanted settles when the host is gone too.
    assert!(!process::is_alive(grandchild) && !process::is_alive(first.pid.unwrap()));
    bus.wait_for_agent("a", "not wanted", |agent| agent.desired == DesiredState::Stopped).await;
    let again: ControlReply = bus.client.request(&Subject::stop(&id("a")), &request).await.unwrap();
    assert!(!again.changed);

    let restarted = bus.control(Subject::restart(&id("a"))).await.unwrap();
    assert!(restarted.changed);
    let second = bus.wait_for_state("a", AgentState::Active).await;
    assert_ne!(second.run_id, first.run_id);

    let refused = bus.control(Subject::remove(&id("a"))).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::IllegalState), "{refused}");
    bus.stop("a").await;
    bus.control(Subject::remove(&id("a"))).await.unwrap();
    assert_eq!(bus.agent("a").await, None);
    let unknown = bus.control(Subject::stop(&id("a"))).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownAgent));
    let dir = daemon.state().agent(&id("a"));
    wait_until("nothing of a removed agent is kept", PATIENCE, || !dir.exists()).await;
}

async fn pid_in(file: &std::path::Path) -> u32 {
    let mut pid = None;
    wait_until("the process writes its id", PATIENCE, || {
        pid = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    })
    .await;
    pid.expect("the wait ended with it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_is_restarted_on_request_with_a_new_process() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let first = bus.spawn_active("a", script(["say:hello", "wait"])).await;
    bus.control(Subject::restart(&id("a"))).await.unwrap();
    let second = bus
        .wait_for_agent("a", "another process", |agent| {
            agent.state == AgentState::Active && agent.pid != first.pid
        })
        .await;
    assert!(!process::is_alive(first.pid.unwrap()) && process::is_alive(second.pid.unwrap()));
    let generations = ostler_testkit::wait_for("both greetings", PATIENCE, async || {
        let log = bus.log("a").await;
        (log.len() == 2).then(|| log.iter().map(|entry| entry.output.generation).collect::<Vec<_>>())
    })
    .await;
    assert_eq!(generations, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_refused_until_it_is_replaced() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    for request in [script(["wait"]), script(["say:other"])] {
        let refused = bus.try_spawn("a", &request).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::DuplicateAgent), "{refused}");
        assert!(refused.to_string().contains("exists already"), "{refused}");
    }
    bus.stop("a").await;
    let other = script(["say:other", "wait"]);
    let refused = bus.try_spawn("a", &other).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DuplicateAgent), "{refused}");
    bus.spawn("a", SpawnRequest { replace: true, ..other }).await;
    bus.wait_for_line("a", "other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_fleet_monitor_do_the_same_operations() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["echo"])).await;
    let command = |command, payload: Option<JsonMap>| {
        let message = CommandMessage { command, payload };
        let client = bus.client.clone();
        async move { client.publish(&Subject::command(&id("a")), &message).await.unwrap() }
    };
    let text = JsonMap::from_iter([("text".to_owned(), "do it".into())]);
    command(CommandType::Task, Some(text)).await;
    bus.wait_for_line("a", "echo: do it").await;
    command(CommandType::Pause, None).await;
    bus.wait_for_state("a", AgentState::Paused).await;
    command(CommandType::Resume, None).await;
    bus.wait_for_state("a", AgentState::Active).await;
    command(CommandType::Stop, None).await;
    bus.wait_for_state("a", AgentState::Terminated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_a_query_with_an_inbox_and_a_publication_without() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", script(["wait"])).await;
    let status = bus.status("a").await.unwrap();
    assert_eq!(
        (status.state, status.pid, status.run_id),
        (AgentState::Active, agent.pid, agent.run_id.unwrap())
    );
    // Somebody else's publication changes nothing: the host's revision is what counts, and it is a made-up run.
    let forged =
        StatusMessage { state: AgentState::Error, run_id: ostler_wire::RunId::generate(), ..status.clone() };
    bus.client.publish(&Subject::status(&id("a")), &forged).await.unwrap();
    assert_eq!(bus.status("a").await.unwrap().state, AgentState::Active);
    assert_eq!(bus.agent("a").await.unwrap().state, AgentState::Active);
    bus.stop("a").await;
    // The engine answers for an agent without a host, with its last word.
    assert_eq!(bus.status("a").await.unwrap().state, AgentState::Terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_is_followed_by_what_the_policy_says() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    use RestartPolicy::{Always, Never, OnFailure};
    for (name, policy, step) in [
        ("never-0", Never, "exit:0"),
        ("never-1", Never, "exit:1"),
        ("never-crash", Never, "crash"),
        ("failure-0", OnFailure, "exit:0"),
        ("failure-3", OnFailure, "exit:3"),
        ("failure-crash", OnFailure, "crash"),
        ("always-0", Always, "exit:0"),
    ] {
        let once = format!("once:{}", daemon.scratch().join(name).display());
        // The first process skips `wait` and ends; a second one waits.
        bus.spawn(name, restart(policy, script([&once, "wait", step]))).await;
    }
    for (name, code, signal) in [
        ("never-0", Some(0), None),
        ("never-1", Some(1), None),
        ("never-crash", None, Some(6)),
        ("failure-0", Some(0), None),
    ] {
        let agent = bus.wait_for_agent(name, "ended", |agent| !agent.state.is_live()).await;
        let exit = agent.exit.expect("it ended by itself");
        assert_eq!((exit.code, exit.signal, agent.restarts), (code, signal, 0), "{name}");
        let state = if code == Some(0) { AgentState::Terminated } else { AgentState::Error };
        assert_eq!((agent.state, agent.cause), (state, StatusCause::Exited), "{name}: {agent:?}");
    }
    for name in ["failure-3", "failure-crash", "always-0"] {
        let agent = bus
            .wait_for_agent(name, "runs again", |agent| {
                agent.restarts == 1 && agent.state == AgentState::Active
            })
            .await;
        assert!(process::is_alive(agent.pid.unwrap()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_crashes_again_and_again_is_left_alone_with_a_reason_and_an_alert() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let alerts = Recorder::start(&bus.client, Subject::DashboardAlert).await;
    bus.spawn("a", script(["stderr:out of oats", "exit:3"])).await;
    let agent = bus.wait_for_state("a", AgentState::Error).await;
    assert_eq!(agent.cause, StatusCause::CrashLoop);
    let message = agent.message.expect("a reason");
    assert!(message.contains("exit code 3") || message.contains("restarts"), "{message}");
    let alert = alerts.first("the alert", PATIENCE, |alert: &AlertMessage| alert.code == "crash_loop").await;
    assert_eq!(alert.agent_id, Some(id("a")));
    assert!(!alert.action.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ignores_the_polite_signal_is_ended_after_its_grace() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let agent = bus.spawn_active("a", script(["ignore-term", "say:deaf", "wait"])).await;
    bus.wait_for_line("a", "deaf").await;
    let start = std::time::Instant::now();
    let ended = bus.stop("a").await;
    assert!(start.elapsed() >= Duration::from_secs(1), "the grace of one second is kept");
    assert_eq!(ended.exit.and_then(|exit| exit.signal), Some(9));
    assert!(!process::is_alive(agent.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_no_grace() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let slow = SpawnRequest { stop_grace_ms: Some(60_000), ..script(["ignore-term", "say:deaf", "wait"]) };
    bus.spawn("a", slow).await;
    bus.wait_for_line("a", "deaf").await;
    bus.control(Subject::kill(&id("a"))).await.unwrap();
    bus.wait_for_state("a", AgentState::Terminated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_every_kind_arrive_as_they_were() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let request = script(["stderr:a warning", "long:300000", "partial:no end", "exit:0"]);
    bus.spawn("a", restart(RestartPolicy::Never, request)).await;
    bus.wait_for_state("a", AgentState::Terminated).await;
    let log = bus.log("a").await;
    assert_gapless(&log);
    let printed = lines(&log);
    assert_eq!(printed.len(), 2, "{printed:?}");
    assert_eq!((printed[0].len(), printed[1].as_str()), (300_000, "no end"));
    assert!(log.iter().any(|entry| entry.output.data.as_deref() == Some("a warning")));
}
