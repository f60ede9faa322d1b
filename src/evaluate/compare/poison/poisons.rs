//! What can go wrong with a stream.

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::contract::v1::{BehaviorEvent, Features, PreferencePair, sample::Sample};

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Poison {
    /// Nothing does.
    None,
    /// Satisfied and dissatisfied are swapped.
    InvertedAnswers,
    /// A dense feature is not a number.
    NanFeature,
    /// A dense feature is a hundred times what it was.
    ScaledFeature,
    /// Answers are swapped one by one, more and more of them.
    SlowDrift,
    /// Answers are swapped from some moment on: no poison, if a person says so.
    LastingChange,
}

/// Dense features that go wrong: the first upstream prediction.
const FEATURE: usize = 0;

impl Poison {
    pub const ALL: [Poison; 6] = [
        Poison::None,
        Poison::InvertedAnswers,
        Poison::NanFeature,
        Poison::ScaledFeature,
        Poison::SlowDrift,
        Poison::LastingChange,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Poison::None => "none",
            Poison::InvertedAnswers => "inverted-answers",
            Poison::NanFeature => "nan-feature",
            Poison::ScaledFeature => "scaled-feature",
            Poison::SlowDrift => "slow-drift",
            Poison::LastingChange => "lasting-change",
        }
    }

    /// The part of the stream in which it lasts.
    pub fn span(self) -> std::ops::Range<f64> {
        match self {
            Poison::None => 2.0..2.0,
            Poison::SlowDrift => 0.3..0.9,
            Poison::LastingChange => 0.5..2.0,
            _ => 0.5..0.7,
        }
    }

    /// The sample as it arrives, `at` this part of the stream.
    pub fn spoil(self, at: f64, sample: &Sample) -> Sample {
        let span = self.span();
        if !span.contains(&at) {
            return sample.clone();
        }
        let mut spoiled = sample.clone();
        match (self, &mut spoiled) {
            (Poison::InvertedAnswers | Poison::LastingChange, Sample::PreferencePair(pair)) => invert(pair),
            (Poison::SlowDrift, Sample::PreferencePair(pair)) => {
                let share = (at - span.start) / (span.end - span.start);
                // All pairs of one answer, or none of them.
                let answer = xxh3_64(&pair.event_time_ms.to_le_bytes());
                if (answer % 10_000) as f64 / 10_000.0 < share {
                    invert(pair);
                }
            }
            (Poison::NanFeature, sample) => each_view(sample, |features| features.dense[FEATURE] = f32::NAN),
            (Poison::ScaledFeature, sample) => {
                each_view(sample, |features| features.dense[FEATURE] *= 100.0);
            }
            _ => {}
        }
        spoiled
    }
}

fn invert(pair: &mut PreferencePair) {
    std::mem::swap(&mut pair.chosen, &mut pair.rejected);
}

fn each_view(sample: &mut Sample, change: impl Fn(&mut Features)) {
    let of_view = |view: &mut BehaviorEvent| view.features.as_mut().map(&change);
    match sample {
        Sample::BehaviorGroup(group) => group.views.iter_mut().for_each(|view| _ = of_view(view)),
        Sample::PreferencePair(pair) => {
            for labelled in [&mut pair.chosen, &mut pair.rejected].into_iter().flatten() {
                labelled.view.as_mut().map(of_view);
            }
        }
        Sample::HeldOutList(_) => {}
    }
}
