//! Which part of the inputs a range of answers needs. Pure.

use crate::settings::Settings;

/// A range of event time, with what must be read for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Answers and groups from here on are given, ...
    pub from_ms: i64,
    /// ... up to here and without.
    pub to_ms: i64,
    /// Records with a Kafka timestamp from here on are read, ...
    pub read_from_ms: i64,
    /// ... of each partition until its stream time is above this.
    pub read_until_ms: i64,
}

impl Range {
    /// `run_in_ms`: how much of the time before `from_ms` gives partners for pairs.
    ///
    /// At the start a view may lie a window before its answer, and another answer of the same view a
    /// window before that; a record may carry a timestamp that lies `max_clock_skew` before its event
    /// time; and what is late shows only when stream time is known, which takes the rest. At the end all
    /// windows and groups of the range must be able to close.
    pub fn new(settings: &Settings, from_ms: i64, to_ms: i64, run_in_ms: i64) -> Range {
        let join = &settings.join;
        let before_ms = join
            .window_ms
            .saturating_add(join.allowed_lateness_ms.saturating_mul(2))
            .saturating_add(settings.input.max_clock_skew_ms.saturating_mul(2))
            .saturating_add(run_in_ms.max(join.window_ms).max(join.group_span_ms));
        let after_ms = join.window_ms.max(join.group_span_ms).saturating_add(join.allowed_lateness_ms);
        Range {
            from_ms,
            to_ms,
            read_from_ms: from_ms.saturating_sub(before_ms),
            read_until_ms: to_ms.saturating_add(after_ms),
        }
    }

    /// The range where what the joiner has written is read.
    ///
    /// Nothing is written before it has happened, but for clocks that differ: the joiner's, and those
    /// that set timestamps and event times. How long after it was written decides nothing. In a partition
    /// labels do not come in the order of their answers: one waits for its view until the slower input
    /// is past its window, and until then come answers of up to a window behind views that are there.
    /// Groups come when their span is over.
    pub fn of_samples(settings: &Settings, from_ms: i64, to_ms: i64) -> Range {
        let join = &settings.join;
        let labels_ms =
            join.window_ms.saturating_mul(2).saturating_add(join.allowed_lateness_ms.saturating_mul(2));
        let before_ms = settings.input.max_clock_skew_ms.saturating_mul(2);
        Range {
            from_ms,
            to_ms,
            read_from_ms: from_ms.saturating_sub(before_ms),
            read_until_ms: to_ms.saturating_add(labels_ms.max(join.group_span_ms)),
        }
    }

    /// Whether something of this event time is given.
    pub fn holds(&self, event_time_ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&event_time_ms)
    }

    /// The first `from_ms` for which records from `read_from_ms` on are enough.
    pub fn earliest_from_ms(&self, read_from_ms: i64) -> i64 {
        read_from_ms.saturating_add(self.from_ms.saturating_sub(self.read_from_ms))
    }
}

/// What the log holds of a partition, and what a range needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The first offset that the log holds.
    pub low: i64,
    /// Its last stable offset.
    pub high: i64,
    /// The first offset with a timestamp in the range; none where there is none.
    pub at: Option<i64>,
}

impl Held {
    /// The offset to begin at.
    pub fn from(&self) -> i64 {
        self.at.unwrap_or(self.high).clamp(self.low, self.high.max(self.low))
    }

    /// Whether records that the range needs may have been removed: all that is left of the log lies
    /// within the range, and something of it is gone.
    pub fn may_lack(&self) -> bool {
        self.low > 0 && self.from() == self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_needs_what_can_match_and_what_tells_lateness() {
        let mut settings = Settings::default();
        settings.join.window_ms = 100;
        settings.join.allowed_lateness_ms = 10;
        settings.join.group_span_ms = 50;
        settings.input.max_clock_skew_ms = 1;
        let range = Range::new(&settings, 10_000, 20_000, 1_000);
        assert_eq!((range.read_from_ms, range.read_until_ms), (10_000 - 100 - 20 - 2 - 1_000, 20_110));
        assert_eq!(range.earliest_from_ms(8_878), 10_000);
        let without_run_in = Range::new(&settings, 10_000, 20_000, 0);
        assert_eq!(without_run_in.read_from_ms, 10_000 - 100 - 20 - 2 - 100);
        settings.join.group_span_ms = 300;
        let long_groups = Range::new(&settings, 10_000, 20_000, 0);
        assert_eq!((long_groups.read_from_ms, long_groups.read_until_ms), (10_000 - 422, 20_310));
    }

    #[test]
    fn a_range_of_samples_needs_what_was_written_later() {
        let mut settings = Settings::default();
        settings.join.window_ms = 100;
        settings.join.allowed_lateness_ms = 10;
        settings.join.group_span_ms = 50;
        settings.input.max_clock_skew_ms = 1;
        let range = Range::of_samples(&settings, 10_000, 20_000);
        assert_eq!((range.read_from_ms, range.read_until_ms), (9_998, 20_220));
        settings.join.group_span_ms = 300;
        assert_eq!(Range::of_samples(&settings, 10_000, 20_000).read_until_ms, 20_300);
    }

    #[test]
    fn a_range_holds_its_beginning_and_not_its_end() {
        let range = Range::new(&Settings::default(), 10, 20, 0);
        assert_eq!([9, 10, 19, 20].map(|time_ms| range.holds(time_ms)), [false, true, true, false]);
    }

    #[test]
    fn a_log_lacks_something_only_where_its_oldest_record_lies_in_the_range() {
        let held = |low, high, at| Held { low, high, at };
        assert!(!held(0, 9, Some(0)).may_lack(), "nothing was ever removed");
        assert!(held(3, 9, Some(3)).may_lack());
        assert!(!held(3, 9, Some(4)).may_lack(), "an older record is there");
        assert!(!held(3, 9, None).may_lack());
        assert!(held(9, 9, None).may_lack(), "all of it is gone");
        assert_eq!((held(3, 9, None).from(), held(3, 9, Some(12)).from()), (9, 9));
    }
}
