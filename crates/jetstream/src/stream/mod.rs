//! One stream: its store, its window of duplicates, the answers that wait for the disk. Publishing, expiry and reading
//! are in the files below; the API's commands are beside it.

mod agenda;
mod batch;
mod chores;
mod config;
mod consumers;
mod counter;
mod cron;
mod dedupe;
mod expire;
mod fast;
mod feed;
mod intake;
mod publish;
mod read;
mod restore;
mod salvage;
mod schedule;
mod source;
mod takers;
mod transform;
mod trim;
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_broker_proto::subject::Filter;
use ostler_broker_store::{Durability, Erase, Error, Finding, Selection, Severity, Store};
use serde::{Deserialize, Serialize};

pub(crate) use chores::{Outcome, Progress, Request, STEPS_PER_TICK};
pub use config::{
    Compression, ConsumerLimits, DURABILITY_KEY, Discard, PersistMode, Republish, Retention, Storage,
    StreamConfig,
};
pub(crate) use config::{
    DESCRIPTION_MAX, METADATA_MAX, NAME_MAX, SERVER_METADATA, is_default, is_name, metadata_bytes,
};
pub(crate) use feed::{Feed, identity as feed_identity};
pub(crate) use intake::Taken;
pub use salvage::{check, repair};
pub(crate) use source::FeedKind;
pub use source::{External, StreamConsumerSource, StreamSource};
pub(crate) use takers::Taker;
pub use transform::SubjectTransform;

use crate::acks::AckQueue;
use crate::api::{ApiError, InfoRequest, StreamInfo, StreamState};
use crate::bus::Bus;
use crate::consumer::Consumer;
use crate::headers::PublishHeaders;
use crate::options::Context;
use crate::time::Time;
use agenda::Schedules;
use batch::Batches;
use chores::Chores;
use dedupe::Dedupe;
use fast::FastBatches;
use restore::is_restoring;
use takers::Takers;
use transform::Transform;
use trim::Trim;

/// The checkpoint that holds a stream's configuration.
const META: &str = "stream";
const META_VERSION: u16 = 1;
/// Subjects in one answer.
pub(crate) const SUBJECTS_PER_PAGE: usize = 100_000;
/// Deleted sequences in one answer.
const DELETED_MAX: usize = 100_000;
/// Segments of streams that replace messages often.
const SMALL_SEGMENT: u32 = 4 << 20;

/// What is kept of a stream beside its messages.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    config: StreamConfig,
    created: Time,
    /// See [`Stream::adopted`].
    #[serde(default)]
    adopted: u64,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) config: StreamConfig,
    pub(crate) created: Time,
    pub(crate) store: Store,
    durability: Durability,
    /// Up to here it was a mirror: what headers say of batches there says nothing of its own log.
    adopted: u64,
    dir: Option<PathBuf>,
    dedupe: Dedupe,
    /// What the configuration says, prepared.
    transform: Option<Transform>,
    republish: Option<Transform>,
    batches: Batches,
    fast_batches: FastBatches,
    schedules: Schedules,
    trim: Trim,
    chores: Chores,
    /// The streams it takes from.
    pub(crate) feeds: Vec<Feed>,
    /// Whether another takes from it without a consumer that was prepared.
    pub(crate) is_read: bool,
    /// Whether another takes from it.
    pub(crate) is_origin: bool,
    /// Who takes from it, and how far they are.
    pub(crate) takers: Takers,
    /// How often something was undone because the disk refused.
    pub(crate) undone: u64,
    /// The id of the last message, if it had one.
    last_id: Option<Box<str>>,
    pub(crate) acks: AckQueue,
    pub(crate) consumers: BTreeMap<Box<str>, Consumer>,
    /// The time of the present call.
    pub(crate) now: i64,
    /// Consumers may have something to do.
    pub(crate) wake: bool,
    /// A consumer has more than one turn's worth to do.
    pub(crate) lagging: bool,
    /// Removed because everybody is done with them; the removal is not written yet.
    done_unwritten: Vec<u64>,
    /// Something waits for the end of the batch.
    pub(crate) dirty: bool,
    /// Messages came in since consumers were last served.
    pub(crate) new_messages: bool,
    syncing: bool,
    /// The last sync failed: the disk is asked again when somebody waits for it, and every some seconds.
    pub(crate) ailing: bool,
    /// No message below it goes by age.
    age_cursor: u64,
    /// When a sequence was last used for a message that nobody wanted.
    skipped_at: Option<i64>,
}

