//! Request and reply, one at a time: how long a question takes to its answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::ensure;

use super::process::Server;
use super::statistics::quantile;

const PAYLOAD: &str = "0123456789abcdef";
/// Round trips before those that count.
const WARM_UP: usize = 500;

/// Microseconds from request to reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Measures `trips` round trips.
pub(super) fn round_trips(server: &Server, trips: usize) -> anyhow::Result<Latency> {
    let mut service = server.subscribe("bench.service", None)?;
    let mut inbox = server.subscribe("_INBOX.bench", None)?;
    let request = format!("PUB bench.service _INBOX.bench {}\r\n{PAYLOAD}\r\n", PAYLOAD.len());
    let delivered = format!("MSG bench.service 1 _INBOX.bench {}\r\n{PAYLOAD}\r\n", PAYLOAD.len());
    let answer = format!("PUB _INBOX.bench {}\r\n{PAYLOAD}\r\n", PAYLOAD.len());
    let reply = format!("MSG _INBOX.bench 1 {}\r\n{PAYLOAD}\r\n", PAYLOAD.len());
    let answering = std::thread::spawn(move || -> anyhow::Result<()> {
        for _ in 0..WARM_UP + trips {
            read_frame(&mut service, delivered.as_bytes())?;
            service.write_all(answer.as_bytes())?;
        }
        Ok(())
    });
    let mut taken = Vec::with_capacity(trips);
    for trip in 0..WARM_UP + trips {
        let started = Instant::now();
        inbox.write_all(request.as_bytes())?;
        read_frame(&mut inbox, reply.as_bytes())?;
        if trip >= WARM_UP {
            taken.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    answering.join().expect("the responder does not panic")?;
    Ok(Latency { p50: quantile(&taken, 0.5), p99: quantile(&taken, 0.99) })
}

/// Reads exactly `frame`; a PING before it is passed over.
fn read_frame(stream: &mut TcpStream, frame: &[u8]) -> anyhow::Result<()> {
    const PING: &[u8] = b"PING\r\n";
    let mut buffer = [0; 256];
    let mut have = 0;
    loop {
        let len = stream.read(&mut buffer[have..])?;
        ensure!(len > 0, "the server hung up");
        have += len;
        if buffer[..have].starts_with(PING) {
            buffer.copy_within(PING.len()..have, 0);
            have -= PING.len();
        }
        if have >= frame.len() {
            ensure!(buffer[..have] == *frame, "unexpected: {}", buffer[..have].escape_ascii());
            return Ok(());
        }
    }
}

/// Keeps the cores from sleeping: a thread for each, which gives way to everybody. Ends when dropped.
///
/// A virtual core that sleeps takes tens of microseconds to wake, which hides what the software takes.
pub(super) struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    pub(super) fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let threads = (0..cores)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    // On Linux this is the priority of the calling thread alone.
                    let _ = rustix::process::setpriority_process(None, 19);
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
