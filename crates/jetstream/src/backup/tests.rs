//! Backups there and back, also one that nats-server made; and everything that can be wrong with them.

use std::collections::VecDeque;

use ostler_broker_store::disk::SimulatedDisk;
use serde_json::{Value, json};

use super::archive::{Entry, MAGIC};
use super::{STATE, frames};
use crate::bus::{Bus, Incoming};
use crate::jetstream::{JetStream, RouteChange};
use crate::options::Options;
use crate::time::SECOND;

/// A stream of 294 messages with gaps, a time to live and three consumers, as nats-server 2.15.1 sent it.
const FOREIGN: &[u8] = include_bytes!("../../testdata/backup-nats-server-2.15.1.s2");
const FOREIGN_CONFIG: &str = include_str!("../../testdata/backup-nats-server-2.15.1.json");
/// The day after that.
const NOW: i64 = 1_795_232_900 * SECOND;

#[derive(Debug, Default)]
struct Wire {
    sent: VecDeque<(String, String, Vec<u8>, Vec<u8>)>,
    deaf: bool,
}

impl Bus for Wire {
    fn has_interest(&self, _subject: &[u8]) -> bool {
        !self.deaf
    }

    fn send(&mut self, to: &[u8], _subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.sent.push_back((text(to), text(reply), headers.to_vec(), payload.to_vec()));
    }
}

struct Peer {
    jetstream: Option<JetStream>,
    wire: Wire,
    now: i64,
    dir: tempfile::TempDir,
}

impl Peer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let jetstream = Some(JetStream::open(Options::new(dir.path()), NOW).unwrap().0);
        Self { jetstream, wire: Wire::default(), now: NOW, dir }
    }

    /// Where all streams in memory together may have so many bytes.
    fn with_memory(bytes: i64) -> Self {
        let mut peer = Self::new();
        let mut options = Options::new(peer.dir.path());
        options.server.memory_bytes_max = Some(bytes);
        peer.jetstream = Some(JetStream::open(options, NOW).unwrap().0);
        peer
    }

    fn on(disk: &SimulatedDisk) -> Self {
        let mut peer = Self::new();
        let mut options = Options::new(peer.dir.path());
        options.disk = std::sync::Arc::new(disk.clone());
        peer.jetstream = Some(JetStream::open(options, NOW).unwrap().0);
        peer
    }

    fn jetstream(&mut self) -> &mut JetStream {
        self.jetstream.as_mut().unwrap()
    }

    /// As after a crash, and what was found.
    fn restart(&mut self) -> usize {
        self.jetstream = None;
        let (jetstream, recovered) = JetStream::open(Options::new(self.dir.path()), self.now).unwrap();
        self.jetstream = Some(jetstream);
        recovered.len()
    }

    fn send(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        self.now += 1_000;
        let Self { jetstream, wire, now, .. } = self;
        let message =
            Incoming { subject: subject.as_bytes(), reply: reply.as_bytes(), headers: b"", payload };
        jetstream.as_mut().unwrap().on_message(&message, *now, wire);
        self.settle();
    }

    fn settle(&mut self) {
        let Self { jetstream, wire, .. } = self;
        let jetstream = jetstream.as_mut().unwrap();
        let mut jobs = jetstream.end_of_batch(wire);
        while let Some(job) = jobs.pop() {
            let result = job.run();
            jobs.extend(jetstream.synced(result, wire));
        }
    }

    /// Gives turns until `until` is true of something sent, or time would have to pass for longer than `patience`.
    fn turn(&mut self, patience: i64) {
        let end = self.now + patience;
        while let Some(due) = self.jetstream().next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let Self { jetstream, wire, now, .. } = self;
            let jobs = jetstream.as_mut().unwrap().on_tick(*now, wire);
            for job in jobs {
                let result = job.run();
                let _ = self.jetstream.as_mut().unwrap().synced(result, &mut self.wire);
            }
            self.settle();
        }
    }

    fn ask(&mut self, subject: &str, payload: &str) -> Value {
        self.wire.sent.clear();
        self.send(subject, "_I", payload.as_bytes());
        self.turn(0);
        let answer = self.wire.sent.iter().find(|(to, ..)| to == "_I").expect("an answer");
        serde_json::from_slice(&answer.3).unwrap()
    }

    fn api(&mut self, subject: &str, payload: &Value) -> Value {
        let payload = if payload.is_null() { String::new() } else { payload.to_string() };
        self.ask(&format!("$JS.API.{subject}"), &payload)
    }

    /// What the stream is, but for moments of this server.
    fn shown(&mut self, stream: &str) -> Value {
        let mut info = self.api(&format!("STREAM.INFO.{stream}"), &json!({"deleted_details": true}));
        for field in ["created", "ts"] {
            info[field] = Value::Null;
        }
        // When the last message was stored is not known any more once it is gone.
        info["state"]["last_ts"] = Value::Null;
        let mut consumers = self.api(&format!("CONSUMER.LIST.{stream}"), &Value::Null)["consumers"].take();
        for consumer in consumers.as_array_mut().into_iter().flatten() {
            for field in ["created", "ts"] {
                consumer[field] = Value::Null;
            }
            for field in ["delivered", "ack_floor"] {
                consumer[field].as_object_mut().unwrap().remove("last_active");
            }
        }
        let (first, last) =
            (info["state"]["first_seq"].as_u64().unwrap(), info["state"]["last_seq"].as_u64());
        let messages: Vec<Value> = (first..=last.unwrap())
            .map(|seq| self.api(&format!("STREAM.MSG.GET.{stream}"), &json!({"seq": seq}))["message"].take())
            .collect();
        json!({"info": info, "consumers": consumers, "messages": messages})
    }

    /// A backup, its chunks acknowledged; and what ended it.
    fn backup(&mut self, stream: &str, request: &Value) -> (Vec<u8>, String) {
        let begun = self.api(&format!("STREAM.SNAPSHOT.{stream}"), request);
        assert!(begun["error"].is_null(), "{begun}");
        let mut bytes = Vec::new();
        loop {
            let Some((to, reply, headers, payload)) = self.wire.sent.pop_front() else {
                self.turn(10 * SECOND);
                assert!(!self.wire.sent.is_empty(), "nothing more came");
                continue;
            };
            if to != "box" {
                continue;
            }
            if payload.is_empty() {
                return (bytes, String::from_utf8(headers).unwrap());
            }
            bytes.extend_from_slice(&payload);
            if !reply.is_empty() {
                self.send(&reply, "", b"");
            }
        }
    }

    /// The answer to a backup that was sent in chunks.
    fn restore(&mut self, stream: &str, config: &Value, bytes: &[u8], chunk: usize) -> Value {
        let begun = self.api(&format!("STREAM.RESTORE.{stream}"), config);
        let Some(to) = begun["deliver_subject"].as_str().filter(|to| !to.is_empty()) else { return begun };
        for chunk in bytes.chunks(chunk) {
            self.wire.sent.clear();
            self.send(to, "_C", chunk);
            self.turn(0);
            assert!(self.wire.sent.iter().any(|(to, ..)| to == "_C"), "the chunk is not acknowledged");
        }
        self.ask(to, "")
    }
}

