//! Which offsets of both inputs a range comes from.

use std::sync::Arc;

use super::error::{BackfillError, Missing, NothingThere};
use super::merge::Source;
use super::range::{Held, Range};
use crate::contract::Side;
use crate::kafka::reader::{LogReader, ReadError, Stretch};
use crate::settings::Settings;

/// The last time that is looked at for records: the end of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// What is read for a range.
pub struct Plan {
    /// Of either input.
    pub partitions: i32,
    /// All partitions of the views, then all of the responses.
    pub sources: Vec<Source>,
    /// One for each source, in that order.
    pub stretches: Vec<Stretch>,
    /// Sources of which records that the range may need are gone, by number.
    pub lacking: Vec<usize>,
}

/// Asks the brokers for the offsets of a range: from the first record with a timestamp in it up to the last
/// stable offset of now.
///
/// # Errors
/// Nothing is there, or some of it is gone, where `accept_gap` does not allow that.
pub fn plan(settings: &Settings, range: &Range, accept_gap: bool) -> Result<Plan, BackfillError> {
    let reader = LogReader::new(&settings.kafka, "backfill planner")?;
    let topics = [settings.topics.behavior.as_str(), settings.topics.responses.as_str()];
    let partitions = reader.partitions(topics[0])?;
    let responses_partitions = reader.partitions(topics[1])?;
    if partitions != responses_partitions {
        return Err(BackfillError::UnlikePartitions {
            behavior: topics[0].to_owned(),
            behavior_partitions: partitions,
            responses: topics[1].to_owned(),
            responses_partitions,
        });
    }
    let log = Log { reader, topics, partitions };
    let mut plan = Plan { partitions, sources: Vec::new(), stretches: Vec::new(), lacking: Vec::new() };
    let mut held_of_all = Vec::new();
    for (side, topic) in [Side::Views, Side::Responses].into_iter().zip(topics) {
        let name: Arc<str> = topic.into();
        let at = log.reader.offsets_at(topic, 0..partitions, range.read_from_ms)?;
        for (partition, at) in (0..partitions).zip(at) {
            let (low, high) = log.reader.watermarks(topic, partition)?;
            let held = Held { low, high, at };
            if held.may_lack() {
                plan.lacking.push(plan.sources.len());
            }
            plan.sources.push(Source { side, partition });
            plan.stretches.push(Stretch {
                topic: Arc::clone(&name),
                partition,
                from: held.from(),
                end: high,
            });
            held_of_all.push(held);
        }
    }
    if plan.stretches.iter().all(|stretch| stretch.from >= stretch.end) {
        return Err(BackfillError::NothingThere(NothingThere {
            behavior: topics[0].to_owned(),
            responses: topics[1].to_owned(),
            read_from_ms: range.read_from_ms,
            newest_ms: log.newest_ms()?,
        }));
    }
    match plan.lacking.first() {
        Some(&first) if !accept_gap => {
            let whole_from_ms = log.whole_from_ms(&plan, &held_of_all)?;
            Err(BackfillError::Missing(Box::new(Missing {
                topic: plan.stretches[first].topic.to_string(),
                partition: plan.stretches[first].partition,
                low: held_of_all[first].low,
                others: plan.lacking.len() - 1,
                read_from_ms: range.read_from_ms,
                whole_from_ms,
                // The oldest record that is left must lie before what is read.
                earliest_from_ms: whole_from_ms.map(|time_ms| range.earliest_from_ms(time_ms + 1)),
            })))
        }
        _ => Ok(plan),
    }
}

struct Log<'a> {
    reader: LogReader,
    topics: [&'a str; 2],
    partitions: i32,
}

impl Log<'_> {
    /// The greatest timestamp of all records.
    fn newest_ms(&self) -> Result<Option<i64>, ReadError> {
        last_time(|time_ms| Ok(self.offsets_at(time_ms)?.iter().any(Option::is_some)))
    }

    /// The greatest timestamp of the oldest records of the sources that lack something; none where one of
    /// them is empty.
    fn whole_from_ms(&self, plan: &Plan, held: &[Held]) -> Result<Option<i64>, ReadError> {
        if plan.lacking.iter().any(|&number| held[number].low >= held[number].high) {
            return Ok(None);
        }
        last_time(|time_ms| {
            let offsets = self.offsets_at(time_ms)?;
            Ok(plan.lacking.iter().any(|&number| offsets[number].is_some_and(|at| at <= held[number].low)))
        })
    }

    /// Of all sources, as in a [`Plan`].
    fn offsets_at(&self, time_ms: i64) -> Result<Vec<Option<i64>>, ReadError> {
        let mut offsets = self.reader.offsets_at(self.topics[0], 0..self.partitions, time_ms)?;
        offsets.extend(self.reader.offsets_at(self.topics[1], 0..self.partitions, time_ms)?);
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
    fn the_last_time_is_found_to_the_millisecond() {
        for last_ms in [0, 1, 1_700_000_000_123, LAST_MS] {
            assert_eq!(last_time(|time_ms| Ok(time_ms <= last_ms)).expect("an answer"), Some(last_ms));
        }
        assert_eq!(last_time(|_| Ok(false)).expect("an answer"), None);
    }
}
