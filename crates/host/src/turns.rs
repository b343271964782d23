//! Inputs on their way to the agent: which may be written now, which wait, what became of them. It writes nothing.
//!
//! ```text
//!   accepted -> waiting -> being written -> in the agent's hands -> (turn ended)
//!                  ^            |
//!                  +-- nothing of it was read: the process was gone
//! ```
//!
//! One input is being written at a time. A conversational agent moreover gets the next one only when its turn has ended.
//! Failures: the process ends while a turn runs: that turn is lost and said to be ([`Turns::exited`]); inputs of which
//! nothing was written wait for the next process, because they are no replay.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Inputs that wait at most. More than a person types ahead; a program that sends more should wait for answers.
pub(crate) const WAITING_MAX: usize = 64;

/// How long a sender waits for "delivered" before it is told that the input is queued; below the patience of
/// a request.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What to give the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// One user turn.
    Prompt(String),
    /// Bytes as they are.
    Raw(Vec<u8>),
}

/// One accepted input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// The sender's or our id for it.
    pub(crate) id: String,
    /// What it is.
    pub(crate) body: Body,
    /// Who still waits to hear about it, and until when.
    pub(crate) asker: Option<Asker>,
}

/// A sender who waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asker {
    /// The inbox.
    pub(crate) reply: String,
    /// When it is told that the input waits.
    pub(crate) until: Instant,
}

/// Where an accepted input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is written as soon as the loop comes round; the sender hears when that is done.
    Next,
    /// It waits behind this many others, or for the running turn, or for the agent to be ready.
    Behind(u32),
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The inputs of one run.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    one_at_a_time: bool,
    open: bool,
    waiting: VecDeque<Input>,
    writing: Option<Input>,
    running: Option<String>,
}

impl Turns {
    /// No inputs yet. `one_at_a_time` for agents whose turns must not overlap.
    pub(crate) fn new(one_at_a_time: bool) -> Self {
        Self { one_at_a_time, ..Self::default() }
    }

    /// Says whether the agent can read right now.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// The input whose turn runs, if turns are followed.
    pub(crate) fn running(&self) -> Option<&str> {
        self.running.as_deref()
    }

