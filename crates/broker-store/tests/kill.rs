//! A process that stores messages is killed at any moment, again and again: what it said was written is there, in
//! order, and nothing else but what it was about to say.
#![cfg(test)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ostler_broker_store::{Durability, Erase, NewMessage, Options, Selection, Severity, Store};

const CHILD: &str = "OSTLER_STORE_CHILD";
const ROUNDS: &str = "OSTLER_STORE_KILLS";
const KEPT: u64 = 3000;

fn options() -> Options {
    Options { segment_bytes: 256 << 10, durability: Durability::Process, salt: 77, create: true }
}

fn payload(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat((seq % 40) as usize + 1)
}

/// The child: batches with limits, checkpoints and maintenance, each reported after it was written.
#[test]
fn the_child_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut store = Store::open(Path::new(&dir), options()).unwrap();
    let mut out = std::io::stdout().lock();
    let mut batch = 0u64;
    loop {
        batch += 1;
        for _ in 0..batch % 97 + 1 {
            let seq = store.last_seq() + 1;
            store
                .append(&NewMessage::new(format!("s.{}", seq % 7).as_bytes(), &payload(seq), seq as i64))
                .unwrap();
            while store.msgs() > KEPT {
                store.remove(store.first_seq(), Erase::No).unwrap();
            }
            // Every 20th of those that are not the first goes early.
            if seq.is_multiple_of(20) && seq > 10 {
                store.remove(seq - 5, Erase::Yes).unwrap();
            }
        }
        store.write_out().unwrap();
        store.save_checkpoint("progress", 1, &store.last_seq().to_le_bytes()).unwrap();
        writeln!(out, "written {} {}", store.first_seq(), store.last_seq()).unwrap();
        out.flush().unwrap();
        if batch.is_multiple_of(50) {
            store.maintain(1 << 20).unwrap();
            let _ = store.sync_ticket().unwrap().map(|job| store.synced(job.run()).unwrap());
        }
    }
}

#[test]
fn what_was_written_survives_a_killed_process() {
    let rounds: u64 = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let dir = tempfile::tempdir().unwrap();
    let stream = dir.path().join("stream");
    let mut random = fastrand::Rng::with_seed(rounds);
    let mut last_seen = 0;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_child_that_is_killed", "--nocapture"])
            .env(CHILD, &stream)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = (u64::MAX, last_seen);
        let mut line = String::new();
        // The moment is a number of batches and a part of one.
        for _ in 0..random.u64(1..60) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child ended: {}", stderr(&mut child));
            acknowledged = parse(&line).unwrap_or(acknowledged);
        }
        std::thread::sleep(Duration::from_micros(random.u64(0..800)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        // A line cut short was not acknowledged.
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        acknowledged = whole.lines().filter_map(parse).next_back().unwrap_or(acknowledged);
        verify(&stream, acknowledged, round);
        last_seen = acknowledged.1;
    }
}

fn verify(stream: &Path, (first, last): (u64, u64), round: u64) {
    let mut store = Store::open(stream, options()).unwrap();
    let bad: Vec<String> = store
        .findings()
        .iter()
        .filter(|finding| finding.severity == Severity::Damage)
        .map(ToString::to_string)
        .collect();
    assert!(bad.is_empty(), "round {round}: {bad:#?}");
    assert!(store.last_seq() >= last, "round {round}: {} was written, {} is there", last, store.last_seq());
    let mut expected = store.first_seq();
    store
        .scan(&mut Selection::all(), 0, |message| {
            // Only those removed on purpose are missing, once the batch that removed them was written.
            while expected < message.seq {
                assert_eq!((expected + 5) % 20, 0, "round {round}: {expected} is missing");
                expected += 1;
            }
            assert!(message.payload == payload(message.seq), "round {round}: {} was changed", message.seq);
            expected = message.seq + 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let first_there = store.first_seq();
    assert!(
        first_there <= first.saturating_add(200),
        "round {round}: begins at {first_there}, {first} was the first"
    );
    // One killed before its first batch was written has saved nothing.
    let progress = match store.checkpoint("progress") {
        Some((_, value)) => u64::from_le_bytes(value.try_into().unwrap()),
        None => 0,
    };
    assert!(progress > 0 || last == 0, "round {round}: the checkpoint is gone");
    assert!(progress + 200 >= last && progress <= store.last_seq(), "round {round}: checkpoint {progress}");
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let at = line.find("written ")?;
    let mut numbers = line[at + 8..].split_whitespace();
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn stderr(child: &mut std::process::Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut text);
    }
    text
}
