//! One model's figures on the samples of a file.

use serde::Serialize;

use super::held_out::{ListFault, rank_list};
use super::ranking::{PairAgreement, RankingMetrics, RankingTally, behavior_accuracy};
use crate::contract::v1::{Features, HeldOutList};
use crate::model::{ScoreError, Scorer};
use crate::settings;

/// What a model came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// On held-out lists; None where there were none.
    pub held_out: Option<RankingMetrics>,
    /// On groups and pairs; None where there were none.
    pub stream: Option<StreamFigures>,
}

/// Shares of pairs that the scores order as people did; equal scores count one half. None without a
/// pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StreamFigures {
    pub groups: u64,
    pub behavior_accuracy: Option<f64>,
    /// Views of one group whose rewards differ by more than `reward.margin`.
    pub behavior_pairs: u64,
    pub preference_accuracy: Option<f64>,
    pub preference_pairs: u64,
}

impl Figures {
    /// Figures by name, those that there are.
    pub fn rows(&self) -> Vec<(&'static str, f64)> {
        let mut rows = Vec::new();
        if let Some(lists) = &self.held_out {
            rows.extend([
                ("HR@1", lists.hr_at_1),
                ("HR@5", lists.hr_at_5),
                ("HR@10", lists.hr_at_10),
                ("NDCG@5", lists.ndcg_at_5),
                ("NDCG@10", lists.ndcg_at_10),
                ("NDCG@20", lists.ndcg_at_20),
                ("MRR", lists.mrr),
                ("behavior accuracy", lists.behavior_accuracy),
            ]);
        }
        if let Some(stream) = &self.stream {
            let named = [
                ("behavior accuracy, stream", stream.behavior_accuracy),
                ("preference accuracy, stream", stream.preference_accuracy),
            ];
            rows.extend(named.into_iter().filter_map(|(name, value)| Some((name, value?))));
        }
        rows
    }
}

/// Scores samples with one model.
pub struct Measure {
    scorer: Scorer,
    lists: RankingTally,
    groups: u64,
    behavior: PairAgreement,
    preference: PairAgreement,
}

impl Measure {
    pub fn new(scorer: Scorer) -> Self {
        Self {
            scorer,
            lists: RankingTally::default(),
            groups: 0,
            behavior: PairAgreement::default(),
            preference: PairAgreement::default(),
        }
    }

    pub fn add_list(&mut self, list: &HeldOutList, reward: &settings::Reward) -> Result<(), ListFault> {
        rank_list(&self.scorer, list, reward, &mut self.lists)
    }

    /// Views of one group with their rewards.
    pub fn add_group(&mut self, views: &[(&Features, f64)], margin: f64) -> Result<(), ScoreError> {
        let (features, rewards): (Vec<_>, Vec<_>) = views.iter().copied().unzip();
        let agreement = behavior_accuracy(&self.scorer.score(&features)?, &rewards, margin);
        self.groups += 1;
        self.behavior.right += agreement.right;
        self.behavior.pairs += agreement.pairs;
        Ok(())
    }

    /// The two views of a preference pair: an order that people have stated.
    pub fn add_pair(&mut self, chosen: &Features, rejected: &Features) -> Result<(), ScoreError> {
        let agreement = behavior_accuracy(&self.scorer.score(&[chosen, rejected])?, &[1.0, 0.0], 0.0);
        self.preference.right += agreement.right;
        self.preference.pairs += agreement.pairs;
        Ok(())
    }

    pub fn figures(&self) -> Figures {
        let share = |agreement: PairAgreement| {
            (agreement.pairs > 0).then(|| agreement.right / agreement.pairs as f64)
        };
        let stream = StreamFigures {
            groups: self.groups,
            behavior_accuracy: share(self.behavior),
            behavior_pairs: self.behavior.pairs,
            preference_accuracy: share(self.preference),
            preference_pairs: self.preference.pairs,
        };
        let has_stream = self.groups > 0 || self.preference.pairs > 0;
        Figures { held_out: self.lists.metrics(), stream: has_stream.then_some(stream) }
    }
}
