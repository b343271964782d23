//! The entries of a backup, as bytes. What is in them is not looked at here.
//!
//! After the eight bytes `NATSARC1`, each entry is: length of its name, time (zigzag), sequence, length of headers,
//! length of payload, all as varints of seven bits a byte, low bits first; then name, headers, payload. The last entry
//! is empty: five zeros.

/// What an archive begins with.
pub(super) const MAGIC: &[u8; 8] = b"NATSARC1";
/// Names longer than this are no names (the same bound as nats-server's).
const NAME_MAX: u64 = 1 << 20;
/// The largest entry that is gathered in memory: what nats-server's largest message takes, twice.
const ENTRY_MAX: u64 = 128 << 20;

/// An entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// A subject, or the name of a piece of metadata; empty at the end.
    pub(super) name: &'a [u8],
    /// Nanoseconds since 1970.
    pub(super) time: i64,
    /// The sequence of a message, 0 for others.
    pub(super) seq: u64,
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Entry<'_> {
    /// Whether it says that nothing follows.
    pub(super) fn is_end(&self) -> bool {
        *self == Self::default()
    }

    /// Appends it.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put(out, self.name.len() as u64);
        put(out, ((self.time << 1) ^ (self.time >> 63)) as u64);
        put(out, self.seq);
        put(out, self.headers.len() as u64);
        put(out, self.payload.len() as u64);
        out.extend_from_slice(self.name);
        out.extend_from_slice(self.headers);
        out.extend_from_slice(self.payload);
    }
}

/// Bytes that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid;

/// Reads the entry at the beginning and says how long it was; `None` when more bytes are needed.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Entry<'_>, usize)>, Invalid> {
    let mut rest = bytes;
    let mut numbers = [0u64; 5];
    for number in &mut numbers {
        match take(&mut rest)? {
            Some(read) => *number = read,
            None => return Ok(None),
        }
    }
    let [name, time, seq, headers, payload] = numbers;
    let len = headers.checked_add(payload).ok_or(Invalid)?;
    if name > NAME_MAX || len > ENTRY_MAX {
        return Err(Invalid);
    }
    let (name, headers, payload) = (name as usize, headers as usize, payload as usize);
    if rest.len() < name + headers + payload {
        return Ok(None);
    }
    let (name, rest) = rest.split_at(name);
    let (headers, rest) = rest.split_at(headers);
    let (payload, rest) = rest.split_at(payload);
    let time = (time >> 1) as i64 ^ -((time & 1) as i64);
    Ok(Some((Entry { name, time, seq, headers, payload }, bytes.len() - rest.len())))
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Result<Option<u64>, Invalid> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = bytes.split_first() else { return Ok(None) };
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some(number));
        }
    }
    Err(Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_has_the_bytes_nats_server_gives_it() {
        let mut out = Vec::new();
        let entry = Entry { name: b"orders.5", time: -2, seq: 300, headers: b"NATS", payload: b"hello 5" };
        entry.put(&mut out);
        assert_eq!(out, b"\x08\x03\xac\x02\x04\x07orders.5NATShello 5");
        let mut end = Vec::new();
        Entry::default().put(&mut end);
        assert_eq!(end, [0; 5]);
    }

    proptest! {
        #[test]
        fn entries_are_read_back_and_their_beginnings_are_not_entries(
            name in prop::collection::vec(any::<u8>(), 0..20),
            time in any::<i64>(),
            seq in any::<u64>(),
            headers in prop::collection::vec(any::<u8>(), 0..200),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let entry = Entry { name: &name, time, seq, headers: &headers, payload: &payload };
            let mut out = Vec::new();
            entry.put(&mut out);
            prop_assert_eq!(read(&out), Ok(Some((entry, out.len()))));
            for len in 0..out.len() {
                prop_assert_eq!(read(&out[..len]), Ok(None));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn lengths_that_nobody_has_memory_for_are_refused() {
        assert_eq!(read(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Err(Invalid));
        assert_eq!(read(&[0xff; 11]), Err(Invalid));
    }
}
