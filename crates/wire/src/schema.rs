//! JSON Schemas of every message, for readers in other languages; only with the feature `schema`.
//!
//! The schemas describe what a sender may rely on. Receivers ignore fields they do not know, so none of them forbids
//! additional properties.

use serde_json::{Map, Value};

use crate::protocol::{MESSAGES, MessageType};

/// The folder of the published schemas, as their `$id`s name it.
const BASE: &str = "https://ostler.invalid/schemas";

/// The JSON Schema of one message, complete in itself.
///
/// Shape: JSON Schema 2020-12 with the types it uses under `$defs`.
pub fn schema(message: &MessageType) -> Value {
    let mut schema = (message.schema)().to_value();
    plain_descriptions(&mut schema);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$id".to_owned(), format!("{BASE}/{}.json", message.name).into());
    }
    schema
}

/// Every type that messages are made of and that is no message itself, by name.
pub fn shared_types() -> Map<String, Value> {
    let mut types = Map::new();
    for message in MESSAGES {
        if let Some(Value::Object(defs)) = schema(message).get_mut("$defs").map(Value::take) {
            types.extend(defs);
        }
    }
    types.into_iter().filter(|(name, _)| !MESSAGES.iter().any(|message| message.name == *name)).collect()
}

/// Descriptions come from Rust documentation: links to items become their names, hard line breaks become spaces.
fn plain_descriptions(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Value::String(text) if key == "description" => *text = plain(text),
                    value => plain_descriptions(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain_descriptions),
        _ => {}
    }
}

fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`").replace("`crate::", "`").replace("::", ".");
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_carry_no_rust_links() {
        assert_eq!(
            plain("See [`crate::OutputMessage::raw`],\nand [`StopRequest`].\n\nMore."),
            "See `OutputMessage.raw`, and `StopRequest`.\n\nMore."
        );
        for message in MESSAGES {
            let text = schema(message).to_string();
            assert!(!text.contains("[`") && !text.contains("::"), "{}: {text}", message.name);
        }
    }

    #[test]
    fn shared_types_are_described_once() {
        let types = shared_types();
        assert!(types.contains_key("AgentState") && types.contains_key("AgentEvent"));
        assert!(!types.contains_key("StatusMessage"));
    }
}
