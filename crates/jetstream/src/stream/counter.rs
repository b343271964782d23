//! Counters: a message says what to add, and what is stored is the sum. Sums have as many digits as they need.
//!
//! A stream that takes counters from others keeps in `Nats-Counter-Sources` how much of its sum is from whom, so that
//! what is missing on the way is made up for by the next message.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use ostler_broker_proto::headers::HeaderBlock;
use serde::Deserialize;

use super::Stream;
use crate::api::ApiError;
use crate::bus::Incoming;
use crate::headers::{PublishHeaders, set};

const SOURCES: &str = "Nats-Counter-Sources";
const INCREMENT: &str = "Nats-Incr";

/// A whole number of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    negative: bool,
    /// The lowest first, without zeros at the end.
    digits: Vec<u8>,
}

impl Number {
    const ZERO: Self = Self { negative: false, digits: Vec::new() };

    /// Reads decimal digits, perhaps with a sign.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        Some(Self::of(negative, digits.bytes().rev().map(|digit| digit - b'0').collect()))
    }

    fn of(negative: bool, mut digits: Vec<u8>) -> Self {
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Self { negative: negative && !digits.is_empty(), digits }
    }

    fn plus(&self, other: &Self) -> Self {
        if self.negative == other.negative {
            return Self::of(self.negative, combined(&self.digits, &other.digits, 1));
        }
        let (larger, smaller) = match magnitude(&self.digits, &other.digits) {
            Ordering::Less => (other, self),
            _ => (self, other),
        };
        Self::of(larger.negative, combined(&larger.digits, &smaller.digits, -1))
    }

    fn minus(&self, other: &Self) -> Self {
        self.plus(&Self::of(!other.negative, other.digits.clone()))
    }
}

fn magnitude(left: &[u8], right: &[u8]) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.iter().rev().cmp(right.iter().rev()))
}

/// Adds digits, or takes them away from what is not smaller.
fn combined(left: &[u8], right: &[u8], sign: i8) -> Vec<u8> {
    let mut digits = Vec::with_capacity(left.len().max(right.len()) + 1);
    let mut carry = 0;
    for index in 0..left.len().max(right.len()) {
        let digit = |of: &[u8]| of.get(index).map_or(0, |digit| *digit as i8);
        let sum = digit(left) + sign * digit(right) + carry;
        digits.push(sum.rem_euclid(10) as u8);
        carry = sum.div_euclid(10);
    }
    if carry > 0 {
        digits.push(carry as u8);
    }
    digits
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        if self.digits.is_empty() {
            return f.write_str("0");
        }
        self.digits.iter().rev().try_for_each(|digit| write!(f, "{digit}"))
    }
}

/// What is stored on a subject: its sum, and how much of it is from whom by stream and subject.
#[derive(Debug, Clone)]
pub(crate) struct Total {
    sum: Number,
    sources: Sources,
}

type Sources = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Deserialize)]
struct Stored {
    val: String,
}

fn stored_number(payload: &[u8]) -> Option<Number> {
    Number::parse(&serde_json::from_slice::<Stored>(payload).ok()?.val)
}

/// A message with its sum.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) total: Total,
}

impl Counted {
    fn new(mut headers: Vec<u8>, total: Total) -> Self {
        if !total.sources.is_empty() {
            // Maps of text cannot fail to be written.
            set(&mut headers, SOURCES, serde_json::to_string(&total.sources).unwrap_or_default());
        }
        let payload = format!("{{\"val\":\"{}\"}}", total.sum).into_bytes();
        Self { headers, payload, total }
    }

    /// The sum, as it stands in an acknowledgement.
    pub(crate) fn value(&self) -> String {
        self.total.sum.to_string()
    }
}

