//! Streams: messages the bus keeps. Storing one and knowing that it is kept, reading pages back, and making sure that a
//! stream is there. No consumers: whoever reads asks for pages and remembers where it was.
//!
//! Only what the daemon needs, on exactly the subjects it needs permission for:
//!
//! | call | asks on |
//! |---|---|
//! | [`Client::ensure_stream`] | `$JS.API.STREAM.INFO.{stream}`, `.CREATE.{stream}`, `.UPDATE.{stream}` |
//! | [`Client::store`] | the message's own subject |
//! | [`Client::last_stored`] | `$JS.API.STREAM.MSG.GET.{stream}` |
//! | [`Client::read_stored`], [`Client::last_of_each`] | `$JS.API.DIRECT.GET.{stream}` |

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::StreamExt;
use ostler_wire::{AuditStream, JsonMap, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Client, Error};

/// How long an answer of the streams is waited for: a disk that syncs under load takes its time.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// The header by which a message that is sent again is known.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// `err_code` of a stream that does not exist.
const NO_STREAM: u64 = 10059;
/// `err_code` of a message that does not exist.
const NO_MESSAGE: u64 = 10037;

/// A message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the stream.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// When the bus kept it.
    pub time: Timestamp,
    /// The payload.
    pub payload: Bytes,
    /// The value of the header that was asked for.
    pub header: Option<String>,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At this number of the stream.
    Sequence(u64),
    /// At the first message kept at or after this time.
    Time(Timestamp),
}

/// Which messages of a stream.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The filter of their subjects.
    pub filter: &'a str,
    /// Where to begin.
    pub from: From,
    /// Messages at most; a page that is shorter is the last one there is.
    pub limit: usize,
    /// The header to bring along.
    pub header: &'a str,
}

/// What a stream holds at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StreamState {
    /// Messages.
    pub messages: u64,
    /// Their size on disk, in bytes.
    pub bytes: u64,
    /// The number of the first one.
    pub first_seq: u64,
    /// The number of the last one.
    pub last_seq: u64,
    /// When the stream was made, as the bus writes it.
    #[serde(default)]
    pub created: String,
    /// What messages may take, in bytes; not above zero means that there is no limit.
    #[serde(default)]
    pub bytes_max: i64,
    /// How long messages are kept, in nanoseconds; 0 means for ever.
    #[serde(default)]
    pub age_ns_max: i64,
}

impl StreamState {
    /// Reads the answer of `STREAM.INFO`.
    fn read(name: &str, info: &JsonMap) -> Result<Self, Error> {
        let bad = |error: serde_json::Error| Error::BadReply {
            subject: format!("$JS.API.STREAM.INFO.{name}"),
            reason: error.to_string(),
        };
        let mut state: Self =
            serde_json::from_value(info.get("state").cloned().unwrap_or_default()).map_err(bad)?;
        let config = |key: &str| info.get("config")?.get(key)?.as_i64();
        state.created = info.get("created").and_then(Value::as_str).unwrap_or_default().to_owned();
        state.bytes_max = config("max_bytes").unwrap_or_default();
        state.age_ns_max = config("max_age").unwrap_or_default();
        Ok(state)
    }

    /// It as the stream of an audit.
    pub fn of_audit(&self) -> AuditStream {
        AuditStream {
            created: self.created.clone(),
            first_seq: self.first_seq,
            bytes: self.bytes,
            bytes_max: u64::try_from(self.bytes_max).unwrap_or_default(),
            age_ms_max: self.age_ns_max / 1_000_000,
        }
    }
}

/// What to do with limits of a stream that are wider than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Narrower {
    /// Narrow them: the stream is the asker's own.
    Apply,
    /// Leave them: others use the stream too.
    Leave,
}

