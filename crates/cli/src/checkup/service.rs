//! The daemon: its configuration, whether one runs, answers and is of our version, or could listen.

use std::net::{SocketAddr, TcpListener};

use ostler_wire::{JsonMap, NodeInfo, Subject};

use super::Check;
use crate::commands::up::load_config;
use crate::connect::{Places, Session};
use crate::exit::{Exit, Failure, START_HINT};

/// The configuration, the daemon, and the port where none runs.
pub(super) async fn checks(places: &Places) -> Vec<Check> {
    let (config, listen) = configuration(places);
    let daemon = daemon(places).await;
    let mut checks = vec![config, daemon.check];
    checks.extend(daemon.audit);
    if let Some(listen) = listen.filter(|_| !daemon.runs) {
        checks.push(port(listen));
    }
    checks
}

/// Whether it is valid, and where the daemon's own bus is to listen when it is.
fn configuration(places: &Places) -> (Check, Option<SocketAddr>) {
    const NAME: &str = "config";
    let shown = places.config.display();
    match load_config(places) {
        Ok(config) => {
            let text = if places.config.exists() { "is valid" } else { "does not exist; all defaults apply" };
            (Check::ok(NAME, format!("{shown} {text}")), config.bus.listen())
        }
        Err(failure) => {
            let remedy = failure.hint.unwrap_or_else(|| "ostler config check".to_owned());
            (Check::fail(NAME, failure.message, remedy), None)
        }
    }
}

/// Whether the bus could listen there.
fn port(listen: SocketAddr) -> Check {
    const NAME: &str = "port";
    match TcpListener::bind(listen) {
        Ok(_) if listen.port() == 0 => Check::ok(NAME, "any free one is taken"),
        Ok(_) => Check::ok(NAME, format!("{listen} is free")),
        Err(error) => Check::fail(
            NAME,
            format!("the bus cannot listen on {listen}: {error}"),
            "choose another: ostler up --port PORT, or `listen` in the configuration",
        ),
    }
}

/// What became of asking the daemon.
struct Daemon {
    runs: bool,
    check: Check,
    /// How its audit fares.
    audit: Option<Check>,
}

async fn daemon(places: &Places) -> Daemon {
    const NAME: &str = "daemon";
    match ask(places).await {
        Ok(node) => Daemon { runs: true, check: version(&node), audit: Some(audit(&node)) },
        Err(failure) if failure.exit == Exit::NoDaemon => {
            // One that waits for its bus is not to be started once more.
            let remedy = failure.hint.unwrap_or_else(|| START_HINT.to_owned());
            Daemon { runs: false, check: Check::warn(NAME, failure.message, remedy), audit: None }
        }
        Err(failure) => {
            let remedy =
                failure.hint.unwrap_or_else(|| "start it again: ostler down; ostler up -d".to_owned());
            Daemon { runs: true, check: Check::fail(NAME, failure.message, remedy), audit: None }
        }
    }
}

/// Whether the daemon and this command are of one version.
fn version(node: &NodeInfo) -> Check {
    const NAME: &str = "daemon";
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

/// Whether what happens is kept.
fn audit(node: &NodeInfo) -> Check {
    const NAME: &str = "audit";
    let Some(audit) = &node.audit else {
        return Check::ok(NAME, "none is kept: `mode = \"off\"` in [audit]");
    };
    let text = format!("{} entries stored, {} waiting, {} lost", audit.stored, audit.waiting(), audit.lost);
    match &audit.problem {
        Some(problem) => Check::warn(
            NAME,
            format!("{text}: {problem}"),
            "free some disk space, or give the bus JetStream and the daemon's credential its permissions \
             (docs/guide/audit.md); what waits is stored then",
        ),
        None if audit.lost > 0 => Check::warn(NAME, text, "look at what was wrong with: ostler events"),
        None => Check::ok(NAME, text),
    }
}

async fn ask(places: &Places) -> Result<NodeInfo, Failure> {
    let session = Session::open(places).await?;
    Ok(session.request(&Subject::NodeInfo(session.node.clone()), &JsonMap::new()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkup::Verdict;

    #[test]
    fn a_port_in_use_fails_with_the_flag_that_helps() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let check = port(taken.local_addr().unwrap());
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.remedy.unwrap().contains("--port"));
    }
}
