//! What is told of the versions of a registry.

use crate::contract::v1;
use crate::telemetry::events::{ProductionStands, VersionJudged, VersionStands};

use super::registry::Registry;

/// Of a version that is published now: what the gate said, and what production is.
pub fn published(manifest: &v1::Manifest) {
    judged(manifest, true);
    if manifest.gate.as_ref().is_some_and(|gate| gate.promoted) {
        production(manifest);
    }
}

/// Of a registry that training goes on from: what stands in it.
pub fn found(registry: &Registry) {
    let newest = |kind: v1::VersionKind| registry.versions.values().rev().find(move |m| m.kind() == kind);
    for (kind, word) in [(v1::VersionKind::Serving, "serving"), (v1::VersionKind::Checkpoint, "checkpoint")] {
        if let Some(manifest) = newest(kind) {
            VersionStands { version: manifest.version, kind: word }.emit();
        }
    }
    if let Some((_, manifest)) = registry.versions.last_key_value() {
        judged(manifest, false);
    }
    if let Some(manifest) = registry.production_manifest() {
        production(manifest);
    }
}

fn judged(manifest: &v1::Manifest, is_new: bool) {
    let Some(gate) = &manifest.gate else { return };
    let failed: Vec<(&str, &str)> =
        gate.tests.iter().map(String::as_str).zip(gate.reasons.iter().map(String::as_str)).collect();
    VersionJudged {
        version: manifest.version,
        at_ms: manifest.created_at_ms,
        is_promoted: gate.promoted,
        failed: &failed,
        is_new,
    }
    .emit();
}

fn production(manifest: &v1::Manifest) {
    ProductionStands {
        version: manifest.version,
        created_ms: manifest.created_at_ms,
        event_time_ms: manifest.event_time_watermark_ms,
    }
    .emit();
}
