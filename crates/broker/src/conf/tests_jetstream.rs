//! The settings of JetStream, from texts in memory. Which are valid was asked of nats-server 2.15.

use std::path::Path;
use std::time::Duration;

use super::tests::{memory, settings};
use super::*;

#[test]
fn jetstream_is_switched_on_in_many_ways() {
    for (text, enabled) in [
        ("", false),
        ("jetstream: true", true),
        ("jetstream: enabled", true),
        ("jetstream: Enable", true),
        ("jetstream {}", true),
        ("jetstream {enable: true}", true),
        ("jetstream: false", false),
        ("jetstream: disabled", false),
        ("jetstream {enabled: false, max_mem: 1}", false),
        ("store_dir: /x", false),
    ] {
        let read = settings(text);
        assert_eq!((read.jetstream.enabled, read.warnings.len()), (enabled, 0), "{text}");
    }
}

#[test]
fn the_settings_of_jetstream_are_read() {
    let read = settings(
        "jetstream {store_dir: /x, max_mem: 64MB, max_file_store: \"1G\", domain: hub, strict: false, sync_interval: always\n\
         limits {max_request_batch: 100, max_ack_pending: 500, duplicate_window: \"1m\", default_max_consumers: 7\n\
         max_ha_assets: 3}}\n\
         accounts {A {users: [{user: a, password: b}], jetstream {max_mem: 1KB, disk: 2KB, streams: 3, max_consumers: 4\n\
         max_ack_pending: 5, mem_max_stream_bytes: 6, store_max_stream_bytes: 7, max_bytes: true, cluster_traffic: owner}}}",
    )
    .jetstream;
    assert_eq!(read.store_dir, Some("/x".into()));
    assert_eq!((read.memory_bytes_max, read.storage_bytes_max), (Some(64 << 20), Some(1_000_000_000)));
    assert_eq!((read.domain.as_deref(), read.lenient), (Some("hub"), true));
    assert_eq!(read.durability, Some(Durability::Group));
    let limits = read.limits;
    assert_eq!((limits.request_batch_max, limits.ack_pending_max), (Some(100), Some(500)));
    assert_eq!(limits.duplicate_window_max, Some(Duration::from_secs(60)));
    assert_eq!(limits.consumers_default, Some(7));
    assert_eq!(read.account.as_deref(), Some("A"));
    let account = read.account_limits;
    assert_eq!((account.memory_bytes_max, account.storage_bytes_max), (Some(1024), Some(2048)));
    assert_eq!(
        (account.streams_max, account.consumers_max, account.ack_pending_max),
        (Some(3), Some(4), Some(5))
    );
    assert_eq!((account.memory_stream_bytes_max, account.storage_stream_bytes_max), (Some(6), Some(7)));
    assert!(account.bytes_max_required);
    // What tunes replicas and queues that are not here has no effect, and -1 is the default.
    let read = settings(
        "jetstream {max_mem_store: -1, unique_tag: \"az:\", max_outstanding_catchup: 64MB, max_buffered_msgs: 1\n\
         request_queue_limit: 5, sync_interval: \"2m\", domain: \"\", limits {max_ack_pending: -1}}",
    );
    assert_eq!(read.jetstream, JetStreamSettings { enabled: true, ..JetStreamSettings::default() });
}

#[test]
fn durability_is_chosen_by_its_own_key() {
    for (text, durability) in [
        ("", None),
        ("durability: group", Some(Durability::Group)),
        ("durability: process", Some(Durability::Process)),
        ("durability: async", Some(Durability::Async)),
        ("durability: group, sync_interval: always", Some(Durability::Group)),
        ("durability: process, sync_interval: \"10s\"", Some(Durability::Process)),
        // An interval weakens nothing.
        ("sync: \"10s\"", None),
    ] {
        assert_eq!(settings(&format!("jetstream {{{text}}}")).jetstream.durability, durability, "{text}");
    }
}

#[test]
fn the_examples_of_the_guide_to_jetstream_are_valid() {
    let guide = include_str!("../../../../docs/guide/jetstream.md");
    let examples: Vec<_> =
        guide.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next()).take(2).collect();
    let read = |text: &str| {
        let mut outside = memory(text);
        outside.variables.insert("SHOP_PASSWORD".into(), "x".into());
        let read = Settings::load(Path::new("f"), &outside).unwrap_or_else(|error| panic!("{error}"));
        assert!(read.warnings.is_empty());
        read.jetstream
    };
    let server = read(examples[0]);
    assert_eq!((server.storage_bytes_max, server.durability), (Some(50 << 30), Some(Durability::Group)));
    let account = read(examples[1]);
    assert_eq!((account.account.as_deref(), account.account_limits.streams_max), (Some("SHOP"), Some(100)));
}
