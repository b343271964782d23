//! Whatever is wrong is named with its remedy; nothing is lost, nothing panics, the daemon lives.
//!
//! Every daemon of these tests is asked to go down at the end and every log is searched for a panic.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ostler_client::Error;
use ostler_testkit::{
    Bus, CliOutput, Options, PATIENCE, Recorder, TestDaemon, assert_gapless, lines, process, script,
    wait_for, wait_until,
};
use ostler_wire::{
    AgentEvent, AgentId, AgentState, AlertMessage, ControlReply, ErrorBody, ErrorCode, InputReply, JsonMap,
    LogsReply, LogsRequest, NodeInfo, OutputStream, RestartPolicy, SpawnReply, SpawnRequest, Subject,
};

const SOON: Duration = Duration::from_secs(10);

fn id(name: &str) -> AgentId {
    AgentId::parse(name).expect("a proper name")
}

/// Asks with any subject and payload, and expects a refusal.
async fn refusal(bus: &Bus, subject: &str, payload: &str) -> ErrorBody {
    let answer: Result<JsonMap, Error> =
        bus.client.request_bytes(subject, payload.to_owned().into(), SOON).await;
    match answer {
        Err(Error::Reply(body)) => body,
        other => panic!("{subject} with {payload:?} was not refused: {other:?}"),
    }
}

/// An ordinary agent can be started, spoken to and stopped.
async fn assert_works(bus: &Bus) {
    bus.spawn_active("proof", SpawnRequest { replace: true, ..script(["echo"]) }).await;
    bus.send("proof", "still here").await;
    bus.wait_for_line("proof", "echo: still here").await;
    bus.stop("proof").await;
}

