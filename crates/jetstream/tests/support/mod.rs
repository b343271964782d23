//! A JetStream on a simulated disk, one publisher's knowledge of it, and a random workload. It judges nothing.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use ostler_broker_store::disk::SimulatedDisk;
use ostler_jetstream::{Bus, Durability, Incoming, JetStream, Options, Recovered, SyncJob};
use serde_json::{Value, json};

pub(crate) const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_800_000_000 * SECOND;

/// How many times more than in the suite; set by hand for a long run.
pub(crate) fn effort() -> u64 {
    std::env::var("OSTLER_STORE_EFFORT").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// What was sent while the power was on.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) payload: String,
}

struct Recorder {
    disk: SimulatedDisk,
    sent: Vec<Sent>,
}

impl Bus for Recorder {
    fn has_interest(&self, _: &[u8]) -> bool {
        true
    }

    fn send(&mut self, to: &[u8], subject: &[u8], reply: &[u8], _: &[u8], payload: &[u8]) {
        if !self.disk.is_off() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (to, subject, reply, payload) = (text(to), text(subject), text(reply), text(payload));
            self.sent.push(Sent { to, subject, reply, payload });
        }
    }
}

/// A JetStream with its disk, its clock, and the syncs that nobody has done yet.
pub(crate) struct House {
    jetstream: JetStream,
    bus: Recorder,
    jobs: Vec<SyncJob>,
    pub(crate) now: i64,
    pub(crate) recovered: Vec<Recovered>,
    requests: u64,
}

impl House {
    /// `None` when the disk does not work.
    pub(crate) fn open(disk: &SimulatedDisk, durability: Durability, now: i64) -> Option<Self> {
        let mut options = Options::new("store");
        (options.disk, options.durability) = (Arc::new(disk.clone()), durability);
        let (jetstream, recovered) = JetStream::open(options, now).ok()?;
        let bus = Recorder { disk: disk.clone(), sent: Vec::new() };
        Some(Self { jetstream, bus, jobs: Vec::new(), now, recovered, requests: 0 })
    }

    /// Hands in a message; nothing is written yet.
    pub(crate) fn say(&mut self, subject: &str, reply: &str, headers: &str, payload: &str) {
        self.now += 1_000;
        let message = Incoming {
            subject: subject.as_bytes(),
            reply: reply.as_bytes(),
            headers: headers.as_bytes(),
            payload: payload.as_bytes(),
        };
        self.jetstream.on_message(&message, self.now, &mut self.bus);
    }

    pub(crate) fn end_batch(&mut self) {
        self.jobs.extend(self.jetstream.end_of_batch(&mut self.bus));
    }

    pub(crate) fn pass(&mut self, nanos: i64) {
        self.now += nanos;
        self.jobs.extend(self.jetstream.on_tick(self.now, &mut self.bus));
        self.end_batch();
    }

    /// Does one sync that waits.
    pub(crate) fn sync_one(&mut self, which: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs.swap_remove(which % self.jobs.len());
        let result = job.run();
        self.jobs.extend(self.jetstream.synced(result, &mut self.bus));
    }

    pub(crate) fn settle(&mut self) {
        self.end_batch();
        while !self.jobs.is_empty() {
            self.sync_one(0);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.bus.sent)
    }

    /// Asks for something, waits for the disk, and returns all that was said.
    pub(crate) fn ask(&mut self, subject: &str, headers: &str, payload: &str) -> Vec<Sent> {
        self.requests += 1;
        let reply = format!("_J.{}", self.requests);
        self.say(subject, &reply, headers, payload);
        self.settle();
        let mut sent = self.take();
        sent.retain(|sent| sent.to == reply);
        sent
    }

    /// The one answer to a request.
    pub(crate) fn api(&mut self, subject: &str, payload: &str) -> Value {
        let sent = self.ask(&format!("$JS.API.{subject}"), "", payload);
        serde_json::from_str(&sent.first().expect("an answer").payload).expect("answers are JSON")
    }

    /// Every message of a stream: sequence, subject, payload.
    pub(crate) fn messages(&mut self, stream: &str) -> Vec<(u64, String, String)> {
        let mut found = Vec::new();
        let mut at = 1;
        loop {
            let answer = self.api(
                &format!("STREAM.MSG.GET.{stream}"),
                &json!({ "seq": at, "next_by_subj": ">" }).to_string(),
            );
            let Some(message) = answer.get("message") else {
                assert_eq!(answer["error"]["err_code"], 10037, "{answer}");
                return found;
            };
            let seq = message["seq"].as_u64().expect("a sequence");
            let data = message["data"].as_str().unwrap_or_default();
            let payload = data_encoding::BASE64.decode(data.as_bytes()).expect("base64");
            let text = String::from_utf8(payload).expect("text");
            found.push((seq, message["subject"].as_str().expect("a subject").to_owned(), text));
            at = seq + 1;
        }
    }

