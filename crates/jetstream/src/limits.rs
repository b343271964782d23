//! What the server allows all of its streams, and the account its own: which configurations fit in, and whether a message
//! still does. What one stream holds is limited by its configuration, not here.

use crate::api::{AccountLimits, ApiError};
use crate::backup::Restore;
use crate::bus::Incoming;
use crate::consumer::{AckPolicy, ConsumerConfig};
use crate::jetstream::JetStream;
use crate::stream::{Storage, StreamConfig};
use crate::time::write_duration;

/// Unacknowledged messages of a consumer that sets no limit: nats-server's default.
const ACK_PENDING_DEFAULT: i64 = 1000;

/// Limits of the server, beside those of the account ([`AccountLimits`](crate::AccountLimits)). `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerLimits {
    /// Bytes of all streams in memory.
    pub memory_bytes_max: Option<i64>,
    /// Bytes of all streams in files.
    pub storage_bytes_max: Option<i64>,
    /// Messages in one request to a consumer. A consumer that asks for more is refused, one that says nothing gets it.
    pub request_batch_max: Option<i64>,
    /// Unacknowledged messages of one consumer.
    pub ack_pending_max: Option<i64>,
    /// The longest window of duplicates, in nanoseconds.
    pub duplicate_window_max: Option<i64>,
    /// Consumers of a stream that sets no limit of its own.
    pub consumers_default: Option<i64>,
}

/// Both kinds of limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    server: ServerLimits,
    account: AccountLimits,
}

/// Bytes that messages may still take in this batch, counted when the first of them is stored.
#[derive(Debug, Default)]
pub(crate) struct Room {
    memory: Option<i64>,
    storage: Option<i64>,
}

impl Allowed {
    /// Puts a complete configuration within what is allowed. `window` is the window of duplicates as it was asked for.
    pub(crate) fn limit_stream(self, config: &mut StreamConfig, window: i64) -> Result<(), ApiError> {
        if let Some(max) = self.server.duplicate_window_max
            && config.duplicate_window > max
        {
            if window > max {
                return Err(ApiError::stream_config(format!(
                    "duplicates window can not be larger then server limit of {}",
                    write_duration(max)
                )));
            }
            config.duplicate_window = max;
        }
        let account = &self.account;
        if account.max_bytes_required && config.max_bytes <= 0 {
            return Err(ApiError::max_bytes_required());
        }
        let largest = match config.storage {
            Storage::Memory => account.memory_max_stream_bytes,
            Storage::File => account.storage_max_stream_bytes,
        };
        if largest > 0 && config.max_bytes > largest {
            return Err(ApiError::max_stream_bytes_exceeded());
        }
        Ok(())
    }

    /// Bytes of all streams of one kind.
    pub(crate) fn bytes_max(self, storage: Storage) -> Option<i64> {
        [self.account_bytes_max(storage), self.server_bytes_max(storage)].into_iter().flatten().min()
    }

    fn account_bytes_max(self, storage: Storage) -> Option<i64> {
        let max = match storage {
            Storage::Memory => self.account.max_memory,
            Storage::File => self.account.max_storage,
        };
        (max >= 0).then_some(max)
    }

    fn server_bytes_max(self, storage: Storage) -> Option<i64> {
        match storage {
            Storage::Memory => self.server.memory_bytes_max,
            Storage::File => self.server.storage_bytes_max,
        }
    }

    /// Puts a complete configuration of a consumer within what is allowed. `asked` are its `max_ack_pending` and
    /// `max_batch` as they were asked for.
    pub(crate) fn limit_consumer(
        self,
        config: &mut ConsumerConfig,
        stream: &StreamConfig,
        asked: (i64, i64),
    ) -> Result<(), ApiError> {
        let server = self.server;
        let account = Some(self.account.max_ack_pending).filter(|max| *max > 0);
        if let Some(max) = [server.ack_pending_max, account].into_iter().flatten().min() {
            let unsaid = asked.0 == 0 && config.ack_policy != AckPolicy::None;
            if unsaid && stream.consumer_limits.max_ack_pending <= 0 {
                config.max_ack_pending = max.min(ACK_PENDING_DEFAULT);
            } else if config.max_ack_pending > max {
                return Err(ApiError::max_ack_pending_excess(max));
            }
        }
        if let Some(max) = server.request_batch_max.filter(|_| !config.is_push()) {
            if asked.1 > max {
                return Err(ApiError::max_request_batch_excess(max));
            }
            if asked.1 <= 0 {
                config.max_batch = max;
            }
        }
        Ok(())
    }

    /// How many consumers a stream may have; -1 is any number.
    pub(crate) fn consumers_max(self, stream: &StreamConfig) -> i64 {
        let of_stream = match stream.max_consumers {
            1.. => stream.max_consumers,
            _ => self.server.consumers_default.unwrap_or(-1),
        };
        // As in nats-server, the account's is a limit of each stream too.
        match self.account.max_consumers {
            account @ 1.. if of_stream < 0 || account < of_stream => account,
            _ => of_stream,
        }
    }
}

