//! Ranking metrics of one list with one relevant item, and their means over many lists.
//!
//! Equal scores are treated fairly: a metric is its expectation when items with equal scores are
//! shuffled, so a model that scores everything alike gets what chance gets. A score that is not
//! finite ranks below every finite one.

use serde::Serialize;

/// Where the relevant item stands: `better` items score above it, `tied` others score the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub better: usize,
    pub tied: usize,
}

impl Standing {
    /// The standing of item `relevant` in one list of scores.
    ///
    /// # Panics
    /// When `relevant` is not an index of `scores`.
    pub fn of(relevant: usize, scores: &[f64]) -> Self {
        let own = comparable(scores[relevant]);
        let better = scores.iter().filter(|score| comparable(**score) > own).count();
        let tied = scores.iter().filter(|score| comparable(**score) == own).count() - 1;
        Self { better, tied }
    }

    /// The mean of `gain(rank)` over the ranks (from 1) that the tie leaves open.
    fn expected(self, gain: impl Fn(usize) -> f64) -> f64 {
        let ranks = self.better + 1..=self.better + 1 + self.tied;
        ranks.map(gain).sum::<f64>() / (self.tied + 1) as f64
    }
}

fn comparable(score: f64) -> f64 {
    if score.is_finite() { score } else { f64::NEG_INFINITY }
}

/// Hit rate: the probability that the relevant item is among the first `k`.
pub fn hr_at_k(standing: Standing, k: usize) -> f64 {
    standing.expected(|rank| if rank <= k { 1.0 } else { 0.0 })
}

/// Normalized discounted cumulative gain with one relevant item: 1 / log2(1 + rank) within the
/// first `k`, else 0; the ideal gain is 1.
pub fn ndcg_at_k(standing: Standing, k: usize) -> f64 {
    standing.expected(|rank| if rank <= k { 1.0 / ((rank + 1) as f64).log2() } else { 0.0 })
}

/// Reciprocal rank of the relevant item.
pub fn mrr(standing: Standing) -> f64 {
    standing.expected(|rank| 1.0 / rank as f64)
}

/// Pairs of one list whose rewards differ by more than a margin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairAgreement {
    /// Pairs that the scores order as the rewards do; equal scores count one half.
    pub right: f64,
    pub pairs: u64,
}

