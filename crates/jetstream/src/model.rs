//! Random calls against a stream and a consumer, and against a model that keeps everything in lists.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use crate::testing::Rig;
use crate::time::{MILLISECOND, SECOND};

const SUBJECTS: [&str; 3] = ["s.a", "s.b", "s.c"];

#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    Delete(usize),
    PurgeSubject(usize),
    PurgeBefore(usize),
    Next(usize),
    Ack(usize),
    Nak(usize),
    Wait,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize).prop_map(Step::Publish),
        1 => (0..20usize).prop_map(Step::Delete),
        1 => (0..3usize).prop_map(Step::PurgeSubject),
        1 => (0..20usize).prop_map(Step::PurgeBefore),
        4 => (1..5usize).prop_map(Step::Next),
        4 => (0..8usize).prop_map(Step::Ack),
        2 => (0..8usize).prop_map(Step::Nak),
        1 => Just(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<u64, (usize, String)>,
    last: u64,
    max: usize,
    max_per_subject: usize,
    work_queue: bool,
    /// The consumer wants only the first two subjects.
    next: u64,
    /// Sequence to deliveries, the reply that acknowledges it, and the step of the last delivery.
    out: BTreeMap<u64, (u64, String, usize)>,
    again: VecDeque<u64>,
}

impl Model {
    fn publish(&mut self, subject: usize, payload: String) {
        self.last += 1;
        self.messages.insert(self.last, (subject, payload));
        let on = |model: &Self| -> Vec<u64> {
            model.messages.iter().filter(|(_, (on, _))| *on == subject).map(|(seq, _)| *seq).collect()
        };
        while on(self).len() > self.max_per_subject {
            self.remove(on(self)[0]);
        }
        while self.messages.len() > self.max {
            self.remove(*self.messages.keys().next().unwrap());
        }
    }

    fn remove(&mut self, seq: u64) {
        self.messages.remove(&seq);
        self.out.remove(&seq);
        self.again.retain(|again| *again != seq);
    }

    fn purge(&mut self, wanted: impl Fn(u64, usize) -> bool) {
        // What is out and not at the front stays out until somebody looks for it.
        self.messages.retain(|seq, (subject, _)| !wanted(*seq, *subject));
        let first = self.first();
        self.out.retain(|seq, _| *seq >= first);
        self.again.retain(|seq| *seq >= first);
    }

    fn first(&self) -> u64 {
        self.messages.keys().next().copied().unwrap_or(self.last + 1)
    }

    fn ahead(&self) -> usize {
        self.messages.range(self.next..).filter(|(_, (subject, _))| *subject < 2).count()
    }

    /// What a request for so many gets: sequences with the number of their delivery.
    fn deliver(&mut self, batch: usize) -> Vec<(u64, u64)> {
        let mut got = Vec::new();
        while got.len() < batch {
            if let Some(seq) = self.again.pop_front() {
                if self.messages.contains_key(&seq) {
                    let count = self.out[&seq].0 + 1;
                    got.push((seq, count));
                } else {
                    self.out.remove(&seq);
                }
                continue;
            }
            let next = self.messages.range(self.next..).find(|(_, (subject, _))| *subject < 2);
            let Some((seq, _)) = next else { break };
            got.push((*seq, 1));
            self.next = *seq + 1;
        }
        got
    }
}