fn assert_refused(output: &CliOutput, code: i32, words: &[&str]) {
    assert_eq!(output.code, Some(code), "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is not said: {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_json_and_wrong_types_are_refused_on_every_subject() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let node = &bus.node;
    for subject in [
        "agent.new.spawn".to_owned(),
        "agent.a.stop".to_owned(),
        "agent.a.pause".to_owned(),
        "agent.a.resume".to_owned(),
        "agent.a.restart".to_owned(),
        "agent.a.kill".to_owned(),
        "agent.a.command".to_owned(),
        "agent.a.logs".to_owned(),
        "agent.a.remove".to_owned(),
        format!("node.{node}.events"),
        format!("node.{node}.down"),
    ] {
        let broken = refusal(&bus, &subject, "{\"force\":").await;
        assert_eq!(broken.code, ErrorCode::InvalidJson, "{subject}: {broken:?}");
        assert!(broken.message.contains("column") && broken.hint.is_some(), "{subject}: {broken:?}");
        let wrong = refusal(&bus, &subject, "\"oats\"").await;
        assert_eq!(wrong.code, ErrorCode::InvalidMessage, "{subject}: {wrong:?}");
    }
    for (subject, payload) in [
        ("agent.new.spawn", r#"{"command":"sleep 1"}"#),
        ("agent.new.spawn", r#"{"command":["sleep"],"restart":"sometimes"}"#),
        ("agent.new.spawn", r#"{"kind":"horse"}"#),
        ("agent.a.stop", r#"{"force":"please"}"#),
        ("agent.a.command", r#"{"type":"dance"}"#),
        ("agent.a.command", r#"{"type":"task"}"#),
        ("agent.a.input", r#"{"text":7}"#),
        ("agent.a.input", r#"{"type":"smoke","text":"signals"}"#),
        ("agent.a.input", ""),
        ("agent.a.logs", r#"{"after":-1}"#),
        ("agent.a.logs", r#"{"since":"yesterday"}"#),
    ] {
        let wrong = refusal(&bus, subject, payload).await;
        assert_eq!(wrong.code, ErrorCode::InvalidMessage, "{subject} {payload}: {wrong:?}");
    }
    assert_eq!(refusal(&bus, "agent.a.input", "{\"text\":").await.code, ErrorCode::InvalidJson);
    assert_eq!(bus.agents().await.len(), 1, "nothing was made of the bad spawns");
    assert_eq!(bus.status("a").await.unwrap().state, AgentState::Active);
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_ignored_on_the_bus() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let mut spawn = serde_json::to_value(script(["echo"])).unwrap();
    spawn["shoe_size"] = 42.into();
    let reply: SpawnReply =
        bus.client.request_bytes("agent.a.spawn", spawn.to_string().into(), SOON).await.unwrap();
    assert_eq!(reply.agent_id, id("a"));
    bus.wait_for_state("a", AgentState::Active).await;
    let input = r#"{"text":"hay","mood":"good","nested":{"a":[1]}}"#;
    let reply: InputReply = bus.client.request_bytes("agent.a.input", input.into(), SOON).await.unwrap();
    assert!(reply.delivered);
    bus.wait_for_line("a", "echo: hay").await;
    let reply: ControlReply =
        bus.client.request_bytes("agent.a.pause", r#"{"why":"rest"}"#.into(), SOON).await.unwrap();
    assert!(reply.changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_publications_is_survived_and_counts_for_nothing() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["forever:20"])).await;
    bus.wait_for_line("a", "line 3").await;
    for topic in ["status", "output", "heartbeat", "command", "shutdown", "hook.PreToolUse", "stop.request"] {
        for payload in
            ["", "{", "[]", "null", "7", "{\"agent_id\":\"a\"}", "{\"agent_id\":\"b.c\"}", "\u{0}\u{1}"]
        {
            let subject = format!("agent.a.{topic}");
            bus.client.publish_bytes(&subject, None, payload.to_owned().into()).await.unwrap();
        }
    }
    // A number far ahead of what the host said, and one of a run that never was.
    let mut output = serde_json::to_value(&bus.log("a").await[0].output).unwrap();
    output["seq"] = 1_000_000.into();
    bus.client.publish(&Subject::output(&id("a")), &output).await.unwrap();
    output["run_id"] = "00000000-0000-7000-8000-000000000000".into();
    bus.client.publish(&Subject::output(&id("a")), &output).await.unwrap();
    assert_works(&bus).await;
    let count = bus.log("a").await.len();
    bus.wait_for_line("a", &format!("line {}", count + 5)).await;
    let log = bus.log("a").await;
    assert_gapless(&log);
    let strange = log.iter().filter(|entry| entry.output.stream != OutputStream::Stdout);
    // A command nobody waits for an answer to is refused where somebody may see it.
    for entry in strange {
        let event = entry.output.event.as_ref();
        assert!(
            matches!(event, Some(AgentEvent::Notice { text, .. }) if text.contains("refused")),
            "{entry:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_break_the_rule_are_refused_with_the_rule() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let long = "x".repeat(65);
    for name in ["ümlaut", "dollar$", "a/b", &long] {
        for verb in ["spawn", "stop", "status", "logs"] {
            let refused = refusal(&bus, &format!("agent.{name}.{verb}"), "{}").await;
            assert_eq!(refused.code, ErrorCode::InvalidId, "{name} {verb}: {refused:?}");
            assert!(refused.message.contains("1 to 64 characters"), "{refused:?}");
        }
        let output = daemon.ostler(["stop", name]);
        assert_refused(&output, 2, &["1 to 64 characters"]);
    }
    let nobody = bus.client.request_bytes::<JsonMap>("agent.a.gallop", "{}".into(), SOON).await;
    assert!(
        matches!(nobody, Err(Error::NoResponders { .. })),
        "told at once that nobody answers: {nobody:?}"
    );
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_names_an_agent_nobody_knows() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    for (verb, payload) in [
        ("stop", "{}"),
        ("pause", "{}"),
        ("resume", "{}"),
        ("restart", "{}"),
        ("kill", "{}"),
        ("command", r#"{"type":"pause"}"#),
        ("input", r#"{"text":"hello"}"#),
        ("status", "{}"),
        ("logs", "{}"),
        ("remove", "{}"),
    ] {
        let refused = refusal(&bus, &format!("agent.nobody.{verb}"), payload).await;
        assert_eq!(refused.code, ErrorCode::UnknownAgent, "{verb}: {refused:?}");
        assert!(refused.message.contains("nobody"), "{verb}: {refused:?}");
        assert!(refused.hint.is_some(), "{verb}: {refused:?}");
    }
    for output in [
        daemon.ostler(["stop", "nobody"]),
        daemon.ostler(["pause", "nobody"]),
        daemon.ostler(["resume", "nobody"]),
        daemon.ostler(["restart", "nobody"]),
        daemon.ostler(["kill", "nobody"]),
        daemon.ostler(["send", "nobody", "hello"]),
        daemon.ostler(["status", "nobody"]),
        daemon.ostler(["logs", "nobody"]),
        daemon.ostler(["attach", "nobody"]),
        daemon.ostler(["rm", "nobody"]),
    ] {
        assert_refused(&output, 4, &["error:", "nobody", "hint:"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_and_directories_that_are_not_there_are_named() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let plain_file = daemon.scratch().join("notes.txt");
    std::fs::write(&plain_file, "no program").unwrap();
    let file = plain_file.display().to_string();
    let spawn = |command: &[&str], dir: Option<&str>| SpawnRequest {
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        dir: dir.map(Into::into),
        ..SpawnRequest::default()
    };
    for (request, code, words) in [
        (spawn(&["no-such-program"], None), ErrorCode::MissingProgram, "no-such-program"),
        (spawn(&["/no/such/program"], None), ErrorCode::MissingProgram, "/no/such/program"),
        (spawn(&[&file], None), ErrorCode::MissingProgram, "may not be executed"),
        (spawn(&["sh"], Some("/no/such/place")), ErrorCode::MissingDirectory, "/no/such/place"),
        (spawn(&["sh"], Some(&file)), ErrorCode::MissingDirectory, "is not a directory"),
        (spawn(&["sh"], Some("relative")), ErrorCode::MissingDirectory, "is not absolute"),
        (spawn(&[], None), ErrorCode::InvalidMessage, "needs a command"),
    ] {
        match bus.try_spawn("a", &request).await {
            Err(Error::Reply(body)) => {
                assert_eq!(body.code, code, "{request:?}: {body:?}");
                assert!(body.message.contains(words), "{words:?} is not said: {body:?}");
                assert!(body.hint.is_some(), "{body:?}");
            }
            other => panic!("{request:?} was not refused: {other:?}"),
        }
    }
    assert_eq!(bus.agents().await, [], "nothing is left of them");
    assert_refused(&daemon.ostler(["spawn", "a", "--", "no-such-program"]), 8, &["no-such-program", "hint:"]);
    assert_refused(
        &daemon.ostler(["spawn", "a", "--dir", "/no/such/place", "--", "sh"]),
        8,
        &["/no/such/place"],
    );
    assert_refused(&daemon.ostler(["spawn", "a", "--dir", &file, "--", "sh"]), 8, &[&file]);
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_vanished_is_told_at_the_restart() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let program = daemon.scratch().join("here-today");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut request = script([]);
    request.command = vec![program.display().to_string(), "3600".into()];
    bus.spawn_active("a", request).await;
    bus.stop("a").await;
    std::fs::remove_file(&program).unwrap();
    // The request is granted; what became of it is told by the state.
    let _ = bus.control(Subject::restart(&id("a"))).await;
    let failed = bus
        .wait_for_agent("a", "failed and said why", |agent| {
            agent.state == AgentState::Error
                && agent.message.as_deref().is_some_and(|message| message.contains("here-today"))
        })
        .await;
    assert_eq!(failed.pid, None);
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_the_bus_does_not_carry_is_refused_and_nobody_else_notices() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["echo"])).await;
    // Our own client says so without sending it.
    let large = "x".repeat((8 << 20) + 1);
    let error = bus.client.publish_bytes("agent.a.input", None, large.into()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");

    // Another client that sends it anyway loses its connection.
    let mut raw = raw_operator(&daemon);
    write!(raw, "PUB agent.a.input {}\r\n", (8 << 20) + 1).unwrap();
    let mut said = String::new();
    raw.read_to_string(&mut said).unwrap();
    assert!(said.contains("-ERR 'Maximum Payload Violation'"), "{said}");

    // The largest one that fits arrives whole.
    let largest = vec![b'y'; (8 << 20) - 64];
    let mut line = largest.clone();
    line.push(b'\n');
    bus.client.publish_bytes("agent.a.input", None, line.into()).await.unwrap();
    let whole = wait_for("the large line comes back", PATIENCE, async || {
        let log = bus.log("a").await;
        let text: String = lines(&log).concat();
        (text.len() == largest.len() + "echo: ".len()).then_some(log)
    })
    .await;
    assert_gapless(&whole);
    assert_works(&bus).await;
}

/// A connection of the operator's without a client library: what a careless one would send.
fn raw_operator(daemon: &TestDaemon) -> TcpStream {
    let address = daemon.endpoint().expect("the daemon runs").bus_url.replace("nats://", "");
    let mut stream = TcpStream::connect(address).expect("the bus listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a patience");
    let mut info = Vec::new();
    let mut byte = [0];
    while info.last() != Some(&b'\n') {
        stream.read_exact(&mut byte).expect("the bus says who it is");
        info.push(byte[0]);
    }
    let info: serde_json::Value = serde_json::from_slice(&info["INFO ".len()..]).expect("INFO is JSON");
    let seed = std::fs::read_to_string(daemon.state().operator_key()).expect("the operator's key");
    let pair = nkeys::KeyPair::from_seed(seed.trim()).expect("a seed");
    let nonce = info["nonce"].as_str().expect("a nonce to sign");
    let signature = data_encoding::BASE64URL_NOPAD.encode(&pair.sign(nonce.as_bytes()).expect("a signature"));
    let connect = serde_json::json!({
        "nkey": pair.public_key(), "sig": signature, "verbose": false, "pedantic": false, "name": "raw",
    });
    write!(stream, "CONNECT {connect}\r\n").expect("the bus reads");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_the_wire_ends_that_connection_alone() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    for nonsense in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "PUB\r\n",
        "SUB a.b.c\r\n",
        "PUB x -1\r\n\r\n",
        "CONNECT {]\r\n",
        "\0\0\0\0\r\n",
    ] {
        let mut raw = raw_operator(&daemon);
        raw.write_all(nonsense.as_bytes()).unwrap();
        let mut said = Vec::new();
        let ended = raw.read_to_end(&mut said);
        assert!(ended.is_ok(), "{nonsense:?} was answered {said:?} {ended:?}");
    }
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_logs_come_in_pages_that_fit_the_bus() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    // A quote is two bytes in JSON: ten megabytes of output are twenty on the bus.
    let print = r#"i=0; while [ $i -lt 5 ]; do head -c 2000000 /dev/zero | tr '\0' '"'; echo; i=$((i+1)); done; head -c 20000000 /dev/zero | tr '\0' x"#;
    let mut request = script([]);
    request.command = ["sh", "-c", print].map(str::to_owned).to_vec();
    bus.spawn("a", SpawnRequest { restart: RestartPolicy::Never, ..request }).await;
    bus.wait_for_state("a", AgentState::Terminated).await;
    let log = bus.log("a").await;
    assert_gapless(&log);
    // A line that does not fit one message comes in parts, and only its last part is not marked as one.
    let mut sizes = vec![0];
    for entry in &log {
        *sizes.last_mut().unwrap() += entry.output.data.as_deref().unwrap_or_default().len();
        if !entry.output.partial {
            sizes.push(0);
        }
    }
    assert_eq!(sizes, [2_000_000, 2_000_000, 2_000_000, 2_000_000, 2_000_000, 20_000_000, 0]);
    // Whatever page is asked for.
    let request = LogsRequest { limit: Some(1000), ..LogsRequest::default() };
    let page: LogsReply = bus.client.request(&Subject::logs(&id("a")), &request).await.unwrap();
    assert!(page.more && !page.entries.is_empty());
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_the_way_out() {
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = squatter.local_addr().unwrap().to_string();
    let daemon = TestDaemon::prepare(Options::default());
    let output = daemon.ostler(["up", "--listen", &address]);
    assert_refused(&output, 1, &[&address, "in use", "--listen"]);
    let output = daemon.ostler(["up", "--detach", "--listen", &address]);
    assert_refused(&output, 1, &[&address, "in use", "--listen"]);
    assert!(!daemon.state().endpoint().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_names_the_first() {
    let daemon = TestDaemon::start();
    let pid = daemon.pid().to_string();
    assert_refused(&daemon.ostler(["up"]), 5, &["runs already", &pid, "hint:"]);
    assert_refused(&daemon.ostler(["up", "--detach"]), 5, &["runs already", &pid, "hint:"]);
    assert_works(&daemon.bus().await).await;
    // The first one's address was not touched by the second one's failure.
    assert_eq!(daemon.endpoint().unwrap().pid, daemon.pid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_configuration_is_shown_at_its_place_and_nothing_is_started() {
    let daemon = TestDaemon::prepare(Options::default());
    for (text, words) in [
        ("[bus]\nlisen = \"127.0.0.1:0\"\n", vec!["lisen", "did you mean `listen`?"]),
        ("[bus\n", vec!["config.toml"]),
        ("[agents]\nheartbeat = 15\n", vec!["heartbeat"]),
        ("[agents]\nheartbeat = \"1ms\"\n", vec!["at least \"100ms\""]),
        ("[bus]\nlisten = \"localhost\"\n", vec!["listen"]),
        ("\u{0}\u{1}\u{2}", vec!["config.toml"]),
    ] {
        daemon.write_config(text);
        for output in [daemon.ostler(["up"]), daemon.ostler(["up", "-d"]), daemon.ostler(["config", "check"])]
        {
            assert_refused(&output, 7, &words);
        }
    }
    std::fs::write(daemon.config_path(), b"[bus]\nlisten = \"\xff\xfe\"\n").unwrap();
    assert_refused(&daemon.ostler(["up"]), 7, &["config.toml"]);
    std::fs::remove_file(daemon.config_path()).unwrap();
    assert_refused(&daemon.ostler(["up"]), 7, &["config.toml"]);
    assert!(!daemon.state().endpoint().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_database_is_named_and_left_untouched() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    bus.stop("a").await;
    assert_eq!(daemon.ostler(["down"]).code, Some(0));
    daemon.wait();
    // Everything the database consists of; what is in the log beside it would mend the file.
    let database = daemon.state().database();
    let files = ["", "-wal", "-shm"].map(|end| Path::new(&format!("{}{end}", database.display())).to_owned());
    let sound = files.clone().map(|file| std::fs::read(file).ok());
    let mut damaged = sound[0].clone().unwrap();
    damaged[..100].fill(b'x');
    for file in files.iter().filter(|file| file.exists()) {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::write(&database, &damaged).unwrap();
    let output = daemon.ostler(["up"]);
    assert_refused(&output, 1, &[database.to_str().unwrap(), "damaged", "move it away"]);
    assert_eq!(std::fs::read(&database).unwrap(), damaged, "nothing is thrown away unasked");
    assert!(!daemon.state().endpoint().exists());
    for (file, content) in files.iter().zip(sound) {
        if let Some(content) = content {
            std::fs::write(file, content).unwrap();
        }
    }
    daemon.up();
    assert_eq!(daemon.bus().await.agents().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_or_corrupt_address_is_no_daemon_and_no_obstacle() {
    let mut daemon = TestDaemon::start();
    daemon.kill9();
    assert!(daemon.state().endpoint().exists(), "a killed daemon tidies nothing up");
    assert_refused(&daemon.ostler(["ps"]), 3, &["ostler up"]);
    for text in ["", "{", "[]", "{\"bus_url\":\"nats://127.0.0.1:1\"}", "\u{0}"] {
        std::fs::write(daemon.state().endpoint(), text).unwrap();
        let output = daemon.ostler(["ps"]);
        assert_refused(&output, 3, &["daemon.json", "ostler up"]);
    }
    daemon.up();
    assert_works(&daemon.bus().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let mut daemon = TestDaemon::start();
    let key = daemon.state().operator_key();
    let open = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    open(0o644);
    let output = daemon.ostler(["ps"]);
    assert_ne!(output.code, Some(0));
    assert!(output.stderr.contains("chmod 600"), "{output:?}");
    daemon.kill9();
    assert_refused(&daemon.ostler(["up"]), 1, &["chmod 600", key.to_str().unwrap()]);
    open(0o600);
    daemon.up();
    assert_works(&daemon.bus().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_key_is_refused_without_being_quoted() {
    let mut daemon = TestDaemon::start();
    daemon.kill9();
    std::fs::write(daemon.state().operator_key(), "SUNOTAKEYATALL\n").unwrap();
    let output = daemon.ostler(["up"]);
    assert_refused(&output, 1, &["operator.nk"]);
    assert!(!output.stderr.contains("NOTAKEY"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_is_a_file_is_named() {
    let daemon = TestDaemon::prepare(Options::default());
    std::fs::write(daemon.state().path(), "not a directory").unwrap();
    let path = daemon.state().path().to_str().unwrap().to_owned();
    for output in [daemon.ostler(["up"]), daemon.ostler(["up", "-d"])] {
        assert!(matches!(output.code, Some(1 | 8)), "{output:?}");
        assert!(output.stderr.contains(&path) && output.stderr.contains("hint:"), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_of_a_run_do_not_keep_the_daemon_from_starting() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", SpawnRequest { restart: RestartPolicy::Always, ..script(["wait"]) }).await;
    let run =
        std::fs::read_dir(daemon.state().agent(&id("a")).join("runs")).unwrap().next().unwrap().unwrap();
    daemon.kill9();
    let host = daemon.host_record("a").unwrap().host;
    process::kill9(host.pid);
    wait_until("the run is over", PATIENCE, || daemon.processes().is_empty()).await;
    std::fs::write(run.path().join("host.json"), "{\"run_id\":").unwrap();
    std::fs::write(run.path().join("spool.jsonl"), "{\"agent_id\":\"a\",\n\u{0}\n").unwrap();
    std::fs::create_dir_all(daemon.state().path().join("agents/not an id/runs")).unwrap();
    daemon.up();
    let bus = daemon.bus().await;
    bus.wait_for_state("a", AgentState::Active).await;
    assert_works(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_alerts_and_loses_nothing() {
    let daemon = TestDaemon::with(Options { disk: Some("6m"), ..Options::default() });
    let bus = daemon.bus().await;
    let alerts = Recorder::start(&bus.client, Subject::DashboardAlert).await;
    bus.spawn_active("a", script(["forever:10"])).await;
    bus.spawn_active("b", script(["echo"])).await;
    bus.wait_for_line("a", "line 5").await;

    let ballast = daemon.state().path().join("ballast");
    fill(&ballast);
    let alert =
        alerts.first("the alert", PATIENCE, |alert: &AlertMessage| alert.code == "storage_failed").await;
    assert!(!alert.action.is_empty(), "{alert:?}");
    let refused = refusal(&bus, "agent.c.spawn", &serde_json::to_string(&script(["wait"])).unwrap()).await;
    assert_eq!(refused.code, ErrorCode::StorageFailed, "{refused:?}");
    assert!(refused.hint.is_some());
    // Reading goes on, and agents can still be spoken to, paused and resumed.
    assert_eq!(bus.agents().await.len(), 2);
    let before = bus.log("a").await.len();
    assert!(before >= 5);
    assert!(bus.send("b", "all well?").await.delivered);
    assert!(bus.pause("b").await.changed);
    assert!(bus.resume("b").await.changed);

    std::fs::remove_file(&ballast).unwrap();
    bus.wait_for_line("b", "echo: all well?").await;
    bus.wait_for_line("a", &format!("line {}", before + 100)).await;
    let log = bus.log("a").await;
    assert_gapless(&log);
    let expected: Vec<String> = (1..=log.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(lines(&log), expected, "nothing was lost while the disk was full");
    let stored = async || {
        let info: NodeInfo =
            bus.client.request(&Subject::NodeInfo(bus.node.clone()), &JsonMap::new()).await.ok()?;
        info.audit.filter(|audit| audit.waiting() == 0 && audit.problem.is_none())
    };
    wait_for("the audit is stored", PATIENCE, stored).await;
    let verified = daemon.ostler(["audit", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_works(&bus).await;
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut ballast = std::fs::File::create(path).expect("there is space yet");
    let block = [0; 4096];
    while ballast.write_all(&block).is_ok() {}
}
