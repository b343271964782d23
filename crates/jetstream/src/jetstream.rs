//! The whole: which streams there are, which message goes to which, and the calls the broker makes. What a command
//! does is in [`handle`](crate::handle).

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_broker_proto::subject::Filter;
use ostler_broker_store::Finding;
use ostler_broker_store::disk::Disk;

use crate::api::{AccountInfo, ApiCounts, Strictness};
use crate::backup::Backups;
use crate::bus::{Bus, Incoming};
use crate::feeds::Feeds;
use crate::limits::Room;
use crate::options::{API_LEVEL, Context, Options};
use crate::readers::Readers;
use crate::routes::Routes;
use crate::stream::{DELETED_PREFIX, STEPS_PER_TICK, Storage, Stream};
use crate::time::SECOND;

/// How often streams in files give space back.
const MAINTENANCE: i64 = 10 * SECOND;

/// Why JetStream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be created or read.
    #[error("cannot use {path} for streams; check that it is a directory of ours with space left")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// A stream cannot be closed in order; what was acknowledged is on disk all the same.
    #[error("cannot close stream {name}")]
    Stream {
        /// The stream.
        name: String,
        /// Why.
        #[source]
        source: ostler_broker_store::Error,
    },
}

/// What was found when a stream was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The stream, or the directory that should hold one.
    pub stream: String,
    /// Whether it is served.
    pub served: bool,
    /// Messages in it.
    pub messages: u64,
    /// What is wrong with its files.
    pub findings: Vec<Finding>,
    /// Why nothing of it could be opened.
    pub error: Option<String>,
}

/// A change of what must be routed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Messages on it come here from now on.
    Add(Filter),
    /// They no longer do. Said as often as it was added.
    Remove(Filter),
}

/// A sync for another thread.
#[derive(Debug)]
#[must_use = "acknowledgements wait for it"]
pub struct SyncJob {
    stream: usize,
    job: ostler_broker_store::SyncJob,
}

impl SyncJob {
    pub(crate) fn of(stream: usize, job: ostler_broker_store::SyncJob) -> Self {
        Self { stream, job }
    }

    /// Does the work. Blocks as long as the disk takes.
    pub fn run(self) -> SyncResult {
        SyncResult { stream: self.stream, result: self.job.run() }
    }
}

/// What came of a [`SyncJob`]; for [`JetStream::synced`].
#[derive(Debug)]
#[must_use = "acknowledgements wait for it"]
pub struct SyncResult {
    stream: usize,
    result: ostler_broker_store::SyncResult,
}

/// JetStream. See the [crate's documentation](crate) for how the calls fit together.
#[derive(Debug)]
pub struct JetStream {
    pub(crate) context: Context,
    pub(crate) options: Options,
    pub(crate) strictness: Strictness,
    /// By number; a number is not given out again, so that a late sync finds its stream or none.
    pub(crate) streams: Vec<Option<Box<Stream>>>,
    pub(crate) names: BTreeMap<String, usize>,
    pub(crate) feeds: Feeds,
    routes: Routes,
    changes: Vec<RouteChange>,
    touched: Touched,
    maintenance: i64,
    /// The time of the last call that said it.
    now: i64,
    pub(crate) api: ApiCounts,
    pub(crate) backups: Backups,
    pub(crate) readers: Readers,
    pub(crate) room: Room,
}

impl JetStream {
    /// Opens what is in the directory and says what was found with each stream. Reads every message once.
    ///
    /// A stream that cannot be opened is named and not served; the others are.
    ///
    /// # Errors
    /// [`OpenError::Directory`].
    pub fn open(options: Options, now: i64) -> Result<(Self, Vec<Recovered>), OpenError> {
        let context = Context::new(&options);
        let mut this = Self {
            strictness: options.strictness,
            context,
            options,
            streams: Vec::new(),
            names: BTreeMap::new(),
            feeds: Feeds::default(),
            routes: Routes::default(),
            changes: Vec::new(),
            touched: Touched::default(),
            maintenance: now + MAINTENANCE,
            now,
            api: ApiCounts { level: API_LEVEL, ..ApiCounts::default() },
            backups: Backups::default(),
            readers: Readers::default(),
            room: Room::default(),
        };
        this.route_api();
        let recovered = this.recover(now)?;
        Ok((this, recovered))
    }

