//! One contender, one stream.

use std::time::Instant;

use serde::Serialize;

use super::contenders::{Contender, Family, Kind};
use super::{CompareError, Stream};
use crate::contract::v1::{BehaviorGroup, Features, HeldOutList, PreferencePair, sample};
use crate::evaluate::held_out::rewards;
use crate::evaluate::ranking::{RankingMetrics, RankingTally};
use crate::model::{DropReason, Dtype};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::train::research::Baseline;
use crate::train::{BadBatch, Driver, Learner, Offered, PairSource, StepReport, Stepped, Trainer};

/// The last steps of a stream, in which the price that was paid is measured.
const PRICE_SHARE: f64 = 1.0 / 3.0;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub contender: String,
    pub family: Family,
    pub world: &'static str,
    pub seed: u64,
    pub held_out: RankingMetrics,
    /// Points of behavior accuracy that were lost in the last third of the stream, against the twin,
    /// each pair before it was learned; only of those that have a twin.
    pub stream_cost_points: Option<f64>,
    /// λ2 at the end, likewise.
    pub dpo_weight: Option<f64>,
    pub steps: u64,
    pub seconds: f64,
}

/// The two kinds of learners.
enum Anyone {
    Trainer(Box<Trainer>),
    Baseline(Box<Baseline>),
}

impl Anyone {
    fn new(settings: &Settings, kind: Kind) -> Result<Anyone, CompareError> {
        Ok(match kind {
            Kind::Trainer => Anyone::Trainer(Box::new(Trainer::new(settings)?)),
            Kind::WithoutMixture => {
                Anyone::Trainer(Box::new(Trainer::without_mixture(settings, Dtype::F32)?))
            }
            Kind::Baseline(method) => {
                Anyone::Baseline(Box::new(Baseline::new(settings, method, Dtype::F32)?))
            }
        })
    }

    fn score(&self, views: &[&Features]) -> Result<Vec<f64>, DropReason> {
        match self {
            Anyone::Trainer(trainer) => trainer.score(views),
            Anyone::Baseline(baseline) => baseline.score(views),
        }
    }
}

impl Learner for Anyone {
    /// Only of those that have a twin.
    type Report = Option<StepReport>;

    fn offer_pair(&mut self, pair: &PreferencePair, source: PairSource) -> Offered {
        match self {
            Anyone::Trainer(trainer) => trainer.offer_pair(pair, source),
            Anyone::Baseline(baseline) => baseline.offer_pair(pair, source),
        }
    }

    fn step(&mut self, groups: &[BehaviorGroup]) -> Result<Self::Report, BadBatch> {
        match self {
            Anyone::Trainer(trainer) => trainer.step(groups).map(Some),
            Anyone::Baseline(baseline) => baseline.step(groups).map(|_| None),
        }
    }
}

/// Learns the whole stream in its order, then ranks the held-out lists.
pub fn learn(
    settings: &Settings,
    contender: &Contender,
    stream: &Stream,
    world: &'static str,
    seed: u64,
    stop: &StopToken,
) -> Result<Run, CompareError> {
    let settings = contender.settings(settings);
    let failed =
        |problem: String| CompareError::Contender { contender: contender.name.clone(), world, seed, problem };
    let began = Instant::now();
    let mut driver = Driver::new(Anyone::new(&settings, contender.kind)?, settings.train.batch_groups);
    let mut steps = Vec::new();
    let mut settle = |stepped: Option<Stepped<(), Option<StepReport>>>| -> Result<(), CompareError> {
        let Some(Stepped { result, .. }) = stepped else { return Ok(()) };
        steps.push(result.map_err(|bad| failed(bad.to_string()))?);
        Ok(())
    };
    for (number, sample) in (0..).zip(&stream.samples) {
        if stop.is_stopped() {
            return Err(CompareError::Interrupted);
        }
        match sample {
            sample::Sample::BehaviorGroup(group) => settle(driver.take_group((), group.clone()))?,
            sample::Sample::PreferencePair(pair) => {
                let (offered, stepped) = driver.take_pair(pair, PairSource { partition: 0, offset: number });
                settle(stepped)?;
                if offered != Offered::Taken {
                    return Err(failed(format!("pair {number} was not taken in: {offered:?}")));
                }
            }
            // They are judged by, never learned.
            sample::Sample::HeldOutList(_) => {}
        }
    }
    settle(driver.close())?;
    let seconds = began.elapsed().as_secs_f64();
    let held_out =
        rank(&settings, driver.learner(), &stream.lists).map_err(|reason| failed(reason.to_string()))?;
    let last = steps.last().and_then(Option::as_ref);
    Ok(Run {
        contender: contender.name.clone(),
        family: contender.family,
        world,
        seed,
        held_out: held_out.ok_or_else(|| failed("no lists to rank".to_owned()))?,
        stream_cost_points: stream_cost(&steps),
        dpo_weight: last.map(|report| report.dpo_weight),
        steps: steps.len() as u64,
        seconds,
    })
}

fn stream_cost(steps: &[Option<StepReport>]) -> Option<f64> {
    let last = &steps[(steps.len() as f64 * (1.0 - PRICE_SHARE)) as usize..];
    let reports = last.iter().flatten();
    let (mut lost, mut pairs) = (0.0, 0);
    for report in reports {
        lost += report.behavior_only_wins - report.behavior_wins;
        pairs += report.behavior_pairs;
    }
    (pairs > 0).then(|| 100.0 * lost / pairs as f64)
}

fn rank(
    settings: &Settings,
    learner: &Anyone,
    lists: &[HeldOutList],
) -> Result<Option<RankingMetrics>, DropReason> {
    let mut tally = RankingTally::default();
    for list in lists {
        let features: Vec<&Features> = list.views.iter().filter_map(|view| view.features.as_ref()).collect();
        let rewards = rewards(&list.views, &settings.reward)?;
        tally.add(list.relevant as usize, &learner.score(&features)?, &rewards, settings.reward.margin);
    }
    Ok(tally.metrics())
}
