//! The records that the join emits, ready to be produced.

use bytes::Bytes;

use super::Side;
use crate::settings::Topics;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputKind {
    LabelledView,
    PreferencePair,
    BehaviorGroup,
    Late,
    DeadLetter,
}

impl OutputKind {
    pub fn topic(self, topics: &Topics) -> &str {
        match self {
            OutputKind::LabelledView => &topics.labelled_views,
            OutputKind::PreferencePair => &topics.preference_pairs,
            OutputKind::BehaviorGroup => &topics.behavior_groups,
            OutputKind::Late => &topics.late,
            OutputKind::DeadLetter => &topics.dead_letters,
        }
    }
}

/// One record to produce, to the partition of the same number as the join's.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub kind: OutputKind,
    /// The user id; of late records and dead letters the original key.
    pub key: Option<Bytes>,
    /// An encoded message; of late records and dead letters the original value.
    pub payload: Option<Bytes>,
    pub headers: Vec<(&'static str, Bytes)>,
    /// Of late records and dead letters: the input and the value of the header `reason`.
    pub reason: Option<(Side, &'static str)>,
}

/// What the join wants done, in order. The caller takes the outputs and may reuse the value.
#[derive(Debug, Default)]
pub struct Effects {
    pub outputs: Vec<Output>,
}
