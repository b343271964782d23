//! `/connz`: the connections, live and ended. nats-server's names, types and orders.

use serde::Serialize;

use super::query::{BadQuery, Problem, Query};
use super::subsz::Subscribed;
use crate::accounts::GLOBAL_ACCOUNT;
use crate::shared::Shared;
use crate::snapshot::{
    ConnectionInfo, Connections, ConnectionsQuery, SortBy, StateFilter, SubscriptionInfo, gather,
};
use crate::time::{go_duration, rfc3339, uptime};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    sort: String,
    auth: bool,
    subscriptions: bool,
    subscriptions_detail: bool,
    offset: i64,
    limit: i64,
    cid: u64,
    state: StateFilter,
    user: String,
    acc: String,
}

impl Options {
    pub(crate) fn parse(query: &Query<'_>) -> Result<Self, BadQuery> {
        let state = match query.text("state").map(str::to_ascii_lowercase).as_deref() {
            None | Some("open") => StateFilter::Open,
            Some("closed") => StateFilter::Closed,
            Some("any" | "all") => StateFilter::All,
            Some(other) => return Err(BadQuery(format!("Error decoding state for {other}"))),
        };
        let is_detailed = query.text("subs").is_some_and(|subs| subs.eq_ignore_ascii_case("detail"));
        let number =
            |key| Ok(query.number(key)?.map_or(0, |number| i64::try_from(number).unwrap_or(i64::MAX)));
        Ok(Self {
            sort: query.text("sort").unwrap_or_default().into(),
            auth: query.flag("auth")?,
            subscriptions: !is_detailed && query.flag("subs")?,
            subscriptions_detail: is_detailed,
            offset: number("offset")?,
            limit: number("limit")?,
            cid: query.number("cid")?.unwrap_or(0),
            state,
            user: query.text("user").unwrap_or_default().into(),
            acc: query.text("acc").unwrap_or_default().into(),
        })
    }

    fn query(&self) -> Result<ConnectionsQuery, BadQuery> {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let state = self.state;
        let sort = sort_by(&self.sort)?;
        if matches!(sort, SortBy::Stop | SortBy::Reason) && state == StateFilter::Open {
            return Err(BadQuery(format!("sort by {} only valid on closed connections", self.sort)));
        }
        let id = Some(self.cid).filter(|id| *id != 0);
        Ok(ConnectionsQuery {
            state,
            id,
            user: given(&self.user),
            account: given(&self.acc),
            sort,
            offset: usize::try_from(self.offset).unwrap_or(0),
            limit: usize::try_from(self.limit).ok(),
            subscriptions: self.subscriptions || self.subscriptions_detail,
        })
    }
}

fn sort_by(name: &str) -> Result<SortBy, BadQuery> {
    Ok(match name {
        "" | "cid" => SortBy::Id,
        "start" => SortBy::Start,
        "subs" => SortBy::Subscriptions,
        "pending" => SortBy::Pending,
        "msgs_to" => SortBy::MessagesTo,
        "msgs_from" => SortBy::MessagesFrom,
        "bytes_to" => SortBy::BytesTo,
        "bytes_from" => SortBy::BytesFrom,
        "last" => SortBy::LastActivity,
        "idle" => SortBy::Idle,
        "uptime" => SortBy::Uptime,
        "stop" => SortBy::Stop,
        "reason" => SortBy::Reason,
        "rtt" => SortBy::RoundTrip,
        other => return Err(BadQuery(format!("invalid sorting option: {other}"))),
    })
}

/// The document.
#[derive(Debug, Serialize)]
pub(crate) struct Connz<'a> {
    server_id: &'a str,
    now: String,
    num_connections: usize,
    total: usize,
    offset: usize,
    limit: usize,
    connections: Vec<Connected>,
}

