//! Which offsets of which topics a range comes from.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{BackfillError, Missing, NothingThere};
use super::range::{Held, Range};
use crate::kafka::reader::{LogReader, ReadError, Stretch};
use crate::settings::{Settings, Topics};

/// The last time that is looked at for records: the end of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Both inputs.
    Inputs,
    /// What the joiner has written.
    Samples,
}

impl Origin {
    /// In the order in which records of one time are taken.
    pub fn topics(self, topics: &Topics) -> Vec<&str> {
        match self {
            Self::Inputs => vec![&topics.behavior, &topics.responses],
            Self::Samples => vec![&topics.labelled_views, &topics.preference_pairs, &topics.behavior_groups],
        }
    }
}

/// What is read for a range.
pub struct Plan {
    pub origin: Origin,
    /// Of either input; of samples those of the pairs.
    pub partitions: i32,
    /// Topic by topic, all partitions of each, from 0: in the order in which records of one time are taken.
    pub stretches: Vec<Stretch>,
    /// Stretches of which records that the range may need are gone, by number.
    pub lacking: Vec<usize>,
}

/// Asks the brokers for the offsets of a range: from the first record with a timestamp in it up to the last
/// stable offset of now.
///
/// # Errors
/// Nothing is there, or some of it is gone, where `accept_gap` does not allow that.
pub fn plan(
    settings: &Settings,
    origin: Origin,
    range: &Range,
    accept_gap: bool,
) -> Result<Plan, BackfillError> {
    let log = Log::new(settings, origin)?;
    let at = log.offsets_at(range.read_from_ms)?;
    let (mut stretches, mut lacking, mut held_of_all) = (Vec::new(), Vec::new(), Vec::new());
    for ((topic, partition), at) in log.partitions().zip(at) {
        let (low, high) = log.reader.watermarks(&topic, partition)?;
        let held = Held { low, high, at };
        if held.may_lack() {
            lacking.push(stretches.len());
        }
        stretches.push(Stretch { topic, partition, from: held.from(), end: high });
        held_of_all.push(held);
    }
    if stretches.iter().all(|stretch| stretch.from >= stretch.end) {
        return Err(BackfillError::NothingThere(NothingThere {
            topics: log.topics.iter().map(|(topic, _)| topic.to_string()).collect(),
            read_from_ms: range.read_from_ms,
            newest_ms: log.newest_ms()?,
        }));
    }
    match lacking.first() {
        Some(&first) if !accept_gap => {
            let whole_from_ms = log.whole_from_ms(&lacking, &held_of_all)?;
            Err(BackfillError::Missing(Box::new(Missing {
                topic: stretches[first].topic.to_string(),
                partition: stretches[first].partition,
                low: held_of_all[first].low,
                others: lacking.len() - 1,
                read_from_ms: range.read_from_ms,
                whole_from_ms,
                // The oldest record that is left must lie before what is read.
                earliest_from_ms: whole_from_ms.map(|time_ms| range.earliest_from_ms(time_ms + 1)),
            })))
        }
        _ => Ok(Plan { origin, partitions: log.pair_partitions(), stretches, lacking }),
    }
}

/// The topics that are read, with their numbers of partitions.
struct Log {
    reader: LogReader,
    topics: Vec<(Arc<str>, i32)>,
}

impl Log {
    fn new(settings: &Settings, origin: Origin) -> Result<Self, BackfillError> {
        let reader = LogReader::new(&settings.kafka, "backfill planner")?;
        let mut topics: Vec<(Arc<str>, i32)> = Vec::new();
        for topic in origin.topics(&settings.topics) {
            topics.push((topic.into(), reader.partitions(topic)?));
        }
        let ((behavior, behavior_partitions), (responses, responses_partitions)) = (&topics[0], &topics[1]);
        if origin == Origin::Inputs && behavior_partitions != responses_partitions {
            return Err(BackfillError::UnlikePartitions {
                behavior: behavior.to_string(),
                behavior_partitions: *behavior_partitions,
                responses: responses.to_string(),
                responses_partitions: *responses_partitions,
            });
        }
        Ok(Self { reader, topics })
    }

    /// The partitions that pairs come from: the second topic of either kind has them.
    fn pair_partitions(&self) -> i32 {
        self.topics[1].1
    }

    /// All of them, as the stretches of a [`Plan`].
    fn partitions(&self) -> impl Iterator<Item = (Arc<str>, i32)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            (0..*partitions).map(move |partition| (Arc::clone(topic), partition))
        })
    }

    /// The greatest timestamp of all records.
    fn newest_ms(&self) -> Result<Option<i64>, ReadError> {
        last_time(|time_ms| Ok(self.offsets_at(time_ms)?.iter().any(Option::is_some)))
    }

    /// The greatest timestamp of the oldest records of the partitions that lack something; none where one
    /// of them is empty.
    fn whole_from_ms(&self, lacking: &[usize], held: &[Held]) -> Result<Option<i64>, ReadError> {
        if lacking.iter().any(|&number| held[number].low >= held[number].high) {
            return Ok(None);
        }
        last_time(|time_ms| {
            let offsets = self.offsets_at(time_ms)?;
            Ok(lacking.iter().any(|&number| offsets[number].is_some_and(|at| at <= held[number].low)))
        })
    }

    /// Of all partitions.
    fn offsets_at(&self, time_ms: i64) -> Result<Vec<Option<i64>>, ReadError> {
        let mut offsets = Vec::new();
        for (topic, partitions) in &self.topics {
            offsets.extend(self.reader.offsets_at(topic, 0..*partitions, time_ms)?);
        }
        Ok(offsets)
    }
}

/// The last time for which `holds`, which does up to some time and not after it.
fn last_time(mut holds: impl FnMut(i64) -> Result<bool, ReadError>) -> Result<Option<i64>, ReadError> {
    if !holds(0)? {
        return Ok(None);
    }
    let (mut low_ms, mut high_ms) = (0, LAST_MS);
    while low_ms < high_ms {
        let middle_ms = low_ms + (high_ms - low_ms + 1) / 2;
        if holds(middle_ms)? {
            low_ms = middle_ms;
        } else {
            high_ms = middle_ms - 1;
        }
    }
    Ok(Some(low_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_time_views_come_before_responses_and_labels_before_pairs_before_groups() {
        let topics = Settings::default().topics;
        assert_eq!(Origin::Inputs.topics(&topics), [&topics.behavior, &topics.responses]);
        let samples = [&topics.labelled_views, &topics.preference_pairs, &topics.behavior_groups];
        assert_eq!(Origin::Samples.topics(&topics), samples);
    }

    #[test]
    fn the_last_time_is_found_to_the_millisecond() {
        for last_ms in [0, 1, 1_700_000_000_123, LAST_MS] {
            assert_eq!(last_time(|time_ms| Ok(time_ms <= last_ms)).expect("an answer"), Some(last_ms));
        }
        assert_eq!(last_time(|_| Ok(false)).expect("an answer"), None);
    }
}
