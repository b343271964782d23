//! Who may connect, and as whom. Identities change while servers run; telling live connections is the shards' work,
//! deciding what they are told is here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nkeys::{KeyPair, KeyPairType};
use subtle::ConstantTimeEq;

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
}

/// A proof of identity. Secrets do not show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The public part of a user nkey (`U...`). The client signs the nonce in INFO; no secret travels or is kept here.
    Nkey(String),
    /// A shared secret.
    Token(String),
    /// A name and a shared secret.
    Password {
        /// The name the client gives, which need not be the identity's.
        user: String,
        /// The secret.
        password: String,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nkey(public) => f.debug_tuple("Nkey").field(public).finish(),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
        }
    }
}

impl Credential {
    fn check(&self, name: &str) -> Result<(), InvalidIdentity> {
        match self {
            Self::Nkey(key) => match KeyPair::from_public_key(key) {
                Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(()),
                _ => Err(InvalidIdentity::Nkey { name: name.into(), key: key.clone() }),
            },
            Self::Token(secret) | Self::Password { password: secret, .. } if secret.is_empty() => {
                Err(InvalidIdentity::EmptySecret { name: name.into() })
            }
            Self::Password { user, .. } if user.is_empty() => {
                Err(InvalidIdentity::EmptySecret { name: name.into() })
            }
            Self::Token(_) | Self::Password { .. } => Ok(()),
        }
    }

    /// Whether a client could not tell which of the two it is.
    fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password { user: a, .. }, Self::Password { user: b, .. }) => a == b,
            _ => self == other,
        }
    }

    /// What the client is called in answers about itself.
    fn public_name(&self) -> Option<&str> {
        match self {
            Self::Nkey(public) => Some(public),
            Self::Password { user, .. } => Some(user),
            Self::Token(_) => None,
        }
    }
}

/// An identity as connections hold it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    pub(crate) access: Arc<Access>,
}

impl Entry {
    fn new(identity: Identity) -> Result<Self, InvalidIdentity> {
        if identity.name.is_empty() {
            return Err(InvalidIdentity::NoName);
        }
        identity.credential.check(&identity.name)?;
        let access = Access::compile(&identity.permissions).map_err(|(filter, problem)| {
            InvalidIdentity::Filter { name: identity.name.clone(), filter, problem }
        })?;
        Ok(Self { identity, access: Arc::new(access) })
    }

    /// Who a connection without a credential is, where that was allowed.
    pub(crate) fn anonymous() -> Self {
        let permissions = Permissions::all();
        let access = Access::compile(&permissions).expect("`>` is a filter");
        // A name that `Users::set` refuses, and a credential that is never looked at.
        let identity =
            Identity { name: String::new(), credential: Credential::Token(String::new()), permissions };
        Self { identity, access: Arc::new(access) }
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
            let added = &entry.identity;
            let collision = entries.values().find(|held| {
                held.identity.name != added.name && held.identity.credential.collides(&added.credential)
            });
            if let Some(held) = collision {
                let other = held.identity.name.clone();
                return Err(InvalidIdentity::Duplicate { name: added.name.clone(), other });
            }
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
    pub(crate) fn authenticate(&self, connect: &Connect, nonce: &str) -> Option<Arc<Entry>> {
        let candidate = {
            let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
            // All are compared: how long it takes does not tell how near a guess was.
            entries
                .values()
                .filter(|entry| claims(connect, &entry.identity.credential))
                .fold(None, |_, entry| Some(entry))
                .cloned()
        }?;
        match &candidate.identity.credential {
            // Outside the lock: a signature takes some 50 us.
            Credential::Nkey(public) => has_signed(public, &connect.sig, nonce).then_some(candidate),
            Credential::Token(_) | Credential::Password { .. } => Some(candidate),
        }
    }

    /// What became of `held`, which a connection got when it authenticated.
    pub(crate) fn standing(&self, held: &Arc<Entry>) -> Standing {
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&held.identity.name) {
            Some(entry) if Arc::ptr_eq(entry, held) => Standing::Unchanged,
            Some(entry) if entry.identity.credential == held.identity.credential => {
                Standing::Changed(Arc::clone(entry))
            }
            _ => Standing::Revoked,
        }
    }
}

/// Whether the client gave this credential; for an nkey, whether it claims to have it.
fn claims(connect: &Connect, credential: &Credential) -> bool {
    let same = |given: &str, wanted: &str| bool::from(given.as_bytes().ct_eq(wanted.as_bytes()));
    if !connect.nkey.is_empty() {
        return matches!(credential, Credential::Nkey(public) if *public == connect.nkey);
    }
    if !connect.auth_token.is_empty() {
        return matches!(credential, Credential::Token(token) if same(&connect.auth_token, token));
    }
    matches!(credential, Credential::Password { user, password }
        if same(&connect.user, user) & same(&connect.pass, password))
}

fn has_signed(public: &str, signature: &str, nonce: &str) -> bool {
    use data_encoding::{BASE64, BASE64URL_NOPAD};
    // Raw URL encoding by the protocol; nats-server accepts the standard one too.
    let decoded =
        BASE64URL_NOPAD.decode(signature.as_bytes()).or_else(|_| BASE64.decode(signature.as_bytes()));
    let (Ok(signature), Ok(key)) = (decoded, KeyPair::from_public_key(public)) else {
        return false;
    };
    !nonce.is_empty() && key.verify(nonce.as_bytes(), &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::Rules;

    fn identity(name: &str, credential: Credential) -> Identity {
        Identity { name: name.into(), credential, permissions: Permissions::all() }
    }

    fn password(user: &str, password: &str) -> Credential {
        Credential::Password { user: user.into(), password: password.into() }
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
        assert_eq!(name_of(users.authenticate(&token, "n")).as_deref(), Some("token"));
        let user = Connect { user: "u".into(), pass: "p".into(), ..Connect::default() };
        assert_eq!(name_of(users.authenticate(&user, "n")).as_deref(), Some("user"));

        let sign = |nonce: &str| data_encoding::BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes()).unwrap());
        let signed = |sig| Connect { nkey: key.public_key(), sig, ..Connect::default() };
        assert_eq!(name_of(users.authenticate(&signed(sign("n")), "n")).as_deref(), Some("key"));
        assert!(users.authenticate(&signed(sign("another")), "n").is_none(), "a replayed signature");
        assert!(users.authenticate(&signed(String::new()), "n").is_none(), "no signature");
        assert!(users.authenticate(&signed(sign("")), "").is_none(), "no nonce to sign");

        let wrong = Connect { user: "u".into(), pass: "x".into(), ..Connect::default() };
        assert!(users.authenticate(&wrong, "n").is_none());
        assert!(users.authenticate(&Connect::default(), "n").is_none(), "no credential at all");
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
        let held = users.authenticate(&connect, "").unwrap();
        assert!(matches!(users.standing(&held), Standing::Unchanged));

        let narrowed = Permissions { publish: Rules::allow(["x"]), ..Permissions::default() };
        users.set(Identity { name: "a".into(), credential: token, permissions: narrowed }).unwrap();
        assert!(matches!(users.standing(&held), Standing::Changed(_)));

        users.set(identity("a", Credential::Token("other".into()))).unwrap();
        assert!(matches!(users.standing(&held), Standing::Revoked));
        users.remove("a");
        assert!(matches!(users.standing(&held), Standing::Revoked));
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let shown = format!("{:?} {:?}", Credential::Token("hunter2".into()), password("u", "hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
