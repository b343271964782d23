//! The lines we write to Claude Code: prompts, control requests and the answers to its own.

use serde_json::{Value, json};
use uuid::Uuid;

/// One line of JSON with its line feed.
fn line(value: &Value) -> Vec<u8> {
    // `Display` of a JSON value escapes every line feed inside it, so this is one line.
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn request(request_id: &str, request: &Value) -> Vec<u8> {
    line(&json!({"type": "control_request", "request_id": request_id, "request": request}))
}

/// The greeting. No hooks and no tool servers of ours: what is not asked for is never called back.
pub(super) fn initialize(request_id: &str) -> Vec<u8> {
    request(request_id, &json!({"subtype": "initialize"}))
}

/// Asks what the session has cost before this process; answered without a model call.
pub(super) fn session_cost(request_id: &str) -> Vec<u8> {
    request(request_id, &json!({"subtype": "get_session_cost"}))
}

/// Breaks off the running turn; harmless when none runs.
pub(super) fn interrupt(request_id: &str) -> Vec<u8> {
    request(request_id, &json!({"subtype": "interrupt"}))
}

/// One user turn.
pub(super) fn prompt(text: &str, uuid: &str) -> Vec<u8> {
    line(&json!({"type": "user", "message": {"role": "user", "content": text}, "uuid": uuid}))
}

/// Lets a tool run with the arguments it was asked for.
pub(super) fn allow(request_id: &str, input: &Value) -> Vec<u8> {
    success(request_id, &json!({"behavior": "allow", "updatedInput": input}))
}

/// Keeps a tool from running; the model reads the reason and goes on without it.
pub(super) fn deny(request_id: &str, reason: &str) -> Vec<u8> {
    success(request_id, &json!({"behavior": "deny", "message": reason, "interrupt": false}))
}

fn success(request_id: &str, response: &Value) -> Vec<u8> {
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": request_id, "response": response},
    }))
}

/// Refuses a control request of the CLI; an unanswered one would hold up its turn.
pub(super) fn refuse(request_id: &str, reason: &str) -> Vec<u8> {
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "error", "request_id": request_id, "error": reason},
    }))
}

/// The uuid of a prompt, made from everything that tells it from every other one.
///
/// The CLI silently drops a prompt whose uuid it has seen in the session, so the input's own id alone will not do: a
/// sender may use it twice. `process` tells the processes of a session apart, `turn` the prompts of a process.
pub(super) fn prompt_uuid(input_id: &str, process: &str, turn: u64) -> String {
    let mut hash = Fnv128::new();
    for part in [input_id.as_bytes(), process.as_bytes(), &turn.to_be_bytes()] {
        hash.write(&(part.len() as u64).to_be_bytes());
        hash.write(part);
    }
    // Version 8: "custom", a uuid whose bits follow no common recipe (RFC 9562, section 5.8).
    uuid::Builder::from_bytes(hash.0.to_be_bytes())
        .with_version(uuid::Version::Custom)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
        .as_hyphenated()
        .encode_lower(&mut Uuid::encode_buffer())
        .to_owned()
}

/// FNV-1a with 128 bits: short, stable for ever, and good enough where nobody plays against us.
struct Fnv128(u128);

impl Fnv128 {
    /// The offset basis; it and the prime are those of <http://www.isthe.com/chongo/tech/comp/fnv/>.
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_one_line_whatever_its_text() {
        let bytes = prompt("two\nlines \u{2028} \"quoted\" \0", "u");
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let back: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back["message"]["content"], "two\nlines \u{2028} \"quoted\" \0");
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors for FNV-1a 128 of "" and "a".
        assert_eq!(Fnv128::new().0, 0x6c62272e07bb014262b821756295c58d);
        let mut hash = Fnv128::new();
        hash.write(b"a");
        assert_eq!(hash.0, 0xd228cb696f1a8caf78912b704e4a8964);
    }

    #[test]
    fn uuids_differ_by_input_process_and_turn() {
        let one = prompt_uuid("a", "p", 1);
        assert_eq!(one, prompt_uuid("a", "p", 1));
        assert_ne!(one, prompt_uuid("a", "p", 2));
        assert_ne!(one, prompt_uuid("a", "q", 1));
        assert_ne!(one, prompt_uuid("b", "p", 1));
        assert_ne!(prompt_uuid("ab", "c", 1), prompt_uuid("a", "bc", 1));
        assert_eq!(Uuid::parse_str(&one).unwrap().get_version_num(), 8);
    }
}
