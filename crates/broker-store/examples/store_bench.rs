//! Measures the store: appending, syncing, walking, opening, memory. It checks nothing.
//!
//! `cargo run --release -p ostler-broker-store --example store_bench [messages] [directory]`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use ostler_broker_store::{Durability, NewMessage, Options, Selection, Store};

const PAYLOAD: [u8; 128] = [7; 128];
const SUBJECTS: u64 = 10_000;
/// What one read of a socket brings.
const BATCH: u64 = 64 * 1024 / 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("store-bench-{}", std::process::id()));
    let outcome = measure(count, &dir);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn measure(count: u64, dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = |durability| Options { durability, salt: 3, ..Options::default() };
    let rss = resident();
    println!("{count} messages of {} bytes, {SUBJECTS} subjects, batches of {BATCH}", PAYLOAD.len());
    rate("append, memory", count, || append(&mut Store::memory(options(Durability::Async)), count))?;
    let mut store = Store::open(&dir.join("process"), options(Durability::Process))?;
    rate("append, a write per batch", count, || append(&mut store, count))?;
    let disk = store.disk_bytes();
    store.close()?;
    let mut store = Store::open(&dir.join("single"), options(Durability::Process))?;
    rate("append, a write per message", count / 4, || {
        for number in 0..count / 4 {
            store.append(&NewMessage::new(b"bench.subject", &PAYLOAD, number as i64))?;
            store.write_out()?;
        }
        Ok(())
    })?;
    drop(store);
    let mut store = Store::open(&dir.join("group"), options(Durability::Group))?;
    rate("append, a sync per batch, on a thread meanwhile", count, || grouped(&mut store, count))?;
    drop(store);

    let before = resident();
    let mut opened = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let store = Store::open(&dir.join("process"), options(Durability::Process))?;
        opened.push(start.elapsed());
        drop(store);
    }
    opened.sort();
    println!(
        "open: {:?} (median of 5), {:.1} bytes on disk per message",
        opened[2],
        disk as f64 / count as f64
    );
    let mut store = Store::open(&dir.join("process"), options(Durability::Process))?;
    println!(
        "memory: {:.1} MiB more than before opening ({:.1} MiB by its own count); {:.1} MiB at start",
        (resident() - before) / 1024.0,
        store.memory_bytes() as f64 / 1048576.0,
        rss / 1024.0
    );
    rate("walk all", count, || {
        let mut bytes = 0;
        store.scan(&mut Selection::all(), 1, |message| {
            bytes += message.payload.len();
            ControlFlow::Continue(())
        })?;
        assert_eq!(bytes as u64, count * PAYLOAD.len() as u64);
        Ok(())
    })?;
    let mut one = Selection::subject(b"bench.77");
    rate("walk one subject of 10,000 (per message found)", count / SUBJECTS, || {
        store.scan(&mut one, 1, |_| ControlFlow::Continue(()))?;
        Ok(())
    })?;
    rate("get at random", count / 10, || {
        let mut seq = 1;
        for _ in 0..count / 10 {
            seq = (seq + 7_919_777) % count;
            store.get(seq + 1)?.ok_or("there")?;
        }
        Ok(())
    })?;
    let mut some = Selection::new(
        ["bench.1*", "*.5", "bench.7"]
            .map(|text| ostler_broker_proto::subject::Filter::parse(text).expect("a filter")),
    );
    rate("count what filters match, passing over all", count, || {
        assert!(store.num_pending(&mut some, 2, false) > 0);
        Ok(())
    })?;
    Ok(())
}

fn append(store: &mut Store, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let subjects: Vec<String> = (0..SUBJECTS).map(|number| format!("bench.{number}")).collect();
    for number in 0..count {
        let subject = subjects[(number % SUBJECTS) as usize].as_bytes();
        store.append(&NewMessage::new(subject, &PAYLOAD, number as i64))?;
        if number % BATCH == BATCH - 1 {
            store.write_out()?;
        }
    }
    Ok(store.write_out()?)
}

/// One thread syncs, the store goes on: at most one sync is under way, as the broker does it.
fn grouped(store: &mut Store, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (jobs, to_do) = std::sync::mpsc::sync_channel::<ostler_broker_store::SyncJob>(1);
    let (done, results) = std::sync::mpsc::sync_channel(1);
    let syncer = std::thread::spawn(move || {
        while let Ok(job) = to_do.recv() {
            if done.send(job.run()).is_err() {
                return;
            }
        }
    });
    let (mut syncs, mut waiting) = (0u64, false);
    let mut durable = 0;
    for number in 0..count {
        store.append(&NewMessage::new(b"bench.subject", &PAYLOAD, number as i64))?;
        if number % BATCH != BATCH - 1 && number + 1 != count {
            continue;
        }
        store.write_out()?;
        // A publisher has a bounded number of messages without an acknowledgement.
        let full = store.last_seq() - durable > 64 * BATCH || number + 1 == count;
        while waiting && let Some(result) = if full { results.recv().ok() } else { results.try_recv().ok() } {
            durable = store.synced(result)?;
            waiting = false;
        }
        if !waiting && let Some(job) = store.sync_ticket()? {
            jobs.send(job)?;
            (syncs, waiting) = (syncs + 1, true);
        }
    }
    while durable < store.last_seq() {
        if waiting {
            durable = store.synced(results.recv()?)?;
            waiting = false;
        }
        if let Some(job) = store.sync_ticket()? {
            jobs.send(job)?;
            (syncs, waiting) = (syncs + 1, true);
        }
    }
    drop(jobs);
    syncer.join().map_err(|_| "the syncing thread panicked")?;
    println!("  ({syncs} syncs)");
    Ok(())
}

fn rate(
    name: &str,
    count: u64,
    run: impl FnOnce() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    run()?;
    let took = start.elapsed();
    let each = took.as_nanos() as f64 / count.max(1) as f64;
    println!("{name}: {:.2} M/s, {each:.0} ns each", 1000.0 / each);
    Ok(())
}

/// Resident memory in KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}
