//! What a stream and its consumers do, as simply as it can be said: lists that are searched from the front, no indexes,
//! no files, nothing kept that can be found out. The tests ask it what the real ones must answer.

use std::collections::{BTreeMap, VecDeque};

/// What a stream keeps messages for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Limits,
    Interest,
    WorkQueue,
}

/// What an acknowledgement covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    None,
    All,
    Explicit,
}

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    First,
    Last,
    New,
    At(u64),
    LastPerSubject,
}

/// A consumer's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) subjects: Vec<usize>,
    pub(crate) acks: Acks,
    pub(crate) begin: Begin,
    /// How long after each delivery a message comes again; the last one goes on.
    pub(crate) waits: Vec<i64>,
    pub(crate) max_deliver: Option<u64>,
    pub(crate) max_out: Option<usize>,
    pub(crate) max_waiting: usize,
}

#[derive(Debug, Clone)]
struct Message {
    seq: u64,
    subject: usize,
    payload: String,
    time: i64,
}

#[derive(Debug, Clone)]
struct Out {
    seq: u64,
    count: u64,
    due: i64,
    queued: bool,
}

/// A request for messages.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) inbox: String,
    pub(crate) batch: u64,
    pub(crate) max_bytes: Option<i64>,
    pub(crate) no_wait: bool,
    pub(crate) expires: Option<i64>,
}

#[derive(Debug)]
struct Consumer {
    plan: Plan,
    next: u64,
    upcoming: Vec<u64>,
    out: Vec<Out>,
    again: VecDeque<u64>,
    deliveries: u64,
    highest: u64,
    requests: VecDeque<Request>,
    paused_until: i64,
}

/// What is said of a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said {
    Done,
    Again(Option<i64>),
    Working,
    Never,
}

/// A stream with its consumers.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) now: i64,
    pub(crate) keep: Keep,
    pub(crate) max: usize,
    pub(crate) max_per_subject: usize,
    messages: Vec<Message>,
    last: u64,
    consumers: BTreeMap<String, Consumer>,
    /// What was sent to whom.
    pub(crate) sent: BTreeMap<String, Vec<String>>,
}

/// A subject by its number.
pub(crate) fn subject(number: usize) -> String {
    format!("s.{number}")
}

impl Oracle {
    pub(crate) fn new(now: i64, keep: Keep, max: usize, max_per_subject: usize) -> Self {
        let (messages, consumers, sent) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { now, keep, max, max_per_subject, messages, last: 0, consumers, sent }
    }

