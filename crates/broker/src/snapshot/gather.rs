//! Asks every shard, portion by portion, and makes one list of what they say. All the sorting and all the texts are
//! made here, in the thread of whoever asked.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ostler_broker_proto::subject;
use tokio::sync::oneshot;

use super::{
    AccountInfo, ConnectionInfo, Connections, ConnectionsQuery, LISTED_MAX, Routing, Seen, SortBy,
    StateFilter, SubscriptionInfo, Subscriptions, SubscriptionsQuery, Unanswered, account_of,
};
use crate::link::Subscription;
use crate::shard::inbox::Envelope;
use crate::shard::look::{Answer, Question, Wanted};
use crate::shared::Shared;
use crate::time::Moment;

/// Connections whose subscriptions are told in one portion.
const LISTS_PER_QUESTION: usize = 256;

/// Lists connections. Cancel-safe.
pub(crate) async fn connections(
    shared: &Shared,
    query: &ConnectionsQuery,
) -> Result<Connections, Unanswered> {
    let mut seen = Vec::new();
    for shard in 0..shared.shards.len() {
        if query.state != StateFilter::Closed {
            let mut from_slot = Some(0);
            while let Some(from) = from_slot {
                let answer = ask(shared, shard, Wanted::Connections { from_slot: from }).await?;
                seen.extend(answer.connections.into_iter().map(|connection| (shard, connection)));
                from_slot = answer.next_slot;
            }
        }
        if query.state != StateFilter::Open {
            let ended = ask(shared, shard, Wanted::Ended).await?.connections;
            seen.extend(ended.into_iter().map(|connection| (shard, connection)));
        }
    }
    seen.retain(|(_, connection)| is_of_account(query, connection));
    let total = seen.len();
    seen.retain(|(_, connection)| fits(query, connection));
    let (matching, pending_bytes) = (seen.len(), seen.iter().map(|(_, seen)| seen.pending_bytes).sum());
    let now = Instant::now();
    seen.sort_unstable_by(|(_, a), (_, b)| compare(query.sort, now, a, b).then_with(|| a.id.cmp(&b.id)));
    let page: Vec<_> = seen.into_iter().skip(query.offset).take(query.limit()).collect();
    let mut lists = if query.subscriptions { lists_of(shared, &page).await? } else { HashMap::new() };
    let tell = |(_, seen): (usize, Seen)| {
        let list = lists.remove(&seen.id).unwrap_or_default();
        describe(&shared.started, now, seen, list)
    };
    Ok(Connections { connections: page.into_iter().map(tell).collect(), matching, total, pending_bytes })
}

/// Lists subscriptions. Cancel-safe.
pub(crate) async fn subscriptions(
    shared: &Shared,
    query: &SubscriptionsQuery,
) -> Result<Subscriptions, Unanswered> {
    let mut found = Vec::new();
    for shard in 0..shared.shards.len() {
        let mut from_slot = Some(0);
        while let Some(from) = from_slot {
            let answer = ask(shared, shard, Wanted::Subscriptions { from_slot: from }).await?;
            for held in answer.subscriptions {
                let account = held.entry.as_deref().map(account_of);
                if query.account.is_some() && query.account.as_deref() != account {
                    continue;
                }
                let fitting = held.subscriptions.iter().filter(|subscription| {
                    query.subject.as_deref().is_none_or(|wanted| {
                        subject::is_literal(wanted.as_bytes())
                            && subject::matches(&subscription.filter, wanted.as_bytes())
                    })
                });
                found.extend(fitting.map(|subscription| (Arc::clone(subscription), held.entry.clone())));
            }
            from_slot = answer.next_slot;
        }
    }
    let matching = found.len();
    found.sort_unstable_by_key(|(subscription, _)| subscription.id);
    let page = found.iter().skip(query.offset).take(query.limit());
    let tell = |(subscription, entry): &(Arc<Subscription>, _)| {
        let entry: &Option<Arc<crate::auth::Entry>> = entry;
        describe_subscription(subscription, entry.as_deref().map(account_of))
    };
    Ok(Subscriptions { subscriptions: page.map(tell).collect(), matching })
}

