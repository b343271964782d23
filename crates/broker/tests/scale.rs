//! Thousands of connections, and clients that misbehave all at once, against the program in a process of its own, so
//! that its memory can be measured. The program is `ostler-broker` when it was built (feature `bin`), or the one that
//! `OSTLER_SCALE_BINARY` names: a nats-server understands the same options.
#![cfg(test)]
#![cfg(target_os = "linux")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Raw, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files this process and the server need at most, each.
const FILES: u64 = 8192;
/// Connections opened and closed in all, and at a time.
const TURNOVER: (usize, usize) = (10_000, 1000);
/// Bursts before memory is looked at.
const WARM_ROUNDS: usize = 4;
/// Connections that are there before anything is measured.
const WARM: usize = 100;
/// Idle connections at once.
const IDLE: usize = 5000;
/// What one idle connection may cost.
const IDLE_KIB_MAX: u64 = 8;
/// Memory that came back may differ by so much from what it was: a tenth, or this where a tenth is nothing.
const SLACK_KIB: u64 = 2048;
/// After a storm also by what waited for one slow client at most (`max_pending` there), which may stay with the
/// allocator.
const BACKLOG_KIB: u64 = 4096;

struct Program {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    /// Its sockets without clients.
    sockets: usize,
    _folder: tempfile::TempDir,
}

impl Program {
    /// Starts the program; says why when there is none.
    fn start(settings: &str) -> Option<Self> {
        let built = option_env!("CARGO_BIN_EXE_ostler-broker").map(PathBuf::from);
        let Some(program) = std::env::var_os("OSTLER_SCALE_BINARY").map(PathBuf::from).or(built) else {
            eprintln!("SKIPPED: the program was not built; use --features bin");
            return None;
        };
        let limit = getrlimit(Resource::Nofile);
        if limit.current.is_some_and(|current| current < FILES) {
            let raised = Rlimit { current: Some(FILES), maximum: limit.maximum };
            if let Err(error) = setrlimit(Resource::Nofile, raised) {
                eprintln!("SKIPPED: {FILES} files cannot be open at once here: {error}");
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, log) = (folder.path().join("server.conf"), folder.path().join("log"));
        std::fs::write(&file, format!("listen: \"127.0.0.1:-1\"\n{settings}")).unwrap();
        let child = Command::new(&program)
            .arg("-c")
            .arg(&file)
            .arg("--ports_file_dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        let ports = folder.path().join(format!("{name}_{}.ports", child.id()));
        let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&ports).ok()?).ok();
        eventually("the program writes down its ports", || read().is_some());
        let url = read().unwrap()["nats"][0].as_str().unwrap().to_owned();
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        let mut program = Self { child, address, log, sockets: 0, _folder: folder };
        program.sockets = program.open_sockets();
        Some(program)
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Resident memory.
    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn open_sockets(&self) -> usize {
        let files = std::fs::read_dir(self.proc("fd")).unwrap().flatten();
        files
            .filter(|file| {
                std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
            })
            .count()
    }

    /// Waits until it has no clients.
    fn settle(&self) {
        eventually("all connections are closed", || self.open_sockets() <= self.sockets);
    }

    /// Waits until memory is what it was.
    fn memory_returns_to(&self, before_kib: u64, slack_kib: u64, what: &str) {
        let most = before_kib + slack_kib.max(before_kib / 10);
        let started = Instant::now();
        while self.memory_kib() > most && started.elapsed() < common::DEADLINE {
            thread::sleep(Duration::from_millis(20));
        }
        let after = self.memory_kib();
        println!("{what}: {before_kib} KiB before, {after} KiB after");
        assert!(after <= most, "{what}: {before_kib} KiB became {after} KiB");
    }

    /// Does it over and over. The allocator keeps what the largest burst took, and bursts differ; but after some of
    /// them the next ones find there what they need, and a leak would show.
    fn repeat(&self, slack_kib: u64, what: &str, burst: impl Fn(SocketAddr)) {
        let mut most = 0;
        for round in 0..WARM_ROUNDS + 1 {
            burst(self.address);
            self.settle();
            if round < WARM_ROUNDS {
                most = most.max(self.memory_kib());
            }
        }
        self.memory_returns_to(most, slack_kib, what);
    }

    /// It lives, and no part of it panicked.
    fn is_well(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the program ended: {}", self.said());
        assert!(!self.said().contains("panicked"), "{}", self.said());
        Raw::connect(self.address).sync();
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So many connections that subscribe and are served.
fn crowd(address: SocketAddr, count: usize) -> Vec<Raw> {
    let mut clients: Vec<Raw> = (0..count).map(|_| Raw::connect(address)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("SUB crowd.{n} 1\r\nSUB all.> q 2\r\nPING\r\n"));
    }
    for client in &mut clients {
        assert_eq!(client.line(), "PONG");
    }
    clients
}

#[test]
fn ten_thousand_connections_come_and_go_and_leave_nothing() {
    let Some(mut program) = Program::start("") else { return };
    // A first batch makes everything that is made once.
    drop(crowd(program.address, TURNOVER.1));
    program.settle();
    let before = program.memory_kib();
    for _ in 0..TURNOVER.0 / TURNOVER.1 {
        drop(crowd(program.address, TURNOVER.1));
    }
    program.settle();
    program.memory_returns_to(before, SLACK_KIB, "10,000 connections");
    program.is_well();
}

#[test]
fn five_thousand_idle_connections_are_cheap_and_the_next_ones_take_no_more() {
    let Some(mut program) = Program::start("") else { return };
    // A few make everything that is made once.
    drop(crowd(program.address, WARM));
    program.settle();
    let empty = program.memory_kib();
    let mut clients = crowd(program.address, IDLE);
    let full = program.memory_kib();
    println!("{IDLE} idle connections: {empty} KiB without, {full} KiB with them");
    assert!(
        full.saturating_sub(empty) <= IDLE as u64 * IDLE_KIB_MAX,
        "an idle connection takes {} KiB",
        full.saturating_sub(empty) / IDLE as u64
    );
    // They are alive: each hears what is for it.
    let mut publisher = Raw::connect(program.address);
    for n in (0..IDLE).step_by(97) {
        publisher.send(format!("PUB crowd.{n} 1\r\nx\r\n"));
        assert_eq!(clients[n].message().payload, b"x");
    }
    drop((clients, publisher));
    program.settle();
    program.repeat(SLACK_KIB, "5,000 idle connections once more", |address| drop(crowd(address, IDLE)));
    program.is_well();
}

/// Clients that do everything wrong, until told to stop.
struct Nuisance<'a> {
    address: SocketAddr,
    stop: &'a AtomicBool,
    /// Messages the flood got rid of.
    flooded: &'a AtomicU64,
}

impl Nuisance<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Sends what no server understands.
    fn babble(&self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        while self.goes_on() {
            let Ok(mut stream) = TcpStream::connect(self.address) else { return };
            let mut bytes: Vec<u8> = (0..random.usize(1..3000)).map(|_| random.u8(..)).collect();
            if random.bool() {
                bytes.splice(0..0, b"CONNECT {\"verbose\":true}\r\nSUB > 1\r\nPUB a 100\r\n".iter().copied());
            }
            // The server may hang up before all is written.
            let _ = stream.write_all(&bytes);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
            let _ = stream.read(&mut [0; 512]);
        }
    }