    /// Closes in order.
    pub(crate) fn close(mut self) {
        self.settle();
        self.jetstream.close().expect("the disk works");
    }
}

/// What one stream is known to hold. Payloads are numbers, each published once.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamKnown {
    /// Payload to subject: whatever is found must be one of these.
    pub(crate) given: BTreeMap<u64, String>,
    /// Acknowledged and not asked to go since: sequence to payload.
    pub(crate) acknowledged: BTreeMap<u64, u64>,
    /// Message id to the payload that first had it, and to the sequence once that is known.
    pub(crate) ids: BTreeMap<String, (u64, Option<u64>)>,
    /// Payloads that somebody asked to remove: until that is answered they may be there or not.
    pub(crate) asked_to_go: BTreeSet<u64>,
    /// Payloads whose removal was acknowledged.
    pub(crate) gone: BTreeSet<u64>,
    /// Configurations are numbered: the last that was asked for and the last that was acknowledged.
    pub(crate) version: u64,
    pub(crate) version_acknowledged: u64,
    pub(crate) exists: Exists,
    pub(crate) consumers: BTreeMap<String, ConsumerKnown>,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Exists {
    #[default]
    No,
    Maybe,
    Yes,
}

/// What is known of a consumer.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConsumerKnown {
    pub(crate) exists: Exists,
    /// Delivered and not acknowledged: the reply that does it, and the payload.
    pub(crate) out: Vec<(String, u64)>,
    /// Acknowledged, by payload; and those of them where that was answered.
    pub(crate) acked: BTreeSet<u64>,
    pub(crate) acked_for_sure: BTreeSet<u64>,
}

/// What a request was, for when its answer comes.
#[derive(Debug, Clone)]
enum Request {
    Publish { stream: usize, payload: u64, id: Option<String> },
    Create { stream: usize, version: u64 },
    Delete { stream: usize },
    Remove { stream: usize, payloads: Vec<u64> },
    Consumer { stream: usize, name: String },
    ConsumerGone { stream: usize, name: String },
    Ack { stream: usize, name: String, payload: u64 },
}

/// The streams of the workload: a log, a bucket of keys, a work queue, and one that comes and goes.
pub(crate) const STREAMS: [&str; 4] = ["LOG", "KEYS", "WORK", "PASSING"];
const PASSING: usize = 3;
const KEYS: usize = 1;
const WORK: usize = 2;

/// Publishers and consumers, as they see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) streams: [StreamKnown; 4],
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    next_payload: u64,
}

impl Known {
    pub(crate) fn start_time() -> i64 {
        START
    }

    fn request(&mut self, request: Request) -> String {
        self.next_request += 1;
        self.requests.insert(self.next_request, request);
        format!("_I.{}", self.next_request)
    }

    fn configuration(stream: usize, version: u64) -> String {
        let name = STREAMS[stream];
        let mut config = json!({
            "name": name, "subjects": [format!("{name}.>")], "description": version.to_string(),
            "allow_rollup_hdrs": true, "allow_direct": true,
        });
        match stream {
            KEYS => config["max_msgs_per_subject"] = json!(1),
            WORK => config["retention"] = json!("workqueue"),
            _ => {}
        }
        config.to_string()
    }

    fn create(&mut self, house: &mut House, stream: usize) {
        let known = &mut self.streams[stream];
        known.version += 1;
        let version = known.version;
        let verb = if known.exists == Exists::Yes { "UPDATE" } else { "CREATE" };
        if known.exists == Exists::No {
            known.exists = Exists::Maybe;
        }
        let reply = self.request(Request::Create { stream, version });
        let name = STREAMS[stream];
        let config = Self::configuration(stream, version);
        house.say(&format!("$JS.API.STREAM.{verb}.{name}"), &reply, "", &config);
    }

    fn publish(&mut self, house: &mut House, stream: usize, random: &mut fastrand::Rng) {
        self.next_payload += 1;
        let payload = self.next_payload;
        let subject = format!("{}.{}", STREAMS[stream], random.u8(0..4));
        let known = &mut self.streams[stream];
        let (mut id, mut headers) = (None, String::new());
        match random.u8(0..10) {
            0..4 => id = Some(format!("id-{payload}")),
            // A publisher that was told nothing tries again.
            4..6 if !known.ids.is_empty() => {
                let again = known.ids.keys().nth(random.usize(..known.ids.len())).cloned();
                id = again;
            }
            _ => {}
        }
        if let Some(id) = &id {
            headers = format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n");
            known.ids.entry(id.clone()).or_insert((payload, None));
        }
        known.given.insert(payload, subject.clone());
        if stream == KEYS {
            // One value a key: the one before may go.
            let given = &known.given;
            known.acknowledged.retain(|_, payload| given[payload] != subject);
        }
        let reply = self.request(Request::Publish { stream, payload, id });
        // Long ones are cut in the middle more often.
        let padding = "x".repeat(random.usize(0..40) * random.usize(0..20));
        house.say(&subject, &reply, &headers, &format!("{payload} {padding}"));
    }

