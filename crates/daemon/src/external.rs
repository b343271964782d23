//! Joining a bus that is not ours: waits for it as long as it takes, and looks whether it will do.

use std::fs;
use std::time::Duration;

use ostler_client::{Bus, Client, Error as BusError, Options, check_credential};
use ostler_supervise::platform::Identity;
use ostler_wire::{ExternalBus, JsonMap, NodeId, NodeInfo, Subject};

use crate::config::External;
use crate::files::replace_json;
use crate::signals::Signals;
use crate::{Error, StateDir, Waiting};

/// The first and the longest wait between two attempts.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// A page of the log and its frame: what a nats-server carries as it comes.
const PAYLOAD_BYTES_MIN: usize = 1 << 20;
/// What our own bus carries; below it the largest inputs and outputs are refused.
const PAYLOAD_BYTES_WISHED: usize = 8 << 20;

/// How long another daemon of our name may take to say so, and how often it is asked.
const NAME_PATIENCE: Duration = Duration::from_secs(1);
const NAME_ATTEMPTS: u32 = 2;

/// Connects; `None` when the daemon was asked to end before the bus was there.
///
/// # Errors
///
/// What no waiting mends: a credential that cannot be used or is refused, a bus that carries too little, a name that is
/// taken.
pub(crate) async fn join(
    external: &External,
    node: &NodeId,
    state: &StateDir,
    signals: &mut Signals,
) -> Result<Option<Client>, Error> {
    let bus = external.to_wire();
    check_files(external, &bus)?;
    warn_of_the_clear(external);
    let connected = tokio::select! {
        connected = connect(external, &bus, state) => connected.map(Some),
        asked = signals.next() => {
            tracing::info!(?asked, "asked to end while waiting for the bus");
            Ok(None)
        }
    };
    // Usually there is none.
    let _ = fs::remove_file(state.waiting_file());
    let Some(client) = connected? else { return Ok(None) };
    check_payload(&client, &bus)?;
    check_name(&client, node, state).await?;
    Ok(Some(client))
}

/// Everything that is the same for all agents is looked at now, not when somebody needs it.
fn check_files(external: &External, bus: &ExternalBus) -> Result<(), Error> {
    check_credential(&external.credentials)?;
    check_credential(&bus.operator)?;
    for path in [Some(&bus.host), external.agent_credentials.as_ref()].into_iter().flatten() {
        if !path.to_string_lossy().contains("{id}") {
            check_credential(path)?;
        }
    }
    let tls = bus.tls.iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]).flatten();
    for path in tls {
        fs::File::open(path).map_err(|source| Error::File { path: path.clone(), verb: "read", source })?;
    }
    Ok(())
}

/// One attempt after the other until the bus is there.
async fn connect(external: &External, bus: &ExternalBus, state: &StateDir) -> Result<Client, Error> {
    let options = Options::new("engine", Bus::External(Box::new(bus.clone())), external.credentials.clone());
    let mut wait = RETRY_FIRST;
    let mut told = String::new();
    loop {
        let error = match Client::connect(options.clone()).await {
            Ok(client) => {
                if !told.is_empty() {
                    tracing::warn!("the bus is there");
                }
                return Ok(client);
            }
            Err(error @ BusError::Unreachable { .. }) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if error != told {
            tracing::warn!("{error}; waiting for it");
            let own = Identity::own().map_err(Error::Runtime)?;
            let waiting = Waiting {
                pid: own.pid,
                start_time: own.start_time,
                urls: bus.urls.clone(),
                reason: error.clone(),
            };
            let path = state.waiting_file();
            replace_json(&path, &waiting).map_err(|source| Error::File { path, verb: "written", source })?;
            told = error;
        }
        tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
        wait = (wait * 2).min(RETRY_LONGEST);
    }
}

/// An nkey and a JWT sign what the server asks; a password and a token go over the wire themselves.
fn warn_of_the_clear(external: &External) {
    let is_near =
        |url: &String| ["127.", "localhost", "[::1]"].iter().any(|near| url.contains(&format!("://{near}")));
    let open: Vec<&String> =
        external.url.iter().filter(|url| url.starts_with("nats://") && !is_near(url)).collect();
    if external.tls.is_none() && !open.is_empty() {
        tracing::warn!(
            urls = ?open,
            "what agents say goes over the network in the clear unless the server asks for TLS; write tls://"
        );
    }
}

fn check_payload(client: &Client, bus: &ExternalBus) -> Result<(), Error> {
    let bytes_max = client.payload_bytes_max();
    if bytes_max < PAYLOAD_BYTES_MIN {
        return Err(Error::SmallPayload { url: bus.urls.join(", "), bytes_max, needed: PAYLOAD_BYTES_MIN });
    }
    if bytes_max < PAYLOAD_BYTES_WISHED {
        tracing::warn!(
            bytes_max,
            "inputs and lines of output that are larger are refused; max_payload: 8MB in the nats-server's \
             configuration carries all"
        );
    }
    Ok(())
}

/// Two daemons of one name would answer each other's requests. This sees one that runs; two that start in the same
/// moment do not see each other.
async fn check_name(client: &Client, node: &NodeId, state: &StateDir) -> Result<(), Error> {
    let subject = Subject::NodeInfo(node.clone());
    for _ in 0..NAME_ATTEMPTS {
        match client.request_within::<NodeInfo>(&subject, &JsonMap::new(), NAME_PATIENCE).await {
            Ok(other) => return Err(Error::NameTaken(Box::new(other))),
            Err(BusError::NoResponders { .. }) => return Ok(()),
            // Somebody listens and does not answer: a daemon that hangs, or a connection the server has not given up.
            Err(BusError::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tracing::warn!(%node, state = %state.path().display(), "somebody of our name listens on the bus and does not answer");
    Ok(())
}