    fn recover(&mut self, now: i64) -> Result<Vec<Recovered>, OpenError> {
        let dir = self.context.streams_dir();
        let disk = Arc::clone(&self.context.disk);
        let failed = |source| OpenError::Directory { path: dir.clone(), source };
        disk.create_dir(&dir).map_err(failed)?;
        let mut names = disk.list_dirs(&dir).map_err(failed)?;
        names.sort();
        let mut recovered = Vec::new();
        for name in names {
            let path = dir.join(&name);
            if name.starts_with(DELETED_PREFIX) {
                disk.remove_tree(&path).map_err(failed)?;
                continue;
            }
            let opened = match Stream::open(&path, now, &self.context) {
                Ok(opened) => opened,
                // Created, and nothing more before a crash: nobody was told that it is there.
                Err(ostler_broker_store::Error::Missing { .. }) if holds_only_beginnings(&*disk, &path) => {
                    disk.remove_tree(&path).map_err(failed)?;
                    continue;
                }
                Err(error) => {
                    let (served, findings, error) = (false, Vec::new(), Some(error.to_string()));
                    recovered.push(Recovered { stream: name, served, messages: 0, findings, error });
                    continue;
                }
            };
            // Not complete when the server ended: nobody was told that it is there.
            if opened.unfinished {
                disk.remove_tree(&path).map_err(failed)?;
                continue;
            }
            let (served, messages) = match opened.stream {
                // Under a name of its own only: a copied directory is no second stream.
                Some(stream) if stream.config.name == name => {
                    let messages = stream.store.msgs();
                    self.insert(stream);
                    (true, messages)
                }
                _ => (false, 0),
            };
            recovered.push(Recovered {
                stream: name,
                served,
                messages,
                findings: opened.findings,
                error: None,
            });
        }
        Ok(recovered)
    }

    fn route_api(&mut self) {
        let mut filters = vec!["$JS.API.>".to_owned(), "$JS.ACK.>".to_owned(), "$JS.FC.>".to_owned()];
        if let Some(domain) = &self.context.domain {
            filters.push(format!("$JS.{domain}.API.>"));
        }
        for filter in filters {
            if let Ok(filter) = Filter::parse(&filter) {
                self.changes.push(RouteChange::Add(filter));
            }
        }
    }

    /// What changed since the last call in what must be routed here, in order. Ask after every other call; the first
    /// time it is everything.
    pub fn route_changes(&mut self) -> Vec<RouteChange> {
        std::mem::take(&mut self.changes)
    }

    pub(crate) fn change_route(&mut self, change: RouteChange) {
        self.changes.push(change);
    }

    /// Takes a message on a routed subject: something to store, a request, an acknowledgement.
    pub fn on_message(&mut self, message: &Incoming<'_>, now: i64, bus: &mut impl Bus) {
        self.now = now;
        if message.subject.starts_with(b"$JS.") && self.on_reserved(message, now, bus) {
            return;
        }
        self.publish_to(message.subject, message, now, bus);
    }

    /// Takes what a consumer delivered to `to`, where streams listen: it is stored in the stream that does, under the
    /// subject it has, as nats-server does it. Nothing else takes it: a message in a stream is no request.
    pub fn on_delivery(&mut self, to: &[u8], message: &Incoming<'_>, now: i64, bus: &mut impl Bus) {
        self.now = now;
        self.publish_to(to, message, now, bus);
    }

    /// Publishes to the stream that has `to` among its subjects.
    fn publish_to(&mut self, to: &[u8], message: &Incoming<'_>, now: i64, bus: &mut impl Bus) {
        if let Some(id) = self.routes.find(to) {
            self.touch(id);
            let room = self.check_bytes(id, message);
            if let Some(stream) = self.streams.get_mut(id).and_then(Option::as_deref_mut) {
                stream.now = now;
                match room {
                    Ok(()) => stream.publish(message, now, bus, &self.context),
                    Err(full) => stream.refuse(message.reply, &full, bus),
                }
            }
        }
    }

