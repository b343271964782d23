//! A real daemon in a directory of its own: started, killed, started again, and cleared away with all its processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ostler_client::{Bus as Place, Client, Options as ClientOptions, Role};
use ostler_daemon::StateDir;
use ostler_wire::{AgentId, Endpoint};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::bus::{Bus, id};
use crate::nats::NatsServer;
use crate::process::{self, Process};
use crate::wait::{PATIENCE, wait_until_blocking};

/// How long a verb of the command line may take; the demo is the longest.
const CLI_PATIENCE: Duration = Duration::from_secs(90);

/// Set to `external`, daemons under test run on a real nats-server where the test does not choose itself.
pub const BUS_VARIABLE: &str = "OSTLER_TEST_BUS";

/// The bus of a daemon under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusKind {
    /// The daemon's own.
    Own,
    /// A real nats-server, started for it.
    External,
}

impl Default for BusKind {
    fn default() -> Self {
        match std::env::var(BUS_VARIABLE) {
            Ok(kind) if kind == "external" => Self::External,
            Ok(kind) => panic!("{BUS_VARIABLE} is {kind:?}; it may be \"external\", or be absent"),
            Err(_) => Self::Own,
        }
    }
}

/// What a test may choose about its daemon.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between heartbeats, as the configuration writes it. Default one second.
    pub heartbeat: String,
    /// More lines for the configuration's `[agents]`.
    pub agents: String,
    /// The size of a disk of its own for the state directory, as `mount -t tmpfs -o size=` takes it; it lives as long
    /// as the daemon and its hosts. Absent: an ordinary directory.
    pub disk: Option<&'static str>,
    /// Its bus. Default: its own, unless [`BUS_VARIABLE`] says otherwise.
    pub bus: BusKind,
    /// The node's name. Default `local`.
    pub node: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: "1s".into(),
            agents: String::new(),
            disk: None,
            bus: BusKind::default(),
            node: "local".into(),
        }
    }
}

/// What a run of the command line left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliOutput {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A daemon of the real binary.
///
/// Dropping it ends it, checks that no process of it is left, and prints its logs when the test has failed.
#[derive(Debug)]
pub struct TestDaemon {
    dir: TempDir,
    options: Options,
    state: StateDir,
    child: Option<Child>,
    /// The bus, where it is not its own.
    nats: Option<NatsServer>,
}

/// The program under test: `OSTLER_TEST_BIN`, or `ostler` beside the test's own directory.
///
/// # Panics
///
/// When it was not built.
pub fn ostler_bin() -> PathBuf {
    built("ostler", std::env::var_os("OSTLER_TEST_BIN").map(PathBuf::from))
}

/// The agent that does what a test tells it: beside the program under test, or beside the test's own directory.
///
/// # Panics
///
/// When it was not built.
pub fn fake_agent() -> PathBuf {
    let beside = ostler_bin().with_file_name("fake-agent");
    built("fake-agent", beside.exists().then_some(beside))
}

fn built(name: &str, chosen: Option<PathBuf>) -> PathBuf {
    let path = chosen.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("a test knows its own program");
        test.parent().and_then(Path::parent).expect("tests are built two directories deep").join(name)
    });
    assert!(
        path.exists(),
        "{} is missing: `cargo xtask test` builds it, or `cargo build -p ostler -p ostler-testkit --bins`",
        path.display()
    );
    path
}

