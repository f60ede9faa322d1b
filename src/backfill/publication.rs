//! What a replay has learned, as the first version of a model of its own.
//!
//! Nothing of it can meet the live model: pages, registry, group and transactional id follow from the
//! model's name (invariant 10). The version is published as a trainer publishes one: pages, manifest and
//! `production` in one transaction (invariant 8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::account::Replayed;
use super::error::BackfillError;
use super::plan::Plan;
use crate::contract::v1::{LearnedRange, SkippedRange, VersionKind};
use crate::kafka::reader::LogReader;
use crate::kafka::topics::create_of_model;
use crate::offline::{self, Learning};
use crate::publish::{Candidate, empty_registry, publish_first};
use crate::settings::{self, Settings};
use crate::supervise::{StopToken, failpoint};

/// How long one question to the brokers may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The model that a replay publishes.
pub struct Publication {
    /// Those of the replay, but for the name of the model.
    settings: Settings,
    /// Whether a person has named the run.
    is_named: bool,
}

impl Publication {
    /// The model of a run; without a name it is called after the time.
    ///
    /// # Errors
    /// The name cannot be a part of topics' names.
    pub fn new(settings: &Settings, run: Option<&str>, now: Timestamp) -> Result<Self, BackfillError> {
        let by_time = || now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let name = format!("{}.replay-{}", settings.model.name, run.map_or_else(by_time, str::to_owned));
        let mut settings = settings.clone();
        settings.model.name.clone_from(&name);
        // A member of that name belongs to a trainer.
        settings.train.instance_id.clear();
        let problem = match run {
            Some("") => Some("RUN must not be empty".to_owned()),
            _ => settings::names_problem(&settings),
        };
        match problem {
            Some(problem) => Err(BackfillError::ModelName { name, problem }),
            None => Ok(Self { settings, is_named: run.is_some() }),
        }
    }

    pub fn model(&self) -> &str {
        &self.settings.model.name
    }

    /// The model's name, where it does not depend on the clock.
    pub fn named(&self) -> Option<String> {
        self.is_named.then(|| self.model().to_owned())
    }

    /// Creates the model's topics where they are missing.
    ///
    /// # Errors
    /// The registry holds something, or the brokers refuse.
    pub fn prepare(&self, stop: &StopToken) -> Result<(), BackfillError> {
        create_of_model(&self.settings)?;
        empty_registry(&self.settings, stop).map(|_| ()).map_err(BackfillError::NotPublishable)
    }

    /// Publishes what was learned. Waits for brokers that are away, until `stop`.
    ///
    /// # Errors
    /// A value is not finite, another process has the model, or the brokers refuse: then there is no
    /// version.
    pub fn publish(
        &self,
        learning: &Learning,
        inputs: &[LearnedRange],
        stop: &StopToken,
    ) -> Result<u64, BackfillError> {
        let trainer = learning.trainer();
        let candidate = Candidate {
            kind: VersionKind::Checkpoint,
            tensors: offline::tensors(learning)?,
            inputs: inputs.to_vec(),
            event_time_watermark_ms: learning.event_time_watermark_ms(),
            step: trainer.steps(),
            behavior_groups_learned: trainer.behavior_groups_learned(),
            preference_pairs_learned: trainer.preference_pairs_learned(),
            progressive: trainer.progressive(),
            ..Candidate::default()
        };
        failpoint("backfill-publish");
        let published = publish_first(&self.settings, candidate, stop);
        Ok(published.map_err(BackfillError::NotPublishable)?.version)
    }
}

/// What a version of a replay says that it has learned: what `base` had, and of each partition that was
/// read the records from the first to the last; what lies before is a gap.
pub fn inputs(
    settings: &Settings,
    base: &[LearnedRange],
    plan: &Plan,
    replayed: &Replayed,
) -> Result<Vec<LearnedRange>, BackfillError> {
    let reader = LogReader::new(&settings.kafka, "backfill inputs")?;
    let mut topic_ids: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for stretch in &plan.stretches {
        if !topic_ids.contains_key(&stretch.topic) {
            let id = reader.topic_id(&stretch.topic, ANSWER_WITHIN)?;
            topic_ids.insert(Arc::clone(&stretch.topic), id.unwrap_or_default());
        }
    }
    Ok(ranges(base, plan, replayed, &topic_ids))
}

