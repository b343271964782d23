//! The messages that are sent, and the account of those that arrive. No socket here.
//!
//! A publisher repeats a block of frames of equal length. The first eight bytes of each payload say which frame of whose
//! block it is, so that a receiver notices what is lost, doubled or out of order from a compare and an add per message.

use anyhow::{Context as _, bail, ensure};

/// Bytes of a block: what a publisher writes at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// The stamp at the front of a payload.
const STAMP_BYTES: usize = 8;
/// What all subjects begin with; the permissions name it.
pub(super) const PREFIX: &str = "bench.";

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Bytes of the payload, at least those of the stamp.
    pub(super) payload: usize,
    /// Subjects that take turns.
    pub(super) subjects: usize,
    /// Whether a header block goes with it.
    pub(super) headers: bool,
}

/// The header block of every message that has one.
const HEADERS: &str = "NATS/1.0\r\nTraceId: 0123456789abcdef\r\n\r\n";

impl Form {
    /// The subject of frame `index` in channel `channel`; all have the same length.
    fn subject(self, channel: usize, index: usize) -> String {
        format!("{PREFIX}c{channel}.{:04}", index % self.subjects)
    }

    /// What a subscriber asks for to get all subjects of a channel.
    pub(super) fn filter(self, channel: usize) -> String {
        if self.subjects == 1 { self.subject(channel, 0) } else { format!("{PREFIX}c{channel}.*") }
    }

    /// `PUB` becomes `MSG` with the sid: two bytes more, the same verb length.
    fn head(self, verb: &str, channel: usize, index: usize, sid: &str) -> String {
        let (subject, total) = (self.subject(channel, index), self.payload + self.headers_len());
        match self.headers {
            true => format!("H{verb} {subject} {sid}{} {total}\r\n", HEADERS.len()),
            false => format!("{verb} {subject} {sid}{total}\r\n"),
        }
    }

    fn headers_len(self) -> usize {
        if self.headers { HEADERS.len() } else { 0 }
    }

    fn headers(self) -> &'static str {
        if self.headers { HEADERS } else { "" }
    }
}

/// What one publisher sends, again and again.
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) frame_len: usize,
    /// Frames in it.
    pub(super) frames: u64,
}

impl Block {
    /// The block of publisher `publisher` in `channel`.
    pub(super) fn new(form: Form, channel: usize, publisher: usize) -> Self {
        let frame = |index: usize| {
            let mut frame = form.head("PUB", channel, index, "").into_bytes();
            frame.extend_from_slice(form.headers().as_bytes());
            frame.extend_from_slice(&stamp(publisher, index as u64));
            frame.resize(frame.len() + form.payload - STAMP_BYTES, b'x');
            frame.extend_from_slice(b"\r\n");
            frame
        };
        let frame_len = frame(0).len();
        // A multiple of the subjects, so that they take turns over the end of the block too.
        let frames = (BLOCK_BYTES / frame_len).max(1).next_multiple_of(form.subjects);
        Self { bytes: (0..frames).flat_map(frame).collect(), frame_len, frames: frames as u64 }
    }
}

fn stamp(publisher: usize, index: u64) -> [u8; STAMP_BYTES] {
    ((publisher as u64) << 48 | index).to_le_bytes()
}

/// What one subscriber must see.
pub(super) struct Account {
    prefix: Vec<u8>,
    frame_len: usize,
    stamp_at: usize,
    seen: Seen,
    /// Messages that arrived.
    pub(super) messages: u64,
}

enum Seen {
    /// Everything, in the order of each publisher: the next frame of each.
    All { next: Vec<u64>, frames: u64 },
    /// A part, the others get the rest: how often each frame of each publisher arrived.
    Part { counts: Vec<Vec<u64>> },
}

impl Account {
    /// Of a subscriber that gets every message of `publishers` publishers.
    pub(super) fn of_all(form: Form, channel: usize, publishers: usize) -> Self {
        let frames = Block::new(form, channel, 0).frames;
        Self::new(form, channel, Seen::All { next: vec![0; publishers], frames })
    }

