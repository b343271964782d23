//! A model engine behind a network that loses and repeats: whatever happens, every number is recorded once, in order,
//! or told as dropped.

use super::*;
use proptest::prelude::*;

/// The engine's side of the rule for gaps.
#[derive(Default)]
struct Engine {
    recorded: u64,
    lines: Vec<(u64, String)>,
    dropped: Vec<(u64, u64)>,
}

impl Engine {
    fn take(&mut self, payload: &[u8]) -> OutputAck {
        let message: OutputMessage = serde_json::from_slice(payload).unwrap();
        let from = match message.event {
            Some(AgentEvent::Dropped { from_seq, to_seq, .. }) => {
                assert_eq!(to_seq, message.seq);
                from_seq
            }
            _ => message.seq,
        };
        let rewind = from > self.recorded + 1;
        if !rewind && message.seq > self.recorded {
            match message.data {
                Some(data) => self.lines.push((message.seq, data)),
                None => self.dropped.push((from, message.seq)),
            }
            self.recorded = message.seq;
        }
        OutputAck { run_id: message.run_id, recorded: self.recorded, rewind }
    }
}

struct World {
    outbox: Outbox,
    engine: Engine,
    now: Instant,
    run_id: RunId,
}

impl World {
    fn new(bytes_max: usize) -> Self {
        let run_id = RunId::parse("0190d2a0-0000-7000-8000-000000000001").unwrap();
        let now = Instant::now();
        let outbox = Outbox::new(AgentId::parse("a").unwrap(), run_id, bytes_max, now);
        Self { outbox, engine: Engine::default(), now, run_id }
    }

    fn print(&mut self, size: usize) {
        let run_id = self.run_id;
        self.outbox.push(self.now, Timestamp::UNIX_EPOCH, |seq| {
            let message = OutputMessage {
                agent_id: AgentId::parse("a").unwrap(),
                run_id,
                generation: 1,
                seq,
                stream: OutputStream::Stdout,
                data: Some(format!("{seq}:{}", "x".repeat(size))),
                data_base64: None,
                partial: false,
                event: None,
                raw: None,
                input_id: None,
                timestamp: Timestamp::UNIX_EPOCH,
            };
            serde_json::to_vec(&message).unwrap()
        });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.outbox.due(self.now, Timestamp::UNIX_EPOCH);
        self.outbox.hold_change(self.now);
    }

    /// Sends what there is; `lose` decides per message, then per acknowledgement.
    fn exchange(&mut self, mut lose: impl FnMut() -> bool) -> usize {
        let mut count = 0;
        while let Some((_, payload)) = self.outbox.next(self.now) {
            count += 1;
            assert!(count < 1_000_000, "it never ends");
            if lose() {
                continue;
            }
            let ack = self.engine.take(&payload);
            if !lose() {
                self.outbox.acknowledged(&ack, self.now, Timestamp::UNIX_EPOCH);
            }
        }
        count
    }

    fn connect(&mut self) {
        self.outbox.connected(self.now);
    }

    fn disconnect(&mut self) {
        self.outbox.disconnected(self.now, Timestamp::UNIX_EPOCH);
    }

    fn settle(&mut self) {
        self.connect();
        for _ in 0..100_000 {
            self.exchange(|| false);
            if self.outbox.is_empty() {
                return;
            }
            self.pass(Duration::from_secs(1));
        }
        panic!("not everything was acknowledged: {:?}", self.outbox);
    }

    /// Every number from 1 to the last is recorded once or told as dropped, and what is recorded is what was printed.
    fn check(&self) {
        assert_eq!(self.engine.recorded, self.outbox.last_seq());
        assert!(self.engine.lines.is_sorted_by(|a, b| a.0 < b.0));
        let mut told = std::collections::HashSet::new();
        for (seq, data) in &self.engine.lines {
            assert!(data.starts_with(&format!("{seq}:")));
            told.insert(*seq);
        }
        told.extend(self.engine.dropped.iter().flat_map(|(from, to)| *from..=*to));
        assert_eq!(told.len() as u64, self.outbox.last_seq());
    }
}

#[test]
fn everything_goes_out_once_and_in_order_while_all_is_well() {
    let mut world = World::new(1 << 20);
    world.connect();
    for _ in 0..1000 {
        world.print(10);
        assert_eq!(world.exchange(|| false), 1);
    }
    assert!(world.outbox.is_empty());
    assert_eq!(world.outbox.deadline(), None);
    world.check();
    assert_eq!(world.engine.lines.len(), 1000);
}

