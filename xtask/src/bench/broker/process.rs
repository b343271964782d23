//! A server process that is measured: its start, its processor time, its memory, its end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing that is measured takes longer, or it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// The name and the secret of all clients.
const USER: &str = "bench";
const PASSWORD: &str = "bench-password";

/// Whether clients must say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// A user with a password, who may publish and subscribe to the subjects of the benchmark alone.
    Closed,
    /// Anybody may do anything.
    Open,
}

/// How a server is started.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    /// What it is called in the table.
    pub(super) name: String,
    pub(super) program: PathBuf,
    /// Arguments beside the configuration.
    pub(super) args: Vec<String>,
    pub(super) access: Access,
    /// More lines for the section of JetStream; `None` to do without.
    pub(super) jetstream: Option<String>,
}

/// How a server ends before it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is asked to.
    Orderly,
    /// It does not get to do anything more.
    Kill,
}

/// A running server. Dropping it ends it.
pub(super) struct Server {
    process: Child,
    pub(super) address: SocketAddr,
    access: Access,
    /// From the start of the process to the answer to the first PING.
    pub(super) start_to_pong: Duration,
    dir: TempDir,
}

/// Servers to end when this process is told to, with their directories: dropping does not happen then.
static RUNNING: Mutex<BTreeMap<u32, PathBuf>> = Mutex::new(BTreeMap::new());

/// Ends the servers and this process on Ctrl-C and SIGTERM.
pub(super) fn end_servers_on_signal() -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Kept locked: nothing is started any more.
            let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            for (pid, dir) in &*running {
                if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                let _ = fs::remove_dir_all(dir);
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

impl Launcher {
    /// Starts it on a free port and waits until it answers.
    pub(super) fn start(&self) -> anyhow::Result<Server> {
        let dir = tempfile::Builder::new().prefix("ostler-bench-").tempdir()?;
        // Asked for and given back: a server that takes a port of its own says so each in its own way.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        fs::write(dir.path().join("server.conf"), self.configuration(address, dir.path()))?;
        let started = Instant::now();
        let process = self.spawn(dir.path())?;
        let mut server = Server { process, address, access: self.access, start_to_pong: Duration::ZERO, dir };
        server.wait_until_it_serves(self, started)?;
        Ok(server)
    }

    fn spawn(&self, dir: &Path) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(dir.join("server.conf")).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(dir.join("log"))?);
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let process = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        running.insert(process.id(), dir.to_owned());
        Ok(process)
    }

    /// The same for both, in the syntax of nats-server.
    fn configuration(&self, address: SocketAddr, dir: &Path) -> String {
        let mut text = configuration(address, self.access, self.jetstream.is_some());
        if let Some(more) = &self.jetstream {
            let store = dir.join("store");
            text += &format!("jetstream {{\n  store_dir: \"{}\"\n  {more}\n}}\n", store.display());
        }
        text
    }
}

fn configuration(address: SocketAddr, access: Access, jetstream: bool) -> String {
    let mut text = format!("listen: \"{address}\"\nmax_payload: 1MB\nmax_connections: 10000\n");
    let more = if jetstream { r#", "$JS.>""# } else { "" };
    if access == Access::Closed {
        text += &format!(
            r#"authorization {{
  users: [
    {{ user: "{USER}", password: "{PASSWORD}", permissions: {{
      publish: {{ allow: ["bench.>", "_INBOX.>"{more}] }}
      subscribe: {{ allow: ["bench.>", "_INBOX.>"] }}
    }} }}
  ]
}}
"#
        );
    }
    text
}

impl Server {
    fn wait_until_it_serves(&mut self, launcher: &Launcher, started: Instant) -> anyhow::Result<()> {
        self.wait_for_pong(started).with_context(|| {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            format!("{} does not serve; it says:\n{}", launcher.program.display(), log.trim())
        })?;
        self.start_to_pong = started.elapsed();
        Ok(())
    }

    /// Where it keeps everything.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it, and waits until it is gone.
    pub(super) fn end(&mut self, ending: Ending) -> anyhow::Result<()> {
        let signal = if ending == Ending::Orderly { Signal::TERM } else { Signal::KILL };
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).context("no such process")?;
        kill_process(pid, signal)?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it once more, where it was.
    pub(super) fn start_again(&mut self, launcher: &Launcher) -> anyhow::Result<()> {
        let started = Instant::now();
        let ended = self.process.id();
        self.process = launcher.spawn(self.dir.path())?;
        if ended != self.process.id() {
            RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&ended);
        }
        self.wait_until_it_serves(launcher, started)
    }

    fn wait_for_pong(&mut self, since: Instant) -> anyhow::Result<()> {
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => return self.greet(stream).map(drop),
                Err(error) => {
                    if let Some(status) = self.process.try_wait()? {
                        bail!("it ended with {status}");
                    }
                    ensure!(since.elapsed() < PATIENCE, "no connection: {error}");
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        }
    }

    /// A connection that said CONNECT and has its PONG.
    pub(super) fn connect(&self) -> anyhow::Result<TcpStream> {
        self.greet(TcpStream::connect(self.address)?)
    }

    fn greet(&self, mut stream: TcpStream) -> anyhow::Result<TcpStream> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let credential = match self.access {
            Access::Closed => format!(r#","user":"{USER}","pass":"{PASSWORD}""#),
            Access::Open => String::new(),
        };
        // protocol 0: no second INFO, which would come after the PONG.
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"protocol\":0{credential}}}\r\nPING\r\n"
        );
        stream.write_all(connect.as_bytes())?;
        read_until_pong(&mut stream)?;
        Ok(stream)
    }

    /// A connection with one subscription, sid 1.
    pub(super) fn subscribe(&self, filter: &str, queue: Option<&str>) -> anyhow::Result<TcpStream> {
        let mut stream = self.connect()?;
        let queue = queue.map(|queue| format!("{queue} ")).unwrap_or_default();
        stream.write_all(format!("SUB {filter} {queue}1\r\nPING\r\n").as_bytes())?;
        read_until_pong(&mut stream)?;
        Ok(stream)
    }

    /// Processor time it used so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.process.id())
    }

    /// Resident memory in bytes.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        Ok(kilobytes.parse::<f64>()? * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process.id());
    }
}

/// Processor time of all threads of a process.
///
/// The scheduler's account in nanoseconds; `utime` and `stime` are the same time in hundredths of a second.
pub(super) fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let file = task?.path().join("schedstat");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        nanoseconds += text.split_whitespace().next().context("empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Reads until a PONG ends what came.
pub(super) fn read_until_pong(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !seen.ends_with(b"PONG\r\n") {
        let len = stream.read(&mut chunk)?;
        ensure!(len > 0, "the server hung up: {}", seen.escape_ascii());
        seen.extend_from_slice(&chunk[..len]);
        if let Some(at) = memchr::memmem::find(&seen, b"-ERR") {
            bail!("the server says {}", seen[at..].escape_ascii());
        }
    }
    Ok(())
}

/// The first line of `program --version`.
pub(super) fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if line.starts_with("nats-server: v") && output.status.success() => {
            Ok(line.trim().to_owned())
        }
        line => {
            bail!("{} is no nats-server: `--version` says {:?}", program.display(), line.unwrap_or_default())
        }
    }
}
