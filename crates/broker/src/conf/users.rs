//! Who may connect: `authorization`, `accounts` and the permissions within them, with nats-server's meaning of what is
//! absent, turned into identities.

use std::collections::BTreeSet;
use std::time::Duration;

use ostler_broker_proto::subject::Filter;

use super::error::Notes;
use super::fields::Fields;
use super::jetstream::{self, JetStreamAccountLimits};
use super::parse::is_bcrypt;
use super::value::{Block, Entry, Kind, Position, Value};
use crate::auth::{Credential, Identity, Users};
use crate::permissions::{AllowResponses, Permissions, Rules};

/// The account of users outside `accounts`.
const GLOBAL: &str = "$G";
/// The system account where none is named.
const SYSTEM: &str = "$SYS";
/// Longer than any server runs: how `expires: -1`, for ever, is said.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a block of users, `authorization`, says.
#[derive(Debug, Default)]
pub(super) struct Authorization {
    pub(super) identities: Vec<Identity>,
    pub(super) timeout: Option<Duration>,
}

/// `authorization {...}`
pub(super) fn authorization(entry: &Entry, block: &Block, notes: &Notes) -> Authorization {
    let mut fields = Fields::new("authorization.", block, notes);
    let user = fields.filled(&["user", "username"]);
    let password = fields.filled(&["password", "pass"]);
    let token = fields.filled(&["token"]);
    let timeout = fields.duration(&["timeout"]);
    let defaults = default_permissions(&mut fields);
    let mut identities = Vec::new();
    let listed = fields.list(&["users"]);
    if let Some((_, values)) = listed {
        identities = users(values, GLOBAL, defaults.as_ref(), notes);
    }
    if listed.is_some() && (user.is_some() || password.is_some() || token.is_some()) {
        notes.error(&entry.at, "authorization: a user, password or token of its own and a list of users exclude each other; add it to the list");
    }
    let permissions = || defaults.clone().unwrap_or_else(Permissions::all);
    match (user, password, token) {
        (None, None, None) => {}
        (None, None, Some(token)) => {
            identities.extend(checked(
                Identity::new("token", secret(token), permissions()),
                &entry.at,
                notes,
            ));
        }
        (Some(user), Some(password), None) => {
            let identity = Identity::new(user.clone(), login(user, password), permissions());
            identities.extend(checked(identity, &entry.at, notes));
        }
        (_, _, Some(_)) => {
            notes.error(
                &entry.at,
                "authorization: a token and a user or password exclude each other; keep one of them",
            );
        }
        (Some(_), None, None) => {
            notes.error(&entry.at, "authorization: a user without a password; add password");
        }
        (None, Some(_), None) => notes.error(&entry.at, "authorization: a password without a user; add user"),
    }
    fields.finish();
    Authorization { identities, timeout }
}

/// What `accounts` says.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) identities: Vec<Identity>,
    /// The account that has streams, and what it may use.
    pub(super) streams: Option<(String, JetStreamAccountLimits)>,
}

/// `accounts {NAME {users [...]}}` or `accounts [NAME, ...]`
pub(super) fn accounts(entry: &Entry, notes: &Notes) -> Accounts {
    let mut read = Accounts::default();
    match &entry.value.kind {
        Kind::Block(block) => {
            for account in &block.entries {
                check_account(account, &account.key, notes);
                let Kind::Block(block) = &account.value.kind else {
                    notes.error(
                        &account.value.at,
                        format!("accounts.{}: a block {{users: [...]}} is expected", account.key),
                    );
                    continue;
                };
                let mut fields = Fields::new("accounts.*.", block, notes);
                let defaults = default_permissions(&mut fields);
                if let Some((_, values)) = fields.list(&["users"]) {
                    read.identities.extend(users(values, &account.key, defaults.as_ref(), notes));
                }
                if let Some(limits) = jetstream::account(&mut fields) {
                    match &read.streams {
                        None => read.streams = Some((account.key.clone(), limits)),
                        Some((first, _)) => notes.error(
                            &account.at,
                            format!(
                                "accounts: {first} and {} both have jetstream, but only one account can; put the users \
                                 that need streams into one",
                                account.key
                            ),
                        ),
                    }
                }
                fields.finish();
            }
        }
        // Names alone: accounts without users, which need not be declared here.
        Kind::List(values) if values.iter().all(|value| matches!(value.kind, Kind::Text(_))) => {}
        _ => notes.error(&entry.value.at, "accounts: a block {NAME: {users: [...]}} is expected"),
    }
    read
}

