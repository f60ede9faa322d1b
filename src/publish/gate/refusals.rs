//! Refusals in a row, and what they come to.

use std::sync::Arc;

use super::Test;
use crate::contract::v1;
use crate::publish::candidate::StreamSuspect;
use crate::publish::registry::Registry;

/// Counts the versions that were refused one after the other for what they have learned.
#[derive(Debug, Clone)]
pub struct Refusals {
    in_a_row: u64,
    rollback_after: u64,
}

impl Refusals {
    /// Goes on from what the registry says of its newest versions. `rollback_after` as in `[gate]`.
    pub fn resume(registry: &Registry, rollback_after: u64) -> Refusals {
        let newest = registry.versions.values().rev();
        let in_a_row = newest.take_while(|manifest| is_refused(manifest)).count() as u64;
        Refusals { in_a_row, rollback_after }
    }

    /// Takes in a version that was published; the checkpoint that training has to go back to, if it has
    /// come to that. `suspicion` is that with which it was judged.
    pub fn count<'a>(
        &mut self,
        registry: &'a Registry,
        manifest: &v1::Manifest,
        suspicion: Option<&StreamSuspect>,
    ) -> Option<&'a Arc<v1::Manifest>> {
        self.in_a_row = if is_refused(manifest) { self.in_a_row + 1 } else { 0 };
        let since_ms = suspicion.map(|suspicion| suspicion.since_ms);
        (self.in_a_row >= self.rollback_after).then(|| way_back(registry, manifest.step, since_ms)).flatten()
    }

    /// Training has gone back.
    pub fn went_back(&mut self) {
        self.in_a_row = 0;
    }
}

/// Refused for more than that it lies behind production, where it is on its way.
fn is_refused(manifest: &v1::Manifest) -> bool {
    manifest.gate.as_ref().is_some_and(|gate| gate.tests.iter().any(|test| test != Test::Offsets.as_str()))
}

/// The checkpoint that training goes back to after `step` steps: the newest that passed the gate before
/// anything was learned that may be poisoned; where none is that old, the oldest that passed. None
/// where that would take nothing back; but with a suspect stream that says which model is sound.
fn way_back(registry: &Registry, step: u64, since_ms: Option<i64>) -> Option<&Arc<v1::Manifest>> {
    let is_before = |manifest: &&Arc<v1::Manifest>| {
        since_ms.is_none_or(|since_ms| manifest.event_time_watermark_ms < since_ms)
    };
    let mut passed = registry.passed_checkpoints();
    let found = passed.find(is_before).or_else(|| registry.passed_checkpoints().last());
    found.filter(|manifest| manifest.step < step || since_ms.is_some())
}

#[cfg(test)]
mod tests;
