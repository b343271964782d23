//! Mirrors and sources: moving messages from streams to those that take them. Both ends are in this process, so no
//! consumer stands between them: at the end of a batch each stream takes what was written to the others, a turn's worth
//! at a time. Of a stream whose acknowledgements wait for the disk, it takes what the disk has: after a power cut the
//! sequences of what was lost are used again, and who had taken that would pass over what comes.

use crate::api::ApiError;
use crate::bus::{Bus, Incoming};
use crate::jetstream::{JetStream, SyncJob};
use crate::stream::{Stream, StreamConfig, Taken, Taker, feed_identity};
use crate::through::{Turn, take_through};
use crate::time::SECOND;

/// Messages that a stream takes from another at once.
pub(crate) const TURN: usize = 1000;
/// Bytes that a stream takes from another at once.
pub(crate) const TURN_BYTES: usize = 4 << 20;
/// How often all streams have their turn before other work is seen to.
const ROUNDS: usize = 4;
/// When what was refused is tried again.
pub(crate) const RETRY: i64 = SECOND;

/// Which streams take from others, and whether more is to be done.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    fed: Vec<usize>,
    lagging: bool,
    /// An origin has something to write.
    settled: bool,
}

impl JetStream {
    /// Takes note of what the streams' configurations say of each other.
    pub(crate) fn arrange_feeds(&mut self) {
        let fed = |stream: &Stream| !stream.feeds.is_empty();
        let streams = self.streams.iter().enumerate();
        self.feeds.fed = streams.filter(|(_, s)| s.as_deref().is_some_and(fed)).map(|(id, _)| id).collect();
        let mut read: Vec<String> = Vec::new();
        for id in &self.feeds.fed {
            let Some(stream) = self.streams.get(*id).and_then(Option::as_deref) else { continue };
            read.extend(stream.feeds.iter().map(|feed| feed.origin.clone()));
        }
        let fed = self.feeds.fed.iter().filter_map(|id| self.streams.get(*id)?.as_deref());
        let direct = fed.flat_map(|stream| &stream.feeds).filter(|feed| feed.consumer().is_none());
        let direct: Vec<String> = direct.map(|feed| feed.origin.clone()).collect();
        for id in 0..self.streams.len() {
            let Some(name) = self.streams[id].as_ref().map(|stream| stream.config.name.clone()) else {
                continue;
            };
            let takers = if direct.contains(&name) { self.takers_of(&name) } else { Vec::new() };
            let Some(stream) = self.stream_mut(id) else { continue };
            stream.is_read = direct.contains(&name);
            stream.is_origin = read.contains(&name);
            stream.set_takers(takers);
            if stream.dirty {
                self.touch(id);
            }
        }
    }

    /// Who takes from a stream without a consumer that was prepared.
    fn takers_of(&self, name: &str) -> Vec<Taker> {
        let mut takers = Vec::new();
        for id in &self.feeds.fed {
            let Some(stream) = self.streams.get(*id).and_then(Option::as_deref) else { continue };
            let feeds = stream.feeds.iter().enumerate();
            let direct = feeds.filter(|(_, feed)| feed.origin == name && feed.consumer().is_none());
            takers.extend(direct.map(|(index, feed)| Taker {
                id: (*id, index),
                filters: feed.filters(),
                taken: feed.sure,
            }));
        }
        takers
    }

    /// Whether any stream takes from others.
    pub(crate) fn has_feeds(&self) -> bool {
        !self.feeds.fed.is_empty()
    }

