//! Whether a candidate becomes production. Pure.
//!
//! A version is compared with its *anchor*, an earlier production: beside the version before it every
//! step of a slow decline would look harmless. The anchor is chosen anew every half of
//! `gate.anchor_age_ms`; the one that counts is the older of the last two, so it has been measured
//! beside the model for as long.

mod refusals;

use std::sync::Arc;

use crate::contract::v1;
use crate::settings::{Gate, Settings};

use super::candidate::Candidate;
use super::registry::Registry;

pub use refusals::Refusals;

/// Standard errors between a mean and its confidence bound: 97.7 % one-sided.
const STANDARD_ERRORS: f64 = 2.0;

/// Which test a version failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// A value of a tensor.
    Finite,
    /// Input offsets beside those of production.
    Offsets,
    /// Learned from a stream that is suspect by now.
    Stream,
    /// Win rate on preference pairs beside the anchor's.
    Preference,
    /// Win rate on behavior pairs beside the anchor's.
    Behavior,
    /// The order of views beside the anchor's.
    RankCorrelation,
}

impl Test {
    /// The value of metrics labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Test::Finite => "finite",
            Test::Offsets => "offsets",
            Test::Stream => "stream",
            Test::Preference => "preference",
            Test::Behavior => "behavior",
            Test::RankCorrelation => "rank_correlation",
        }
    }
}

/// What a version may lose.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    gate: Gate,
    /// Shares of pairs.
    preference_tolerance: f64,
    behavior_tolerance: f64,
}

impl Rules {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Rules {
        let tolerance = settings.gate.tolerance_points;
        Rules {
            gate: settings.gate.clone(),
            preference_tolerance: tolerance / 100.0,
            behavior_tolerance: (tolerance + settings.train.behavior_budget_points) / 100.0,
        }
    }

    /// The anchors of the next version, the oldest first: those of the version before it, and
    /// production once the last of them is half as old as an anchor may become. An anchor is a
    /// checkpoint, so that training can go back to it.
    pub fn anchors(
        &self,
        before: &[v1::GateAnchor],
        production: Option<&v1::Manifest>,
        step: u64,
        now_ms: i64,
    ) -> Vec<v1::GateAnchor> {
        let is_checkpoint = |manifest: &&v1::Manifest| manifest.kind() == v1::VersionKind::Checkpoint;
        let production = production.filter(is_checkpoint).map(|manifest| manifest.version);
        let mut anchors = before.to_vec();
        let half_ms = (self.gate.anchor_age_ms / 2).cast_signed();
        let is_due = anchors.last().is_none_or(|last| now_ms.saturating_sub(last.chosen_at_ms) >= half_ms);
        let is_new = |production: &u64| anchors.last().is_none_or(|last| last.version != *production);
        if let Some(version) = production.filter(is_new).filter(|_| is_due && step >= self.gate.warmup_steps)
        {
            anchors.push(v1::GateAnchor { version, chosen_at_ms: now_ms });
        }
        anchors.split_off(anchors.len().saturating_sub(2))
    }

    /// Decides on a candidate beside the version that is production.
    ///
    /// It is promoted when all its values are finite; when no input offset of production lies beyond
    /// its own, since after a resume the trainer goes on behind production, and a promotion there
    /// would take back what rankers already have; when the stream that it learned is not suspect; and
    /// when it is not clearly worse than its anchor. Where `parent`, the version that it goes on from,
    /// was refused for that, a test that knows too little yet does not let it pass: after a restart
    /// all comparisons begin anew.
    pub fn decide(
        &self,
        candidate: &Candidate,
        production: Option<&v1::Manifest>,
        parent: Option<&v1::Manifest>,
    ) -> v1::GateDecision {
        let Candidate { inputs, comparison, .. } = candidate;
        let (mut tests, mut reasons) = (Vec::new(), Vec::new());
        let mut refuse = |test: Test, reason| {
            tests.push(test.as_str().to_owned());
            reasons.push(reason);
        };
        let broken = candidate.tensors.iter().find(|tensor| !tensor.is_finite());
        if let Some(tensor) = broken {
            refuse(Test::Finite, format!("tensor '{}' has a value that is not finite", tensor.name));
        }
        if let Some(behind) = production.and_then(|production| first_behind(inputs, production)) {
            refuse(Test::Offsets, behind);
        }
        for reason in candidate.suspicion.iter().flat_map(|suspicion| &suspicion.reasons) {
            refuse(Test::Stream, format!("the stream is suspect: {reason}"));
        }
        if let Some(comparison) = comparison.as_ref().filter(|_| candidate.step >= self.gate.warmup_steps) {
            let undecided = self.undecided(comparison, parent);
            for (test, reason) in self.worse(comparison).into_iter().chain(undecided) {
                refuse(test, reason);
            }
        }
        v1::GateDecision {
            promoted: tests.is_empty(),
            tests,
            reasons,
            finite: broken.is_none(),
            comparison: *comparison,
        }
    }

