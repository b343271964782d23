//! The JSON of `$JS.API.>`: requests, answers, refusals. What is done with them is decided elsewhere.

mod error;
mod json;
mod request;
mod types;

pub use error::ApiError;
pub use json::Strictness;
pub use types::{AccountInfo, AccountLimits, ApiCounts, SequenceInfo, SourceInfo, StreamInfo, StreamState};

pub(crate) use json::{is_nothing, read, read_ignoring_nulls, read_or_default};
pub(crate) use request::{
    Command, ConsumerCreate, DirectGet, InfoRequest, ListRequest, MessageDelete, MessageGet, NamesRequest,
    PauseRequest, Purge, ResetRequest, UnpinRequest,
};
pub(crate) use types::{
    Answer, Created, Deleted, Listed, MessageFound, Named, Paused, Purged, Reset, StoredMessage, Unpinned,
    refusal, render,
};
