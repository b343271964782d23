//! A thousand connections with one subscription each: what they cost in memory, idle and beating.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::frames::PREFIX;
use super::process::{Launcher, Server};

/// Connections of the crowd.
pub(super) const CONNECTIONS: usize = 1000;
/// Beats are sent in portions, spread over the second as those of many agents are.
const PORTIONS: usize = 100;
/// Time for the server to settle: connections are asked for a first sign of life some two seconds after CONNECT.
const SETTLE: Duration = Duration::from_secs(3);

/// What a fresh server showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// From the start of the process to its first PONG, in milliseconds.
    pub(super) start: f64,
    /// Resident bytes with one connection that came and went.
    pub(super) idle: f64,
    /// Resident bytes for each connection more.
    pub(super) per_connection: f64,
    /// Percent of a core while nobody says anything.
    pub(super) cpu_idle: f64,
    /// Percent of a core while each publishes once a second and one subscriber gets all of it.
    pub(super) cpu_beating: f64,
}

/// Starts a server and fills it.
pub(super) fn run(launcher: &Launcher, seconds: f64) -> anyhow::Result<Outcome> {
    let server = launcher.start()?;
    let idle = server.resident()?;
    let mut crowd = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        crowd.push(server.subscribe(&format!("{PREFIX}inbox.{number}"), None)?);
    }
    let per_connection = (server.resident()? - idle) / CONNECTIONS as f64;
    std::thread::sleep(SETTLE);
    let cpu_idle = share(&server, || {
        std::thread::sleep(Duration::from_secs_f64(seconds));
        Ok(())
    })?;
    let watching = server.subscribe(&format!("{PREFIX}beat.*"), None)?;
    let cpu_beating = share(&server, || beat(&mut crowd, seconds))?;
    drop(watching);
    Ok(Outcome {
        start: server.start_to_pong.as_secs_f64() * 1e3,
        idle,
        per_connection,
        cpu_idle,
        cpu_beating,
    })
}

/// Percent of a core that the server takes while `during` runs.
fn share(server: &Server, during: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (cpu, started) = (server.cpu()?, Instant::now());
    during()?;
    Ok((server.cpu()? - cpu).as_secs_f64() / started.elapsed().as_secs_f64() * 100.0)
}

fn beat(crowd: &mut [TcpStream], seconds: f64) -> anyhow::Result<()> {
    let started = Instant::now();
    let beats: Vec<_> = (0..crowd.len())
        .map(|number| format!("PUB {PREFIX}beat.{number} 16\r\n0123456789abcdef\r\n"))
        .collect();
    let portion = crowd.len().div_ceil(PORTIONS);
    for turn in 0..(PORTIONS as f64 * seconds) as usize {
        let first = turn % PORTIONS * portion;
        for number in first..(first + portion).min(crowd.len()) {
            crowd[number].write_all(beats[number].as_bytes())?;
        }
        let next = started + Duration::from_secs_f64((turn + 1) as f64 / PORTIONS as f64);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
