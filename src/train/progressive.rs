//! Test, then train: figures over samples scored before they were learned.

use std::collections::VecDeque;

use crate::model::{HostTensor, TensorMap};

/// How one pair was ranked: 2 right, 1 a tie, 0 wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome(u8);

impl Outcome {
    /// `difference` of the scores of the better and the worse view.
    pub(super) fn new(difference: f64) -> Outcome {
        match difference.partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Greater) => Outcome(2),
            Some(std::cmp::Ordering::Equal) => Outcome(1),
            _ => Outcome(0),
        }
    }

    pub(super) fn half_wins(self) -> u8 {
        self.0
    }

    /// A tie is half a win.
    pub(super) fn wins(self) -> f64 {
        f64::from(self.0) / 2.0
    }
}

/// One pair as the model and its twin rank it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ranked {
    pub(super) model: Outcome,
    pub(super) twin: Outcome,
}

impl Ranked {
    /// Differences of the scores of the better and the worse view.
    pub(super) fn new(model: f64, twin: f64) -> Ranked {
        Ranked { model: Outcome::new(model), twin: Outcome::new(twin) }
    }
}

/// The last outcomes of one kind of pair, by the model and by its twin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    name: &'static str,
    length: usize,
    /// 4 · the model's outcome + the twin's
    outcomes: VecDeque<u8>,
    /// Sums over `outcomes`, in half wins.
    model: u64,
    twin: u64,
}

impl Window {
    pub(super) fn new(name: &'static str, length: usize) -> Window {
        Window { name, length, outcomes: VecDeque::new(), model: 0, twin: 0 }
    }

    /// The wins of the model and of the twin.
    pub(super) fn push(&mut self, pair: Ranked) -> (f64, f64) {
        self.push_outcome(4 * pair.model.0 + pair.twin.0);
        (pair.model.wins(), pair.twin.wins())
    }

    fn push_outcome(&mut self, outcome: u8) {
        if self.outcomes.len() >= self.length
            && let Some(oldest) = self.outcomes.pop_front()
        {
            self.model -= u64::from(oldest / 4);
            self.twin -= u64::from(oldest % 4);
        }
        self.outcomes.push_back(outcome);
        self.model += u64::from(outcome / 4);
        self.twin += u64::from(outcome % 4);
    }

    pub(super) fn pairs(&self) -> u64 {
        self.outcomes.len() as u64
    }

    /// Shares of pairs ranked right by model and twin; 0.5 before there is any.
    pub(super) fn win_rates(&self) -> (f64, f64) {
        let rate = |half_wins: u64| match self.outcomes.len() {
            0 => 0.5,
            pairs => half_wins as f64 / (2 * pairs) as f64,
        };
        (rate(self.model), rate(self.twin))
    }

    fn tensor_name(&self) -> String {
        format!("training.progressive.{}", self.name)
    }

    pub(super) fn save(&self) -> HostTensor {
        HostTensor::from_u8(self.tensor_name(), self.outcomes.iter().copied().collect())
    }

    /// None when the tensors do not fit, which they remember.
    pub(super) fn load(mut self, tensors: &mut TensorMap) -> Option<Window> {
        let outcomes = tensors.take_u8(&self.tensor_name(), None)?;
        outcomes.iter().for_each(|&outcome| self.push_outcome(outcome));
        Some(self)
    }
}

/// An exponential mean over about the last 100 values.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct RunningMean(pub(super) Option<f64>);

impl RunningMean {
    /// What a saved mean of no values holds; a loss is never negative.
    const NONE: f64 = -1.0;

    pub(super) fn to_saved(self) -> f64 {
        self.0.unwrap_or(RunningMean::NONE)
    }

    pub(super) fn from_saved(value: f64) -> RunningMean {
        RunningMean(Some(value).filter(|&value| value != RunningMean::NONE))
    }

    pub(super) fn push(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.0 = Some(self.0.map_or(value, |mean| mean + 0.01 * (value - mean)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn win_rates_are_means_over_the_last_pairs_and_a_tie_is_half_a_win() {
        let mut window = Window::new("behavior", 4);
        assert_eq!(window.win_rates(), (0.5, 0.5));
        for (model, twin) in [(-1.0, -1.0), (-1.0, 1.0), (1.0, 0.0), (2.0, -1.0), (0.0, 1.0)] {
            window.push(Ranked::new(model, twin));
        }
        assert_eq!((window.pairs(), window.win_rates()), (4, (0.625, 0.625)));
        let mut tensors = TensorMap::new([window.save()]);
        assert_eq!(Window::new("behavior", 4).load(&mut tensors), Some(window));
    }
}
