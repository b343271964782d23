//! `jetstream`: whether there are streams, where they are kept and what they may use. nats-server's keys with its
//! meaning, and one of our own, `durability`. Opens no directory.

use std::path::PathBuf;
use std::time::Duration;

use ostler_broker_proto::subject::Filter;

use super::error::Notes;
use super::fields::Fields;
use super::units;
use super::value::{Block, Entry, Kind};

/// What nats-server calls itself in `sync_interval` when it syncs before it acknowledges.
const ALWAYS: &str = "always";
/// Parts of `$JS` that are no domains.
const RESERVED_DOMAINS: [&str; 5] = ["API", "ACK", "FC", "EVENT", "SNAPSHOT"];

/// `jetstream`, and what accounts say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JetStreamSettings {
    /// Whether there is JetStream at all.
    pub enabled: bool,
    /// `store_dir`: where streams are kept, below a directory of our own.
    pub store_dir: Option<PathBuf>,
    /// `domain`
    pub domain: Option<String>,
    /// `strict: false`: unknown fields in requests are ignored.
    pub lenient: bool,
    /// `max_memory_store`: bytes that all streams in memory may use.
    pub memory_bytes_max: Option<i64>,
    /// `max_file_store`: bytes that all streams in files may use.
    pub storage_bytes_max: Option<i64>,
    /// `durability`: what a stream in files promises that does not say. nats-server has no such key.
    pub durability: Option<Durability>,
    /// `limits {...}`: of every stream and every consumer.
    pub limits: JetStreamLimits,
    /// The account whose users have streams; `$G` when none asked for them.
    pub account: Option<String>,
    /// What that account may use.
    pub account_limits: JetStreamAccountLimits,
}

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The message survives a power cut: it is synced, together with others.
    #[default]
    Group,
    /// It survives the end of this process, as nats-server's do: it is written.
    Process,
    /// It survives nothing yet: it is in memory.
    Async,
}

impl Durability {
    /// Reads `group`, `process` or `async`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "group" => Some(Self::Group),
            "process" => Some(Self::Process),
            "async" => Some(Self::Async),
            _ => None,
        }
    }
}

/// `jetstream.limits {...}`; what is absent has no limit but nats-server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JetStreamLimits {
    /// `max_request_batch`: messages in one request of a consumer.
    pub request_batch_max: Option<i64>,
    /// `max_ack_pending`: unacknowledged messages of one consumer.
    pub ack_pending_max: Option<i64>,
    /// `duplicate_window`: the longest a stream may ask for.
    pub duplicate_window_max: Option<Duration>,
    /// `default_max_consumers`: consumers of a stream that sets no limit.
    pub consumers_default: Option<i64>,
}

/// `accounts.NAME.jetstream {...}`; what is absent has no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JetStreamAccountLimits {
    /// `max_memory`: bytes of its streams in memory.
    pub memory_bytes_max: Option<i64>,
    /// `max_file`: bytes of its streams in files.
    pub storage_bytes_max: Option<i64>,
    /// `max_streams`
    pub streams_max: Option<i64>,
    /// `max_consumers`, of each stream.
    pub consumers_max: Option<i64>,
    /// `max_ack_pending`, of each consumer.
    pub ack_pending_max: Option<i64>,
    /// `memory_max_stream_bytes`: the largest `max_bytes` of a stream in memory.
    pub memory_stream_bytes_max: Option<i64>,
    /// `disk_max_stream_bytes`: the largest `max_bytes` of a stream in files.
    pub storage_stream_bytes_max: Option<i64>,
    /// `max_bytes_required`: a stream needs a `max_bytes`.
    pub bytes_max_required: bool,
}

