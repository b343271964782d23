//! The daemon: whether one runs, answers and is of our version.

use ostler_wire::{JsonMap, NodeInfo, Subject};

use super::Check;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, START_HINT};

pub(super) async fn checks(places: &Places) -> Vec<Check> {
    vec![daemon(places).await]
}

async fn daemon(places: &Places) -> Check {
    const NAME: &str = "daemon";
    let node = match ask(places).await {
        Ok(node) => node,
        Err(failure) if failure.exit == Exit::NoDaemon => {
            return Check::warn(NAME, failure.message, START_HINT);
        }
        Err(failure) => {
            let remedy =
                failure.hint.unwrap_or_else(|| "start it again: ostler down; ostler up -d".to_owned());
            return Check::fail(NAME, failure.message, remedy);
        }
    };
    let ours = env!("CARGO_PKG_VERSION");
    if node.version == ours {
        Check::ok(NAME, format!("{ours}, pid {}, at {}", node.pid, node.bus_url))
    } else {
        Check::warn(
            NAME,
            format!("version {} runs, this command is {ours}", node.version),
            "start the new one; agents go on meanwhile: ostler down --keep-agents; ostler up -d",
        )
    }
}

async fn ask(places: &Places) -> Result<NodeInfo, Failure> {
    let session = Session::open(places).await?;
    Ok(session.client.request(&Subject::NodeInfo(session.node.clone()), &JsonMap::new()).await?)
}