    pub(crate) fn first(&self) -> u64 {
        self.messages.first().map_or(self.last + 1, |message| message.seq)
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn nth(&self, index: usize) -> Option<u64> {
        self.messages.get(index).map(|message| message.seq)
    }

    fn find(&self, seq: u64) -> Option<&Message> {
        self.messages.iter().find(|message| message.seq == seq)
    }

    pub(crate) fn publish(&mut self, on: usize, payload: String) {
        self.last += 1;
        let wanted = self.consumers.values().any(|consumer| consumer.plan.subjects.contains(&on));
        if self.keep == Keep::Interest && !wanted {
            return;
        }
        self.messages.push(Message { seq: self.last, subject: on, payload, time: self.now });
        let same = |message: &&Message| message.subject == on;
        while self.messages.iter().filter(same).count() > self.max_per_subject {
            let oldest = self.messages.iter().find(same).map(|message| message.seq);
            oldest.into_iter().for_each(|seq| self.remove(seq));
        }
        while self.messages.len() > self.max {
            self.remove(self.messages[0].seq);
        }
    }

    /// A message goes, and with it what was out of it.
    pub(crate) fn remove(&mut self, seq: u64) {
        self.messages.retain(|message| message.seq != seq);
        for consumer in self.consumers.values_mut() {
            consumer.forget(seq);
            consumer.upcoming.retain(|upcoming| *upcoming != seq);
        }
    }

    /// Many messages go, and with them what was out of them.
    pub(crate) fn purge(&mut self, goes: impl Fn(u64, usize) -> bool) {
        self.messages.retain(|message| !goes(message.seq, message.subject));
        let left: Vec<u64> = self.messages.iter().map(|message| message.seq).collect();
        for consumer in self.consumers.values_mut() {
            consumer.out.retain(|out| left.contains(&out.seq));
            consumer.again.retain(|seq| left.contains(seq));
            consumer.upcoming.retain(|seq| left.contains(seq));
        }
    }

    /// Those on a subject go but for the last ones.
    pub(crate) fn purge_but(&mut self, keep: usize, on: usize) {
        let on_it = self.messages.iter().filter(|message| message.subject == on);
        let before = on_it.rev().nth(keep - 1).map_or(0, |message| message.seq);
        self.purge(|seq, its| its == on && seq < before);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.consumers.contains_key(name)
    }

    pub(crate) fn create(&mut self, name: &str, plan: Plan) {
        let wanted: Vec<&Message> =
            self.messages.iter().filter(|message| plan.subjects.contains(&message.subject)).collect();
        let mut upcoming = Vec::new();
        let next = match plan.begin {
            Begin::First => self.first(),
            Begin::New => self.last + 1,
            Begin::Last => wanted.last().map_or(self.last + 1, |message| message.seq),
            Begin::At(seq) => seq.max(self.first()),
            Begin::LastPerSubject => {
                let later =
                    |one: &Message, other: &&&Message| other.subject == one.subject && other.seq > one.seq;
                for one in &wanted {
                    if !wanted.iter().any(|other| later(one, &other)) {
                        upcoming.push(one.seq);
                    }
                }
                self.last + 1
            }
        };
        let highest = upcoming.first().copied().unwrap_or(next) - 1;
        let consumer = Consumer {
            plan,
            next,
            upcoming,
            out: Vec::new(),
            again: VecDeque::new(),
            deliveries: 0,
            highest,
            requests: VecDeque::new(),
            paused_until: 0,
        };
        self.consumers.insert(name.to_owned(), consumer);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let Some(gone) = self.consumers.remove(name) else { return };
        for request in gone.requests.iter() {
            self.sent.entry(request.inbox.clone()).or_default().push("409 Consumer Deleted".to_owned());
        }
        if self.keep == Keep::Interest {
            let its: Vec<u64> = self
                .messages
                .iter()
                .filter(|message| gone.needs(message))
                .map(|message| message.seq)
                .collect();
            its.into_iter().for_each(|seq| self.drop_unless_needed(seq));
        }
    }

    pub(crate) fn pause(&mut self, name: &str, until: i64) {
        if let Some(consumer) = self.consumers.get_mut(name) {
            consumer.paused_until = until;
        }
    }

    /// Everything that is out comes again from a sequence on.
    pub(crate) fn reset(&mut self, name: &str, seq: u64) {
        if let Some(consumer) = self.consumers.get_mut(name) {
            consumer.next = seq;
            consumer.highest = seq - 1;
            consumer.deliveries = 0;
            consumer.out.clear();
            consumer.again.clear();
            consumer.upcoming.clear();
        }
    }

    /// Requests are lost; what was to be delivered again is due.
    pub(crate) fn restart(&mut self) {
        for consumer in self.consumers.values_mut() {
            consumer.requests.clear();
            consumer.again.clear();
            for out in &mut consumer.out {
                out.due = if out.queued { self.now } else { out.due.max(self.now) };
                out.queued = false;
            }
        }
    }

    fn drop_unless_needed(&mut self, seq: u64) {
        let needed = self
            .find(seq)
            .is_some_and(|message| self.consumers.values().any(|consumer| consumer.needs(message)));
        if !needed {
            self.remove(seq);
        }
    }

    fn done_with(&mut self, seq: u64) {
        match self.keep {
            Keep::Limits => {}
            Keep::WorkQueue => self.remove(seq),
            Keep::Interest => self.drop_unless_needed(seq),
        }
    }

    /// Says something of a delivery; true when that is answered.
    pub(crate) fn say(&mut self, name: &str, seq: u64, said: Said) -> bool {
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(name) else { return false };
        if seq > consumer.highest.max(consumer.next - 1) {
            return false;
        }
        let mut done = Vec::new();
        match said {
            Said::Done | Said::Never => {
                let covered = |out: &&Out| match consumer.plan.acks {
                    Acks::Explicit => out.seq == seq,
                    Acks::All => out.seq <= seq,
                    Acks::None => false,
                };
                done = consumer.out.iter().filter(covered).map(|out| out.seq).collect();
                done.iter().for_each(|seq| consumer.forget(*seq));
            }
            Said::Again(delay) => {
                if let Some(out) = consumer.out.iter_mut().find(|out| out.seq == seq) {
                    match delay {
                        Some(delay) => {
                            (out.due, out.queued) = (now + delay, false);
                            consumer.again.retain(|again| *again != seq);
                        }
                        None if out.queued => {}
                        None => {
                            out.queued = true;
                            consumer.again.push_back(seq);
                        }
                    }
                }
            }
            Said::Working => {
                let waits = consumer.plan.waits.clone();
                if let Some(out) = consumer.out.iter_mut().find(|out| out.seq == seq) {
                    (out.due, out.queued) = (now + wait(&waits, out.count), false);
                    consumer.again.retain(|again| *again != seq);
                }
            }
        }
        done.into_iter().for_each(|seq| self.done_with(seq));
        true
    }

    /// How many wait to be delivered for the first time.
    pub(crate) fn num_pending(&self, name: &str) -> usize {
        let consumer = &self.consumers[name];
        let ahead = |message: &&Message| {
            message.seq >= consumer.next && consumer.plan.subjects.contains(&message.subject)
        };
        self.messages.iter().filter(ahead).count() + consumer.upcoming.len()
    }

    /// Out, out more than once, waiting requests, deliveries.
    pub(crate) fn counts(&self, name: &str) -> [u64; 4] {
        let consumer = &self.consumers[name];
        let often = consumer.out.iter().filter(|out| out.count > 1).count();
        [consumer.out.len() as u64, often as u64, consumer.requests.len() as u64, consumer.deliveries]
    }

    /// The first sequence that is out.
    pub(crate) fn first_out(&self, name: &str) -> Option<u64> {
        self.consumers[name].out.iter().map(|out| out.seq).min()
    }

    /// The nth that is out.
    pub(crate) fn nth_out(&self, name: &str, index: usize) -> Option<u64> {
        let mut out: Vec<u64> = self.consumers.get(name)?.out.iter().map(|out| out.seq).collect();
        out.sort_unstable();
        out.get(index).copied()
    }

    pub(crate) fn request(&mut self, name: &str, mut request: Request) {
        let there = self.num_pending(name) as u64 + self.consumers[name].again.len() as u64;
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let mut refuse = |text: &str| {
            self.sent.entry(request.inbox.clone()).or_default().push(text.to_owned());
        };
        if consumer.requests.len() >= consumer.plan.max_waiting {
            return refuse("409 Exceeded MaxWaiting");
        }
        if request.no_wait {
            let asked: u64 = consumer.requests.iter().map(|request| request.batch).sum();
            match there {
                0 if request.expires.is_none() => return refuse("404 No Messages"),
                0 => request.no_wait = false,
                _ if there < asked => return refuse("408 Requests Pending"),
                _ => {}
            }
        }
        consumer.requests.push_back(request);
    }

    /// When something happens by itself.
    fn next_event(&self) -> Option<i64> {
        let of = |consumer: &Consumer| {
            let due = consumer.out.iter().filter(|out| !out.queued).map(|out| out.due);
            let expiry = consumer.requests.iter().filter_map(|request| request.expires);
            let pause = Some(consumer.paused_until).filter(|until| *until > self.now);
            due.chain(expiry).chain(pause).collect::<Vec<_>>()
        };
        self.consumers.values().flat_map(of).min()
    }

    /// Lets everything happen that happens until a time, and serves who waits.
    pub(crate) fn advance(&mut self, until: i64) {
        loop {
            let now = self.now;
            for name in self.consumers.keys().cloned().collect::<Vec<_>>() {
                self.expire(&name, now);
            }
            for name in self.consumers.keys().cloned().collect::<Vec<_>>() {
                if self.consumers[&name].paused_until <= now {
                    self.serve(&name);
                }
            }
            match self.next_event() {
                Some(at) if at <= until => self.now = at.max(now),
                _ => break,
            }
        }
        self.now = until;
    }

    fn expire(&mut self, name: &str, now: i64) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let mut due: Vec<u64> =
            consumer.out.iter().filter(|out| !out.queued && out.due <= now).map(|out| out.seq).collect();
        due.sort_unstable();
        for seq in due {
            consumer.again.push_back(seq);
            consumer.out.iter_mut().filter(|out| out.seq == seq).for_each(|out| out.queued = true);
        }
        let sent = &mut self.sent;
        consumer.requests.retain(|request| {
            let over = request.expires.is_some_and(|at| at <= now);
            if over {
                let text = request.with_rest("408 Request Timeout");
                sent.entry(request.inbox.clone()).or_default().push(text);
            }
            !over
        });
    }

