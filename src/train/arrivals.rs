//! Preference pairs as they were ranked when they came, before they were learned.

use std::borrow::Cow;
use std::ops::Range;

use tch::Tensor;

use crate::model::TensorMap;

use super::progressive::{Outcome, Ranked, Window};
use super::readback::Readback;

/// So many wait for a read at most: then they are read by themselves.
pub(super) const MAX_PENDING: usize = 256;

/// The last outcomes, the newest of them perhaps still on the device.
pub(super) struct Arrivals {
    window: Window,
    /// ŷ of chosen and rejected view, [2] by the model and [2] by its twin, in the order of arrival.
    pending: Vec<[Tensor; 2]>,
    /// How the model ranked those that were read last.
    settled: Vec<Outcome>,
}

impl Arrivals {
    pub(super) fn new(window: Window) -> Arrivals {
        Arrivals { window, pending: Vec::new(), settled: Vec::new() }
    }

    /// Takes the scores of a pair, which nothing needs to wait for.
    pub(super) fn push(&mut self, scores: [Tensor; 2]) {
        self.pending.push(scores);
        if self.pending.len() >= MAX_PENDING {
            self.settle(&self.read());
        }
    }

    /// Adds all that is pending; where it lies is what [`settle`](Self::settle) wants.
    pub(super) fn add_to(&self, readback: &mut Readback) -> Range<usize> {
        let slots = self.pending.iter().flatten().map(|scores| readback.add(scores));
        slots.reduce(|all, next| all.start..next.end).unwrap_or_default()
    }

    /// `scores` are those of all that is pending.
    pub(super) fn settle(&mut self, scores: &[f64]) {
        self.settled.extend(ranked(scores).map(|pair| pair.model));
        push_all(&mut self.window, scores);
        self.pending.clear();
    }

    /// How the model ranked those that were read since the last call, in the order of arrival.
    pub(super) fn take_settled(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.settled)
    }

    /// All outcomes: reads those that are pending.
    pub(super) fn window(&self) -> Cow<'_, Window> {
        if self.pending.is_empty() {
            return Cow::Borrowed(&self.window);
        }
        let mut window = self.window.clone();
        push_all(&mut window, &self.read());
        Cow::Owned(window)
    }

    /// As [`Window::load`], into one that nothing has come to.
    pub(super) fn load(self, tensors: &mut TensorMap) -> Option<Arrivals> {
        self.window.load(tensors).map(Arrivals::new)
    }

    fn read(&self) -> Vec<f64> {
        let mut readback = Readback::default();
        self.add_to(&mut readback);
        readback.fetch()
    }
}

fn push_all(window: &mut Window, scores: &[f64]) {
    ranked(scores).for_each(|pair| _ = window.push(pair));
}

fn ranked(scores: &[f64]) -> impl Iterator<Item = Ranked> {
    let rank = |&[chosen, rejected, of_twin, rejected_of_twin]: &[f64; 4]| {
        Ranked::new(chosen - rejected, of_twin - rejected_of_twin)
    };
    scores.as_chunks().0.iter().map(rank)
}
