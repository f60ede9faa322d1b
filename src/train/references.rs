//! Versions that the model is compared with, on samples that it has not learned yet: production, and
//! the anchors of the gate. They score on the CPU, as in a ranker. Nothing here changes what is learned.

use std::collections::{BTreeMap, VecDeque};

use crate::contract::v1::Features;
use crate::model::{Architecture, HostTensor, LoadError, Scorer};

use super::groups::MainBatch;
use super::progressive::Outcome;
use super::report::{Difference, ReferenceEvidence};

/// The last differences of two figures, each of one pair or group.
#[derive(Debug, Clone, Default)]
struct Differences {
    values: VecDeque<f64>,
}

impl Differences {
    fn push(&mut self, value: f64, length: usize) {
        if self.values.len() >= length {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    fn of_all(&self) -> Difference {
        let n = self.values.len() as f64;
        let mean = self.values.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = self.values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { f64::INFINITY };
        Difference { count: self.values.len() as u64, mean, standard_error: error }
    }
}

/// What the model did beside one version, since that became an anchor.
#[derive(Debug, Clone, Default)]
struct Anchor {
    version: u64,
    /// Win rate of the model minus that of the anchor, per answer and per group.
    preference: Differences,
    behavior: Differences,
    /// Spearman's correlation of the two orders of a group.
    rank: Differences,
    /// Sum and number of the differences of the answer whose pairs are coming.
    open: (f64, u32),
}

impl Anchor {
    fn close_answer(&mut self, length: usize) {
        let (sum, pairs) = std::mem::take(&mut self.open);
        if pairs > 0 {
            self.preference.push(sum / f64::from(pairs), length);
        }
    }

    fn evidence(&self) -> ReferenceEvidence {
        ReferenceEvidence {
            version: self.version,
            preference: self.preference.of_all(),
            behavior: self.behavior.of_all(),
            rank_correlation: self.rank.of_all(),
        }
    }
}

/// How the anchors rank one preference pair.
struct Observed {
    answer: u64,
    /// By version.
    theirs: Vec<(u64, Outcome)>,
}

/// Production and at most two anchors, the oldest first.
pub(super) struct References {
    architecture: Architecture,
    /// Differences kept per anchor.
    length: usize,
    /// Pairs that the model has scored, where that is not read yet.
    observed: VecDeque<Observed>,
    /// The answer whose pairs are coming.
    answer: u64,
    scorers: BTreeMap<u64, Scorer>,
    production: Option<u64>,
    anchors: Vec<Anchor>,
}

impl References {
    pub(super) fn new(architecture: &Architecture, length: usize) -> References {
        References {
            architecture: architecture.clone(),
            length,
            observed: VecDeque::new(),
            answer: 0,
            scorers: BTreeMap::new(),
            production: None,
            anchors: Vec::new(),
        }
    }

    /// What readers get from now on.
    pub(super) fn set_production(
        &mut self,
        version: u64,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<(), LoadError> {
        self.load(version, tensors)?;
        self.production = Some(version);
        self.forget();
        Ok(())
    }

    /// Adds the newest anchor.
    pub(super) fn add_anchor(
        &mut self,
        version: u64,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<(), LoadError> {
        self.load(version, tensors)?;
        self.anchors.push(Anchor { version, ..Anchor::default() });
        Ok(())
    }

    fn load(&mut self, version: u64, tensors: impl IntoIterator<Item = HostTensor>) -> Result<(), LoadError> {
        self.scorers.insert(version, Scorer::from_tensors(&self.architecture, tensors)?);
        Ok(())
    }

    /// The anchors from now on, the oldest first: those that are, and production.
    pub(super) fn set_anchors(&mut self, versions: &[u64]) {
        let mut before = std::mem::take(&mut self.anchors);
        for &version in versions {
            match before.iter().position(|anchor| anchor.version == version) {
                Some(position) => self.anchors.push(before.swap_remove(position)),
                None if self.scorers.contains_key(&version) => {
                    self.anchors.push(Anchor { version, ..Anchor::default() });
                }
                None => {}
            }
        }
        self.forget();
    }

    /// Lets go of what nobody is compared with any more.
    fn forget(&mut self) {
        let Self { scorers, production, anchors, .. } = self;
        scorers.retain(|version, _| {
            *production == Some(*version) || anchors.iter().any(|anchor| anchor.version == *version)
        });
    }

    /// The same anchors for a model that goes back to `version`: nothing has been measured of that yet.
    pub(super) fn back_at(self, version: u64) -> References {
        let anchors = self.anchors.into_iter().filter(|anchor| anchor.version <= version);
        let anchors = anchors.map(|anchor| Anchor { version: anchor.version, ..Anchor::default() });
        References {
            scorers: self.scorers,
            production: self.production,
            anchors: anchors.collect(),
            ..References::new(&self.architecture, self.length)
        }
    }

    pub(super) fn has_production(&self) -> bool {
        self.production.is_some()
    }

    /// How production ranks a preference pair.
    pub(super) fn production_on_pair(&self, chosen: &Features, rejected: &Features) -> Option<Outcome> {
        Some(rank(self.scorers.get(&self.production?)?, chosen, rejected))
    }

    /// How production ranks the behavior pairs of each group.
    pub(super) fn production_on_groups(&self, main: &MainBatch) -> Option<Vec<Vec<Outcome>>> {
        Some(outcomes(main, &score(self.scorers.get(&self.production?)?, &main.views)))
    }

    /// A first-seen preference pair of an answer. How the model ranks it comes [later](Self::settle).
    /// Where it is not to count, that is noted.
    pub(super) fn observe_pair(&mut self, answer: u64, chosen: &Features, rejected: &Features, counts: bool) {
        let theirs = self.anchors.iter().filter(|_| counts);
        let theirs =
            theirs.map(|anchor| (anchor.version, rank(&self.scorers[&anchor.version], chosen, rejected)));
        self.observed.push_back(Observed { answer, theirs: theirs.collect() });
    }

    /// How the model has ranked the first of the pairs that were observed, in their order. The pairs of
    /// one answer are one value: they are not independent.
    pub(super) fn settle(&mut self, model: Vec<Outcome>) {
        for model in model {
            let Some(Observed { answer, theirs }) = self.observed.pop_front() else { return };
            let is_new = std::mem::replace(&mut self.answer, answer) != answer;
            for anchor in &mut self.anchors {
                if is_new {
                    anchor.close_answer(self.length);
                }
                if let Some((_, theirs)) = theirs.iter().find(|(version, _)| *version == anchor.version) {
                    anchor.open.0 += model.wins() - theirs.wins();
                    anchor.open.1 += 1;
                }
            }
        }
    }

    /// A main batch that is not learned yet; `scores` are the model's.
    pub(super) fn observe_batch(&mut self, main: &MainBatch, scores: &[f64]) {
        if main.views.is_empty() || self.anchors.is_empty() {
            return;
        }
        let ours = outcomes(main, scores);
        for anchor in &mut self.anchors {
            let their_scores = score(&self.scorers[&anchor.version], &main.views);
            let theirs = outcomes(main, &their_scores);
            for (ours, theirs) in ours.iter().zip(&theirs).filter(|(ours, _)| !ours.is_empty()) {
                anchor.behavior.push(win_rate(ours) - win_rate(theirs), self.length);
            }
            let mut first = 0;
            for &views in &main.sizes {
                let group = first..first + views;
                first += views;
                if let Some(rank) = spearman(&scores[group.clone()], &their_scores[group]) {
                    anchor.rank.push(rank, self.length);
                }
            }
        }
    }

    /// What is known of the model beside the gate's anchor.
    pub(super) fn evidence(&self) -> Option<ReferenceEvidence> {
        self.anchors.first().map(Anchor::evidence)
    }
}

fn score(scorer: &Scorer, views: &[&Features]) -> Vec<f64> {
    scorer.score(views).expect("views were checked for this model before they came here")
}

fn rank(scorer: &Scorer, chosen: &Features, rejected: &Features) -> Outcome {
    let scores = score(scorer, &[chosen, rejected]);
    Outcome::new(scores[0] - scores[1])
}

/// Share of pairs ranked right; a tie counts half.
pub(super) fn win_rate(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().map(|outcome| outcome.wins()).sum::<f64>() / outcomes.len() as f64
}

/// The outcomes of each group's behavior pairs by these scores.
fn outcomes(main: &MainBatch, scores: &[f64]) -> Vec<Vec<Outcome>> {
    let mut pairs = main.left.iter().zip(&main.right).zip(&main.preferred);
    let of_group = |&views: &usize| {
        let of_group = pairs.by_ref().take(views * (views - 1) / 2);
        let ranked =
            of_group.filter(|(_, preferred)| **preferred != 0).map(|((&left, &right), &preferred)| {
                Outcome::new(f64::from(preferred) * (scores[left as usize] - scores[right as usize]))
            });
        ranked.collect()
    };
    main.sizes.iter().map(of_group).collect()
}

/// Spearman's rank correlation; equal values share their mean rank. None where either has no order.
fn spearman(left: &[f64], right: &[f64]) -> Option<f64> {
    let (left, right) = (ranks(left), ranks(right));
    let mean = (left.len() as f64 + 1.0) / 2.0;
    let (mut both, mut of_left, mut of_right) = (0.0, 0.0, 0.0);
    for (left, right) in left.iter().zip(&right) {
        both += (left - mean) * (right - mean);
        of_left += (left - mean).powi(2);
        of_right += (right - mean).powi(2);
    }
    (of_left > 0.0 && of_right > 0.0).then(|| both / (of_left * of_right).sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: &f64| values.iter().filter(|other| *other < value).count() as f64;
    let equal = |value: &f64| values.iter().filter(|other| *other == value).count() as f64;
    values.iter().map(|value| below(value) + (equal(value) + 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_correlation_is_that_of_the_textbook_and_ties_share_their_rank() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 900.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 7.0]), [2.5, 1.0, 2.5, 4.0]);
        // 1 − 6 Σ d² / (n (n² − 1)) with d = 1, 1, 0, 0
        assert_eq!(spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 3.0, 4.0]), Some(0.8));
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn a_difference_has_the_mean_and_the_standard_error_of_the_last_ones() {
        let mut differences = Differences::default();
        assert_eq!(differences.of_all().count, 0);
        assert!(differences.of_all().standard_error.is_infinite(), "nothing is known");
        for value in [9.0, 1.0, 0.0, -1.0, 0.0] {
            differences.push(value, 4);
        }
        let Difference { count, mean, standard_error } = differences.of_all();
        assert_eq!((count, mean), (4, 0.0));
        assert!((standard_error - (2.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
