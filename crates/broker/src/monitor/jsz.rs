//! `/jsz`, and what `/varz` and `/healthz` say of JetStream. nats-server's names; what only a cluster has is absent.
//!
//! Streams and consumers are asked for in pages, so that the shard that owns them is never kept for long.

use std::sync::Arc;
use std::time::SystemTime;

use ostler_jetstream::{AccountInfo, Bus, JetStream, Strictness, Totals};
use serde_json::{Map, Value, json};

use super::query::{BadQuery, Problem, Query};
use crate::accounts::Account;
use crate::jetstream::{Store, look};
use crate::shared::Shared;
use crate::snapshot::Unanswered;
use crate::time::{rfc3339, unix_nanos};

/// Streams and consumers in one look: some hundred microseconds.
const STREAMS_PER_LOOK: usize = 64;
const CONSUMERS_PER_LOOK: usize = 64;
/// How often nats-server syncs where nothing else is said. Here every acknowledgement of class `group` is synced.
const ALWAYS_SYNCS: i64 = 0;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    account: Option<String>,
    accounts: bool,
    streams: bool,
    consumers: bool,
    config: bool,
    offset: usize,
    limit: Option<usize>,
}

impl Options {
    pub(crate) fn parse(query: &Query<'_>) -> Result<Self, BadQuery> {
        // Of a cluster: understood, and nothing else.
        for flag in ["leader-only", "stream-leader-only", "raft", "direct-consumers"] {
            query.flag(flag)?;
        }
        let number = |key| Ok(query.number(key)?.map(|number| usize::try_from(number).unwrap_or(usize::MAX)));
        Ok(Self {
            account: query.text("acc").map(Into::into),
            accounts: query.flag("accounts")?,
            streams: query.flag("streams")?,
            consumers: query.flag("consumers")?,
            config: query.flag("config")?,
            offset: number("offset")?.unwrap_or(0),
            limit: number("limit")?.filter(|limit| *limit > 0),
        })
    }
}

/// Numbers of one moment.
struct Seen {
    account: AccountInfo,
    totals: Totals,
    config: Value,
    limits: Value,
}

impl Seen {
    fn of(jetstream: &JetStream, store: &Store) -> Self {
        let options = jetstream.options();
        let server = &options.server;
        let mut config = json!({
            "max_memory": server.memory_bytes_max.unwrap_or(-1),
            "max_storage": server.storage_bytes_max.unwrap_or(-1),
            "store_dir": store.dir,
            "sync_interval": ALWAYS_SYNCS,
            "sync_always": options.durability == ostler_jetstream::Durability::Group,
            "compress_ok": true,
            "strict": options.strictness == Strictness::Strict,
        });
        if let Some(domain) = &options.domain {
            config["domain"] = json!(domain);
        }
        let mut limits = Map::new();
        let mut limit = |name: &str, value: Option<i64>| {
            if let Some(value) = value {
                limits.insert(name.to_owned(), json!(value));
            }
        };
        limit("max_request_batch", server.request_batch_max);
        limit("max_ack_pending", server.ack_pending_max);
        limit("max_duplicate_window", server.duplicate_window_max);
        limit("default_max_consumers", server.consumers_default);
        Self {
            account: jetstream.account_info(),
            totals: jetstream.totals(),
            config,
            limits: Value::Object(limits),
        }
    }

    /// What is used of the whole server.
    fn stats(&self) -> Value {
        let AccountInfo { memory, storage, reserved_memory, reserved_storage, api, .. } = &self.account;
        json!({
            "memory": memory, "storage": storage,
            "reserved_memory": reserved_memory, "reserved_storage": reserved_storage,
            "accounts": 1, "ha_assets": 0, "api": api,
        })
    }
}

/// `jetstream` in `/varz`; empty when it is off. Cancel-safe.
pub(crate) async fn in_varz(shared: &Shared) -> Result<Value, Unanswered> {
    let seen = look(shared, |jetstream, store| Seen::of(jetstream, store)).await?;
    Ok(seen.map_or_else(
        || json!({}),
        |seen| json!({ "config": seen.config, "stats": seen.stats(), "limits": seen.limits }),
    ))
}

