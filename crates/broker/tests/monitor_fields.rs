//! The documents of monitoring beside those of a real nats-server.
#![cfg(test)]
#![cfg(feature = "monitor")]

mod common;
mod dashboard;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use common::{Raw, eventually, nats_server};
use dashboard::{document, list, open_monitored};
use serde_json::{Map, Value};

/// Every field a real nats-server has, of the same type, but for those listed with a reason.
#[test]
fn documents_have_the_fields_of_a_real_nats_server() {
    /// What only a server with these features has anything to say about.
    const ABSENT: &[&str] = &["disk_io_wait_stats", "feature_flags"];
    let Some(real) = Real::start() else {
        return;
    };
    let (server, ours) = open_monitored();
    let busy = |address: SocketAddr| {
        let mut client = Raw::connect_with(
            address,
            r#""verbose":false,"name":"app","lang":"x","version":"1","protocol":0,"user":"joe","pass":"x""#,
        );
        client.send("SUB a q 1\r\nUNSUB 1 5\r\nPUB a 2\r\nhi\r\n");
        client.message();
        client.sync();
        drop(Raw::connect(address));
        client
    };
    let clients = [busy(server.local_addr()), busy(real.clients)];
    for target in [
        "/varz",
        "/connz",
        "/connz?subs=1&auth=1",
        "/connz?subs=detail",
        "/connz?state=closed",
        "/subsz",
        "/subsz?subs=1&acc=$G&test=a",
        "/routez",
        "/gatewayz",
        "/leafz",
        "/accountz",
        "/accountz?acc=$G",
        "/accstatz",
        "/jsz",
        "/healthz",
    ] {
        eventually("the ended one is listed", || {
            !target.contains("closed")
                || [ours, real.monitor].iter().all(|at| !list(&document(*at, target)).is_empty())
        });
        let missing = missing(&document(real.monitor, target), &document(ours, target), "");
        let missing: Vec<_> = missing
            .into_iter()
            .filter(|path| !ABSENT.iter().any(|absent| path.contains(absent)))
            // It measures the round trip at once when a client connects, we first ask after two seconds.
            .filter(|path| !path.ends_with(".rtt"))
            // Nothing is imported from other accounts; who did not have to prove who it is has no name.
            .filter(|path| !path.contains(".imports") && !path.contains("sublist_stats"))
            .filter(|path| !path.ends_with(".authorized_user") && !path.contains(".gateways"))
            .filter(|path| !path.contains("http_req_stats"))
            .filter(|path| !(path.contains(".sent.") || path.contains(".received.")))
            .collect();
        assert!(missing.is_empty(), "{target}: {missing:?}");
    }
    drop(clients);
}

/// Paths of what `theirs` has and `ours` has not, or of another type. Lists are compared by their first entries.
fn missing(theirs: &Value, ours: &Value, path: &str) -> Vec<String> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => missing_in_object(theirs, ours, path),
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(theirs), Some(ours)) => missing(theirs, ours, path),
            (Some(_), None) => vec![format!("{path}[0]")],
            _ => vec![],
        },
        _ if std::mem::discriminant(theirs) == std::mem::discriminant(ours) => vec![],
        _ => vec![format!("{path}: {theirs} / {ours}")],
    }
}

fn missing_in_object(theirs: &Map<String, Value>, ours: &Map<String, Value>, path: &str) -> Vec<String> {
    let missing_of = |(key, value): (&String, &Value)| match ours.get(key) {
        Some(known) => missing(value, known, &format!("{path}.{key}")),
        None => vec![format!("{path}.{key}")],
    };
    theirs.iter().flat_map(missing_of).collect()
}

/// A nats-server with monitoring. It ends with the value.
struct Real {
    process: Child,
    clients: SocketAddr,
    monitor: SocketAddr,
}

impl Real {
    fn start() -> Option<Self> {
        let program = nats_server()?;
        let dir = tempfile::tempdir().unwrap();
        let mut process = Command::new(program)
            .args(["-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ports = Value::Null;
        let path = dir.path().join(format!("nats-server_{}.ports", process.id()));
        eventually("nats-server writes down its ports", || {
            assert!(process.try_wait().unwrap().is_none(), "it ended");
            let text = std::fs::read(&path).unwrap_or_default();
            ports = serde_json::from_slice(&text).unwrap_or_default();
            ports["monitoring"][0].is_string()
        });
        let address = |kind: &str| {
            let url = ports[kind][0].as_str().unwrap();
            url.split_once("://").unwrap().1.parse().unwrap()
        };
        Some(Self { clients: address("nats"), monitor: address("monitoring"), process })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
