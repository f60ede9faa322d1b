//! How much of the labelled topic a new owner reads. Pure.

use crate::join::Start;
use crate::kafka::membership::Bounds;

/// Offsets read at first per labelled view wanted. Control records of transactions take at most every
/// second one; what aborted transactions left takes more.
const OFFSETS_PER_RECORD: i64 = 4;
/// By how much a part that holds too few labelled views is widened.
const WIDER: i64 = 4;

/// The reading of the last labelled views of one partition.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    pub(super) next: i64,
    /// Labelled views read so far.
    pub(super) records: usize,
    /// Where the join begins, for when it has to be built a second time.
    pub(super) starts: (Start, Start),
    from: i64,
    low: i64,
    /// The last stable offset when the reading was planned.
    stable_end: i64,
    /// All that was written before the committed offsets lies below.
    end: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TailProgress {
    /// A transaction is decided but not yet visible: read on.
    Waiting,
    Done,
    /// More labelled views lie before the part that was read.
    TooFew,
}

impl Tail {
    /// `stable`: what of the topic can be read now; `end`: the end of the log, records of open
    /// transactions included.
    pub(super) fn plan(lookback: usize, stable: Bounds, end: i64, starts: (Start, Start)) -> Self {
        let wanted = i64::try_from(lookback).unwrap_or(i64::MAX).saturating_mul(OFFSETS_PER_RECORD);
        let from = stable.end.saturating_sub(wanted).max(stable.low);
        Self { next: from, records: 0, starts, from, low: stable.low, stable_end: stable.end, end }
    }

    pub(super) fn progress(&self, lookback: usize) -> TailProgress {
        if self.next < self.end {
            TailProgress::Waiting
        } else if self.records >= lookback || self.from <= self.low {
            TailProgress::Done
        } else {
            TailProgress::TooFew
        }
    }

    /// The topic holds nothing before this offset any more.
    pub(super) fn begins_at(&mut self, low: i64) {
        self.low = low;
    }

    /// Reads a part that begins further back instead, if there is one.
    pub(super) fn widen(&mut self) {
        let span = self.stable_end.saturating_sub(self.from).max(1).saturating_mul(WIDER);
        self.from = self.stable_end.saturating_sub(span).max(self.low);
        (self.next, self.records) = (self.from, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(lookback: usize, stable_end: i64, end: i64) -> Tail {
        Tail::plan(lookback, Bounds { low: 100, end: stable_end }, end, (Start::At(0), Start::At(0)))
    }

    /// Invariant 5: the state of pairing is exactly the last labelled views.
    #[test]
    fn a_tail_with_enough_labelled_views_is_read_once() {
        let mut tail = tail(10, 1_000, 1_000);
        assert_eq!(tail.next, 960);
        (tail.next, tail.records) = (1_000, 10);
        assert_eq!(tail.progress(10), TailProgress::Done);
    }

    #[test]
    fn a_tail_full_of_aborted_records_is_read_from_further_and_further_back() {
        let mut tail = tail(10, 1_000, 1_000);
        for from in [840, 360, 100] {
            (tail.next, tail.records) = (1_000, 9);
            assert_eq!(tail.progress(10), TailProgress::TooFew);
            tail.widen();
            assert_eq!((tail.next, tail.records), (from, 0));
        }
        tail.next = 1_000;
        assert_eq!(tail.progress(10), TailProgress::Done, "there are no more");
    }

    #[test]
    fn what_retention_removes_while_the_tail_is_read_is_not_waited_for() {
        let mut tail = tail(10, 1_000, 1_000);
        tail.begins_at(990);
        tail.widen();
        assert_eq!(tail.next, 990);
        (tail.next, tail.records) = (1_000, 5);
        assert_eq!(tail.progress(10), TailProgress::Done);
    }

    #[test]
    fn records_of_a_decided_transaction_that_cannot_be_seen_yet_are_waited_for() {
        let mut tail = tail(10, 1_000, 1_003);
        (tail.next, tail.records) = (1_000, 10);
        assert_eq!(tail.progress(10), TailProgress::Waiting);
        tail.next = 1_003;
        assert_eq!(tail.progress(10), TailProgress::Done);
    }

    #[test]
    fn a_short_topic_is_read_from_its_beginning() {
        assert_eq!(tail(10_000, 1_000, 1_000).next, 100);
    }
}
