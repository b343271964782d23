//! A state directory, a real broker in it, an engine that records and acknowledges, and hosts as processes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ostler_broker::{AllowResponses, Credential, Identity, Permissions, Rules, Server, Users};
use ostler_client::{Bus, Client, Error, Options, create_key};
use ostler_wire::{
    AgentEvent, AgentId, AgentState, Endpoint, HostRecord, NodeId, OutputAck, OutputMessage, OutputStream,
    RunId, RunSpec, SpawnRequest, StatusMessage, Subject, Timestamp,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take; far above what is normal, so that a busy machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
pub async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the engine has.
#[derive(Debug, Default)]
pub struct Recorded {
    pub messages: Vec<OutputMessage>,
    pub recorded: u64,
    pub statuses: Vec<StatusMessage>,
    pub heartbeats: Vec<Value>,
    pub shutdowns: Vec<Value>,
    /// Output that came a second time.
    pub repeated: u64,
    /// False: nothing is acknowledged.
    pub silent: bool,
}

impl Recorded {
    pub fn lines(&self) -> Vec<String> {
        let stdout = self.messages.iter().filter(|message| message.stream == OutputStream::Stdout);
        stdout.filter_map(|message| message.data.clone()).collect()
    }

    pub fn events(&self) -> Vec<AgentEvent> {
        self.messages.iter().filter_map(|message| message.event.clone()).collect()
    }

    /// The numbers are 1, 2, 3 ... without a gap or a repetition.
    pub fn assert_gapless(&self) {
        let numbers: Vec<u64> = self.messages.iter().map(|message| message.seq).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    }

    fn take(&mut self, message: OutputMessage) -> OutputAck {
        let from = match message.event {
            Some(AgentEvent::Dropped { from_seq, .. }) => from_seq,
            _ => message.seq,
        };
        let rewind = from > self.recorded + 1;
        let run_id = message.run_id;
        if message.seq <= self.recorded {
            self.repeated += 1;
        } else if !rewind {
            self.recorded = message.seq;
            self.messages.push(message);
        }
        OutputAck { run_id, recorded: self.recorded, rewind }
    }
}

/// One agent's surroundings.
pub struct World {
    pub dir: TempDir,
    pub agent: AgentId,
    pub recorded: Arc<Mutex<Recorded>>,
    users: Users,
    host_key: String,
    server: Option<Server>,
    client: Option<Client>,
}

impl World {
    pub async fn new() -> Self {
        let mut world = Self::without_bus();
        world.start_bus(0);
        world.start_engine().await;
        world
    }

    /// The bus is not there yet.
    pub fn without_bus() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = AgentId::parse("a1").unwrap();
        let users = Users::new();
        let engine = create_key(&dir.path().join("engine.nk")).unwrap();
        let host = create_key(&dir.path().join("host.nk")).unwrap();
        let set = |name: &str, key: String, permissions| {
            let credential = Credential::Nkey(key);
            users.set(Identity::new(name, credential, permissions)).unwrap();
        };
        set("engine", engine, Permissions::all());
        let world =
            Self { dir, agent, recorded: Arc::default(), users, host_key: host, server: None, client: None };
        world.admit_host();
        world
    }

    /// Lets the host onto the bus.
    pub fn admit_host(&self) {
        let own = format!("agent.{}.>", self.agent);
        let inbox = format!("{}.>", ostler_wire::Subject::host_inbox(&self.agent));
        let permissions = Permissions {
            publish: Rules::allow([own.clone()]),
            subscribe: Rules::allow([own, inbox]),
            allow_responses: Some(AllowResponses::default()),
        };
        let credential = Credential::Nkey(self.host_key.clone());
        self.users.set(Identity::new("host", credential, permissions)).unwrap();
    }

    /// Connects with the host's credential, as a host does.
    pub async fn connect_once(&self) -> Client {
        let bus = Bus::File(self.dir.path().join("daemon.json"));
        let options = Options::new("once", bus, self.dir.path().join("host.nk")).without_reconnect();
        Client::connect(options.inbox_prefix(ostler_wire::Subject::host_inbox(&self.agent))).await.unwrap()
    }

    /// Keeps the host from the bus, and takes it off.
    pub fn expel_host(&self) {
        self.users.remove("host");
    }

    /// An engine on the present bus; what it recorded before is kept, as on a disk.
    pub async fn start_engine(&mut self) {
        let bus = Bus::File(self.dir.path().join("daemon.json"));
        let client =
            Client::connect(Options::new("engine", bus, self.dir.path().join("engine.nk"))).await.unwrap();
        client.connected().await;
        self.client = Some(client);
        self.listen().await;
        self.client().flush().await.unwrap();
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("an engine was started")
    }

    async fn listen(&self) {
        let mut output = self.client().subscribe("agent.*.output").await.unwrap();
        let (client, recorded) = (self.client().clone(), Arc::clone(&self.recorded));
        tokio::spawn(async move {
            while let Some(message) = output.next().await {
                let answer = {
                    let mut recorded = recorded.lock().unwrap();
                    if recorded.silent {
                        continue;
                    }
                    recorded.take(message.json().unwrap())
                };
                client.respond(&message, &answer).await.unwrap();
            }
        });
        for (topic, keep) in [
            (
                "status",
                (|r, m| r.statuses.push(serde_json::from_value(m).unwrap())) as fn(&mut Recorded, Value),
            ),
            ("heartbeat", |r, m| r.heartbeats.push(m)),
            ("shutdown", |r, m| r.shutdowns.push(m)),
        ] {
            let mut subscription = self.client().subscribe(format!("agent.*.{topic}")).await.unwrap();
            let recorded = Arc::clone(&self.recorded);
            tokio::spawn(async move {
                while let Some(message) = subscription.next().await {
                    // A query is not a publication.
                    if message.reply.is_none() {
                        keep(&mut recorded.lock().unwrap(), message.json().unwrap());
                    }
                }
            });
        }
    }

    pub fn start_bus(&mut self, port: u16) -> u16 {
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        let server =
            Server::builder().listen(address).max_payload(8 << 20).users(self.users.clone()).start().unwrap();
        let endpoint = Endpoint {
            bus_url: server.url(),
            node: NodeId::parse("box").unwrap(),
            pid: std::process::id(),
            version: "0".into(),
            started_at: Timestamp::now(),
            external: None,
            tls: None,
        };
        let path = self.dir.path().join("daemon.json");
        std::fs::write(path.with_extension("new"), serde_json::to_vec(&endpoint).unwrap()).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
        let port = server.local_addr().port();
        self.server = Some(server);
        port
    }

    pub fn stop_bus(&mut self) {
        self.server.take().unwrap().shutdown();
    }

    /// Starts a host whose agent runs this shell script.
    pub fn host(&self, script: &str) -> Host {
        self.host_of(SpawnRequest {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            stop_grace_ms: Some(2000),
            ..SpawnRequest::default()
        })
    }

    pub fn host_of(&self, spawn: SpawnRequest) -> Host {
        self.host_with(spawn, 64 << 20)
    }

    pub fn host_with(&self, spawn: SpawnRequest, buffer_bytes_max: u64) -> Host {
        let run_id = RunId::generate();
        let agent_dir = self.dir.path().join("agents").join(self.agent.as_str());
        let run_dir = agent_dir.join("runs").join(run_id.to_string());
        std::fs::create_dir_all(&run_dir).unwrap();
        let work_dir = self.dir.path().join("work");
        std::fs::create_dir_all(&work_dir).unwrap();
        let spec = RunSpec {
            agent_id: self.agent.clone(),
            run_id,
            node: NodeId::parse("box").unwrap(),
            spawn: SpawnRequest { dir: spawn.dir.clone().or(Some(work_dir)), ..spawn },
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            agent_dir,
            run_dir: run_dir.clone(),
            endpoint_file: self.dir.path().join("daemon.json"),
            key_file: self.dir.path().join("host.nk"),
            cgroup: None,
            heartbeat_ms: 200,
            buffer_bytes_max,
        };
        std::fs::write(run_dir.join("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        let log = std::fs::File::create(run_dir.join("host.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ostler-host-test"))
            .arg(&run_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Host { child, run_dir, run_id }
    }

    pub fn look<T>(&self, look: impl FnOnce(&Recorded) -> T) -> T {
        look(&self.recorded.lock().unwrap())
    }

    pub async fn line(&self, line: &str) {
        until(&format!("the line {line:?}"), || {
            self.look(|recorded| recorded.lines().iter().any(|l| l == line)).then_some(())
        })
        .await;
    }

    pub async fn status(&self, what: &str, wanted: impl Fn(&StatusMessage) -> bool) -> StatusMessage {
        until(what, || self.look(|recorded| recorded.statuses.iter().find(|s| wanted(s)).cloned())).await
    }

    pub async fn active(&self) -> StatusMessage {
        self.status("the agent to be active", |status| status.state == AgentState::Active).await
    }

    /// Asks the host; the error is its refusal.
    pub async fn ask<R: DeserializeOwned>(&self, topic: &str, message: Value) -> Result<R, Error> {
        let payload = serde_json::to_vec(&message).unwrap();
        self.ask_bytes(topic, payload).await
    }

    pub async fn ask_bytes<R: DeserializeOwned>(&self, topic: &str, payload: Vec<u8>) -> Result<R, Error> {
        let subject = format!("agent.{}.{topic}", self.agent);
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Nobody listens until the host has its connection.
            match self.client().request_bytes(&subject, payload.clone().into(), PATIENCE).await {
                Err(Error::NoResponders { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other,
            }
        }
    }

    /// Publishes without asking for an answer.
    pub async fn publish(&self, topic: &str, payload: &'static [u8]) {
        let subject = format!("agent.{}.{topic}", self.agent);
        self.client().publish_bytes(&subject, None, payload.into()).await.unwrap();
    }

    pub async fn send(&self, text: &str) -> Value {
        self.ask("input", json!({ "text": text })).await.unwrap()
    }

    pub async fn query(&self) -> StatusMessage {
        self.ask("status", json!({})).await.unwrap()
    }

    pub fn subject(&self, make: fn(&AgentId) -> Subject) -> Subject {
        make(&self.agent)
    }
}

/// A host's guard as our child. Dropping it ends everything of the run.
pub struct Host {
    child: Child,
    pub run_dir: PathBuf,
    pub run_id: RunId,
}

impl Host {
    pub fn record(&self) -> Option<HostRecord> {
        read_json(&self.run_dir.join("host.json"))
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the host to end", || child.try_wait().unwrap()).await
    }

    pub fn guard_pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.run_dir.join("host.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("host log of {}:\n{}", self.run_id, self.log());
        }
        // The host notices and ends the agent's tree.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}
