//! The trainer and the gate as in the service, without Kafka: the clock is the number of views, at
//! [`VIEWS_PER_SECOND`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::poisons::Poison;
use super::{PoisonRun, Stream};
use crate::contract::v1::{self, BehaviorGroup, sample::Sample};
use crate::evaluate::held_out::rank_lists;
use crate::evaluate::ranking::RankingMetrics;
use crate::model::{Architecture, HostTensor, Scorer};
use crate::publish::Candidate;
use crate::publish::gate::{self, Refusals, Rules};
use crate::publish::registry::Registry;
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::train::{Offered, PairSource, Signal, Trainer};
use crate::trainer::told;

const VIEWS_PER_SECOND: u64 = 1_000;
/// Checkpoints come as often, in seconds, and anchors as seldom, as the short streams ask for.
const CHECKPOINT_SECONDS: u64 = 10;
const ANCHOR_SECONDS: u64 = 60;
/// A person accepts a lasting change so many seconds after it was noticed.
const ACCEPT_SECONDS: u64 = 20;
/// Lists by which each production is judged.
const LISTS: usize = 400;

/// One version and what readers had then.
#[derive(Debug, Clone, Serialize)]
pub struct Second {
    pub second: u64,
    pub is_refused: bool,
    pub tests: Vec<String>,
    pub is_poisoned: bool,
    pub is_suspect: bool,
    /// Of production, on the true world's held-out lists.
    pub ndcg_at_10: f64,
    pub behavior_accuracy: f64,
    /// Beside the anchor: preference, behavior, rank correlation; mean and upper bound of each.
    pub beside_anchor: Option<[(f64, f64); 3]>,
    /// Production's win rate on answers: recent, and long run.
    pub answers: Option<(f64, f64)>,
}

pub struct Live<'a> {
    settings: Settings,
    rules: Rules,
    stream: &'a Stream,
    poison: Poison,
    accepts: bool,
    trainer: Trainer,
    registry: Registry,
    /// The version before the next.
    parent: u64,
    /// Tensors of the kept versions that were checkpoints, and of production.
    tensors: BTreeMap<u64, Vec<HostTensor>>,
    held_out: Option<RankingMetrics>,
    watermark_ms: i64,
    views: u64,
    refusals: Refusals,
    passed_step: Option<u64>,
    suspect_since: Option<u64>,
    at: f64,
    run: PoisonRun,
}