/// The document; `None` when JetStream is off. Cancel-safe.
pub(crate) async fn document(shared: &Shared, options: &Options) -> Result<Option<Value>, Problem> {
    let Some(seen) = look(shared, |jetstream, store| Seen::of(jetstream, store)).await? else {
        return Ok(None);
    };
    let mut document = seen.stats();
    document["server_id"] = json!(shared.server_id);
    document["now"] = json!(rfc3339(SystemTime::now()));
    document["streams"] = json!(seen.account.streams);
    document["consumers"] = json!(seen.account.consumers);
    document["messages"] = json!(seen.totals.messages);
    document["bytes"] = json!(seen.totals.bytes);
    document["total"] = json!(1);
    let name = shared.jetstream.account();
    let wanted = match options.account.as_deref() {
        Some(asked) => asked == name,
        None => {
            (options.accounts || options.streams || options.consumers)
                && options.offset == 0
                && options.limit != Some(0)
        }
    };
    if wanted {
        document["account_details"] = json!([account(shared, &seen, options).await?]);
    }
    document["config"] = seen.config;
    document["limits"] = seen.limits;
    Ok(Some(document))
}

/// What one account has, with its streams if they are asked for. Cancel-safe.
async fn account(shared: &Shared, seen: &Seen, options: &Options) -> Result<Value, Unanswered> {
    let mut detail = seen.stats();
    let name = shared.jetstream.account();
    detail["name"] = json!(name);
    detail["id"] = json!(name);
    // They are of the server, and so nothing here, as in nats-server.
    detail["accounts"] = json!(0);
    if options.streams || options.consumers {
        detail["stream_detail"] = Value::Array(streams(shared, options).await?);
    }
    Ok(detail)
}

async fn streams(shared: &Shared, options: &Options) -> Result<Vec<Value>, Unanswered> {
    let mut details = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let from = after.take();
        let page = look(shared, move |jetstream, _| {
            jetstream.streams_after(from.as_deref(), STREAMS_PER_LOOK, unix_nanos())
        });
        let page = page.await?.unwrap_or_default();
        let is_last = page.len() < STREAMS_PER_LOOK;
        for info in page {
            let mut shown = serde_json::to_value(&info).unwrap_or_default();
            let mut detail = json!({
                "name": info.config.name,
                "created": shown["created"].take(),
                "cluster": { "leader": shared.server_name },
                "state": shown["state"].take(),
            });
            if options.config {
                detail["config"] = without_version(shown["config"].take());
            }
            for key in ["mirror", "sources"] {
                if let Some(origin) = shown.get_mut(key).filter(|origin| !origin.is_null()) {
                    detail[key] = origin.take();
                }
            }
            if options.consumers {
                let consumers = consumers(shared, &info.config.name, options).await?;
                if !consumers.is_empty() {
                    detail["consumer_detail"] = Value::Array(consumers);
                }
            }
            after = Some(info.config.name);
            details.push(detail);
        }
        if is_last {
            return Ok(details);
        }
    }
}

async fn consumers(shared: &Shared, stream: &str, options: &Options) -> Result<Vec<Value>, Unanswered> {
    let mut details = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let (from, of) = (after.take(), stream.to_owned());
        let listeners = Listeners(shared.accounts.get(shared.jetstream.account()));
        let page = look(shared, move |jetstream, _| {
            jetstream.consumers_after(&of, from.as_deref(), CONSUMERS_PER_LOOK, unix_nanos(), &listeners)
        });
        let page = page.await?.unwrap_or_default();
        let is_last = page.len() < CONSUMERS_PER_LOOK;
        for info in page {
            let mut shown = serde_json::to_value(&info).unwrap_or_default();
            let config = shown["config"].take();
            match shown.as_object_mut() {
                Some(shown) if options.config => drop(shown.insert("config".into(), without_version(config))),
                Some(shown) => drop(shown.remove("config")),
                None => {}
            }
            after = Some(info.name);
            details.push(shown);
        }
        if is_last {
            return Ok(details);
        }
    }
}

/// A configuration as it is kept: what this server adds to the metadata for clients is not shown here.
fn without_version(mut config: Value) -> Value {
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| key != "_nats.ver" && key != "_nats.level");
    }
    config
}

/// Tells who listens in an account; nothing is sent through it.
struct Listeners(Arc<Account>);

impl Bus for Listeners {
    fn has_interest(&self, subject: &[u8]) -> bool {
        let (_, matches) = self.0.read_subscriptions(|sublist| sublist.matches(subject));
        !matches.plain.is_empty() || !matches.queues.is_empty()
    }