impl Client {
    /// Makes sure that a stream is there and is as `config` says: makes it, or changes what differs and nothing else.
    /// `config` is the JSON of a stream's configuration and has its `name`. Returns what it holds; `None` for a stream
    /// that was made.
    ///
    /// With [`Narrower::Leave`] a limit that is wider there than `config` says stays: narrowing it would take out what
    /// others have put in.
    ///
    /// # Errors
    ///
    /// [`Error::NoStreams`] where the bus keeps nothing, [`Error::Stream`] with the bus's own words when it refuses.
    pub async fn ensure_stream(
        &self,
        config: &JsonMap,
        narrower: Narrower,
    ) -> Result<Option<StreamState>, Error> {
        let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
        let info = match self.stream_api(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Err(Error::Stream { err_code: NO_STREAM, .. }) => {
                self.stream_api(&format!("STREAM.CREATE.{name}"), &json!(config)).await?;
                return Ok(None);
            }
            info => info?,
        };
        let mut wanted = info.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
        let differs = |(key, value): &(&String, &Value)| !says_the_same(wanted.get(*key), value);
        let stays = |(key, value): &(&String, &Value)| {
            narrower == Narrower::Leave && narrows(key, wanted.get(*key), value)
        };
        let (kept, changes): (Vec<_>, Vec<_>) = config.iter().filter(differs).partition(stays);
        let changes: Vec<_> = changes.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if !kept.is_empty() {
            tracing::debug!(stream = name, configured = ?kept, "the stream keeps the wider limits that it has");
        }
        if !changes.is_empty() {
            tracing::info!(stream = name, changes = ?changes, "the stream is changed to what is configured");
            wanted.extend(changes);
            self.stream_api(&format!("STREAM.UPDATE.{name}"), &Value::Object(wanted)).await?;
        }
        StreamState::read(name, &info).map(Some)
    }