    /// The tests beside the anchor that fail. One that has too little to rest on abstains.
    fn worse(&self, comparison: &v1::AnchorComparison) -> Vec<(Test, String)> {
        let anchor = comparison.anchor;
        let enough = |figure: &&v1::ComparedFigure| figure.count >= self.gate.min_answers;
        let mut worse = Vec::new();
        let win_rates = [
            (Test::Preference, "answers", comparison.preference, self.preference_tolerance),
            (Test::Behavior, "groups", comparison.behavior, self.behavior_tolerance),
        ];
        for (test, unit, figure, tolerance) in win_rates {
            if let Some(figure) = figure.as_ref().filter(enough).filter(|figure| figure.upper < -tolerance) {
                let points = |share: f64| 100.0 * share;
                worse.push((
                    test,
                    format!(
                        "{} win rate {:.1} points below that of anchor version {anchor} (at best {:.1} over {} \
                         {unit}; {:.1} are allowed)",
                        test.as_str(),
                        points(-figure.mean),
                        points(-figure.upper),
                        figure.count,
                        points(tolerance),
                    ),
                ));
            }
        }
        let floor = self.gate.min_rank_correlation;
        if let Some(figure) =
            comparison.rank_correlation.as_ref().filter(enough).filter(|figure| figure.upper < floor)
        {
            worse.push((
                Test::RankCorrelation,
                format!(
                    "rank correlation with anchor version {anchor} is {:.2} over {} groups; at least {floor} is asked",
                    figure.mean, figure.count
                ),
            ));
        }
        worse
    }

    /// The tests that `parent` has failed and that know too little yet.
    fn undecided(
        &self,
        comparison: &v1::AnchorComparison,
        parent: Option<&v1::Manifest>,
    ) -> Vec<(Test, String)> {
        let figures = [
            (Test::Preference, comparison.preference),
            (Test::Behavior, comparison.behavior),
            (Test::RankCorrelation, comparison.rank_correlation),
        ];
        let mut undecided = Vec::new();
        for (test, figure) in figures {
            let knows = figure.is_some_and(|figure| figure.count >= self.gate.min_answers);
            let failed = parent.filter(|parent| !knows && has_failed(parent, test));
            undecided.extend(failed.map(|parent| {
                let version = parent.version;
                (
                    test,
                    format!("nothing speaks against the refusal of version {version} yet: {}", test.as_str()),
                )
            }));
        }
        undecided
    }
}

/// Whether a version was refused by a test.
fn has_failed(manifest: &v1::Manifest, test: Test) -> bool {
    let tests = manifest.gate.iter().flat_map(|gate| &gate.tests);
    tests.into_iter().any(|failed| failed == test.as_str())
}

/// Production, where it may become an anchor: once a person has accepted the stream as it is, what was
/// before is nothing to compare with.
pub fn next_anchor(registry: &Registry) -> Option<&v1::Manifest> {
    let production = registry.production_manifest().map(Arc::as_ref);
    production.filter(|production| production.created_at_ms > accepted_at_ms(registry))
}

fn accepted_at_ms(registry: &Registry) -> i64 {
    registry.accept.as_ref().map_or(i64::MIN, |accept| accept.written_at_ms)
}

/// The anchors of the version that the next one goes on from, as far as they are there and the stream
/// is the one that they are of.
pub fn anchors_before(registry: &Registry, parent: Option<u64>) -> Vec<v1::GateAnchor> {
    let anchors = parent.and_then(|parent| registry.versions.get(&parent)).map(|parent| &parent.anchors);
    let is_there = |anchor: &&v1::GateAnchor| {
        registry.versions.contains_key(&anchor.version) && anchor.chosen_at_ms > accepted_at_ms(registry)
    };
    anchors.into_iter().flatten().filter(is_there).copied().collect()
}

/// A mean with its upper confidence bound.
pub fn figure(count: u64, mean: f64, standard_error: f64) -> v1::ComparedFigure {
    v1::ComparedFigure { count, mean, upper: mean + STANDARD_ERRORS * standard_error }
}

/// The first input partition of production that the candidate has not learned as far, in words.
fn first_behind(inputs: &[v1::LearnedRange], production: &v1::Manifest) -> Option<String> {
    production.inputs.iter().find_map(|theirs| {
        let own = inputs.iter().find(|own| own.topic == theirs.topic && own.partition == theirs.partition);
        let own = own.map_or(0, |own| own.next_offset);
        (own < theirs.next_offset).then(|| {
            format!(
                "behind production version {}: {}-{} at offset {own}, production at {}",
                production.version, theirs.topic, theirs.partition, theirs.next_offset
            )
        })
    })
}

#[cfg(test)]
mod tests;