    fn serve(&mut self, name: &str) {
        while !self.consumers[name].requests.is_empty() {
            let (seq, count) = match self.choose(name) {
                Chosen::Message(seq, count) => (seq, count),
                Chosen::Blocked => return,
                Chosen::Nothing => return self.end_impatient(name),
            };
            self.deliver(name, seq, count);
        }
    }

    fn choose(&mut self, name: &str) -> Chosen {
        loop {
            let Some(consumer) = self.consumers.get_mut(name) else { return Chosen::Nothing };
            let Some(seq) = consumer.again.front().copied() else { break };
            let there = self.messages.iter().any(|message| message.seq == seq);
            let Some(out) = consumer.out.iter().find(|out| out.seq == seq) else {
                consumer.again.pop_front();
                continue;
            };
            let again = consumer.plan.max_deliver.is_none_or(|most| out.count < most);
            if again && there {
                return Chosen::Message(seq, out.count + 1);
            }
            consumer.again.pop_front();
            consumer.forget(seq);
        }
        let consumer = &self.consumers[name];
        let full = consumer.plan.max_out.is_some_and(|most| consumer.out.len() >= most);
        if full && consumer.plan.acks != Acks::None {
            return Chosen::Blocked;
        }
        if let Some(seq) = consumer.upcoming.first() {
            return Chosen::Message(*seq, 1);
        }
        let wanted = |message: &&Message| {
            message.seq >= consumer.next && consumer.plan.subjects.contains(&message.subject)
        };
        match self.messages.iter().find(wanted) {
            Some(message) => Chosen::Message(message.seq, 1),
            None => Chosen::Nothing,
        }
    }

