//! WebSocket frames as a server reads and writes them (RFC 6455, section 5). No socket: bytes in, payload out.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

pub(super) const BINARY: OpCode = OpCode::Data(Data::Binary);
pub(super) const CLOSE: OpCode = OpCode::Control(Control::Close);
const PONG: OpCode = OpCode::Control(Control::Pong);

/// Two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;
/// RFC 6455, 5.5: control frames have at most so much payload.
const CONTROL_BYTES_MAX: u64 = 125;

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client said farewell, with this status code if it gave one.
    Closed(Option<[u8; 2]>),
    /// It broke a rule.
    Violation(&'static str),
}

/// What was in some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Bytes of payload, at the front of what was decoded.
    pub(super) payload: usize,
    pub(super) end: Option<Ended>,
}

/// Where in a frame the stream is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    frame: Option<Frame>,
    /// Payload of a control frame, as far as it came.
    control: Vec<u8>,
    /// A message began and its last frame has not come.
    is_in_message: bool,
}

#[derive(Debug)]
struct Frame {
    /// Bytes of payload that are still to come.
    left: u64,
    /// The next byte's mask first.
    mask: [u8; 4],
    control: Option<Control>,
}

impl Decoder {
    /// Moves the payload in `bytes` to their front, and puts answers to control frames into `answers`.
    pub(super) fn decode(&mut self, bytes: &mut [u8], mut answers: Option<&mut Vec<u8>>) -> Decoded {
        let (mut from, mut payload) = (0, 0);
        while from < bytes.len() {
            let Some(frame) = &mut self.frame else {
                match self.read_header(&bytes[from..]) {
                    Ok(count) => from += count,
                    Err(rule) => return Decoded { payload, end: Some(Ended::Violation(rule)) },
                }
                // A frame without payload ends where it begins.
                if let Some(end) = self.end_frame(&mut answers) {
                    return Decoded { payload, end: Some(end) };
                }
                continue;
            };
            let count = (bytes.len() - from).min(usize::try_from(frame.left).unwrap_or(usize::MAX));
            frame.unmask(&mut bytes[from..from + count]);
            if frame.control.is_some() {
                self.control.extend_from_slice(&bytes[from..from + count]);
            } else {
                bytes.copy_within(from..from + count, payload);
                payload += count;
            }
            from += count;
            if let Some(end) = self.end_frame(&mut answers) {
                return Decoded { payload, end: Some(end) };
            }
        }
        Decoded { payload, end: None }
    }

    /// Takes the next bytes of a header; returns how many.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let had = self.header_len;
        let count = bytes.len().min(HEADER_BYTES_MAX - had);
        self.header[had..had + count].copy_from_slice(&bytes[..count]);
        let mut cursor = Cursor::new(&self.header[..had + count]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| "a frame header must be one")?;
        let Some((header, left)) = parsed else {
            self.header_len = had + count;
            return Ok(count);
        };
        let taken = cursor.position() as usize - had;
        self.header_len = 0;
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err("reserved bits need an extension, and none was agreed on");
        }
        let control = match header.opcode {
            OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
                return Err("an opcode is reserved");
            }
            OpCode::Control(_) if !header.is_final || left > CONTROL_BYTES_MAX => {
                return Err("a control frame must be whole and short");
            }
            OpCode::Control(control) => Some(control),
            OpCode::Data(data) => {
                if (data == Data::Continue) != self.is_in_message {
                    return Err("a message must be finished before the next, and begun before it goes on");
                }
                self.is_in_message = !header.is_final;
                None
            }
        };
        let mask = header.mask.ok_or("frames of a client must be masked")?;
        self.frame = Some(Frame { left, mask, control });
        Ok(taken)
    }

    /// If a frame is whole: forgets it, and answers it if it asks for that.
    fn end_frame(&mut self, answers: &mut Option<&mut Vec<u8>>) -> Option<Ended> {
        let control = self.frame.as_ref().filter(|frame| frame.left == 0)?.control;
        self.frame = None;
        let body = std::mem::take(&mut self.control);
        match (control, answers) {
            (Some(Control::Close), _) => Some(Ended::Closed(body.first_chunk().copied())),
            (Some(Control::Ping), Some(out)) => {
                write_frame(out, PONG, &body);
                None
            }
            _ => None,
        }
    }
}

