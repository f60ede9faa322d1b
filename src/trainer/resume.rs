//! Where training goes on. Pure.

use crate::contract::v1;
use crate::kafka::identity::TopicId;
use crate::publish::manifest;
use crate::settings::{Gap, Settings, Topics};

use super::error::TrainerError;
use super::progress::{Partition, Progress};

/// What the log holds of an input partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub partition: Partition,
    /// The cluster's id of the topic, where it gives one.
    pub topic_id: Option<TopicId>,
    /// The first offset that the log holds.
    pub low: i64,
    /// Its last stable offset.
    pub high: i64,
}

/// A gap that a person has accepted beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub partition: Partition,
    /// From, and up to without.
    pub offsets: (i64, i64),
}

/// Refuses a checkpoint whose model is not the one that the settings describe.
pub fn check_model(checkpoint: &v1::Manifest, settings: &Settings) -> Result<(), TrainerError> {
    match manifest::unlike_sections(checkpoint, settings) {
        None => Ok(()),
        Some(sections) => Err(TrainerError::OtherModel { version: checkpoint.version, sections }),
    }
}

/// Refuses a checkpoint that has learned from something else than the two topics that a trainer reads:
/// where it would go on in these is not known.
pub fn check_inputs(checkpoint: &v1::Manifest, topics: &Topics) -> Result<(), TrainerError> {
    let read = [&topics.behavior_groups, &topics.preference_pairs];
    match checkpoint.inputs.iter().find(|range| !read.contains(&&range.topic)) {
        None => Ok(()),
        Some(range) => Err(TrainerError::OtherInputs {
            model: checkpoint.model.clone(),
            version: checkpoint.version,
            topic: range.topic.clone(),
        }),
    }
}

/// Fits what has been learned to what the logs hold: partitions that are new are read from their
/// first record; offsets that are gone are an error, or a gap where `policy` accepts one. Returns the
/// gaps that were accepted.
pub fn fit(progress: &mut Progress, held: &[Held], policy: Gap) -> Result<Vec<Accepted>, TrainerError> {
    let positions: Vec<(Partition, i64)> =
        progress.next_offsets().map(|(partition, offset)| (partition.clone(), offset)).collect();
    for (partition, offset) in &positions {
        if !held.iter().any(|held| held.partition == *partition) {
            return Err(TrainerError::PartitionGone {
                topic: partition.topic.to_string(),
                partition: partition.number,
                offset: *offset,
            });
        }
    }
    let mut accepted = Vec::new();
    for held in held {
        match positions.iter().find(|(partition, _)| *partition == held.partition) {
            Some((_, offset)) => {
                check_identity(progress.topic_id(&held.partition), held, *offset)?;
                if let Some(low) = judge(held, *offset, policy)? {
                    progress.gap(&held.partition, low, GONE);
                    accepted.push(Accepted { partition: held.partition.clone(), offsets: (*offset, low) });
                }
            }
            None => {
                progress.add(held.partition.clone());
                progress.gap(&held.partition, held.low, "older than what the log held when training began");
            }
        }
        progress.identify(&held.partition, held.topic_id.as_ref());
    }
    Ok(accepted)
}

/// Refuses to read on at `offset` in another topic of the same name.
pub fn check_identity(before: Option<&TopicId>, held: &Held, offset: i64) -> Result<(), TrainerError> {
    match (before, &held.topic_id) {
        (Some(before), Some(now)) if before != now => Err(TrainerError::OtherTopic {
            topic: held.partition.topic.to_string(),
            partition: held.partition.number,
            offset,
            before: before.clone(),
            now: now.clone(),
        }),
        _ => Ok(()),
    }
}

/// Whether the log can be read on at `offset`: `None`; or, where `policy` accepts a gap, the offset
/// to go on at.
pub fn judge(held: &Held, offset: i64, policy: Gap) -> Result<Option<i64>, TrainerError> {
    let (topic, partition) = (held.partition.topic.to_string(), held.partition.number);
    let Held { low, high, .. } = *held;
    match policy {
        _ if offset > high => Err(TrainerError::TopicReplaced { topic, partition, offset, high }),
        _ if offset >= low => Ok(None),
        Gap::Error => Err(TrainerError::OffsetGone { topic, partition, offset, low, high }),
        Gap::Accept => Ok(Some(low)),
    }
}