fn filled() -> Peer {
    let mut peer = Peer::new();
    peer.api("STREAM.CREATE.S", &json!({"name": "S", "subjects": ["s.>"], "first_seq": 10}));
    for number in 0..40 {
        peer.send(&format!("s.{}", number % 3), "", format!("message {number}").as_bytes());
    }
    for seq in [12, 13, 30, 49] {
        peer.api("STREAM.MSG.DELETE.S", &json!({"seq": seq}));
    }
    peer.api("STREAM.PURGE.S", &json!({"seq": 12}));
    let consumer = json!({"stream_name": "S", "config": {"durable_name": "c", "ack_policy": "explicit"}});
    peer.api("CONSUMER.CREATE.S.c", &consumer);
    peer.send("$JS.API.CONSUMER.MSG.NEXT.S.c", "got", br#"{"batch":6}"#);
    let got: Vec<_> = peer.wire.sent.iter().filter(|(_, reply, ..)| reply.contains("ACK")).cloned().collect();
    for (index, payload) in [(0, "+ACK"), (3, "+ACK"), (4, "-NAK")] {
        peer.send(&got[index].1, "", payload.as_bytes());
    }
    peer.send("$JS.API.CONSUMER.MSG.NEXT.S.c", "got", b"");
    peer
}

fn config_of(peer: &mut Peer, stream: &str) -> Value {
    json!({"config": peer.api(&format!("STREAM.INFO.{stream}"), &Value::Null)["config"], "state": {}})
}

#[test]
fn a_stream_comes_back_with_its_gaps_and_consumers_as_it_was() {
    let mut from = filled();
    let config = config_of(&mut from, "S");
    let before = from.shown("S");
    let (bytes, end) = from.backup("S", &json!({"deliver_subject": "box"}));
    assert_eq!(end, "NATS/1.0 204\r\n\r\n");
    for chunk in [7, 100_000] {
        let mut to = Peer::new();
        let answer = to.restore("S", &config, &bytes, chunk);
        assert!(answer["error"].is_null(), "{answer}");
        assert_eq!(answer["type"], "io.nats.jetstream.api.v1.stream_create_response");
        assert_eq!(to.shown("S"), before);
        to.restart();
        assert_eq!(to.shown("S"), before);
        // It goes on where it was.
        let stored = to.ask("s.9", "next");
        assert_eq!(stored["seq"], 50);
    }
}

#[test]
fn a_backup_of_nats_server_is_restored() {
    let config: Value = serde_json::from_str(FOREIGN_CONFIG).unwrap();
    let mut peer = Peer::new();
    let answer = peer.restore("ORDERS", &config, FOREIGN, 1000);
    assert!(answer["error"].is_null(), "{answer}");
    let info = peer.api("STREAM.INFO.ORDERS", &json!({"deleted_details": true}));
    for field in ["messages", "bytes", "first_seq", "first_ts", "last_seq", "last_ts", "num_subjects"] {
        assert_eq!(info["state"][field], config["state"][field], "{field}");
    }
    assert_eq!(info["state"]["deleted"], json!([100, 250]));
    let consumer = peer.api("CONSUMER.INFO.ORDERS.dur", &Value::Null);
    assert_eq!(consumer["delivered"], json!({"consumer_seq": 21, "stream_seq": 26}));
    assert_eq!(consumer["ack_floor"], json!({"consumer_seq": 5, "stream_seq": 10}));
    assert_eq!((&consumer["num_ack_pending"], &consumer["num_pending"]), (&json!(14), &json!(273)));
    let message = peer.api("STREAM.MSG.GET.ORDERS", &json!({"seq": 7}));
    assert_eq!(message["message"]["subject"], "orders.6");
    assert_eq!(message["message"]["time"], "2026-11-21T03:45:59.553921993Z");
}

#[test]
fn a_backup_that_is_not_whole_leaves_nothing_behind() {
    let config: Value = serde_json::from_str(FOREIGN_CONFIG).unwrap();
    let mut peer = Peer::new();
    let mut flipped = FOREIGN.to_vec();
    flipped[3000] ^= 1;
    for (bytes, reason) in [
        (&FOREIGN[..5000], "unexpected EOF"),
        (&flipped, "s2: corrupt input"),
        (b"hello world this is garbage", "s2: corrupt input"),
        (b"", "unexpected EOF"),
    ] {
        let answer = peer.restore("ORDERS", &config, bytes, 999);
        assert_eq!(answer["error"]["err_code"], 10062);
        assert_eq!(answer["error"]["description"], format!("restore failed: {reason}"));
        assert_eq!(peer.api("STREAM.INFO.ORDERS", &Value::Null)["error"]["err_code"], 10059);
    }
    assert!(peer.restore("ORDERS", &config, FOREIGN, 5000)["error"].is_null());
    assert_eq!(peer.restore("ORDERS", &config, FOREIGN, 5000)["error"]["err_code"], 10130);
}

#[test]
fn a_restore_that_a_crash_cut_short_is_gone() {
    let mut peer = Peer::new();
    let mut source = filled();
    let (bytes, _) = source.backup("S", &json!({"deliver_subject": "box"}));
    let config = config_of(&mut source, "S");
    let begun = peer.api("STREAM.RESTORE.S", &config);
    let to = begun["deliver_subject"].as_str().unwrap().to_owned();
    peer.send(&to, "_C", &bytes);
    peer.turn(0);
    assert_eq!(peer.restart(), 0);
    assert!(std::fs::read_dir(peer.dir.path().join("streams")).unwrap().next().is_none());
    assert!(peer.restore("S", &config, &bytes, 500)["error"].is_null());
}

#[test]
fn a_restore_that_nobody_goes_on_with_ends_after_five_seconds() {
    let mut peer = Peer::new();
    let config: Value = serde_json::from_str(FOREIGN_CONFIG).unwrap();
    let begun = peer.api("STREAM.RESTORE.ORDERS", &config);
    let routes = peer.jetstream().route_changes();
    assert!(routes.iter().any(
        |change| matches!(change, RouteChange::Add(filter) if filter.as_bytes() == b"$JS.SNAPSHOT.RESTORE.>")
    ));
    let to = begun["deliver_subject"].as_str().unwrap().to_owned();
    peer.send(&to, "_C", FOREIGN);
    peer.turn(6 * SECOND);
    assert!(peer.wire.sent.iter().any(|(to, ..)| to == "$JS.EVENT.ADVISORY.STREAM.RESTORE_COMPLETE.ORDERS"));
    let routes = peer.jetstream().route_changes();
    assert!(routes.iter().any(|change| matches!(change, RouteChange::Remove(filter) if filter.as_bytes() == b"$JS.SNAPSHOT.RESTORE.>")));
    assert!(peer.restore("ORDERS", &config, FOREIGN, 5000)["error"].is_null());
}

#[test]
fn a_full_disk_fails_the_restore_and_frees_what_it_took() {
    let disk = SimulatedDisk::new();
    let mut peer = Peer::on(&disk);
    let config: Value = serde_json::from_str(FOREIGN_CONFIG).unwrap();
    disk.set_space(Some(8000));
    let answer = peer.restore("ORDERS", &config, FOREIGN, 1000);
    assert_eq!(
        answer["error"]["description"], "restore failed: insufficient storage resources available",
        "{answer}"
    );
    disk.set_space(None);
    assert!(peer.restore("ORDERS", &config, FOREIGN, 1000)["error"].is_null());
}

/// So many messages of a kilobyte, in a backup that says of itself that it has ten bytes.
fn understated(messages: u64) -> Vec<u8> {
    let payload = vec![b'x'; 1000];
    let entry = |name, seq, payload| Entry { name, time: NOW, seq, headers: b"", payload };
    let state = json!({"messages": 1, "bytes": 10, "first_seq": 1, "last_seq": messages}).to_string();
    let mut plain = MAGIC.to_vec();
    entry(STATE.as_bytes(), 0, state.as_bytes()).put(&mut plain);
    for seq in 1..=messages {
        entry(b"s.x", seq, &*payload).put(&mut plain);
    }
    Entry::default().put(&mut plain);
    let mut packed = Vec::new();
    frames::begin(&mut packed);
    plain.chunks(60_000).for_each(|block| frames::put(&mut packed, block));
    packed
}

#[test]
fn a_restore_holds_no_more_than_there_is_room_for_whatever_it_says() {
    let mut peer = Peer::with_memory(150_000);
    let config = |name| json!({"config": {"name": name, "subjects": [name], "storage": "memory"}});
    let answer = peer.restore("A", &config("A"), &understated(200), 1000);
    assert_eq!(answer["error"]["err_code"], 10028, "{answer}");
    // Two at a time share it, and what is published has the rest.
    let (a, b) = (peer.api("STREAM.RESTORE.A", &config("A")), peer.api("STREAM.RESTORE.B", &config("B")));
    let to = |begun: &Value| begun["deliver_subject"].as_str().unwrap().to_owned();
    for (begun, messages) in [(&a, 90), (&b, 90)] {
        peer.send(&to(begun), "_C", &understated(messages));
        peer.turn(0);
    }
    peer.api("STREAM.CREATE.P", &json!({"name": "P", "subjects": ["p"], "storage": "memory"}));
    let large = "x".repeat(70_000);
    assert_eq!(peer.ask("p", &large)["error"]["err_code"], 10023);
    assert_eq!(peer.ask(&to(&b), "")["error"]["err_code"], 10028);
    assert_eq!(peer.ask(&to(&a), "")["state"]["messages"], 90);
}

#[test]
fn a_restore_keeps_to_the_limits_of_its_stream_as_it_goes() {
    let mut peer = Peer::with_memory(50_000);
    let config =
        json!({"config": {"name": "A", "subjects": ["s.>"], "storage": "memory", "max_bytes": 20_000}});
    let answer = peer.restore("A", &config, &understated(200), 1000);
    assert_eq!((&answer["state"]["last_seq"], &answer["error"]), (&json!(200), &Value::Null), "{answer}");
    assert!(answer["state"]["bytes"].as_u64().is_some_and(|bytes| bytes <= 20_000), "{answer}");
}

#[test]
fn a_receiver_that_does_not_acknowledge_gets_no_more_than_its_window() {
    let mut peer = Peer::new();
    peer.api("STREAM.CREATE.S", &json!({"name": "S", "storage": "memory"}));
    let noise: Vec<u8> = (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    peer.send("S", "", &noise);
    peer.api(
        "STREAM.SNAPSHOT.S",
        &json!({"deliver_subject": "box", "chunk_size": 1024, "window_size": 2048}),
    );
    peer.turn(10 * SECOND);
    let chunks: Vec<_> = peer.wire.sent.iter().filter(|(to, ..)| to == "box").collect();
    assert_eq!(chunks.len(), 3);
    assert!(chunks[1].1.starts_with("$JS.SNAPSHOT.ACK.S.") && chunks[1].1.ends_with(".1024.2"));
    assert_eq!(chunks[2].2, b"NATS/1.0 408 No Flow Response\r\n\r\n");
    let ended = &peer.wire.sent.iter().find(|(to, ..)| to.contains("SNAPSHOT_COMPLETE")).unwrap().3;
    assert!(String::from_utf8_lossy(ended).contains(r#""error":"no flow response""#));
}

#[test]
fn a_receiver_that_never_listens_is_given_up() {
    let mut peer = filled();
    peer.wire.deaf = true;
    peer.api("STREAM.SNAPSHOT.S", &json!({"deliver_subject": "box"}));
    peer.turn(3 * SECOND);
    let last = peer.wire.sent.iter().rfind(|(to, ..)| to == "box").unwrap();
    assert_eq!(last.2, b"NATS/1.0 408 No Interest\r\n\r\n");
}

#[test]
fn requests_are_refused_in_nats_servers_words() {
    let mut peer = filled();
    for (verb, payload, code) in [
        ("SNAPSHOT.S", "", 10003),
        ("SNAPSHOT.S", "{}", 10003),
        ("SNAPSHOT.S", r#"{"deliver_subject":"a.>"}"#, 10015),
        ("SNAPSHOT.S", r#"{"deliver_subject":"a","bogus":1}"#, 10025),
        ("SNAPSHOT.NONE", r#"{"deliver_subject":"a"}"#, 10059),
        ("RESTORE.T", "", 10003),
        ("RESTORE.T", "{}", 10003),
        ("RESTORE.T", r#"{"bogus":1}"#, 10025),
        ("RESTORE.T", r#"{"config":{"name":"S","subjects":["t"]}}"#, 10056),
        ("RESTORE.S", r#"{"config":{"name":"S","subjects":["s.>"]}}"#, 10130),
        ("RESTORE.T", r#"{"config":{"name":"T","subjects":["s.1"]}}"#, 10065),
    ] {
        let answer = peer.ask(&format!("$JS.API.STREAM.{verb}"), payload);
        assert_eq!(answer["error"]["err_code"], code, "{verb} {payload}: {answer}");
    }
}

#[test]
fn one_turn_of_a_large_stream_is_small() {
    let mut peer = Peer::new();
    peer.api("STREAM.CREATE.S", &json!({"name": "S", "storage": "memory"}));
    let message = vec![b'x'; 1000];
    for _ in 0..2000 {
        peer.send("S", "", &message);
    }
    peer.api("STREAM.SNAPSHOT.S", &json!({"deliver_subject": "box", "chunk_size": 1024}));
    let (bytes, _) = peer.backup("S", &json!({"deliver_subject": "box"}));
    let mut to = Peer::new();
    let begun = to.api("STREAM.RESTORE.S", &json!({"config": {"name": "S", "storage": "memory"}}));
    let subject = begun["deliver_subject"].as_str().unwrap().to_owned();
    // Two megabytes become some ten thousand bytes: one chunk, many turns.
    to.send(&subject, "_C", &bytes);
    let (mut turns, mut most, mut before) = (0, 0, 0);
    while to.wire.sent.iter().all(|(to, ..)| to != "_C") {
        let now = to.now;
        let Peer { jetstream, wire, .. } = &mut to;
        let _ = jetstream.as_mut().unwrap().on_tick(now, wire);
        let stored = jetstream.as_ref().unwrap().backups.restores[0].stored();
        (turns, most, before) = (turns + 1, most.max(stored - before), stored);
    }
    assert!(turns > 5 && most <= 300, "{turns} turns of at most {most} messages");
    assert_eq!(to.ask(&subject, "")["state"]["messages"], 2000);
}
