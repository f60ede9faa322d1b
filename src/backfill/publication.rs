//! What a replay has learned, as the first version of a model of its own.
//!
//! Nothing of it can meet the live model: pages, registry, group and transactional id follow from the
//! model's name (invariant 10). The version is published as a trainer publishes one: pages, manifest and
//! `production` in one transaction (invariant 8).

use jiff::Timestamp;

use super::account::Replayed;
use super::error::BackfillError;
use super::run::Task;
use crate::contract::v1::{LearnedRange, ReplayedRange, SkippedRange, VersionKind};
use crate::kafka::reader::{LogReader, ReadError};
use crate::kafka::topics::create_of_model;
use crate::offline::{self, Learning};
use crate::publish::{Candidate, empty_registry, publish_first};
use crate::settings::{self, Settings};
use crate::supervise::{StopToken, failpoint};

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

    /// Refuses a model that has versions, before anything is created.
    ///
    /// # Errors
    /// The registry holds something, or the brokers refuse.
    pub fn check(&self, stop: &StopToken) -> Result<(), BackfillError> {
        let topic = self.settings.topics.registry(self.model());
        match LogReader::new(&self.settings.kafka, "backfill registry")?.partitions(&topic) {
            Err(ReadError::UnknownTopic { .. }) => Ok(()),
            there => {
                there?;
                empty_registry(&self.settings, stop).map(|_| ()).map_err(BackfillError::NotPublishable)
            }
        }
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

/// What a version of a replay says that it has learned: what its base says, and of each partition that was
/// read from where to where, and of which event times. What lies between the two is a gap. A topic that was
/// created anew since stands beside the one that the base had read.
pub fn inputs(task: &Task, replayed: &Replayed) -> Vec<LearnedRange> {
    let Task { range, plan, topic_ids, base_inputs, .. } = task;
    let mut inputs = base_inputs.clone();
    for (stretch, reached) in plan.stretches.iter().zip(&replayed.reached) {
        let topic_id = topic_ids.get(&stretch.topic).cloned().unwrap_or_default();
        let is_it = |input: &LearnedRange| {
            let is_same = input.topic_id.is_empty() || topic_id.is_empty() || input.topic_id == topic_id;
            *input.topic == *stretch.topic && input.partition == stretch.partition && is_same
        };
        let before = inputs.iter().position(is_it).map(|position| inputs.remove(position));
        let mut input = before.unwrap_or_else(|| LearnedRange {
            topic: stretch.topic.to_string(),
            partition: stretch.partition,
            ..LearnedRange::default()
        });
        if input.next_offset < stretch.from {
            input.gaps.push(SkippedRange {
                from_offset: input.next_offset,
                to_offset: stretch.from,
                reason: "before the range that was replayed".to_owned(),
            });
        }
        input.replayed.push(ReplayedRange {
            from_offset: stretch.from,
            next_offset: reached.next_offset,
            from_ms: range.from_ms,
            to_ms: range.to_ms,
            records: reached.records,
        });
        input.next_offset = input.next_offset.max(reached.next_offset);
        input.samples += reached.records;
        if !topic_id.is_empty() {
            input.topic_id = topic_id;
        }
        inputs.push(input);
    }
    inputs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::backfill::account::Reached;
    use crate::backfill::plan::{Origin, Plan};
    use crate::backfill::range::Range;
    use crate::backfill::sink::Learned;
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
        let settings = Settings::default();
        let range = |topic: &str, partition, next_offset, samples| LearnedRange {
            topic: topic.to_owned(),
            partition,
            next_offset,
            samples,
            ..LearnedRange::default()
        };
        let between = |from_offset, to_offset, reason: &str| SkippedRange {
            from_offset,
            to_offset,
            reason: reason.to_owned(),
        };
        let stretch = |topic: &str, from| Stretch { topic: topic.into(), partition: 0, from, end: 100 };
        let stretches = vec![stretch("views", 10), stretch("answers", 3)];
        let of_read = |from_offset, next_offset, records| ReplayedRange {
            from_offset,
            next_offset,
            from_ms: 1000,
            to_ms: 2000,
            records,
        };
        let old = ReplayedRange { from_ms: 1, to_ms: 2, ..of_read(2, 8, 6) };
        let known = |id: &str| LearnedRange {
            skipped: vec![between(1, 2, "undecodable")],
            gaps: vec![between(0, 1, "gone")],
            replayed: vec![old],
            topic_id: id.to_owned(),
            ..range("views", 0, 8, 8)
        };
        let overlapping = LearnedRange { topic_id: "of answers".to_owned(), ..range("answers", 0, 9, 4) };
        let task = |views_id: &str| Task {
            range: Range::new(&settings, 1000, 2000, 0),
            pair_run_in_ms: None,
            plan: Plan {
                origin: Origin::Inputs,
                partitions: 1,
                stretches: stretches.clone(),
                lacking: Vec::new(),
            },
            topic_ids: [("views".into(), "id".to_owned()), ("answers".into(), "of answers".to_owned())]
                .into(),
            learned_before: Learned::default(),
            base_inputs: vec![range("groups", 3, 7, 6), known(views_id), overlapping.clone()],
        };
        let reached = |next_offset, records| Reached { next_offset, stream_time_ms: None, records };
        let replayed = Replayed { reached: vec![reached(20, 9), reached(5, 2)], outcomes: BTreeMap::new() };
        let gap = |from| between(from, 10, "before the range that was replayed");
        let answers = LearnedRange { samples: 6, replayed: vec![of_read(3, 5, 2)], ..overlapping.clone() };

        for views_id in ["id", ""] {
            let views = LearnedRange {
                gaps: vec![between(0, 1, "gone"), gap(8)],
                replayed: vec![old, of_read(10, 20, 9)],
                next_offset: 20,
                samples: 17,
                ..known("id")
            };
            let expected = [range("groups", 3, 7, 6), views, answers.clone()];
            assert_eq!(inputs(&task(views_id), &replayed), expected);
        }
        // The offsets of two topics of one name have nothing to do with each other.
        let anew = LearnedRange {
            gaps: vec![gap(0)],
            replayed: vec![of_read(10, 20, 9)],
            topic_id: "id".to_owned(),
            ..range("views", 0, 20, 9)
        };
        let expected = [range("groups", 3, 7, 6), known("deleted"), anew, answers];
        assert_eq!(inputs(&task("deleted"), &replayed), expected);
    }
}