    /// Ends a batch of messages: what came is written out, answers that were true with that are sent, and the syncs
    /// that others wait for are handed out. Give the result of each to [`JetStream::synced`].
    pub fn end_of_batch(&mut self, bus: &mut impl Bus) -> Vec<SyncJob> {
        self.forget_room();
        let mut jobs = Vec::new();
        while let Some(id) = self.touched.take() {
            let Some(stream) = self.streams.get_mut(id).and_then(Option::as_deref_mut) else { continue };
            let job = stream.end_of_batch(self.now, bus, &self.context);
            jobs.extend(job.map(|job| SyncJob { stream: id, job }));
        }
        if self.has_feeds() {
            self.pump_feeds(self.now, bus, &mut jobs);
        }
        jobs
    }

    /// Somebody began to listen on `filter`: what is pushed to where they listen is looked at again. End the batch
    /// afterwards.
    pub fn interest_changed(&mut self, filter: &[u8]) {
        for id in 0..self.streams.len() {
            let Some(stream) = self.stream_mut(id) else { continue };
            if !stream.consumers.values().any(|consumer| consumer.pushes_to(filter)) {
                continue;
            }
            stream.wake = true;
            self.touch(id);
        }
    }

    /// Takes note of a sync, sends what waited for it, and hands out the next one when more waits.
    pub fn synced(&mut self, result: SyncResult, bus: &mut impl Bus) -> Option<SyncJob> {
        let SyncResult { stream: id, result } = result;
        // A stream that was deleted meanwhile waits for nothing.
        let stream = self.streams.get_mut(id)?.as_deref_mut()?;
        stream.now = self.now;
        let job = stream.synced(result, bus, &self.context);
        if stream.is_origin || !stream.feeds.is_empty() {
            self.pump_feeds_soon();
        }
        job.map(|job| SyncJob { stream: id, job })
    }

    /// Does what time asks for: messages expire, space is given back. Call it at [`JetStream::next_due`], and end the
    /// batch afterwards.
    pub fn on_tick(&mut self, now: i64, bus: &mut impl Bus) -> Vec<SyncJob> {
        self.now = now;
        let mut jobs = Vec::new();
        let maintain = now >= self.maintenance;
        let mut steps = STEPS_PER_TICK;
        for id in 0..self.streams.len() {
            let Some(stream) = self.streams.get_mut(id).and_then(Option::as_deref_mut) else { continue };
            stream.now = now;
            stream.expire(now, bus);
            stream.trim(now);
            let finished = stream.turn_chores(&mut steps);
            stream.tick(now, bus, &self.context);
            stream.tick_consumers(now, bus, &self.context);
            if maintain {
                let job = stream.idle_sync(bus);
                jobs.extend(job.map(|job| SyncJob { stream: id, job }));
            }
            if !finished.is_empty() {
                let name = stream.config.name.clone();
                self.tell_finished(&name, finished, now, bus);
            }
            if self.stream_mut(id).is_some_and(|stream| stream.dirty || stream.wake || stream.new_messages) {
                self.touch(id);
            }
        }
        if maintain {
            self.maintenance = now + MAINTENANCE;
        }
        self.turn_backups(now, bus);
        self.turn_readers(now, bus);
        jobs
    }

    /// When [`JetStream::on_tick`] has something to do; `None` when nothing waits for time.
    pub fn next_due(&mut self) -> Option<i64> {
        let in_files = self.streams.iter().flatten().any(|stream| stream.config.storage == Storage::File);
        let maintenance = in_files.then_some(self.maintenance);
        let transfers = self.backups.next_due(self.now).into_iter().chain(self.readers.next_due(self.now));
        let now = self.now;
        let streams = self.streams.iter_mut().flatten();
        let due = |stream: &mut Box<Stream>| {
            [
                stream.next_expiry(),
                stream.next_tick(),
                stream.next_trim(now),
                stream.next_chore(now),
                stream.next_consumer_due(now),
            ]
        };
        let own = streams.flat_map(due).flatten().chain(maintenance).chain(transfers).min();
        own.into_iter().chain(self.next_feed_due(now)).min()
    }

    /// Memory that answers take which wait for the disk. A broker that finds this large does not read publishers for a
    /// while: nothing here refuses them.
    pub fn waiting_bytes(&self) -> usize {
        self.streams.iter().flatten().map(|stream| stream.acks.waiting_bytes()).sum()
    }

