//! JetStream as the program sets it up: from the settings to options, and what the log says of it, in nats-server's
//! words where harnesses wait for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_broker::conf::{Durability, JetStreamSettings, Settings};
use ostler_broker::jetstream::{self, ServerLimits, Snapshot, Strictness};
use ostler_broker::{JetStreamOptions, Server};

use crate::log::Log;

/// Below the directory for stores: a name of our own, since nats-server's files, which are others, may be there too.
pub(crate) const OURS: &str = "ostler";
/// Where nats-server keeps its streams, below the same directory.
const THEIRS: &str = "jetstream";
/// The directory for stores where none is given is this one below that for temporary files, as nats-server's.
const TEMPORARY: &str = "nats";
/// Of the machine's memory, what streams may use unless told: nats-server's share.
const MEMORY_SHARE: (u64, u64) = (3, 4);
const KIB: f64 = 1024.0;

/// The options of a JetStream.
pub(crate) fn options(settings: &JetStreamSettings) -> JetStreamOptions {
    let count = |limit: Option<i64>| limit.unwrap_or(-1);
    let mut options = JetStreamOptions::new(directory(settings));
    options.domain.clone_from(&settings.domain);
    if settings.lenient {
        options.strictness = Strictness::Lenient;
    }
    if let Some(durability) = settings.durability {
        options.durability = match durability {
            Durability::Group => jetstream::Durability::Group,
            Durability::Process => jetstream::Durability::Process,
            Durability::Async => jetstream::Durability::Async,
        };
    }
    let account = &settings.account_limits;
    options.limits.max_memory = count(account.memory_bytes_max);
    options.limits.max_storage = count(account.storage_bytes_max);
    options.limits.max_streams = count(account.streams_max);
    options.limits.max_consumers = count(account.consumers_max);
    options.limits.max_ack_pending = count(account.ack_pending_max);
    options.limits.memory_max_stream_bytes = count(account.memory_stream_bytes_max);
    options.limits.storage_max_stream_bytes = count(account.storage_stream_bytes_max);
    options.limits.max_bytes_required = account.bytes_max_required;
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    options.server = ServerLimits {
        memory_bytes_max: settings.memory_bytes_max.or_else(memory_share),
        storage_bytes_max: settings.storage_bytes_max,
        request_batch_max: settings.limits.request_batch_max,
        ack_pending_max: settings.limits.ack_pending_max,
        duplicate_window_max: settings.limits.duplicate_window_max.map(nanos),
        consumers_default: settings.limits.consumers_default,
    };
    options
}

fn store_dir(settings: &JetStreamSettings) -> PathBuf {
    settings.store_dir.clone().unwrap_or_else(|| std::env::temp_dir().join(TEMPORARY))
}

fn directory(settings: &JetStreamSettings) -> PathBuf {
    store_dir(settings).join(OURS)
}

/// Three quarters of the memory that the machine has.
fn memory_share() -> Option<i64> {
    let machine = rustix::system::sysinfo();
    let bytes = u64::from(machine.mem_unit).checked_mul(machine.totalram as u64)?;
    i64::try_from(bytes / MEMORY_SHARE.1 * MEMORY_SHARE.0).ok()
}

/// What the operator should think about.
pub(crate) fn warnings(settings: &Settings) -> Vec<String> {
    let jetstream = &settings.jetstream;
    let mut warnings = Vec::new();
    if !jetstream.enabled {
        if jetstream.account.is_some() {
            warnings.push(
                "an account asks for jetstream, but there is none; add jetstream {} or start with -js".into(),
            );
        }
        return warnings;
    }
    let store_dir = store_dir(jetstream);
    if jetstream.store_dir.is_none() {
        warnings.push(format!(
            "Temporary storage directory used, data could be lost on system reboot: {}; give one with -sd",
            store_dir.display()
        ));
    }
    if has_streams_of_nats_server(&store_dir) {
        warnings.push(format!(
            "{} holds streams of nats-server, whose files are others: they are not served and stay as they are; take \
             them over with `nats stream backup` and `nats stream restore`",
            store_dir.join(THEIRS).display()
        ));
    }
    let outside = |name: &str| name == "$G" || Some(name) == settings.system_account.as_deref();
    let served = jetstream.account.as_deref().unwrap_or("$G");
    if served == "$G"
        && settings
            .identities
            .iter()
            .any(|identity| !outside(&identity.account) && identity.account != "$SYS")
    {
        warnings.push(
            "users in accounts have no streams unless their account says jetstream: enabled, which one may"
                .into(),
        );
    }
    warnings
}