/// Whether an account is there: listed, with users or without, or one of those that always are.
pub(super) fn is_declared(name: &str, accounts: Option<&Entry>) -> bool {
    name == GLOBAL
        || name == SYSTEM
        || match accounts.map(|entry| &entry.value.kind) {
            Some(Kind::Block(block)) => block.entries.iter().any(|account| account.key == name),
            Some(Kind::List(values)) => values.iter().any(|value| value.as_text() == Some(name)),
            _ => false,
        }
}

fn check_account(entry: &Entry, name: &str, notes: &Notes) {
    if !crate::accounts::is_account(name) {
        notes.error(
            &entry.at,
            format!("accounts: {name:?} cannot be an account: {}", crate::accounts::ACCOUNT_RULE),
        );
    }
}

fn default_permissions(fields: &mut Fields<'_>) -> Option<Permissions> {
    let (_, block) = fields.block(&["default_permissions", "default_permission", "permissions"])?;
    Some(permissions(block, fields.notes))
}

fn users(values: &[Value], account: &str, defaults: Option<&Permissions>, notes: &Notes) -> Vec<Identity> {
    values.iter().filter_map(|value| user(value, account, defaults, notes)).collect()
}

fn user(value: &Value, account: &str, defaults: Option<&Permissions>, notes: &Notes) -> Option<Identity> {
    let Kind::Block(block) = &value.kind else {
        notes.error(
            &value.at,
            format!(
                "users: a block {{user: NAME, password: SECRET}} is expected, this is {}",
                value.kind.name()
            ),
        );
        return None;
    };
    let mut fields = Fields::new("users[].", block, notes);
    let user = fields.filled(&["user", "username"]);
    let password = fields.filled(&["password", "pass"]);
    let nkey = fields.filled(&["nkey"]);
    let permissions = match fields.block(&["permissions", "permission", "authorization"]) {
        Some((_, block)) => permissions(block, notes),
        None => defaults.cloned().unwrap_or_else(Permissions::all),
    };
    fields.finish();
    let (name, credential) = match (user, password, nkey) {
        (None, None, Some(nkey)) => (nkey.clone(), Credential::Nkey(nkey)),
        (Some(user), Some(password), None) => (user.clone(), login(user, password)),
        (Some(user), None, None) => {
            notes.error(
                &value.at,
                format!("user {user:?} has no password, so anybody would be it; add password"),
            );
            return None;
        }
        (None, Some(_), None) => {
            notes.error(&value.at, "a password without a user; add user");
            return None;
        }
        (None, None, None) => {
            notes.error(&value.at, "a user needs user and password, or an nkey");
            return None;
        }
        (_, _, Some(_)) => {
            notes.error(&value.at, "an nkey and a user or password exclude each other; keep one of them");
            return None;
        }
    };
    checked(Identity::new(name, credential, permissions).account(account), &value.at, notes)
}

/// Complains about users that are listed twice, in one account or in two: a client could not say which it is.
pub(super) fn check_unique(identities: &[Identity], entry: &Entry, notes: &Notes) {
    let mut seen = BTreeSet::new();
    for identity in identities {
        if !seen.insert(identity.name.as_str()) {
            notes.error(&entry.at, format!("user {:?} is listed twice; remove one of them", identity.name));
        }
    }
}

/// The identity, unless no server would take it: an nkey or a hash that is none.
fn checked(identity: Identity, at: &Position, notes: &Notes) -> Option<Identity> {
    match Users::new().set(identity.clone()) {
        Ok(()) => Some(identity),
        Err(problem) => {
            notes.error(at, problem.to_string());
            None
        }
    }
}

fn login(user: String, password: String) -> Credential {
    if is_bcrypt(&password) {
        Credential::BcryptPassword { user, hash: password }
    } else {
        Credential::Password { user, password }
    }
}

/// A token.
pub(super) fn secret(token: String) -> Credential {
    if is_bcrypt(&token) { Credential::BcryptToken(token) } else { Credential::Token(token) }
}

