//! Carrying out `$JS.API.STREAM.SNAPSHOT` and `.RESTORE`, and giving the transfers their turns.

use std::collections::VecDeque;

use ostler_broker_proto::subject::{self, Filter};
use serde::{Deserialize, Serialize};

use crate::advisory::{Action, Advisory, StreamAction};
use crate::api::{ApiError, Created, InfoRequest, StreamState, read, refusal, render};
use crate::backup::{Failure, Pace, Progress, Restore, Snapshot, TRANSFERS_MAX, Taken};
use crate::bus::{Bus, Incoming, publish};
use crate::handle::Asked;
use crate::jetstream::{JetStream, RouteChange};
use crate::stream::StreamConfig;
use crate::time::Time;

const SNAPSHOT: &str = "stream_snapshot_response";
const RESTORE: &str = "stream_restore_response";
const CREATE: &str = "stream_create_response";
/// Where chunks come in, and where their receivers acknowledge them. Routed only while there are transfers.
const CHUNKS: &str = "$JS.SNAPSHOT.RESTORE.>";
const ACKS: &str = "$JS.SNAPSHOT.ACK.>";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SnapshotRequest {
    deliver_subject: String,
    no_consumers: bool,
    chunk_size: i64,
    window_size: i64,
    /// Accepted: messages are always checked when they are read.
    #[serde(rename = "jsck")]
    _jsck: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RestoreRequest {
    config: Option<StreamConfig>,
    /// Accepted: what counts stands in the backup.
    #[serde(rename = "state")]
    _state: serde_json::Value,
}

#[derive(Serialize)]
struct Begun {
    config: StreamConfig,
    state: StreamState,
}

#[derive(Serialize)]
struct Deliver<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ApiError>,
    deliver_subject: &'a str,
}

/// A backup is being sent.
#[derive(Serialize)]
struct SnapshotBegan<'a> {
    stream: &'a str,
    state: &'a StreamState,
}

impl Advisory for SnapshotBegan<'_> {
    const KIND: &'static str = "advisory.v1.snapshot_create";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.STREAM.SNAPSHOT_CREATE.{}", self.stream)
    }
}

/// A backup was sent, or not to its end.
#[derive(Serialize)]
struct SnapshotEnded<'a> {
    stream: &'a str,
    start: Time,
    end: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Advisory for SnapshotEnded<'_> {
    const KIND: &'static str = "advisory.v1.snapshot_complete";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.STREAM.SNAPSHOT_COMPLETE.{}", self.stream)
    }
}

/// A backup is coming in.
#[derive(Serialize)]
struct RestoreBegan<'a> {
    stream: &'a str,
}

impl Advisory for RestoreBegan<'_> {
    const KIND: &'static str = "advisory.v1.restore_create";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.STREAM.RESTORE_CREATE.{}", self.stream)
    }
}

/// No more of it comes.
#[derive(Serialize)]
struct RestoreEnded<'a> {
    stream: &'a str,
    start: Time,
    end: Time,
    bytes: u64,
}

impl Advisory for RestoreEnded<'_> {
    const KIND: &'static str = "advisory.v1.restore_complete";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.STREAM.RESTORE_COMPLETE.{}", self.stream)
    }
}

impl JetStream {
    /// Answers a request for a backup and begins to send it.
    pub(crate) fn snapshot_stream(&mut self, name: &str, asked: Asked<'_>, bus: &mut impl Bus) {
        match self.begin_snapshot(name, asked) {
            Err(refused) => self.say_as::<Begun>(SNAPSHOT, asked, Err(refused), bus),
            Ok((snapshot, begun)) => {
                let advisory = SnapshotBegan { stream: name, state: &begun.state };
                publish(bus, asked.message.reply, b"", &render(SNAPSHOT, &begun));
                advisory.send(&self.context, asked.now, bus);
                if self.backups.snapshots.is_empty() {
                    self.route(ACKS, RouteChange::Add);
                }
                self.backups.snapshots.push(snapshot);
            }
        }
    }

