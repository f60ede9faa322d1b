//! What the trainer tells about each sample and each step.

use std::collections::BTreeMap;
use std::fmt;

/// Why a view or a pair was not learned. [`DropReason::as_str`] is its label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The view carries no features.
    MissingFeatures,
    /// `features.schema_version` is not the model's.
    SchemaVersion,
    /// The number of dense features is not the model's.
    DenseLength,
    /// A dense feature is NaN or infinite.
    NonFiniteFeature,
    /// The reward is NaN or infinite.
    NonFiniteReward,
    /// The engagement lacks the signal that `reward.signal` names.
    MissingRewardSignal,
    /// Fewer than two views of the group are left, so there is nothing to compare.
    GroupTooSmall,
    /// A pair without one of its two views.
    IncompletePair,
}

impl DropReason {
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::MissingFeatures => "missing_features",
            DropReason::SchemaVersion => "schema_version",
            DropReason::DenseLength => "dense_length",
            DropReason::NonFiniteFeature => "non_finite_feature",
            DropReason::NonFiniteReward => "non_finite_reward",
            DropReason::MissingRewardSignal => "missing_reward_signal",
            DropReason::GroupTooSmall => "group_too_small",
            DropReason::IncompletePair => "incomplete_pair",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of a preference pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in the reservoir, and part of every checkpoint from now on.
    Taken,
    /// The reservoir is full of pairs never used: offer it again after the next step, read no
    /// further pairs until then. Nothing was changed.
    Full,
    /// It cannot be learned.
    Dropped(DropReason),
}

/// One step as it happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// Steps taken since the model began, this one included.
    pub step: u64,
    /// Groups and views that were learned.
    pub groups: usize,
    pub views: usize,
    /// Views (or, as [`DropReason::GroupTooSmall`], groups) of this batch that were not.
    pub dropped: BTreeMap<DropReason, usize>,
    /// Pairs of views whose rewards differ by more than the margin.
    pub behavior_pairs: usize,
    /// Pairs drawn from the reservoir; those among them that had never been drawn before.
    pub drawn_pairs: usize,
    pub drawn_new_pairs: usize,
    /// Means over pairs; None where there was no pair.
    pub loss_main: Option<f64>,
    pub loss_satisfaction: Option<f64>,
    pub loss_dpo: Option<f64>,
    /// Behavior pairs ranked right before this step learned them; a tie counts half.
    pub behavior_wins: f64,
    pub behavior_only_wins: f64,
    /// Norm over the backbone's and the main head's gradients, before clipping.
    pub gradient_norm: f64,
    pub clipped: bool,
    /// Health of the main head over the batch: share of rows whose gate is zero, per expert.
    pub dead_gates: Vec<f64>,
    /// Share of rows with all gates of the main head zero.
    pub all_gates_dead: f64,
    pub score_mean: f64,
    pub score_min: f64,
    pub satisfaction_mean: f64,
    pub satisfaction_min: f64,
}

/// A loss or a gradient was not finite: no parameter, moment or statistic was changed. The pairs
/// that had been drawn count as used, so that the next step draws others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step skipped: {what} is not finite ({groups} groups, {drawn_pairs} preference pairs)")]
pub struct BadBatch {
    /// Which loss or gradient.
    pub what: &'static str,
    pub groups: usize,
    pub drawn_pairs: usize,
}