#[test]
fn what_was_printed_while_the_bus_was_away_follows_on_reconnect() {
    let mut world = World::new(64 << 20);
    for _ in 0..5000 {
        world.print(10);
    }
    assert_eq!(world.exchange(|| false), 0, "nothing is handed out without a bus");
    world.connect();
    assert_eq!(world.exchange(|| false), 5000);
    world.check();
    assert_eq!(world.engine.lines.len(), 5000);
}

#[test]
fn a_resend_stays_within_its_window_until_acknowledged() {
    let mut world = World::new(64 << 20);
    for _ in 0..2000 {
        world.print(10);
    }
    world.connect();
    assert_eq!(world.exchange(|| true), WINDOW_MESSAGES);
    world.pass(RESEND_FIRST);
    assert_eq!(world.exchange(|| true), WINDOW_MESSAGES, "the first resend repeats the window");
    world.pass(2 * RESEND_FIRST);
    assert_eq!(world.exchange(|| true), 1, "then one message probes");
    world.pass(RESEND_LONGEST);
    assert_eq!(world.exchange(|| false), 2000, "one answer opens it again");
    world.check();
}

#[test]
fn new_lines_still_go_out_at_once_while_nobody_acknowledges() {
    let mut world = World::new(1 << 20);
    world.connect();
    for round in 0..50 {
        world.print(10);
        assert!(world.exchange(|| true) >= 1, "round {round}");
        world.pass(Duration::from_millis(700));
    }
}

#[test]
fn a_gap_is_repaired_by_one_rewind() {
    let mut world = World::new(1 << 20);
    world.connect();
    for seq in 1..=100 {
        world.print(10);
        let mut first = true;
        // Message 50 is lost on its way.
        world.exchange(|| seq == 50 && std::mem::take(&mut first));
    }
    assert!(world.outbox.is_empty());
    world.check();
    assert_eq!(world.engine.lines.len(), 100);
}

#[test]
fn a_full_buffer_holds_the_agent_while_the_engine_answers() {
    let mut world = World::new(100_000);
    world.connect();
    while world.outbox.hold_change(world.now).is_none() {
        world.print(1000);
        assert!(world.outbox.bytes < 100_000);
    }
    assert!(world.outbox.held);
    for _ in 0..300 {
        world.print(1000);
    }
    assert_eq!(world.outbox.entries.front().unwrap().from, 1, "nothing is dropped meanwhile");
    world.exchange(|| false);
    assert_eq!(world.outbox.hold_change(world.now), Some(false));
    world.check();
    assert_eq!(world.engine.dropped, []);
}

#[test]
fn a_bus_that_is_about_to_be_there_is_waited_for_but_not_for_long() {
    let mut world = World::new(100_000);
    while world.outbox.hold_change(world.now).is_none() {
        world.print(1000);
    }
    assert!(world.outbox.held, "nothing is dropped in a host's first moments");
    let deadline = world.outbox.deadline().unwrap();
    world.pass(deadline.saturating_duration_since(world.now));
    assert!(!world.outbox.held, "an agent does not wait for an absent bus");
    world.settle();
    world.check();
    assert_eq!(world.engine.dropped, []);
}

#[test]
fn a_full_buffer_drops_the_oldest_and_says_so_while_the_bus_is_away() {
    let mut world = World::new(100_000);
    world.pass(BUS_PATIENCE);
    for _ in 0..1000 {
        world.print(1000);
        assert!(world.outbox.bytes <= 101_000);
        assert_eq!(world.outbox.hold_change(world.now), None, "the agent does not wait for an absent bus");
    }
    world.settle();
    world.check();
    assert_eq!(world.engine.dropped.len(), 1);
    assert!(world.engine.lines.len() >= 60);
    assert_eq!(world.engine.lines.last().unwrap().0, 1000, "the newest survive");
}