impl Stream {
    /// Adds what a message says to the sum on its subject; `None` when it is no matter of counters. `before` is the
    /// sum when it is not the one that is stored.
    pub(super) fn count(
        &mut self,
        message: &Incoming<'_>,
        asked: &PublishHeaders<'_>,
        before: Option<&Total>,
    ) -> Result<Option<Counted>, ApiError> {
        let increment = match (asked.increment, self.config.allow_msg_counter) {
            (None, false) => return Ok(None),
            (None, true) => return Err(ApiError::counter_missing()),
            (Some(_), false) => return Err(ApiError::counters_disabled()),
            (Some(increment), true) => increment,
        };
        let increment = Number::parse(increment).ok_or_else(ApiError::counter_invalid)?;
        if !message.payload.is_empty() {
            return Err(ApiError::counter_payload());
        }
        let expects = asked.rollup.is_some()
            || asked.expected_stream.is_some()
            || asked.expected_last_seq.is_some()
            || asked.expected_subject_seq.is_some()
            || asked.expected_subject.is_some()
            || asked.expected_last_id.is_some();
        if expects {
            return Err(ApiError::counter_invalid());
        }
        let before = match before {
            Some(before) => before.clone(),
            None => self.total(message.subject)?,
        };
        let total = Total { sum: before.sum.plus(&increment), sources: before.sources };
        Ok(Some(Counted::new(message.headers.to_vec(), total)))
    }

    /// Adds what the sum of another stream has grown by since it was last seen.
    pub(super) fn count_sourced(
        &mut self,
        subject: &[u8],
        headers: &[u8],
        payload: &[u8],
        from: (&str, &[u8]),
    ) -> Result<Counted, ApiError> {
        let theirs = stored_number(payload).ok_or_else(ApiError::counter_broken)?;
        let mut total = self.total(subject)?;
        let (origin, of) = (from.0.to_owned(), String::from_utf8_lossy(from.1).into_owned());
        let seen = total.sources.entry(origin).or_default().insert(of, theirs.to_string());
        let seen = seen.and_then(|seen| Number::parse(&seen)).unwrap_or(Number::ZERO);
        let grown = theirs.minus(&seen);
        total.sum = total.sum.plus(&grown);
        let mut headers = headers.to_vec();
        set(&mut headers, INCREMENT, &grown);
        Ok(Counted::new(headers, total))
    }

    fn total(&mut self, subject: &[u8]) -> Result<Total, ApiError> {
        let none = Total { sum: Number::ZERO, sources: Sources::new() };
        let Some(seq) = self.store.last_on(subject, u64::MAX) else { return Ok(none) };
        let message = self.store.get(seq).map_err(|_| ApiError::counter_broken())?;
        let Some(message) = message else { return Ok(none) };
        let sum = stored_number(message.payload).ok_or_else(ApiError::counter_broken)?;
        let block = HeaderBlock::parse(message.headers).ok();
        let sources = match block.and_then(|block| block.get(SOURCES)) {
            Some(sources) => serde_json::from_slice(sources).map_err(|_| ApiError::counter_broken())?,
            None => Sources::new(),
        };
        Ok(Total { sum, sources })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_digits_with_a_sign() {
        for (text, number) in [
            ("0", Some("0")),
            ("-0", Some("0")),
            ("+007", Some("7")),
            ("-12345678901234567890123", Some("-12345678901234567890123")),
            ("", None),
            ("+", None),
            ("--1", None),
            ("1.5", None),
            ("1_000", None),
            ("0x10", None),
        ] {
            assert_eq!(Number::parse(text).map(|number| number.to_string()).as_deref(), number, "{text}");
        }
    }

    proptest! {
        #[test]
        fn sums_and_differences_are_right(left in -(1i128 << 100)..1i128 << 100, right in -(1i128 << 100)..1i128 << 100) {
            let number = |number: i128| Number::parse(&number.to_string()).unwrap();
            prop_assert_eq!(number(left).plus(&number(right)), number(left + right));
            prop_assert_eq!(number(left).minus(&number(right)), number(left - right));
        }
    }
}
