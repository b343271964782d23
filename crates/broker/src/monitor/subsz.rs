//! `/subsz`: the subscriptions of clients, and how well their routes are remembered.

use ostler_broker_proto::subject;
use serde::Serialize;

use super::query::{BadQuery, Problem, Query};
use crate::shared::Shared;
use crate::snapshot::{Routing, SubscriptionInfo, SubscriptionsQuery, gather};
use crate::stats::Stats;
use crate::time::rfc3339;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    offset: i64,
    limit: i64,
    subscriptions: bool,
    account: String,
    test: String,
}

impl Options {
    pub(crate) fn parse(query: &Query<'_>) -> Result<Self, BadQuery> {
        let number =
            |key| Ok(query.number(key)?.map_or(0, |number| i64::try_from(number).unwrap_or(i64::MAX)));
        Ok(Self {
            offset: number("offset")?,
            limit: number("limit")?,
            subscriptions: query.flag("subs")?,
            account: query.text("acc").unwrap_or_default().into(),
            test: query.text("test").unwrap_or_default().into(),
        })
    }

    fn query(&self) -> Result<SubscriptionsQuery, BadQuery> {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        if !self.test.is_empty() && !subject::is_literal(self.test.as_bytes()) {
            let problem = format!("invalid test subject, must be valid publish subject: {}", self.test);
            return Err(BadQuery(problem));
        }
        Ok(SubscriptionsQuery {
            account: given(&self.account),
            subject: given(&self.test),
            offset: usize::try_from(self.offset).unwrap_or(0),
            limit: usize::try_from(self.limit).ok(),
        })
    }
}

/// One subscription in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Subscribed {
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_tag: Option<String>,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    qgroup: Option<String>,
    sid: String,
    msgs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<u64>,
    cid: u64,
}

impl Subscribed {
    fn new(subscription: SubscriptionInfo) -> Self {
        Self {
            account_tag: subscription.account.clone(),
            account: subscription.account,
            subject: subscription.filter,
            qgroup: subscription.queue,
            sid: subscription.sid,
            msgs: subscription.delivered,
            max: subscription.max,
            cid: subscription.connection,
        }
    }

    /// In the list of a connection, whose account is told already.
    pub(crate) fn of_connection(subscription: SubscriptionInfo) -> Self {
        Self { account: None, account_tag: None, ..Self::new(subscription) }
    }
}

/// The document.
#[derive(Debug, Serialize)]
pub(crate) struct Subsz<'a> {
    server_id: &'a str,
    now: String,
    num_subscriptions: usize,
    num_cache: u64,
    num_inserts: u64,
    num_removes: u64,
    num_matches: u64,
    cache_hit_rate: f64,
    max_fanout: u64,
    avg_fanout: f64,
    total: usize,
    offset: usize,
    limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list: Option<Vec<Subscribed>>,
}

/// The document of this moment. Cancel-safe.
pub(crate) async fn document<'a>(shared: &'a Shared, options: &Options) -> Result<Subsz<'a>, Problem> {
    let query = options.query()?;
    let found = gather::subscriptions(shared, &query).await?;
    let Routing { subjects, fanout_max, fanout_sum, misses } = gather::routing(shared).await?;
    let stats = Stats::of(shared);
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let is_narrowed = query.account.is_some();
    Ok(Subsz {
        server_id: &shared.server_id,
        now: rfc3339(std::time::SystemTime::now()),
        num_subscriptions: if is_narrowed { found.matching } else { stats.subscriptions as usize },
        num_cache: subjects,
        num_inserts: stats.subscriptions_total,
        num_removes: stats.subscriptions_total.saturating_sub(stats.subscriptions),
        // Each message is matched once.
        num_matches: stats.in_msgs,
        cache_hit_rate: share(stats.in_msgs.saturating_sub(misses), stats.in_msgs),
        max_fanout: fanout_max,
        avg_fanout: share(fanout_sum, subjects),
        total: if options.subscriptions { found.matching } else { 0 },
        offset: query.offset,
        limit: query.limit(),
        subscriptions_list: options
            .subscriptions
            .then(|| found.subscriptions.into_iter().map(Subscribed::new).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_subject_must_be_one_that_can_be_published_to() {
        let parse = |text: &str| Options::parse(&Query::parse(text)).and_then(|options| options.query());
        assert_eq!(parse("test=foo.x&subs=1").unwrap().subject.as_deref(), Some("foo.x"));
        for bad in ["foo..x", "foo.*", ">"] {
            let refused = parse(&format!("test={bad}")).unwrap_err().to_string();
            assert_eq!(refused, format!("invalid test subject, must be valid publish subject: {bad}"));
        }
    }
}