fn has_streams_of_nats_server(store_dir: &Path) -> bool {
    let inside =
        |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    inside(&store_dir.join(THEIRS)).any(|account| inside(&account.join("streams")).next().is_some())
}

/// Tells what is about to be opened: reading large streams takes a while.
pub(crate) fn announce(settings: &JetStreamSettings, log: &Log) {
    if !settings.enabled {
        return;
    }
    let limit = |bytes: Option<i64>| bytes.map_or("unlimited".to_owned(), friendly);
    let durability = match settings.durability.unwrap_or_default() {
        Durability::Group => "group (acknowledged messages survive a power cut)",
        Durability::Process => "process (acknowledged messages survive the end of the process)",
        Durability::Async => "async (acknowledged messages may be lost)",
    };
    log.info("Starting JetStream");
    log.info("---------------- JETSTREAM ----------------");
    log.info(format_args!("  Strict:          {}", !settings.lenient));
    log.info(format_args!("  Max Memory:      {}", limit(settings.memory_bytes_max.or_else(memory_share))));
    log.info(format_args!("  Max Storage:     {}", limit(settings.storage_bytes_max)));
    log.info(format_args!("  Store Directory: {:?}", directory(settings).display().to_string()));
    if let Some(domain) = &settings.domain {
        log.info(format_args!("  Domain:          {domain}"));
    }
    log.info(format_args!("  API Level:       {}", jetstream::API_LEVEL));
    log.info(format_args!("  Durability:      {durability}"));
    log.info("-------------------------------------------");
}

/// Tells what came back since `started`. What is damaged the library has said.
pub(crate) fn tell_restored(server: &Server, settings: &JetStreamSettings, started: Instant, log: &Log) {
    let Ok(Some(Snapshot { recovered, .. })) = server.jetstream() else { return };
    let account = settings.account.as_deref().unwrap_or("$G");
    for stream in recovered.iter().filter(|stream| stream.served) {
        let (name, messages) = (&stream.stream, stream.messages);
        log.info(format_args!("  Restored {messages} messages for stream '{account} > {name}'"));
    }
    log.info(format_args!("Took {:?} to start JetStream", started.elapsed()));
}

/// `64.00 MB`, as nats-server writes sizes.
fn friendly(bytes: i64) -> String {
    let mut amount = bytes as f64;
    if amount < KIB {
        return format!("{bytes} B");
    }
    let mut unit = "";
    for next in ["KB", "MB", "GB", "TB", "PB"] {
        if amount < KIB {
            break;
        }
        (amount, unit) = (amount / KIB, next);
    }
    format!("{amount:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_nats_server_writes_them() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (64 << 20, "64.00 MB"), (1 << 30, "1.00 GB"), (1536, "1.50 KB")]
        {
            assert_eq!(friendly(bytes), text);
        }
    }

    #[test]
    fn streams_are_kept_below_a_directory_of_our_own() {
        let settings = |dir: Option<&str>| {
            let mut settings = JetStreamSettings::default();
            settings.store_dir = dir.map(Into::into);
            settings
        };
        assert_eq!(options(&settings(Some("/data"))).store_dir, Path::new("/data/ostler"));
        assert!(options(&settings(None)).store_dir.ends_with("nats/ostler"));
    }

    #[test]
    fn streams_of_nats_server_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_streams_of_nats_server(dir.path()));
        std::fs::create_dir_all(dir.path().join("jetstream/$G/streams")).unwrap();
        assert!(!has_streams_of_nats_server(dir.path()));
        std::fs::create_dir_all(dir.path().join("jetstream/$G/streams/A")).unwrap();
        assert!(has_streams_of_nats_server(dir.path()));
    }
}
