//! A model on held-out lists of the synthetic world.

use thiserror::Error;

use super::ranking::{RankingMetrics, RankingTally};
use crate::contract::v1::{BehaviorEvent, Features};
use crate::model::{DropReason, ScoreError, Scorer, reward};
use crate::settings;
use crate::simulate::HeldOutList;

#[derive(Debug, Error)]
pub enum EvaluateError {
    #[error("list {list}: {source}")]
    Score { list: usize, source: ScoreError },
    #[error("list {list}: a view has no reward: {reason}")]
    Reward { list: usize, reason: DropReason },
    #[error("nothing to evaluate on: {lists} lists, none with two views of unlike rewards")]
    NoContrast { lists: usize },
}

/// Ranks every list by the served score.
///
/// # Errors
/// When a view cannot be scored, or the lists allow no comparison.
pub fn rank_lists(
    scorer: &Scorer,
    lists: &[HeldOutList],
    reward: &settings::Reward,
) -> Result<RankingMetrics, EvaluateError> {
    let mut tally = RankingTally::default();
    for (index, list) in lists.iter().enumerate() {
        let features: Vec<&Features> = list.views.iter().filter_map(|view| view.features.as_ref()).collect();
        let scores =
            scorer.score(&features).map_err(|source| EvaluateError::Score { list: index, source })?;
        let rewards =
            rewards(&list.views, reward).map_err(|reason| EvaluateError::Reward { list: index, reason })?;
        tally.add(HeldOutList::RELEVANT, &scores, &rewards, reward.margin);
    }
    tally.metrics().ok_or(EvaluateError::NoContrast { lists: lists.len() })
}

pub(super) fn rewards(views: &[BehaviorEvent], settings: &settings::Reward) -> Result<Vec<f64>, DropReason> {
    views.iter().map(|view| reward(settings, &view.engagement.clone().unwrap_or_default())).collect()
}
