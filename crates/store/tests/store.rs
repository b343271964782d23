//! The store as its users see it: what was committed is there, whatever else happened.
#![allow(clippy::unwrap_used, reason = "a test's helper may give up like the test itself")]

use std::path::Path;

use ostler_store::{AgentRow, Error, EventsQuery, LogsQuery, RunRow, Store, Write};
use ostler_wire::{
    AgentId, AgentState, DesiredState, EventRecord, OutputMessage, OutputStream, RunId, SpawnRequest,
    StatusCause, StatusMessage, Timestamp,
};

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ostler.db");
    let run = RunId::generate();
    let store = Store::open(&path).unwrap();
    store.commit(vec![put("a"), put("b"), start_run("a", run), output("a", run, 1, "one")]).await.unwrap();
    store.commit(vec![Write::SetDesired(id("b"), DesiredState::Stopped)]).await.unwrap();
    drop(store);

    let store = Store::open(&path).unwrap();
    let agents = store.read(|reader| reader.agents()).unwrap();
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[0].1.as_ref().unwrap().recorded, 1);
    assert_eq!(agents[1].0.desired, DesiredState::Stopped);
}

#[tokio::test]
async fn the_same_output_sent_again_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunId::generate();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    store.commit(vec![put("a"), start_run("a", run)]).await.unwrap();
    for _ in 0..3 {
        store.commit(vec![output("a", run, 1, "one"), output("a", run, 2, "two")]).await.unwrap();
    }
    let page = store.read(|reader| reader.logs(&all("a"))).unwrap();
    let lines: Vec<_> = page.entries.iter().map(|entry| entry.output.data.as_deref().unwrap()).collect();
    assert_eq!(lines, ["one", "two"]);
}

#[tokio::test]
async fn a_batch_with_a_fault_leaves_nothing_and_its_neighbours_stand() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    let event = |seq| Write::AppendEvent(event(seq, None));
    let good = store.commit(vec![event(1)]);
    let bad = store.commit(vec![event(2), event(1)]);
    let other = store.commit(vec![event(3)]);
    let (good, bad, other) = tokio::join!(good, bad, other);
    assert!(good.is_ok() && other.is_ok());
    assert!(bad.is_err(), "the same event number twice");
    let page = store.read(|reader| reader.events(&newest(10))).unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn logs_come_page_by_page_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunId::generate();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    let mut writes = vec![put("a"), put("b"), start_run("a", run)];
    writes.extend((1..=1234).map(|seq| output("a", run, seq, &format!("line {seq}"))));
    store.commit(writes).await.unwrap();

    let mut query = LogsQuery { limit: 500, ..all("a") };
    let mut seen = Vec::new();
    loop {
        let page = store.read(|reader| reader.logs(&query)).unwrap();
        seen.extend(page.entries.iter().map(|entry| entry.output.seq));
        query.after = page.entries.last().map(|entry| entry.position);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (1..=1234).collect::<Vec<_>>());

    let tail = store.read(|reader| reader.logs(&LogsQuery { tail: Some(3), ..all("a") })).unwrap();
    assert_eq!(tail.entries.iter().map(|entry| entry.output.seq).collect::<Vec<_>>(), [1232, 1233, 1234]);
    let none = store.read(|reader| reader.logs(&all("b"))).unwrap();
    assert!(none.entries.is_empty() && !none.more);
}

#[tokio::test]
async fn a_page_with_large_entries_is_short_and_never_stands_still() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunId::generate();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    let large = "x".repeat(700_000);
    let mut writes = vec![put("a"), start_run("a", run)];
    writes.extend((1..=3).map(|seq| output("a", run, seq, &large)));
    writes.push(output("a", run, 4, &"y".repeat(3_000_000)));
    store.commit(writes).await.unwrap();
    let mut query = all("a");
    let mut pages = Vec::new();
    loop {
        let page = store.read(|reader| reader.logs(&query)).unwrap();
        pages.push(page.entries.len());
        query.after = page.entries.last().map(|entry| entry.position);
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [1, 1, 1, 1]);
}

#[tokio::test]
async fn the_oldest_output_is_trimmed_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunId::generate();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    let mut writes = vec![put("a"), start_run("a", run)];
    writes.extend((1..=100).map(|seq| output("a", run, seq, "0123456789")));
    store.commit(writes).await.unwrap();
    let before = store.read(|reader| reader.output_sizes()).unwrap()[0].1;
    store.commit(vec![Write::TrimOutput { agent: id("a"), bytes_max: before / 2 }]).await.unwrap();
    let page = store.read(|reader| reader.logs(&all("a"))).unwrap();
    let after = store.read(|reader| reader.output_sizes()).unwrap()[0].1;
    assert!(after <= before / 2 && after > before / 3, "{before} -> {after}");
    assert_eq!(page.entries.last().unwrap().output.seq, 100);
}

#[tokio::test]
async fn removing_an_agent_takes_its_runs_and_output_along() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunId::generate();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    store.commit(vec![put("a"), start_run("a", run), output("a", run, 1, "x")]).await.unwrap();
    store.commit(vec![Write::RemoveAgent(id("a"))]).await.unwrap();
    assert!(store.read(|reader| reader.agents()).unwrap().is_empty());
    assert!(store.read(|reader| reader.output_sizes()).unwrap().is_empty());
}