    fn consume(&mut self, house: &mut House, random: &mut fastrand::Rng) {
        let stream = if random.bool() { 0 } else { WORK };
        let name = if stream == 0 && random.bool() { "d" } else { "c" };
        let known = &mut self.streams[stream];
        let consumer = known.consumers.entry(name.to_owned()).or_default();
        let of = STREAMS[stream];
        let owned = name.to_owned();
        match (consumer.exists, random.u8(0..20)) {
            (Exists::No, _) => {
                consumer.exists = Exists::Maybe;
                let config = json!({ "stream_name": of, "config": {
                    "durable_name": name, "ack_policy": "explicit", "max_ack_pending": -1, "ack_wait": 30 * SECOND } });
                let reply = self.request(Request::Consumer { stream, name: owned });
                house.say(&format!("$JS.API.CONSUMER.CREATE.{of}.{name}"), &reply, "", &config.to_string());
            }
            (Exists::Yes, 0) if name == "d" => {
                *consumer = ConsumerKnown { exists: Exists::Maybe, ..ConsumerKnown::default() };
                let reply = self.request(Request::ConsumerGone { stream, name: owned });
                house.say(&format!("$JS.API.CONSUMER.DELETE.{of}.{name}"), &reply, "", "");
            }
            (Exists::Yes, 1..9) => {
                let request = json!({ "batch": random.u8(1..6), "no_wait": true });
                let reply = format!("_M.{stream}.{name}");
                house.say(
                    &format!("$JS.API.CONSUMER.MSG.NEXT.{of}.{name}"),
                    &reply,
                    "",
                    &request.to_string(),
                );
            }
            (Exists::Yes, kind) if !consumer.out.is_empty() => {
                let (subject, payload) = consumer.out.swap_remove(random.usize(..consumer.out.len()));
                if kind < 12 {
                    return house.say(&subject, "", "", if kind == 9 { "-NAK" } else { "+WPI" });
                }
                consumer.acked.insert(payload);
                if stream == WORK {
                    known.acknowledged.retain(|_, kept| *kept != payload);
                }
                let reply = match kind {
                    12..15 => String::new(),
                    _ => self.request(Request::Ack { stream, name: owned, payload }),
                };
                house.say(&subject, &reply, "", "");
            }
            _ => {}
        }
    }

    fn remove(&mut self, house: &mut House, random: &mut fastrand::Rng) {
        let stream = random.usize(0..2);
        let known = &mut self.streams[stream];
        let Some((&seq, &payload)) = known.acknowledged.iter().nth(random.usize(0..10)) else { return };
        let of = STREAMS[stream];
        let (subject, body, payloads) = match random.u8(0..10) {
            0 => {
                let before: Vec<u64> = known.given.range(..payload).map(|(payload, _)| *payload).collect();
                (format!("$JS.API.STREAM.PURGE.{of}"), json!({ "seq": seq }), before)
            }
            erase => {
                let body = json!({ "seq": seq, "no_erase": erase < 5 });
                (format!("$JS.API.STREAM.MSG.DELETE.{of}"), body, vec![payload])
            }
        };
        known.acknowledged.retain(|_, kept| !payloads.contains(kept));
        known.asked_to_go.extend(&payloads);
        let reply = self.request(Request::Remove { stream, payloads });
        house.say(&subject, &reply, "", &body.to_string());
    }

    fn come_and_go(&mut self, house: &mut House) {
        let known = &mut self.streams[PASSING];
        match known.exists {
            Exists::Yes => {
                let version = known.version;
                *known = StreamKnown { exists: Exists::Maybe, version, ..StreamKnown::default() };
                known.version_acknowledged = version;
                let reply = self.request(Request::Delete { stream: PASSING });
                house.say("$JS.API.STREAM.DELETE.PASSING", &reply, "", "");
            }
            Exists::No => self.create(house, PASSING),
            Exists::Maybe => {}
        }
    }

