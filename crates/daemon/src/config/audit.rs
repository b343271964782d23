//! `[audit]`: whether what happens is kept on the bus for good, and how much of it.

use ostler_engine::AuditOptions;
use serde::{Deserialize, Serialize};

use super::{Interval, Size};

/// Less than this is no audit: it would hold the entries of a few hours.
const BYTES_MIN: u64 = 1 << 20;

/// The settings of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Whether it is kept. Default `on`.
    pub mode: AuditMode,
    /// Bytes the stream may take on the bus; the oldest entries go first. Default 1 GiB, some two million entries; at
    /// least 1 MiB.
    pub max_bytes: Size,
    /// How long entries are kept. Default: until `max_bytes` is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Interval>,
}

/// Whether an audit is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditMode {
    /// None, and the bucket of desired states is left alone.
    Off,
    /// It is kept; where the bus takes none, entries wait in the database and the daemon works.
    #[default]
    On,
    /// It is kept, and the daemon does not start where the bus takes none.
    Required,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { mode: AuditMode::On, max_bytes: Size(1 << 30), max_age: None }
    }
}

impl AuditConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.max_bytes.bytes() < BYTES_MIN {
            return Err(("max_bytes", "must be at least \"1MiB\"".to_owned()));
        }
        match self.max_age {
            Some(age) if age.millis() < 1000 => Err(("max_age", "must be at least \"1s\"".to_owned())),
            _ => Ok(()),
        }
    }

    /// The same for the engine; `shared` when other daemons may be on the bus.
    pub(crate) fn to_engine(&self, shared: bool) -> AuditOptions {
        AuditOptions {
            mode: match self.mode {
                AuditMode::Off => ostler_engine::AuditMode::Off,
                AuditMode::On => ostler_engine::AuditMode::On,
                AuditMode::Required => ostler_engine::AuditMode::Required,
            },
            bytes_max: self.max_bytes.bytes(),
            age_ms_max: self.max_age.map(Interval::millis),
            shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{AuditMode, Overrides, parse};

    #[test]
    fn an_audit_is_on_unless_it_is_switched_off_and_may_be_required() {
        let mode =
            |text: &str| parse("ostler.toml", text, Overrides::default()).map(|config| config.audit.mode);
        assert_eq!(mode("").unwrap(), AuditMode::On);
        assert_eq!(mode("[audit]\nmode = \"off\"").unwrap(), AuditMode::Off);
        assert_eq!(mode("[audit]\nmode = \"required\"").unwrap(), AuditMode::Required);
        assert!(mode("[audit]\nmode = \"perhaps\"").is_err());
    }

    #[test]
    fn limits_that_keep_nothing_are_refused() {
        for (text, said) in [("max_bytes = \"1KiB\"", "1MiB"), ("max_age = \"1ms\"", "1s")] {
            let error = parse("ostler.toml", &format!("[audit]\n{text}"), Overrides::default()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
