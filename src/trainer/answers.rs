//! When answers reach readers: from the event of a pair to the version that has learned it. Pure.

use std::collections::VecDeque;

/// Pairs remembered between their first draw and production. Where a gate refuses versions for so long
/// that more wait, the oldest are not measured.
const MAX_LEARNED: usize = 20_000;

/// Event times of preference pairs on their way, in Unix milliseconds.
#[derive(Debug, Default)]
pub struct Answers {
    /// In the reservoir and never drawn, in the order of arrival, which is that of the first draws.
    /// None of a pair that an earlier process read.
    waiting: VecDeque<Option<i64>>,
    /// Learned since the last version was cut.
    learned: VecDeque<i64>,
    /// Learned by the version that was cut last, or by one before it, and not in production.
    cut: VecDeque<i64>,
}

impl Answers {
    /// Of a reservoir that holds this many pairs never drawn.
    pub fn resume(never_used: usize) -> Self {
        Self { waiting: std::iter::repeat_n(None, never_used).collect(), ..Self::default() }
    }

    /// A pair is in the reservoir.
    pub fn took(&mut self, event_time_ms: i64) {
        self.waiting.push_back(Some(event_time_ms));
    }

    /// A step has drawn so many pairs for the first time, and learned them.
    pub fn learned(&mut self, new: usize) {
        let new = new.min(self.waiting.len());
        self.learned.extend(self.waiting.drain(..new).flatten());
        bound(&mut self.learned);
    }

    /// A step that failed has lost so many pairs that it had drawn for the first time.
    pub fn lost(&mut self, pairs: usize) {
        self.waiting.drain(..pairs.min(self.waiting.len()));
    }

    /// A version of what is learned is cut.
    pub fn cut(&mut self) {
        self.cut.append(&mut self.learned);
        bound(&mut self.cut);
    }

    /// The version that was cut last is production: the pairs that no production had learned before.
    pub fn promoted(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.cut).into()
    }
}

fn bound(times: &mut VecDeque<i64>) {
    times.drain(..times.len().saturating_sub(MAX_LEARNED));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_in_production_with_the_first_promoted_version_that_has_learned_it() {
        let mut answers = Answers::default();
        (1..=4).for_each(|time_ms| answers.took(time_ms));
        answers.learned(2);
        answers.cut();
        answers.learned(1);
        // The first version was refused; the second has learned what it had, and one more.
        answers.cut();
        answers.learned(1);
        assert_eq!(answers.promoted(), [1, 2, 3]);
        assert_eq!(answers.promoted(), [0i64; 0]);
        answers.cut();
        assert_eq!(answers.promoted(), [4]);
    }

    #[test]
    fn pairs_of_an_earlier_process_and_lost_ones_are_not_measured() {
        let mut answers = Answers::resume(2);
        (1..=3).for_each(|time_ms| answers.took(time_ms));
        answers.learned(3);
        answers.lost(1);
        answers.learned(1);
        answers.cut();
        assert_eq!(answers.promoted(), [1, 3]);
    }

    #[test]
    fn a_gate_that_refuses_for_ever_takes_no_memory() {
        let mut answers = Answers::default();
        for time_ms in 0..3 * MAX_LEARNED as i64 {
            answers.took(time_ms);
            answers.learned(1);
            answers.cut();
        }
        let promoted = answers.promoted();
        assert_eq!((promoted.len(), promoted[0]), (MAX_LEARNED, 2 * MAX_LEARNED as i64));
    }
}
