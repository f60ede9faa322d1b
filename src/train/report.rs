//! What the trainer tells about each sample and each step.

use std::collections::BTreeMap;

use crate::model::DropReason;

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
    /// ŷ over the batch.
    pub score_mean: f64,
    pub score_min: f64,
    /// ŝ over the batch, where the live form of L_DPO needed it.
    pub satisfaction_mean: Option<f64>,
    pub satisfaction_min: Option<f64>,
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
    /// As in [`StepReport::dropped`].
    pub dropped: BTreeMap<DropReason, usize>,
}
