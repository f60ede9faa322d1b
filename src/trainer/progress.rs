//! What has been learned of each input partition, and what was passed over (invariant 7). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::contract::v1;
use crate::kafka::identity::TopicId;

/// Skipped ranges that may gather before a version has to be cut, so that a manifest stays small
/// whatever the input holds.
pub const MAX_RANGES: usize = 10_000;

/// One input partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    pub topic: Arc<str>,
    pub number: i32,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Position {
    next_offset: i64,
    topic_id: Option<TopicId>,
    samples: u64,
    /// In the order of their offsets, none touching another.
    skipped: Vec<v1::SkippedRange>,
    gaps: Vec<v1::SkippedRange>,
}

/// Where learning stands in every input partition.
///
/// A record counts as a sample once a step has learned it (a group) or the reservoir holds it (a
/// pair): what waits in an open micro-batch lies at `next_offset` or above it. Records of one
/// partition come in the order of their offsets, so below `next_offset` each is a sample, skipped,
/// or in a gap: one of the three. A pair may still go from the first to the second, when the step
/// that draws it for the first time fails: then it counts as a sample no more.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    positions: BTreeMap<Partition, Position>,
    ranges: usize,
}

impl Progress {
    /// Goes on where a checkpoint stands.
    pub fn resume(inputs: &[v1::LearnedRange]) -> Self {
        let mut progress = Self::default();
        for range in inputs {
            let partition = Partition { topic: range.topic.as_str().into(), number: range.partition };
            let position = Position {
                next_offset: range.next_offset,
                topic_id: Some(range.topic_id.clone()).filter(|id| !id.is_empty()),
                samples: range.samples,
                ..Position::default()
            };
            progress.positions.insert(partition, position);
        }
        progress
    }

    /// Adds a partition that was never read, from its first offset.
    pub fn add(&mut self, partition: Partition) {
        self.positions.entry(partition).or_default();
    }

    /// The topic that a partition belongs to, in the cluster's words, if it was known.
    pub fn topic_id(&self, partition: &Partition) -> Option<&TopicId> {
        self.positions.get(partition)?.topic_id.as_ref()
    }

    /// The topic that all partitions of one name belong to, likewise.
    pub fn topic_id_of(&self, topic: &str) -> Option<&TopicId> {
        let mut of_topic = self.positions.iter().filter(|(partition, _)| &*partition.topic == topic);
        of_topic.find_map(|(_, position)| position.topic_id.as_ref())
    }

    /// Notes which topic a partition belongs to.
    pub fn identify(&mut self, partition: &Partition, topic_id: Option<&TopicId>) {
        if let (Some(position), Some(id)) = (self.positions.get_mut(partition), topic_id) {
            position.topic_id = Some(id.clone());
        }
    }

    /// The next offset to read of every partition.
    pub fn next_offsets(&self) -> impl Iterator<Item = (&Partition, i64)> {
        self.positions.iter().map(|(partition, position)| (partition, position.next_offset))
    }

    /// The next offset to read of every partition of `topic`.
    pub fn positions(&self, topic: &str) -> BTreeMap<i32, i64> {
        let of_topic = self.next_offsets().filter(|(partition, _)| &*partition.topic == topic);
        of_topic.map(|(partition, offset)| (partition.number, offset)).collect()
    }

    /// The record at `offset` has been learned, or is in the reservoir.
    pub fn learned(&mut self, partition: &Partition, offset: i64) {
        if let Some(position) = self.positions.get_mut(partition) {
            position.next_offset = position.next_offset.max(offset + 1);
            position.samples += 1;
        }
    }

    /// The record at `offset` was read and deliberately not learned.
    pub fn skipped(&mut self, partition: &Partition, offset: i64, reason: &str) {
        if let Some(position) = self.positions.get_mut(partition) {
            // From the offset before it that was read: control records in between belong to no sample.
            self.ranges +=
                usize::from(extend(&mut position.skipped, position.next_offset, offset + 1, reason));
            position.next_offset = position.next_offset.max(offset + 1);
        }
    }

    /// The record at `offset`, [learned](Self::learned) in so far as the reservoir held it, has left
    /// that without being learned. The version that is cut next names it as skipped, also where its
    /// parent's offsets lie behind it already.
    pub fn lost(&mut self, partition: &Partition, offset: i64, reason: &str) {
        if let Some(position) = self.positions.get_mut(partition) {
            position.samples = position.samples.saturating_sub(1);
            let later = position.skipped.partition_point(|range| range.from_offset < offset);
            let mut after = position.skipped.split_off(later);
            self.ranges += usize::from(extend(&mut position.skipped, offset, offset + 1, reason));
            position.skipped.append(&mut after);
        }
    }

    /// Nothing below `to_offset` can be read any more.
    pub fn gap(&mut self, partition: &Partition, to_offset: i64, reason: &str) {
        if let Some(position) = self.positions.get_mut(partition) {
            self.ranges += usize::from(extend(&mut position.gaps, position.next_offset, to_offset, reason));
            position.next_offset = position.next_offset.max(to_offset);
        }
    }

    /// Goes back to what a checkpoint had learned; what lies between is passed over.
    pub fn go_back(&mut self, inputs: &[v1::LearnedRange], reason: &str) {
        let before = std::mem::replace(self, Self::resume(inputs));
        for (partition, position) in before.positions {
            self.add(partition.clone());
            self.identify(&partition, position.topic_id.as_ref());
            self.gap(&partition, position.next_offset, reason);
        }
    }

