//! From which offset an input must be read again to rebuild what is held of it.
//!
//! Offsets are noted in stretches of some records: first offset, stream time
//! before it, and until when a record of the stretch is needed, on two clocks: that of the windows
//! (the slower of both inputs) and that of the groups (stream time of the views). The replay
//! begins with the oldest stretch that is needed. A record's need is noted when it is taken in and
//! may be raised later; nothing is noted when it is let go, so memory bounds and matches leave the
//! index as it is.

use std::collections::VecDeque;

/// With more stretches than this, neighbors are merged: the replay then begins a little earlier.
const MAX_STRETCHES: usize = 1 << 16;
const NEVER: i64 = i64::MIN;

#[derive(Debug, Clone, Copy)]
struct Stretch {
    first_offset: i64,
    time_before_ms: Option<i64>,
    records: u32,
    window_until_ms: i64,
    group_until_ms: i64,
}

#[derive(Debug)]
pub(super) struct ReplayIndex {
    stretches: VecDeque<Stretch>,
    records_per_stretch: u32,
}

impl ReplayIndex {
    pub fn new(records_per_stretch: u32) -> ReplayIndex {
        ReplayIndex { stretches: VecDeque::new(), records_per_stretch }
    }

    /// Notes the next record that is consumed. Offsets increase.
    pub fn note(&mut self, offset: i64, time_before_ms: Option<i64>) {
        match self.stretches.back_mut() {
            Some(last) if last.records < self.records_per_stretch => last.records += 1,
            _ => {
                if self.stretches.len() >= MAX_STRETCHES {
                    self.merge_neighbors();
                }
                self.stretches.push_back(Stretch {
                    first_offset: offset,
                    time_before_ms,
                    records: 1,
                    window_until_ms: NEVER,
                    group_until_ms: NEVER,
                });
            }
        }
    }

    /// The record is needed until the slower of both inputs has passed `until_ms`.
    pub fn need_for_window(&mut self, offset: i64, until_ms: i64) {
        if let Some(stretch) = self.stretch_of(offset) {
            stretch.window_until_ms = stretch.window_until_ms.max(until_ms);
        }
    }

    /// The record is needed until the stream time of the views has passed `until_ms`.
    pub fn need_for_group(&mut self, offset: i64, until_ms: i64) {
        if let Some(stretch) = self.stretch_of(offset) {
            stretch.group_until_ms = stretch.group_until_ms.max(until_ms);
        }
    }

    /// The first offset to read again, and the stream time before it; `None` before the first
    /// record. `window_ms` and `view_ms`: where the two clocks stand.
    ///
    /// At least the last record is read again: that is how a new owner knows the topic.
    pub fn replay_from(
        &mut self,
        window_ms: Option<i64>,
        view_ms: Option<i64>,
    ) -> Option<(i64, Option<i64>)> {
        let has_passed =
            |until_ms: i64, clock_ms: Option<i64>| until_ms == NEVER || clock_ms > Some(until_ms);
        while self.stretches.len() > 1
            && has_passed(self.stretches[0].window_until_ms, window_ms)
            && has_passed(self.stretches[0].group_until_ms, view_ms)
        {
            self.stretches.pop_front();
        }
        self.stretches.front().map(|stretch| (stretch.first_offset, stretch.time_before_ms))
    }

    fn stretch_of(&mut self, offset: i64) -> Option<&mut Stretch> {
        let is_in_last = self.stretches.back().is_some_and(|last| last.first_offset <= offset);
        let after = if is_in_last {
            self.stretches.len()
        } else {
            self.stretches.partition_point(|stretch| stretch.first_offset <= offset)
        };
        self.stretches.get_mut(after.checked_sub(1)?)
    }

    fn merge_neighbors(&mut self) {
        let merged = self.stretches.make_contiguous().chunks(2).map(|pair| Stretch {
            records: pair.iter().map(|stretch| stretch.records).sum(),
            window_until_ms: pair.iter().map(|stretch| stretch.window_until_ms).fold(NEVER, i64::max),
            group_until_ms: pair.iter().map(|stretch| stretch.group_until_ms).fold(NEVER, i64::max),
            ..pair[0]
        });
        self.stretches = merged.collect();
        self.records_per_stretch = self.records_per_stretch.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(records: i64) -> ReplayIndex {
        let mut index = ReplayIndex::new(1_000);
        for offset in 0..records {
            index.note(offset, (offset > 0).then_some(offset * 10));
        }
        index
    }

    #[test]
    fn the_replay_begins_with_the_stretch_of_the_oldest_needed_record() {
        let mut index = index(5_000);
        index.need_for_window(2_500, 700);
        index.need_for_window(4_100, 900);
        assert_eq!(index.replay_from(Some(700), None), Some((2_000, Some(20_000))));
        assert_eq!(index.replay_from(Some(701), None), Some((4_000, Some(40_000))));
    }

    #[test]
    fn groups_are_needed_by_the_clock_of_the_views() {
        let mut index = index(3_000);
        index.need_for_group(1_500, 700);
        assert_eq!(index.replay_from(Some(9_999), Some(700)), Some((1_000, Some(10_000))));
        assert_eq!(index.replay_from(Some(9_999), Some(701)), Some((2_000, Some(20_000))));
    }

    #[test]
    fn a_clock_that_has_not_begun_keeps_what_is_needed() {
        let mut index = index(3_000);
        index.need_for_window(10, 700);
        assert_eq!(index.replay_from(None, None), Some((0, None)));
    }

    #[test]
    fn the_last_record_is_always_read_again() {
        assert_eq!(index(1_001).replay_from(Some(1), Some(1)), Some((1_000, Some(10_000))));
        assert_eq!(index(0).replay_from(Some(1), Some(1)), None);
    }

    #[test]
    fn invariant_12_the_index_is_bounded_and_still_covers_what_is_needed() {
        let mut index = ReplayIndex::new(1);
        for offset in 0..=MAX_STRETCHES as i64 {
            index.note(offset, None);
        }
        index.need_for_window(1_001, 5);
        assert!(index.stretches.len() <= MAX_STRETCHES / 2 + 1);
        assert_eq!(index.replay_from(Some(5), None), Some((1_000, None)));
    }
}
