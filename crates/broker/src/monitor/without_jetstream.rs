//! `/jsz` and its kin of a server that is built without JetStream: there is nothing to tell.

use serde_json::{Value, json};

use super::query::{BadQuery, Problem, Query};
use crate::shared::Shared;
use crate::snapshot::Unanswered;

/// What is asked for; nothing of it is there.
#[derive(Debug)]
pub(crate) struct Options;

impl Options {
    pub(crate) fn parse(_query: &Query<'_>) -> Result<Self, BadQuery> {
        Ok(Self)
    }
}

/// `jetstream` in `/varz`.
pub(crate) async fn in_varz(_shared: &Shared) -> Result<Value, Unanswered> {
    Ok(json!({}))
}

/// No document.
pub(crate) async fn document(_shared: &Shared, _options: &Options) -> Result<Option<Value>, Problem> {
    Ok(None)
}

/// What `/healthz` is asked about.
#[derive(Debug)]
pub(crate) struct Health {
    enabled_only: bool,
}

/// Why there is no JetStream.
#[derive(Debug)]
pub(crate) struct Unwell {
    pub(crate) status: u16,
    pub(crate) reasons: Vec<String>,
}

impl Health {
    pub(crate) fn parse(query: &Query<'_>) -> Result<Self, BadQuery> {
        Ok(Self { enabled_only: query.flag("js-enabled-only")? | query.flag("js-enabled")? })
    }

    /// Cancel-safe.
    pub(crate) async fn check(self, _shared: &Shared) -> Result<Result<(), Unwell>, Unanswered> {
        Ok(match self.enabled_only {
            true => Err(Unwell { status: 503, reasons: vec!["JetStream not enabled".into()] }),
            false => Ok(()),
        })
    }
}
