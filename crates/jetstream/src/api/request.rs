//! What is asked for: the subject says what and of which stream, the payload how.

use serde::Deserialize;

use crate::consumer::ConsumerConfig;
use crate::handle_consumers::Wanted;
use crate::time::Time;

/// A request's subject behind `$JS.API.`, taken apart. Names are whatever stands there; they need not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Info,
    StreamCreate(&'a str),
    StreamUpdate(&'a str),
    StreamInfo(&'a str),
    StreamDelete(&'a str),
    StreamPurge(&'a str),
    StreamSnapshot(&'a str),
    StreamRestore(&'a str),
    StreamNames,
    StreamList,
    MessageGet(&'a str),
    MessageDelete(&'a str),
    /// The rest of the subject is the subject asked for.
    DirectGet(&'a str, Option<&'a str>),
    ConsumerCreate(&'a str, Wanted<'a>),
    ConsumerInfo(&'a str, &'a str),
    ConsumerDelete(&'a str, &'a str),
    ConsumerPause(&'a str, &'a str),
    ConsumerUnpin(&'a str, &'a str),
    ConsumerReset(&'a str, &'a str),
    ConsumerNames(&'a str),
    ConsumerList(&'a str),
    NextMessages(&'a str, &'a str),
    /// Only a cluster could: the answer's type.
    Clustered(&'static str),
}

impl<'a> Command<'a> {
    /// Reads what follows `$JS.API.`; `None` for what no server answers.
    pub(crate) fn parse(subject: &'a str) -> Option<Self> {
        let (group, rest) = subject.split_once('.').unwrap_or((subject, ""));
        let (verb, rest) = rest.split_once('.').unwrap_or((rest, ""));
        match (group, verb) {
            ("INFO", "") => Some(Self::Info),
            ("DIRECT", "GET") => {
                let (name, subject) = match rest.split_once('.') {
                    Some((name, subject)) => (name, Some(subject)),
                    None => (rest, None),
                };
                (!name.is_empty()).then_some(Self::DirectGet(name, subject))
            }
            ("STREAM", _) => Self::stream(verb, rest),
            ("CONSUMER", _) => Self::consumer(verb, rest),
            _ => None,
        }
    }

    fn consumer(verb: &str, rest: &'a str) -> Option<Self> {
        let pair = |rest: &'a str| {
            rest.split_once('.').filter(|(stream, name)| one_token(stream) && one_token(name))
        };
        match verb {
            "CREATE" => {
                let mut parts = rest.splitn(3, '.');
                let stream = parts.next().filter(|stream| !stream.is_empty())?;
                let wanted = match (parts.next(), parts.next()) {
                    (None, _) => Wanted::Ephemeral,
                    (Some(name), filter) => Wanted::Named(name, filter),
                };
                Some(Self::ConsumerCreate(stream, wanted))
            }
            "DURABLE" => {
                let (stream, name) = pair(rest.strip_prefix("CREATE.")?)?;
                Some(Self::ConsumerCreate(stream, Wanted::Durable(name)))
            }
            "INFO" => pair(rest).map(|(stream, name)| Self::ConsumerInfo(stream, name)),
            "DELETE" => pair(rest).map(|(stream, name)| Self::ConsumerDelete(stream, name)),
            "PAUSE" => pair(rest).map(|(stream, name)| Self::ConsumerPause(stream, name)),
            "UNPIN" => pair(rest).map(|(stream, name)| Self::ConsumerUnpin(stream, name)),
            "RESET" => pair(rest).map(|(stream, name)| Self::ConsumerReset(stream, name)),
            "NAMES" => one_token(rest).then_some(Self::ConsumerNames(rest)),
            "LIST" => one_token(rest).then_some(Self::ConsumerList(rest)),
            "MSG" => pair(rest.strip_prefix("NEXT.")?).map(|(stream, name)| Self::NextMessages(stream, name)),
            "LEADER" => Some(Self::Clustered("consumer_leader_stepdown_response")),
            _ => None,
        }
    }

    fn stream(verb: &str, rest: &'a str) -> Option<Self> {
        match (verb, rest) {
            ("NAMES", "") => return Some(Self::StreamNames),
            ("LIST", "") => return Some(Self::StreamList),
            ("MSG", _) => {
                return match rest.split_once('.') {
                    Some(("GET", name)) if one_token(name) => Some(Self::MessageGet(name)),
                    Some(("DELETE", name)) if one_token(name) => Some(Self::MessageDelete(name)),
                    _ => None,
                };
            }
            ("LEADER", _) => return Some(Self::Clustered("stream_leader_stepdown_response")),
            ("PEER", _) => return Some(Self::Clustered("stream_remove_peer_response")),
            ("CANCEL_MOVE", _) => return Some(Self::Clustered("stream_cancel_move_response")),
            _ => {}
        }
        if !one_token(rest) {
            return None;
        }
        match verb {
            "CREATE" => Some(Self::StreamCreate(rest)),
            "UPDATE" => Some(Self::StreamUpdate(rest)),
            "INFO" => Some(Self::StreamInfo(rest)),
            "DELETE" => Some(Self::StreamDelete(rest)),
            "PURGE" => Some(Self::StreamPurge(rest)),
            "SNAPSHOT" => Some(Self::StreamSnapshot(rest)),
            "RESTORE" => Some(Self::StreamRestore(rest)),
            _ => None,
        }
    }
}

fn one_token(text: &str) -> bool {
    !text.is_empty() && !text.contains('.')
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NamesRequest {
    pub(crate) offset: usize,
    pub(crate) subject: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListRequest {
    pub(crate) offset: usize,
    pub(crate) subject: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InfoRequest {
    pub(crate) offset: usize,
    pub(crate) deleted_details: bool,
    pub(crate) subjects_filter: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConsumerCreate {
    pub(crate) stream_name: String,
    pub(crate) config: ConsumerConfig,
    /// `create`, `update`, or nothing for whichever it is.
    pub(crate) action: String,
    /// Nothing is to be corrected silently.
    pub(crate) pedantic: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PauseRequest {
    pub(crate) pause_until: Time,
}

/// nats-server reads this one leniently.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResetRequest {
    /// Where to go on; 0 is behind what is acknowledged.
    pub(crate) seq: u64,
}

/// nats-server reads this one leniently.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UnpinRequest {
    pub(crate) group: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Purge {
    /// Only below this sequence.
    pub(crate) seq: u64,
    pub(crate) filter: String,
    /// Leaves the last so many.
    pub(crate) keep: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MessageDelete {
    pub(crate) seq: u64,
    pub(crate) no_erase: bool,
}

/// Asks for a message with an answer in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MessageGet {
    pub(crate) seq: u64,
    pub(crate) last_by_subj: String,
    pub(crate) next_by_subj: String,
    pub(crate) start_time: Time,
    pub(crate) no_hdr: bool,
    // Those of a direct get are known here and refused when set.
    pub(crate) batch: u64,
    pub(crate) max_bytes: u64,
    pub(crate) multi_last: Vec<String>,
    pub(crate) up_to_seq: u64,
    pub(crate) up_to_time: Time,
}

/// Asks for messages with an answer in headers; unknown fields are ignored here, as nats-server does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DirectGet {
    pub(crate) seq: u64,
    pub(crate) last_by_subj: String,
    pub(crate) next_by_subj: String,
    pub(crate) batch: u64,
    pub(crate) max_bytes: u64,
    pub(crate) start_time: Time,
    pub(crate) multi_last: Vec<String>,
    pub(crate) up_to_seq: u64,
    pub(crate) up_to_time: Time,
    pub(crate) no_hdr: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_taken_apart() {
        for (subject, command) in [
            ("INFO", Some(Command::Info)),
            ("STREAM.CREATE.S", Some(Command::StreamCreate("S"))),
            ("STREAM.NAMES", Some(Command::StreamNames)),
            ("STREAM.MSG.GET.S", Some(Command::MessageGet("S"))),
            ("DIRECT.GET.S", Some(Command::DirectGet("S", None))),
            ("DIRECT.GET.S.a.b", Some(Command::DirectGet("S", Some("a.b")))),
            ("STREAM.LEADER.STEPDOWN.S", Some(Command::Clustered("stream_leader_stepdown_response"))),
            ("STREAM.CANCEL_MOVE.S", Some(Command::Clustered("stream_cancel_move_response"))),
            ("CONSUMER.CREATE.S", Some(Command::ConsumerCreate("S", Wanted::Ephemeral))),
            ("CONSUMER.CREATE.S.c", Some(Command::ConsumerCreate("S", Wanted::Named("c", None)))),
            ("CONSUMER.CREATE.S.c.a.>", Some(Command::ConsumerCreate("S", Wanted::Named("c", Some("a.>"))))),
            ("CONSUMER.DURABLE.CREATE.S.c", Some(Command::ConsumerCreate("S", Wanted::Durable("c")))),
            ("CONSUMER.MSG.NEXT.S.c", Some(Command::NextMessages("S", "c"))),
            ("CONSUMER.INFO.S", None),
            ("STREAM.CREATE.S.x", None),
            ("STREAM.CREATE", None),
            ("STREAM.BOGUS.S", None),
            ("", None),
        ] {
            assert_eq!(Command::parse(subject), command, "{subject}");
        }
    }
}
