//! Measures connections inside the process: `in_process [MESSAGES] [BYTES] [TRIPS]` prints messages per second and
//! latencies.
//!
//! ```text
//! cargo run --release -p ostler-broker --example in_process
//! ```
//!
//! Publisher and subscriber have a thread each, as tasks of a program would; every message is counted.
//!
//! A latency is measured twice. As it is: between messages the server's core may sleep, and a virtual core takes tens of
//! microseconds to wake. And with cores kept awake, by threads of the lowest priority that do nothing: what is left is
//! the software, and the scheduler that takes the core from them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ostler_broker::{InProcess, InProcessOptions, Permissions, Server};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Rounds, of which the median is taken.
const ROUNDS: usize = 5;
/// Messages whose latency is measured, if nothing else is said.
const TRIPS: &str = "20000";

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let messages: usize = args.next().map_or(Ok(5_000_000), |text| text.parse())?;
    let sizes: Vec<usize> = match args.next() {
        Some(text) => vec![text.parse()?],
        None => vec![16, 128, 1024, 8192],
    };
    let server = Server::builder().listen("127.0.0.1:0".parse()?).shards(1).start()?;
    for size in sizes {
        let count = messages.min((4 << 30) / size.max(1));
        let mut rates: Vec<f64> = (0..ROUNDS).map(|_| flow(&server, size, count)).collect::<Outcome<_>>()?;
        rates.sort_by(f64::total_cmp);
        println!("publish to subscribe  {size:>5} B  {:>10.0} msg/s", rates[ROUNDS / 2]);
    }
    let trips: usize = args.next().as_deref().unwrap_or(TRIPS).parse()?;
    if trips > 0 {
        let pause = Duration::from_micros(100);
        report("back to back", latencies(&server, trips, Duration::ZERO)?);
        report("every 100 us", latencies(&server, trips, pause)?);
        let kept_awake = while_awake(|| latencies(&server, trips, pause))?;
        report("every 100 us, cores kept awake", kept_awake);
    }
    Ok(())
}

fn report(what: &str, mut trips: Vec<Duration>) {
    trips.sort_unstable();
    let at = |part: usize| trips[trips.len() * part / 1000].as_nanos() as f64 / 1000.0;
    println!("128 B latency, {what}  p50 {:.1} us  p99 {:.1} us  p99.9 {:.1} us", at(500), at(990), at(999));
}

/// Keeps every core busy with nothing meanwhile.
fn while_awake<T>(measure: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                lower_priority();
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let measured = measure();
        is_over.store(true, Ordering::Relaxed);
        measured
    })
}

/// Of this thread: Linux knows no other.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    // Where it must not, the spinning threads only measure worse.
    let _ = rustix::process::nice(19);
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn connect(server: &Server) -> Outcome<InProcess> {
    Ok(server.connect_in_process(InProcessOptions::trusted("bench", Permissions::all())).await?)
}

/// Messages per second from one connection to another.
fn flow(server: &Server, size: usize, count: usize) -> Outcome<f64> {
    let (ready_tx, ready_rx) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let subscriber = scope.spawn(move || -> Outcome<Instant> {
            runtime()?.block_on(async {
                let client = connect(server).await?;
                let mut messages = client.subscribe("bench.subject", None).await?;
                client.flush().await?;
                ready_tx.send(())?;
                for n in 0..count {
                    let message =
                        messages.next().await.ok_or_else(|| format!("closed after {n} messages"))?;
                    assert_eq!(message.payload().len(), size);
                }
                Ok(Instant::now())
            })
        });
        ready_rx.recv()?;
        let started = Instant::now();
        runtime()?.block_on(async {
            let client = connect(server).await?;
            let payload = vec![b'x'; size];
            for _ in 0..count {
                client.publish("bench.subject", &payload).await?;
            }
            client.flush().await?;
            Outcome::Ok(())
        })?;
        let ended = subscriber.join().map_err(|_| "the subscriber panicked")??;
        Ok(count as f64 / (ended - started).as_secs_f64())
    })
}

/// From publish to the subscriber, one message at a time.
fn latencies(server: &Server, count: usize, pause: Duration) -> Outcome<Vec<Duration>> {
    runtime()?.block_on(async {
        let (sender, receiver) = (connect(server).await?, connect(server).await?);
        let mut messages = receiver.subscribe("latency", None).await?;
        receiver.flush().await?;
        let mut trips = Vec::with_capacity(count);
        for _ in 0..count {
            let resting = Instant::now();
            // Awake: a sleeping core takes tens of microseconds to wake and would hide what is measured.
            while resting.elapsed() < pause {
                std::hint::spin_loop();
            }
            let started = Instant::now();
            sender.publish("latency", [b'x'; 128]).await?;
            messages.next().await.ok_or("closed")?;
            trips.push(started.elapsed());
        }
        Ok(trips)
    })
}
