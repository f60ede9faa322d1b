//! What the trainer tells about each sample and each step.

use std::collections::BTreeMap;

use crate::model::DropReason;

/// Where a preference pair lies in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairSource {
    /// Number of the partition.
    pub partition: i32,
    /// The record's offset in it.
    pub offset: i64,
}

/// What became of a preference pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in the reservoir, which is part of every checkpoint.
    Taken,
    /// The reservoir is full of pairs never used: offer it again after the next step, read no
    /// further pairs until then. Nothing was changed.
    Full,
    /// It cannot be learned.
    Dropped(DropReason),
    /// It was scored and is not learned, since the [stream is suspect](super::Suspicion).
    HeldOut,
}

/// The mean of paired differences, each of a pair or a group that was not learned yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// How many there are.
    pub count: u64,
    /// 0 of none.
    pub mean: f64,
    /// Of the mean; infinite of fewer than two.
    pub standard_error: f64,
}

/// The model beside one earlier version, on samples that neither has learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceEvidence {
    /// The earlier one.
    pub version: u64,
    /// Win rate on preference pairs, the model's minus its.
    pub preference: Difference,
    /// Win rate on behavior pairs, likewise, per group.
    pub behavior: Difference,
    /// Spearman's correlation of the two orders of a group.
    pub rank_correlation: Difference,
}

/// The label reservoir.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReservoirFigures {
    /// Pairs that were never drawn.
    pub never_used: usize,
    /// Pairs that were.
    pub used: usize,
    /// Draws per pair.
    pub mean_draws: f64,
    /// Steps since a pair came.
    pub mean_age_steps: f64,
}

/// One step as it happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// Steps taken since the model began, this one included.
    pub step: u64,
    /// Groups that were learned.
    pub groups: usize,
    /// Usable views in them.
    pub views: usize,
    /// Views (or, as [`DropReason::GroupTooSmall`], groups) of this batch that were not.
    pub dropped: BTreeMap<DropReason, usize>,
    /// Which of the given groups, by position, had fewer than two usable views: not learned.
    pub too_small: Vec<usize>,
    /// Pairs of views whose rewards differ by more than the margin.
    pub behavior_pairs: usize,
    /// Pairs drawn from the reservoir.
    pub drawn_pairs: usize,
    /// Those among them that had never been drawn before.
    pub drawn_new_pairs: usize,
    /// L_main, the mean over `behavior_pairs`; None where there was none.
    pub loss_main: Option<f64>,
    /// L_satis, the mean over `drawn_pairs`; None where there was none.
    pub loss_satisfaction: Option<f64>,
    /// L_DPO, the mean over the pairs that its form (`train.dpo`) takes; None where there was none.
    pub loss_dpo: Option<f64>,
    /// Behavior pairs that the model ranked right before this step learned them; a tie counts half.
    pub behavior_wins: f64,
    /// The same of its behavior-only twin.
    pub behavior_only_wins: f64,
    /// λ2 of this step.
    pub dpo_weight: f64,
    /// Share of the behavior pairs that alignment costs, against the twin: a running mean over about
    /// the last 100 steps.
    pub behavior_cost: f64,
    /// Norm over the backbone's and the main head's gradients, before clipping.
    pub gradient_norm: f64,
    /// Whether that was above `train.clip_norm`.
    pub clipped: bool,
    /// Health of the main head over the batch: share of rows whose gate is zero, per expert.
    pub dead_gates: Vec<f64>,
    /// Mean gate per expert of the main head: how much it is used.
    pub mean_gates: Vec<f64>,
    /// Share of rows with all gates of the main head zero.
    pub all_gates_dead: f64,
    /// Mean of ŷ over the batch, before the step.
    pub score_mean: f64,
    /// The least ŷ.
    pub score_min: f64,
    /// Mean of ŝ over the batch, where the live form of L_DPO needed it.
    pub satisfaction_mean: Option<f64>,
    /// The least ŝ, likewise.
    pub satisfaction_min: Option<f64>,
}

/// A loss or a gradient was not finite: no parameter, moment or statistic was changed.
///
/// Of the pairs that had been drawn, those never drawn before have left the reservoir: they may be
/// what was wrong, and no step will learn them. The others, learned before, count as used once more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step skipped: {what} is not finite ({groups} groups, {drawn_pairs} preference pairs{})", self.unnamed())]
pub struct BadBatch {
    /// Which loss or gradient.
    pub what: &'static str,
    /// Usable groups of the batch.
    pub groups: usize,
    /// Pairs drawn from the reservoir.
    pub drawn_pairs: usize,
    /// Where those among them lie that were drawn for the first time, in the order of arrival.
    pub lost_pairs: Vec<PairSource>,
    /// Lost like them, without a source: they come from a checkpoint that did not keep it yet.
    pub lost_pairs_without_source: usize,
    /// As in [`StepReport::dropped`].
    pub dropped: BTreeMap<DropReason, usize>,
}

impl BadBatch {
    fn unnamed(&self) -> String {
        match self.lost_pairs_without_source {
            0 => String::new(),
            pairs => format!(
                "; {pairs} of them never learned and not named as skipped: their checkpoint is of an older easq"
            ),
        }
    }
}

/// So many bad batches came in a row that something is wrong with more than one of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} batches in a row were skipped (train.max_bad_batches); the last: {last}")]
pub struct BadBatches {
    /// How many.
    pub count: u32,
    /// Why the last of them was.
    pub last: BadBatch,
}

/// Counts bad batches in a row.
#[derive(Debug, Clone)]
pub struct BadRun {
    limit: u32,
    in_a_row: u32,
}

impl BadRun {
    /// `limit` is `train.max_bad_batches`.
    pub fn new(limit: u32) -> BadRun {
        BadRun { limit, in_a_row: 0 }
    }

    /// A good batch: the next bad one is the first again.
    pub fn end(&mut self) {
        self.in_a_row = 0;
    }

    /// A bad batch; how many in a row there are now.
    ///
    /// # Errors
    /// As many as the limit: learning has to stop.
    pub fn count(&mut self, bad: BadBatch) -> Result<u32, BadBatches> {
        self.in_a_row += 1;
        if self.in_a_row >= self.limit {
            return Err(BadBatches { count: self.in_a_row, last: bad });
        }
        Ok(self.in_a_row)
    }
}
