//! Stream time of one input partition, and which of its records are late.
//!
//! Stream time is the greatest event time so far, of every record that was not rejected. A record
//! is late when its event time lies more than the allowed lateness below the stream time *before*
//! it: a property of the log alone.
//!
//! A partition that is silent would hold the other input's windows open for ever, so the caller
//! may advance it. An advance is a fact of its own: the first offset it applies to, and a time.
//! It moves expiry, and it makes late (`LateAfterIdle`) what comes after it and is older than its
//! time less the allowed lateness; it moves neither stream time nor groups. The facts that a
//! replay needs are committed, so a replay decides as the first run did.

/// At the bound no further advance begins until the replay no longer needs the oldest: expiry
/// waits, nothing is decided differently.
pub(super) const MAX_ADVANCES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    InTime,
    Late,
    /// Late only because of an advance while idle.
    LateAfterIdle,
}

#[derive(Debug, Default)]
pub(super) struct StreamClock {
    time_ms: Option<i64>,
    /// First offset and time of each, both increasing.
    advances: Vec<(i64, i64)>,
}

impl StreamClock {
    pub fn new(time_ms: Option<i64>, advances: Vec<(i64, i64)>) -> StreamClock {
        StreamClock { time_ms, advances }
    }

    /// The greatest event time so far.
    pub fn time_ms(&self) -> Option<i64> {
        self.time_ms
    }

    pub fn advances(&self) -> &[(i64, i64)] {
        &self.advances
    }

    /// Up to where the windows may expire on behalf of this input, when `next_offset` is next.
    pub fn expiry_time_ms(&self, next_offset: i64) -> Option<i64> {
        self.time_ms.max(self.advance_at(next_offset))
    }

    /// Judges a record and moves stream time past it.
    pub fn arrive(&mut self, offset: i64, event_time_ms: i64, allowed_lateness_ms: i64) -> Arrival {
        let is_before = |time_ms: Option<i64>| {
            time_ms.is_some_and(|time_ms| event_time_ms < time_ms.saturating_sub(allowed_lateness_ms))
        };
        let arrival = if is_before(self.time_ms) {
            Arrival::Late
        } else if is_before(self.advance_at(offset)) {
            Arrival::LateAfterIdle
        } else {
            Arrival::InTime
        };
        self.reach(Some(event_time_ms));
        arrival
    }

    /// Moves stream time forward, if it is behind.
    pub fn reach(&mut self, time_ms: Option<i64>) {
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// Lets this input no longer hold the other back before `time_ms`. `next_offset`: the first
    /// that is not yet read. True when that is a new fact, to be committed.
    pub fn advance(&mut self, next_offset: i64, time_ms: i64) -> bool {
        if self.expiry_time_ms(next_offset) >= Some(time_ms) {
            return false;
        }
        let has_room = self.advances.len() < MAX_ADVANCES;
        match self.advances.last_mut() {
            Some(last) if last.0 == next_offset => last.1 = time_ms,
            _ if has_room => self.advances.push((next_offset, time_ms)),
            _ => return false,
        }
        true
    }

    /// Forgets the advances that a replay from `replay_from`, with stream time `replay_time_ms`
    /// just before it, does not need.
    pub fn forget_advances(&mut self, replay_from: i64, replay_time_ms: Option<i64>) {
        let passed = self.advances.iter().take_while(|(first, _)| *first <= replay_from).count();
        let effective = passed.checked_sub(1).map(|last| self.advances[last].1);
        let kept = if effective > replay_time_ms { passed - 1 } else { passed };
        self.advances.drain(..kept);
    }

    fn advance_at(&self, offset: i64) -> Option<i64> {
        self.advances.iter().rev().find(|(first, _)| *first <= offset).map(|(_, time_ms)| *time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(time_ms: i64) -> StreamClock {
        StreamClock::new(Some(time_ms), Vec::new())
    }

    #[test]
    fn invariant_3_a_record_exactly_at_the_allowed_lateness_is_in_time() {
        assert_eq!(clock(1_000).arrive(7, 940, 60), Arrival::InTime);
        assert_eq!(clock(1_000).arrive(7, 939, 60), Arrival::Late);
    }

    #[test]
    fn the_first_record_is_never_late() {
        assert_eq!(StreamClock::default().arrive(0, 1, 60), Arrival::InTime);
    }

    #[test]
    fn a_late_record_does_not_move_stream_time() {
        let mut clock = clock(1_000);
        clock.arrive(7, 1, 60);
        assert_eq!(clock.time_ms(), Some(1_000));
    }

    #[test]
    fn an_advance_makes_late_only_what_comes_at_or_after_its_first_offset() {
        let mut clock = clock(1_000);
        clock.advance(8, 5_000);
        assert_eq!(clock.arrive(7, 1_000, 60), Arrival::InTime);
        assert_eq!(clock.arrive(8, 4_939, 60), Arrival::LateAfterIdle);
        assert_eq!(clock.arrive(9, 4_940, 60), Arrival::InTime);
        assert_eq!(clock.time_ms(), Some(4_940));
    }

    #[test]
    fn what_is_late_by_stream_time_is_not_late_after_idle() {
        let mut clock = clock(1_000);
        clock.advance(8, 5_000);
        assert_eq!(clock.arrive(8, 900, 60), Arrival::Late);
    }

    #[test]
    fn advances_at_one_offset_are_one_fact() {
        let mut clock = clock(1_000);
        clock.advance(8, 2_000);
        clock.advance(8, 3_000);
        clock.advance(8, 2_500);
        assert_eq!(clock.advances(), [(8, 3_000)]);
        assert_eq!(clock.expiry_time_ms(8), Some(3_000));
        assert_eq!(clock.expiry_time_ms(7), Some(1_000));
    }

    #[test]
    fn invariant_12_advances_are_bounded() {
        let mut clock = clock(0);
        for offset in 0..100 {
            clock.advance(offset, offset + 1);
        }
        assert_eq!(clock.advances().len(), MAX_ADVANCES);
    }

    #[test]
    fn only_advances_that_a_replay_needs_are_kept() {
        let advances = vec![(3, 100), (5, 200), (9, 300)];
        let mut behind = StreamClock::new(Some(400), advances.clone());
        behind.forget_advances(6, Some(150));
        assert_eq!(behind.advances(), [(5, 200), (9, 300)]);
        let mut passed = StreamClock::new(Some(400), advances);
        passed.forget_advances(6, Some(200));
        assert_eq!(passed.advances(), [(9, 300)]);
    }
}