    /// Whether so many ranges were passed over that a version has to record them now.
    pub fn is_crowded(&self) -> bool {
        self.ranges >= MAX_RANGES
    }

    /// What a version that is cut now has learned; ranges passed over from here on are those of the
    /// next one.
    pub fn cut(&mut self) -> Vec<v1::LearnedRange> {
        self.ranges = 0;
        let cut = |(partition, position): (&Partition, &mut Position)| v1::LearnedRange {
            topic: partition.topic.to_string(),
            partition: partition.number,
            next_offset: position.next_offset,
            samples: position.samples,
            skipped: std::mem::take(&mut position.skipped),
            gaps: std::mem::take(&mut position.gaps),
            topic_id: position.topic_id.clone().unwrap_or_default(),
            replayed: Vec::new(),
        };
        self.positions.iter_mut().map(cut).collect()
    }
}

/// Appends `from..to`, or lengthens the last range if it ends there for the same reason. True when
/// a range was added.
fn extend(ranges: &mut Vec<v1::SkippedRange>, from_offset: i64, to_offset: i64, reason: &str) -> bool {
    if to_offset <= from_offset {
        return false;
    }
    match ranges.last_mut() {
        Some(last) if last.to_offset == from_offset && last.reason == reason => {
            last.to_offset = to_offset;
            false
        }
        _ => {
            ranges.push(v1::SkippedRange { from_offset, to_offset, reason: reason.to_owned() });
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        Partition { topic: "groups".into(), number: 2 }
    }

    fn progress() -> Progress {
        let mut progress = Progress::default();
        progress.add(partition());
        progress
    }

    fn range(from_offset: i64, to_offset: i64, reason: &str) -> v1::SkippedRange {
        v1::SkippedRange { from_offset, to_offset, reason: reason.to_owned() }
    }

    #[test]
    fn invariant_7_a_version_names_what_was_learned_and_nothing_that_waits() {
        let mut progress = progress();
        progress.learned(&partition(), 0);
        progress.learned(&partition(), 3);
        let cut = progress.cut();
        assert_eq!((cut[0].next_offset, cut[0].samples), (4, 2));
        assert_eq!((cut[0].topic.as_str(), cut[0].partition), ("groups", 2));
    }

    #[test]
    fn a_resumed_line_goes_on_with_its_offsets_and_counts() {
        let mut before = progress();
        before.learned(&partition(), 7);
        let mut after = Progress::resume(&before.cut());
        after.learned(&partition(), 9);
        let cut = after.cut();
        assert_eq!((cut[0].next_offset, cut[0].samples), (10, 2));
    }

    #[test]
    fn what_was_skipped_is_named_once_by_the_version_that_skipped_it() {
        let mut progress = progress();
        progress.learned(&partition(), 0);
        progress.skipped(&partition(), 2, "bad");
        progress.skipped(&partition(), 3, "bad");
        progress.learned(&partition(), 4);
        progress.skipped(&partition(), 5, "bad");
        progress.skipped(&partition(), 6, "worse");
        let cut = progress.cut();
        assert_eq!(cut[0].skipped, [range(1, 4, "bad"), range(5, 6, "bad"), range(6, 7, "worse")]);
        assert_eq!((cut[0].next_offset, cut[0].samples), (7, 2));
        assert!(progress.cut()[0].skipped.is_empty(), "its parent has named it");
    }

    #[test]
    fn invariant_7_a_pair_that_the_reservoir_lost_is_skipped_and_no_sample_any_more() {
        let mut progress = progress();
        for offset in 0..8 {
            match offset {
                3 => progress.skipped(&partition(), offset, "bad"),
                _ => progress.learned(&partition(), offset),
            }
        }
        [2, 4, 5].iter().for_each(|&offset| progress.lost(&partition(), offset, "lost"));
        let cut = progress.cut();
        assert_eq!(cut[0].skipped, [range(2, 3, "lost"), range(3, 4, "bad"), range(4, 6, "lost")]);
        assert_eq!((cut[0].next_offset, cut[0].samples), (8, 4));
        progress.lost(&partition(), 7, "lost");
        let cut = progress.cut();
        assert_eq!(cut[0].skipped, [range(7, 8, "lost")], "by the version after the one that took it in");
        assert_eq!((cut[0].next_offset, cut[0].samples), (8, 3));
    }

    #[test]
    fn a_gap_is_recorded_from_the_last_offset_learned() {
        let mut progress = progress();
        progress.learned(&partition(), 0);
        progress.gap(&partition(), 40, "retention");
        let cut = progress.cut();
        assert_eq!((cut[0].gaps.clone(), cut[0].next_offset), (vec![range(1, 40, "retention")], 40));
    }

    #[test]
    fn a_stream_of_nothing_but_bad_records_makes_one_range_and_a_mixed_one_asks_for_a_version() {
        let mut progress = progress();
        for offset in 0..2 * MAX_RANGES as i64 {
            progress.skipped(&partition(), offset, "bad");
        }
        assert!(!progress.is_crowded());
        for offset in 2 * MAX_RANGES as i64..4 * MAX_RANGES as i64 {
            match offset % 2 {
                0 => progress.learned(&partition(), offset),
                _ => progress.skipped(&partition(), offset, "bad"),
            }
        }
        assert!(progress.is_crowded());
        progress.cut();
        assert!(!progress.is_crowded());
    }
}
