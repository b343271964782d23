//! Messages of chat channels.

use serde::{Deserialize, Serialize};

use crate::{ChannelId, Timestamp};

/// One chat message, in or out: `channel.{channel}.in`, `channel.{channel}.out`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChannelMessage {
    /// Which channel.
    pub channel_id: ChannelId,
    /// The platform's own id of the message, or ours for one that goes out; the key against duplicates.
    pub message_id: String,
    /// The conversation within the channel.
    pub conversation: String,
    /// Who wrote it.
    pub sender: String,
    /// What.
    pub text: String,
    /// When.
    pub timestamp: Timestamp,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
}
