//! The two JSON documents of a connection: the server's INFO and the client's CONNECT. Only their shape; what they
//! lead to is decided in [`auth`](crate::auth) and the session.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::snapshot::About;

/// The version INFO claims, because clients switch features on by it: that of the nats-server whose core behaviour this
/// is held to. Whether there is JetStream is announced by another key, `jetstream`.
pub const CLAIMED_VERSION: &str = "2.15.0";

/// INFO. Keys that do not apply are absent, not false (server.go `type Info`, omitempty).
#[derive(Debug, Serialize)]
pub(crate) struct Info<'a> {
    pub(crate) server_id: &'a str,
    pub(crate) server_name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) proto: u8,
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    pub(crate) headers: bool,
    /// There are streams here.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) jetstream: bool,
    /// The second name of JetStream's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain: Option<&'a str>,
    /// What of JetStream's API is known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_lvl: Option<u8>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) tls_required: bool,
    /// The client must show a certificate.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) tls_verify: bool,
    /// The client may encrypt, and need not.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) tls_available: bool,
    pub(crate) max_payload: usize,
    pub(crate) client_id: u64,
    pub(crate) client_ip: IpAddr,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) auth_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonce: Option<&'a str>,
    /// The server will end soon: connect elsewhere.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) ldm: bool,
    /// Set in the second INFO, which follows the first PONG and tells the client about its own account.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) connect_info: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote_account: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) acc_is_sys: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// CONNECT. Unknown keys are ignored; what is absent or null stays as it was, on the first CONNECT as it is by default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Connect {
    pub(crate) verbose: Option<bool>,
    pub(crate) pedantic: Option<bool>,
    pub(crate) echo: Option<bool>,
    pub(crate) headers: Option<bool>,
    pub(crate) no_responders: Option<bool>,
    pub(crate) protocol: Option<i32>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) name: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) lang: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) version: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) account: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) nkey: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) sig: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) auth_token: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) pass: String,
}

impl Connect {
    /// Whether the client tries to prove who it is.
    pub(crate) fn gives_credential(&self) -> bool {
        [&self.nkey, &self.auth_token, &self.user].iter().any(|text| !text.is_empty())
    }

    /// Reads the argument of CONNECT: a JSON object or null, `None` for anything else. A list of the fields' values,
    /// which the decoder would take as well, is not one.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        if json.trim_ascii() == b"null" {
            return Some(Self::default());
        }
        serde_json::from_slice(json).ok().filter(|_| json.trim_ascii_start().starts_with(b"{"))
    }

    /// What the client says about itself, if it says anything.
    pub(crate) fn about(&self) -> Option<Arc<About>> {
        let about = About { name: self.name.clone(), lang: self.lang.clone(), version: self.version.clone() };
        (about != About::default()).then(|| Arc::new(about))
    }
}

/// Go's decoder leaves a field alone when it reads `null`, and clients rely on it: async-nats sends `"jwt":null`.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_means_not_given() {
        let connect: Connect = serde_json::from_str(
            r#"{"jwt":null,"user":null,"pass":null,"auth_token":null,"nkey":"U1","echo":null}"#,
        )
        .unwrap();
        assert_eq!((connect.user.as_str(), connect.nkey.as_str()), ("", "U1"));
    }

    #[test]
    fn unknown_keys_are_ignored_and_wrong_types_are_not() {
        assert!(serde_json::from_str::<Connect>(r#"{"lang":"x","tls_required":false}"#).is_ok());
        assert!(serde_json::from_str::<Connect>(r#"{"verbose":"yes"}"#).is_err());
    }

    #[test]
    fn only_an_object_is_a_connect() {
        assert!(Connect::parse(b"{}").is_some() && Connect::parse(b" {\"name\":\"x\"}").is_some());
        let list = r#"[false,false,true,true,true,1,"name","","","","","","token","",""]"#;
        assert!(serde_json::from_str::<Connect>(list).is_ok(), "the decoder would take it");
        assert!(Connect::parse(b" null ").is_some_and(|connect| connect.verbose.is_none()));
        for json in [list, "[]", "nulls", "1", "{", ""] {
            assert!(Connect::parse(json.as_bytes()).is_none(), "{json}");
        }
    }

    #[test]
    fn keys_that_do_not_apply_are_absent() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let info = Info {
            server_id: "N",
            server_name: "n",
            version: CLAIMED_VERSION,
            proto: 1,
            host: local,
            port: 4222,
            headers: true,
            jetstream: false,
            domain: None,
            api_lvl: None,
            tls_required: false,
            tls_verify: false,
            tls_available: false,
            max_payload: 1,
            client_id: 1,
            client_ip: local,
            auth_required: false,
            nonce: None,
            ldm: false,
            connect_info: false,
            remote_account: None,
            acc_is_sys: false,
        };
        let json = serde_json::to_string(&info).unwrap();
        for key in ["jetstream", "domain", "api_lvl", "auth_required", "nonce", "connect_info", "tls", "acc"]
        {
            assert!(!json.contains(key), "{json}");
        }
    }
}