impl Stream {
    /// Creates a stream in an empty place.
    pub(crate) fn create(config: StreamConfig, now: i64, context: &Context) -> Result<Self, ApiError> {
        let first = config.first_seq;
        Self::begin(config, first, false, now, context)
    }

    /// Creates a stream whose first sequence is given, whole or to be filled from a backup.
    fn begin(
        config: StreamConfig,
        first: u64,
        restoring: bool,
        now: i64,
        context: &Context,
    ) -> Result<Self, ApiError> {
        let failed = |error: Error| match disk_refusal(&error) {
            refusal if refusal.err_code == ApiError::insufficient_storage().err_code => refusal,
            _ => ApiError::stream_create(error.to_string()),
        };
        let options = store_options(&config, context)?;
        let (store, dir) = match config.storage {
            Storage::Memory => (Store::memory(options), None),
            Storage::File => {
                let dir = context.stream_dir(&config.name);
                if context.disk.is_dir(&dir) {
                    return Err(ApiError::stream_create(format!(
                        "{} holds a stream that could not be opened; repair it or move it away",
                        dir.display()
                    )));
                }
                let disk = Arc::clone(&context.disk);
                (Store::open_on(disk, &dir, options).map_err(failed)?, Some(dir))
            }
        };
        let mut stream = Self::with(config, Time::from_nanos(now), store, dir, context)?;
        stream.prepare_feeds();
        let begin = |stream: &mut Self| {
            if first > 1 {
                stream.store.skip(first - 1)?;
            }
            if restoring {
                return stream.mark_restoring(context);
            }
            stream.save_meta()?;
            // Messages may be lost with the power where nobody promised them, but not the stream.
            match stream.durability {
                Durability::Group => Ok(()),
                Durability::Process | Durability::Async => stream.sync_now(),
            }
        };
        match begin(&mut stream) {
            Ok(()) => Ok(stream),
            Err(error) => {
                let refusal = failed(error);
                // What is left behind would come back as a stream after a restart.
                let _ = stream.destroy(context);
                Err(refusal)
            }
        }
    }

