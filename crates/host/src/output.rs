//! Lines and events as messages of the bus: conversions only.

use ostler_wire::{AgentEvent, AgentId, OutputMessage, OutputStream, RunId, Timestamp};

/// What all messages of one moment share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Whose output.
    pub(crate) agent_id: &'a AgentId,
    /// The run.
    pub(crate) run_id: RunId,
    /// Which start of the process.
    pub(crate) generation: u64,
    /// The input whose turn runs.
    pub(crate) input_id: Option<&'a str>,
    /// When the line was read.
    pub(crate) timestamp: Timestamp,
}

impl Frame<'_> {
    /// A line as it is.
    pub(crate) fn line(&self, stream: OutputStream, line: &[u8], partial: bool) -> OutputMessage {
        let (data, data_base64) = text_of(line);
        OutputMessage { data: Some(data), data_base64, partial, ..self.empty(stream) }
    }

    /// A typed event, with the line it was read from when that travels with it.
    pub(crate) fn event(&self, event: AgentEvent, raw: Option<&[u8]>) -> OutputMessage {
        let (raw, data_base64) = match raw.map(text_of) {
            Some((text, original)) => (Some(text), original),
            None => (None, None),
        };
        OutputMessage { event: Some(event), raw, data_base64, ..self.empty(OutputStream::Event) }
    }

    fn empty(&self, stream: OutputStream) -> OutputMessage {
        OutputMessage {
            agent_id: self.agent_id.clone(),
            run_id: self.run_id,
            generation: self.generation,
            // Given by the outbox.
            seq: 0,
            stream,
            data: None,
            data_base64: None,
            partial: false,
            event: None,
            raw: None,
            input_id: self.input_id.map(str::to_owned),
            timestamp: self.timestamp,
        }
    }
}

/// The text of a line, and its bytes in base64 when they are no UTF-8.
fn text_of(line: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(line) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(line).into_owned(), Some(base64(line))),
    }
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for index in 0..4 {
            // One input byte fills two characters, two fill three.
            if index <= chunk.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * index)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_test_vectors_of_its_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn bytes_that_are_no_text_travel_untouched_beside_their_replacement() {
        let agent_id = AgentId::parse("a").unwrap();
        let run_id = RunId::parse("0190d2a0-0000-7000-8000-000000000001").unwrap();
        let timestamp = Timestamp::UNIX_EPOCH;
        let frame = Frame { agent_id: &agent_id, run_id, generation: 2, input_id: Some("i"), timestamp };
        let message = frame.line(OutputStream::Stderr, b"a\xff", false);
        assert_eq!(message.data.as_deref(), Some("a\u{fffd}"));
        assert_eq!(message.data_base64.as_deref(), Some("Yf8="));
        assert_eq!(message.input_id.as_deref(), Some("i"));
        let message = frame.event(AgentEvent::TurnStarted, Some(b"{}"));
        assert_eq!((message.raw.as_deref(), message.data_base64), (Some("{}"), None));
    }
}
