//! Messages as fast as they go: publishers in one thread, subscribers in another, every message accounted for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::frames::{Account, Block, Form};
use super::process::{PATIENCE, Server};

/// Bytes per read: many small messages, and still in the cache.
const READ_BYTES: usize = 128 << 10;
/// Messages of the run that says how many a measured run takes.
const TRIAL_BYTES: u64 = 16 << 20;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Everybody gets everything.
    All { publishers: usize, subscribers: usize },
    /// Publishers and subscribers in pairs, each on a subject of its own.
    Pairs(usize),
    /// One publisher, one queue group.
    Queue { members: usize },
}

/// What one run showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Messages that subscribers got, per second.
    pub(super) delivered: f64,
    /// Processor time of the server per delivered message, in microseconds.
    pub(super) cpu: f64,
    /// Cores that the load itself took.
    pub(super) load: f64,
}

/// Runs for about `seconds`, after a short run that says how many messages these are.
pub(super) fn run(server: &Server, pattern: Pattern, form: Form, seconds: f64) -> anyhow::Result<Outcome> {
    let block = Block::new(form, 0, 0);
    let trial = (TRIAL_BYTES / block.frame_len as u64).max(100) / publishers(pattern) as u64;
    let first = run_counted(server, pattern, form, trial)?;
    let per_message = receivers_per_message(pattern) * publishers(pattern) as f64;
    let count = (first.delivered * seconds / per_message) as u64;
    run_counted(server, pattern, form, count.max(trial))
}

fn publishers(pattern: Pattern) -> usize {
    match pattern {
        Pattern::All { publishers, .. } => publishers,
        Pattern::Pairs(pairs) => pairs,
        Pattern::Queue { .. } => 1,
    }
}

fn receivers_per_message(pattern: Pattern) -> f64 {
    match pattern {
        Pattern::All { subscribers, .. } => subscribers as f64,
        Pattern::Pairs(_) | Pattern::Queue { .. } => 1.0,
    }
}

/// Each publisher sends `count` messages.
fn run_counted(server: &Server, pattern: Pattern, form: Form, count: u64) -> anyhow::Result<Outcome> {
    let mut receivers = Vec::new();
    match pattern {
        Pattern::All { publishers, subscribers } => {
            for _ in 0..subscribers {
                let account = Account::of_all(form, 0, publishers);
                receivers.push(Receiver::new(server.subscribe(&form.filter(0), None)?, account));
            }
        }
        Pattern::Pairs(pairs) => {
            for channel in 0..pairs {
                let account = Account::of_all(form, channel, 1);
                receivers.push(Receiver::new(server.subscribe(&form.filter(channel), None)?, account));
            }
        }
        Pattern::Queue { members } => {
            for _ in 0..members {
                let account = Account::of_part(form, 0, 1);
                receivers.push(Receiver::new(server.subscribe(&form.filter(0), Some("group"))?, account));
            }
        }
    }
    let mut senders = Vec::new();
    for publisher in 0..publishers(pattern) {
        // The publisher of a pair is the only one in its channel.
        let (channel, number) =
            if matches!(pattern, Pattern::Pairs(_)) { (publisher, 0) } else { (0, publisher) };
        senders.push(Sender::new(server.connect()?, Block::new(form, channel, number), count)?);
    }
    let total = (count as f64 * publishers(pattern) as f64 * receivers_per_message(pattern)) as u64;

    let (cpu_before, load_before) = (server.cpu()?, own_cpu());
    let started = Instant::now();
    let sending = std::thread::spawn(move || send_all(senders));
    let received = receive_all(&mut receivers, total);
    let taken = started.elapsed();
    let (cpu, load) = (server.cpu()? - cpu_before, own_cpu().saturating_sub(load_before));
    let missing = || format!("{} of {total} messages arrived", sum(&receivers));
    received.with_context(missing)?;
    let senders = sending.join().expect("the sender does not panic")?;
    for receiver in &mut receivers {
        receiver.finish()?;
    }
    let accounts: Vec<_> = receivers.into_iter().map(|receiver| receiver.account).collect();
    Account::check(&accounts, count)?;
    drop(senders);
    Ok(Outcome {
        delivered: total as f64 / taken.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / total as f64,
        load: load.as_secs_f64() / taken.as_secs_f64(),
    })
}