impl JetStream {
    pub(crate) fn allowed(&self) -> Allowed {
        Allowed { server: self.options.server, account: self.options.limits }
    }

    /// Whether what a stream may grow to fits beside what is promised to the others.
    pub(crate) fn check_reservation(&self, config: &StreamConfig) -> Result<(), ApiError> {
        if config.max_bytes <= 0 {
            return Ok(());
        }
        let others = self.streams.iter().flatten().map(|stream| &stream.config);
        let same = others.filter(|other| other.name != config.name && other.storage == config.storage);
        let reserved = same.map(|other| other.max_bytes.max(0)).fold(0, i64::saturating_add);
        let wanted = reserved.saturating_add(config.max_bytes);
        let limit = [
            self.allowed().account_bytes_max(config.storage),
            self.allowed().server_bytes_max(config.storage),
        ];
        if limit.into_iter().flatten().any(|max| wanted > max) {
            return Err(match config.storage {
                Storage::File => ApiError::insufficient_storage(),
                Storage::Memory => ApiError::insufficient_memory(),
            });
        }
        Ok(())
    }

    /// Whether a message fits into what all streams may use. Costs nothing where nothing is limited.
    pub(crate) fn check_bytes(&mut self, id: usize, message: &Incoming<'_>) -> Result<(), ApiError> {
        let Some(storage) = self.streams.get(id).and_then(Option::as_ref).map(|stream| stream.config.storage)
        else {
            return Ok(());
        };
        let (account, server) =
            (self.allowed().account_bytes_max(storage), self.allowed().server_bytes_max(storage));
        let Some(max) = [account, server].into_iter().flatten().min() else { return Ok(()) };
        let known = match storage {
            Storage::Memory => self.room.memory,
            Storage::File => self.room.storage,
        };
        let left = known.unwrap_or_else(|| {
            let used = self.bytes_held(storage);
            max.saturating_sub(i64::try_from(used).unwrap_or(i64::MAX))
        });
        let size = message.subject.len() + message.headers.len() + message.payload.len();
        let after = left.saturating_sub(i64::try_from(size).unwrap_or(i64::MAX));
        let fits = after >= 0;
        let left = Some(if fits { after } else { left });
        match storage {
            Storage::Memory => self.room.memory = left,
            Storage::File => self.room.storage = left,
        }
        match fits {
            true => Ok(()),
            false if account.is_some_and(|account| account == max) => {
                Err(ApiError::account_resources_exceeded())
            }
            false => Err(ApiError::insufficient_resources()),
        }
    }

    /// What all streams hold, and those that are being restored.
    pub(crate) fn bytes_held(&self, storage: Storage) -> u64 {
        let streams = self.streams.iter().flatten().filter(|stream| stream.config.storage == storage);
        let restores = self.backups.restores.iter().filter(|restore| restore.config().storage == storage);
        let bytes = streams.map(|stream| stream.store.bytes()).chain(restores.map(Restore::bytes));
        bytes.fold(0, u64::saturating_add)
    }

    /// Messages may have gone: what is left is counted anew.
    pub(crate) fn forget_room(&mut self) {
        self.room = Room::default();
    }
}

