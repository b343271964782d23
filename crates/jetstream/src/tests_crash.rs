//! A consumer over crashes at any moment: what was acknowledged with an answer does not come again, what was not
//! acknowledged is not lost, and how often a message was delivered is never invented.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::bus::Incoming;
use crate::testing::Rig;
use crate::time::{MILLISECOND, SECOND};

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Fetch(u64),
    /// Acknowledges one that is out; whether it wants to be told.
    Ack(usize, bool),
    Nak(usize),
    Wait(i64),
    Crash,
    /// The server is gone before the end of the batch in which an acknowledgement came.
    CrashAtAck(usize),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        5 => (1..5u64).prop_map(Step::Fetch),
        6 => (0..8usize, any::<bool>()).prop_map(|(index, told)| Step::Ack(index, told)),
        2 => (0..8usize).prop_map(Step::Nak),
        2 => (1..15i64).prop_map(|tenths| Step::Wait(tenths * 100 * MILLISECOND)),
        2 => Just(Step::Crash),
        1 => (0..8usize).prop_map(Step::CrashAtAck),
        1 => Just(Step::Close),
    ]
}

/// What the client knows.
#[derive(Default)]
struct Client {
    published: BTreeSet<u64>,
    /// The last delivery of each message that it has not acknowledged.
    out: BTreeMap<u64, String>,
    /// Deliveries of each.
    deliveries: BTreeMap<u64, u64>,
    /// It acknowledged these, and may not have been told.
    acknowledged: BTreeSet<u64>,
    told: BTreeSet<u64>,
}

impl Client {
    fn take(&mut self, rig: &mut Rig) -> usize {
        let sent = rig.bus.take();
        let delivered: Vec<_> = sent.into_iter().filter(|sent| sent.subject == "s").collect();
        for sent in &delivered {
            let mut tokens = sent.reply.split('.').skip(4).map(|token| token.parse::<u64>().unwrap());
            let (count, seq) = (tokens.next().unwrap(), tokens.next().unwrap());
            assert!(!self.told.contains(&seq), "{seq} comes again though its acknowledgement was answered");
            let before = self.deliveries.entry(seq).or_default();
            assert!((1..=*before + 1).contains(&count), "{seq}: the {count}th of {before} deliveries before");
            *before += 1;
            self.out.insert(seq, sent.reply.clone());
        }
        delivered.len()
    }

    fn nth_out(&self, index: usize) -> Option<(u64, String)> {
        self.out.iter().nth(index).map(|(seq, reply)| (*seq, reply.clone()))
    }

    fn fetch(&mut self, rig: &mut Rig, batch: u64) -> usize {
        rig.send_to("$JS.API.CONSUMER.MSG.NEXT.S.c", "_I", &format!(r#"{{"batch":{batch},"no_wait":true}}"#));
        self.take(rig)
    }
}

fn recover(rig: &mut Rig, in_order: bool) {
    let recovered = if in_order { rig.close_and_restart() } else { rig.restart() };
    assert!(recovered.iter().all(|found| found.served), "{recovered:?}");
}

fn run(retention: &str, class: &str, policy: &str, steps: Vec<Step>) {
    let mut rig = Rig::new();
    rig.bus.only = Some(vec!["_".to_owned()]);
    rig.api("STREAM.CREATE.S", &format!(r#"{{"name":"S","subjects":["s"],"retention":"{retention}","metadata":{{"ostler.durability":"{class}"}}}}"#));
    rig.api("CONSUMER.CREATE.S.c", &format!(r#"{{"stream_name":"S","config":{{"durable_name":"c","ack_policy":"{policy}","ack_wait":1000000000}}}}"#));
    let mut client = Client::default();
    for step in steps {
        match step {
            Step::Publish => {
                let answers = rig.ask("s", "x");
                let answer: serde_json::Value = serde_json::from_str(&answers[0].payload).unwrap();
                client.published.insert(answer["seq"].as_u64().unwrap());
            }
            Step::Fetch(batch) => {
                client.fetch(&mut rig, batch);
            }
            Step::Ack(index, told) => {
                let Some((seq, reply)) = client.nth_out(index) else { continue };
                rig.send_to(&reply, if told { "_A" } else { "" }, "+ACK");
                let answered = rig.bus.take().iter().any(|sent| sent.to == "_A");
                let covered: Vec<u64> = match policy {
                    "all" => client.out.keys().copied().filter(|out| *out <= seq).collect(),
                    _ => vec![seq],
                };
                for seq in covered {
                    client.out.remove(&seq);
                    client.acknowledged.insert(seq);
                    if answered {
                        client.told.insert(seq);
                    }
                }
            }
            Step::Nak(index) => {
                if let Some((_, reply)) = client.nth_out(index) {
                    rig.send_to(&reply, "", "-NAK");
                    client.take(&mut rig);
                }
            }
            Step::Wait(nanos) => {
                rig.pass_through(nanos);
                client.take(&mut rig);
            }
            Step::Crash => recover(&mut rig, false),
            Step::Close => recover(&mut rig, true),
            Step::CrashAtAck(index) => {
                let Some((seq, reply)) = client.nth_out(index) else { continue };
                let ack = Incoming { subject: reply.as_bytes(), reply: b"_A", headers: b"", payload: b"" };
                let Rig { jetstream, bus, now, .. } = &mut rig;
                jetstream.as_mut().unwrap().on_message(&ack, *now, bus);
                assert!(bus.take().iter().all(|sent| sent.to != "_A"), "answered before it was safe");
                match policy {
                    "all" => client.acknowledged.extend(client.out.keys().copied().filter(|out| *out <= seq)),
                    _ => drop(client.acknowledged.insert(seq)),
                }
                recover(&mut rig, false);
            }
        }
    }
    // Whatever is not acknowledged comes in the end.
    recover(&mut rig, false);
    rig.pass_through(2 * SECOND);
    client.out.clear();
    while client.fetch(&mut rig, 100) > 0 {}
    let came: BTreeSet<u64> = client.out.keys().copied().collect();
    let lost: Vec<_> =
        client.published.difference(&client.acknowledged).filter(|seq| !came.contains(seq)).collect();
    assert!(lost.is_empty(), "{lost:?} were not acknowledged and do not come");
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(32), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_acknowledged_stays_so_over_crashes(
        retention in prop::sample::select(vec!["limits", "workqueue", "interest"]),
        class in prop::sample::select(vec!["group", "process"]),
        all: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let policy = if all && retention != "workqueue" { "all" } else { "explicit" };
        run(retention, class, policy, steps);
    }
}
