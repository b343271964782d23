//! Credential files: who we are on the bus, and the proof of it. One file, told by its content:
//!
//! ```text
//! SU…                                       an nkey seed, as the daemon makes them
//! -----BEGIN NATS USER JWT-----  …          what `nsc` calls a creds file: a JWT and the seed that goes with it
//! user = "…"  and  password = "…"           a user of the server's configuration
//! token = "…"                               the server's token
//! ```
//!
//! The file is read anew for every connection, so one that is replaced counts from the next reconnect on. It must be
//! readable by its owner alone, and its content is never quoted.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use serde::Deserialize;

use crate::KeyError;

/// How a file proves who we are.
pub(crate) enum Credential {
    /// Its seed, for signing.
    Nkey(KeyPair),
    /// A JWT and the seed of the user it names.
    Jwt { jwt: String, pair: KeyPair },
    /// A name and its password.
    Password { user: String, password: String },
    /// A token.
    Token(String),
}

/// The form for names and tokens, TOML.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Named {
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// Checks that the file at `path` is a credential: of a known form, and readable by its owner alone.
///
/// # Errors
///
/// Any [`KeyError`]; each names the file and the remedy.
pub fn check_credential(path: &Path) -> Result<(), KeyError> {
    read(path).map(drop)
}

/// Reads the credential; never logged, never shown.
pub(crate) fn read(path: &Path) -> Result<Credential, KeyError> {
    let text = read_private(path)?;
    parse(&text).ok_or_else(|| KeyError::NotACredential(path.to_owned()))
}

/// Reads a file that nobody else may read.
pub(crate) fn read_private(path: &Path) -> Result<String, KeyError> {
    let fault = |source| KeyError::File { path: path.to_owned(), verb: "read", source };
    let mode = std::fs::metadata(path).map_err(fault)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    std::fs::read_to_string(path).map_err(fault)
}

fn parse(text: &str) -> Option<Credential> {
    let text = text.trim();
    if let Some(jwt) = between(text, "-----BEGIN NATS USER JWT-----") {
        let pair = KeyPair::from_seed(between(text, "-----BEGIN USER NKEY SEED-----")?).ok()?;
        return Some(Credential::Jwt { jwt: jwt.to_owned(), pair });
    }
    if let Ok(pair) = KeyPair::from_seed(text) {
        return Some(Credential::Nkey(pair));
    }
    match toml::from_str(text).ok()? {
        Named { user: Some(user), password: Some(password), token: None } => {
            Some(Credential::Password { user, password })
        }
        Named { user: None, password: None, token: Some(token) } => Some(Credential::Token(token)),
        _ => None,
    }
}

/// The one line between `begin` and the next line of dashes.
fn between<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    let (inner, _) = rest.trim_start_matches('-').split_once("---")?;
    Some(inner.trim()).filter(|inner| !inner.is_empty() && !inner.contains(char::is_whitespace))
}

impl Credential {
    /// What the server is told; `nonce` is what it wants signed.
    fn auth(&self, nonce: &[u8]) -> Result<Auth, nkeys::error::Error> {
        let mut auth = Auth::new();
        match self {
            Self::Nkey(pair) => {
                auth.nkey = Some(pair.public_key());
                auth.signature = Some(pair.sign(nonce)?);
            }
            Self::Jwt { jwt, pair } => {
                auth.jwt = Some(jwt.clone());
                auth.signature = Some(pair.sign(nonce)?);
            }
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Self::Token(token) => auth.token = Some(token.clone()),
        }
        Ok(auth)
    }
}

/// Reads the file and answers the server.
pub(crate) fn answer(path: &Path, nonce: &[u8]) -> Result<Auth, AuthError> {
    read(path).map_err(AuthError::new)?.auth(nonce).map_err(AuthError::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> String {
        KeyPair::new_user().seed().unwrap()
    }

    #[test]
    fn each_form_is_told_by_its_content() {
        let seed = seed();
        assert!(matches!(parse(&format!("{seed}\n")), Some(Credential::Nkey(_))));
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.e30.sig\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let Some(Credential::Jwt { jwt, pair }) = parse(&creds) else { panic!("a creds file") };
        assert_eq!((jwt.as_str(), pair.seed().unwrap()), ("eyJ0.e30.sig", seed));
        let named = parse("# of the bus\nuser = \"ostler\"\npassword = \"pa ss\"\n");
        let Some(Credential::Password { user, password }) = named else { panic!("user and password") };
        assert_eq!((user.as_str(), password.as_str()), ("ostler", "pa ss"));
        assert!(matches!(parse("token = \"t\""), Some(Credential::Token(token)) if token == "t"));
    }

    #[test]
    fn half_a_credential_is_none() {
        for text in [
            "",
            "SUABC",
            "hunter2",
            "user = \"ostler\"",
            "token = \"t\"\nuser = \"u\"\npassword = \"p\"",
            "pasword = \"p\"\nuser = \"u\"",
            "-----BEGIN NATS USER JWT-----\neyJ0.e30.sig\n------END NATS USER JWT------\n",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