    /// Writes and syncs everything on this thread: the orderly end. Answers that wait are not sent.
    ///
    /// # Errors
    /// The first stream that could not be closed; the others are closed all the same.
    pub fn close(mut self) -> Result<(), OpenError> {
        for restore in &mut self.backups.restores {
            restore.drop_stream(&self.context);
        }
        let mut first = Ok(());
        for stream in self.streams.into_iter().flatten() {
            let name = stream.config.name.clone();
            if let Err(source) = stream.close(self.now)
                && first.is_ok()
            {
                first = Err(OpenError::Stream { name, source });
            }
        }
        first
    }

    /// What all streams use together, as `$JS.API.INFO` says it.
    pub fn account_info(&self) -> AccountInfo {
        let mut info = AccountInfo {
            streams: self.names.len(),
            domain: self.context.domain.clone(),
            limits: self.options.limits,
            api: self.api,
            ..AccountInfo::default()
        };
        for stream in self.streams.iter().flatten() {
            let reserved = u64::try_from(stream.config.max_bytes).unwrap_or(0);
            let (used, kept) = match stream.config.storage {
                Storage::Memory => (&mut info.memory, &mut info.reserved_memory),
                Storage::File => (&mut info.storage, &mut info.reserved_storage),
            };
            info.consumers += stream.consumers.len();
            *used += stream.store.bytes();
            *kept = kept.saturating_add(reserved);
        }
        info
    }

    pub(crate) fn insert(&mut self, stream: Stream) -> usize {
        let id = self.streams.len();
        self.names.insert(stream.config.name.clone(), id);
        self.add_routes(&stream.config.subjects, id);
        let arrange = self.has_feeds() || stream.config.origins().next().is_some();
        self.streams.push(Some(Box::new(stream)));
        if arrange {
            self.arrange_feeds();
        }
        self.touch(id);
        id
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Box<Stream>> {
        let id = self.names.remove(name)?;
        let stream = self.streams.get_mut(id)?.take()?;
        self.remove_routes(id);
        if self.has_feeds() {
            self.arrange_feeds();
        }
        Some(stream)
    }

    pub(crate) fn add_routes(&mut self, subjects: &[String], id: usize) {
        for filter in subjects.iter().filter_map(|subject| Filter::parse(subject).ok()) {
            self.changes.push(RouteChange::Add(filter.clone()));
            self.routes.add(filter, id);
        }
    }

    pub(crate) fn remove_routes(&mut self, id: usize) {
        self.changes.extend(self.routes.remove(id).into_iter().map(RouteChange::Remove));
    }

    pub(crate) fn stream_mut(&mut self, id: usize) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(id)?.as_deref_mut()?;
        stream.now = self.now;
        Some(stream)
    }

    pub(crate) fn stream_named(&mut self, name: &str) -> Option<(usize, &mut Stream, &Context)> {
        let id = *self.names.get(name)?;
        let stream = self.streams.get_mut(id)?.as_deref_mut()?;
        stream.now = self.now;
        Some((id, stream, &self.context))
    }

    /// Sees to it that the end of the batch looks at a stream.
    pub(crate) fn touch(&mut self, id: usize) {
        self.touched.add(id);
    }
}

/// Whether everything in a directory without a store is what creating one begins with.
fn holds_only_beginnings(disk: &dyn Disk, dir: &Path) -> bool {
    let known = ["mark", "manifest.a", "manifest.b"];
    let files = disk.list(dir).is_ok_and(|names| names.iter().all(|name| known.contains(&name.as_str())));
    files && disk.list_dirs(dir).is_ok_and(|names| names.is_empty())
}

/// The streams that the end of the batch looks at: each once, in the order in which they were touched.
#[derive(Debug, Default)]
struct Touched {
    ids: VecDeque<usize>,
    /// Whether a stream is among them.
    is_in: Vec<bool>,
}

impl Touched {
    fn add(&mut self, id: usize) {
        if self.is_in.len() <= id {
            self.is_in.resize(id + 1, false);
        }
        if !std::mem::replace(&mut self.is_in[id], true) {
            self.ids.push_back(id);
        }
    }

    fn take(&mut self) -> Option<usize> {
        let id = self.ids.pop_front()?;
        self.is_in[id] = false;
        Some(id)
    }
}
