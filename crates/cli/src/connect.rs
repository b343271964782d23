//! Finds the daemon of a state directory and connects to its bus with the operator's credential.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_client::{Bus, Client, Options, REQUEST_TIMEOUT, Role};
use ostler_daemon::{StateDir, Waiting};
use ostler_supervise::platform::Identity;
use ostler_wire::{
    AgentId, AgentSummary, ENDPOINT_FILE, Endpoint, JsonMap, ListReply, NodeId, NodeInfo, Subject,
};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exit::{Exit, Failure, Outcome};
use crate::lasting::{Listener, keep};
use crate::screen::Screen;

/// File name of the operator's credential in the state directory.
pub(crate) const OPERATOR_KEY_FILE: &str = "operator.nk";

/// The operator may listen under this prefix only.
const INBOX_PREFIX: &str = "_INBOX.operator";

/// The places the command works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// The daemon's state directory.
    pub(crate) state_dir: PathBuf,
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// True when the person named the configuration file: then it must exist.
    pub(crate) config_is_given: bool,
}

impl Places {
    /// Takes what was given and fills the rest from the environment, as the XDG base directory specification says:
    /// "All paths set in these environment variables must be absolute. If an implementation encounters a relative
    /// path in any of these variables it should consider the path invalid and ignore it."
    pub(crate) fn resolve(
        state_dir: Option<PathBuf>,
        config: Option<PathBuf>,
        env: impl Fn(&str) -> Option<PathBuf>,
    ) -> Outcome<Self> {
        let base = |variable: &str, below_home: &str| {
            let set = env(variable).filter(|path| path.is_absolute());
            set.or_else(|| env("HOME").filter(|home| home.is_absolute()).map(|home| home.join(below_home)))
        };
        let homeless = |flag: &str| {
            Failure::new(Exit::BadInput, "the environment variable HOME is not set to an absolute path")
                .hint(format!("set HOME, or give {flag}"))
        };
        let absolute = |path: PathBuf| {
            std::path::absolute(&path)
                .map_err(|error| Failure::io(format!("the path `{}` cannot be used", path.display()), &error))
        };
        let config_is_given = config.is_some();
        let state_dir = match state_dir {
            Some(path) => absolute(path)?,
            None => {
                base("XDG_STATE_HOME", ".local/state").ok_or_else(|| homeless("--state-dir"))?.join("ostler")
            }
        };
        let config = match config {
            Some(path) => absolute(path)?,
            None => base("XDG_CONFIG_HOME", ".config")
                .ok_or_else(|| homeless("--config"))?
                .join("ostler/config.toml"),
        };
        Ok(Self { state_dir, config, config_is_given })
    }

    /// Where the daemon says how to reach it.
    pub(crate) fn endpoint_file(&self) -> PathBuf {
        self.state_dir.join(ENDPOINT_FILE)
    }
}

/// Reads what the last daemon of the state directory left; `None` when there is no such file.
pub(crate) fn read_endpoint(path: &Path) -> Outcome<Option<Endpoint>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(format!("{} cannot be read", path.display()), &error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let path = path.to_owned();
        ostler_client::Error::BadEndpoint { path, reason: error.to_string() }.into()
    })
}

/// A connection to a running daemon.
pub(crate) struct Session {
    /// The present one; replaced when the daemon moves, if the session is kept.
    clients: watch::Sender<Client>,
    options: Options,
    pub(crate) node: NodeId,
    pub(crate) endpoint: Endpoint,
    /// What keeps the session; aborted with it.
    keeper: JoinSet<()>,
}

impl Session {
    /// Connects, or says that no daemon runs and how to start one.
    pub(crate) async fn open(places: &Places) -> Outcome<Self> {
        let file = places.endpoint_file();
        let endpoint = read_endpoint(&file)?.ok_or_else(|| no_daemon(places))?;
        let options = Options::new("ostler-cli", Bus::File(file), places.state_dir.join(OPERATOR_KEY_FILE))
            .role(Role::Operator)
            .inbox_prefix(INBOX_PREFIX)
            .by(who());
        let client = Client::connect(options.clone()).await.map_err(|error| match error {
            ostler_client::Error::Unreachable { .. } if endpoint.external.is_some() => {
                bus_away(&endpoint, &error.to_string()).unwrap_or_else(|| no_daemon(places))
            }
            ostler_client::Error::Unreachable { .. } => no_daemon(places),
            other => other.into(),
        })?;
        let (clients, keeper) = (watch::Sender::new(client), JoinSet::new());
        Ok(Self { clients, options, node: endpoint.node.clone(), endpoint, keeper })
    }

