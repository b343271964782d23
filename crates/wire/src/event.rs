//! Typed events of a conversational agent, the same whatever CLI it is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an agent did, read from its CLI's own lines.
///
/// Shape: an object with `type`. The untouched line stands beside it in [`crate::OutputMessage::raw`], so a type this
/// version does not know loses nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The CLI told its session; at every start and whenever it changes.
    Session {
        /// The id for resuming.
        session_id: String,
        /// The model in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// The CLI's version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// A turn began.
    TurnStarted,
    /// Text of the answer; with `delta` a piece of it, else the whole block.
    Text {
        /// The text.
        text: String,
        /// True for a piece that the whole block will repeat.
        #[serde(default)]
        delta: bool,
    },
    /// Thinking, in the same two forms.
    Thinking {
        /// The text.
        text: String,
        /// True for a piece that the whole block will repeat.
        #[serde(default)]
        delta: bool,
    },
    /// The agent calls a tool.
    ToolUse {
        /// Joins it to its result.
        tool_use_id: String,
        /// The tool's name as the CLI spells it.
        name: String,
        /// The arguments.
        input: Value,
    },
    /// The tool answered.
    ToolResult {
        /// Joins it to its use.
        tool_use_id: String,
        /// True when the tool failed or was refused.
        is_error: bool,
        /// What the model saw.
        content: Value,
    },
    /// The agent asked for permission, and how that was answered.
    Permission {
        /// The tool.
        tool: String,
        /// Its arguments.
        input: Value,
        /// Whether it may run.
        allowed: bool,
        /// Why.
        reason: String,
    },
    /// The model's service is tried again.
    Retry {
        /// Which attempt.
        attempt: u32,
        /// How many there will be at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempts_max: Option<u32>,
        /// The wait before it, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delay_ms: Option<u64>,
        /// The HTTP status that caused it; absent for a broken connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
    },
    /// The turn ended.
    Result {
        /// True when it failed, whatever the CLI calls it.
        is_error: bool,
        /// The final text, or the error's.
        #[serde(default)]
        text: String,
        /// The CLI's own word for how it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// How long it took, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        /// What this turn used: the difference, not the sum.
        usage: Usage,
    },
    /// Something a person may want to know.
    Notice {
        /// How much it matters.
        level: NoticeLevel,
        /// The sentence.
        text: String,
    },
    /// The host had to drop output while nobody took it: these numbers will never come.
    Dropped {
        /// The first dropped number.
        from_seq: u64,
        /// The last.
        to_seq: u64,
        /// Their size, in bytes.
        bytes: u64,
    },
    /// A line of a type this version does not interpret; see `raw`.
    Other {
        /// The CLI's name for it.
        name: String,
    },
}

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NoticeLevel {
    /// Good to know.
    Info,
    /// Something is not as it should be.
    Warning,
    /// Something failed.
    Error,
}

/// Tokens and money.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Usage {
    /// Tokens sent, without cached ones.
    pub input_tokens: u64,
    /// Tokens received.
    pub output_tokens: u64,
    /// Tokens read from the service's cache.
    pub cache_read_tokens: u64,
    /// Tokens written to it.
    pub cache_write_tokens: u64,
    /// Cost in US dollars, as the CLI computes it; 0 when it does not.
    pub cost_usd: f64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.cost_usd += other.cost_usd;
    }
}
