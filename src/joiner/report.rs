//! What is shown of a partition: its counts as of the commit, and how far behind it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::contract::Side;
use crate::join::{Outcome, PartitionJoin};
use crate::settings::Topics;
use crate::telemetry::events;
use crate::telemetry::partitions::{InputReport, PartitionReport};

/// The counts that a commit has just made true (invariant 11).
pub(super) fn committed(join: &PartitionJoin, topics: &Topics) -> PartitionReport {
    let products = join.products();
    let held = join.gauges();
    let of_side = |side, topic, records: usize, bytes: usize| InputReport {
        held_records: records as u64,
        buffered_bytes: bytes as u64,
        ..input(join, side, topic)
    };
    let views = held.held_views + held.grouped_views;
    PartitionReport {
        behavior: of_side(Side::Views, &topics.behavior, views, held.view_bytes),
        responses: of_side(Side::Responses, &topics.responses, held.held_responses, held.response_bytes),
        pairs: vec![("same_user", products.user_pairs), ("same_scenario", products.scenario_pairs)],
        groups: vec![("emitted", products.groups), ("single_view", products.single_view_groups)],
        ungrouped_views: vec![
            ("unsampled", products.unsampled_views),
            ("after_group", products.views_after_group),
            ("over_group", products.views_over_group),
            ("again_in_group", products.views_again_in_group),
            ("evicted", products.views_of_evicted_groups),
        ],
        forgotten_views: products.forgotten_views,
    }
}

/// Tells of a commit of one partition what an instance tells of it: for measuring what that costs.
pub fn tell_commit(partition: i32, join: &PartitionJoin, topics: &Topics, label_times_ms: &[i64]) {
    let now_ms = now_ms();
    let mut report = committed(join, topics);
    for input in [&mut report.behavior, &mut report.responses] {
        (input.lag_records, input.lag_seconds) = (Some(0), Some(0.0));
    }
    events::JoinerCommitted { elapsed: Duration::from_millis(5), reports: vec![(partition, report)] }.emit();
    let (completed_ms, answered_ms) = (label_times_ms, label_times_ms);
    events::LabelsCommitted { completed_ms, answered_ms, now_ms }.emit();
}

fn input(join: &PartitionJoin, side: Side, topic: &str) -> InputReport {
    let outcomes = join.outcomes(side);
    InputReport {
        topic: topic.to_owned(),
        outcomes: Outcome::of(side)
            .iter()
            .map(|&outcome| (outcome.as_str(), outcomes.get(outcome)))
            .collect(),
        consumed_records: outcomes.consumed(),
        waiting_records: outcomes.waiting,
        stream_time_ms: join.stream_time_ms(side),
        ..InputReport::default()
    }
}

/// How far one input of a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Behind the last record fetched.
    pub(super) next_offset: Option<i64>,
    /// Fetched, and not yet given to the join.
    pub(super) waiting_records: usize,
    /// The partition was read to its end.
    pub(super) at_end: bool,
    pub(super) end_offset: Option<i64>,
    /// Kafka timestamp of the last record given to the join.
    pub(super) last_consumed_ms: Option<i64>,
}

impl Position {
    /// Records between the join and the end of the partition; `None` until the end is known.
    pub(super) fn lag_records(&self) -> Option<u64> {
        let waiting = self.waiting_records as u64;
        if self.at_end {
            return Some(waiting);
        }
        let unfetched = self.end_offset?.saturating_sub(self.next_offset?);
        Some(waiting + u64::try_from(unfetched).unwrap_or(0))
    }

    /// Time since the last consumed record was written, 0 when nothing is left to read.
    pub(super) fn lag_seconds(&self, now_ms: i64) -> Option<f64> {
        if self.lag_records()? == 0 {
            return Some(0.0);
        }
        Some(now_ms.saturating_sub(self.last_consumed_ms?).max(0) as f64 / 1_000.0)
    }
}

pub(super) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEHIND: Position = Position {
        next_offset: Some(70),
        waiting_records: 5,
        at_end: false,
        end_offset: Some(100),
        last_consumed_ms: Some(2_000),
    };

    #[test]
    fn lag_counts_what_was_not_fetched_and_what_waits_for_the_join() {
        assert_eq!(BEHIND.lag_records(), Some(35));
        assert_eq!(BEHIND.lag_seconds(5_500), Some(3.5));
    }

    #[test]
    fn at_the_end_of_the_partition_only_what_waits_is_lag() {
        // A stale end offset must not show lag where there is none: the last record of a
        // transactional topic is a control record.
        let at_end = Position { at_end: true, waiting_records: 0, ..BEHIND };
        assert_eq!(at_end.lag_records(), Some(0));
        assert_eq!(at_end.lag_seconds(5_500), Some(0.0));
    }

    #[test]
    fn lag_is_not_known_before_the_end_is() {
        let unknown = Position { end_offset: None, ..BEHIND };
        assert_eq!((unknown.lag_records(), unknown.lag_seconds(0)), (None, None));
    }
}