/// Sums up by account. Cancel-safe.
pub(crate) async fn accounts(shared: &Shared) -> Result<Vec<AccountInfo>, Unanswered> {
    let mut accounts: BTreeMap<String, AccountInfo> = BTreeMap::new();
    for shard in 0..shared.shards.len() {
        for (name, ended) in ask(shared, shard, Wanted::Ended).await?.accounts {
            let account = accounts.entry(name).or_default();
            account.connections_total += ended.connections;
            account.slow_consumers += ended.slow_consumers;
            account.traffic.add(ended.traffic);
        }
        let mut from_slot = Some(0);
        while let Some(from) = from_slot {
            let answer = ask(shared, shard, Wanted::Connections { from_slot: from }).await?;
            for seen in &answer.connections {
                let Some(name) = seen.account() else {
                    continue;
                };
                let account = accounts.entry(name.into()).or_default();
                account.connections += 1;
                account.connections_total += 1;
                account.subscriptions += seen.subscriptions;
                account.traffic.add(seen.traffic);
            }
            from_slot = answer.next_slot;
        }
    }
    Ok(accounts.into_iter().map(|(name, account)| AccountInfo { name, ..account }).collect())
}

/// What all shards remember of routes. Cancel-safe.
pub(crate) async fn routing(shared: &Shared) -> Result<Routing, Unanswered> {
    let mut routing = Routing::default();
    for shard in 0..shared.shards.len() {
        routing.add(ask(shared, shard, Wanted::Routing).await?.routing);
    }
    Ok(routing)
}

/// Waits until every shard has answered something. Cancel-safe.
pub(crate) async fn call_roll(shared: &Shared) -> Result<(), Unanswered> {
    routing(shared).await.map(|_| ())
}

async fn ask(shared: &Shared, shard: usize, wanted: Wanted) -> Result<Answer, Unanswered> {
    if shared.stopping.load(atomic::Ordering::Acquire) {
        return Err(Unanswered);
    }
    let (reply, answer) = oneshot::channel();
    shared.shards[shard].inbox.push(Envelope::Question(Question { wanted, reply }));
    answer.await.map_err(|_| Unanswered)
}

/// The subscriptions of the connections of a page, by connection.
async fn lists_of(
    shared: &Shared,
    page: &[(usize, Seen)],
) -> Result<HashMap<u64, Vec<SubscriptionInfo>>, Unanswered> {
    let mut lists = HashMap::new();
    let mut room = LISTED_MAX;
    for shard in 0..shared.shards.len() {
        let places: Vec<_> = page
            .iter()
            .filter(|(owner, seen)| *owner == shard && seen.ended.is_none() && seen.subscriptions > 0)
            .map(|(_, seen)| (seen.slot, seen.id))
            .collect();
        for portion in places.chunks(LISTS_PER_QUESTION) {
            if room == 0 {
                break;
            }
            for held in ask(shared, shard, Wanted::SubscriptionsOf(portion.to_vec())).await?.subscriptions {
                let account = held.entry.as_deref().map(account_of);
                let mut list = held.subscriptions;
                list.sort_unstable_by_key(|subscription| subscription.id);
                list.truncate(room);
                room -= list.len();
                let told = list.iter().map(|subscription| describe_subscription(subscription, account));
                lists.insert(held.connection, told.collect());
            }
        }
    }
    Ok(lists)
}

fn is_of_account(query: &ConnectionsQuery, seen: &Seen) -> bool {
    query.account.as_deref().is_none_or(|account| seen.account() == Some(account))
}

fn fits(query: &ConnectionsQuery, seen: &Seen) -> bool {
    query.id.is_none_or(|id| id == seen.id)
        && query.user.as_deref().is_none_or(|user| seen.user() == Some(user))
}

