//! Names that appear inside subjects, checked once at the door.
//!
//! The rule is the same for all of them: 1 to 64 characters out of `A-Z a-z 0-9 _ -`. A dot would split the subject
//! token, a wildcard would subscribe to somebody else, a space would end the protocol's argument.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest id, in characters.
pub const ID_CHARS_MAX: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {text:?} is not valid: {reason}; an id is 1 to {ID_CHARS_MAX} characters out of A-Z a-z 0-9 _ -"
)]
pub struct InvalidId {
    what: &'static str,
    text: String,
    reason: String,
}

fn check(what: &'static str, text: &str) -> Result<(), InvalidId> {
    let reason = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))) {
        format!("it contains {bad:?}")
    } else if text.len() > ID_CHARS_MAX {
        format!("it has {} characters", text.len())
    } else {
        return Ok(());
    };
    // Quoting a megabyte of garbage helps nobody; the first characters identify it.
    Err(InvalidId { what, text: text.chars().take(80).collect(), reason })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Accepts `text` when it follows the rule for ids.
            ///
            /// # Errors
            ///
            /// [`InvalidId`] names the text and what is wrong with it; show it to whoever chose the name.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check($what, text).map(|()| Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                check($what, &text).map(|()| Self(text.into_boxed_str()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into_string()
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[A-Za-z0-9_-]{1,64}$",
                    "description": concat!("A checked ", $what, ": 1 to 64 characters out of `A-Z a-z 0-9 _ -`."),
                })
            }
        }
    };
}

id!(
    /// What the user configured and named: `agent.{id}.…`.
    AgentId, "agent id"
);
id!(
    /// A machine that can host agents: `node.{node}.…`.
    NodeId, "node id"
);
id!(
    /// One question or tool call that waits for an answer: `tools.{request_id}.response`.
    RequestId, "request id"
);
id!(
    /// A chat, mail or webhook connection: `channel.{channel}.in`.
    ChannelId, "channel id"
);
id!(
    /// Scheduled work: `task.{id}.run`.
    TaskId, "task id"
);
id!(
    /// The name of a hook event as the CLI spells it: `agent.{id}.hook.{event}`.
    HookEvent, "hook event"
);

/// One incarnation of an agent's host: a version 7 UUID, so runs sort by the time they were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct RunId(uuid::Uuid);

impl RunId {
    /// Wraps an id made by the caller, who owns time and randomness.
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid)
    }

    /// Makes a new id from the clock and the operating system's randomness.
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// Accepts the hyphenated text form.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] when `text` is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        uuid::Uuid::parse_str(text).map(Self).map_err(|error| InvalidId {
            what: "run id",
            text: text.chars().take(80).collect(),
            reason: error.to_string(),
        })
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_refusal_names_the_text_the_fault_and_the_rule() {
        let text = AgentId::parse("a.b").unwrap_err().to_string();
        assert_eq!(
            text,
            "agent id \"a.b\" is not valid: it contains '.'; an id is 1 to 64 characters out of A-Z a-z 0-9 _ -"
        );
        assert!(AgentId::parse("").unwrap_err().to_string().contains("it is empty"));
        assert!(AgentId::parse(&"x".repeat(65)).unwrap_err().to_string().contains("65 characters"));
    }

    #[test]
    fn json_with_a_bad_id_is_refused() {
        assert!(serde_json::from_str::<AgentId>("\"ok-1_A\"").is_ok());
        for bad in ["\"a b\"", "\"*\"", "\">\"", "\"a.b\"", "\"\"", "\"é\"", "7"] {
            assert!(serde_json::from_str::<AgentId>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn exactly_the_allowed_alphabet_passes(text in "\\PC{0,70}") {
            let allowed = !text.is_empty()
                && text.chars().count() <= ID_CHARS_MAX
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            prop_assert_eq!(AgentId::parse(&text).is_ok(), allowed);
        }
    }
}
