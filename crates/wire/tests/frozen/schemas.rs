//! The schemas agree with the types: every sample is valid, and what a schema calls optional may be left out.

use crate::sample::fixtures;
use ostler_wire::schema::schema;
use serde_json::{Value, json};

#[test]
fn every_sample_is_valid_by_its_schema() {
    for fixture in fixtures() {
        let schema = schema(fixture.message);
        assert_eq!(faults(&schema, &schema, &fixture.json(), ""), Vec::<String>::new(), "{}", fixture.file);
    }
}

#[test]
fn a_broken_sample_is_invalid_by_its_schema() {
    for (file, field, value) in [
        ("StatusMessage.json", "state", json!("dancing")),
        ("StatusMessage.json", "agent_id", json!("a.b")),
        ("StatusMessage.json", "timestamp", json!(12)),
        ("StatusMessage.json", "pid", json!(-1)),
        ("OutputMessage.event.json", "event", json!({ "type": "text" })),
        ("SpawnRequest.json", "command", json!("ls")),
        ("SpawnRequest.json", "env", json!({ "A": 1 })),
    ] {
        let fixture = fixtures().into_iter().find(|fixture| fixture.file == file).unwrap();
        let schema = schema(fixture.message);
        let mut json = fixture.json();
        json[field] = value;
        assert!(!faults(&schema, &schema, &json, "").is_empty(), "{file} with another {field}");
    }
}

#[test]
fn a_field_may_be_left_out_exactly_when_the_schema_says_so() {
    for fixture in fixtures() {
        let schema = schema(fixture.message);
        let json = fixture.json();
        for field in json.as_object().unwrap().keys() {
            let mut without = json.clone();
            without.as_object_mut().unwrap().remove(field);
            let valid = faults(&schema, &schema, &without, "").is_empty();
            let read = (fixture.message.read_back)(&serde_json::to_vec(&without).unwrap());
            assert_eq!(valid, read.is_ok(), "{} without {field}", fixture.file);
        }
    }
}

/// The part of JSON Schema that ours use. An unknown keyword is a fault, so that none is silently not checked.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let Some(keywords) = schema.as_object() else {
        // `true` allows everything.
        return if schema == &Value::Bool(true) { vec![] } else { vec![format!("{at}: not allowed")] };
    };
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{at}: {what}: {value}"));
        }
    };
    let mut nested = Vec::new();
    for (keyword, rule) in keywords {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" => {}
            "type" => check(is_of_type(rule, value), "type"),
            "const" => check(rule == value, "const"),
            "enum" => check(rule.as_array().unwrap().contains(value), "enum"),
            "minimum" => check(value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()), "minimum"),
            "maximum" => check(value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()), "maximum"),
            "pattern" => {
                check(value.as_str().is_none_or(|text| ostler_wire::AgentId::parse(text).is_ok()), "id");
            }
            "format" => check(value.as_str().is_none_or(|text| has_format(rule, text)), "format"),
            "required" => {
                let names = rule.as_array().unwrap().iter().filter_map(Value::as_str);
                check(names.into_iter().all(|name| value.get(name).is_some()), "required");
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    nested.extend(value.get(name).map(|value| (rule, value, format!("{at}/{name}"))));
                }
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !known.is_some_and(|known| known.contains_key(name)) {
                        nested.push((rule, value, format!("{at}/{name}")));
                    }
                }
            }
            "items" => {
                let items = value.as_array().into_iter().flatten();
                nested.extend(items.enumerate().map(|(i, value)| (rule, value, format!("{at}/{i}"))));
            }
            "prefixItems" => {
                let items = value.as_array().into_iter().flatten();
                let rules = rule.as_array().unwrap();
                nested.extend(rules.iter().zip(items).map(|(rule, value)| (rule, value, at.to_owned())));
            }
            "minItems" => {
                check(value.as_array().is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()), "minItems");
            }
            "maxItems" => {
                check(value.as_array().is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()), "maxItems");
            }
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                nested.push((
                    root.pointer(pointer).expect("a reference leads somewhere"),
                    value,
                    at.to_owned(),
                ));
            }
            "allOf" => {
                nested.extend(rule.as_array().unwrap().iter().map(|rule| (rule, value, at.to_owned())));
            }
            "oneOf" | "anyOf" => {
                let any = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|rule| self::faults(root, rule, value, at).is_empty());
                check(any, "none of the alternatives");
            }
            other => check(false, &format!("this test does not know the keyword {other}")),
        }
    }
    for (rule, value, at) in nested {
        faults.extend(self::faults(root, rule, value, &at));
    }
    faults
}

fn is_of_type(rule: &Value, value: &Value) -> bool {
    match rule {
        Value::Array(types) => types.iter().any(|rule| is_of_type(rule, value)),
        Value::String(name) => match name.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            other => panic!("type {other}"),
        },
        other => panic!("type {other}"),
    }
}

fn has_format(rule: &Value, text: &str) -> bool {
    match rule.as_str().unwrap() {
        "date-time" => text.parse::<ostler_wire::Timestamp>().is_ok(),
        "uuid" => ostler_wire::RunId::parse(text).is_ok(),
        other => panic!("format {other} of a text"),
    }
}
