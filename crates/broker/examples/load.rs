//! A raw-socket load generator: `load serve [PORT] [SHARDS]` runs a server, `load run ADDRESS` measures any NATS server.
//!
//! ```text
//! cargo run --release -p ostler-broker --example load -- serve 4333
//! cargo run --release -p ostler-broker --example load -- run 127.0.0.1:4333
//! ```
//!
//! It counts every delivered message. Sockets are raw because a client library is the bottleneck before a server is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ostler_broker::Server;
use ostler_broker_proto::{Parsed, ServerOp, parse_server};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\nPING\r\n";
/// Bytes the publisher writes at a time.
const WRITE_BYTES: usize = 64 << 10;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", rest @ ..] => {
            let port: u16 = rest.first().map_or(Ok(0), |port| port.parse())?;
            let shards: usize = rest.get(1).map_or(Ok(1), |shards| shards.parse())?;
            let builder =
                Server::builder().listen(([127, 0, 0, 1], port).into()).shards(shards).allow_anonymous();
            let server = builder.start()?;
            println!("{}", server.local_addr());
            loop {
                std::thread::park();
            }
        }
        ["run", address] => run(address.parse()?),
        _ => Err("usage: load serve [PORT] [SHARDS] | load run ADDRESS".into()),
    }
}

fn run(address: SocketAddr) -> Outcome<()> {
    for (size, count) in [(16, 4_000_000), (128, 3_000_000), (1024, 1_000_000), (8192, 200_000)] {
        let rate = flow(address, size, count, 1)?;
        println!("1 to 1  {size:>5} B  {:>10.0} msg/s", rate);
    }
    let rate = flow(address, 16, 1_500_000, 4)?;
    println!("1 to 4  {:>5} B  {rate:>10.0} msg/s delivered", 16);
    let mut trips = round_trips(address, 20_000)?;
    trips.sort_unstable();
    let at = |part: usize| trips[trips.len() * part / 100].as_nanos() as f64 / 1000.0;
    println!("request-reply  p50 {:.1} us  p99 {:.1} us", at(50), at(99));
    Ok(())
}

fn open(address: SocketAddr) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(CONNECT.as_bytes())?;
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !seen.ends_with(b"PONG\r\n") {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err("the server hung up".into());
        }
        seen.extend_from_slice(&chunk[..len]);
    }
    Ok(stream)
}

fn subscribe(address: SocketAddr, subject: &str) -> Outcome<TcpStream> {
    let mut stream = open(address)?;
    stream.write_all(format!("SUB {subject} 1\r\nPING\r\n").as_bytes())?;
    let mut pong = [0; 6];
    stream.read_exact(&mut pong)?;
    Ok(stream)
}

/// One publisher, some subscribers; delivered messages per second.
fn flow(address: SocketAddr, size: usize, count: usize, subscribers: usize) -> Outcome<f64> {
    let mut readers = Vec::new();
    for _ in 0..subscribers {
        let stream = subscribe(address, "bench.subject")?;
        readers.push(std::thread::spawn(move || count_messages(stream, count)));
    }
    let mut publisher = open(address)?;
    let mut frame = format!("PUB bench.subject {size}\r\n").into_bytes();
    frame.resize(frame.len() + size, b'x');
    frame.extend_from_slice(b"\r\n");
    let per_write = (WRITE_BYTES / frame.len()).max(1);
    let block = frame.repeat(per_write);
    let started = Instant::now();
    let mut left = count;
    while left > 0 {
        let now = left.min(per_write);
        publisher.write_all(&block[..now * frame.len()])?;
        left -= now;
    }
    for reader in readers {
        reader.join().map_err(|_| "a reader panicked")??;
    }
    Ok((count * subscribers) as f64 / started.elapsed().as_secs_f64())
}

/// Reads until all messages were seen; anything else the server says (its first PING) is passed over.
fn count_messages(mut stream: TcpStream, count: usize) -> Outcome<()> {
    let mut buffer = vec![0; 256 << 10];
    let (mut have, mut left) = (0, count);
    while left > 0 {
        let len = stream.read(&mut buffer[have..])?;
        if len == 0 {
            return Err(format!("the server hung up, {left} messages are missing").into());
        }
        have += len;
        let mut from = 0;
        while let Parsed::Op { op, consumed } = parse_server(&buffer[from..have])? {
            left -= usize::from(matches!(op, ServerOp::Msg(_)));
            from += consumed;
        }
        buffer.copy_within(from..have, 0);
        have -= from;
    }
    Ok(())
}

fn round_trips(address: SocketAddr, count: usize) -> Outcome<Vec<Duration>> {
    let mut service = subscribe(address, "service")?;
    let answering = std::thread::spawn(move || -> Outcome<()> {
        while next_message(&mut service).is_ok() {
            service.write_all(b"PUB inbox 16\r\n0123456789abcdef\r\n")?;
        }
        Ok(())
    });
    let mut asker = subscribe(address, "inbox")?;
    let mut trips = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        asker.write_all(b"PUB service inbox 16\r\n0123456789abcdef\r\n")?;
        next_message(&mut asker)?;
        trips.push(started.elapsed());
    }
    drop(answering);
    Ok(trips)
}

fn next_message(stream: &mut TcpStream) -> Outcome<()> {
    let mut buffer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match parse_server(&buffer)? {
            Parsed::Op { op: ServerOp::Msg(_), .. } => return Ok(()),
            Parsed::Op { consumed, .. } => drop(buffer.drain(..consumed)),
            Parsed::Incomplete { .. } => match stream.read(&mut chunk)? {
                0 => return Err("the server hung up".into()),
                len => buffer.extend_from_slice(&chunk[..len]),
            },
        }
    }
}
