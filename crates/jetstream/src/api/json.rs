//! Reading requests: strict as nats-server is (an unknown field is an error), lenient where its clients count on it
//! (`null` means the default).

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// Whether unknown fields are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// An unknown field is error 10025: the default since nats-server 2.12.
    #[default]
    Strict,
    /// An unknown field is ignored.
    Lenient,
}

/// Reads a request.
///
/// # Errors
/// [`ApiError::invalid_json`] with the reason in nats-server's words where it has words for it.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], strictness: Strictness) -> Result<T, ApiError> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(ApiError::invalid_json)?;
    drop_nulls(&mut value);
    loop {
        match serde_json::from_value(value.clone()) {
            Ok(request) => return Ok(request),
            Err(error) => {
                let text = error.to_string();
                let Some(field) = quoted(&text, "unknown field `") else {
                    return Err(ApiError::invalid_json(match quoted(&text, "unknown variant `") {
                        Some(variant) => format!("can not unmarshal {:?}", format!("{variant:?}")),
                        None => text,
                    }));
                };
                if strictness == Strictness::Strict || !remove(&mut value, field) {
                    return Err(ApiError::invalid_json(format!("json: unknown field {field:?}")));
                }
            }
        }
    }
}

/// Reads a request that may be left out.
pub(crate) fn read_or_default<T: DeserializeOwned + Default>(
    bytes: &[u8],
    strictness: Strictness,
) -> Result<T, ApiError> {
    if is_nothing(bytes) { Ok(T::default()) } else { read(bytes, strictness) }
}

/// Whether a request says nothing: clients send `null` or `{}` where nothing is asked for.
pub(crate) fn is_nothing(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii(), b"" | b"null")
        || serde_json::from_slice(bytes).is_ok_and(|value: Value| match value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        })
}

/// Reads a request of which every field may be null, which means that it was left out. Unknown fields are ignored.
pub(crate) fn read_ignoring_nulls<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.split('`').next()
}

/// Takes a field out wherever it stands, and says whether it stood anywhere.
fn remove(value: &mut Value, name: &str) -> bool {
    match value {
        Value::Object(fields) => {
            let found = fields.remove(name).is_some();
            fields.values_mut().filter_map(|field| remove(field, name).then_some(())).count() > 0 || found
        }
        Value::Array(items) => {
            items.iter_mut().filter_map(|item| remove(item, name).then_some(())).count() > 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Request {
        batch: u32,
        policy: Option<Policy>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Policy {
        All,
    }

    #[test]
    fn an_unknown_field_is_refused_by_name_unless_lenient() {
        let text = br#"{"batch":3,"bogus":1}"#;
        let error = read::<Request>(text, Strictness::Strict).unwrap_err();
        assert_eq!(
            (error.err_code, &*error.description),
            (10025, "invalid JSON: json: unknown field \"bogus\"")
        );
        assert_eq!(read::<Request>(text, Strictness::Lenient).unwrap().batch, 3);
    }

    #[test]
    fn an_unknown_word_is_quoted_twice_as_nats_server_does() {
        let error = read::<Request>(br#"{"policy":"foo"}"#, Strictness::Strict).unwrap_err();
        assert_eq!(error.description, r#"invalid JSON: can not unmarshal "\"foo\"""#);
    }

    #[test]
    fn nothing_is_said_in_several_ways() {
        for text in ["", " \r\n", "null", "{}", " { } ", "[]"] {
            assert!(is_nothing(text.as_bytes()), "{text:?}");
        }
        for text in ["0", "{\"a\":1}", "[1]", "nil", "\"\"", "false"] {
            assert!(!is_nothing(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn null_means_the_default_and_nothing_may_be_left_out() {
        assert_eq!(read::<Request>(br#"{"batch":null}"#, Strictness::Strict).unwrap(), Request::default());
        assert_eq!(read_or_default::<Request>(b" ", Strictness::Strict).unwrap(), Request::default());
        assert_eq!(read::<Request>(b"", Strictness::Strict).unwrap_err().err_code, 10025);
    }
}
