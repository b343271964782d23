//! Reading messages: one, or many in a row.

use std::ops::ControlFlow;

use super::Store;
use super::files::{Place, segment_name};
use crate::error::Error;
use crate::format::header::seed;
use crate::format::record::{self, Record};
use crate::message::Message;
use crate::report::{Finding, Severity};
use crate::selection::Selection;

/// Where a message's record was found.
#[derive(Debug, Clone, Copy)]
enum Found {
    Memory { segment: usize, offset: u32 },
    File { place: Place, len: u32 },
}

impl Store {
    /// The message with a sequence; `None` when it was removed, skipped, or never there.
    ///
    /// Costs a checksum and, when the message is neither recent nor near the last one read, one read of the file.
    ///
    /// # Errors
    /// [`Error::Damaged`] when its bytes are no longer what was stored; it is never served, and it is counted as lost
    /// from then on. [`Error::Io`] when the file cannot be read.
    pub fn get(&mut self, seq: u64) -> Result<Option<Message<'_>>, Error> {
        match self.locate(seq)? {
            Some(found) => Ok(self.view(found)),
            None => Ok(None),
        }
    }

    /// Reads the wanted messages from `from` on, in order, until `visit` breaks or there are no more, and says where to
    /// go on: one above the last message visited or passed over.
    ///
    /// A damaged message is passed over: it is in [`findings`](Store::findings) and counted in
    /// [`State::lost`](crate::State::lost).
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; what was visited stays visited.
    pub fn scan(
        &mut self,
        selection: &mut Selection,
        from: u64,
        mut visit: impl FnMut(Message<'_>) -> ControlFlow<()>,
    ) -> Result<u64, Error> {
        let mut at = from;
        while let Some(seq) = self.next(selection, at) {
            at = seq + 1;
            match self.locate(seq) {
                Ok(Some(found)) => {
                    if let Some(message) = self.view(found)
                        && visit(message).is_break()
                    {
                        return Ok(at);
                    }
                }
                Ok(None) | Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(at.max(self.last_seq + 1))
    }

    fn locate(&mut self, seq: u64) -> Result<Option<Found>, Error> {
        let Some((segment, position, entry)) = self.find(seq) else {
            return match self.lost_at(seq) {
                Some(place) => Err(Error::Damaged { seq, place }),
                None => Ok(None),
            };
        };
        let Some(offset) = entry.offset() else { return Ok(None) };
        let Some(files) = &mut self.files else { return Ok(Some(Found::Memory { segment, offset })) };
        let len = entry.size.record();
        let place = files.load(&self.segments[segment], offset, len)?;
        // What is still in the buffer it was built in needs no proof.
        if let Place::Window(_) = place {
            let id = self.segments[segment].id;
            let decoded = record::decode(files.bytes(place, len), seed(files.salt, id, offset));
            let same = decoded.is_some_and(
                |decoded| matches!(decoded.record, Record::Message(message, _) if message.seq == seq),
            );
            if !same {
                return Err(self.lose(seq, segment, position, offset));
            }
        }
        Ok(Some(Found::File { place, len }))
    }

    fn view(&self, found: Found) -> Option<Message<'_>> {
        let bytes = match found {
            Found::Memory { segment, offset } => &self.segments[segment].data[offset as usize..],
            Found::File { place, len } => self.files.as_ref()?.bytes(place, len),
        };
        match record::decode_trusted(bytes)?.record {
            Record::Message(message, _) => Some(message),
            _ => None,
        }
    }

    /// Takes a message whose bytes are damaged out of the index and says so.
    fn lose(&mut self, seq: u64, segment: usize, position: usize, offset: u32) -> Error {
        let place = format!("{} at offset {offset}", segment_name(self.segments[segment].id));
        self.findings.push(Finding::new(
            Severity::Damage,
            format!("message {seq}"),
            place.clone(),
            "its bytes are not what was stored",
            "it is lost; take it from a backup, then run a repair",
        ));
        self.segments[segment].damaged = true;
        self.forget(segment, position, seq);
        self.lost.insert(seq, (seq, place.clone()));
        Error::Damaged { seq, place }
    }

    fn lost_at(&self, seq: u64) -> Option<String> {
        let (_, (last, place)) = self.lost.range(..=seq).next_back()?;
        (seq <= *last).then(|| place.clone())
    }
}