    /// Opens a stream that was created before. `None` when the directory holds none that can be named.
    pub(crate) fn open(dir: &Path, now: i64, context: &Context) -> Result<Opened, Error> {
        let mut store = Store::open_on(
            Arc::clone(&context.disk),
            dir,
            ostler_broker_store::Options { create: false, ..Default::default() },
        )?;
        let mut findings = store.findings().to_vec();
        findings.iter_mut().for_each(salvage::explain);
        let meta = store.checkpoint(META).and_then(|(_, meta)| serde_json::from_slice::<Meta>(meta).ok());
        let meta = if let Some(meta) = meta {
            meta
        } else {
            // Nothing was saved and nothing is missing: the server ended while it was being created.
            let unfinished = store.checkpoint(META).is_none_or(|(_, meta)| meta.is_empty())
                && store.msgs() == 0
                && findings.iter().all(|finding| finding.severity < Severity::Damage);
            let unfinished = unfinished || is_restoring(dir, context);
            // One that is there and not understood is somebody else's affair.
            let is_lost = !unfinished && store.checkpoint(META).is_none();
            match is_lost.then(|| salvage::salvage(dir, &mut store, now)).flatten() {
                Some(meta) if findings.iter().any(Finding::is_damage) => meta,
                Some(meta) => {
                    findings.push(salvage::not_there());
                    meta
                }
                None => return Ok(Opened { stream: None, findings, unfinished }),
            }
        };
        let durability = meta.config.durability(context.durability).unwrap_or(Durability::Group);
        store.set_durability(durability);
        let adopted = meta.adopted;
        let opened = Self::with(meta.config, meta.created, store, Some(dir.to_owned()), context);
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(_) => return Ok(Opened { stream: None, findings, unfinished: false }),
        };
        // What a power cut took of it is filled anew.
        stream.adopted = adopted.min(stream.store.last_seq());
        stream.drop_torn_batch()?;
        stream.refill_window(now);
        stream.recall_schedules(stream.store.last_seq());
        stream.prepare_feeds();
        stream.recall_feeds();
        stream.load_consumers(now);
        stream.recall_trim();
        Ok(Opened { stream: Some(stream), findings, unfinished: false })
    }

    fn with(
        config: StreamConfig,
        created: Time,
        store: Store,
        dir: Option<PathBuf>,
        context: &Context,
    ) -> Result<Self, ApiError> {
        let durability = match config.storage {
            Storage::Memory => Durability::Async,
            Storage::File => config.durability(context.durability)?,
        };
        Ok(Self {
            acks: AckQueue::new(&config.name, context.domain.as_deref()),
            transform: prepared_transform(&config),
            republish: prepared_republish(&config),
            config,
            created,
            store,
            durability,
            adopted: 0,
            dir,
            consumers: BTreeMap::new(),
            batches: Batches::default(),
            fast_batches: FastBatches::default(),
            schedules: Schedules::default(),
            trim: Trim::default(),
            chores: Chores::default(),
            feeds: Vec::new(),
            is_read: false,
            is_origin: false,
            takers: Takers::default(),
            undone: 0,
            now: created.nanos().unwrap_or(0),
            wake: false,
            lagging: false,
            done_unwritten: Vec::new(),
            dedupe: Dedupe::default(),
            last_id: None,
            dirty: true,
            new_messages: false,
            syncing: false,
            ailing: false,
            age_cursor: 0,
            skipped_at: None,
        })
    }

    /// Reads the ids of the window back from the messages: it survives a restart because they do.
    fn refill_window(&mut self, now: i64) {
        let since = now - self.config.duplicate_window;
        let Ok(Some(first)) = self.store.first_at(since) else { return };
        let (dedupe, last_id) = (&mut self.dedupe, &mut self.last_id);
        // A file that cannot be read leaves the window shorter; the messages in it are reported where they are read.
        let _ = self.store.scan(&mut Selection::all(), first, |message| {
            let id = PublishHeaders::read(message.headers).msg_id;
            if let Some(id) = id {
                dedupe.insert(id, message.seq, message.time_ns);
            }
            *last_id = id.map(Into::into);
            std::ops::ControlFlow::Continue(())
        });
    }

    /// Does what time asks for beside expiry and consumers.
    pub(crate) fn tick(&mut self, now: i64, bus: &mut impl Bus, context: &Context) {
        self.give_up_batches(now, bus, context);
        self.fast_batches.forget_silent(now);
        self.publish_scheduled(now, bus);
    }

    /// When [`Stream::tick`] has something to do.
    pub(crate) fn next_tick(&self) -> Option<i64> {
        let batches = [self.next_batch_due(), self.fast_batches.next_due()];
        batches.into_iter().flatten().chain(self.schedules.next_due()).min()
    }

    fn save_meta(&mut self) -> Result<(), Error> {
        let meta = Meta { config: self.config.clone(), created: self.created, adopted: self.adopted };
        let bytes = serde_json::to_vec(&meta).unwrap_or_default();
        self.dirty = true;
        self.store.save_checkpoint(META, META_VERSION, &bytes)
    }

    /// Makes durable what was written, on this thread.
    fn sync_now(&mut self) -> Result<(), Error> {
        self.store.write_out()?;
        match self.store.sync_ticket()? {
            Some(job) => self.store.synced(job.run()).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Gives it another configuration, which is complete and checked.
    pub(crate) fn update(&mut self, config: StreamConfig, context: &Context) -> Result<(), ApiError> {
        let durability = match config.storage {
            Storage::Memory => Durability::Async,
            Storage::File => config.durability(context.durability)?,
        };
        let before = std::mem::replace(&mut self.config, config);
        let adopted = self.adopted;
        if before.mirror.is_some() && self.config.mirror.is_none() {
            self.adopted = self.store.last_seq();
        }
        if let Err(error) = self.save_meta() {
            (self.config, self.adopted) = (before, adopted);
            return Err(disk_refusal(&error));
        }
        self.durability = durability;
        self.store.set_durability(durability);
        self.transform = prepared_transform(&self.config);
        self.republish = prepared_republish(&self.config);
        self.prepare_feeds();
        if !self.config.allow_batched {
            self.fast_batches.clear();
        }
        if self.config.allow_msg_schedules != before.allow_msg_schedules {
            self.recall_schedules(self.store.last_seq());
        }
        self.age_cursor = 0;
        self.trim_all();
        self.trim(self.now);
        Ok(())
    }

    /// The last sequence that stays what it is, whatever this stream's class protects from happens.
    pub(crate) fn last_sure(&self) -> u64 {
        let last = self.store.last_seq();
        if self.durability == Durability::Group { last.min(self.store.durable_seq()) } else { last }
    }

    /// Whether answers need not wait for the end of the batch.
    pub(crate) fn answers_at_once(&self) -> bool {
        self.durability == Durability::Async
    }

    /// Says something when everything done so far is as safe as this stream promises.
    pub(crate) fn answer(
        &mut self,
        reply: &[u8],
        text: &[u8],
        refused_as: Option<&'static str>,
        bus: &mut impl Bus,
    ) {
        self.dirty = true;
        self.acks.text(reply, text, refused_as);
        if self.answers_at_once() {
            self.acks.release(bus);
        }
    }

    /// Messages went in another way than one by one.
    fn recount(&mut self) {
        for consumer in self.consumers.values_mut() {
            consumer.on_purged(&mut self.store);
        }
        self.wake = true;
    }

    fn last_on_filter(&self, filter: &[u8]) -> Option<u64> {
        let filter = Filter::parse(filter).ok()?;
        let mut selection = Selection::new([filter]);
        self.store.last_per_subject(&mut selection, u64::MAX).last().copied()
    }

    /// Removes one message because somebody asked for it.
    pub(crate) fn delete_message(&mut self, seq: u64, erase: bool) -> Result<(), ApiError> {
        if self.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if self.config.deny_delete {
            return Err(ApiError::message_delete("message delete not permitted"));
        }
        self.dirty = true;
        self.save_feeds();
        match self.store.remove(seq, if erase { Erase::Yes } else { Erase::No }) {
            Ok(true) => {
                let now = self.now;
                self.consumers.values_mut().for_each(|consumer| consumer.on_removed(seq, now));
                // What was out is not out any more: there is room for more.
                self.wake = true;
                Ok(())
            }
            Ok(false) if (self.store.first_seq()..=self.store.last_seq()).contains(&seq) => {
                Err(ApiError::sequence_not_found(seq))
            }
            Ok(false) => Err(ApiError::message_delete("no message found")),
            Err(error) => Err(ApiError::message_delete(error.to_string())),
        }
    }

    /// What the API shows of it, with the metadata that the server adds.
    pub(crate) fn info(&mut self, request: &InfoRequest, now: i64, context: &Context) -> StreamInfo {
        let mut state = self.state();
        if request.deleted_details {
            state.deleted = self.store.deleted(DELETED_MAX);
        }
        let mut config = self.config.clone();
        context.add_metadata(&mut config.metadata, self.config.required_level());
        let info = |feed: &Feed| feed.info(now);
        let (mirrors, sources): (Vec<_>, Vec<_>) =
            self.feeds.iter().partition(|feed| feed.kind == source::FeedKind::Mirror);
        StreamInfo {
            config,
            created: self.created,
            state,
            mirror: mirrors.into_iter().map(info).next(),
            sources: sources.into_iter().map(info).collect(),
            ts: Time::from_nanos(now),
        }
    }

    /// The subjects a filter selects, a page of them, and how many there are.
    pub(crate) fn subjects(&mut self, filter: &str, offset: usize) -> (usize, Vec<(String, u64)>) {
        let Ok(filter) = Filter::parse(filter) else { return (0, Vec::new()) };
        let page = self.store.subjects(&mut Selection::new([filter]), offset, SUBJECTS_PER_PAGE);
        let text = |subject: Box<[u8]>| String::from_utf8_lossy(&subject).into_owned();
        (page.total, page.items.into_iter().map(|(subject, count)| (text(subject), count)).collect())
    }

    /// What it holds.
    pub(crate) fn state(&mut self) -> StreamState {
        let state = self.store.state();
        let time = |nanos: Option<i64>| nanos.map_or(Time::NONE, Time::from_nanos);
        StreamState {
            messages: state.msgs,
            bytes: state.bytes,
            first_seq: if state.last_seq == 0 { 0 } else { state.first_seq },
            first_ts: time(state.first_time_ns),
            last_seq: state.last_seq,
            last_ts: time(state.last_time_ns.max(self.skipped_at)),
            num_subjects: state.num_subjects,
            consumer_count: self.consumers.len(),
            num_deleted: if state.msgs == 0 { 0 } else { state.num_deleted },
            ..StreamState::default()
        }
    }

    /// Forgets the stream and everything in it.
    pub(crate) fn destroy(self, context: &Context) -> std::io::Result<()> {
        self.store.give_up();
        let Some(dir) = self.dir else { return Ok(()) };
        // The name goes first, in one step: half a stream must not come back after a crash.
        let grave = dir.with_file_name(format!("{DELETED_PREFIX}{}", self.created.nanos().unwrap_or(0)));
        match context.disk.rename_dir(&dir, &grave) {
            // Durably, as who asked for it is told that it is gone.
            Ok(()) => context.disk.sync_dir(&context.streams_dir())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        // What is left of it is removed when the server starts again.
        let _ = context.disk.remove_tree(&grave);
        Ok(())
    }
}

fn prepared_transform(config: &StreamConfig) -> Option<Transform> {
    let rule = config.subject_transform.as_ref()?;
    Transform::parse(&rule.src, &rule.dest).ok()
}

fn prepared_republish(config: &StreamConfig) -> Option<Transform> {
    let rule = config.republish.as_ref()?;
    Transform::parse(&rule.src, &rule.dest).ok()
}

/// Directories of deleted streams begin with this; no stream can be called so.
pub(crate) const DELETED_PREFIX: &str = ".deleted-";

/// What was found in a directory.
pub(crate) struct Opened {
    pub(crate) stream: Option<Stream>,
    pub(crate) findings: Vec<Finding>,
    /// It was being filled from a backup when the server ended.
    pub(crate) unfinished: bool,
}

/// A disk error in the API's words.
pub(crate) fn disk_refusal(error: &Error) -> ApiError {
    match error {
        Error::NoSpace { .. } => ApiError::insufficient_storage(),
        Error::NotDurable { source, .. } => disk_refusal(source),
        other => ApiError::store_failed(other.to_string()),
    }
}

fn store_options(config: &StreamConfig, context: &Context) -> Result<ostler_broker_store::Options, ApiError> {
    let default = ostler_broker_store::Options::default();
    let replaces = (1..=100).contains(&config.max_msgs_per_subject);
    Ok(ostler_broker_store::Options {
        segment_bytes: if replaces { SMALL_SEGMENT } else { default.segment_bytes },
        durability: config.durability(context.durability)?,
        salt: context.salt(),
        create: true,
    })
}