    /// Accepts an input.
    pub(crate) fn push(&mut self, mut input: Input) -> Result<Place, Full> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(Full);
        }
        let before = self.waiting.len() + usize::from(self.writing.is_some());
        let place = if !self.open || (self.one_at_a_time && (before > 0 || self.running.is_some())) {
            Place::Behind(before as u32)
        } else {
            Place::Next
        };
        if place != Place::Next {
            input.asker = None;
        }
        self.waiting.push_back(input);
        Ok(place)
    }

    /// Takes the input that is to be written now; [`Turns::written`] must follow.
    pub(crate) fn start_next(&mut self) -> Option<&Input> {
        if !self.open || self.writing.is_some() || (self.one_at_a_time && self.running.is_some()) {
            return None;
        }
        let input = self.waiting.pop_front()?;
        if self.one_at_a_time {
            self.running = Some(input.id.clone());
        }
        Some(self.writing.insert(input))
    }

    /// The input that was being written is through, or can never be: it is handed back for the answer.
    pub(crate) fn written(&mut self, taken: bool) -> Option<Input> {
        let input = self.writing.take()?;
        if !taken && self.running.as_deref() == Some(&input.id) {
            self.running = None;
        }
        Some(input)
    }

    /// Nothing of the input that was being written was read: it waits for the next process, first in line. Its sender
    /// is handed back.
    pub(crate) fn put_back(&mut self) -> Option<(String, Asker)> {
        let mut input = self.written(false)?;
        let asker = input.asker.take().map(|asker| (input.id.clone(), asker));
        self.waiting.push_front(input);
        asker
    }

    /// A turn ended.
    pub(crate) fn ended(&mut self, input_id: Option<&str>) {
        if self.running.is_some() && self.running.as_deref() == input_id {
            self.running = None;
        }
    }

    /// The process is gone: returns the input whose turn it took with it.
    pub(crate) fn exited(&mut self) -> Option<String> {
        self.open = false;
        let running = self.running.take()?;
        // Still being written: its own outcome tells.
        if self.writing.as_ref().is_some_and(|input| input.id == running) {
            return None;
        }
        Some(running)
    }

    /// The senders whose patience is over, with the number of inputs before theirs.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(String, Asker, u32)> {
        let inputs = self.writing.iter_mut().chain(self.waiting.iter_mut());
        let late = inputs.enumerate().filter_map(|(before, input)| {
            let asker = input.asker.take_if(|asker| asker.until <= now)?;
            Some((input.id.clone(), asker, before as u32))
        });
        late.collect()
    }

    /// When [`Turns::overdue`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let inputs = self.writing.iter().chain(self.waiting.iter());
        inputs.filter_map(|input| input.asker.as_ref()).map(|asker| asker.until).min()
    }

    /// Gives up everything that waits, because no process will follow.
    pub(crate) fn abandon(&mut self) -> Vec<Input> {
        self.open = false;
        self.waiting.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(id: &str) -> Input {
        let asker = Some(Asker { reply: format!("inbox.{id}"), until: Instant::now() + ANSWER_WITHIN });
        Input { id: id.to_owned(), body: Body::Prompt("hello".to_owned()), asker }
    }

    fn open(one_at_a_time: bool) -> Turns {
        let mut turns = Turns::new(one_at_a_time);
        turns.set_open(true);
        turns
    }

    fn start(turns: &mut Turns) -> Option<String> {
        turns.start_next().map(|input| input.id.clone())
    }

    #[test]
    fn a_conversation_gets_its_next_turn_when_the_last_has_ended() {
        let mut turns = open(true);
        assert_eq!(turns.push(prompt("1")), Ok(Place::Next));
        assert_eq!(turns.push(prompt("2")), Ok(Place::Behind(1)));
        assert_eq!(start(&mut turns).as_deref(), Some("1"));
        assert_eq!(turns.written(true).unwrap().asker.unwrap().reply, "inbox.1");
        assert_eq!(start(&mut turns), None);
        turns.ended(None);
        assert_eq!(start(&mut turns), None, "a turn of the agent's own does not end ours");
        turns.ended(Some("1"));
        assert_eq!(start(&mut turns).as_deref(), Some("2"));
        assert_eq!(turns.written(true).unwrap().asker, None, "who waits has been answered at once");
    }

    #[test]
    fn a_plain_agent_gets_everything_in_order_without_waiting() {
        let mut turns = open(false);
        for id in ["1", "2", "3"] {
            assert_eq!(turns.push(prompt(id)), Ok(Place::Next));
        }
        for id in ["1", "2", "3"] {
            assert_eq!(start(&mut turns).as_deref(), Some(id));
            assert_eq!(start(&mut turns), None, "one is written at a time");
            assert!(turns.written(true).unwrap().asker.is_some());
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut turns = Turns::new(true);
        for id in 0..WAITING_MAX {
            assert_eq!(turns.push(prompt(&id.to_string())), Ok(Place::Behind(id as u32)));
        }
        assert_eq!(turns.push(prompt("more")), Err(Full));
    }

    #[test]
    fn a_crash_loses_the_running_turn_and_keeps_the_waiting_ones() {
        let mut turns = open(true);
        turns.push(prompt("1")).unwrap();
        turns.push(prompt("2")).unwrap();
        start(&mut turns);
        turns.written(true);
        assert_eq!(turns.exited().as_deref(), Some("1"));
        assert_eq!(turns.exited(), None, "it is told once");
        assert_eq!(start(&mut turns), None, "nobody reads");
        turns.set_open(true);
        assert_eq!(start(&mut turns).as_deref(), Some("2"));
    }

    #[test]
    fn an_input_nobody_read_is_first_in_line_again() {
        let mut turns = open(true);
        turns.push(prompt("1")).unwrap();
        turns.push(prompt("2")).unwrap();
        start(&mut turns);
        assert_eq!(turns.exited(), None, "the outcome of the write decides");
        let (id, asker) = turns.put_back().unwrap();
        assert_eq!((id.as_str(), asker.reply.as_str()), ("1", "inbox.1"));
        turns.set_open(true);
        assert_eq!(start(&mut turns).as_deref(), Some("1"));
    }

    #[test]
    fn a_sender_is_told_in_time_that_its_input_waits() {
        let mut turns = open(false);
        turns.push(prompt("1")).unwrap();
        turns.push(prompt("2")).unwrap();
        start(&mut turns);
        let deadline = turns.deadline().unwrap();
        assert_eq!(turns.overdue(deadline - Duration::from_millis(1)), []);
        let late = turns.overdue(deadline + Duration::from_secs(1));
        let late: Vec<_> = late.iter().map(|(id, _, before)| (id.as_str(), *before)).collect();
        assert_eq!(late, [("1", 0), ("2", 1)]);
        assert_eq!(turns.deadline(), None);
        assert_eq!(turns.written(true).unwrap().asker, None);
    }
}
