//! Acknowledgements: which delivery a subject names, what the payload says of it, and what that changes. The stream
//! removes what is done with.

use super::{AckPolicy, Consumer};
use crate::time::parse_duration;

/// What an acknowledgement's subject says, in either of nats-server's layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckSubject<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    /// How often the message had been delivered.
    pub(crate) count: u64,
    pub(crate) seq: u64,
    pub(crate) delivery: u64,
}

impl<'a> AckSubject<'a> {
    /// Reads `$JS.ACK.<stream>.<consumer>.<count>.<seq>.<delivery>.<time>.<pending>`, and the same with a domain and
    /// an account before the stream and something behind.
    pub(crate) fn parse(subject: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(subject.strip_prefix(b"$JS.ACK.")?).ok()?;
        let count = text.bytes().filter(|byte| *byte == b'.').count() + 1;
        let mut tokens = text.split('.');
        match count {
            7 => {}
            9.. => {
                tokens.next();
                tokens.next();
            }
            _ => return None,
        }
        Some(Self {
            stream: tokens.next()?,
            consumer: tokens.next()?,
            count: tokens.next()?.parse().ok()?,
            seq: tokens.next()?.parse().ok()?,
            delivery: tokens.next()?.parse().ok()?,
        })
    }
}

/// What is said of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind<'a> {
    /// Done.
    Done,
    /// Again, after so many nanoseconds or at once.
    Again(Option<i64>),
    /// Still at it.
    Working,
    /// Done, and this is a request for more.
    Next(&'a [u8]),
    /// Not again, for this reason.
    Terminate(&'a [u8]),
    /// Nothing that means something.
    Unknown,
}

impl<'a> AckKind<'a> {
    pub(crate) fn parse(payload: &'a [u8]) -> Self {
        match payload {
            b"" | b"+ACK" | b"+OK" => Self::Done,
            b"+WPI" => Self::Working,
            _ => {
                if let Some(rest) = payload.strip_prefix(b"+NXT") {
                    Self::Next(rest.trim_ascii())
                } else if let Some(rest) = payload.strip_prefix(b"-NAK") {
                    Self::Again(delay(rest.trim_ascii()))
                } else if let Some(rest) = payload.strip_prefix(b"+TERM") {
                    Self::Terminate(rest.trim_ascii())
                } else {
                    Self::Unknown
                }
            }
        }
    }
}

/// `{"delay":1000}` or Go's `1s`.
fn delay(text: &[u8]) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Delay {
        delay: i64,
    }
    let delay = match text.first()? {
        b'{' => serde_json::from_slice::<Delay>(text).ok()?.delay,
        _ => parse_duration(std::str::from_utf8(text).ok()?)?,
    };
    (delay > 0).then_some(delay)
}

/// What an acknowledgement did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Messages that this consumer is done with.
    pub(crate) done: Vec<u64>,
    /// How long the last of them was out, in nanoseconds.
    pub(crate) took: i64,
    /// Whether the sender may be told.
    pub(crate) taken: bool,
}

impl Consumer {
    /// Takes note that a message is done with.
    pub(crate) fn acknowledge(&mut self, ack: &AckSubject<'_>, now: i64) -> Acked {
        self.active_at = now;
        if ack.seq > self.delivered_up_to() {
            return Acked::default();
        }
        let mut acked = Acked { taken: true, ..Acked::default() };
        match self.config.ack_policy {
            AckPolicy::Explicit => {
                if let Some(entry) = self.pending.remove(ack.seq) {
                    let delivered_at = entry.due.saturating_sub(self.config.wait_after(entry.count));
                    acked.took = now.saturating_sub(delivered_at);
                    acked.done.push(ack.seq);
                }
            }
            AckPolicy::All => {
                while let Some(first) =
                    self.pending.first().map(|entry| entry.seq).filter(|&seq| seq <= ack.seq)
                {
                    self.pending.remove(first);
                    acked.done.push(first);
                }
            }
            AckPolicy::None | AckPolicy::FlowControl => return acked,
        }
        if !acked.done.is_empty() {
            self.raise_floor();
            self.floor.at = Some(now);
            self.unsaved = true;
        }
        acked
    }

    /// Puts a delivery off, or back into the queue.
    pub(crate) fn again(&mut self, ack: &AckSubject<'_>, delay: Option<i64>, now: i64) -> Acked {
        self.active_at = now;
        if ack.seq > self.delivered_up_to() {
            return Acked::default();
        }
        let mut queue = false;
        self.pending.update(ack.seq, |entry| match delay {
            Some(delay) => {
                entry.due = now.saturating_add(delay);
                entry.queued = false;
            }
            None => {
                queue = !entry.queued;
                entry.queued = true;
            }
        });
        if delay.is_some() {
            self.redeliver.retain(|seq| *seq != ack.seq);
        } else if queue {
            self.redeliver.push_back(ack.seq);
        }
        self.unsaved = true;
        Acked { taken: true, ..Acked::default() }
    }

    /// Gives a delivery its whole time again.
    pub(crate) fn working(&mut self, ack: &AckSubject<'_>, now: i64) -> Acked {
        self.active_at = now;
        if ack.seq > self.delivered_up_to() {
            return Acked::default();
        }
        let wait = |count| self.config.wait_after(count);
        let due = self.pending.get(ack.seq).map(|entry| now.saturating_add(wait(entry.count)));
        if let Some(due) = due {
            self.pending.update(ack.seq, |entry| (entry.due, entry.queued) = (due, false));
            self.redeliver.retain(|seq| *seq != ack.seq);
        }
        Acked { taken: true, ..Acked::default() }
    }

    fn delivered_up_to(&self) -> u64 {
        self.delivered.seq.max(self.next_seq - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_name_the_same_delivery() {
        let expected = AckSubject { stream: "S", consumer: "c", count: 2, seq: 7, delivery: 9 };
        for subject in [
            "$JS.ACK.S.c.2.7.9.1795224779176874806.4",
            "$JS.ACK._.hash.S.c.2.7.9.1.4",
            "$JS.ACK.hub.hash.S.c.2.7.9.1.4.rnd",
        ] {
            assert_eq!(AckSubject::parse(subject.as_bytes()), Some(expected), "{subject}");
        }
        for bad in ["$JS.ACK.S.c.2.7.9.1", "$JS.ACK.S.c.x.7.9.1.4", "$JS.ACK.", "$JS.FC.S.c.1.1.1.1.1"] {
            assert_eq!(AckSubject::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn payloads_say_what_is_to_be_done() {
        for (payload, kind) in [
            ("", AckKind::Done),
            ("+ACK", AckKind::Done),
            ("+OK", AckKind::Done),
            ("-NAK", AckKind::Again(None)),
            ("-NAK {\"delay\": 5000}", AckKind::Again(Some(5000))),
            ("-NAK 1s", AckKind::Again(Some(1_000_000_000))),
            ("-NAK nonsense", AckKind::Again(None)),
            ("+WPI", AckKind::Working),
            ("+NXT", AckKind::Next(b"")),
            ("+NXT {\"batch\":2}", AckKind::Next(b"{\"batch\":2}")),
            ("+TERM", AckKind::Terminate(b"")),
            ("+TERM why", AckKind::Terminate(b"why")),
            ("bogus", AckKind::Unknown),
        ] {
            assert_eq!(AckKind::parse(payload.as_bytes()), kind, "{payload}");
        }
    }
}