    /// Of a member of a queue group.
    pub(super) fn of_part(form: Form, channel: usize, publishers: usize) -> Self {
        let frames = Block::new(form, channel, 0).frames;
        Self::new(form, channel, Seen::Part { counts: vec![vec![0; frames as usize]; publishers] })
    }

    fn new(form: Form, channel: usize, seen: Seen) -> Self {
        let head = form.head("MSG", channel, 0, "1 ");
        let stamp_at = head.len() + form.headers_len();
        let verb_and_channel = head.len().min(head.find(PREFIX).unwrap_or(0) + PREFIX.len() + 3);
        Self {
            prefix: head.as_bytes()[..verb_and_channel].to_vec(),
            frame_len: stamp_at + form.payload + 2,
            stamp_at,
            seen,
            messages: 0,
        }
    }

    /// Books the whole frames of `data`; returns how many bytes they are.
    pub(super) fn take(&mut self, data: &[u8]) -> anyhow::Result<usize> {
        let mut at = 0;
        while let Some(frame) = data.get(at..at + self.frame_len) {
            if !frame.starts_with(&self.prefix) {
                match skip(&data[at..])? {
                    0 => break,
                    skipped => at += skipped,
                }
                continue;
            }
            let stamp = frame[self.stamp_at..self.stamp_at + STAMP_BYTES].try_into()?;
            let stamp = u64::from_le_bytes(stamp);
            let (publisher, index) = ((stamp >> 48) as usize, stamp & ((1 << 48) - 1));
            ensure!(frame.ends_with(b"\r\n"), "a message is not as long as it should be");
            match &mut self.seen {
                Seen::All { next, frames } => {
                    let next = next.get_mut(publisher).context("a message of nobody")?;
                    ensure!(
                        *next == index,
                        "after {} messages: frame {index} of publisher {publisher} came, {next} was next",
                        self.messages
                    );
                    *next = if index + 1 == *frames { 0 } else { index + 1 };
                }
                Seen::Part { counts } => {
                    let count = counts.get_mut(publisher).and_then(|counts| counts.get_mut(index as usize));
                    *count.context("a message of nobody")? += 1;
                }
            }
            self.messages += 1;
            at += self.frame_len;
        }
        // Less than a frame is left: what else a server says is shorter.
        while at < data.len() && !self.prefix.starts_with(&data[at..data.len().min(at + self.prefix.len())]) {
            match skip(&data[at..])? {
                0 => break,
                skipped => at += skipped,
            }
        }
        Ok(at)
    }

    /// Whether nothing is lost and nothing came twice, `sent` messages having been sent by each publisher.
    pub(super) fn check(accounts: &[Account], sent: u64) -> anyhow::Result<()> {
        let mut parts: Vec<Vec<u64>> = Vec::new();
        for account in accounts {
            match &account.seen {
                Seen::All { next, .. } => {
                    let wanted = sent * next.len() as u64;
                    ensure!(account.messages == wanted, "{} of {wanted} messages arrived", account.messages);
                }
                Seen::Part { counts } => {
                    parts.resize(counts.len(), vec![0; counts.first().map_or(0, Vec::len)]);
                    for (sum, counts) in parts.iter_mut().zip(counts) {
                        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
                    }
                }
            }
        }
        for (publisher, counts) in parts.iter().enumerate() {
            let frames = counts.len() as u64;
            for (index, count) in counts.iter().enumerate() {
                let wanted = sent / frames + u64::from((index as u64) < sent % frames);
                ensure!(
                    *count == wanted,
                    "frame {index} of publisher {publisher} arrived {count} times, not {wanted}"
                );
            }
        }
        Ok(())
    }
}

