//! What goes to the publisher, and what comes back.

use std::sync::Arc;

use crate::contract::v1;
use crate::model::HostTensor;

/// What is to be published: everything that the registry does not know by itself.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// Decides whether training state is among the tensors.
    pub kind: v1::VersionKind,
    /// The scoring tensors, and for a checkpoint the training state too.
    pub tensors: Vec<HostTensor>,
    /// What it has learned of each input partition, and what it gave up since its parent (invariant 7).
    pub inputs: Vec<v1::LearnedRange>,
    /// Greatest event time among the samples that it has learned, or that wait in its reservoir.
    pub event_time_watermark_ms: i64,
    /// Steps since the model began.
    pub step: u64,
    /// Since the model began.
    pub behavior_groups_learned: u64,
    /// Since the model began, each counted at its first draw.
    pub preference_pairs_learned: u64,
    /// Its figures on samples before it learned them.
    pub progressive: v1::ProgressiveMetrics,
    /// The same beside its anchor; None before there is one.
    pub comparison: Option<v1::AnchorComparison>,
    /// Why the stream is not to be trusted; None also where the version has learned nothing of it.
    pub suspicion: Option<StreamSuspect>,
}

/// The stream is suspect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamSuspect {
    /// In words.
    pub reasons: Vec<String>,
    /// Event time from which on it may be poisoned.
    pub since_ms: i64,
}

/// What became of a candidate.
#[derive(Debug, Clone)]
pub struct Published {
    /// As it was committed.
    pub manifest: Arc<v1::Manifest>,
    /// Pages that no kept version had, and those of older versions that moved.
    pub pages_written: usize,
    /// When a person last accepted the stream as it is.
    pub stream_accepted_at_ms: Option<i64>,
    /// So many versions were refused that training has to go back to this one.
    pub way_back: Option<WayBack>,
}

/// A checkpoint to go back to.
#[derive(Debug, Clone)]
pub struct WayBack {
    /// It has passed the gate.
    pub manifest: Arc<v1::Manifest>,
    /// All of its tensors.
    pub tensors: Vec<HostTensor>,
}
