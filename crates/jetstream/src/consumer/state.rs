//! Where a consumer stands, as bytes: kept beside the stream's messages and durable with them.
//!
//! Every number is a varint of seven bits a byte, low bits first. In order: delivered (delivery, sequence), floor
//! (delivery, sequence), next sequence; a count and the messages that are out, each as sequence (distance to the one
//! before), first delivery, count, due time; a count and the upcoming sequences, each as distance;
//! where it was told to begin.

use ostler_broker_store::{Error, Store};
use serde::{Deserialize, Serialize};

use super::{Consumer, ConsumerConfig, Pending};
use crate::time::{MILLISECOND, Time};

/// Checkpoints of configurations begin with this, followed by the name.
pub(crate) const CONSUMER_PREFIX: &str = "c.";
/// Checkpoints of where they stand begin with this.
pub(crate) const STATE_PREFIX: &str = "s.";
const VERSION: u16 = 1;
/// How long a change may wait to be saved when nobody waits for it: it is delivered again after a crash.
pub(crate) const SAVE_INTERVAL: i64 = 250 * MILLISECOND;

#[derive(Serialize, Deserialize)]
struct Meta {
    name: String,
    created: Time,
    config: ConsumerConfig,
}

impl Consumer {
    /// Saves everything.
    pub(crate) fn save(&mut self, store: &mut Store, now: i64) -> Result<(), Error> {
        let meta = Meta { name: self.name.to_string(), created: self.created, config: self.config.clone() };
        let bytes = serde_json::to_vec(&meta).unwrap_or_default();
        store.save_checkpoint(&key(CONSUMER_PREFIX, &self.name), VERSION, &bytes)?;
        self.save_state(store, now)
    }

    /// Saves where it stands.
    pub(crate) fn save_state(&mut self, store: &mut Store, now: i64) -> Result<(), Error> {
        store.save_checkpoint(&key(STATE_PREFIX, &self.name), VERSION, &self.encode())?;
        (self.unsaved, self.save_now, self.saved_at) = (false, false, now);
        Ok(())
    }

    /// Tries again after the usual time.
    pub(crate) fn save_later(&mut self, now: i64) {
        (self.save_now, self.saved_at) = (false, now);
    }

    /// Whether the state should be saved when the batch ends.
    pub(crate) fn is_save_due(&self, now: i64) -> bool {
        self.save_now || (self.unsaved && now - self.saved_at >= SAVE_INTERVAL)
    }

    /// Forgets what was saved.
    pub(crate) fn forget(&self, store: &mut Store) {
        store.remove_checkpoint(&key(CONSUMER_PREFIX, &self.name));
        store.remove_checkpoint(&key(STATE_PREFIX, &self.name));
    }

    /// Reads a consumer back. `None` when what was saved cannot be read.
    pub(crate) fn load(checkpoint: &str, stream: &str, store: &mut Store, now: i64) -> Option<Self> {
        let (_, bytes) = store.checkpoint(checkpoint)?;
        let meta: Meta = serde_json::from_slice(bytes).ok()?;
        let mut consumer = Self::bare(&meta.name, meta.config, stream, meta.created, now);
        let state = store.checkpoint(&key(STATE_PREFIX, &meta.name)).map(|(_, bytes)| bytes.to_vec());
        if state.and_then(|state| consumer.decode(&state, now)).is_none() {
            // Without a state it begins anew: delivered twice is better than not at all.
            consumer = Self::bare(&meta.name, consumer.config, stream, meta.created, now);
            consumer.begin(store).ok()?;
        }
        // What the log lost with the power, nobody was given.
        let last = store.last_seq();
        consumer.delivered.seq = consumer.delivered.seq.min(last);
        consumer.floor.seq = consumer.floor.seq.min(last);
        let lost: Vec<u64> =
            consumer.pending.iter().map(|entry| entry.seq).filter(|seq| *seq > last).collect();
        for seq in lost {
            consumer.pending.remove(seq);
        }
        let highest = (last + 1).max(consumer.begins_at);
        consumer.next_seq = consumer.next_seq.clamp(store.first_seq().min(highest), highest);
        consumer.unsaved = false;
        Some(consumer)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.pending.len() * 16);
        for number in
            [self.delivered.delivery, self.delivered.seq, self.floor.delivery, self.floor.seq, self.next_seq]
        {
            put(&mut out, number);
        }
        put(&mut out, self.pending.len() as u64);
        let mut before = 0;
        for entry in self.pending.iter() {
            put(&mut out, entry.seq - before);
            put(&mut out, entry.delivery);
            put(&mut out, u64::from(entry.count));
            // What waits to be delivered again does so when it is read back.
            put(&mut out, if entry.queued { 0 } else { entry.due.max(0) as u64 });
            before = entry.seq;
        }
        put(&mut out, self.upcoming.len() as u64);
        let mut before = 0;
        for seq in &self.upcoming {
            put(&mut out, seq - before);
            before = *seq;
        }
        put(&mut out, self.begins_at);
        out
    }

    fn decode(&mut self, bytes: &[u8], now: i64) -> Option<()> {
        let mut rest = bytes;
        let mut number = || take(&mut rest);
        self.delivered.delivery = number()?;
        self.delivered.seq = number()?;
        self.floor.delivery = number()?;
        self.floor.seq = number()?;
        self.next_seq = number()?;
        let mut seq = 0u64;
        for _ in 0..number()? {
            seq = seq.checked_add(number()?)?;
            let (delivery, count) = (number()?, u32::try_from(number()?).ok()?.max(1));
            let due = i64::try_from(number()?).ok()?;
            // Who had it may be gone; but a wait that was asked for is kept.
            self.pending.push(Pending { seq, delivery, due: due.max(now), count, queued: false });
        }
        let mut seq = 0u64;
        for _ in 0..number()? {
            seq = seq.checked_add(number()?)?;
            self.upcoming.push_back(seq);
        }
        // It was not always written.
        self.begins_at = number().unwrap_or(self.config.opt_start_seq);
        Some(())
    }
}

/// The name of a checkpoint; at most 255 bytes, and different for different names.
fn key(prefix: &str, name: &str) -> String {
    if prefix.len() + name.len() <= 255 {
        return format!("{prefix}{name}");
    }
    // Two names this long that share 200 bytes and a hash do not occur unless somebody looks for them.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let cut = (0..=200).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    format!("{prefix}{}.{hash:016x}", &name[..cut])
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_read_back(numbers in prop::collection::vec(any::<u64>(), 0..20)) {
            let mut out = Vec::new();
            numbers.iter().for_each(|number| put(&mut out, *number));
            let mut rest = &out[..];
            for number in numbers {
                prop_assert_eq!(take(&mut rest), Some(number));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut consumer = Consumer::bare("c", ConsumerConfig::default(), "s", Time::NONE, 0);
            let _ = consumer.decode(&bytes, 0);
        }
    }

    #[test]
    fn long_names_have_keys_that_fit_and_differ() {
        let (one, two) = ("x".repeat(255), "x".repeat(254) + "y");
        let (one, two) = (key(STATE_PREFIX, &one), key(STATE_PREFIX, &two));
        assert!(one != two && one.len() <= 255);
        assert_eq!(key(STATE_PREFIX, "c"), "s.c");
    }
}