    fn send(&mut self, _to: &[u8], _subject: &[u8], _reply: &[u8], _headers: &[u8], _payload: &[u8]) {}
}

/// What `/healthz` is asked about beside the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    enabled_only: bool,
    server_only: bool,
    account: Option<String>,
    stream: Option<String>,
    consumer: Option<String>,
}

/// Why JetStream, or a part of it, is not well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unwell {
    /// The HTTP status.
    pub(crate) status: u16,
    /// One for each thing.
    pub(crate) reasons: Vec<String>,
}

impl Unwell {
    fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reasons: vec![reason.into()] }
    }
}

impl Health {
    pub(crate) fn parse(query: &Query<'_>) -> Result<Self, BadQuery> {
        query.flag("js-meta-only")?;
        let text = |key| query.text(key).map(str::to_owned);
        Ok(Self {
            enabled_only: query.flag("js-enabled-only")? | query.flag("js-enabled")?,
            server_only: query.flag("js-server-only")?,
            account: text("account").or_else(|| text("acc")),
            stream: text("stream"),
            consumer: text("consumer"),
        })
    }

    /// Looks at what is asked about. Cancel-safe.
    pub(crate) async fn check(self, shared: &Shared) -> Result<Result<(), Unwell>, Unanswered> {
        let Self { account, stream, consumer, .. } = &self;
        if stream.is_some() && account.is_none() {
            let reason = "\"account\" must not be empty when checking stream health";
            return Ok(Err(Unwell::new(400, reason)));
        }
        if consumer.is_some() && stream.is_none() {
            let reason = "\"stream\" must not be empty when checking consumer health";
            return Ok(Err(Unwell::new(400, reason)));
        }
        let (wanted, of) = (stream.clone(), consumer.clone());
        let found = look(shared, move |jetstream, store| {
            let there = wanted.as_deref().map(|stream| jetstream.has(stream, of.as_deref()));
            (there, sick(jetstream, store))
        });
        let Some((there, sick)) = found.await? else {
            // It is off, which is as it should be unless somebody asks for it.
            return Ok(match self.enabled_only || account.is_some() {
                true => Err(Unwell::new(503, "JetStream not enabled")),
                false => Ok(()),
            });
        };
        if let Some(account) = account.as_deref().filter(|account| *account != shared.jetstream.account()) {
            return Ok(Err(Unwell::new(404, format!("JetStream account {account:?} not found"))));
        }
        let account = shared.jetstream.account();
        let name = stream.as_deref().unwrap_or_default();
        let is_sick = sick.iter().any(|(stream, _)| stream == name);
        match (there, consumer) {
            (Some((false, _)), _) if !is_sick => {
                let reason = format!("JetStream stream {name:?} not found on account {account:?}");
                return Ok(Err(Unwell::new(404, reason)));
            }
            (Some((true, false)), Some(consumer)) => {
                let reason = format!(
                    "JetStream consumer {consumer:?} not found for stream {name:?} on account {account:?}"
                );
                return Ok(Err(Unwell::new(404, reason)));
            }
            _ => {}
        }
        let concerns = |of: &str| stream.as_deref().is_none_or(|stream| stream == of);
        let reasons: Vec<String> =
            sick.into_iter().filter(|(stream, _)| concerns(stream)).map(|(_, reason)| reason).collect();
        Ok(match reasons.is_empty() || self.enabled_only || self.server_only {
            true => Ok(()),
            false => Err(Unwell { status: 503, reasons }),
        })
    }
}

/// The streams that are not as they were, and why.
fn sick(jetstream: &JetStream, store: &Store) -> Vec<(String, String)> {
    let lost = store.recovered.iter().filter(|stream| !stream.served).map(|stream| {
        let found = stream.findings.first().map(ToString::to_string);
        let why =
            stream.error.clone().or(found).unwrap_or_else(|| "its files are not those of a stream".into());
        (stream.stream.clone(), why)
    });
    // One that was repaired away and created anew is well.
    let lost = lost.filter(|(stream, _)| !jetstream.has(stream, None).0);
    let told = |(stream, why): (String, String), what: &str| {
        let reason = format!("JetStream stream {stream:?} {what}: {why}; see `ostler-broker check`");
        (stream, reason)
    };
    let damaged = jetstream.damaged().into_iter().map(|found| told(found, "is damaged"));
    lost.map(|found| told(found, "is not served")).chain(damaged).collect()
}
