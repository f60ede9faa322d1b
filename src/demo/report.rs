//! What the demo found out: `report.json`, and the numbers behind `report.html`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::evaluate::ranking::RankingMetrics;

/// Everything in it was measured in one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub program: String,
    pub seed: u64,
    pub broker: String,
    /// What a run on this broker does not show.
    pub broker_note: String,
    /// When the run began, RFC 3339.
    pub began_at: String,
    pub traffic_seconds: f64,
    pub total_seconds: f64,
    /// Event time that the stream took.
    pub event_time_hours: f64,
    pub views: u64,
    pub answers: u64,
    pub labelled_views: u64,
    pub preference_pairs: u64,
    pub behavior_groups: u64,
    /// Versions published; those that the follower loaded.
    pub versions: u64,
    pub versions_loaded: u64,
    pub funnel: Funnel,
    pub join_delay: JoinDelay,
    pub conservation: Conservation,
    pub version_history: Vec<VersionPoint>,
    pub held_out: HeldOut,
}

/// From views to samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Funnel {
    pub views: u64,
    /// Watched long enough for a questionnaire.
    pub triggered: u64,
    /// Shown one.
    pub exposed: u64,
    pub answered: u64,
    /// Labelled views.
    pub joined: u64,
    /// Labelled views that are in a preference pair.
    pub paired: u64,
}

impl Funnel {
    /// The stages in order, with their names.
    pub fn stages(&self) -> [(&'static str, u64); 6] {
        [
            ("views", self.views),
            ("triggered", self.triggered),
            ("exposed", self.exposed),
            ("answered", self.answered),
            ("joined", self.joined),
            ("paired", self.paired),
        ]
    }
}

/// From the later of a view's record and its answer being written, to the labelled view being read
/// by a consumer; milliseconds of the clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JoinDelay {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    #[serde(skip)]
    pub sorted_ms: Vec<f64>,
}

impl JoinDelay {
    pub fn of(mut delays_ms: Vec<f64>) -> Self {
        delays_ms.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let rank = (q * delays_ms.len() as f64).ceil() as usize;
            delays_ms.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self {
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p99_ms: quantile(0.99),
            max_ms: quantile(1.0),
            sorted_ms: delays_ms,
        }
    }
}

/// Invariant 11 over the whole run: every record ended in exactly one counted outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Conservation {
    pub ok: bool,
    /// What does not add up, in words.
    pub faults: Vec<String>,
    pub views: Outcomes,
    pub responses: Outcomes,
}

/// The records of one input.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcomes {
    /// Written by the world.
    pub produced: u64,
    /// Read by the joiner.
    pub consumed: u64,
    pub waiting: u64,
    pub outcomes: BTreeMap<String, u64>,
}

/// A version when the follower had loaded it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionPoint {
    pub version: u64,
    pub checkpoint: bool,
    /// Since the traffic began.
    pub loaded_at_seconds: f64,
    /// From the creation of the version to its loading.
    pub loaded_after_ms: i64,
    pub step: u64,
    pub preference_pairs_learned: u64,
    pub loss_main: f64,
    pub loss_satisfaction: f64,
    pub loss_dpo: f64,
    pub behavior_win_rate: f64,
    pub behavior_only_win_rate: f64,
    pub preference_win_rate: f64,
    pub behavior_only_preference_win_rate: f64,
}

/// Lists of the world that nothing was trained on, ranked by both models.
#[derive(Debug, Clone, Serialize)]
pub struct HeldOut {
    pub lists: u64,
    pub production_version: u64,
    pub production: RankingMetrics,
    pub behavior_only: RankingMetrics,
    pub ndcg_at_10_gain: f64,
    /// What the gain costs, in percentage points of behavior accuracy.
    pub behavior_accuracy_points_lost: f64,
}

impl HeldOut {
    pub fn of(production_version: u64, production: RankingMetrics, behavior_only: RankingMetrics) -> Self {
        Self {
            lists: production.lists,
            production_version,
            production,
            behavior_only,
            ndcg_at_10_gain: production.ndcg_at_10 - behavior_only.ndcg_at_10,
            behavior_accuracy_points_lost: 100.0
                * (behavior_only.behavior_accuracy - production.behavior_accuracy),
        }
    }