/// Reads `jetstream` and the `store_dir` outside of it.
pub(super) fn jetstream(fields: &mut Fields<'_>) -> JetStreamSettings {
    let mut settings = JetStreamSettings::default();
    let notes = fields.notes;
    let outside = fields.take(&["store_dir", "storedir"]);
    settings.store_dir = fields.filled(&["store_dir", "storedir"]).map(Into::into);
    let Some(entry) = fields.take(&["jetstream"]) else { return settings };
    if let Kind::Block(block) = &entry.value.kind {
        settings = JetStreamSettings { enabled: true, ..settings };
        within(block, &mut settings, outside, notes);
    } else if let Some(enabled) = switch(entry) {
        settings.enabled = enabled;
    } else {
        fields.wrong(entry, "true, false, enabled, disabled or a block {...} is expected");
    }
    settings
}

/// `true`, `enabled` and their opposites; `None` for anything else.
fn switch(entry: &Entry) -> Option<bool> {
    match &entry.value.kind {
        Kind::Bool(on) => Some(*on),
        Kind::Text(text) => match &*text.to_ascii_lowercase() {
            "enabled" | "enable" => Some(true),
            "disabled" | "disable" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn within(block: &Block, settings: &mut JetStreamSettings, outside: Option<&Entry>, notes: &Notes) {
    let mut fields = Fields::new("jetstream.", block, notes);
    settings.enabled = fields.boolean(&["enabled", "enable"]).unwrap_or(true);
    let names = &["store_dir", "storedir", "store"];
    if let (Some(inside), Some(outside)) = (fields.take(names), outside) {
        fields.wrong(inside, format!("it is set already at {}; keep one of them", outside.at));
    }
    if let Some(dir) = fields.filled(names) {
        settings.store_dir = Some(dir.into());
    }
    settings.memory_bytes_max = size(&mut fields, &["max_memory_store", "max_mem_store", "max_mem"]);
    settings.storage_bytes_max = size(&mut fields, &["max_file_store", "max_file"]);
    settings.domain = domain(&mut fields);
    settings.lenient = fields.boolean(&["strict"]) == Some(false);
    settings.durability = durability(&mut fields);
    if let Some((_, block)) = fields.block(&["limits"]) {
        settings.limits = limits(block, notes);
    }
    // They tune what this server has not: replicas, a log of its own for the configuration, queues between threads.
    for name in [
        "unique_tag",
        "extension_hint",
        "max_outstanding_catchup",
        "max_buffered_msgs",
        "max_buffered_size",
        "request_queue_limit",
        "info_queue_limit",
        "meta_compact",
        "meta_compact_size",
        "meta_compact_sync",
    ] {
        fields.take(&[name]);
    }
    fields.finish();
}

/// A number of bytes; -1 is the default.
fn size(fields: &mut Fields<'_>, names: &[&'static str]) -> Option<i64> {
    let entry = fields.take(names)?;
    let bytes = match &entry.value.kind {
        // In quotes it is a size too, with nats-server's units.
        Kind::Text(text) => match units::integer(text) {
            Some(Some(bytes)) => bytes,
            _ => {
                fields.wrong(entry, "a size is expected, such as 64MB or 1GiB");
                return None;
            }
        },
        _ => fields.integer(names, i64::MIN..=i64::MAX)?,
    };
    match bytes {
        -1 => None,
        0.. => Some(bytes),
        _ => {
            fields.wrong(entry, format!("{bytes} is no size; -1 is the default"));
            None
        }
    }
}

fn domain(fields: &mut Fields<'_>) -> Option<String> {
    let entry = fields.take(&["domain"])?;
    if entry.value.as_text() == Some("") {
        return None;
    }
    let domain = fields.filled(&["domain"])?;
    let wild = domain.contains(['*', '>']) || domain.chars().any(char::is_whitespace);
    if wild || Filter::parse(&domain).is_err() || RESERVED_DOMAINS.contains(&&*domain) {
        fields.wrong(
            entry,
            format!("{domain:?} cannot be a domain: it becomes a part of subjects; use letters and digits, such as hub"),
        );
        return None;
    }
    Some(domain)
}

/// `durability`, and the `sync_interval` of nats-server, which may not contradict it.
///
/// `always` is what `group` does. An interval is time within which nats-server may lose what it acknowledged; nothing
/// here promises less because of it.
fn durability(fields: &mut Fields<'_>) -> Option<Durability> {
    let mut wanted = None;
    if let Some(entry) = fields.take(&["durability"]) {
        let read = fields.filled(&["durability"]);
        wanted = read.as_deref().and_then(Durability::parse);
        if read.is_some() && wanted.is_none() {
            fields.wrong(
                entry,
                "group (an acknowledged message survives a power cut), process (it survives the end of this process) or \
                 async (it may be lost) is expected",
            );
        }
    }
    let names = &["sync_interval", "sync"];
    if let Some(entry) = fields.take(names) {
        let always = entry.value.as_text().is_some_and(|text| text.eq_ignore_ascii_case(ALWAYS));
        match wanted {
            Some(Durability::Process | Durability::Async) if always => fields.wrong(
                entry,
                "always contradicts the durability beside it; keep sync_interval: always, or durability",
            ),
            _ if always => wanted = Some(Durability::Group),
            _ => drop(fields.duration(names)),
        }
    }
    wanted
}

fn limits(block: &Block, notes: &Notes) -> JetStreamLimits {
    let mut fields = Fields::new("jetstream.limits.", block, notes);
    let limits = JetStreamLimits {
        request_batch_max: number(&mut fields, &["max_request_batch"]),
        ack_pending_max: number(&mut fields, &["max_ack_pending"]),
        duplicate_window_max: time(&mut fields, &["duplicate_window"]),
        consumers_default: number(&mut fields, &["default_max_consumers"]),
    };
    // Assets of a cluster; there are none on one node.
    fields.take(&["max_ha_assets"]);
    fields.finish();
    limits
}

/// A limit; 0 and -1 are the default.
fn number(fields: &mut Fields<'_>, names: &[&'static str]) -> Option<i64> {
    fields.integer(names, -1..=i64::from(i32::MAX)).filter(|number| *number > 0)
}

fn time(fields: &mut Fields<'_>, names: &[&'static str]) -> Option<Duration> {
    fields.duration(names).filter(|time| !time.is_zero())
}