/// How the scores of one list order the pairs whose rewards differ by more than `margin`.
pub fn behavior_accuracy(scores: &[f64], rewards: &[f64], margin: f64) -> PairAgreement {
    let mut agreement = PairAgreement::default();
    for (i, &reward) in rewards.iter().enumerate() {
        for (j, &other) in rewards.iter().enumerate() {
            if reward - other > margin {
                let (score, rival) = (comparable(scores[i]), comparable(scores[j]));
                agreement.pairs += 1;
                agreement.right += match score.total_cmp(&rival) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
    }
    agreement
}

/// Means over lists; `behavior_accuracy` is over all pairs of all lists.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RankingMetrics {
    pub lists: u64,
    pub hr_at_1: f64,
    pub hr_at_5: f64,
    pub hr_at_10: f64,
    pub ndcg_at_5: f64,
    pub ndcg_at_10: f64,
    pub ndcg_at_20: f64,
    pub mrr: f64,
    pub behavior_accuracy: f64,
    pub behavior_pairs: u64,
}

/// Sums list after list; [`RankingTally::metrics`] gives the means.
#[derive(Debug, Clone, Default)]
pub struct RankingTally {
    lists: u64,
    hr: [f64; 3],
    ndcg: [f64; 3],
    mrr: f64,
    behavior: PairAgreement,
}

impl RankingTally {
    /// Adds one list: its scores, its rewards, and which of its items is the relevant one.
    pub fn add(&mut self, relevant: usize, scores: &[f64], rewards: &[f64], margin: f64) {
        let standing = Standing::of(relevant, scores);
        self.lists += 1;
        for (sum, k) in self.hr.iter_mut().zip([1, 5, 10]) {
            *sum += hr_at_k(standing, k);
        }
        for (sum, k) in self.ndcg.iter_mut().zip([5, 10, 20]) {
            *sum += ndcg_at_k(standing, k);
        }
        self.mrr += mrr(standing);
        let agreement = behavior_accuracy(scores, rewards, margin);
        self.behavior.right += agreement.right;
        self.behavior.pairs += agreement.pairs;
    }

    /// The means; `None` before the first list, or when no list had a pair of unlike rewards.
    pub fn metrics(&self) -> Option<RankingMetrics> {
        if self.lists == 0 || self.behavior.pairs == 0 {
            return None;
        }
        let lists = self.lists as f64;
        Some(RankingMetrics {
            lists: self.lists,
            hr_at_1: self.hr[0] / lists,
            hr_at_5: self.hr[1] / lists,
            hr_at_10: self.hr[2] / lists,
            ndcg_at_5: self.ndcg[0] / lists,
            ndcg_at_10: self.ndcg[1] / lists,
            ndcg_at_20: self.ndcg[2] / lists,
            mrr: self.mrr / lists,
            behavior_accuracy: self.behavior.right / self.behavior.pairs as f64,
            behavior_pairs: self.behavior.pairs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-12, "{actual} is not {expected}");
    }

    #[test]
    fn a_third_place_has_the_textbook_values() {
        let standing = Standing::of(0, &[0.5, 0.9, 0.7, 0.1]);
        assert_eq!(standing, Standing { better: 2, tied: 0 });
        close(hr_at_k(standing, 2), 0.0);
        close(hr_at_k(standing, 3), 1.0);
        close(ndcg_at_k(standing, 10), 0.5);
        close(ndcg_at_k(standing, 2), 0.0);
        close(mrr(standing), 1.0 / 3.0);
    }

    #[test]
    fn a_model_that_scores_all_alike_gets_what_chance_gets() {
        let scores = [1.5; 21];
        let standing = Standing::of(7, &scores);
        close(hr_at_k(standing, 1), 1.0 / 21.0);
        close(hr_at_k(standing, 10), 10.0 / 21.0);
        let ideal_mean = (1..=10).map(|rank| 1.0 / f64::from(rank + 1).log2()).sum::<f64>() / 21.0;
        close(ndcg_at_k(standing, 10), ideal_mean);
        let rewards: Vec<f64> = (0..21).map(f64::from).collect();
        let agreement = behavior_accuracy(&scores, &rewards, 0.2);
        close(agreement.right / agreement.pairs as f64, 0.5);
    }

    #[test]
    fn a_score_that_is_not_finite_ranks_last() {
        assert_eq!(Standing::of(0, &[f64::NAN, 0.0, -5.0]), Standing { better: 2, tied: 0 });
        assert_eq!(Standing::of(0, &[f64::INFINITY, f64::NAN]), Standing { better: 0, tied: 1 });
        assert_eq!(Standing::of(2, &[f64::NAN, 0.5, 1.0]), Standing { better: 0, tied: 0 });
    }

    #[test]
    fn only_pairs_beyond_the_margin_count_for_behavior_accuracy() {
        let agreement = behavior_accuracy(&[3.0, 2.0, 1.0], &[1.0, 0.9, 2.0], 0.2);
        assert_eq!(agreement, PairAgreement { right: 0.0, pairs: 2 });
        let agreement = behavior_accuracy(&[1.0, 2.0, 3.0], &[1.0, 0.9, 2.0], 0.2);
        assert_eq!(agreement, PairAgreement { right: 2.0, pairs: 2 });
    }

    #[test]
    fn a_tally_is_the_mean_over_its_lists() {
        let mut tally = RankingTally::default();
        assert_eq!(tally.metrics(), None);
        tally.add(0, &[2.0, 1.0], &[1.0, 0.0], 0.2);
        tally.add(0, &[1.0, 2.0], &[1.0, 0.0], 0.2);
        let metrics = tally.metrics().expect("two lists with pairs");
        close(metrics.hr_at_1, 0.5);
        close(metrics.mrr, 0.75);
        close(metrics.behavior_accuracy, 0.5);
        assert_eq!((metrics.lists, metrics.behavior_pairs), (2, 2));
    }
}
