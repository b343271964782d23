//! Monitoring as nats-server has it: documents about the server that dashboards read. This is what they say, for any
//! carrier: the HTTP server in `http`, system requests, or a web server of the embedder's own through
//! [`Server::monitor`].
//!
//! Names, types and units are those of nats-server 2.15. What it has and this server has not - routes, gateways, leaf
//! nodes - is answered with empty lists, so that dashboards go on. No document holds a secret.

pub(crate) mod accountz;
pub(crate) mod connz;
#[cfg(feature = "monitor")]
pub(crate) mod http;
#[cfg(feature = "jetstream")]
pub(crate) mod jsz;
#[cfg(not(feature = "jetstream"))]
#[path = "without_jetstream.rs"]
pub(crate) mod jsz;
pub(crate) mod query;
#[cfg(feature = "monitor")]
mod seats;
pub(crate) mod subsz;
pub(crate) mod varz;

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use self::query::{Problem, Query};
use crate::server::Server;
use crate::shared::Shared;
use crate::snapshot::{Unanswered, gather};
use crate::time::rfc3339;

/// The documents by their paths; `/` lists them.
pub(crate) const PATHS: [&str; 12] = [
    "/",
    "/varz",
    "/connz",
    "/subsz",
    "/healthz",
    "/accountz",
    "/accstatz",
    "/routez",
    "/gatewayz",
    "/leafz",
    "/jsz",
    "/subscriptionsz",
];
/// How long the blocking call waits for all shards.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A server whose threads do not answer for this long is not healthy.
#[cfg(feature = "monitor")]
pub(crate) const HEALTHY_MAX: Duration = Duration::from_secs(2);

/// What is answered to a request: a document, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MonitorAnswer {
    /// The HTTP status: 200, 400 for a query that cannot be understood, 404 for a path that is none, 503 when the
    /// server cannot tell.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The document: JSON, or a text for people.
    pub body: String,
}

impl Server {
    /// Answers `/connz?limit=10` and the like as the HTTP monitor does, for programs with a web server of their own.
    ///
    /// Blocks until every shard answered, at most 5 s: in async code call it from `spawn_blocking`.
    pub fn monitor(&self, path_and_query: &str) -> MonitorAnswer {
        self.shared().monitored.count(path_and_query);
        gather::within(ANSWER_MAX, answer(self.shared(), path_and_query))
            .unwrap_or_else(|| MonitorAnswer::problem(&Problem::from(Unanswered)))
    }
}

impl MonitorAnswer {
    fn document(document: &impl Serialize) -> Self {
        let body = serde_json::to_string_pretty(document).expect("string keys and plain values only");
        Self { status: 200, content_type: "application/json", body }
    }

    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    fn problem(problem: &Problem) -> Self {
        let status = match problem {
            Problem::BadQuery(_) => 400,
            Problem::Unanswered(_) => 503,
        };
        Self::text(status, problem.to_string())
    }

    fn of<T: Serialize>(document: Result<T, Problem>) -> Self {
        match document {
            Ok(document) => Self::document(&document),
            Err(problem) => Self::problem(&problem),
        }
    }
}