/// Reads what an account says of streams: its limits if it may have any.
pub(super) fn account(fields: &mut Fields<'_>) -> Option<JetStreamAccountLimits> {
    let notes = fields.notes;
    let entry = fields.take(&["jetstream"])?;
    let Kind::Block(block) = &entry.value.kind else {
        return match switch(entry) {
            Some(enabled) => enabled.then(JetStreamAccountLimits::default),
            None => {
                fields.wrong(entry, "true, false, enabled, disabled or a block {...} is expected");
                None
            }
        };
    };
    let mut fields = Fields::new("accounts.*.jetstream.", block, notes);
    let limits = JetStreamAccountLimits {
        memory_bytes_max: size(&mut fields, &["max_memory", "max_mem", "mem", "memory"]),
        storage_bytes_max: size(&mut fields, &["max_file", "max_store", "max_disk", "store", "disk"]),
        streams_max: number(&mut fields, &["max_streams", "streams"]),
        consumers_max: number(&mut fields, &["max_consumers", "consumers"]),
        ack_pending_max: number(&mut fields, &["max_ack_pending"]),
        memory_stream_bytes_max: size(&mut fields, &["memory_max_stream_bytes", "mem_max_stream_bytes"]),
        storage_stream_bytes_max: size(&mut fields, &["disk_max_stream_bytes", "store_max_stream_bytes"]),
        bytes_max_required: fields
            .boolean(&["max_bytes_required", "max_stream_bytes", "max_bytes"])
            .unwrap_or(false),
    };
    // Replicas travel through one account or another in a cluster.
    fields.take(&["cluster_traffic"]);
    fields.finish();
    Some(limits)
}
