//! What was promised, told from the manifest and the mark before any record is read. Which bytes are damaged is decided in
//! `recover`.

use crate::format::header::Header;
use crate::format::manifest::{Listed, Manifest};
use crate::format::mark::Mark;

/// A segment that should be there or is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) id: u32,
    pub(super) header: Option<Header>,
    pub(super) listed: Option<Listed>,
    pub(super) present: bool,
}

/// What was promised, as a place in the plan and an offset there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Evidence {
    pub(super) until: (usize, u32),
    /// The last sequence that the same source speaks of.
    pub(super) last_seq: u64,
    pub(super) first_seq: u64,
    pub(super) next_id: u32,
    /// A segment that the mark names and that nobody else knows.
    pub(super) unknown_segment: Option<u32>,
}

impl Evidence {
    pub(super) fn new(manifest: Option<&Manifest>, mark: Option<Mark>, plan: &[Planned]) -> Self {
        let mut evidence = Self::default();
        for (index, planned) in plan.iter().enumerate() {
            if let Some(listed) = planned.listed {
                evidence.until = evidence.until.max((index, listed.len));
            }
        }
        if let Some(manifest) = manifest {
            evidence.last_seq = manifest.last_seq;
            evidence.first_seq = manifest.first_seq;
            evidence.next_id = manifest.next_id;
        }
        if let Some(mark) = mark {
            evidence.last_seq = evidence.last_seq.max(mark.last_seq);
            for (id, offset) in [mark.synced, mark.written] {
                match plan.iter().position(|planned| planned.id == id) {
                    Some(index) => evidence.until = evidence.until.max((index, offset)),
                    None if id >= evidence.next_id && id > 0 && manifest.is_some() => {
                        evidence.unknown_segment = Some(id);
                        evidence.until = (plan.len(), 0);
                    }
                    None => {}
                }
            }
        }
        evidence
    }
}