fn sum(receivers: &[Receiver]) -> u64 {
    receivers.iter().map(|receiver| receiver.account.messages).sum()
}

/// Processor time of this process, ended threads included.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Sender {
    stream: TcpStream,
    block: Block,
    at: usize,
    left: u64,
}

impl Sender {
    fn new(stream: TcpStream, block: Block, count: u64) -> anyhow::Result<Self> {
        stream.set_nonblocking(true)?;
        let left = count * block.frame_len as u64;
        Ok(Self { stream, block, at: 0, left })
    }

    /// Writes until the socket takes no more or nothing is left.
    fn write(&mut self) -> anyhow::Result<()> {
        while self.left > 0 {
            let rest = &self.block.bytes[self.at..];
            let rest = &rest[..rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
            match self.stream.write(rest) {
                Ok(len) => {
                    self.at = (self.at + len) % self.block.bytes.len();
                    self.left -= len as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the server does not take what is published"),
            }
        }
        Ok(())
    }
}

/// Returns the connections, so that nothing is lost by hanging up.
fn send_all(mut senders: Vec<Sender>) -> anyhow::Result<Vec<Sender>> {
    loop {
        for sender in &mut senders {
            sender.write()?;
        }
        let busy: Vec<_> = senders.iter().filter(|sender| sender.left > 0).collect();
        if busy.is_empty() {
            return Ok(senders);
        }
        wait(busy.iter().map(|sender| &sender.stream), PollFlags::OUT)?;
    }
}

/// Waits until one of the sockets is ready; says which are.
fn wait<'a>(streams: impl Iterator<Item = &'a TcpStream>, flags: PollFlags) -> anyhow::Result<Vec<bool>> {
    let mut fds: Vec<_> = streams.map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), flags)).collect();
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    if poll(&mut fds, Some(&patience))? == 0 {
        bail!("nothing happened for {} s", PATIENCE.as_secs());
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

struct Receiver {
    stream: TcpStream,
    buffer: Vec<u8>,
    have: usize,
    account: Account,
}

impl Receiver {
    fn new(stream: TcpStream, account: Account) -> Self {
        Self { stream, buffer: vec![0; READ_BYTES], have: 0, account }
    }

    /// One read, booked.
    fn read(&mut self) -> anyhow::Result<()> {
        let len = self.stream.read(&mut self.buffer[self.have..])?;
        anyhow::ensure!(len > 0, "the server hung up");
        self.have += len;
        let taken = self.account.take(&self.buffer[..self.have])?;
        self.buffer.copy_within(taken..self.have, 0);
        self.have -= taken;
        Ok(())
    }

    /// Has the server say that nothing more is on its way, and books what came before.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(b"PING\r\n")?;
        let deadline = Instant::now() + PATIENCE;
        while !self.buffer[..self.have].ends_with(b"PONG\r\n") {
            anyhow::ensure!(Instant::now() < deadline, "no PONG after the last message");
            let len = self.stream.read(&mut self.buffer[self.have..])?;
            anyhow::ensure!(len > 0, "the server hung up");
            self.have += len;
        }
        let rest = self.account.take(&self.buffer[..self.have])?;
        anyhow::ensure!(rest == self.have, "half a message is left over");
        Ok(())
    }
}

/// Reads until `total` messages arrived.
fn receive_all(receivers: &mut [Receiver], total: u64) -> anyhow::Result<()> {
    if let [only] = receivers {
        while only.account.messages < total {
            only.read()?;
        }
        return Ok(());
    }
    while sum(receivers) < total {
        let ready = wait(receivers.iter().map(|receiver| &receiver.stream), PollFlags::IN)?;
        for (receiver, ready) in receivers.iter_mut().zip(ready) {
            if ready {
                receiver.read()?;
            }
        }
    }
    Ok(())
}