    /// What a stream holds; `None` when there is no such stream.
    ///
    /// # Errors
    ///
    /// As [`Client::ensure_stream`].
    pub async fn stream_state(&self, name: &str) -> Result<Option<StreamState>, Error> {
        match self.stream_api(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Err(Error::Stream { err_code: NO_STREAM, .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(info) => StreamState::read(name, &info).map(Some),
        }
    }

    /// Publishes a message and waits until a stream keeps it; returns its number there. With an `id`, a message that is
    /// sent again soon is kept once.
    ///
    /// # Errors
    ///
    /// [`Error::NoStreams`] when no stream takes the subject; [`Error::Stream`] when it takes nothing, a full disk, say.
    /// After [`Error::Timeout`] it may be kept. Cancel-safe in the same sense.
    pub async fn store(
        &self,
        subject: &str,
        id: Option<&str>,
        headers: &[(&str, &str)],
        payload: Bytes,
    ) -> Result<u64, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in id.map(|id| (MESSAGE_ID, id)).iter().chain(headers) {
            map.insert(*name, *value);
        }
        let headers = (!map.is_empty()).then_some(map);
        let reply = self.ask(subject, headers, payload, STREAM_PATIENCE).await.map_err(no_streams)?;
        let answer = read_answer(subject, &reply.payload)?;
        answer.get("seq").and_then(Value::as_u64).filter(|seq| *seq > 0).ok_or_else(|| Error::BadReply {
            subject: subject.to_owned(),
            reason: "it names no number of a stream".to_owned(),
        })
    }

    /// The last message of a filter, as the stream's leader has it.
    ///
    /// # Errors
    ///
    /// As [`Client::ensure_stream`].
    pub async fn last_stored(
        &self,
        stream: &str,
        filter: &str,
        header: &str,
    ) -> Result<Option<Stored>, Error> {
        let subject = format!("STREAM.MSG.GET.{stream}");
        let answer = match self.stream_api(&subject, &json!({ "last_by_subj": filter })).await {
            Err(Error::Stream { err_code: NO_MESSAGE, .. }) => return Ok(None),
            answer => answer?,
        };
        let bad = |reason: String| Error::BadReply { subject: format!("$JS.API.{subject}"), reason };
        let message = answer.get("message").cloned().unwrap_or_default();
        let message: Kept = serde_json::from_value(message).map_err(|error| bad(error.to_string()))?;
        let bytes = |text: &str| BASE64.decode(text.as_bytes()).map_err(|error| bad(error.to_string()));
        let headers = String::from_utf8_lossy(&bytes(&message.hdrs)?).into_owned();
        Ok(Some(Stored {
            seq: message.seq,
            subject: message.subject,
            time: message.time,
            payload: bytes(&message.data)?.into(),
            header: find_header(&headers, header),
        }))
    }

    /// Reads a page of messages, in the order of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::NoStreams`] when there is no such stream or the bus keeps nothing; [`Error::Timeout`] when it did not
    /// answer, [`Error::Stream`] when it refused. Needs a nats-server of 2.11 or later.
    pub async fn read_stored(&self, page: &Page<'_>) -> Result<Vec<Stored>, Error> {
        let mut request = json!({ "next_by_subj": page.filter, "batch": page.limit });
        match page.from {
            From::Sequence(seq) => request["seq"] = seq.max(1).into(),
            From::Time(time) => request["start_time"] = time.to_string().into(),
        }
        self.direct(page.stream, &request, page.header).await
    }

    /// Reads the last message of each subject that matches one of the filters.
    ///
    /// # Errors
    ///
    /// As [`Client::read_stored`].
    pub async fn last_of_each(
        &self,
        stream: &str,
        filters: &[String],
        header: &str,
    ) -> Result<Vec<Stored>, Error> {
        self.direct(stream, &json!({ "multi_last": filters }), header).await
    }

    /// Asks a stream for several messages: they come one by one to an inbox, behind them one that says so.
    async fn direct(&self, stream: &str, request: &Value, header: &str) -> Result<Vec<Stored>, Error> {
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let inbox = self.new_inbox();
        let mut answers = self.listen_raw(inbox.clone()).await?;
        self.publish_bytes(&subject, Some(&inbox), request.to_string().into()).await?;
        let mut found = Vec::new();
        loop {
            let next = tokio::time::timeout(STREAM_PATIENCE, answers.next());
            let next = tokio::select! {
                next = next => next,
                denied = self.denied_request(&subject) => return Err(Error::Denied(denied)),
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Error::Closed("the subscription ended".to_owned())),
                Err(_) => {
                    return Err(Error::Timeout { subject, millis: STREAM_PATIENCE.as_millis() });
                }
            };
            match message.status {
                None | Some(StatusCode::OK) => {}
                // "EOB": the end of the batch, and "Message Not Found".
                Some(status) if matches!(status.as_u16(), 204 | 404) => return Ok(found),
                Some(StatusCode::NO_RESPONDERS) => return Err(Error::NoStreams { subject }),
                Some(status) => {
                    let reason = message.description.unwrap_or_else(|| status.to_string());
                    return Err(Error::Stream { subject, err_code: u64::from(status.as_u16()), reason });
                }
            }
            found.push(read_direct(&subject, message, header)?);
        }
    }

    async fn stream_api(&self, verb: &str, request: &Value) -> Result<JsonMap, Error> {
        let subject = format!("$JS.API.{verb}");
        let payload = Bytes::from(request.to_string());
        let reply = self.ask(&subject, None, payload, STREAM_PATIENCE).await.map_err(no_streams)?;
        read_answer(&subject, &reply.payload)
    }
}

/// The message of an answer to `STREAM.MSG.GET`.
#[derive(Deserialize)]
struct Kept {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: Timestamp,
}

/// The error of an answer of the streams.
#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn no_streams(error: Error) -> Error {
    match error {
        Error::NoResponders { subject } => Error::NoStreams { subject },
        error => error,
    }
}

fn read_answer(subject: &str, payload: &[u8]) -> Result<JsonMap, Error> {
    let bad = |reason: String| Error::BadReply { subject: subject.to_owned(), reason };
    let answer: JsonMap = serde_json::from_slice(payload).map_err(|error| bad(error.to_string()))?;
    match answer.get("error") {
        None => Ok(answer),
        Some(error) => {
            let error = ApiError::deserialize(error).map_err(|error| bad(format!("its error: {error}")))?;
            let reason = error.description;
            Err(Error::Stream { subject: subject.to_owned(), err_code: error.err_code, reason })
        }
    }
}