impl<'a> Live<'a> {
    pub fn new(
        settings: &Settings,
        stream: &'a Stream,
        poison: Poison,
        accepts: bool,
    ) -> Result<Live<'a>, String> {
        let mut settings = settings.clone();
        settings.gate.anchor_age_ms = ANCHOR_SECONDS * VIEWS_PER_SECOND;
        Ok(Live {
            rules: Rules::new(&settings),
            stream,
            poison,
            accepts,
            trainer: Trainer::new(&settings).map_err(|error| error.to_string())?,
            refusals: Refusals::resume(&Registry::default(), settings.gate.rollback_after),
            settings,
            registry: Registry::default(),
            parent: 0,
            tensors: BTreeMap::new(),
            held_out: None,
            watermark_ms: 0,
            views: 0,
            passed_step: None,
            suspect_since: None,
            at: 0.0,
            run: PoisonRun::default(),
        })
    }

    /// Learns the whole stream.
    pub fn run(mut self, stop: &StopToken) -> Result<PoisonRun, String> {
        let total = self.stream.samples.len() as f64;
        let mut batch: Vec<BehaviorGroup> = Vec::new();
        for (number, sample) in self.stream.samples.iter().enumerate() {
            if stop.is_stopped() {
                return Err("interrupted".to_owned());
            }
            self.at = number as f64 / total;
            match self.poison.spoil(self.at, sample) {
                Sample::BehaviorGroup(group) => {
                    batch.push(group);
                    if batch.len() >= self.settings.train.batch_groups {
                        self.step(&std::mem::take(&mut batch))?;
                    }
                }
                Sample::PreferencePair(pair) => {
                    if self.trainer.is_full() {
                        self.step(&std::mem::take(&mut batch))?;
                    }
                    let source = PairSource { partition: 0, offset: number as i64 };
                    let offered = self.trainer.offer_pair(&pair, source);
                    if offered == Offered::Taken {
                        self.watermark_ms = self.watermark_ms.max(pair.event_time_ms);
                    }
                    let is_poisoned = self.is_poisoned();
                    self.run.poisoned_pairs += u64::from(is_poisoned);
                    self.run.poisoned_pairs_taken += u64::from(is_poisoned && offered == Offered::Taken);
                    self.run.held_out_pairs += u64::from(offered == Offered::HeldOut);
                }
                Sample::HeldOutList(_) => {}
            }
        }
        Ok(self.run)
    }

    fn is_poisoned(&self) -> bool {
        self.poison.span().contains(&self.at)
    }

    fn step(&mut self, groups: &[BehaviorGroup]) -> Result<(), String> {
        let second = self.views / VIEWS_PER_SECOND;
        self.views += groups.iter().map(|group| group.views.len() as u64).sum::<u64>();
        if self.trainer.examine(groups) {
            self.run.held_out_groups += groups.len() as u64;
        } else {
            self.trainer.step(groups).map_err(|bad| bad.to_string())?;
            let newest = groups.iter().map(|group| group.event_time_ms).max();
            self.watermark_ms = self.watermark_ms.max(newest.unwrap_or_default());
        }
        self.note_suspicion();
        for second in second..self.views / VIEWS_PER_SECOND {
            self.publish(second)?;
        }
        Ok(())
    }

    fn note_suspicion(&mut self) {
        match (self.trainer.suspicion().is_some(), self.suspect_since) {
            (true, None) => {
                self.suspect_since = Some(self.views);
                if self.is_poisoned() || self.accepts {
                    self.run.detected_at.get_or_insert(self.at);
                } else {
                    self.run.false_alarms += 1;
                }
            }
            (false, Some(_)) => self.suspect_since = None,
            _ => {}
        }
    }

    fn publish(&mut self, second: u64) -> Result<(), String> {
        let is_checkpoint = second.is_multiple_of(CHECKPOINT_SECONDS);
        let mut tensors = self.trainer.serving_tensors();
        if is_checkpoint {
            tensors.extend(self.trainer.training_state());
        }
        let candidate = Candidate {
            kind: if is_checkpoint { v1::VersionKind::Checkpoint } else { v1::VersionKind::Serving },
            tensors,
            step: self.trainer.steps(),
            event_time_watermark_ms: self.watermark_ms,
            comparison: self.trainer.beside_anchor().map(told::compared),
            suspicion: told::suspicion(&self.trainer, self.passed_step),
            ..Candidate::default()
        };
        let production = self.registry.production_manifest().cloned();
        let parent = self.registry.versions.get(&self.parent).cloned();
        let decision = self.rules.decide(&candidate, production.as_deref(), parent.as_deref());
        let before = gate::anchors_before(&self.registry, Some(self.parent));
        let now_ms = (second * VIEWS_PER_SECOND) as i64;
        let anchors = self.rules.anchors(&before, gate::next_anchor(&self.registry), candidate.step, now_ms);
        let version = self.registry.highest_version + 1;
        self.parent = version;
        let promoted = decision.promoted;
        let manifest = v1::Manifest {
            version,
            kind: candidate.kind.into(),
            step: candidate.step,
            created_at_ms: now_ms,
            event_time_watermark_ms: candidate.event_time_watermark_ms,
            gate: Some(decision),
            anchors: anchors.clone(),
            ..v1::Manifest::default()
        };
        self.registry.add(manifest.clone());
        self.trainer.set_anchors(&anchors.iter().map(|anchor| anchor.version).collect::<Vec<_>>());
        if promoted {
            self.promote(version, &candidate.tensors)?;
            if is_checkpoint {
                self.tensors.insert(version, candidate.tensors);
            }
        }
        self.record(second, &manifest);
        self.accept_in_time(second);
        match self.refusals.count(&self.registry, &manifest, candidate.suspicion.as_ref()).cloned() {
            Some(passed) => self.go_back(&passed),
            None => Ok(()),
        }
    }

    fn promote(&mut self, version: u64, tensors: &[HostTensor]) -> Result<(), String> {
        self.registry.production = Some(v1::VersionPointer { version, ..v1::VersionPointer::default() });
        self.trainer.set_production(version, tensors.to_vec()).map_err(|error| error.to_string())?;
        let architecture = Architecture::from_settings(&self.settings);
        let scorer =
            Scorer::from_tensors(&architecture, tensors.to_vec()).map_err(|error| error.to_string())?;
        let lists = &self.stream.lists[..LISTS.min(self.stream.lists.len())];
        let figures = rank_lists(&scorer, lists, &self.settings.reward);
        self.held_out = Some(figures.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn record(&mut self, second: u64, manifest: &v1::Manifest) {
        let gate = manifest.gate.clone().unwrap_or_default();
        let pair = |figure: Option<v1::ComparedFigure>| {
            figure.map_or((0.0, 0.0), |figure| (figure.mean, figure.upper))
        };
        let figures = self.held_out.as_ref();
        self.run.seconds.push(Second {
            second,
            is_refused: !gate.promoted,
            tests: gate.tests,
            is_poisoned: self.is_poisoned(),
            is_suspect: self.suspect_since.is_some(),
            ndcg_at_10: figures.map_or(0.0, |figures| figures.ndcg_at_10),
            behavior_accuracy: figures.map_or(0.0, |figures| figures.behavior_accuracy),
            beside_anchor: gate
                .comparison
                .map(|of| [of.preference, of.behavior, of.rank_correlation].map(pair)),
            answers: self.trainer.stream_watch().win_rates(Signal::Answers),
        });
    }

    fn accept_in_time(&mut self, second: u64) {
        let is_due = |since: u64| self.views >= since + ACCEPT_SECONDS * VIEWS_PER_SECOND;
        if self.accepts && self.suspect_since.is_some_and(is_due) {
            let written_at_ms = (second * VIEWS_PER_SECOND) as i64;
            self.registry.accept = Some(v1::StreamAcceptance { written_at_ms, ..Default::default() });
            self.trainer.accept_stream(written_at_ms);
            self.run.accepted_at.get_or_insert(self.at);
            self.note_suspicion();
        }
    }

    fn go_back(&mut self, passed: &v1::Manifest) -> Result<(), String> {
        let tensors = self.tensors[&passed.version].clone();
        let restored = Trainer::restore(&self.settings, tensors).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut self.trainer, restored);
        self.run.steps_taken_back += before.steps() - passed.step;
        self.trainer.succeed(before, passed.version).map_err(|error| error.to_string())?;
        self.parent = passed.version;
        self.watermark_ms = passed.event_time_watermark_ms;
        self.passed_step = Some(passed.step);
        self.refusals.went_back();
        self.run.rollbacks += 1;
        Ok(())
    }
}
