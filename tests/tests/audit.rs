//! The audit of a whole daemon: what it tells, that nothing is missing or doubled whatever is killed, that tampering
//! shows, and who may read and write it.
#![allow(clippy::unwrap_used, reason = "a test's helper may give up like the test itself")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ostler_client::{Client, Error, From, Page, Stored};
use ostler_testkit::{Bus, BusKind, NatsServer, Options, PATIENCE, TestDaemon, script, wait_for};
use ostler_wire::{
    AUDIT_HASH_HEADER, AUDIT_HASH_NONE, AUDIT_STREAM, AgentId, AuditEntry, AuditStatus, DESIRED_STREAM,
    DesiredAgent, DesiredState, JsonMap, NodeInfo, SpawnRequest, Subject, audit_hash,
};
use serde_json::{Value, json};

fn id(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

async fn status(bus: &Bus) -> Option<AuditStatus> {
    let subject = Subject::NodeInfo(bus.node.clone());
    let info: NodeInfo = bus.client.request(&subject, &JsonMap::new()).await.ok()?;
    info.audit
}

/// Waits until everything that was told is stored.
async fn all_stored(bus: &Bus) -> AuditStatus {
    wait_for("everything is stored", PATIENCE, async || {
        status(bus).await.filter(|status| status.seq > 0 && status.waiting() == 0 && status.problem.is_none())
    })
    .await
}

async fn messages(client: &Client, stream: &str, filter: &str) -> Vec<Stored> {
    let mut all = Vec::new();
    let mut from = 1;
    loop {
        let page = Page { stream, filter, from: From::Sequence(from), limit: 500, header: AUDIT_HASH_HEADER };
        let stored = client.read_stored(&page).await.expect("the stream can be read");
        let Some(last) = stored.last() else { return all };
        from = last.seq + 1;
        all.extend(stored);
    }
}

async fn entries(bus: &Bus) -> Vec<AuditEntry> {
    let messages = messages(&bus.client, AUDIT_STREAM, "audit.>").await;
    messages.iter().map(|message| serde_json::from_slice(&message.payload).expect("an entry")).collect()
}

/// Checks the chain by hand, with nothing of the program's: numbers, hashes, links.
fn assert_chained(messages: &[Stored]) -> Vec<AuditEntry> {
    let mut prev = AUDIT_HASH_NONE.to_owned();
    let mut all = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let entry: AuditEntry = serde_json::from_slice(&message.payload).expect("an entry");
        assert_eq!(entry.seq, index as u64 + 1, "no entry is missing, none is there twice: {entry:?}");
        assert_eq!(entry.prev, prev, "entry {} follows the one before it", entry.seq);
        prev = audit_hash(&message.payload);
        assert_eq!(message.header.as_ref(), Some(&prev));
        assert_eq!(message.subject, entry.subject().to_string());
        all.push(entry);
    }
    all
}