/// The reason of a gap that a person has accepted beforehand.
pub const GONE: &str = "gone from the log before it was learned (train.gap = \"accept\")";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn partition(number: i32) -> Partition {
        Partition { topic: "groups".into(), number }
    }

    fn held(number: i32, low: i64, high: i64) -> Held {
        Held { partition: partition(number), topic_id: Some("first".to_owned()), low, high }
    }

    fn at(offset: i64) -> Progress {
        Progress::resume(&[v1::LearnedRange {
            topic: "groups".to_owned(),
            next_offset: offset,
            ..v1::LearnedRange::default()
        }])
    }

    #[test]
    fn a_new_model_begins_at_the_first_record_and_says_what_it_never_saw() {
        let mut progress = Progress::default();
        let accepted = fit(&mut progress, &[held(0, 0, 9), held(1, 5, 9)], Gap::Error);
        assert_eq!(accepted.expect("nothing is gone"), [], "nobody has lost what was never to be learned");
        let cut = progress.cut();
        assert_eq!((cut[0].next_offset, cut[0].gaps.len()), (0, 0));
        assert_eq!((cut[1].next_offset, cut[1].gaps[0].to_offset), (5, 5));
    }

    #[test]
    fn training_goes_on_where_the_checkpoint_stands() {
        let mut progress = at(7);
        fit(&mut progress, &[held(0, 3, 7)], Gap::Error).expect("it is there");
        assert_eq!(progress.cut()[0].next_offset, 7);
    }

    #[test]
    fn an_offset_that_is_gone_is_an_error_that_names_the_way_out() {
        let error = fit(&mut at(7), &[held(0, 8, 20)], Gap::Error).expect_err("gone");
        let text = error.to_string();
        for part in ["'groups'", "partition 0", "offset 7", "8 up to 20", "train.gap"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn invariant_7_an_accepted_gap_is_recorded() {
        let mut progress = at(7);
        let accepted = fit(&mut progress, &[held(0, 8, 20)], Gap::Accept).expect("accepted");
        assert_eq!(accepted, [Accepted { partition: partition(0), offsets: (7, 8) }]);
        let cut = progress.cut();
        assert_eq!((cut[0].gaps[0].from_offset, cut[0].gaps[0].to_offset, cut[0].next_offset), (7, 8, 8));
    }

    #[test]
    fn a_topic_that_ends_before_the_checkpoint_is_another_topic() {
        let result = fit(&mut at(7), &[held(0, 0, 6)], Gap::Accept);
        assert!(matches!(result, Err(TrainerError::TopicReplaced { .. })));
        assert!(matches!(fit(&mut at(7), &[], Gap::Accept), Err(TrainerError::PartitionGone { .. })));
    }

    #[test]
    fn a_topic_that_was_created_again_is_told_by_its_id_also_when_it_is_longer() {
        let mut progress = at(7);
        fit(&mut progress, &[held(0, 0, 9)], Gap::Error).expect("no id was known");
        let resumed = |progress: &mut Progress| Progress::resume(&progress.cut());
        fit(&mut resumed(&mut progress), &[held(0, 0, 20)], Gap::Error).expect("the same topic");
        let unknown = Held { topic_id: None, ..held(0, 0, 20) };
        fit(&mut resumed(&mut progress), &[unknown], Gap::Error).expect("brokers that give no ids");
        let other = Held { topic_id: Some("second".to_owned()), ..held(0, 0, 20) };
        let error = fit(&mut resumed(&mut progress), &[other], Gap::Accept).expect_err("another topic");
        let text = error.to_string();
        for part in ["'groups'", "partition 0", "offset 7", "first", "second", "model.name"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_checkpoint_of_a_replay_is_refused_and_not_begun_somewhere() {
        let topics = Settings::default().topics;
        let range = |topic: &str| v1::LearnedRange { topic: topic.to_owned(), ..v1::LearnedRange::default() };
        let of = |inputs: &[&str]| v1::Manifest {
            model: "main.replay-x".to_owned(),
            version: 1,
            inputs: inputs.iter().map(|topic| range(topic)).collect(),
            ..v1::Manifest::default()
        };
        check_inputs(&of(&[&topics.behavior_groups, &topics.preference_pairs]), &topics)
            .expect("a trainer's");
        let replayed = of(&[&topics.behavior_groups, &topics.behavior]);
        let text = check_inputs(&replayed, &topics).expect_err("a replay's").to_string();
        for part in ["version 1", "'main.replay-x'", "'behavior-log'", "easq backfill"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_model_is_refused_and_the_section_named() {
        let settings = Settings::default();
        let architecture = Architecture::from_settings(&settings);
        let mut checkpoint = v1::Manifest {
            version: 4,
            features: Some(architecture.feature_schema()),
            shape: Some(architecture.model_shape()),
            ..v1::Manifest::default()
        };
        check_model(&checkpoint, &settings).expect("the same model");
        checkpoint.shape.as_mut().expect("a shape").hidden_dim += 1;
        let text = check_model(&checkpoint, &settings).expect_err("another").to_string();
        assert!(
            text.contains("version 4") && text.contains("[model]") && !text.contains("[features]"),
            "{text}"
        );
    }
}
