//! The part of a URL after `?`. Values are read the way nats-server reads them; what cannot be read is refused with a
//! reason, keys nobody knows are passed over.

use std::borrow::Cow;

use serde_json::Value;

use crate::snapshot::Unanswered;

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The request cannot be understood.
    #[error(transparent)]
    BadQuery(#[from] BadQuery),
    /// The server is shut down or overloaded.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// What is wrong with a request, in words for whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadQuery(pub(crate) String);

/// Keys and values, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(key, value)| (decode(key), decode(value)))
                .collect(),
        )
    }

    /// The first value of `key` that is not empty: an empty one is none.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == key && !value.is_empty()).map(|(_, value)| &**value)
    }

    /// A number; negative ones are nothing, as in nats-server.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, BadQuery> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        match text.parse::<i64>() {
            Ok(number) => Ok(Some(u64::try_from(number).unwrap_or(0))),
            Err(_) => Err(BadQuery(format!("Error decoding int for '{key}': {text:?} is not a number"))),
        }
    }

    /// A truth value, in all the spellings that Go reads.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, BadQuery> {
        match self.text(key) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(text) => Err(BadQuery(format!(
                "Error decoding boolean for '{key}': {text:?} is neither true nor false"
            ))),
        }
    }
}

/// The query that asks the same as the options of a system request: a JSON object with the names of nats-server's
/// `ConnzOptions` and `SubszOptions`. Empty for anything else; names nobody knows are passed over.
pub(crate) fn of_json(options: &[u8]) -> String {
    let Ok(Value::Object(options)) = serde_json::from_slice(options) else {
        return String::new();
    };
    let pair = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::Bool(flag) => u8::from(*flag).to_string(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => encode(text),
            _ => return None,
        };
        Some(match (name.as_str(), value.as_str()) {
            // In detail wins over the bare names, whichever comes first.
            ("subscriptions_detail", "1") => "subs=detail".into(),
            ("subscriptions", "1") if options.get("subscriptions_detail") == Some(&Value::Bool(true)) => {
                return None;
            }
            ("subscriptions", _) => format!("subs={value}"),
            ("state", "1") => "state=closed".into(),
            ("state", "2") => "state=all".into(),
            ("account" | "acc", _) => format!("acc={value}"),
            // What is asked of `/jsz` and `/healthz`; the flag for consumers has no plural there.
            ("consumer", "0" | "1") if options.get(name).is_some_and(Value::is_boolean) => {
                format!("consumers={value}")
            }
            ("stream" | "consumer" | "details" | "accounts" | "streams" | "config", _) => {
                format!("{name}={value}")
            }
            ("js-enabled-only" | "js-server-only", _) => format!("{name}={value}"),
            ("limit" | "offset" | "cid" | "auth" | "sort" | "user" | "test", _) => format!("{name}={value}"),
            _ => return None,
        })
    };
    options.iter().filter_map(pair).collect::<Vec<_>>().join("&")
}

/// Escapes all but letters, digits and what is harmless everywhere.
fn encode(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Resolves `+` and `%41`; what is no escape stands for itself, bytes that are no text are replaced.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("test=foo.%3E&acc=a+b%20c&bad=%zz%4&&alone&empty=");
        assert_eq!(query.text("test"), Some("foo.>"));
        assert_eq!(query.text("acc"), Some("a b c"));
        assert_eq!(query.text("bad"), Some("%zz%4"));
        assert_eq!((query.text("alone"), query.text("empty"), query.text("none")), (None, None, None));
        assert_eq!(Query::parse("x=%ff%41").text("x"), Some("\u{fffd}A"));
    }

    #[test]
    fn options_of_a_system_request_become_a_query() {
        let query = |json: &str| of_json(json.as_bytes());
        assert_eq!(query(r#"{"limit":2,"subscriptions":true,"x":1}"#), "limit=2&subs=1");
        assert_eq!(
            query(r#"{"subscriptions":true,"subscriptions_detail":true,"state":1}"#),
            "state=closed&subs=detail"
        );
        assert_eq!(
            query(r#"{"sort":"idle","acc":"$G","user":"a&b=c"}"#),
            "acc=%24G&sort=idle&user=a%26b%3Dc"
        );
        assert_eq!((query(""), query("[1]"), query("{}")), (String::new(), String::new(), String::new()));
        let query = query(r#"{"user":"a&b=c é"}"#);
        assert_eq!(Query::parse(&query).text("user"), Some("a&b=c é"));
    }

    #[test]
    fn numbers_and_flags_are_read_or_refused() {
        let query = Query::parse("limit=7&offset=-3&auth=1&subs=maybe&cid=x");
        assert_eq!(query.number("limit"), Ok(Some(7)));
        assert_eq!(query.number("offset"), Ok(Some(0)));
        assert_eq!(query.number("none"), Ok(None));
        assert_eq!((query.flag("auth"), query.flag("none")), (Ok(true), Ok(false)));
        let refused = query.number("cid").unwrap_err().to_string();
        assert_eq!(refused, "Error decoding int for 'cid': \"x\" is not a number");
        assert!(query.flag("subs").unwrap_err().to_string().contains("'subs'"));
    }
}
