//! The checks of `ostler doctor`. Each looks at one thing and changes nothing that stays.

mod machine;
mod programs;
mod service;

use serde::Serialize;

use crate::connect::Places;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Ostler works, something does not.
    Warn,
    /// Ostler does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, text: text.into(), remedy: None }
    }

    pub(crate) fn warn(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, text: text.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn fail(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, text: text.into(), remedy: Some(remedy.into()) }
    }
}

/// Runs every check, the most basic first.
pub(crate) async fn examine(places: &Places) -> Vec<Check> {
    let mut checks =
        vec![machine::state_directory(&places.state_dir), machine::disk_space(&places.state_dir)];
    checks.extend(service::checks(places).await);
    checks.push(machine::process_trees());
    checks.push(machine::cgroups());
    checks.push(machine::limits());
    checks.push(programs::claude().await);
    checks
}
