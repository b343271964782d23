//! Secrets of which only a bcrypt hash is known. Checking one is slow on purpose, so it is cut in two: what to compute
//! is decided here at once, computing it ([`Challenge::answer`]) is for a thread that may block.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use bcrypt::HashParts;

use super::{Claimant, Entry};
use crate::connect::Connect;
use crate::error::InvalidIdentity;

/// Beyond this, one attempt takes seconds, longer than a client is given to log in.
const COST_MAX: u32 = 16;
/// The hash of nothing anybody knows, for clients that claim to be nobody. Its cost is replaced.
const NOBODY: &str = "kT7pQ2vXw9zR4mN6bL8cUelYINSK91ax4JH65xhQdKIiCNu85o8NG";

/// Checks that `hash` is one and returns its cost.
pub(super) fn check(name: &str, hash: &str) -> Result<u32, InvalidIdentity> {
    let refuse = |problem: String| InvalidIdentity::Hash { name: name.into(), problem };
    let is_known = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix));
    let parts = HashParts::from_str(hash)
        .ok()
        .filter(|_| is_known)
        .ok_or_else(|| refuse("60 characters that begin with $2a$, $2b$ or $2y$ are one".into()))?;
    match parts.get_cost() {
        cost @ 4..=COST_MAX => Ok(cost),
        cost => Err(refuse(format!("its cost is {cost}; make one of cost 4 to {COST_MAX}, 11 is usual"))),
    }
}

/// A hash to compute before it is known who a client is.
pub(crate) struct Challenge {
    /// Who it is then; `None` is nobody, however the computation ends.
    entry: Option<Arc<Entry>>,
    secret: String,
    hash: String,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl Challenge {
    /// Whether the client has the secret of `entry`.
    pub(super) fn of(entry: Arc<Entry>, hash: &str, connect: &Connect) -> Self {
        Self { entry: Some(entry), secret: secret(connect), hash: hash.to_owned() }
    }

    /// The same work for a client that is nobody: how long a refusal takes does not tell which users exist.
    pub(super) fn of_nobody(cost: u32, connect: &Connect) -> Self {
        Self { entry: None, secret: secret(connect), hash: format!("$2b${cost:02}${NOBODY}") }
    }

    /// On whose account it is computed, for a client at `address`.
    pub(crate) fn claimant(&self, address: IpAddr) -> Claimant {
        Claimant::new(address, self.entry.as_deref().map(|entry| &*entry.identity.name))
    }

    /// Computes the hash, which takes long, and returns who the client is.
    pub(crate) fn answer(self) -> Option<Arc<Entry>> {
        let is_right = bcrypt::verify(&self.secret, &self.hash).unwrap_or(false);
        self.entry.filter(|_| is_right)
    }
}

fn secret(connect: &Connect) -> String {
    if connect.auth_token.is_empty() { connect.pass.clone() } else { connect.auth_token.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_checked_when_they_are_given() {
        let hash = |prefix: &str, cost: &str| format!("{prefix}{cost}${NOBODY}");
        for prefix in ["$2a$", "$2b$", "$2y$"] {
            assert_eq!(check("a", &hash(prefix, "04")), Ok(4));
        }
        for broken in [
            String::new(),
            "secret".into(),
            "$2b$04$short".into(),
            hash("$2b$", "xx"),
            hash("$9z$", "04"),
            hash("$2b$", "03"),
            hash("$2b$", "17"),
            format!("{}x", hash("$2b$", "04")),
        ] {
            let error = check("a", &broken).unwrap_err().to_string();
            assert!(error.starts_with("identity a: ") && error.contains("bcrypt"), "{broken}: {error}");
        }
    }

    #[test]
    fn nobody_has_a_hash_that_can_be_computed() {
        let connect = Connect { user: "x".into(), pass: "y".into(), ..Connect::default() };
        let challenge = Challenge::of_nobody(4, &connect);
        assert!(bcrypt::verify("y", &challenge.hash).is_ok(), "an error would come at once");
        assert!(challenge.answer().is_none());
    }
}