    fn begin_snapshot(&mut self, name: &str, asked: Asked<'_>) -> Result<(Snapshot, Begun), ApiError> {
        if asked.message.payload.trim_ascii().is_empty() {
            return Err(ApiError::bad_request());
        }
        let request: SnapshotRequest = read(asked.message.payload, self.strictness)?;
        if request.deliver_subject.is_empty() {
            return Err(ApiError::bad_request());
        }
        if !subject::is_literal(request.deliver_subject.as_bytes()) {
            return Err(ApiError::snapshot_deliver_subject());
        }
        if self.backups.snapshots.len() >= TRANSFERS_MAX {
            return Err(ApiError::snapshot_failed("too many at a time; try again when one is complete"));
        }
        let now = asked.now;
        let (number, stream, context) = self.stream_named(name).ok_or_else(ApiError::stream_not_found)?;
        let lost = stream.store.state().lost;
        if lost > 0 {
            return Err(ApiError::snapshot_failed(format!(
                "{lost} messages are damaged; stop the server and run `ostler-broker check` with `--repair` to go on without them"
            )));
        }
        let state = stream.info(&InfoRequest::default(), now, context).state;
        let mut config = stream.config.clone();
        config.metadata.insert("_nats.req.level".to_owned(), config.required_level().to_string());
        let pace = Pace { chunk_bytes: request.chunk_size, window_bytes: request.window_size };
        let to = (&*request.deliver_subject, &*context.id(22));
        let snapshot = Snapshot::new(number, stream, &state, !request.no_consumers, to, pace, now);
        Ok((snapshot, Begun { config, state }))
    }

    /// Answers a request to take a backup: where its chunks go.
    pub(crate) fn restore_stream(&mut self, name: &str, asked: Asked<'_>, bus: &mut impl Bus) {
        match self.begin_restore(name, asked) {
            Err(refused) => {
                self.api.errors += 1;
                let answer = Deliver { error: Some(&refused), deliver_subject: "" };
                publish(bus, asked.message.reply, b"", &render(RESTORE, &answer));
            }
            Ok(restore) => {
                RestoreBegan { stream: name }.send(&self.context, asked.now, bus);
                let answer = Deliver { error: None, deliver_subject: restore.subject() };
                publish(bus, asked.message.reply, b"", &render(RESTORE, &answer));
                if self.backups.restores.is_empty() {
                    self.route(CHUNKS, RouteChange::Add);
                }
                self.backups.restores.push(restore);
            }
        }
    }

    fn begin_restore(&mut self, name: &str, asked: Asked<'_>) -> Result<Restore, ApiError> {
        if asked.message.payload.trim_ascii().is_empty() {
            return Err(ApiError::bad_request());
        }
        let request: RestoreRequest = read(asked.message.payload, self.strictness)?;
        let mut config = request.config.ok_or_else(ApiError::bad_request)?;
        if config.name.is_empty() {
            config.name = name.to_owned();
        }
        if config.name != name {
            return Err(ApiError::stream_mismatch());
        }
        if self.names.contains_key(name) || self.backups.restores(name) {
            return Err(ApiError::restore_name_in_use());
        }
        // A sealed stream is restored as one.
        let sealed = std::mem::take(&mut config.sealed);
        let window = config.duplicate_window;
        let mut config = config.completed()?;
        config.sealed = sealed;
        self.allowed().limit_stream(&mut config, window)?;
        self.check_room(&config, None)?;
        if self.backups.restores.len() >= TRANSFERS_MAX {
            return Err(ApiError::restore_failed("too many at a time; try again when one is complete"));
        }
        Ok(Restore::new(config, &self.context.id(22), asked.now))
    }

    /// Takes a message on `$JS.SNAPSHOT.>`; false when it is for no transfer.
    pub(crate) fn on_transfer(&mut self, message: &Incoming<'_>, now: i64, bus: &mut impl Bus) -> bool {
        let subject = message.subject;
        if self.backups.snapshots.iter_mut().any(|snapshot| snapshot.on_ack(subject)) {
            self.send_backups(now, bus);
            return true;
        }
        let restores = &mut self.backups.restores;
        let Some(restore) = restores.iter_mut().find(|restore| restore.subject().as_bytes() == subject)
        else {
            return false;
        };
        restore.on_chunk(message, now);
        self.take_backups(now, bus);
        true
    }

