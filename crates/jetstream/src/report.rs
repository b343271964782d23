//! What monitoring asks for, page by page, so that no look takes long: streams, their consumers, and damage.

use ostler_broker_store::Severity;

use crate::api::{InfoRequest, StreamInfo};
use crate::bus::Bus;
use crate::consumer::ConsumerInfo;
use crate::jetstream::JetStream;
use crate::options::Options;

/// What all streams hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages.
    pub messages: u64,
    /// Their bytes, as limits count them.
    pub bytes: u64,
}

impl JetStream {
    /// How it was opened.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What all streams hold.
    pub fn totals(&self) -> Totals {
        let streams = self.streams.iter().flatten();
        streams.fold(Totals::default(), |so_far, stream| Totals {
            messages: so_far.messages + stream.store.msgs(),
            bytes: so_far.bytes + stream.store.bytes(),
        })
    }

    /// The first `max` streams by name, behind `after`.
    pub fn streams_after(&mut self, after: Option<&str>, max: usize, now: i64) -> Vec<StreamInfo> {
        let behind = |name: &&String| after.is_none_or(|after| ***name > *after);
        let names: Vec<String> = self.names.keys().filter(behind).take(max).cloned().collect();
        let mut infos = Vec::with_capacity(names.len());
        for name in &names {
            if let Some((_, stream, context)) = self.stream_named(name) {
                infos.push(stream.info(&InfoRequest::default(), now, context));
            }
        }
        infos
    }

    /// The first `max` consumers of a stream by name, behind `after`; none when there is no such stream.
    pub fn consumers_after(
        &mut self,
        stream: &str,
        after: Option<&str>,
        max: usize,
        now: i64,
        bus: &impl Bus,
    ) -> Vec<ConsumerInfo> {
        let Some((_, stream, context)) = self.stream_named(stream) else { return Vec::new() };
        let names = stream.consumers.keys().filter(|name| after.is_none_or(|after| &***name > after));
        let names: Vec<_> = names.take(max).cloned().collect();
        let infos = names.iter().map(|name| stream.consumer_info(name, now, bus, context));
        infos.filter_map(Result::ok).collect()
    }

    /// Whether there is a stream of this name, and in it a consumer of that one.
    pub fn has(&self, stream: &str, consumer: Option<&str>) -> (bool, bool) {
        let found = self.names.get(stream).and_then(|id| self.streams.get(*id)?.as_ref());
        let there = |name| found.is_some_and(|stream| stream.consumers.contains_key(name));
        (found.is_some(), consumer.is_some_and(there))
    }

    /// The streams whose files are damaged, with what is wrong with them first.
    pub fn damaged(&self) -> Vec<(String, String)> {
        let streams = self.streams.iter().flatten();
        let damaged = streams.filter_map(|stream| {
            let first =
                stream.store.findings().iter().find(|finding| finding.severity == Severity::Damage)?;
            Some((stream.config.name.clone(), first.to_string()))
        });
        damaged.collect()
    }
}
