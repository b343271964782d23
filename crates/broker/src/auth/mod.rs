//! Who may connect, and as whom. Identities change while servers run; telling live connections is the shards' work,
//! deciding what they are told is here.

mod credential;
mod hashed;
mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use self::credential::Credential;
use self::credential::has_signed;
pub(crate) use self::hashed::Challenge;
pub(crate) use self::turns::{Claimant, Turns};
use crate::accounts::{GLOBAL_ACCOUNT, is_account};
use crate::connect::Connect;
use crate::error::InvalidIdentity;
use crate::permissions::{Access, Permissions};

/// Somebody who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How it is called in logs, replaced and removed. Unique.
    pub name: String,
    /// How it proves who it is.
    pub credential: Credential,
    /// What it may do.
    pub permissions: Permissions,
    /// The account it belongs to: clients see messages of their own account only. `$G` is that of everybody who was
    /// given none; any other name makes one. Printable, without white space, `.`, `*` and `>`.
    pub account: String,
}

impl Identity {
    /// An identity in the account `$G`.
    pub fn new(name: impl Into<String>, credential: Credential, permissions: Permissions) -> Self {
        Self { name: name.into(), credential, permissions, account: GLOBAL_ACCOUNT.into() }
    }

    /// The same in another account.
    pub fn account(mut self, account: impl Into<String>) -> Self {
        self.account = account.into();
        self
    }
}

/// An identity as connections hold it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    pub(crate) access: Arc<Access>,
    /// Of the hash of its credential; 0 without one.
    hash_cost: u32,
    /// This process vouches for it: it is none of the set's.
    is_trusted: bool,
}

impl Entry {
    fn new(identity: Identity) -> Result<Self, InvalidIdentity> {
        if identity.name.is_empty() {
            return Err(InvalidIdentity::NoName);
        }
        identity.credential.check(&identity.name)?;
        if !is_account(&identity.account) {
            let (name, account) = (identity.name, identity.account);
            return Err(InvalidIdentity::Account { name, account });
        }
        let access = Access::compile(&identity.permissions).map_err(|(filter, problem)| {
            InvalidIdentity::Filter { name: identity.name.clone(), filter, problem }
        })?;
        let hash_cost = match identity.credential.hash() {
            Some(hash) => hashed::check(&identity.name, hash)?,
            None => 0,
        };
        Ok(Self { identity, access: Arc::new(access), hash_cost, is_trusted: false })
    }

    /// Who a connection of this process is, without a proof.
    pub(crate) fn trusted(
        name: &str,
        permissions: Permissions,
        account: &str,
    ) -> Result<Self, InvalidIdentity> {
        // A credential that is never looked at.
        let credential = Credential::Token("-".into());
        let name = if name.is_empty() { "in-process" } else { name };
        let entry = Self::new(Identity::new(name, credential, permissions).account(account))?;
        Ok(Self { is_trusted: true, ..entry })
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Who a connection without a credential is, where that was allowed.
    pub(crate) fn anonymous() -> Self {
        let permissions = Permissions::all();
        let access = Access::compile(&permissions).expect("`>` is a filter");
        // A name that `Users::set` refuses, and a credential that is never looked at.
        let identity = Identity::new("", Credential::Token(String::new()), permissions);
        Self { identity, access: Arc::new(access), hash_cost: 0, is_trusted: false }
    }

    /// Whether who proved to be the one proved to be the other.
    fn is_same_proof(&self, other: &Self) -> bool {
        let (mine, others) = (&self.identity, &other.identity);
        mine.credential == others.credential && mine.account == others.account
    }

    fn check_collision(&self, other: &Self) -> Result<(), InvalidIdentity> {
        let (mine, others) = (&self.identity, &other.identity);
        if mine.name == others.name || !mine.credential.collides(&others.credential) {
            return Ok(());
        }
        let (name, other) = (mine.name.clone(), others.name.clone());
        Err(match mine.credential {
            Credential::BcryptToken(_) => InvalidIdentity::SecondHashedToken { name, other },
            _ => InvalidIdentity::Duplicate { name, other },
        })
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.identity.name.is_empty()
    }

    pub(crate) fn public_name(&self) -> Option<&str> {
        self.identity.credential.public_name()
    }
}

/// What became of the identity of a live connection.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing happened to it.
    Unchanged,
    /// The credential still stands, the permissions are others.
    Changed(Arc<Entry>),
    /// Removed, or given another credential.
    Revoked,
}

