//! What is said about batches that were not learned whole, wherever their samples come from.

use std::collections::BTreeMap;

use crate::contract::v1;
use crate::publish::{StreamSuspect, gate};
use crate::telemetry::events::{BatchPartsDropped, BatchSkipped};
use crate::train::{BadBatch, BadBatches, BadRun, Difference, DropReason, ReferenceEvidence, Trainer};

/// Tells which parts of a batch were dropped.
pub fn parts_dropped(dropped: &BTreeMap<DropReason, usize>) {
    for (&reason, &count) in dropped {
        let kind = if reason == DropReason::GroupTooSmall { "group" } else { "view" };
        BatchPartsDropped { kind, reason: reason.as_str(), count: count as u64 }.emit();
    }
}

/// Tells of a batch that was skipped, and counts it.
///
/// # Errors
/// It is one too many in a row (`train.max_bad_batches`).
pub fn batch_skipped(run: &mut BadRun, bad: BadBatch) -> Result<(), BadBatches> {
    let reason = bad.to_string();
    let counted = run.count(bad);
    let in_a_row = counted.as_ref().map_or_else(|over| over.count, |in_a_row| *in_a_row);
    BatchSkipped { reason: &reason, in_a_row }.emit();
    counted.map(drop)
}

/// What speaks against a version that is cut now: nothing where it has learned nothing since it was one
/// that passed, after `passed_step` steps.
pub fn suspicion(trainer: &Trainer, passed_step: Option<u64>) -> Option<StreamSuspect> {
    let suspicion = trainer.suspicion().filter(|_| passed_step != Some(trainer.steps()))?;
    let reasons = suspicion.reasons.into_iter().map(|(_, reason)| reason).collect();
    Some(StreamSuspect { reasons, since_ms: suspicion.since_ms })
}

/// What a manifest says of the model beside its anchor.
pub fn compared(evidence: ReferenceEvidence) -> v1::AnchorComparison {
    let figure = |of: Difference| (of.count > 0).then(|| gate::figure(of.count, of.mean, of.standard_error));
    v1::AnchorComparison {
        anchor: evidence.version,
        preference: figure(evidence.preference),
        behavior: figure(evidence.behavior),
        rank_correlation: figure(evidence.rank_correlation),
    }
}