    /// Whether the daemon is there too. A bus that is not its own is there without it, and what a daemon that was killed
    /// wrote of itself stays.
    pub(crate) async fn has_daemon(&self) -> bool {
        if self.endpoint.external.is_none() {
            return true;
        }
        let info = Subject::NodeInfo(self.node.clone());
        Identity::of(self.endpoint.pid).is_some_and(Identity::is_alive)
            && self.request::<NodeInfo>(&info, &JsonMap::new()).await.is_ok()
    }

    /// The same for a verb that goes on: it follows a daemon that comes back, and says when it is away.
    pub(crate) fn kept(mut self, screen: Screen) -> Self {
        self.keeper.spawn(keep(self.clients.clone(), self.options.clone(), screen));
        self
    }

    /// The present client.
    pub(crate) fn client(&self) -> Client {
        self.clients.borrow().clone()
    }

    /// Listens on a subject filter, through reconnects.
    pub(crate) async fn listen(&self, filter: impl Into<String>) -> Outcome<Listener> {
        Listener::join(self.clients.subscribe(), filter.into()).await
    }

    /// As [`Client::request`], on the present client. Cancel-safe in the same sense.
    pub(crate) async fn request<R: serde::de::DeserializeOwned>(
        &self,
        subject: &Subject,
        message: &(impl serde::Serialize + ?Sized),
    ) -> Result<R, ostler_client::Error> {
        self.request_within(subject, message, REQUEST_TIMEOUT).await
    }

    /// As [`Client::request_within`], on the present client.
    pub(crate) async fn request_within<R: serde::de::DeserializeOwned>(
        &self,
        subject: &Subject,
        message: &(impl serde::Serialize + ?Sized),
        patience: Duration,
    ) -> Result<R, ostler_client::Error> {
        let mut clients = self.clients.subscribe();
        let client = clients.borrow_and_update().clone();
        tokio::select! {
            answer = client.request_within(subject, message, patience) => answer,
            // The answer would go to where nobody listens any more.
            _ = clients.changed() => Err(ostler_client::Error::Closed("the daemon has moved".into())),
        }
    }

    /// The node to name in a request that any daemon of the bus could mean: none where the bus is the daemon's own.
    pub(crate) fn node_on_shared_bus(&self) -> Option<NodeId> {
        self.endpoint.external.is_some().then(|| self.node.clone())
    }

    /// All agents of the node.
    pub(crate) async fn agents(&self) -> Outcome<ListReply> {
        Ok(self.request(&Subject::NodeAgents(self.node.clone()), &JsonMap::new()).await?)
    }

    /// One agent, or the failure that names it.
    pub(crate) async fn agent(&self, id: &AgentId) -> Outcome<AgentSummary> {
        let agents = self.agents().await?.agents;
        let found = agents.into_iter().find(|agent| agent.agent_id == *id);
        found.ok_or_else(|| match self.node_on_shared_bus() {
            None => unknown_agent(id),
            Some(node) => elsewhere(id, &node),
        })
    }

    /// Fails where the agent is not this daemon's. On a shared bus a request reaches whoever has an agent of that name;
    /// a command line acts on the agents of its own daemon alone, so that a slip ends nobody else's.
    pub(crate) async fn check_own(&self, id: &AgentId) -> Outcome {
        if self.node_on_shared_bus().is_none() {
            // Nobody else is there, and the request itself tells.
            return Ok(());
        }
        self.agent(id).await.map(drop)
    }