impl TestDaemon {
    /// Starts a daemon with the defaults and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts a daemon and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn with(options: Options) -> Self {
        let mut daemon = Self::prepare(options);
        daemon.up();
        daemon
    }

    /// Makes the directory and the configuration, and starts nothing.
    ///
    /// # Panics
    ///
    /// When the temporary directory cannot be made.
    pub fn prepare(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("ostler-test-").tempdir().expect("a temporary directory");
        let nats = match options.bus {
            BusKind::Own => None,
            BusKind::External => Some(NatsServer::start(&dir.path().join("nats"))),
        };
        let bus =
            nats.as_ref().map_or("[bus]\nlisten = \"127.0.0.1:0\"\n".to_owned(), NatsServer::bus_section);
        Self::prepare_on(dir, options, &bus, nats)
    }

    /// As [`TestDaemon::prepare`], on the bus of this `[bus]` section, whoever runs it.
    ///
    /// # Panics
    ///
    /// As [`TestDaemon::prepare`].
    pub fn prepare_with_bus(options: Options, bus: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ostler-test-").tempdir().expect("a temporary directory");
        Self::prepare_on(dir, options, bus, None)
    }

    fn prepare_on(dir: TempDir, options: Options, bus: &str, nats: Option<NatsServer>) -> Self {
        let state = StateDir::new(dir.path().join("state"));
        let daemon = Self { dir, options, state, child: None, nats };
        fs::create_dir(daemon.dir.path().join("home")).expect("a home");
        daemon.write_config(&format!(
            "[node]\nname = \"{}\"\n\n{bus}\n[agents]\nheartbeat = \"{}\"\n{}\n",
            daemon.options.node, daemon.options.heartbeat, daemon.options.agents
        ));
        daemon
    }

    /// Starts the daemon that was prepared or has ended, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not become ready; its log is in the message.
    pub fn up(&mut self) {
        let pid = self.launch();
        let mut ended = None;
        wait_until_blocking("the daemon is ready", PATIENCE, || {
            ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child can be asked"));
            ended.is_some() || self.endpoint().is_some_and(|endpoint| endpoint.pid == pid)
        });
        if let Some(status) = ended {
            self.child = None;
            panic!("the daemon ended at its start: {status}\n{}", self.log());
        }
    }

    /// Starts the daemon without waiting for anything; returns its process id.
    ///
    /// # Panics
    ///
    /// When the program cannot be started, or runs already.
    pub fn launch(&mut self) -> u32 {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the daemon's log");
        let mut command = match self.options.disk {
            Some(size) => self.with_disk_of(size),
            None => Command::new(ostler_bin()),
        };
        self.environment(&mut command);
        command.env("OSTLER_STATE_DIR", self.state_path()).arg("up").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().expect("the daemon's program starts");
        let pid = child.id();
        self.child = Some(child);
        if self.options.disk.is_some() {
            // The disk is seen by the daemon and its hosts alone; this is the door into their view.
            let inside = self.state_path();
            let inside = inside.strip_prefix("/").expect("temporary directories have absolute names");
            self.state = StateDir::new(Path::new(&format!("/proc/{pid}/root")).join(inside));
        }
        pid
    }

    /// The state directory as the daemon sees it.
    fn state_path(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the daemon with a small disk mounted on its state directory; process and its id stay the same.
    fn with_disk_of(&self, size: &str) -> Command {
        let place = self.state_path();
        fs::create_dir_all(&place).expect("a place for the disk");
        // Without privileges, in a user namespace of its own.
        let new = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs -o size=$1,mode=700 tmpfs \"$2\" && shift 2 && exec \"$@\"";
        command.args([new, "sh", "-c", script, "sh", size]).arg(place).arg(ostler_bin());
        command
    }

    /// A daemon's environment says who it is through its state directory, and passes nothing of the developer's own.
    fn environment(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.dir.path().join("home"));
        command.env("OSTLER_STATE_DIR", self.state.path()).env("OSTLER_CONFIG", self.config_path());
        command.current_dir(self.dir.path());
    }

    /// Replaces the configuration.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write_config(&self, text: &str) {
        fs::write(self.config_path(), text).expect("the configuration");
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// A directory for the test's own files, gone with the daemon.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's files.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// The daemon's address file, while there is a readable one.
    pub fn endpoint(&self) -> Option<Endpoint> {
        serde_json::from_slice(&fs::read(self.state.endpoint()).ok()?).ok()
    }

    /// The nats-server it runs on.
    ///
    /// # Panics
    ///
    /// When the daemon has its own bus.
    pub fn nats(&mut self) -> &mut NatsServer {
        self.nats.as_mut().expect("the daemon runs on a nats-server")
    }

    /// The daemon's process id.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// How the daemon ended, if it has.
    ///
    /// # Panics
    ///
    /// When it was not started.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("the daemon was started").try_wait().expect("a child can be asked")
    }

    /// Waits until the daemon has ended.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until_blocking("the daemon ends", PATIENCE, || {
            ended = self.ended();
            ended.is_some()
        });
        self.child = None;
        ended.expect("the wait ended with it")
    }

    /// SIGKILL to the daemon; returns when it is gone.
    pub fn kill9(&mut self) {
        process::kill9(self.pid());
        self.wait();
    }

    /// A signal to the daemon; returns how it ended.
    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        process::signal(self.pid(), signal);
        self.wait()
    }

    /// Connects with the operator's credential; the connection follows the daemon over restarts.
    ///
    /// # Panics
    ///
    /// When the bus refuses.
    pub async fn bus(&self) -> Bus {
        let node = self.endpoint().expect("the daemon says where it is").node;
        let place = Place::File(self.state.endpoint());
        let options = ClientOptions::new("test", place, self.state.operator_key()).role(Role::Operator);
        Bus { client: Client::connect(options).await.expect("the operator may connect"), node }
    }

    /// Connects with the credential in `key`.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub async fn client_with(
        &self,
        name: &str,
        key: &Path,
        inbox_prefix: &str,
    ) -> Result<Client, ostler_client::Error> {
        let options = ClientOptions::new(name, Place::File(self.state.endpoint()), key);
        Client::connect(options.inbox_prefix(inbox_prefix)).await
    }

    /// Connects as an agent does, with the agent's own credential.
    ///
    /// # Panics
    ///
    /// When the bus refuses.
    pub async fn agent_client(&self, name: &str) -> Client {
        let key = self.state.agent(&id(name)).join("agent.nk");
        self.client_with(name, &key, &format!("_INBOX.{name}")).await.expect("the agent may connect")
    }

    /// Runs a verb of the command line for this daemon.
    ///
    /// # Panics
    ///
    /// When the program cannot be started, or does not end in time.
    pub fn ostler<const N: usize>(&self, args: [&str; N]) -> CliOutput {
        let said = |name| {
            let file = self.dir.path().join(name);
            (File::create(&file).expect("a file for what it says"), file)
        };
        let ((stdout, stdout_path), (stderr, stderr_path)) = (said("stdout"), said("stderr"));
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().expect("the program starts");
        let deadline = Instant::now() + CLI_PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                break Some(status);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let output = CliOutput {
            code: status.and_then(|status| status.code()),
            stdout: text(stdout_path),
            stderr: text(stderr_path),
        };
        assert!(status.is_some(), "ostler {args:?} does not end within {CLI_PATIENCE:?}: {output:?}");
        output
    }

    /// A verb of the command line for this daemon, for the test to start.
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new(ostler_bin());
        self.environment(&mut command);
        command.args(args);
        command
    }

    /// What the daemon wrote to its standard output and error so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("daemon-output.log")
    }

    /// The directories of the runs that are still kept.
    fn runs(&self) -> Vec<PathBuf> {
        let agents = fs::read_dir(self.state.path().join("agents")).into_iter().flatten().flatten();
        let runs =
            agents.flat_map(|agent| fs::read_dir(agent.path().join("runs")).into_iter().flatten().flatten());
        runs.map(|run| run.path()).collect()
    }

    /// Every log of every host so far, with its path.
    pub fn host_logs(&self) -> Vec<(PathBuf, String)> {
        let logs = self.runs().into_iter().map(|run| run.join("host.log"));
        logs.filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text))).collect()
    }

    /// The control groups of runs that still exist.
    fn cgroups(&self) -> Vec<PathBuf> {
        let named = |file: PathBuf| {
            let found: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
            Some(PathBuf::from(found.get("cgroup")?.as_str()?))
        };
        let runs = self.runs().into_iter();
        runs.filter_map(|run| named(run.join("spec.json")).or_else(|| named(run.join("host.json"))))
            .filter(|cgroup| cgroup.exists())
            .collect()
    }

    /// The host's record of an agent's latest run.
    pub fn host_record(&self, name: &str) -> Option<ostler_wire::HostRecord> {
        let runs = self.state.agent(&AgentId::parse(name).ok()?).join("runs");
        let latest = fs::read_dir(runs).ok()?.flatten().map(|run| run.path()).max()?;
        serde_json::from_slice(&fs::read(latest.join("host.json")).ok()?).ok()
    }

    /// The processes of this daemon that live right now: itself, hosts, guards, agents.
    pub fn processes(&self) -> Vec<Process> {
        let mut found = process::belonging_to(&self.state_path());
        found.retain(|process| !process.is_zombie());
        found
    }

    /// Fails when a log shows a panic.
    ///
    /// # Panics
    ///
    /// When one does.
    pub fn assert_nothing_panicked(&self) {
        let daemon = (self.log_path(), self.log());
        for (path, log) in self.host_logs().into_iter().chain([daemon]) {
            assert!(!log.contains("panicked"), "{} shows a panic:\n{log}", path.display());
        }
    }

    /// Ends everything; returns what the daemon should have ended: processes and control groups.
    fn clear_away(&mut self) -> (Vec<Process>, Vec<PathBuf>) {
        if let Some(mut child) = self.child.take() {
            if !std::thread::panicking() && child.try_wait().is_ok_and(|ended| ended.is_none()) {
                self.ostler(["down", "--timeout", "20s"]);
            }
            let mut is_gone = || child.try_wait().is_ok_and(|ended| ended.is_some());
            if !is_gone() {
                let patience = Instant::now() + Duration::from_secs(2);
                while !is_gone() && Instant::now() < patience {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        // A host that was just told goodbye may still be on its way out.
        let patience = Instant::now() + Duration::from_secs(2);
        let mut left = (self.processes(), self.cgroups());
        while left != (Vec::new(), Vec::new()) && !std::thread::panicking() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(10));
            left = (self.processes(), self.cgroups());
        }
        let patience = Instant::now() + Duration::from_secs(1);
        loop {
            let (processes, cgroups) = (self.processes(), self.cgroups());
            if (processes.is_empty() && cgroups.is_empty()) || Instant::now() > patience {
                break left;
            }
            processes.iter().for_each(|process| process::kill9(process.pid));
            // Refused while somebody is still dying in it.
            cgroups.iter().for_each(|cgroup| drop(fs::remove_dir(cgroup)));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn print_logs(&self) {
        eprintln!("----- the daemon's output\n{}", self.log());
        if let Some(nats) = &self.nats {
            eprintln!("----- the nats-server's log\n{}", nats.log());
        }
        for (path, log) in self.host_logs() {
            if !log.is_empty() {
                eprintln!("----- {}\n{log}", path.display());
            }
        }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
            self.clear_away();
            return;
        }
        let left = self.clear_away();
        if left != (Vec::new(), Vec::new()) {
            self.print_logs();
            panic!("processes or control groups were left: {left:#?}");
        }
        self.assert_nothing_panicked();
    }
}
