//! What is kept: how much disk and memory a million messages take, how soon a server that was ended has them again,
//! and whether one that is killed has everything it acknowledged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::client::{Client, acknowledged};
use super::publish::{self, Load, STREAM, SUBJECTS};
use crate::bench::broker::process::{Ending, Launcher, Server};

/// Messages that are kept.
pub(super) const KEPT: u64 = 1_000_000;
/// Subjects they are spread over when it is memory that is looked at.
pub(super) const SPREAD: u64 = 10_000;
/// A server has so long to come to rest before its memory is looked at.
const REST: Duration = Duration::from_secs(2);

/// What keeping a million messages costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Bytes on disk for each message.
    pub(super) disk: f64,
    /// Milliseconds from start to the stream's state, after an orderly end and after a kill.
    pub(super) orderly: f64,
    pub(super) killed: f64,
}

/// Keeps messages of 128 bytes and starts the server twice with them.
pub(super) fn recovery(launcher: &Launcher, stream: &Value) -> anyhow::Result<Kept> {
    let mut server = launcher.start()?;
    publish::run_counted(&server, Load::new(128), stream, KEPT)?;
    let orderly = restart(&mut server, launcher, Ending::Orderly)?;
    let disk = disk_bytes(server.dir())? / KEPT as f64;
    let killed = restart(&mut server, launcher, Ending::Kill)?;
    Ok(Kept { disk, orderly, killed })
}

fn restart(server: &mut Server, launcher: &Launcher, ending: Ending) -> anyhow::Result<f64> {
    server.end(ending)?;
    let started = Instant::now();
    server.start_again(launcher)?;
    let state = Client::new(server)?.state(STREAM)?;
    let taken = started.elapsed();
    ensure!(state == (KEPT, KEPT), "{KEPT} messages were stored, after the start there are {state:?}");
    Ok(taken.as_secs_f64() * 1e3)
}

/// Bytes of all blocks under a directory.
fn disk_bytes(dir: &Path) -> anyhow::Result<f64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.blocks() as f64 * 512.0,
        };
    }
    Ok(bytes)
}

/// Resident bytes with a million messages of 16 bytes in ten thousand subjects.
pub(super) fn memory(launcher: &Launcher, stream: &Value) -> anyhow::Result<f64> {
    let server = launcher.start()?;
    publish::run_counted(&server, Load::new(16).with_subjects(SPREAD), stream, KEPT)?;
    std::thread::sleep(REST);
    server.resident()
}

/// How many messages a server that is killed under load loses of those that it acknowledged.
pub(super) fn lost(launcher: &Launcher, stream: &Value) -> anyhow::Result<f64> {
    let mut server = launcher.start()?;
    let mut client = Client::new(&server)?;
    client.create_stream(STREAM, &format!("{SUBJECTS}>"), stream.clone())?;
    let promised = until_killed(&mut client, &mut server)?;
    server.start_again(launcher)?;
    let mut client = Client::new(&server)?;
    let (messages, last) = client.state(STREAM)?;
    ensure!(messages == last, "{messages} messages up to {last}: some are missing in between");
    // The last one acknowledged can be read, and is the one that was sent.
    if last >= promised && promised > 0 {
        let subject = format!("$JS.API.STREAM.MSG.GET.{STREAM}");
        let message = client.ask(&subject, &json!({ "seq": promised }))?;
        let subject = message["message"]["subject"].as_str().context("no message")?;
        ensure!(subject == format!("{SUBJECTS}{promised}"), "message {promised} is {subject}");
    }
    Ok(promised.saturating_sub(last) as f64)
}

/// Publishes until some thousand are acknowledged, kills, and says what was acknowledged in the end.
fn until_killed(client: &mut Client, server: &mut Server) -> anyhow::Result<u64> {
    const UNTIL: u64 = 20_000;
    let (mut sent, mut taken, mut killed) = (0, 0, false);
    loop {
        while !killed && sent - taken < publish::WINDOW {
            sent += 1;
            client.put(format!("{SUBJECTS}{sent}").as_bytes(), b"_INBOX.bench.ack", &[b'x'; 128]);
        }
        let written = client.flush();
        if taken >= UNTIL && !killed {
            server.end(Ending::Kill)?;
            killed = true;
        } else {
            written?;
        }
        // After the kill: what was on its way still counts as acknowledged.
        match client.next() {
            Ok(frame) => taken = acknowledged(frame.payload)?,
            Err(_) if killed => return Ok(taken),
            Err(error) => return Err(error),
        }
        while let Some(frame) = client.next_here()? {
            taken = acknowledged(frame.payload)?;
        }
    }
}