/// The length of what a server says beside messages, 0 if it is not whole yet.
fn skip(data: &[u8]) -> anyhow::Result<usize> {
    let line_len = data.iter().take(4096).position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    match data.first() {
        Some(b'P' | b'I') => Ok(line_len),
        Some(b'-') => bail!("the server says {}", String::from_utf8_lossy(&data[..line_len]).trim()),
        _ => bail!("unexpected bytes: {}", data[..data.len().min(60)].escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form { payload: 16, subjects: 1, headers: false };

    /// What a server makes of a block.
    fn delivered(form: Form, publisher: usize) -> Vec<Vec<u8>> {
        let block = Block::new(form, 0, publisher);
        let text = |frame: &[u8], from: &[u8], to: &[u8]| {
            let at = frame.windows(from.len()).position(|window| window == from).unwrap();
            [&frame[..at], to, &frame[at + from.len()..]].concat()
        };
        let frames = block.bytes.chunks(block.frame_len);
        frames
            .enumerate()
            .map(|(index, frame)| {
                let subject = form.subject(0, index);
                let frame = text(frame, b"PUB", b"MSG");
                text(&frame, subject.as_bytes(), format!("{subject} 1").as_bytes())
            })
            .collect()
    }

    #[test]
    fn every_form_arrives_and_adds_up_whatever_the_reads_are() {
        for form in [FORM, Form { subjects: 1000, ..FORM }, Form { headers: true, ..FORM }] {
            let frames = delivered(form, 0);
            let stream = [b"PING\r\n".to_vec(), frames.concat(), b"PING\r\n".to_vec()].concat();
            for step in [7, 1000, stream.len()] {
                let mut account = Account::of_all(form, 0, 1);
                let (mut buffer, mut sent) = (Vec::new(), stream.as_slice());
                while !sent.is_empty() {
                    let (now, rest) = sent.split_at(step.min(sent.len()));
                    sent = rest;
                    buffer.extend_from_slice(now);
                    let taken = account.take(&buffer).unwrap();
                    buffer.drain(..taken);
                }
                assert!(buffer.is_empty());
                Account::check(&[account], frames.len() as u64).unwrap();
            }
        }
    }

    #[test]
    fn a_lost_a_doubled_and_a_moved_message_are_noticed() {
        let frames = delivered(FORM, 0);
        let take = |stream: Vec<u8>| Account::of_all(FORM, 0, 1).take(&stream);
        assert!(take([&frames[0][..], &frames[2]].concat()).is_err(), "lost");
        assert!(take([&frames[0][..], &frames[0]].concat()).is_err(), "doubled");
        assert!(take([&frames[1][..], &frames[0]].concat()).is_err(), "moved");
        let mut short = Account::of_all(FORM, 0, 1);
        short.take(&frames[0]).unwrap();
        assert!(Account::check(&[short], 2).is_err(), "the last is lost");
    }

    #[test]
    fn members_of_a_group_share_what_was_sent_and_nothing_twice() {
        let frames = delivered(FORM, 0);
        let group = |first: &[usize], second: &[usize]| {
            [first, second].map(|indexes| {
                let mut account = Account::of_part(FORM, 0, 1);
                for index in indexes {
                    account.take(&frames[*index]).unwrap();
                }
                account
            })
        };
        Account::check(&group(&[0, 3], &[1, 2]), 4).unwrap();
        assert!(Account::check(&group(&[0], &[1, 2]), 4).is_err(), "lost");
        assert!(Account::check(&group(&[0, 1, 3], &[1, 2]), 4).is_err(), "doubled");
        assert!(Account::check(&group(&[0, 0], &[1, 2]), 4).is_err(), "one lost and one doubled");
    }

    #[test]
    fn an_error_of_the_server_is_passed_on() {
        let error =
            Account::of_all(FORM, 0, 1).take(&b"-ERR 'Permissions Violation'\r\n".repeat(3)).unwrap_err();
        assert!(error.to_string().contains("Permissions Violation"), "{error}");
    }
}