/// `permissions {publish, subscribe, allow_responses}`
fn permissions(block: &Block, notes: &Notes) -> Permissions {
    let mut fields = Fields::new("permissions.", block, notes);
    let publish = fields.take(&["publish", "pub", "import"]).map(|entry| rules(entry, false, notes));
    let subscribe = fields.take(&["subscribe", "sub", "export"]).map(|entry| rules(entry, true, notes));
    let allow_responses = responses(&mut fields);
    fields.finish();
    // "If responses are permitted and publishing is not, only responses may be published": without a list of
    // permitted subjects, `allow_responses` takes the place of the blanket permission.
    let publish = match (publish, allow_responses) {
        (None, Some(_)) => Rules::none(),
        (None, None) => Rules::all(),
        (Some(read), Some(_)) if !read.allows => Rules { allow: Vec::new(), deny: read.rules.deny },
        (Some(read), _) => read.rules,
    };
    let subscribe = subscribe.map_or_else(Rules::all, |read| read.rules);
    Permissions { publish, subscribe, allow_responses }
}

/// Rules, and whether they name permitted subjects or leave them at "everything".
struct Read {
    rules: Rules,
    allows: bool,
}

fn rules(entry: &Entry, queues: bool, notes: &Notes) -> Read {
    let everything = Read { rules: Rules::all(), allows: false };
    let key = entry.key.to_ascii_lowercase();
    let (allow, deny) = match &entry.value.kind {
        Kind::Block(block) => {
            let mut fields = Fields::new(format!("permissions.{key}."), block, notes);
            let allow = fields.texts(&["allow"]);
            let deny = fields.texts(&["deny"]);
            fields.finish();
            (allow, deny)
        }
        _ => {
            let block = Block { entries: vec![entry.clone()] };
            let mut fields = Fields::new("permissions.", &block, notes);
            let texts = fields.texts(&["publish", "pub", "import", "subscribe", "sub", "export"]);
            (texts.map(|(_, texts)| (entry, texts)), None)
        }
    };
    for (entry, texts) in allow.iter().chain(&deny) {
        for text in texts {
            check_subject(entry, text, queues, notes);
        }
    }
    if let Some((entry, texts)) = &allow
        && texts.is_empty()
    {
        // nats-server takes it for "everything", which is hardly what an empty list means.
        notes.error(&entry.value.at, format!("permissions.{key}: an empty list of permitted subjects is ambiguous; write {{deny: \">\"}} for nothing, leave it out for everything"));
        return everything;
    }
    let allows = allow.is_some();
    let permitted = allow.map_or_else(|| vec![">".to_owned()], |(_, texts)| texts);
    let denied = deny.map(|(_, texts)| texts).unwrap_or_default();
    Read { rules: Rules { allow: permitted, deny: denied }, allows }
}

/// A subject, or for subscriptions a subject and a queue group.
fn check_subject(entry: &Entry, text: &str, queues: bool, notes: &Notes) {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let problem = match parts.as_slice() {
        [subject] => Filter::parse(subject).err(),
        [subject, queue] if queues => Filter::parse(subject).and_then(|_| Filter::parse(queue)).err(),
        _ => Filter::parse(text).err(),
    };
    if let Some(problem) = problem {
        notes.error(&entry.value.at, format!("permission {text:?}: {problem}"));
    }
}

fn responses(fields: &mut Fields<'_>) -> Option<AllowResponses> {
    let names = &["allow_responses", "allow_response"];
    let entry = fields.take(names)?;
    let default = AllowResponses::default();
    match &entry.value.kind {
        Kind::Bool(true) => Some(default),
        Kind::Bool(false) => None,
        Kind::Block(block) => {
            let mut fields = Fields::new("permissions.allow_responses.", block, fields.notes);
            let max = match fields
                .integer(&["max", "max_msgs", "max_messages", "max_responses"], -1..=i64::from(u32::MAX))
            {
                None | Some(0) => default.max,
                Some(number) => u32::try_from(number).unwrap_or(u32::MAX),
            };
            let forever = fields
                .take(&["expires", "expiration", "ttl"])
                .is_some_and(|entry| matches!(entry.value.kind, Kind::Integer { value: -1, .. }));
            let ttl = match forever {
                true => FOR_EVER,
                false => fields
                    .duration(&["expires", "expiration", "ttl"])
                    .filter(|ttl| !ttl.is_zero())
                    .unwrap_or(default.ttl),
            };
            fields.finish();
            Some(AllowResponses { max, ttl })
        }
        _ => {
            fields.wrong(entry, "true, false or a block {max, expires} is expected");
            None
        }
    }
}