#[tokio::test]
async fn the_last_run_is_the_one_written_last_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    let runs: Vec<_> = (0..4).map(|_| RunId::generate()).collect();
    let mut writes = vec![put("a")];
    // Newest id first: the clock went back.
    writes.extend(runs.iter().rev().map(|run| start_run("a", *run)));
    writes.push(Write::TrimRuns(id("a"), 2));
    store.commit(writes).await.unwrap();
    let agents = store.read(|reader| reader.agents()).unwrap();
    assert_eq!(agents[0].1.as_ref().unwrap().run_id, runs[0]);
}

#[tokio::test]
async fn a_database_held_by_another_program_is_tried_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ostler.db");
    let store = Store::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.commit(vec![put("a")]).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    store.commit(vec![put("a")]).await.unwrap();
}

#[tokio::test]
async fn event_numbers_survive_trimming() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    store
        .commit(
            (1..=5)
                .map(|seq| Write::AppendEvent(event(seq, Some("a"))))
                .chain([Write::Announced(5)])
                .collect::<Vec<_>>(),
        )
        .await
        .unwrap();
    store.commit(vec![Write::TrimEvents { up_to: 5 }]).await.unwrap();
    assert_eq!(store.read(|reader| reader.event_marks()).unwrap(), (5, 5));
}

#[tokio::test]
async fn events_are_filtered_and_paged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("ostler.db")).unwrap();
    let writes =
        (1..=10).map(|seq| Write::AppendEvent(event(seq, Some(if seq % 2 == 0 { "even" } else { "odd" }))));
    store.commit(writes.collect::<Vec<_>>()).await.unwrap();
    let seqs = |query: EventsQuery| {
        let page = store.read(|reader| reader.events(&query)).unwrap();
        (page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(seqs(newest(3)), (vec![8, 9, 10], false));
    assert_eq!(seqs(EventsQuery { after: Some(2), ..newest(3) }), (vec![3, 4, 5], true));
    assert_eq!(seqs(EventsQuery { agent: Some(id("odd")), ..newest(10) }), (vec![1, 3, 5, 7, 9], false));
}

#[test]
fn a_damaged_or_newer_database_is_refused_with_its_name_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ostler.db");
    std::fs::write(&path, "this is not a database, it is a text file that is long enough to look at")
        .unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("ostler.db"));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is not"));

    let newer = dir.path().join("newer.db");
    drop(Store::open(&newer).unwrap());
    set_user_version(&newer, 999);
    assert!(matches!(Store::open(&newer), Err(Error::TooNew { found: 999, .. })));
}

fn id(text: &str) -> AgentId {
    AgentId::parse(text).unwrap()
}

fn put(agent: &str) -> Write {
    Write::PutAgent(AgentRow {
        agent_id: id(agent),
        spawn: SpawnRequest { command: vec!["true".into()], ..SpawnRequest::default() },
        desired: DesiredState::Running,
        created_at: Timestamp::UNIX_EPOCH,
    })
}

fn start_run(agent: &str, run_id: RunId) -> Write {
    let status = StatusMessage {
        agent_id: id(agent),
        status: "starting".into(),
        message: None,
        timestamp: Timestamp::UNIX_EPOCH,
        state: AgentState::Starting,
        cause: StatusCause::Normal,
        run_id,
        generation: 0,
        revision: 0,
        pid: None,
        host_pid: None,
        started_at: None,
        uptime_ms: None,
        restarts: 0,
        exit: None,
        usage: None,
        session_id: None,
        last_seq: None,
        changes: Vec::new(),
    };
    Write::StartRun(RunRow {
        run_id,
        agent_id: id(agent),
        status,
        recorded: 0,
        host_losses: 0,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
    })
}

fn output(agent: &str, run_id: RunId, seq: u64, line: &str) -> Write {
    Write::AppendOutput(Box::new(OutputMessage {
        agent_id: id(agent),
        run_id,
        generation: 1,
        seq,
        stream: OutputStream::Stdout,
        data: Some(line.into()),
        data_base64: None,
        partial: false,
        event: None,
        raw: None,
        input_id: None,
        timestamp: Timestamp::UNIX_EPOCH,
    }))
}

fn event(seq: u64, agent: Option<&str>) -> EventRecord {
    EventRecord {
        seq,
        timestamp: Timestamp::UNIX_EPOCH,
        kind: "test".into(),
        agent_id: agent.map(id),
        text: "something".into(),
        details: Default::default(),
    }
}

fn all(agent: &str) -> LogsQuery {
    LogsQuery { agent: id(agent), after: None, since: None, tail: None, limit: 1000 }
}

fn newest(limit: u32) -> EventsQuery {
    EventsQuery { after: None, since: None, agent: None, limit }
}

fn set_user_version(path: &Path, version: u32) {
    rusqlite::Connection::open(path).unwrap().pragma_update(None, "user_version", version).unwrap();
}