fn compare(by: SortBy, now: Instant, a: &Seen, b: &Seen) -> Ordering {
    let most = |key: fn(&Seen) -> u64| key(b).cmp(&key(a));
    let life = |seen: &Seen| seen.ended.map_or(now, |(at, _)| at).saturating_duration_since(seen.start);
    match by {
        SortBy::Id => Ordering::Equal,
        SortBy::Start => a.start.cmp(&b.start),
        SortBy::Subscriptions => most(|seen| seen.subscriptions),
        SortBy::Pending => most(|seen| seen.pending_bytes),
        SortBy::MessagesTo => most(|seen| seen.traffic.out_msgs),
        SortBy::MessagesFrom => most(|seen| seen.traffic.in_msgs),
        SortBy::BytesTo => most(|seen| seen.traffic.out_bytes),
        SortBy::BytesFrom => most(|seen| seen.traffic.in_bytes),
        SortBy::LastActivity => b.last_activity.cmp(&a.last_activity),
        SortBy::Idle => a.last_activity.cmp(&b.last_activity),
        SortBy::Uptime => life(b).cmp(&life(a)),
        SortBy::Stop => {
            let stop = |seen: &Seen| Reverse(seen.ended.map(|(at, _)| at));
            stop(a).cmp(&stop(b))
        }
        SortBy::Reason => {
            let reason = |seen: &Seen| seen.ended.map(|(_, reason)| reason.as_str());
            reason(a).cmp(&reason(b))
        }
        SortBy::RoundTrip => b.round_trip.cmp(&a.round_trip),
    }
}

fn describe(
    server: &Moment,
    now: Instant,
    seen: Seen,
    subscriptions_list: Vec<SubscriptionInfo>,
) -> ConnectionInfo {
    let until = seen.ended.map_or(now, |(at, _)| at);
    let said = |text: fn(&super::About) -> &String| {
        seen.about.as_deref().map(text).filter(|text| !text.is_empty()).cloned()
    };
    let identity = seen.entry.as_deref().filter(|entry| !entry.is_anonymous());
    ConnectionInfo {
        id: seen.id,
        peer: seen.peer(),
        identity: identity.map(|entry| entry.identity.name.clone()),
        user: seen.user().map(Into::into),
        account: seen.account().map(Into::into),
        name: said(|about| &about.name),
        lang: said(|about| &about.lang),
        version: said(|about| &about.version),
        start: server.wall_at(seen.start),
        last_activity: server.wall_at(seen.last_activity),
        round_trip: seen.round_trip,
        uptime: until.saturating_duration_since(seen.start),
        idle: until.saturating_duration_since(seen.last_activity),
        pending_bytes: seen.pending_bytes,
        traffic: seen.traffic,
        subscriptions: seen.subscriptions,
        subscriptions_list,
        ended: seen.ended.map(|(at, reason)| (server.wall_at(at), reason)),
        transport: seen.transport,
    }
}

fn describe_subscription(subscription: &Subscription, account: Option<&str>) -> SubscriptionInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (delivered, max) = subscription.progress();
    SubscriptionInfo {
        connection: subscription.link.id,
        account: account.map(Into::into),
        filter: text(&subscription.filter),
        queue: subscription.queue.as_deref().map(text),
        sid: text(subscription.sid()),
        delivered,
        max,
    }
}

/// Waits in this thread, whether a runtime drives it or not; `None` after `longest`.
pub(crate) fn within<F: Future>(longest: Duration, future: F) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let deadline = Instant::now() + longest;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_answer_or_the_deadline() {
        let (reply, answer) = oneshot::channel();
        let asked = std::thread::spawn(move || within(Duration::from_secs(20), answer));
        reply.send(7).unwrap();
        assert_eq!(asked.join().unwrap(), Some(Ok(7)));
        assert_eq!(within(Duration::from_millis(5), std::future::pending::<()>()), None);
    }
}