    /// Gives every transfer a turn.
    pub(crate) fn turn_backups(&mut self, now: i64, bus: &mut impl Bus) {
        self.send_backups(now, bus);
        self.take_backups(now, bus);
    }

    fn send_backups(&mut self, now: i64, bus: &mut impl Bus) {
        if self.backups.snapshots.is_empty() {
            return;
        }
        for mut snapshot in std::mem::take(&mut self.backups.snapshots) {
            let stream = self.stream_mut(snapshot.stream);
            let error = match snapshot.turn(stream, now, bus) {
                Ok(Progress::Waits | Progress::More) => {
                    self.backups.snapshots.push(snapshot);
                    continue;
                }
                Ok(Progress::Done) => None,
                Err(failure) => {
                    snapshot.fail(&failure, bus);
                    Some(Failure::to_string(&failure))
                }
            };
            let (start, end) = (Time::from_nanos(snapshot.started), Time::from_nanos(now));
            SnapshotEnded { stream: &snapshot.name, start, end, error }.send(&self.context, now, bus);
        }
        if self.backups.snapshots.is_empty() {
            self.route(ACKS, RouteChange::Remove);
        }
    }

    fn take_backups(&mut self, now: i64, bus: &mut impl Bus) {
        if self.backups.restores.is_empty() {
            return;
        }
        let mut waiting = VecDeque::from(std::mem::take(&mut self.backups.restores));
        while let Some(mut restore) = waiting.pop_front() {
            let storage = restore.config().storage;
            let same = waiting.iter().filter(|other| other.config().storage == storage);
            let others = same.map(Restore::bytes).fold(self.bytes_held(storage), u64::saturating_add);
            let max = self.allowed().bytes_max(storage).and_then(|max| u64::try_from(max).ok());
            let room = max.map(|max| max.saturating_sub(others));
            match restore.turn(room, now, bus, &self.context) {
                Taken::Waits | Taken::More => {
                    self.backups.restores.push(restore);
                    continue;
                }
                Taken::Abandoned => {}
                Taken::Ended(taken, reply) => {
                    let added = taken.and_then(|stream| {
                        // Others may have come meanwhile.
                        match self.check_room(restore.config(), None) {
                            Ok(()) if !self.names.contains_key(restore.name()) => Ok(self.insert(*stream)),
                            outcome => {
                                let _ = stream.destroy(&self.context);
                                outcome.and(Err(ApiError::restore_name_in_use()))
                            }
                        }
                    });
                    self.conclude_restore(&restore, added, &reply, now, bus);
                }
            }
            let (start, end) = (Time::from_nanos(restore.started), Time::from_nanos(now));
            let ended = RestoreEnded { stream: restore.name(), start, end, bytes: restore.received };
            ended.send(&self.context, now, bus);
        }
        if self.backups.restores.is_empty() {
            self.route(CHUNKS, RouteChange::Remove);
        }
    }

    /// Tells the client what came of it: as soon as the stream is as safe as it promises.
    fn conclude_restore(
        &mut self,
        restore: &Restore,
        added: Result<usize, ApiError>,
        reply: &[u8],
        now: i64,
        bus: &mut impl Bus,
    ) {
        let name = restore.name();
        let refused = match added {
            Ok(number) => {
                StreamAction { stream: name, action: Action::Create }.send(&self.context, now, bus);
                self.touch(number);
                if let Some((_, stream, context)) = self.stream_named(name) {
                    let info = stream.info(&InfoRequest::default(), now, context);
                    let text = render(CREATE, &Created { info, did_create: false });
                    stream.answer(reply, &text, Some(CREATE), bus);
                }
                return;
            }
            Err(refused) => refused,
        };
        self.api.errors += 1;
        publish(bus, reply, b"", &refusal(CREATE, &refused));
    }

    fn route(&mut self, filter: &str, change: impl FnOnce(Filter) -> RouteChange) {
        if let Ok(filter) = Filter::parse(filter) {
            self.change_route(change(filter));
        }
    }
}
