//! A stream whose configuration cannot be read is served all the same: its messages are there. What the configuration
//! said is not guessed; it takes nothing in and lets nothing go until somebody says what it is to be.

use std::path::Path;
use std::sync::Arc;

use ostler_broker_store::disk::Disk;
use ostler_broker_store::{Error, Finding, Options, Report, Severity, Store};

use super::restore::MARKER;
use super::{META, META_VERSION, Meta, Storage, StreamConfig, is_name};
use crate::consumer::{CONSUMER_PREFIX, STATE_PREFIX};
use crate::time::Time;

const UPDATE_IT: &str = "it is served without subjects and limits; give it its configuration with an update";

/// Looks at a stream's directory as [`ostler_broker_store::check`] does, and says what it means for the stream and its
/// consumers. Changes nothing. No server may use it.
///
/// # Errors
/// Those of [`ostler_broker_store::check`]; damage is in the report.
pub fn check(disk: Arc<dyn Disk>, dir: &Path) -> Result<Report, Error> {
    let unfinished = has_marker(&*disk, dir);
    let mut report = ostler_broker_store::check(disk, dir)?;
    let told = report.findings.iter().any(|finding| finding.is_damage() && is_of_stream(finding));
    if !unfinished && !told && report.messages > 0 && !is_configured(&report) {
        report.findings.push(not_there());
    }
    report.findings.iter_mut().for_each(explain);
    Ok(report)
}

/// Goes on without what cannot be read, as [`ostler_broker_store::repair`] does. A stream whose configuration is lost
/// gets one without subjects and limits, so that it is served.
///
/// # Errors
/// Those of [`ostler_broker_store::repair`].
pub fn repair(disk: Arc<dyn Disk>, dir: &Path) -> Result<Report, Error> {
    let unfinished = has_marker(&*disk, dir);
    let mut report = ostler_broker_store::repair(Arc::clone(&disk), dir)?;
    if !unfinished && !is_configured(&report) && (report.messages > 0 || !report.findings.is_empty()) {
        let mut store = Store::open_on(disk, dir, Options { create: false, ..Options::default() })?;
        if let Some(meta) = salvage(dir, &mut store, 0) {
            let bytes = serde_json::to_vec(&meta).unwrap_or_default();
            store.save_checkpoint(META, META_VERSION, &bytes)?;
            store.close()?;
            report.repaired = true;
            if !report.findings.iter().any(is_of_stream) {
                report.findings.push(not_there());
            }
        }
    }
    report.findings.iter_mut().for_each(explain);
    Ok(report)
}

/// What stands in for a configuration that cannot be read; `None` when the directory has no stream's name.
pub(super) fn salvage(dir: &Path, store: &mut Store, now: i64) -> Option<Meta> {
    let name = dir.file_name()?.to_str().filter(|name| is_name(name))?.to_owned();
    let config = StreamConfig { name, storage: Storage::File, ..StreamConfig::default() };
    // Its completion would give it its name as a subject.
    let config = StreamConfig { subjects: Vec::new(), allow_direct: true, ..config.completed().ok()? };
    let created = store.oldest().map_or(now, |(_, time)| time);
    // What headers say of batches is not believed: nothing is cut off.
    Some(Meta { config, created: Time::from_nanos(created), adopted: store.last_seq() })
}

/// What is to be said where nothing else says that the configuration is lost.
pub(super) fn not_there() -> Finding {
    Finding {
        severity: Severity::Damage,
        object: "the stream's configuration".to_owned(),
        place: format!("cp-{META}.0"),
        reason: "it is not there".to_owned(),
        remedy: UPDATE_IT.to_owned(),
    }
}

/// Says what the loss of a checkpoint means: the store knows names only.
pub(super) fn explain(finding: &mut Finding) {
    let Some(name) = finding.object.strip_prefix("checkpoint ") else { return };
    if !finding.is_damage() {
        return;
    }
    let (object, remedy) = if name == META {
        ("the stream's configuration".to_owned(), UPDATE_IT.to_owned())
    } else if let Some(consumer) = name.strip_prefix(CONSUMER_PREFIX) {
        (
            format!("the configuration of consumer {consumer}"),
            "the consumer is gone; create it again".to_owned(),
        )
    } else if let Some(consumer) = name.strip_prefix(STATE_PREFIX) {
        let remedy = "it begins anew: what it had acknowledged is delivered again";
        (format!("the state of consumer {consumer}"), remedy.to_owned())
    } else {
        return;
    };
    (finding.object, finding.remedy) = (object, remedy);
}

fn is_of_stream(finding: &Finding) -> bool {
    finding.object.strip_prefix("checkpoint ") == Some(META)
}

fn is_configured(report: &Report) -> bool {
    report.checkpoints.iter().any(|name| name == META)
}

/// It was being filled from a backup: the server removes it when it starts.
fn has_marker(disk: &dyn Disk, dir: &Path) -> bool {
    disk.open_read_only(&dir.join(MARKER)).is_ok()
}
