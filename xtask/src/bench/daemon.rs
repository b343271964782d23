//! A daemon of the release binary in a directory of its own, for as long as a measurement takes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ostler_client::{Bus, Client, Options, Subscription};
use ostler_wire::{
    AgentId, ControlReply, DownReply, DownRequest, ENDPOINT_FILE, Endpoint, JsonMap, NodeInfo, RemoveRequest,
    RestartPolicy, SpawnReply, SpawnRequest, Subject,
};
use tempfile::TempDir;

/// Nothing that is measured takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon and a connection to it.
pub(super) struct Daemon {
    process: Child,
    dir: TempDir,
    endpoint: Endpoint,
    pub(super) client: Client,
    /// From the start of the process to the line that says it is ready.
    pub(super) ready_after: Duration,
}

impl Daemon {
    /// Starts one on a free port, in a fresh directory.
    pub(super) async fn start(binary: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ostler-bench-").tempdir()?;
        let start = Instant::now();
        let mut process = Command::new(binary)
            .args(["up", "--port", "0", "--state-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut lines = BufReader::new(process.stdout.take().expect("stdout is piped")).lines();
        lines.next().context("the daemon ended before it was ready")??;
        let ready_after = start.elapsed();

        let endpoint_file = dir.path().join(ENDPOINT_FILE);
        let endpoint: Endpoint = serde_json::from_slice(&std::fs::read(&endpoint_file)?)?;
        let options = Options::new("bench", Bus::File(endpoint_file), dir.path().join("operator.nk"));
        let client = Client::connect(options).await?;
        let info: NodeInfo =
            client.request(&Subject::NodeInfo(endpoint.node.clone()), &JsonMap::new()).await?;
        ensure!(info.pid == process.id(), "another daemon answered");
        Ok(Self { process, dir, endpoint, client, ready_after })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The directory of a run.
    pub(super) fn run_dir(&self, agent: &AgentId, reply: &SpawnReply) -> PathBuf {
        self.dir.path().join("agents").join(agent.as_str()).join("runs").join(reply.run_id.to_string())
    }

    /// Spawns a plain agent that is not restarted.
    pub(super) async fn spawn(&self, agent: &AgentId, command: &[&str]) -> anyhow::Result<SpawnReply> {
        let request = SpawnRequest {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            dir: Some("/".into()),
            restart: RestartPolicy::Never,
            ..SpawnRequest::default()
        };
        Ok(self.client.request(&Subject::spawn(agent), &request).await?)
    }

    /// Forgets an agent, stopping it first.
    pub(super) async fn remove(&self, agent: &AgentId) -> anyhow::Result<()> {
        let request = RemoveRequest { force: true };
        let _: ControlReply = self.client.request_within(&Subject::remove(agent), &request, PATIENCE).await?;
        Ok(())
    }

    /// Stops the daemon and everything below it.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        let subject = Subject::NodeDown(self.endpoint.node.clone());
        let _: DownReply = self.client.request_within(&subject, &DownRequest::default(), PATIENCE).await?;
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the daemon does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    /// When a measurement fails: SIGKILL for the daemon would leave its agents, which are meant to outlive it.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
            let _ = self.process.wait();
        }
    }
}

/// Waits for the next message that `read` makes something of.
pub(super) async fn next<T>(
    subscription: &mut Subscription,
    mut read: impl FnMut(&ostler_client::Message) -> Option<T>,
) -> anyhow::Result<T> {
    let wait = async {
        loop {
            let message = subscription.next().await.context("the bus is gone")?;
            if let Some(found) = read(&message) {
                return anyhow::Ok(found);
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.context("nothing of the kind arrived")?
}