/// What nats-server 2.15 answered to the same requests.
#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::options::Options;
    use crate::testing::Recorder;
    use crate::time::SECOND;

    struct House {
        jetstream: JetStream,
        bus: Recorder,
        _dir: tempfile::TempDir,
    }

    impl House {
        fn new(server: ServerLimits, account: AccountLimits) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { server, limits: account, ..Options::new(dir.path()) };
            let (jetstream, _) = JetStream::open(options, SECOND).unwrap();
            Self { jetstream, bus: Recorder::default(), _dir: dir }
        }

        fn send(&mut self, subject: &str, payload: &[u8]) -> Value {
            let message = Incoming { subject: subject.as_bytes(), reply: b"r", headers: b"", payload };
            self.jetstream.on_message(&message, SECOND, &mut self.bus);
            for job in self.jetstream.end_of_batch(&mut self.bus) {
                assert!(self.jetstream.synced(job.run(), &mut self.bus).is_none());
            }
            let mut answers = self.bus.take().into_iter().filter(|sent| sent.to == "r");
            serde_json::from_str(&answers.next_back().unwrap().payload).unwrap()
        }

        /// The error's number and text, or what was asked for of the configuration that came of it.
        fn stream(&mut self, verb: &str, config: Value, field: &str) -> String {
            let subject = format!("$JS.API.STREAM.{verb}.{}", config["name"].as_str().unwrap());
            shown(&self.send(&subject, config.to_string().as_bytes()), field)
        }

        fn consumer(&mut self, stream: &str, config: Value, field: &str) -> String {
            let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{}", config["name"].as_str().unwrap());
            let request = json!({ "stream_name": stream, "config": config });
            shown(&self.send(&subject, request.to_string().as_bytes()), field)
        }
    }

    fn shown(answer: &Value, field: &str) -> String {
        match answer.get("error") {
            Some(error) => format!("{} {}", error["err_code"], error["description"].as_str().unwrap()),
            None => answer["config"][field].to_string(),
        }
    }

    #[test]
    fn the_server_bounds_windows_batches_and_pending_acknowledgements() {
        let server = ServerLimits {
            request_batch_max: Some(100),
            ack_pending_max: Some(500),
            duplicate_window_max: Some(60 * SECOND),
            ..ServerLimits::default()
        };
        let mut house = House::new(server, AccountLimits::default());
        let window = "duplicate_window";
        let refused = "10052 duplicates window can not be larger then server limit of 1m0s";
        assert_eq!(
            house.stream("CREATE", json!({"name":"D","duplicate_window":120 * SECOND}), window),
            refused
        );
        assert_eq!(
            house.stream("CREATE", json!({"name":"D","duplicate_window":30 * SECOND}), window),
            "30000000000"
        );
        assert_eq!(house.stream("UPDATE", json!({"name":"D"}), window), "60000000000");
        assert_eq!(
            house.stream("UPDATE", json!({"name":"D","duplicate_window":100 * SECOND}), window),
            refused
        );
        let explicit = |more: Value| {
            let mut config = json!({"name":"a","ack_policy":"explicit"});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let pending = "max_ack_pending";
        assert_eq!(house.consumer("D", explicit(json!({})), pending), "500");
        assert_eq!(house.consumer("D", explicit(json!({})), "max_batch"), "100");
        assert_eq!(house.consumer("D", explicit(json!({"max_ack_pending":-1})), pending), "-1");
        assert_eq!(
            house.consumer("D", explicit(json!({"max_ack_pending":600})), pending),
            "10121 consumer max ack pending exceeds system limit of 500"
        );
        assert_eq!(
            house.consumer("D", explicit(json!({"max_batch":200})), pending),
            "10125 consumer max request batch exceeds server limit of 100"
        );
        assert_eq!(house.consumer("D", json!({"name":"p","deliver_subject":"x.y"}), "max_batch"), "null");
    }

    #[test]
    fn the_bytes_of_all_streams_are_bounded() {
        let server = ServerLimits {
            memory_bytes_max: Some(100 << 10),
            storage_bytes_max: Some(200 << 10),
            ..ServerLimits::default()
        };
        let mut house = House::new(server, AccountLimits::default());
        let stream =
            |name: &str, max: i64, storage: &str| json!({"name":name,"max_bytes":max,"storage":storage});
        let bytes = "max_bytes";
        let no_storage = "10047 insufficient storage resources available";
        assert_eq!(house.stream("CREATE", stream("F", 300 << 10, "file"), bytes), no_storage);
        assert_eq!(house.stream("CREATE", stream("F", 150 << 10, "file"), bytes), "153600");
        assert_eq!(house.stream("CREATE", stream("G", 100 << 10, "file"), bytes), no_storage);
        assert_eq!(house.stream("UPDATE", stream("F", 300 << 10, "file"), bytes), no_storage);
        assert_eq!(
            house.stream("CREATE", stream("M", 200 << 10, "memory"), bytes),
            "10028 insufficient memory resources available"
        );
        assert_eq!(house.stream("CREATE", stream("M", 0, "memory"), bytes), "-1");
        let payload = vec![0; 30_000];
        for _ in 0..3 {
            assert!(house.send("M", &payload).get("error").is_none());
        }
        let full = house.send("M", &payload);
        assert_eq!((&full["error"]["code"], &full["error"]["err_code"]), (&json!(503), &json!(10023)));
        house.send("$JS.API.STREAM.PURGE.M", b"");
        assert!(house.send("M", &payload).get("error").is_none(), "there is room again");
    }

    #[test]
    fn the_account_bounds_its_streams() {
        let account = AccountLimits {
            max_memory: 1 << 20,
            max_consumers: 2,
            max_ack_pending: 10,
            storage_max_stream_bytes: 100 << 10,
            max_bytes_required: true,
            ..AccountLimits::default()
        };
        let mut house = House::new(ServerLimits::default(), account);
        let bytes = "max_bytes";
        assert_eq!(
            house.stream("CREATE", json!({"name":"S"}), bytes),
            "10113 account requires a stream config to have max bytes set"
        );
        assert_eq!(
            house.stream("CREATE", json!({"name":"S","max_bytes":200 << 10}), bytes),
            "10122 stream max bytes exceeds account limit max stream bytes"
        );
        assert_eq!(house.stream("CREATE", json!({"name":"S","max_bytes":50 << 10}), bytes), "51200");
        assert_eq!(house.stream("CREATE", json!({"name":"T","max_bytes":50 << 10}), bytes), "51200");
        let none = |name: &str| json!({"name":name,"ack_policy":"none"});
        assert_eq!(house.consumer("S", json!({"name":"a","ack_policy":"explicit"}), "max_ack_pending"), "10");
        assert_eq!(house.consumer("S", none("b"), "name"), "\"b\"");
        assert_eq!(house.consumer("S", none("c"), "name"), "10026 maximum consumers limit reached");
        // It counts by stream, as nats-server does.
        assert_eq!(house.consumer("T", none("c"), "name"), "\"c\"");
    }
}