#[derive(Debug, Serialize)]
struct Connected {
    cid: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    type_: &'static str,
    ip: String,
    port: u16,
    start: String,
    last_activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt: Option<String>,
    uptime: String,
    idle: String,
    pending_bytes: u64,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lang: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cipher_suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorized_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list_detail: Option<Vec<Subscribed>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_tag: Option<String>,
}

/// The document of this moment. Cancel-safe.
pub(crate) async fn document<'a>(shared: &'a Shared, options: &Options) -> Result<Connz<'a>, Problem> {
    let query = options.query()?;
    let Connections { connections, total, .. } = gather::connections(shared, &query).await?;
    let shown: Vec<_> = connections.into_iter().map(|connection| show(options, connection)).collect();
    Ok(Connz {
        server_id: &shared.server_id,
        now: rfc3339(std::time::SystemTime::now()),
        num_connections: shown.len(),
        total,
        offset: query.offset,
        limit: if query.id.is_some() { 1 } else { query.limit() },
        connections: shown,
    })
}

fn show(options: &Options, connection: ConnectionInfo) -> Connected {
    let filters = |list: &[SubscriptionInfo]| {
        let filters: Vec<_> = list.iter().map(|subscription| subscription.filter.clone()).collect();
        Some(filters).filter(|filters| options.subscriptions && !filters.is_empty())
    };
    let subscriptions_list = filters(&connection.subscriptions_list);
    let detailed =
        connection.subscriptions_list.into_iter().map(Subscribed::of_connection).collect::<Vec<_>>();
    let account = connection.account.filter(|_| options.auth);
    Connected {
        cid: connection.id,
        kind: "Client",
        type_: if connection.transport.is_websocket { "websocket" } else { "nats" },
        ip: connection.peer.ip().to_string(),
        port: connection.peer.port(),
        start: rfc3339(connection.start),
        last_activity: rfc3339(connection.last_activity),
        stop: connection.ended.map(|(at, _)| rfc3339(at)),
        reason: connection.ended.map(|(_, reason)| reason.as_str()),
        rtt: connection.round_trip.map(go_duration),
        uptime: uptime(connection.uptime),
        idle: uptime(connection.idle),
        pending_bytes: connection.pending_bytes,
        in_msgs: connection.traffic.in_msgs,
        out_msgs: connection.traffic.out_msgs,
        in_bytes: connection.traffic.in_bytes,
        out_bytes: connection.traffic.out_bytes,
        subscriptions: connection.subscriptions,
        name: connection.name,
        lang: connection.lang,
        version: connection.version,
        tls_version: connection.transport.tls_version,
        tls_cipher_suite: connection.transport.tls_cipher,
        authorized_user: connection.user.filter(|_| options.auth),
        // The account of everybody is not worth a word there.
        account: account.clone().filter(|account| account != GLOBAL_ACCOUNT),
        subscriptions_list,
        subscriptions_list_detail: Some(detailed)
            .filter(|list| options.subscriptions_detail && !list.is_empty()),
        name_tag: account,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_understood_or_refused() {
        let parse = |text: &str| Options::parse(&Query::parse(text)).and_then(|options| options.query());
        let query = parse("limit=5&offset=2&sort=msgs_to&subs=detail&state=ALL&acc=A&user=u").unwrap();
        assert_eq!((query.limit, query.offset, query.sort), (Some(5), 2, SortBy::MessagesTo));
        assert!(query.subscriptions && query.state == StateFilter::All);
        assert_eq!((query.account.as_deref(), query.user.as_deref()), (Some("A"), Some("u")));
        for (text, refused) in [
            ("sort=nope", "invalid sorting option: nope"),
            ("sort=stop", "sort by stop only valid on closed connections"),
            ("state=nope", "Error decoding state for nope"),
            ("limit=x", "Error decoding int for 'limit': \"x\" is not a number"),
            ("subs=maybe", "Error decoding boolean for 'subs': \"maybe\" is neither true nor false"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), refused);
        }
        assert!(parse("sort=stop&state=closed").is_ok());
    }
}