#[test]
fn an_engine_that_stopped_answering_does_not_hold_the_agent_for_ever() {
    let mut world = World::new(100_000);
    world.connect();
    for _ in 0..90 {
        world.print(1000);
        world.exchange(|| true);
    }
    assert_eq!(world.outbox.hold_change(world.now), Some(true));
    let since = world.now;
    while world.outbox.held {
        let deadline = world.outbox.deadline().unwrap();
        world.pass(deadline.saturating_duration_since(world.now));
        world.exchange(|| true);
    }
    assert_eq!(world.now - since, ENGINE_PATIENCE);
    for _ in 0..90 {
        world.print(1000);
        world.exchange(|| true);
    }
    assert!(world.outbox.bytes <= 101_000);
    world.pass(RESEND_LONGEST);
    world.settle();
    world.check();
    assert_eq!(world.engine.dropped.len(), 1);
}

#[test]
fn an_engine_that_forgot_is_told_what_it_cannot_get_again() {
    let mut world = World::new(1 << 20);
    world.connect();
    for _ in 0..10 {
        world.print(10);
        world.exchange(|| false);
    }
    world.engine.recorded = 4;
    world.print(10);
    world.exchange(|| false);
    assert_eq!(world.engine.dropped, [(5, 10)]);
    assert_eq!(world.engine.recorded, 11);
    assert!(world.outbox.is_empty());
}

#[test]
fn a_message_the_bus_does_not_carry_becomes_a_told_gap() {
    let mut world = World::new(1 << 20);
    world.connect();
    world.print(10);
    world.print(5000);
    world.print(10);
    let mut refused = false;
    while let Some((seq, payload)) = world.outbox.next(world.now) {
        if payload.len() > 4000 {
            world.outbox.refused(seq, Timestamp::UNIX_EPOCH);
            refused = true;
            continue;
        }
        let ack = world.engine.take(&payload);
        world.outbox.acknowledged(&ack, world.now, Timestamp::UNIX_EPOCH);
    }
    assert!(refused && world.outbox.is_empty());
    world.check();
    assert_eq!(world.engine.dropped, [(2, 2)]);
}

#[test]
fn foreign_and_impossible_acknowledgements_are_ignored() {
    let mut world = World::new(1 << 20);
    world.connect();
    world.print(10);
    let other = RunId::parse("0190d2a0-0000-7000-8000-000000000002").unwrap();
    for ack in [
        OutputAck { run_id: other, recorded: 1, rewind: false },
        OutputAck { run_id: world.run_id, recorded: 7, rewind: false },
    ] {
        world.outbox.acknowledged(&ack, world.now, Timestamp::UNIX_EPOCH);
    }
    assert!(!world.outbox.is_empty());
    world.settle();
    world.check();
}

#[derive(Debug, Clone)]
enum Step {
    Print(u8, u16),
    Exchange(u8),
    Pass(u16),
    Connect,
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..40, 0u16..900).prop_map(|(count, size)| Step::Print(count, size)),
        4 => any::<u8>().prop_map(Step::Exchange),
        2 => (0u16..12_000).prop_map(Step::Pass),
        1 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
    ]
}

proptest! {
    #[test]
    fn every_number_is_recorded_once_in_order_or_told_as_dropped(
        bytes_max in 2_000usize..200_000,
        steps in prop::collection::vec(step(), 1..80),
        losses in prop::collection::vec(0u8..255, 64),
    ) {
        let mut world = World::new(bytes_max);
        let mut turn = 0;
        for step in steps {
            match step {
                Step::Print(count, size) => (0..count).for_each(|_| world.print(size.into())),
                Step::Exchange(rate) => {
                    world.exchange(|| {
                        turn += 1;
                        losses[turn % losses.len()].wrapping_add((turn / 64) as u8) < rate / 2
                    });
                }
                Step::Pass(millis) => world.pass(Duration::from_millis(millis.into())),
                Step::Connect => world.connect(),
                Step::Disconnect => world.disconnect(),
            }
            let counted: usize = world.outbox.entries.iter().map(Entry::cost).sum();
            prop_assert_eq!(world.outbox.bytes, counted);
            let in_flight: usize = world.outbox.entries.iter().take(world.outbox.sent).map(Entry::cost).sum();
            prop_assert_eq!(world.outbox.sent_bytes, in_flight);
            let mut expected = world.outbox.entries.front().map_or(0, |entry| entry.from);
            for entry in &world.outbox.entries {
                prop_assert_eq!(entry.from, expected);
                expected = entry.seq + 1;
            }
        }
        world.settle();
        world.check();
    }
}