/// The identities of one or more servers. Cheap to clone: clones share the same set.
///
/// Changes work on live connections: [`remove`](Self::remove) ends them, a [`set`](Self::set) with other permissions
/// applies to them (subscriptions that are no longer permitted end). Nothing that a client sends after such a call has
/// returned is judged by the old rules.
///
/// A set without identities refuses everybody.
#[derive(Clone, Default)]
pub struct Users(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// A lock, because shards read it on CONNECT only and changes are rare.
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    generation: AtomicU64,
    watchers: Mutex<Vec<Watcher>>,
}

/// Called after each change; false means: do not call again.
type Watcher = Box<dyn Fn() -> bool + Send + Sync>;

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Users {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an identity, or replaces the one with its name.
    ///
    /// # Errors
    /// [`InvalidIdentity`] says what is wrong with it; nothing was changed.
    pub fn set(&self, identity: Identity) -> Result<(), InvalidIdentity> {
        let entry = Entry::new(identity)?;
        {
            let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
            entries.values().try_for_each(|held| entry.check_collision(held))?;
            entries.insert(entry.identity.name.clone(), Arc::new(entry));
        }
        self.changed();
        Ok(())
    }

    /// Removes an identity and ends its connections. Returns whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let found = self.0.entries.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some();
        if found {
            self.changed();
        }
        found
    }

    /// Replaces the whole set at once, as a reloaded configuration wants it: connections of identities that are gone, or
    /// have another credential or account, end; changed permissions apply; the others notice nothing.
    ///
    /// Costs a comparison of each with each.
    ///
    /// # Errors
    /// [`InvalidIdentity`] names the first that cannot be; nothing was changed.
    pub fn replace_all(&self, identities: impl IntoIterator<Item = Identity>) -> Result<(), InvalidIdentity> {
        let mut replaced: BTreeMap<String, Arc<Entry>> = BTreeMap::new();
        for identity in identities {
            let entry = Entry::new(identity)?;
            replaced.values().try_for_each(|held| entry.check_collision(held))?;
            let name = entry.identity.name.clone();
            if replaced.contains_key(&name) {
                return Err(InvalidIdentity::NameTwice { name });
            }
            replaced.insert(name, Arc::new(entry));
        }
        {
            let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
            for (name, entry) in &mut replaced {
                // The very same entry: connections that hold it are not touched.
                if let Some(held) = entries.get(name).filter(|held| held.identity == entry.identity) {
                    *entry = Arc::clone(held);
                }
            }
            *entries = replaced;
        }
        self.changed();
        Ok(())
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Moves on with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Calls `watcher` after each change until it returns false.
    pub(crate) fn watch(&self, watcher: Watcher) {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    fn changed(&self) {
        // Before the watchers are called, so that who is woken sees it.
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).retain(|watcher| watcher());
    }

    /// The identity that `connect` proves. `nonce` is what this connection was given to sign.
    pub(crate) fn authenticate(&self, connect: &Connect, nonce: &str) -> Verdict {
        let (candidate, cost) = {
            let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
            // All are compared: how long it takes does not tell how near a guess was.
            let candidate = entries
                .values()
                .filter(|entry| entry.identity.credential.is_claimed_by(connect))
                // A secret that was compared is stronger than a hash that was only claimed.
                .fold(None, |found: Option<&Arc<Entry>>, entry| match found {
                    Some(held) if held.hash_cost == 0 => Some(held),
                    _ => Some(entry),
                })
                .cloned();
            (candidate, entries.values().map(|entry| entry.hash_cost).max().unwrap_or(0))
        };
        let gives_secret = connect.nkey.is_empty() && connect.gives_credential();
        match candidate {
            Some(entry) => match &entry.identity.credential {
                // Outside the lock: a signature takes some 50 us.
                Credential::Nkey(public) if has_signed(public, &connect.sig, nonce) => Verdict::Known(entry),
                Credential::Nkey(_) => Verdict::Refused,
                Credential::Token(_) | Credential::Password { .. } => Verdict::Known(entry),
                Credential::BcryptPassword { hash, .. } | Credential::BcryptToken(hash) => {
                    let hash = hash.clone();
                    Verdict::Unproved(Challenge::of(entry, &hash, connect))
                }
            },
            None if cost > 0 && gives_secret => Verdict::Unproved(Challenge::of_nobody(cost, connect)),
            None => Verdict::Refused,
        }
    }

    /// The identity of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Whether somebody proves to be somebody by signing.
    pub(crate) fn has_nkeys(&self) -> bool {
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().any(|entry| matches!(entry.identity.credential, Credential::Nkey(_)))
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What became of `held`, which a connection got when it authenticated.
    pub(crate) fn standing(&self, held: &Arc<Entry>) -> Standing {
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&held.identity.name) {
            Some(entry) if Arc::ptr_eq(entry, held) => Standing::Unchanged,
            Some(entry) if entry.is_same_proof(held) => Standing::Changed(Arc::clone(entry)),
            _ => Standing::Revoked,
        }
    }
}