/// Answers a request. Cancel-safe.
pub(crate) async fn answer(shared: &Shared, path_and_query: &str) -> MonitorAnswer {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    if !PATHS.contains(&path) {
        return MonitorAnswer::text(404, "404 page not found\n");
    }
    let query = Query::parse(query);
    match path {
        "/" => index(),
        "/varz" => match jsz::in_varz(shared).await {
            Ok(jetstream) => MonitorAnswer::document(&varz::document(shared, jetstream)),
            Err(unanswered) => MonitorAnswer::problem(&unanswered.into()),
        },
        "/connz" => match connz::Options::parse(&query) {
            Ok(options) => MonitorAnswer::of(connz::document(shared, &options).await),
            Err(problem) => MonitorAnswer::problem(&problem.into()),
        },
        "/subsz" | "/subscriptionsz" => match subsz::Options::parse(&query) {
            Ok(options) => MonitorAnswer::of(subsz::document(shared, &options).await),
            Err(problem) => MonitorAnswer::problem(&problem.into()),
        },
        "/accountz" => MonitorAnswer::of(accountz::document(shared, query.text("acc")).await),
        "/accstatz" => match query.flag("unused") {
            Ok(unused) => MonitorAnswer::of(accountz::totals(shared, unused).await),
            Err(problem) => MonitorAnswer::problem(&problem.into()),
        },
        "/healthz" => match (jsz::Health::parse(&query), query.flag("details")) {
            (Ok(wanted), Ok(details)) => healthz(shared, wanted, details).await,
            (Err(problem), _) | (_, Err(problem)) => MonitorAnswer::problem(&problem.into()),
        },
        "/jsz" => match jsz::Options::parse(&query) {
            Ok(options) => match jsz::document(shared, &options).await {
                Ok(Some(document)) => MonitorAnswer::document(&document),
                Ok(None) => MonitorAnswer::document(&absent(shared, path)),
                Err(problem) => MonitorAnswer::problem(&problem),
            },
            Err(problem) => MonitorAnswer::problem(&problem.into()),
        },
        path => MonitorAnswer::document(&absent(shared, path)),
    }
}

/// `{"status":"ok"}` if every shard answers and no stream is damaged. Cancel-safe.
async fn healthz(shared: &Shared, wanted: jsz::Health, details: bool) -> MonitorAnswer {
    let looked = match gather::call_roll(shared).await {
        Ok(()) => wanted.check(shared).await,
        Err(error) => Err(error),
    };
    let (status, body) = match looked {
        Ok(Ok(())) => (200, json!({ "status": "ok" })),
        Ok(Err(unwell)) => {
            let word = if unwell.status == 400 { "error" } else { "unavailable" };
            let mut body = json!({ "status": word });
            if details {
                body["status"] = json!("error");
                body["errors"] = unwell
                    .reasons
                    .iter()
                    .map(|reason| json!({ "type": "JETSTREAM", "error": reason }))
                    .collect();
            } else {
                body["error"] = json!(unwell.reasons.join("; "));
            }
            (unwell.status, body)
        }
        Err(error) => (503, unhealthy(&error)),
    };
    MonitorAnswer { status, content_type: "application/json", body: body.to_string() }
}

/// What `/healthz` says of a server that is not well.
pub(crate) fn unhealthy(error: &Unanswered) -> Value {
    json!({ "status": "unavailable", "status_code": 503, "error": error.to_string() })
}

/// What nats-server says where it has none of them.
fn absent(shared: &Shared, path: &str) -> Value {
    let now = rfc3339(SystemTime::now());
    let id = &shared.server_id;
    match path {
        "/routez" => json!({ "server_id": id, "server_name": shared.server_name, "now": now,
            "num_routes": 0, "routes": [] }),
        "/gatewayz" => {
            json!({ "server_id": id, "now": now, "outbound_gateways": {}, "inbound_gateways": {} })
        }
        "/leafz" => json!({ "server_id": id, "now": now, "leafnodes": 0, "leafs": [] }),
        _ => json!({
            "server_id": id, "now": now, "disabled": true,
            "config": { "max_memory": 0, "max_storage": 0 },
            "memory": 0, "storage": 0, "reserved_memory": 0, "reserved_storage": 0, "accounts": 0, "ha_assets": 0,
            "api": { "level": 0, "total": 0, "errors": 0 },
            "streams": 0, "consumers": 0, "messages": 0, "bytes": 0, "total": 0,
        }),
    }
}

fn index() -> MonitorAnswer {
    let paths = PATHS.iter().filter(|path| !matches!(**path, "/" | "/subscriptionsz"));
    let links: String = paths.map(|path| format!("<li><a href=\".{path}\">{path}</a></li>\n")).collect();
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>NATS server</title></head>\n<body><h1>NATS \
         server</h1>\n<ul>\n{links}</ul></body></html>\n"
    );
    MonitorAnswer { status: 200, content_type: "text/html; charset=utf-8", body }
}