    fn deliver(&mut self, name: &str, seq: u64, count: u64) {
        let pending = self.num_pending(name) - usize::from(count == 1);
        let Some(message) = self.find(seq).cloned() else { return };
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(mut request) = consumer.requests.pop_front() else { return };
        let delivery = consumer.deliveries + 1;
        let reply = format!("$JS.ACK.S.{name}.{count}.{seq}.{delivery}.{}.{pending}", message.time);
        let on = subject(message.subject);
        let size = (on.len() + reply.len() + message.payload.len()) as i64;
        let sent = self.sent.entry(request.inbox.clone()).or_default();
        if request.max_bytes.is_some_and(|room| size > room) {
            return sent.push(request.with_rest("409 Message Size Exceeds MaxBytes"));
        }
        sent.push(format!("{on} {reply} {}", message.payload));
        request.batch -= 1;
        request.max_bytes = request.max_bytes.map(|room| room - size);
        if request.batch == 0 && request.max_bytes.is_some_and(|room| room > 0) {
            sent.push(request.with_rest("409 Batch Completed"));
        }
        if request.batch > 0 {
            consumer.requests.push_back(request);
        }
        consumer.deliveries = delivery;
        consumer.highest = consumer.highest.max(seq);
        let due = now + wait(&consumer.plan.waits, count);
        if count > 1 {
            consumer.again.pop_front();
            let out = consumer.out.iter_mut().filter(|out| out.seq == seq);
            out.for_each(|out| *out = Out { seq, count, due, queued: false });
            return;
        }
        match consumer.upcoming.first() {
            Some(first) if *first == seq => drop(consumer.upcoming.remove(0)),
            _ => consumer.next = seq + 1,
        }
        if consumer.plan.acks == Acks::None {
            self.done_with(seq);
        } else {
            consumer.out.push(Out { seq, count, due, queued: false });
        }
    }

    fn end_impatient(&mut self, name: &str) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        // Nothing below what there is has to be looked at again.
        consumer.next = consumer.next.max(self.last + 1);
        let sent = &mut self.sent;
        consumer.requests.retain(|request| {
            let text = match request.expires {
                _ if !request.no_wait => return true,
                None => "404 No Messages".to_owned(),
                Some(_) => request.with_rest("408 Request Timeout"),
            };
            sent.entry(request.inbox.clone()).or_default().push(text);
            false
        });
    }
}

enum Chosen {
    Message(u64, u64),
    Blocked,
    Nothing,
}

impl Request {
    fn with_rest(&self, text: &str) -> String {
        let bytes = self.max_bytes.unwrap_or(0);
        format!("{text}|Nats-Pending-Messages: {}|Nats-Pending-Bytes: {bytes}", self.batch)
    }
}

impl Consumer {
    fn forget(&mut self, seq: u64) {
        self.out.retain(|out| out.seq != seq);
        self.again.retain(|again| *again != seq);
    }

    fn needs(&self, message: &Message) -> bool {
        let seq = message.seq;
        let to_come = seq >= self.next || self.upcoming.contains(&seq);
        self.plan.subjects.contains(&message.subject)
            && (to_come || self.out.iter().any(|out| out.seq == seq))
    }
}

fn wait(waits: &[i64], count: u64) -> i64 {
    waits[(count as usize - 1).min(waits.len() - 1)]
}