fn verify(daemon: &TestDaemon) -> (Option<i32>, Value) {
    let said = daemon.ostler(["audit", "verify", "--json"]);
    (said.code, serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_with_who_asked_and_the_chain_is_intact() {
    let daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    for verb in ["pause", "resume", "restart", "stop", "rm"] {
        let said = daemon.ostler([verb, "a"]);
        assert_eq!(said.code, Some(0), "{verb}: {said:?}");
    }
    all_stored(&bus).await;
    let messages = messages(&bus.client, AUDIT_STREAM, "audit.>").await;
    let told = assert_chained(&messages);
    let kinds: Vec<&str> = told.iter().map(|entry| entry.kind.as_str()).collect();
    let wanted = [
        "daemon.started",
        "command.spawn",
        "agent.spawned",
        "agent.launched",
        "command.pause",
        "command.resume",
        "command.restart",
        "command.stop",
        "command.remove",
        "agent.removed",
    ];
    for kind in wanted {
        assert_eq!(kinds.iter().filter(|told| **told == kind).count(), 1, "{kind} in {kinds:?}");
    }
    let pause = told.iter().find(|entry| entry.kind == "command.pause").unwrap();
    assert!(pause.by.as_deref().is_some_and(|by| by.contains('@')), "{pause:?}");
    // Every recorded event is told too, and in the same order.
    let events: Vec<String> = bus.events().await.into_iter().map(|event| event.text).collect();
    let told: Vec<String> = told
        .into_iter()
        .filter(|entry| !entry.kind.starts_with("command."))
        .map(|entry| entry.text)
        .collect();
    assert_eq!(told, events);

    let (code, found) = verify(&daemon);
    assert_eq!((code, &found["intact"]), (Some(0), &json!(true)), "{found}");
    assert_eq!(found["entries"], messages.len());
    let shown = daemon.ostler(["audit", "--agent", "a", "--since", "1h", "--json"]);
    assert!(shown.stdout.lines().count() >= 9, "{shown:?}");
    let replayed = daemon.ostler(["replay", "a", "--at-once"]);
    assert!(replayed.stdout.contains("command.remove"), "{replayed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_says_what_is_wanted_and_forgets_who_was_removed() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    let wanted = async |name: &str| -> Option<DesiredAgent> {
        let subject = Subject::Desired(bus.node.clone(), id(name)).to_string();
        let last = bus.client.last_stored(DESIRED_STREAM, &subject, "KV-Operation").await.ok()??;
        serde_json::from_slice(&last.payload).ok()
    };
    bus.spawn_active("a", script(["wait"])).await;
    let running = wait_for("a is wanted", PATIENCE, async || wanted("a").await).await;
    assert_eq!(running.desired, DesiredState::Running);
    assert!(!running.spawn.command.is_empty());
    bus.stop("a").await;
    let stopped = async || wanted("a").await.filter(|agent| agent.desired == DesiredState::Stopped);
    wait_for("a is not wanted to run", PATIENCE, stopped).await;

    // Also what a daemon did not live to say is said by the next one.
    bus.control(Subject::remove(&id("a"))).await.unwrap();
    daemon.kill9();
    daemon.up();
    let subject = Subject::Desired(bus.node.clone(), id("a")).to_string();
    let gone = async || {
        let last = bus.client.last_stored(DESIRED_STREAM, &subject, "KV-Operation").await.ok()??;
        (last.header.as_deref() == Some("DEL")).then_some(())
    };
    wait_for("a is forgotten", PATIENCE, gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_the_bus_does_not_carry_holds_nothing_up() {
    let daemon = TestDaemon::with(own());
    let bus = daemon.bus().await;
    let request = |name: String| SpawnRequest { config_name: Some(name), ..script(["wait"]) };
    let rest = serde_json::to_vec(&request(String::new())).unwrap().len();
    // The bus carries the request, and not its definition, which says a little more.
    let large = request("y".repeat(bus.client.payload_bytes_max() - rest - 20));
    bus.spawn_active("large", large).await;
    bus.spawn_active("small", script(["wait"])).await;
    let told = async || {
        let events = bus.events().await;
        events
            .iter()
            .any(|event| event.details.get("code") == Some(&json!("desired_unpublished")))
            .then_some(())
    };
    wait_for("an alert", PATIENCE, told).await;
    assert!(all_stored(&bus).await.problem.is_none());
    let subject = Subject::Desired(bus.node.clone(), id("small")).to_string();
    let small = async || bus.client.last_stored(DESIRED_STREAM, &subject, "").await.ok()?;
    wait_for("the other is published", PATIENCE, small).await;
    assert_eq!(verify(&daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_the_daemon_under_load_lose_nothing_and_double_nothing() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    for name in ["a", "b", "c"] {
        bus.spawn_active(name, script(["wait"])).await;
    }
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..20 {
        let load = {
            let bus = bus.clone();
            tokio::spawn(async move {
                loop {
                    for name in ["a", "b", "c"] {
                        // Refused or unanswered while the daemon is away: only what was recorded counts.
                        let _ = bus.control(Subject::pause(&id(name))).await;
                        let _ = bus.control(Subject::resume(&id(name))).await;
                    }
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(random.u64(20..250))).await;
        daemon.kill9();
        load.abort();
        daemon.up();
    }
    let bus = daemon.bus().await;
    let end = all_stored(&bus).await;
    let told = assert_chained(&messages(&bus.client, AUDIT_STREAM, "audit.>").await);
    assert!(told.len() as u64 >= end.stored, "{} of {}", told.len(), end.stored);
    let starts = told.iter().filter(|entry| entry.kind == "daemon.started").count();
    assert_eq!(starts, 21);
    // What SQLite recorded, which is the truth, is what the audit tells.
    let events = bus.events().await;
    let texts: Vec<&String> = events.iter().map(|event| &event.text).collect();
    let told: Vec<&String> = told
        .iter()
        .filter(|entry| !entry.kind.starts_with("command."))
        .map(|entry| &entry.text)
        .take(texts.len())
        .collect();
    assert_eq!(told, texts);
    let (code, found) = verify(&daemon);
    assert_eq!(code, Some(0), "{found}");
}

/// The files of the audit stream on the daemon's own bus.
fn stream_dir(daemon: &TestDaemon) -> PathBuf {
    daemon.state().streams().join("streams").join(AUDIT_STREAM)
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn own() -> Options {
    Options { bus: BusKind::Own, ..Options::default() }
}

/// A daemon with some history that has ended.
async fn with_history() -> TestDaemon {
    let daemon = TestDaemon::with(own());
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    bus.pause("a").await;
    bus.resume("a").await;
    bus.stop("a").await;
    all_stored(&bus).await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_stream_shows() {
    let mut daemon = with_history().await;
    daemon.ostler(["down"]);
    daemon.wait();
    let copy = daemon.scratch().join("copy");
    copy_dir(&stream_dir(&daemon), &copy);
    daemon.up();
    let bus = daemon.bus().await;
    let restarted = bus.control(Subject::restart(&id("a"))).await;
    assert!(restarted.is_ok(), "{restarted:?}");
    all_stored(&bus).await;
    daemon.ostler(["down"]);
    daemon.wait();
    std::fs::remove_dir_all(stream_dir(&daemon)).unwrap();
    copy_dir(&copy, &stream_dir(&daemon));
    daemon.up();
    let bus = daemon.bus().await;
    let alerted = async || {
        let alerts = bus.events().await;
        alerts.iter().any(|event| event.details.get("code") == Some(&json!("audit_broken"))).then_some(())
    };
    wait_for("an alert", PATIENCE, alerted).await;
    all_stored(&bus).await;
    let (code, found) = verify(&daemon);
    assert_eq!(code, Some(9), "{found}");
    assert!(found["faults"][0]["text"].as_str().unwrap().contains("missing"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_deleted_shows() {
    let mut daemon = with_history().await;
    daemon.kill9();
    std::fs::remove_dir_all(stream_dir(&daemon)).unwrap();
    daemon.up();
    all_stored(&daemon.bus().await).await;
    let (code, found) = verify(&daemon);
    assert_eq!(code, Some(9), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_was_changed_on_disk_shows() {
    let mut daemon = with_history().await;
    daemon.ostler(["down"]);
    daemon.wait();
    let segment = stream_dir(&daemon).join("00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(13).position(|window| window == b"command.pause").expect("the entry is in it");
    bytes[at + 8] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    daemon.up();
    let (code, found) = verify(&daemon);
    assert_eq!(code, Some(9), "{found}");
    let events = daemon.bus().await.events().await;
    assert!(
        events.iter().any(|event| event.details.get("code") == Some(&json!("stream_damaged"))),
        "{events:?}"
    );
}

/// The same entries, one of them with another text, and every hash computed anew.
fn forged(messages: &[Stored], from: &str, to: &str) -> Vec<(String, String, String)> {
    let mut prev = AUDIT_HASH_NONE.to_owned();
    let mut all = Vec::new();
    for message in messages {
        let mut entry: AuditEntry = serde_json::from_slice(&message.payload).unwrap();
        entry.text = entry.text.replace(from, to);
        entry.prev = prev;
        let payload = serde_json::to_string(&entry).unwrap();
        prev = audit_hash(payload.as_bytes());
        all.push((message.subject.clone(), prev.clone(), payload));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_written_anew_with_proper_hashes_shows() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::start(dir.path());
    let options = Options { bus: BusKind::External, ..Options::default() };
    let mut daemon = TestDaemon::prepare_with_bus(options, &nats.bus_section());
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    bus.pause("a").await;
    all_stored(&bus).await;
    daemon.ostler(["down"]);
    daemon.wait();
    let place = ostler_client::Bus::Url(nats.url());
    let admin =
        Client::connect(ostler_client::Options::new("admin", place, nats.key("daemon"))).await.unwrap();
    let (before, last) = {
        let operator = bus.client.clone();
        let all = messages(&operator, AUDIT_STREAM, "audit.>").await;
        let last = all.last().map(|message| audit_hash(&message.payload)).unwrap();
        (all, last)
    };
    nats.kill9();
    std::fs::remove_dir_all(dir.path().join("jetstream")).unwrap();
    nats.up();
    let config = json!({ "name": AUDIT_STREAM, "subjects": ["audit.>"], "allow_direct": true,
        "deny_delete": true, "deny_purge": true });
    wait_for("the stream is made", PATIENCE, async || {
        admin.ensure_stream(config.as_object().unwrap(), ostler_client::Narrower::Apply).await.ok()
    })
    .await;
    for (subject, hash, payload) in forged(&before, "pause was asked for", "nothing was asked for") {
        admin.store(&subject, None, &[(AUDIT_HASH_HEADER, &hash)], payload.into()).await.unwrap();
    }
    daemon.up();
    let bus = daemon.bus().await;
    let alerted = async || {
        let events = bus.events().await;
        events.iter().any(|event| event.details.get("code") == Some(&json!("audit_broken"))).then_some(())
    };
    wait_for("an alert", PATIENCE, alerted).await;
    let (code, found) = verify(&daemon);
    assert_eq!(code, Some(9), "{found}");
    let noted = format!("{}:{last}", before.len());
    assert_eq!(daemon.ostler(["audit", "verify", "--noted", &noted]).code, Some(9));
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_database_begins_a_new_chain_and_says_so() {
    let mut daemon = with_history().await;
    daemon.ostler(["down"]);
    daemon.wait();
    // With what SQLite keeps beside it.
    let files = ["ostler.db", "ostler.db-wal", "ostler.db-shm"];
    let (state, copy) = (daemon.state().path().to_owned(), daemon.scratch().join("copy"));
    std::fs::create_dir(&copy).unwrap();
    for file in files {
        let _ = std::fs::copy(state.join(file), copy.join(file));
    }
    daemon.up();
    all_stored(&daemon.bus().await).await;
    daemon.ostler(["down"]);
    daemon.wait();
    for file in files {
        let _ = std::fs::remove_file(state.join(file));
        let _ = std::fs::copy(copy.join(file), state.join(file));
    }
    daemon.up();
    let bus = daemon.bus().await;
    let alerted = async || {
        let told = entries(&bus).await;
        told.iter().any(|entry| entry.kind == "alert" && entry.text.contains("older copy")).then_some(told)
    };
    let told = wait_for("an alert in the audit", PATIENCE, alerted).await;
    assert_ne!(told.first().unwrap().chain, told.last().unwrap().chain);
    all_stored(&bus).await;
    let (code, found) = verify(&daemon);
    assert_eq!((code, found["chains"].as_array().unwrap().len()), (Some(0), 2), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_daemon_writes_the_audit_and_agents_do_not_read_it() {
    let daemon = TestDaemon::with(own());
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    all_stored(&bus).await;
    let agent = daemon.agent_client("a").await;
    let api = |verb: &str| format!("$JS.API.{verb}.{AUDIT_STREAM}");
    let forbidden = [
        "audit.local.node".to_owned(),
        "audit.local.agent.a".to_owned(),
        "$KV.OSTLER_DESIRED.local.a".to_owned(),
        api("STREAM.CREATE"),
        api("STREAM.UPDATE"),
        api("STREAM.PURGE"),
        api("STREAM.DELETE"),
        api("STREAM.MSG.DELETE"),
    ];
    for client in [&agent, &bus.client] {
        for subject in &forbidden {
            let asked: Result<Value, Error> =
                client.request_bytes(subject, "{}".into(), Duration::from_secs(3)).await;
            assert!(matches!(asked, Err(Error::Denied(_))), "{subject}: {asked:?}");
        }
    }
    for verb in ["STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET", "STREAM.SNAPSHOT", "CONSUMER.CREATE"] {
        let asked: Result<Value, Error> =
            agent.request_bytes(&api(verb), "{}".into(), Duration::from_secs(3)).await;
        assert!(matches!(asked, Err(Error::Denied(_))), "{verb}: {asked:?}");
    }
    let mut spy = agent.subscribe("audit.>").await.unwrap();
    bus.pause("a").await;
    all_stored(&bus).await;
    let heard = tokio::time::timeout(Duration::from_millis(300), spy.next()).await;
    assert!(!matches!(heard, Ok(Some(_))), "an agent heard {heard:?}");
    assert_chained(&messages(&bus.client, AUDIT_STREAM, "audit.>").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_others_write_nothing_into_the_audit() {
    let daemon = TestDaemon::with(own());
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let told = all_stored(&bus).await.seq;
    let ask = async |subject: &str, request: Value| -> Value {
        let payload = request.to_string().into();
        bus.client.request_bytes(subject, payload, Duration::from_secs(3)).await.unwrap()
    };
    for (name, dest) in [("E", "audit.local.agent.>"), ("P", "$JS.API.STREAM.>")] {
        let of = format!("{name}.>");
        let config = json!({ "name": name, "subjects": [of], "republish": { "src": of, "dest": dest } });
        let made = ask(&format!("$JS.API.STREAM.CREATE.{name}"), config).await;
        assert!(made.get("error").is_none(), "{made}");
    }
    let forged = json!({ "kind": "command.kill", "by": "alice@box" });
    assert_eq!(ask("E.a", forged).await["seq"], 1);
    assert_eq!(ask(&format!("P.DELETE.{AUDIT_STREAM}"), json!({})).await["seq"], 1);
    bus.pause("a").await;
    assert!(all_stored(&bus).await.seq > told);
    assert_chained(&messages(&bus.client, AUDIT_STREAM, "audit.>").await);
    assert_eq!(verify(&daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn following_outlasts_the_daemon_and_shows_every_entry_once() {
    let mut daemon = TestDaemon::start();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let mut follower = daemon.command(["audit", "--follow", "--since", "1h", "--json"]);
    let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let (line_tx, mut line_rx) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line_tx.send(line).is_err() {
                return;
            }
        }
    });
    let mut seen: Vec<AuditEntry> = Vec::new();
    let mut read_until = async |kind: &str, count: usize| {
        let all = async {
            while seen.iter().filter(|entry| entry.kind == kind).count() < count {
                let line = line_rx.recv().await.expect("the follower goes on");
                seen.push(serde_json::from_str(&line).expect("an entry"));
            }
        };
        let read = tokio::time::timeout(PATIENCE, all).await;
        assert!(read.is_ok(), "{count} of {kind}: {:?}", seen.last());
        seen.iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    read_until("agent.launched", 1).await;
    bus.pause("a").await;
    read_until("command.pause", 1).await;
    daemon.kill9();
    daemon.up();
    let bus = daemon.bus().await;
    bus.resume("a").await;
    let numbers = read_until("command.resume", 1).await;
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_keeps_nothing_is_told_and_the_daemon_works() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let text = nats.configuration();
    let (before, rest) = text.split_once("jetstream {").unwrap();
    let (_, after) = rest.split_once("\n}\n").unwrap();
    nats.configure(&format!("{before}{after}"));
    nats.up();
    let options = Options { bus: BusKind::External, ..Options::default() };
    let mut daemon = TestDaemon::prepare_with_bus(options, &nats.bus_section());
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    let troubled =
        async || status(&bus).await.filter(|status| status.problem.is_some() && status.waiting() > 0);
    let found = wait_for("the audit waits", PATIENCE, troubled).await;
    assert!(found.problem.as_ref().is_some_and(|problem| problem.contains("JetStream")), "{found:?}");
    let shown = daemon.ostler(["status"]);
    assert!(shown.stdout.contains("not stored"), "{shown:?}");
    let alerted = async || {
        let events = bus.events().await;
        events
            .iter()
            .any(|event| event.details.get("code") == Some(&json!("audit_unavailable")))
            .then_some(())
    };
    wait_for("an alert", PATIENCE, alerted).await;
    assert_eq!(daemon.ostler(["audit"]).code, Some(1));
    bus.stop("a").await;

    // With streams, what waited is stored.
    nats.kill9();
    nats.configure(&text);
    nats.up();
    all_stored(&daemon.bus().await).await;
    assert_eq!(verify(&daemon).0, Some(0));
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_is_required_is_there_or_the_daemon_does_not_start() {
    if !NatsServer::is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::prepare(dir.path());
    let text = nats.configuration();
    let (before, rest) = text.split_once("jetstream {").unwrap();
    let (_, after) = rest.split_once("\n}\n").unwrap();
    nats.configure(&format!("{before}{after}"));
    nats.up();
    let options = Options { bus: BusKind::External, ..Options::default() };
    let section = format!("{}\n[audit]\nmode = \"required\"\n", nats.bus_section());
    let mut daemon = TestDaemon::prepare_with_bus(options, &section);
    daemon.launch();
    assert!(!daemon.wait().success());
    assert!(daemon.log().contains("the audit is required"), "{}", daemon.log());
    nats.kill9();
    nats.configure(&text);
    nats.up();
    daemon.up();
    all_stored(&daemon.bus().await).await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_nothing_is_kept() {
    let daemon = TestDaemon::prepare(own());
    let config = std::fs::read_to_string(daemon.config_path()).unwrap();
    daemon.write_config(&format!("{config}\n[audit]\nmode = \"off\"\n"));
    let mut daemon = daemon;
    daemon.up();
    let bus = daemon.bus().await;
    bus.spawn_active("a", script(["wait"])).await;
    assert_eq!(status(&bus).await, None);
    assert_eq!(bus.client.stream_state(AUDIT_STREAM).await.unwrap(), None);
    let shown = daemon.ostler(["status"]);
    assert!(shown.stdout.contains("none is kept"), "{shown:?}");
}
