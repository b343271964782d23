//! `/accountz` and `/accstatz`: the accounts and what their clients sent and got.

use serde::Serialize;

use super::query::{BadQuery, Problem};
use crate::shared::Shared;
use crate::snapshot::{AccountInfo, gather};
use crate::time::rfc3339;

/// The list of accounts, or one of them.
#[derive(Debug, Serialize)]
pub(crate) struct Accountz<'a> {
    server_id: &'a str,
    now: String,
    system_account: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_detail: Option<Detail>,
}

#[derive(Debug, Serialize)]
struct Detail {
    account_name: String,
    update_time: String,
    expired: bool,
    complete: bool,
    jetstream_enabled: bool,
    leafnode_connections: u64,
    client_connections: u64,
    subscriptions: u64,
    name_tag: String,
}

#[derive(Debug, Serialize)]
struct Data {
    msgs: u64,
    bytes: u64,
}

/// Totals of one account.
#[derive(Debug, Serialize)]
struct Totals {
    acc: String,
    name: String,
    conns: u64,
    leafnodes: u64,
    total_conns: u64,
    num_subscriptions: u64,
    sent: Data,
    received: Data,
    slow_consumers: u64,
}

/// Totals of all accounts.
#[derive(Debug, Serialize)]
pub(crate) struct Accstatz<'a> {
    server_id: &'a str,
    now: String,
    account_statz: Vec<Totals>,
}

/// The names of all, or `wanted` in detail. Cancel-safe.
pub(crate) async fn document<'a>(shared: &'a Shared, wanted: Option<&str>) -> Result<Accountz<'a>, Problem> {
    let known = shared.accounts.all();
    let account_detail = match wanted {
        None => None,
        Some(wanted) => {
            let unknown = || BadQuery(format!("Account {wanted} does not exist"));
            let account = known.iter().find(|account| *account.name == *wanted).ok_or_else(unknown)?;
            let totals = gather::accounts(shared).await?.into_iter().find(|known| known.name == wanted);
            let AccountInfo { connections, .. } = totals.unwrap_or_default();
            Some(Detail {
                account_name: wanted.into(),
                update_time: rfc3339(shared.started.wall),
                expired: false,
                complete: true,
                jetstream_enabled: shared.jetstream.is_on && shared.jetstream.account() == wanted,
                leafnode_connections: 0,
                client_connections: connections,
                subscriptions: account.subscriptions() as u64,
                name_tag: wanted.into(),
            })
        }
    };
    Ok(Accountz {
        server_id: &shared.server_id,
        now: rfc3339(std::time::SystemTime::now()),
        system_account: &shared.accounts.system().name,
        accounts: wanted.is_none().then(|| known.iter().map(|account| account.name.to_string()).collect()),
        account_detail,
    })
}

/// Totals of the accounts that have connections, with `unused` of all. Cancel-safe.
pub(crate) async fn totals(shared: &Shared, unused: bool) -> Result<Accstatz<'_>, Problem> {
    let mut counted = gather::accounts(shared).await?;
    for account in shared.accounts.all() {
        if !counted.iter().any(|known| *known.name == *account.name) {
            counted.push(AccountInfo { name: account.name.to_string(), ..AccountInfo::default() });
        }
    }
    counted.sort_by(|a, b| a.name.cmp(&b.name));
    let tell = |account: AccountInfo| Totals {
        acc: account.name.clone(),
        name: account.name,
        conns: account.connections,
        leafnodes: 0,
        total_conns: account.connections_total,
        num_subscriptions: account.subscriptions,
        // Seen from the server.
        sent: Data { msgs: account.traffic.out_msgs, bytes: account.traffic.out_bytes },
        received: Data { msgs: account.traffic.in_msgs, bytes: account.traffic.in_bytes },
        slow_consumers: account.slow_consumers,
    };
    Ok(Accstatz {
        server_id: &shared.server_id,
        now: rfc3339(std::time::SystemTime::now()),
        account_statz: counted
            .into_iter()
            .filter(|account| unused || account.connections > 0)
            .map(tell)
            .collect(),
    })
}