fn read_direct(subject: &str, message: async_nats::Message, header: &str) -> Result<Stored, Error> {
    let value = |name: &str| {
        // The server's own stand behind those that the message was stored with, which may have the same names.
        let last = message.headers.as_ref().and_then(|headers| headers.get_last(name));
        last.map(|value| value.as_str().to_owned())
    };
    let missing = |name: &str| Error::BadReply {
        subject: subject.to_owned(),
        reason: format!("a message without a sound header {name}"),
    };
    let read = |name: &str| value(name).ok_or_else(|| missing(name));
    Ok(Stored {
        seq: read("Nats-Sequence")?.parse().map_err(|_| missing("Nats-Sequence"))?,
        subject: read("Nats-Subject")?,
        time: read("Nats-Time-Stamp")?.parse().map_err(|_| missing("Nats-Time-Stamp"))?,
        header: value(header),
        payload: message.payload,
    })
}

/// Finds a header in a block as it stands on the wire.
fn find_header(block: &str, name: &str) -> Option<String> {
    block
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
}

/// Whether a value would take messages out of a stream that has another now. No limit is written 0 or -1.
fn narrows(key: &str, found: Option<&Value>, wanted: &Value) -> bool {
    let limit = |value: &Value| value.as_i64().filter(|limit| *limit > 0).unwrap_or(i64::MAX);
    matches!(key, "max_bytes" | "max_age" | "max_msgs" | "max_msgs_per_subject")
        && limit(wanted) < found.map_or(i64::MAX, limit)
}

/// Whether a value of a stream's configuration is what we want: a server leaves defaults out and adds what it likes to
/// an object.
fn says_the_same(found: Option<&Value>, wanted: &Value) -> bool {
    match (found, wanted) {
        (None | Some(Value::Null), wanted) => {
            matches!(wanted, Value::Bool(false) | Value::Null) || *wanted == json!(0) || *wanted == json!("")
        }
        (Some(Value::Object(found)), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| says_the_same(found.get(key), value))
        }
        (Some(found), wanted) => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_the_same_with_defaults_left_out_and_metadata_added() {
        let wanted = json!({ "deny_delete": true, "allow_rollup_hdrs": false, "metadata": { "a": "1" } });
        let found = json!({ "deny_delete": true, "max_age": 0, "metadata": { "a": "1", "_nats.ver": "2" } });
        assert!(says_the_same(Some(&found), &wanted));
        let other = json!({ "deny_delete": true, "metadata": { "a": "2" } });
        assert!(!says_the_same(Some(&other), &wanted));
        assert!(!says_the_same(Some(&json!({})), &wanted));
    }

    #[test]
    fn a_limit_is_narrowed_by_less_and_by_any_where_there_was_none() {
        for (found, wanted, expected) in [
            (json!(10), json!(9), true),
            (json!(10), json!(10), false),
            (json!(10), json!(11), false),
            (json!(-1), json!(10), true),
            (json!(0), json!(10), true),
            (json!(10), json!(0), false),
            (json!(10), json!(-1), false),
        ] {
            assert_eq!(narrows("max_bytes", Some(&found), &wanted), expected, "{found} to {wanted}");
        }
        assert!(narrows("max_age", None, &json!(10)));
        assert!(!narrows("num_replicas", Some(&json!(3)), &json!(1)));
    }

    #[test]
    fn an_answer_with_an_error_carries_the_buss_own_words() {
        let text = br#"{"error":{"code":503,"err_code":10077,"description":"insufficient resources"},"stream":"A","seq":0}"#;
        let error = read_answer("audit.x.node", text).unwrap_err();
        assert!(matches!(&error, Error::Stream { err_code: 10077, .. }), "{error}");
        assert!(error.to_string().contains("insufficient resources"), "{error}");
        assert!(read_answer("s", b"hello").is_err());
    }

    #[test]
    fn a_header_is_found_in_its_block() {
        let block = "NATS/1.0\r\nNats-Msg-Id: a\r\nOstler-Hash: 12ab\r\n\r\n";
        assert_eq!(find_header(block, "ostler-hash").as_deref(), Some("12ab"));
        assert_eq!(find_header(block, "other"), None);
    }
}