    /// Moves what was written, and ends the batch of the streams that took something.
    pub(crate) fn pump_feeds(&mut self, now: i64, bus: &mut impl Bus, jobs: &mut Vec<SyncJob>) {
        (self.feeds.lagging, self.feeds.settled) = (false, false);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for index in 0..self.feeds.fed.len() {
                let id = self.feeds.fed[index];
                if !self.has_room_for_feeds(id, now) {
                    continue;
                }
                // Out of its place, so that two streams can be in hand.
                let Some(mut stream) = self.streams.get_mut(id).and_then(Option::take) else { continue };
                let took = self.pump_into(id, &mut stream, now, bus);
                moved |= took;
                // What the disk refused is written again when its time comes, not at once.
                if took || (stream.dirty || stream.new_messages) && !stream.ailing {
                    stream.now = now;
                    let job = stream.end_of_batch(now, bus, &self.context);
                    jobs.extend(job.map(|job| SyncJob::of(id, job)));
                }
                self.streams[id] = Some(stream);
            }
            if !moved {
                return;
            }
        }
        self.feeds.lagging = true;
    }

    /// Whether a stream may grow by a turn's worth; when not, it is asked again later.
    fn has_room_for_feeds(&mut self, id: usize, now: i64) -> bool {
        self.forget_room();
        let nothing = Incoming { subject: b"", reply: b"", headers: b"", payload: b"" };
        let Err(error) = self.check_bytes(id, &nothing) else { return true };
        if let Some(stream) = self.streams.get_mut(id).and_then(Option::as_deref_mut) {
            for feed in &mut stream.feeds {
                feed.retry_at = Some(now + RETRY);
                feed.error = Some(error.clone());
            }
        }
        false
    }

    /// Lets a stream take a turn's worth; whether it took any.
    fn pump_into(&mut self, id: usize, stream: &mut Stream, now: i64, bus: &mut impl Bus) -> bool {
        let mut moved = false;
        stream.now = now;
        let mut feeds = std::mem::take(&mut stream.feeds);
        let (mut undone, mut settled) = (false, Vec::new());
        for (index, feed) in feeds.iter_mut().enumerate() {
            if feed.retry_at.is_some_and(|at| now < at) {
                continue;
            }
            feed.retry_at = None;
            let origin_id = self.names.get(&feed.origin).copied();
            let origin = origin_id.and_then(|id| self.streams.get_mut(id)).and_then(Option::as_deref_mut);
            let Some(origin) = origin else {
                feed.error = Some(ApiError::stream_not_found());
                continue;
            };
            let identity = feed_identity(&origin.config.name, origin.created);
            feed.begin(&identity, |time| origin.store.first_at(time).ok().flatten());
            feed.error = None;
            if feed.consumer().is_some() {
                let before = stream.undone;
                let Turn { count, settled: wrote } =
                    take_through(stream, feed, origin, now, bus, &self.context);
                settled.extend(origin_id.filter(|_| wrote || count > 0));
                undone |= stream.undone != before;
                moved |= count > 0;
                continue;
            }
            feed.active.get_or_insert(now);
            // What was taken before, is written, and stays, may go there when nobody else needs it.
            if origin.serves_takers()
                && let Some(range) = feed.settle(stream.store.last_seq(), stream.last_sure())
                && origin.taken((id, index), &mut feed.wanted, range)
            {
                settled.extend(origin_id);
            }
            let (mut count, mut bytes) = (0, 0);
            let last = origin.last_sure();
            while count < TURN && bytes < TURN_BYTES {
                let next = origin.store.next(&mut feed.wanted, feed.next).filter(|seq| *seq <= last);
                let Some(seq) = next else {
                    feed.next = feed.next.max(last + 1);
                    break;
                };
                // One that cannot be read is reported there, and passed over here.
                if let Ok(Some(message)) = origin.store.get(seq) {
                    let before = stream.undone;
                    if let Taken::Later(error) = stream.take_in(feed, &message, now, bus) {
                        feed.retry_at = Some(now + RETRY);
                        feed.error = Some(error);
                        undone |= stream.undone != before;
                        break;
                    }
                    bytes += message.subject.len() + message.headers.len() + message.payload.len();
                }
                feed.position.seq = seq;
                feed.next = seq + 1;
                feed.active = Some(now);
                count += 1;
            }
            let drained = feed.next > origin.store.last_seq();
            feed.lag = if drained { 0 } else { origin.store.num_pending(&mut feed.wanted, feed.next, false) };
            moved |= count > 0;
        }
        stream.feeds = feeds;
        if undone {
            stream.recall_feeds();
        }
        for id in settled {
            // It is written when the next batch ends, which is soon.
            if let Some(origin) = self.streams.get_mut(id).and_then(Option::as_deref_mut) {
                origin.dirty = true;
            }
            self.touch(id);
            self.feeds.settled = true;
        }
        moved
    }

    /// Looks again soon: what a stream has became sure.
    pub(crate) fn pump_feeds_soon(&mut self) {
        self.feeds.lagging = true;
    }

    /// When messages are to be moved without anything having come in.
    pub(crate) fn next_feed_due(&self, now: i64) -> Option<i64> {
        let fed = self.feeds.fed.iter().filter_map(|id| self.streams.get(*id)?.as_deref());
        let retries = fed.flat_map(|stream| &stream.feeds).filter_map(|feed| feed.retry_at);
        retries.chain((self.feeds.lagging || self.feeds.settled).then_some(now)).min()
    }

    /// Checks what a configuration says of other streams against those that there are.
    pub(crate) fn check_feeds(&self, config: &mut StreamConfig) -> Result<(), ApiError> {
        for origin in config.origins() {
            let Some(external) = &origin.external else { continue };
            let own = |domain: &String| external.api == format!("$JS.{domain}.API");
            if external.api != "$JS.API" && !self.context.domain.as_ref().is_some_and(own) {
                return Err(ApiError::unsupported(&format!(
                    "taking from a stream of another server (external api {:?})",
                    external.api
                )));
            }
        }
        if self.leads_to(config, &config.name, &mut Vec::new()) {
            return Err(ApiError::stream_config("detected cycle"));
        }
        // A mirror answers for its origin as its origin does.
        let origin = config.mirror.as_ref().and_then(|mirror| self.names.get(&mirror.name));
        if let Some(origin) = origin.and_then(|id| self.streams.get(*id)?.as_deref()) {
            config.mirror_direct = origin.config.allow_direct;
        }
        Ok(())
    }

    /// Whether messages of a stream would come round to a configuration.
    fn leads_to<'a>(&'a self, config: &'a StreamConfig, name: &str, seen: &mut Vec<&'a str>) -> bool {
        config.origins().any(|origin| {
            if origin.name == name {
                return true;
            }
            if seen.contains(&&*origin.name) {
                return false;
            }
            seen.push(&origin.name);
            let next = self.names.get(&origin.name).and_then(|id| self.streams.get(*id)?.as_deref());
            next.is_some_and(|next| self.leads_to(&next.config, name, seen))
        })
    }

    /// The stream that answers direct gets under a name: itself, or a mirror of it when it does not.
    pub(crate) fn direct_stream(&self, name: &str) -> Option<String> {
        let named = self.names.get(name).and_then(|id| self.streams.get(*id)?.as_deref());
        if named.is_some_and(|stream| stream.config.allow_direct) {
            return Some(name.to_owned());
        }
        let fed = self.feeds.fed.iter().filter_map(|id| self.streams.get(*id)?.as_deref());
        let mirrors = |stream: &&Stream| {
            stream.config.mirror_direct
                && stream.config.mirror.as_ref().is_some_and(|mirror| mirror.name == name)
        };
        fed.into_iter().find(mirrors).map(|stream| stream.config.name.clone())
    }
}