    /// Asks the host of an agent of ours. A host that does not answer is explained by what the node knows about the agent.
    pub(crate) async fn ask_host<R: serde::de::DeserializeOwned>(
        &self,
        id: &AgentId,
        subject: &Subject,
        message: &(impl serde::Serialize + ?Sized),
    ) -> Outcome<R> {
        self.check_own(id).await?;
        match self.request(subject, message).await {
            Err(ostler_client::Error::NoResponders { .. }) => Err(not_running(&self.agent(id).await?)),
            answer => Ok(answer?),
        }
    }
}

/// Who sits here, for the audit: `alice@box`.
fn who() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // A header takes no line breaks, and the audit needs no more than a name.
    format!("{user}@{host}").chars().filter(char::is_ascii_graphic).take(100).collect()
}

/// The daemon runs, and its bus, which is not its own, is away. `None` when the daemon does not run either.
fn bus_away(endpoint: &Endpoint, reason: &str) -> Option<Failure> {
    Identity::of(endpoint.pid).filter(|identity| identity.is_alive())?;
    let message = format!("the daemon (pid {}) runs, but its bus is away: {reason}", endpoint.pid);
    Some(
        Failure::new(Exit::NoDaemon, message)
            .hint("start the nats-server; daemon and agents go on by themselves then"),
    )
}

/// What every verb that needs a daemon says when there is none.
pub(crate) fn no_daemon(places: &Places) -> Failure {
    if let Some(waiting) = StateDir::new(&places.state_dir).waiting() {
        return waiting_for_bus(Exit::NoDaemon, &waiting);
    }
    Failure::new(
        Exit::NoDaemon,
        format!("no daemon runs for the state directory {}", places.state_dir.display()),
    )
    .hint(crate::exit::START_HINT)
}

/// The daemon is there and of no use yet; what it was started with counts until it is started again.
pub(crate) fn waiting_for_bus(exit: Exit, waiting: &Waiting) -> Failure {
    let message = format!("the daemon (pid {}) is waiting for the bus: {}", waiting.pid, waiting.reason);
    Failure::new(exit, message).hint(
        "start the nats-server, and the daemon goes on by itself; to change `url`: `ostler down`, correct the \
         configuration, `ostler up -d`",
    )
}

/// The name is nobody's.
pub(crate) fn unknown_agent(id: &AgentId) -> Failure {
    Failure::new(Exit::UnknownAgent, format!("no agent is called {id}"))
        .hint(format!("`ostler ps --all` lists them; `ostler spawn {id} -- COMMAND` makes one"))
}

/// The name is nobody's here, and may be somebody's at another daemon of the bus.
fn elsewhere(id: &AgentId, node: &NodeId) -> Failure {
    Failure::new(Exit::UnknownAgent, format!("no agent of {node} is called {id}")).hint(format!(
        "`ostler ps --all` lists them; `ostler spawn {id} -- COMMAND` makes one; another daemon's agents answer to the \
         command line with its --state-dir"
    ))
}

fn not_running(agent: &AgentSummary) -> Failure {
    let id = &agent.agent_id;
    Failure::new(Exit::Refused, format!("{id} is {}: it has no running process", agent.state))
        .hint(format!("`ostler restart {id}` starts it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(env: &[(&str, &str)]) -> Outcome<Places> {
        let env: Vec<(String, PathBuf)> =
            env.iter().map(|(k, v)| ((*k).to_owned(), PathBuf::from(v))).collect();
        Places::resolve(None, None, |name| {
            env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn xdg_variables_come_before_home_and_relative_ones_are_ignored() {
        let places =
            resolve(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "rel")]).unwrap();
        assert_eq!(places.state_dir, PathBuf::from("/s/ostler"));
        assert_eq!(places.config, PathBuf::from("/h/.config/ostler/config.toml"));
        assert_eq!(places.endpoint_file(), PathBuf::from("/s/ostler/daemon.json"));
    }

    #[test]
    fn without_home_the_failure_names_the_flag() {
        let failure = resolve(&[]).unwrap_err();
        assert_eq!(failure.exit, Exit::BadInput);
        assert!(failure.hint.unwrap().contains("--state-dir"));
    }

    #[test]
    fn a_missing_address_file_is_no_error_and_a_broken_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ENDPOINT_FILE);
        assert_eq!(read_endpoint(&path), Ok(None));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read_endpoint(&path).unwrap_err().exit, Exit::NoDaemon);
    }
}
