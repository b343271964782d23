//! Proofs of identity: which are acceptable, which cannot be told apart, and whether a client gave one. What takes
//! long to check, a hash, is checked in `hashed`.

use std::fmt;

use nkeys::{KeyPair, KeyPairType};
use subtle::ConstantTimeEq;

use super::hashed;
use crate::connect::Connect;
use crate::error::InvalidIdentity;

/// A proof of identity. Secrets and hashes of them do not show in `Debug`.
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
    /// A name and a secret of which only the bcrypt hash is kept here: `$2a$`, `$2b$` or `$2y$`, cost 4 to 16.
    ///
    /// Checking takes about 100 ms at cost 11, on a thread that serves nobody else; the connection waits meanwhile.
    /// Where many wait, addresses and the users claimed from them take turns, and who claims an unknown user, or has
    /// another wrong secret, comes last: guessing does not keep others out.
    /// Give all identities the same cost: a refusal takes as long as the highest.
    BcryptPassword {
        /// The name the client gives, which need not be the identity's.
        user: String,
        /// The hash of the secret.
        hash: String,
    },
    /// The bcrypt hash of a shared secret. One identity of a set may have such a credential: without a name, the
    /// secret of a client would have to be tried on each of them.
    BcryptToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nkey(public) => f.debug_tuple("Nkey").field(public).finish(),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::BcryptPassword { user, .. } => {
                f.debug_struct("BcryptPassword").field("user", user).finish_non_exhaustive()
            }
            Self::BcryptToken(_) => f.write_str("BcryptToken(..)"),
        }
    }
}

impl Credential {
    pub(super) fn check(&self, name: &str) -> Result<(), InvalidIdentity> {
        let not_empty = |text: &str| {
            if text.is_empty() { Err(InvalidIdentity::EmptySecret { name: name.into() }) } else { Ok(()) }
        };
        match self {
            Self::Nkey(key) => match KeyPair::from_public_key(key) {
                Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(()),
                _ => Err(InvalidIdentity::Nkey { name: name.into(), key: key.clone() }),
            },
            Self::Token(secret) => not_empty(secret),
            Self::Password { user, password } => not_empty(user).and_then(|()| not_empty(password)),
            Self::BcryptPassword { user, hash } => {
                not_empty(user).and_then(|()| hashed::check(name, hash).map(drop))
            }
            Self::BcryptToken(hash) => hashed::check(name, hash).map(drop),
        }
    }

    /// Whether a client could not tell which of the two it is.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (self.user(), other.user()) {
            (Some(mine), Some(others)) => mine == others,
            (None, None) => match (self, other) {
                (Self::BcryptToken(_), Self::BcryptToken(_)) => true,
                _ => self == other,
            },
            _ => false,
        }
    }

    /// The name that goes with a password.
    fn user(&self) -> Option<&str> {
        match self {
            Self::Password { user, .. } | Self::BcryptPassword { user, .. } => Some(user),
            Self::Nkey(_) | Self::Token(_) | Self::BcryptToken(_) => None,
        }
    }

    /// What the client is called in answers about itself.
    pub(super) fn public_name(&self) -> Option<&str> {
        match self {
            Self::Nkey(public) => Some(public),
            _ => self.user(),
        }
    }

    /// The hash that must be computed to know whether a client has it.
    pub(super) fn hash(&self) -> Option<&str> {
        match self {
            Self::BcryptPassword { hash, .. } | Self::BcryptToken(hash) => Some(hash),
            Self::Nkey(_) | Self::Token(_) | Self::Password { .. } => None,
        }
    }

    /// Whether the client gave this credential; for an nkey or a hash, whether it claims to have it.
    pub(super) fn is_claimed_by(&self, connect: &Connect) -> bool {
        let same = |given: &str, wanted: &str| bool::from(given.as_bytes().ct_eq(wanted.as_bytes()));
        if !connect.nkey.is_empty() {
            return matches!(self, Self::Nkey(public) if *public == connect.nkey);
        }
        if !connect.auth_token.is_empty() {
            return match self {
                Self::Token(token) => same(&connect.auth_token, token),
                Self::BcryptToken(_) => true,
                _ => false,
            };
        }
        match self {
            Self::Password { user, password } => same(&connect.user, user) & same(&connect.pass, password),
            Self::BcryptPassword { user, .. } => same(&connect.user, user),
            _ => false,
        }
    }
}

/// Whether `signature` is that of `nonce` by the owner of the nkey `public`.
pub(super) fn has_signed(public: &str, signature: &str, nonce: &str) -> bool {
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

    #[test]
    fn secrets_do_not_show_in_debug() {
        let password = Credential::Password { user: "u".into(), password: "hunter2".into() };
        let hashed = Credential::BcryptPassword { user: "u".into(), hash: "hunter2".into() };
        let (token, hashed_token) =
            (Credential::Token("hunter2".into()), Credential::BcryptToken("hunter2".into()));
        let shown = format!("{token:?} {password:?} {hashed:?} {hashed_token:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
