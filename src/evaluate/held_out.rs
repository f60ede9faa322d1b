//! A model on held-out lists.

use thiserror::Error;

use super::ranking::{RankingMetrics, RankingTally};
use crate::contract::v1::{BehaviorEvent, Features, HeldOutList};
use crate::model::{DropReason, ScoreError, Scorer, reward};
use crate::settings;

#[derive(Debug, Error)]
pub enum EvaluateError {
    #[error("list {list}: {source}")]
    List { list: usize, source: ListFault },
    #[error("nothing to evaluate on: {lists} lists, none with two views of unlike rewards")]
    NoContrast { lists: usize },
}

/// Why a list cannot be ranked.
#[derive(Debug, Error)]
pub enum ListFault {
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error("a view has no reward: {0}")]
    Reward(DropReason),
    #[error("it has {views} views, and the relevant one is said to be at index {relevant}")]
    Relevant { relevant: u32, views: usize },
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
        rank_list(scorer, list, reward, &mut tally)
            .map_err(|source| EvaluateError::List { list: index, source })?;
    }
    tally.metrics().ok_or(EvaluateError::NoContrast { lists: lists.len() })
}

/// Ranks one list by the served score.
///
/// # Errors
/// A view cannot be scored, or the list contradicts itself.
pub fn rank_list(
    scorer: &Scorer,
    list: &HeldOutList,
    reward: &settings::Reward,
    tally: &mut RankingTally,
) -> Result<(), ListFault> {
    let (relevant, views) = (list.relevant as usize, list.views.len());
    if relevant >= views {
        return Err(ListFault::Relevant { relevant: list.relevant, views });
    }
    let features = list.views.iter().enumerate().map(|(index, view)| {
        view.features.as_ref().ok_or(ScoreError { index, reason: DropReason::MissingFeatures })
    });
    let scores = scorer.score(&features.collect::<Result<Vec<&Features>, _>>()?)?;
    let rewards = rewards(&list.views, reward).map_err(ListFault::Reward)?;
    tally.add(relevant, &scores, &rewards, reward.margin);
    Ok(())
}

/// The reward of each view.
///
/// # Errors
/// Why the first view without one has none.
pub(super) fn rewards(views: &[BehaviorEvent], settings: &settings::Reward) -> Result<Vec<f64>, DropReason> {
    views.iter().map(|view| reward(settings, &view.engagement.clone().unwrap_or_default())).collect()
}