    /// Takes note of what was said.
    pub(crate) fn hear(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            if let Some(rest) = sent.to.strip_prefix("_M.") {
                let (stream, name) = rest.split_once('.').expect("two tokens");
                let stream: usize = stream.parse().expect("a number");
                let payload = number(&sent.payload);
                if let (Some(payload), Some(consumer)) =
                    (payload, self.streams[stream].consumers.get_mut(name))
                {
                    assert!(
                        !consumer.acked_for_sure.contains(&payload),
                        "{payload} came again after its acknowledgement was confirmed"
                    );
                    consumer.out.retain(|(_, out)| *out != payload);
                    consumer.out.push((sent.reply, payload));
                }
            } else if let Some(number) = sent.to.strip_prefix("_I.") {
                let request = self.requests.remove(&number.parse().expect("a number")).expect("asked once");
                self.answered(request, &sent.payload);
            }
        }
    }

    fn answered(&mut self, request: Request, text: &str) {
        let answer: Value =
            if text.is_empty() { Value::Null } else { serde_json::from_str(text).expect("JSON") };
        let refused = answer.get("error").is_some();
        match request {
            Request::Publish { stream, payload, id } => {
                let known = &mut self.streams[stream];
                let Some(seq) = answer["seq"].as_u64().filter(|_| !refused) else { return };
                if answer["duplicate"] == true {
                    let (_, first) = known.ids[&id.expect("only what has an id can be one")];
                    assert!(first.is_none_or(|first| first == seq), "another sequence for a duplicate");
                    known.given.remove(&payload);
                    return;
                }
                if let Some((first, at)) = id.and_then(|id| known.ids.get_mut(&id))
                    && *first == payload
                {
                    *at = Some(seq);
                }
                // A later value of the same key may have taken its place already.
                let newer = |later: &u64| *later > payload && known.given[later] == known.given[&payload];
                let replaced = stream == KEYS && known.given.keys().any(newer);
                // It may have been consumed, or asked to go, before its acknowledgement came.
                let done = stream == WORK && known.consumers.values().any(|one| one.acked.contains(&payload));
                let gone = replaced || done || known.asked_to_go.contains(&payload);
                if !gone && known.given.contains_key(&payload) {
                    known.acknowledged.insert(seq, payload);
                }
            }
            Request::Create { stream, version } if !refused => {
                let known = &mut self.streams[stream];
                known.exists = Exists::Yes;
                known.version_acknowledged = known.version_acknowledged.max(version);
            }
            Request::Delete { stream } if !refused => {
                let version = self.streams[stream].version;
                self.streams[stream] =
                    StreamKnown { version, version_acknowledged: version, ..StreamKnown::default() };
            }
            Request::Remove { stream, payloads } if !refused => self.streams[stream].gone.extend(payloads),
            Request::Consumer { stream, name } if !refused => {
                self.streams[stream].consumers.entry(name).or_default().exists = Exists::Yes;
            }
            Request::ConsumerGone { stream, name } if !refused => {
                self.streams[stream].consumers.insert(name, ConsumerKnown::default());
            }
            Request::Ack { stream, name, payload } => {
                let known = &mut self.streams[stream];
                if stream == WORK {
                    known.gone.insert(payload);
                }
                known.consumers.entry(name).or_default().acked_for_sure.insert(payload);
            }
            _ => {}
        }
    }

    /// A workload until the power goes.
    pub(crate) fn work(
        disk: &SimulatedDisk,
        durability: Durability,
        seed: u64,
        rounds: usize,
    ) -> (Self, i64) {
        let (mut known, mut random) = (Self::default(), fastrand::Rng::with_seed(seed));
        let Some(mut house) = House::open(disk, durability, START) else { return (known, START) };
        for round in 0..rounds {
            if round == 0 {
                (0..3).for_each(|stream| known.create(&mut house, stream));
            }
            for _ in 0..random.usize(1..7) {
                match random.u8(0..40) {
                    0..18 => {
                        let stream = random.usize(0..4);
                        if known.streams[stream].exists == Exists::Yes {
                            known.publish(&mut house, stream, &mut random);
                        }
                    }
                    18..33 => known.consume(&mut house, &mut random),
                    33..36 => known.remove(&mut house, &mut random),
                    36..38 => known.come_and_go(&mut house),
                    38 => {
                        let stream = random.usize(0..3);
                        if known.streams[stream].exists == Exists::Yes {
                            known.create(&mut house, stream);
                        }
                    }
                    _ => house.pass(if random.u8(0..4) == 0 { 11 * SECOND } else { SECOND / 3 }),
                }
                known.hear(house.take());
            }
            house.end_batch();
            for _ in 0..random.usize(0..4) {
                house.sync_one(random.usize(0..8));
            }
            known.hear(house.take());
            if disk.is_off() {
                break;
            }
        }
        (known, house.now)
    }
}

/// What a payload says.
pub(crate) fn number(payload: &str) -> Option<u64> {
    payload.split(' ').next()?.parse().ok()
}

/// The directory of the store.
pub(crate) fn store_dir() -> PathBuf {
    PathBuf::from("store")
}