/// What a CONNECT proves.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Who the client is.
    Known(Arc<Entry>),
    /// A hash must be computed to know.
    Unproved(Challenge),
    /// Nobody.
    Refused,
}

#[cfg(test)]
mod tests {
    use nkeys::KeyPair;

    use super::*;
    use crate::permissions::Rules;

    fn identity(name: &str, credential: Credential) -> Identity {
        Identity::new(name, credential, Permissions::all())
    }

    fn password(user: &str, password: &str) -> Credential {
        Credential::Password { user: user.into(), password: password.into() }
    }

    /// Who it is; hashes are computed.
    fn authenticate(users: &Users, connect: &Connect, nonce: &str) -> Option<Arc<Entry>> {
        match users.authenticate(connect, nonce) {
            Verdict::Known(entry) => Some(entry),
            Verdict::Unproved(challenge) => challenge.answer(),
            Verdict::Refused => None,
        }
    }

    fn name_of(found: Option<Arc<Entry>>) -> Option<String> {
        found.map(|entry| entry.identity.name.clone())
    }

    #[test]
    fn each_credential_finds_its_identity_and_nothing_else_does() {
        let key = KeyPair::new_user();
        let users = Users::new();
        users.set(identity("key", Credential::Nkey(key.public_key()))).unwrap();
        users.set(identity("token", Credential::Token("s3cret".into()))).unwrap();
        users.set(identity("user", password("u", "p"))).unwrap();

        let token = Connect { auth_token: "s3cret".into(), ..Connect::default() };
        assert_eq!(name_of(authenticate(&users, &token, "n")).as_deref(), Some("token"));
        let user = Connect { user: "u".into(), pass: "p".into(), ..Connect::default() };
        assert_eq!(name_of(authenticate(&users, &user, "n")).as_deref(), Some("user"));

        let sign = |nonce: &str| data_encoding::BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes()).unwrap());
        let signed = |sig| Connect { nkey: key.public_key(), sig, ..Connect::default() };
        assert_eq!(name_of(authenticate(&users, &signed(sign("n")), "n")).as_deref(), Some("key"));
        assert!(authenticate(&users, &signed(sign("another")), "n").is_none(), "a replayed signature");
        assert!(authenticate(&users, &signed(String::new()), "n").is_none(), "no signature");
        assert!(authenticate(&users, &signed(sign("")), "").is_none(), "no nonce to sign");

        let wrong = Connect { user: "u".into(), pass: "x".into(), ..Connect::default() };
        assert!(authenticate(&users, &wrong, "n").is_none());
        assert!(authenticate(&users, &Connect::default(), "n").is_none(), "no credential at all");
    }

    #[test]
    fn a_credential_belongs_to_one_identity() {
        let users = Users::new();
        users.set(identity("a", password("u", "1"))).unwrap();
        let error = users.set(identity("b", password("u", "2"))).unwrap_err();
        assert_eq!(error, InvalidIdentity::Duplicate { name: "b".into(), other: "a".into() });
        users.set(identity("a", password("u", "3"))).expect("replacing oneself is no collision");
    }

    #[test]
    fn useless_credentials_are_refused() {
        let users = Users::new();
        for credential in [
            Credential::Token(String::new()),
            password("", "p"),
            password("u", ""),
            Credential::Nkey("UNONSENSE".into()),
            Credential::Nkey(KeyPair::new_server().public_key()),
        ] {
            assert!(users.set(identity("a", credential.clone())).is_err(), "{credential:?}");
        }
        assert!(users.names().is_empty());
    }

    #[test]
    fn standing_follows_changes_of_the_identity() {
        let users = Users::new();
        let token = Credential::Token("t".into());
        users.set(identity("a", token.clone())).unwrap();
        let connect = Connect { auth_token: "t".into(), ..Connect::default() };
        let held = authenticate(&users, &connect, "").unwrap();
        assert!(matches!(users.standing(&held), Standing::Unchanged));

        let narrowed = Permissions { publish: Rules::allow(["x"]), ..Permissions::default() };
        users.set(Identity::new("a", token, narrowed)).unwrap();
        assert!(matches!(users.standing(&held), Standing::Changed(_)));

        users.set(identity("a", Credential::Token("other".into()))).unwrap();
        assert!(matches!(users.standing(&held), Standing::Revoked));
        users.remove("a");
        assert!(matches!(users.standing(&held), Standing::Revoked));
    }

    const HASH_OF_S3CRET: &str = "$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";

    fn hashed(user: &str) -> Credential {
        Credential::BcryptPassword { user: user.into(), hash: HASH_OF_S3CRET.into() }
    }

    fn gives(user: &str, pass: &str) -> Connect {
        Connect { user: user.into(), pass: pass.into(), ..Connect::default() }
    }

    #[test]
    fn hashed_secrets_are_proved_by_the_secret_not_by_the_hash() {
        let users = Users::new();
        users.set(identity("joe", hashed("joe"))).unwrap();
        users.set(identity("token", Credential::BcryptToken(HASH_OF_S3CRET.into()))).unwrap();
        users.set(identity("plain", Credential::Token("plain".into()))).unwrap();
        let found = |connect: &Connect| name_of(authenticate(&users, connect, "n"));
        assert_eq!(found(&gives("joe", "s3cret")).as_deref(), Some("joe"));
        assert_eq!(found(&gives("joe", "wrong")), None);
        assert_eq!(found(&gives("joe", HASH_OF_S3CRET)), None);
        let token = |token: &str| Connect { auth_token: token.into(), ..Connect::default() };
        assert_eq!(found(&token("s3cret")).as_deref(), Some("token"));
        assert_eq!(found(&token("wrong")), None);
        assert!(matches!(users.authenticate(&token("plain"), "n"), Verdict::Known(_)), "no hash needed");
    }

    #[test]
    fn a_refusal_costs_a_hash_whether_the_user_exists_or_not() {
        let users = Users::new();
        users.set(identity("plain", password("u", "p"))).unwrap();
        assert!(
            matches!(users.authenticate(&gives("nobody", "x"), "n"), Verdict::Refused),
            "there are no hashes"
        );
        users.set(identity("joe", hashed("joe"))).unwrap();
        for connect in [gives("joe", "x"), gives("nobody", "x"), gives("u", "x")] {
            assert!(matches!(users.authenticate(&connect, "n"), Verdict::Unproved(_)), "{}", connect.user);
        }
        assert!(matches!(users.authenticate(&gives("u", "p"), "n"), Verdict::Known(_)));
        assert!(matches!(users.authenticate(&Connect::default(), "n"), Verdict::Refused), "nothing given");
    }

    #[test]
    fn one_hashed_token_is_all_a_set_can_have() {
        let users = Users::new();
        users.set(identity("a", Credential::BcryptToken(HASH_OF_S3CRET.into()))).unwrap();
        let error = users.set(identity("b", Credential::BcryptToken(HASH_OF_S3CRET.into()))).unwrap_err();
        assert_eq!(error, InvalidIdentity::SecondHashedToken { name: "b".into(), other: "a".into() });
    }

    #[test]
    fn an_account_is_a_token_of_a_subject() {
        let users = Users::new();
        let of = |account: &str| identity("a", password("u", "p")).account(account);
        for account in ["", "a.b", "*", ">", "a b", "a\n"] {
            assert!(matches!(users.set(of(account)), Err(InvalidIdentity::Account { .. })), "{account:?}");
        }
        users.set(of("$SYS")).unwrap();
    }

    #[test]
    fn replacing_all_touches_those_that_differ_only() {
        let users = Users::new();
        for name in ["same", "narrowed", "moved", "gone"] {
            users.set(identity(name, password(name, "p"))).unwrap();
        }
        let hold = |name: &str| users.get(name).unwrap();
        let (same, narrowed, moved, gone) = (hold("same"), hold("narrowed"), hold("moved"), hold("gone"));
        let narrow = Identity::new("narrowed", password("narrowed", "p"), Permissions::default());
        let same_again = || identity("same", password("same", "p"));
        users
            .replace_all([same_again(), narrow, identity("moved", password("moved", "p")).account("B")])
            .unwrap();
        assert!(matches!(users.standing(&same), Standing::Unchanged));
        assert!(matches!(users.standing(&narrowed), Standing::Changed(_)));
        assert!(matches!(users.standing(&moved), Standing::Revoked));
        assert!(matches!(users.standing(&gone), Standing::Revoked));
        // What is refused changes nothing.
        assert_eq!(
            users.replace_all([same_again(), same_again()]),
            Err(InvalidIdentity::NameTwice { name: "same".into() })
        );
        assert!(users.replace_all([identity("x", password("", ""))]).is_err());
        assert_eq!(users.names(), ["moved", "narrowed", "same"]);
    }
}