    /// Begins a frame and leaves.
    fn leave_half_way(&self) {
        let halves = [
            "PU",
            "PUB a 1000000\r\nhalf",
            "SUB ",
            "CONNECT {\"ver",
            "HPUB a 12 20\r\nNATS/1.0\r\n",
            "PUB flood 70000\r\n",
        ];
        while self.goes_on() {
            for half in halves {
                let Ok(mut stream) = TcpStream::connect(self.address) else { return };
                let _ = stream.write_all(half.as_bytes());
            }
        }
    }

    /// Subscribes to the flood, reads nothing, and dies while its producer waits for it.
    fn be_deaf(&self) {
        while self.goes_on() {
            let mut raw = Raw::connect(self.address);
            raw.send("SUB flood 1\r\n");
            let before = self.flooded.load(Ordering::Relaxed);
            let started = Instant::now();
            while self.goes_on()
                && self.flooded.load(Ordering::Relaxed) < before + 1000
                && started.elapsed() < Duration::from_millis(300)
            {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Publishes as fast as it is let.
    fn flood(&self) {
        let mut raw = Raw::connect(self.address);
        let mut frame = b"PUB flood 16384\r\n".to_vec();
        frame.resize(frame.len() + 16384, b'x');
        frame.extend_from_slice(b"\r\n");
        while self.goes_on() {
            raw.send(&frame);
            self.flooded.fetch_add(1, Ordering::Relaxed);
        }
        raw.sync();
    }
}

/// Messages of one pair during a storm.
const COUNTED: u32 = 3000;
/// Messages on their way at a time.
const WINDOW: u32 = 20;

/// A publisher and a subscriber that count.
fn exchange(address: SocketAddr, pair: usize) {
    let mut subscriber = Raw::connect(address);
    subscriber.send(format!("SUB good.{pair}.* 1\r\n"));
    subscriber.sync();
    let mut publisher = Raw::connect(address);
    for from in (0..COUNTED).step_by(WINDOW as usize) {
        for n in from..from + WINDOW {
            let text = n.to_string();
            publisher.send(format!("PUB good.{pair}.{} {}\r\n{text}\r\n", n % 7, text.len()));
        }
        for n in from..from + WINDOW {
            let message = subscriber.message();
            assert_eq!(message.payload, n.to_string().as_bytes(), "pair {pair} lost or swapped one");
        }
    }
    publisher.sync();
    subscriber.sync();
}

fn storm(address: SocketAddr) {
    let (stop, flooded) = (AtomicBool::new(false), AtomicU64::new(0));
    let nuisance = &Nuisance { address, stop: &stop, flooded: &flooded };
    thread::scope(|scope| {
        for seed in 0..64 {
            scope.spawn(move || nuisance.babble(seed));
        }
        scope.spawn(|| nuisance.leave_half_way());
        for _ in 0..8 {
            scope.spawn(|| nuisance.be_deaf());
        }
        scope.spawn(|| nuisance.flood());
        let pairs: Vec<_> = (0..4).map(|pair| scope.spawn(move || exchange(address, pair))).collect();
        // Whatever happens, the others must be told to stop, or the scope waits for ever.
        let outcomes: Vec<_> = pairs.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let so_far = flooded.load(Ordering::Relaxed);
        let started = Instant::now();
        while flooded.load(Ordering::Relaxed) == so_far && started.elapsed() < common::DEADLINE {
            thread::sleep(Duration::from_millis(5));
        }
        let moved = flooded.load(Ordering::Relaxed) > so_far;
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok), "a well-behaved pair was disturbed");
        assert!(moved, "the producer is stuck");
    });
    println!("{} messages of the flood were taken", flooded.load(Ordering::Relaxed));
}

#[test]
fn the_well_behaved_are_served_while_everybody_else_misbehaves() {
    let settings = "max_pending: 4MB\nwrite_deadline: \"2s\"\n";
    let Some(mut program) = Program::start(settings) else { return };
    program.repeat(SLACK_KIB + BACKLOG_KIB, "a storm", storm);
    program.is_well();
}