fn run(storage: &str, work_queue: bool, steps: Vec<Step>) {
    let mut rig = Rig::new();
    rig.bus.only = Some(vec!["_I".to_owned()]);
    let mut model = Model { max: 12, max_per_subject: 6, work_queue, next: 1, ..Model::default() };
    let retention = if work_queue { "workqueue" } else { "limits" };
    rig.api("STREAM.CREATE.S", &format!(r#"{{"name":"S","subjects":["s.>"],"storage":"{storage}","retention":"{retention}","max_msgs":12,"max_msgs_per_subject":6}}"#));
    rig.api("CONSUMER.CREATE.S.c", r#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit","max_ack_pending":-1,"ack_wait":60000000000,"filter_subjects":["s.a","s.b"]}}"#);
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Publish(subject) => {
                let payload = format!("m{number}");
                rig.ask(SUBJECTS[subject], &payload);
                model.publish(subject, payload);
            }
            Step::Delete(index) => {
                let Some(seq) = model.messages.keys().nth(index).copied() else { continue };
                rig.api("STREAM.MSG.DELETE.S", &format!(r#"{{"seq":{seq}}}"#));
                model.remove(seq);
            }
            Step::PurgeSubject(subject) => {
                rig.api("STREAM.PURGE.S", &format!(r#"{{"filter":"{}"}}"#, SUBJECTS[subject]));
                model.purge(|_, on| on == subject);
            }
            Step::PurgeBefore(index) => {
                let Some(before) = model.messages.keys().nth(index).copied() else { continue };
                rig.api("STREAM.PURGE.S", &format!(r#"{{"seq":{before}}}"#));
                model.purge(|seq, _| seq < before);
            }
            Step::Next(batch) => {
                let expected = model.deliver(batch);
                let sent = rig
                    .ask("$JS.API.CONSUMER.MSG.NEXT.S.c", &format!(r#"{{"batch":{batch},"no_wait":true}}"#));
                let sent: Vec<_> = sent.into_iter().filter(|sent| !sent.reply.is_empty()).collect();
                let found: Vec<(u64, u64, String, String)> = sent
                    .iter()
                    .map(|sent| {
                        let tokens: Vec<&str> = sent.reply.split('.').collect();
                        (
                            tokens[5].parse().unwrap(),
                            tokens[4].parse().unwrap(),
                            sent.subject.clone(),
                            sent.payload.clone(),
                        )
                    })
                    .collect();
                let wanted: Vec<_> = expected
                    .iter()
                    .map(|(seq, count)| {
                        let (subject, payload) = &model.messages[seq];
                        (*seq, *count, SUBJECTS[*subject].to_owned(), payload.clone())
                    })
                    .collect();
                assert_eq!(found, wanted);
                for ((seq, count), sent) in expected.iter().zip(&sent) {
                    model.out.insert(*seq, (*count, sent.reply.clone(), number));
                }
            }
            Step::Ack(index) => {
                let Some((seq, (_, reply, _))) =
                    model.out.iter().nth(index).map(|(seq, out)| (*seq, out.clone()))
                else {
                    continue;
                };
                assert_eq!(rig.ask(&reply, "").len(), 1, "an answer");
                model.out.remove(&seq);
                model.again.retain(|again| *again != seq);
                if model.work_queue {
                    model.messages.remove(&seq);
                }
            }
            Step::Nak(index) => {
                let Some((seq, (_, reply, _))) =
                    model.out.iter().nth(index).map(|(seq, out)| (*seq, out.clone()))
                else {
                    continue;
                };
                rig.ask(&reply, "-NAK");
                if !model.again.contains(&seq) {
                    model.again.push_back(seq);
                }
            }
            Step::Wait => {
                rig.pass_through(61 * SECOND);
                let mut waited: Vec<u64> =
                    model.out.keys().copied().filter(|seq| !model.again.contains(seq)).collect();
                waited.sort_by_key(|seq| model.out[seq].2);
                model.again.extend(waited);
            }
            Step::Restart if storage == "file" => {
                rig.pass_through(300 * MILLISECOND);
                let recovered = rig.restart();
                assert!(
                    recovered.iter().all(|found| found.served && found.findings.is_empty()),
                    "{recovered:?}"
                );
                model.again.make_contiguous().sort_unstable();
            }
            Step::Restart => {}
        }
        let state = &rig.api("STREAM.INFO.S", "")["state"];
        let number = |field: &str| state[field].as_u64().unwrap();
        assert_eq!(number("messages"), model.messages.len() as u64);
        assert_eq!(number("last_seq"), model.last);
        assert_eq!(number("first_seq"), if model.last == 0 { 0 } else { model.first() });
        let info = rig.api("CONSUMER.INFO.S.c", "");
        assert_eq!(info["num_pending"].as_u64().unwrap(), model.ahead() as u64, "{info}");
        assert_eq!(info["num_ack_pending"].as_u64().unwrap(), model.out.len() as u64, "{info}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_in_files_is_the_model(work_queue: bool, steps in prop::collection::vec(step(), 1..60)) {
        run("file", work_queue, steps);
    }

    #[test]
    fn a_stream_in_memory_is_the_model(work_queue: bool, steps in prop::collection::vec(step(), 1..60)) {
        run("memory", work_queue, steps);
    }
}
