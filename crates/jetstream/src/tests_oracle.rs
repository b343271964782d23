//! Random calls against a stream with two consumers, and against the [`oracle`](crate::oracle): the same answers, and
//! the same numbers after each. `PROPTEST_CASES` says how many.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::oracle::{Acks, Begin, Keep, Oracle, Plan, Request, Said, subject};
use crate::testing::Rig;
use crate::time::{MILLISECOND, SECOND, Time};

const SUBJECTS: usize = 3;
/// More looks at the clock than that in a row mean that something is always due.
const TICKS_MAX: usize = 10_000;

#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    Delete(usize),
    PurgeSubject(usize),
    PurgeBefore(usize),
    PurgeBut(usize, usize),
    Create(usize, Plan),
    Forget(usize),
    Fetch(usize, Fetch),
    Say(usize, usize, Said),
    Pause(usize, i64),
    Reset(usize, u64),
    Wait(i64),
    Restart,
}

#[derive(Debug, Clone)]
struct Fetch {
    batch: u64,
    max_bytes: Option<i64>,
    no_wait: bool,
    expires: Option<i64>,
}

fn plan(keep: Keep) -> impl Strategy<Value = Plan> {
    let acks = prop_oneof![3 => Just(Acks::Explicit), 1 => Just(Acks::All), 1 => Just(Acks::None)];
    let begin = prop_oneof![
        4 => Just(Begin::First),
        1 => Just(Begin::Last),
        1 => Just(Begin::New),
        1 => (1..9u64).prop_map(Begin::At),
        1 => Just(Begin::LastPerSubject),
    ];
    let waits = prop_oneof![Just(vec![SECOND]), Just(vec![SECOND / 2, 2 * SECOND])];
    let subjects =
        prop_oneof![Just(vec![0]), Just(vec![0, 1]), Just(vec![1, 2]), Just((0..SUBJECTS).collect())];
    let limits = (prop::option::of(3..5u64), prop::option::of(1..4usize), 1..5usize);
    (acks, begin, waits, subjects, limits).prop_map(
        move |(acks, begin, waits, subjects, (max_deliver, max_out, max_waiting))| {
            let queue = keep == Keep::WorkQueue;
            Plan {
                acks: if queue { Acks::Explicit } else { acks },
                begin: if queue { Begin::First } else { begin },
                waits,
                subjects,
                max_deliver,
                max_out,
                max_waiting,
            }
        },
    )
}

fn fetch() -> impl Strategy<Value = Fetch> {
    let expires = prop::option::of((1..30i64).prop_map(|tenths| tenths * 100 * MILLISECOND));
    let bytes = prop::option::weighted(0.2, 40..300i64);
    (1..6u64, bytes, any::<bool>(), expires).prop_map(|(batch, max_bytes, no_wait, expires)| Fetch {
        batch,
        max_bytes,
        no_wait,
        expires,
    })
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        5 => Just(Said::Done),
        2 => Just(Said::Again(None)),
        1 => (1..9i64).prop_map(|tenths| Said::Again(Some(tenths * 100 * MILLISECOND))),
        1 => Just(Said::Working),
        1 => Just(Said::Never),
    ]
}

fn step(keep: Keep) -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..SUBJECTS).prop_map(Step::Publish),
        1 => (0..20usize).prop_map(Step::Delete),
        1 => (0..SUBJECTS).prop_map(Step::PurgeSubject),
        1 => (0..20usize).prop_map(Step::PurgeBefore),
        1 => (0..SUBJECTS, 1..3usize).prop_map(|(on, keep)| Step::PurgeBut(on, keep)),
        2 => (0..2usize, plan(keep)).prop_map(|(which, plan)| Step::Create(which, plan)),
        1 => (0..2usize).prop_map(Step::Forget),
        8 => (0..2usize, fetch()).prop_map(|(which, fetch)| Step::Fetch(which, fetch)),
        6 => (0..2usize, 0..6usize, said()).prop_map(|(which, index, said)| Step::Say(which, index, said)),
        1 => (0..2usize, 0..3i64).prop_map(|(which, seconds)| Step::Pause(which, seconds * SECOND)),
        1 => (0..2usize, 0..20u64).prop_map(|(which, seq)| Step::Reset(which, seq)),
        3 => (1..30i64).prop_map(|tenths| Step::Wait(tenths * 100 * MILLISECOND)),
        1 => Just(Step::Restart),
    ]
}