fn ranges(
    base: &[LearnedRange],
    plan: &Plan,
    replayed: &Replayed,
    topic_ids: &BTreeMap<Arc<str>, String>,
) -> Vec<LearnedRange> {
    let mut ranges = base.to_vec();
    for (stretch, reached) in plan.stretches.iter().zip(&replayed.reached) {
        let before = ranges
            .iter()
            .position(|range| *range.topic == *stretch.topic && range.partition == stretch.partition)
            .map(|position| ranges.remove(position));
        let (known, samples) = before.map_or((0, 0), |range| (range.next_offset, range.samples));
        let gap = SkippedRange {
            from_offset: known,
            to_offset: stretch.from,
            reason: "before the range that was replayed".to_owned(),
        };
        ranges.push(LearnedRange {
            topic: stretch.topic.to_string(),
            partition: stretch.partition,
            next_offset: reached.next_offset.max(known),
            samples: samples + reached.records,
            skipped: Vec::new(),
            gaps: if gap.from_offset < gap.to_offset { vec![gap] } else { Vec::new() },
            topic_id: topic_ids.get(&stretch.topic).cloned().unwrap_or_default(),
        });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::account::Reached;
    use crate::backfill::plan::Origin;
    use crate::kafka::reader::Stretch;

    fn model(name: &str, run: Option<&str>) -> Result<String, String> {
        let mut settings = Settings::default();
        name.clone_into(&mut settings.model.name);
        let now = "2026-01-31T06:07:08.9Z".parse().expect("a time");
        let publication = Publication::new(&settings, run, now).map_err(|error| error.to_string())?;
        Ok(publication.model().to_owned())
    }

    #[test]
    fn a_run_has_a_name_or_the_time_and_both_can_stand_in_topics_names() {
        assert_eq!(model("main", Some("lr-2")), Ok("main.replay-lr-2".to_owned()));
        assert_eq!(model("main", None), Ok("main.replay-20260131T060708Z".to_owned()));
        for wrong in ["", "a b", "a/b", "ü"] {
            let said = model("main", Some(wrong)).expect_err(wrong);
            assert!(said.contains("--publish") && said.contains("main.replay-"), "{said}");
        }
        let said = model(&"m".repeat(128), Some("x")).expect_err("too long");
        assert!(said.contains("128"), "{said}");
    }

    #[test]
    fn invariant_7_a_version_of_a_replay_names_what_was_read_and_what_its_base_had() {
        let range = |topic: &str, partition, next_offset, samples| LearnedRange {
            topic: topic.to_owned(),
            partition,
            next_offset,
            samples,
            ..LearnedRange::default()
        };
        let stretch = |topic: &str, from| Stretch { topic: topic.into(), partition: 0, from, end: 100 };
        let plan =
            Plan::new(Origin::Inputs, 1, vec![stretch("views", 10), stretch("answers", 0)], Vec::new());
        let reached = |next_offset, records| Reached { next_offset, stream_time_ms: None, records };
        let replayed = Replayed { reached: vec![reached(20, 9), reached(5, 5)], outcomes: BTreeMap::new() };
        let base = [range("groups", 3, 7, 6), range("views", 0, 8, 8)];
        let ids = BTreeMap::from([("views".into(), "id".to_owned())]);
        let found = ranges(&base, &plan, &replayed, &ids);
        let gap = SkippedRange {
            from_offset: 8,
            to_offset: 10,
            reason: "before the range that was replayed".to_owned(),
        };
        let views = LearnedRange { gaps: vec![gap], topic_id: "id".to_owned(), ..range("views", 0, 20, 17) };
        assert_eq!(found, [range("groups", 3, 7, 6), views, range("answers", 0, 5, 5)]);
    }
}
