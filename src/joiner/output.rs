//! What the join emits, as records of the output topics.

use std::sync::Arc;

use crate::join::{Output, OutputKind};
use crate::kafka::Outgoing;
use crate::settings::Topics;

/// The output topics' names, shared by all records.
pub(super) struct OutputTopics {
    labelled_views: Arc<str>,
    preference_pairs: Arc<str>,
    behavior_groups: Arc<str>,
    late: Arc<str>,
    dead_letters: Arc<str>,
}

impl OutputTopics {
    pub(super) fn new(topics: &Topics) -> Self {
        let name = |kind: OutputKind| Arc::from(kind.topic(topics));
        Self {
            labelled_views: name(OutputKind::LabelledView),
            preference_pairs: name(OutputKind::PreferencePair),
            behavior_groups: name(OutputKind::BehaviorGroup),
            late: name(OutputKind::Late),
            dead_letters: name(OutputKind::DeadLetter),
        }
    }

    /// The record for `partition`, which is the input's.
    pub(super) fn outgoing(&self, partition: i32, output: Output) -> Outgoing {
        let topic = match output.kind {
            OutputKind::LabelledView => &self.labelled_views,
            OutputKind::PreferencePair => &self.preference_pairs,
            OutputKind::BehaviorGroup => &self.behavior_groups,
            OutputKind::Late => &self.late,
            OutputKind::DeadLetter => &self.dead_letters,
        };
        outgoing(Arc::clone(topic), partition, output)
    }
}

/// An output as a record of `topic`; its timestamp is the time of production.
pub(crate) fn outgoing(topic: Arc<str>, partition: i32, output: Output) -> Outgoing {
    Outgoing {
        topic,
        partition: Some(partition),
        payload: output.payload(),
        key: output.key,
        headers: output.headers,
        timestamp_ms: None,
    }
}