impl Frame {
    fn unmask(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(4) {
            for (byte, key) in chunk.iter_mut().zip(self.mask) {
                *byte ^= key;
            }
        }
        self.mask.rotate_left(bytes.len() % 4);
        self.left -= bytes.len() as u64;
    }
}

/// Appends a whole frame. A server does not mask.
pub(super) fn write_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    write_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends the header of a binary frame, whose `len` bytes of payload must follow.
pub(super) fn write_data_header(out: &mut Vec<u8>, len: usize) {
    write_header(out, BINARY, len);
}

fn write_header(out: &mut Vec<u8>, opcode: OpCode, len: usize) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(len as u64, out).expect("a vector takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    /// Decodes `bytes` in pieces of `step`.
    fn decode(bytes: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, Option<Ended>) {
        let (mut decoder, mut payload, mut answers) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            let mut piece = piece.to_vec();
            let decoded = decoder.decode(&mut piece, Some(&mut answers));
            payload.extend_from_slice(&piece[..decoded.payload]);
            if decoded.end.is_some() {
                return (payload, answers, decoded.end);
            }
        }
        (payload, answers, None)
    }

    #[test]
    fn payload_is_the_same_however_it_is_framed_and_cut() {
        let long = vec![b'x'; 300];
        let bytes = [
            masked(0x82, b"PUB a 1\r\n"),
            masked(0x02, b"x"),
            masked(0x89, b"ping"),
            masked(0x00, b""),
            masked(0x80, b"\r\n"),
            masked(0x81, &long),
        ]
        .concat();
        let expected = [&b"PUB a 1\r\nx\r\n"[..], &long].concat();
        for step in [1, 2, 3, 5, 7, 16, 1000] {
            let (payload, answers, end) = decode(&bytes, step);
            assert_eq!((payload, end), (expected.clone(), None), "{step}");
            assert_eq!(answers, b"\x8a\x04ping", "{step}");
        }
    }

    #[test]
    fn a_farewell_is_told_with_its_code() {
        for step in [1, 100] {
            let code = 1000_u16.to_be_bytes();
            let (payload, answers, end) =
                decode(&[masked(0x82, b"a"), masked(0x88, b"\x03\xe8bye")].concat(), step);
            assert_eq!((payload, answers, end), (b"a".to_vec(), Vec::new(), Some(Ended::Closed(Some(code)))));
        }
    }

    #[test]
    fn broken_rules_end_the_connection() {
        let unmasked = b"\x82\x01a".to_vec();
        let bad = [
            unmasked,
            masked(0xc2, b"rsv"),
            masked(0x83, b"reserved data"),
            masked(0x8b, b"reserved control"),
            masked(0x09, b"split ping"),
            masked(0x89, &[0; 126]),
            masked(0x80, b"goes on with nothing"),
            [masked(0x02, b"first"), masked(0x82, b"second")].concat(),
        ];
        for bytes in bad {
            let (_, answers, end) = decode(&bytes, 1000);
            assert!(matches!(end, Some(Ended::Violation(_))) && answers.is_empty(), "{bytes:?}");
        }
    }

    #[test]
    fn a_frame_may_say_that_it_is_longer_than_memory() {
        let mut bytes = vec![0x82, 0xff];
        bytes.extend_from_slice(&(1_u64 << 62).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 0]);
        bytes.extend_from_slice(b"PING\r\n");
        let (payload, _, end) = decode(&bytes, 1000);
        assert_eq!((payload, end), (b"PING\r\n".to_vec(), None));
    }
}