    /// Metrics by name: production, behavior-only.
    pub fn rows(&self) -> [(&'static str, f64, f64); 6] {
        let (ours, twin) = (&self.production, &self.behavior_only);
        [
            ("NDCG@10", ours.ndcg_at_10, twin.ndcg_at_10),
            ("HR@1", ours.hr_at_1, twin.hr_at_1),
            ("HR@5", ours.hr_at_5, twin.hr_at_5),
            ("HR@10", ours.hr_at_10, twin.hr_at_10),
            ("MRR", ours.mrr, twin.mrr),
            ("behavior accuracy", ours.behavior_accuracy, twin.behavior_accuracy),
        ]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn metrics(ndcg_at_10: f64) -> RankingMetrics {
        RankingMetrics {
            lists: 1500,
            hr_at_1: 0.6 * ndcg_at_10 - 0.05,
            hr_at_5: 0.9 * ndcg_at_10,
            hr_at_10: 1.2 * ndcg_at_10,
            ndcg_at_5: 0.9 * ndcg_at_10,
            ndcg_at_10,
            ndcg_at_20: 1.1 * ndcg_at_10,
            mrr: 0.8 * ndcg_at_10,
            behavior_accuracy: 0.8 - 0.15 * ndcg_at_10,
            behavior_pairs: 200_000,
        }
    }

    /// A report as a run gives it.
    pub fn sample() -> Report {
        let version_history = (1..=20).map(|version| {
            let progress = 1.0 - (-0.2 * version as f64).exp();
            VersionPoint {
                version,
                checkpoint: version == 20,
                loaded_at_seconds: 3.0 * version as f64,
                loaded_after_ms: 120,
                step: 60 * version,
                preference_pairs_learned: 150 * version,
                loss_main: 0.69 - 0.12 * progress,
                loss_satisfaction: 0.69 - 0.1 * progress,
                loss_dpo: 0.69 - 0.05 * progress,
                behavior_win_rate: 0.5 + 0.2 * progress,
                behavior_only_win_rate: 0.5 + 0.22 * progress,
                preference_win_rate: 0.5 + 0.15 * progress,
                behavior_only_preference_win_rate: 0.5 + 0.05 * progress,
            }
        });
        let outcomes =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Report {
            program: "easq 0.1.0".to_owned(),
            seed: 1,
            broker: "embedded".to_owned(),
            broker_note: "It proves nothing about failure.".to_owned(),
            began_at: "2026-01-01T00:00:00Z".to_owned(),
            traffic_seconds: 60.0,
            total_seconds: 68.0,
            event_time_hours: 12.0,
            views: 162_000,
            answers: 1_700,
            labelled_views: 1_700,
            preference_pairs: 3_400,
            behavior_groups: 20_250,
            versions: 21,
            versions_loaded: 20,
            funnel: Funnel {
                views: 162_000,
                triggered: 131_000,
                exposed: 6_550,
                answered: 1_700,
                joined: 1_700,
                paired: 1_450,
            },
            join_delay: JoinDelay::of((0..1700).map(|i| 20.0 + f64::from(i % 97)).collect()),
            conservation: Conservation {
                ok: true,
                faults: Vec::new(),
                views: Outcomes {
                    produced: 162_000,
                    consumed: 162_000,
                    waiting: 280,
                    outcomes: outcomes(&[("matched", 1_700), ("ineligible", 155_450), ("unanswered", 4_570)]),
                },
                responses: Outcomes {
                    produced: 1_700,
                    consumed: 1_700,
                    waiting: 0,
                    outcomes: outcomes(&[("matched", 1_700)]),
                },
            },
            version_history: version_history.collect(),
            held_out: HeldOut::of(20, metrics(0.512), metrics(0.365)),
        }
    }

    #[test]
    fn quantiles_of_the_join_delay_are_observed_values() {
        let delay = JoinDelay::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((delay.p50_ms, delay.p90_ms, delay.p99_ms, delay.max_ms), (50.0, 90.0, 99.0, 100.0));
        let few = JoinDelay::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((few.p50_ms, few.p90_ms, few.max_ms), (2.0, 3.0, 3.0));
        assert_eq!(JoinDelay::of(Vec::new()), JoinDelay::default());
    }
}