fn name(which: usize) -> String {
    format!("c{which}")
}

struct Pair {
    rig: Rig,
    oracle: Oracle,
    replies: BTreeMap<(String, u64), String>,
    inboxes: usize,
    in_files: bool,
}

impl Pair {
    fn new(keep: Keep, in_files: bool) -> Self {
        let mut rig = Rig::new();
        rig.bus.only = Some(vec!["_I".to_owned()]);
        let (retention, storage) = match keep {
            Keep::Limits => ("limits", in_files),
            Keep::Interest => ("interest", in_files),
            Keep::WorkQueue => ("workqueue", in_files),
        };
        let storage = if storage { "file" } else { "memory" };
        rig.api("STREAM.CREATE.S", &format!(r#"{{"name":"S","subjects":["s.>"],"storage":"{storage}","retention":"{retention}","max_msgs":12,"max_msgs_per_subject":6}}"#));
        let oracle = Oracle::new(rig.now, keep, 12, 6);
        Self { rig, oracle, replies: BTreeMap::new(), inboxes: 0, in_files }
    }

    /// Lets time pass for both, every moment at which something is due on its own.
    fn pass(&mut self, nanos: i64) {
        let end = self.rig.now + nanos;
        for tick in 0.. {
            assert!(tick < TICKS_MAX, "something is always due");
            let Some(due) = self.rig.jetstream().next_due().filter(|due| *due <= end) else { break };
            let wait = (due - self.rig.now).max(0);
            self.rig.pass(wait);
        }
        self.rig.now = end;
        self.oracle.advance(end);
    }

    fn take(&mut self, step: Step, number: usize) {
        match step {
            Step::Publish(on) => {
                self.rig.send_to(&subject(on), "_P", &format!("m{number}"));
                self.at_once(|oracle| oracle.publish(on, format!("m{number}")));
            }
            Step::Delete(index) => {
                let Some(seq) = self.oracle.nth(index) else { return };
                self.api("STREAM.MSG.DELETE.S", &format!(r#"{{"seq":{seq}}}"#));
                self.at_once(|oracle| oracle.remove(seq));
            }
            Step::PurgeSubject(on) => {
                self.api("STREAM.PURGE.S", &format!(r#"{{"filter":"{}"}}"#, subject(on)));
                self.at_once(|oracle| oracle.purge(|_, its| its == on));
            }
            Step::PurgeBefore(index) => {
                let Some(before) = self.oracle.nth(index) else { return };
                self.api("STREAM.PURGE.S", &format!(r#"{{"seq":{before}}}"#));
                self.at_once(|oracle| oracle.purge(|seq, _| seq < before));
            }
            Step::PurgeBut(on, keep) => {
                let request = format!(r#"{{"filter":"{}","keep":{keep}}}"#, subject(on));
                self.api("STREAM.PURGE.S", &request);
                self.at_once(|oracle| oracle.purge_but(keep, on));
            }
            Step::Create(which, plan) => self.create(which, plan),
            Step::Forget(which) => {
                if self.oracle.has(&name(which)) {
                    self.api(&format!("CONSUMER.DELETE.S.{}", name(which)), "");
                    self.at_once(|oracle| oracle.delete(&name(which)));
                }
            }
            Step::Fetch(which, fetch) => self.fetch(which, &fetch),
            Step::Say(which, index, said) => self.say(which, index, said),
            Step::Pause(which, nanos) => {
                if self.oracle.has(&name(which)) {
                    let until = self.rig.now + nanos;
                    let text = Time::from_nanos(until);
                    self.api(
                        &format!("CONSUMER.PAUSE.S.{}", name(which)),
                        &format!(r#"{{"pause_until":"{text}"}}"#),
                    );
                    self.at_once(|oracle| oracle.pause(&name(which), until));
                }
            }
            Step::Reset(which, seq) => {
                let path = format!("$JS.API.CONSUMER.RESET.S.{}", name(which));
                self.rig.send_to(&path, "_A", &format!(r#"{{"seq":{}}}"#, seq.max(1)));
                let mut answers = self.rig.bus.sent.iter().rev().filter(|sent| sent.to == "_A");
                let done = answers.next().is_some_and(|sent| sent.payload.contains(r#""reset_seq""#));
                self.at_once(|oracle| {
                    if done {
                        oracle.reset(&name(which), seq.max(1));
                    }
                });
            }
            Step::Wait(nanos) => self.pass(nanos),
            Step::Restart if self.in_files => {
                let recovered = self.rig.close_and_restart();
                assert!(
                    recovered.iter().all(|found| found.served && found.findings.is_empty()),
                    "{recovered:?}"
                );
                self.oracle.restart();
            }
            Step::Restart => {}
        }
    }

    fn create(&mut self, which: usize, plan: Plan) {
        if self.oracle.has(&name(which)) {
            return;
        }
        // In a work queue every message has one consumer.
        let subjects = match (self.oracle.keep, which) {
            (Keep::WorkQueue, 0) => vec![0],
            (Keep::WorkQueue, _) => vec![1, 2],
            _ => plan.subjects.clone(),
        };
        let plan = Plan { subjects, ..plan };
        let filters: Vec<String> = plan.subjects.iter().map(|on| subject(*on)).collect();
        let (acks, begin) = match (plan.acks, plan.begin) {
            (acks, Begin::First) => (acks, r#""all""#.to_owned()),
            (acks, Begin::Last) => (acks, r#""last""#.to_owned()),
            (acks, Begin::New) => (acks, r#""new""#.to_owned()),
            (acks, Begin::At(seq)) => (acks, format!(r#""by_start_sequence","opt_start_seq":{seq}"#)),
            (acks, Begin::LastPerSubject) => (acks, r#""last_per_subject""#.to_owned()),
        };
        let acks = match acks {
            Acks::None => "none",
            Acks::All => "all",
            Acks::Explicit => "explicit",
        };
        let most = |number: Option<u64>| number.map_or(-1, |number| number as i64);
        let backoff =
            if plan.waits.len() > 1 { format!(r#","backoff":{:?}"#, plan.waits) } else { String::new() };
        self.api(
            &format!("CONSUMER.CREATE.S.{}", name(which)),
            &format!(
                r#"{{"stream_name":"S","config":{{"durable_name":"{}","ack_policy":"{acks}","deliver_policy":{begin},"ack_wait":{},"max_deliver":{},"max_ack_pending":{},"max_waiting":{},"filter_subjects":{filters:?}{backoff}}}}}"#,
                name(which),
                plan.waits[0],
                most(plan.max_deliver),
                most(plan.max_out.map(|most| most as u64)),
                plan.max_waiting,
            ),
        );
        self.at_once(|oracle| oracle.create(&name(which), plan));
    }

    fn fetch(&mut self, which: usize, fetch: &Fetch) {
        if !self.oracle.has(&name(which)) {
            return;
        }
        self.inboxes += 1;
        let inbox = format!("_I.{}", self.inboxes);
        let mut request = format!(r#"{{"batch":{},"no_wait":{}"#, fetch.batch, fetch.no_wait);
        if let Some(bytes) = fetch.max_bytes {
            request += &format!(r#","max_bytes":{bytes}"#);
        }
        if let Some(expires) = fetch.expires {
            request += &format!(r#","expires":{expires}"#);
        }
        request.push('}');
        self.rig.send_to(&format!("$JS.API.CONSUMER.MSG.NEXT.S.{}", name(which)), &inbox, &request);
        let expires = fetch.expires.map(|expires| self.rig.now + expires);
        let Fetch { batch, max_bytes, no_wait, .. } = *fetch;
        let request = Request { inbox, batch, max_bytes, no_wait, expires };
        self.at_once(|oracle| oracle.request(&name(which), request));
    }

    fn say(&mut self, which: usize, index: usize, said: Said) {
        let Some(seq) = self.oracle.nth_out(&name(which), index) else { return };
        let Some(reply) = self.replies.get(&(name(which), seq)).cloned() else { return };
        let payload = match said {
            Said::Done => "+ACK".to_owned(),
            Said::Again(None) => "-NAK".to_owned(),
            Said::Again(Some(delay)) => format!(r#"-NAK {{"delay":{delay}}}"#),
            Said::Working => "+WPI".to_owned(),
            Said::Never => "+TERM it is broken".to_owned(),
        };
        self.rig.send_to(&reply, "_A", &payload);
        let answered = self.rig.bus.sent.iter().any(|sent| sent.to == "_A");
        let mut expected = false;
        self.at_once(|oracle| expected = oracle.say(&name(which), seq, said));
        assert_eq!(answered, expected, "whether {payload} of {seq} is answered");
    }

    fn api(&mut self, subject: &str, payload: &str) {
        self.rig.send_to(&format!("$JS.API.{subject}"), "_A", payload);
        let answer = self.rig.bus.sent.iter().find(|sent| sent.to == "_A").expect("an answer");
        assert!(!answer.payload.contains(r#""error""#), "{subject} {payload}: {answer:?}");
    }

    /// The same call at the same time, and what comes of it.
    fn at_once(&mut self, call: impl FnOnce(&mut Oracle)) {
        self.oracle.now = self.rig.now;
        call(&mut self.oracle);
        self.oracle.advance(self.rig.now);
    }

    fn compare(&mut self) {
        let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for sent_one in self.rig.bus.take().into_iter().filter(|sent| sent.to.starts_with("_I.")) {
            let text = match sent_one.headers.strip_prefix("NATS/1.0 ") {
                Some(status) => status.trim_end_matches('|').to_owned(),
                None => {
                    let mut tokens = sent_one.reply.split('.').skip(3);
                    let (consumer, seq) = (tokens.next().unwrap(), tokens.nth(1).unwrap());
                    self.replies.insert((consumer.to_owned(), seq.parse().unwrap()), sent_one.reply.clone());
                    format!("{} {} {}", sent_one.subject, sent_one.reply, sent_one.payload)
                }
            };
            sent.entry(sent_one.to).or_default().push(text);
        }
        assert_eq!(sent, std::mem::take(&mut self.oracle.sent), "what was sent to whom");
        let state = self.look("STREAM.INFO.S")["state"].clone();
        let first = if self.oracle.last() == 0 { 0 } else { self.oracle.first() };
        let numbers = ["messages", "first_seq", "last_seq"].map(|field| state[field].as_u64().unwrap());
        assert_eq!(numbers, [self.oracle.len() as u64, first, self.oracle.last()], "messages, first, last");
        for name in [name(0), name(1)] {
            if !self.oracle.has(&name) {
                continue;
            }
            let info = self.look(&format!("CONSUMER.INFO.S.{name}"));
            let number = |field: &str| info.pointer(field).and_then(serde_json::Value::as_u64).unwrap();
            let numbers = ["/num_ack_pending", "/num_redelivered", "/num_waiting", "/delivered/consumer_seq"];
            assert_eq!(numbers.map(number), self.oracle.counts(&name), "{name}: {numbers:?} of {info}");
            assert_eq!(number("/num_pending"), self.oracle.num_pending(&name) as u64, "{name}: {info}");
            let (floor, delivered) = (number("/ack_floor/stream_seq"), number("/delivered/stream_seq"));
            match self.oracle.first_out(&name) {
                Some(first) => assert!(floor < first, "{name}: the floor is below {first}: {info}"),
                None => assert!(floor <= delivered, "{name}: {info}"),
            }
        }
    }

    /// Asks without letting time pass.
    fn look(&mut self, subject: &str) -> serde_json::Value {
        self.rig.now -= 1_000;
        self.rig.api(subject, "")
    }
}

fn run(keep: Keep, in_files: bool, steps: Vec<Step>) {
    let mut pair = Pair::new(keep, in_files);
    for (number, step) in steps.into_iter().enumerate() {
        pair.pass(1_000);
        pair.take(step, number);
        pair.compare();
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(40), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_stream_with_limits_answers_as_the_oracle(in_files: bool, steps in prop::collection::vec(step(Keep::Limits), 1..80)) {
        run(Keep::Limits, in_files, steps);
    }

    #[test]
    fn a_work_queue_answers_as_the_oracle(in_files: bool, steps in prop::collection::vec(step(Keep::WorkQueue), 1..80)) {
        run(Keep::WorkQueue, in_files, steps);
    }

    #[test]
    fn a_stream_by_interest_answers_as_the_oracle(in_files: bool, steps in prop::collection::vec(step(Keep::Interest), 1..80)) {
        run(Keep::Interest, in_files, steps);
    }
}
