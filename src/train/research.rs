//! Baselines and an ablation that the method is compared with. They learn the same stream by the same
//! optimizers and the same label reservoir; they have no twin, no price and no checkpoints.
//!
//! In all of them the main path is `ŷ = head_main(h)`, without LoRA. With the drawn preference pairs
//! (⁺, ⁻) and a weight `w`:
//!
//! ```text
//! behavior-only      L = L_main
//! same-path-pairs    L = L_main + w · mean softplus(−(ŷ⁺ − ŷ⁻))
//! same-path-reward   an answer is a reward of ± w: a drawn pair is a behavior pair with
//!                    Δ = (reward⁺ + w) − (reward⁻ − w); L is one mean over all of both kinds
//! imputation         a tower of its own, ŝ = head_satisfaction(sg(x) Wsᵀ + bs), learns L_satis; from the
//!                    first draw on L_main has the rewards reward + w · sg(ŝ)
//! no-lora            ŝ = head_satisfaction(h), nothing stopped: L = L_main + λ1 L_satis + λ2 L_DPO (live form)
//! ```

use std::collections::BTreeMap;

use tch::{Kind, Tensor, no_grad};

use crate::contract::v1;
use crate::model::{
    Architecture, DropReason, Dtype, EncodedViews, Head, HostTensor, MainPath, Normalizer, ParameterGroup,
    Placement, ScoreDifferences, Source, TensorMap, ViewTensors, check_features, live_labels, reward,
    satisfaction_head_specs, satisfaction_loss, tower_specs, upload,
};
use crate::settings::{self, Settings};

use super::TrainError;
use super::driver::Learner;
use super::groups::MainBatch;
use super::learn::{Batch, Pairs, flatten, gather, leaves, main_gradients, run_backward};
use super::optimizer::{Adam, MainOptimizer};
use super::report::{BadBatch, Offered, PairSource};
use super::reservoir::{Draw, Reservoir, StoredPair};
use super::state::{reuse, save_adam, save_main_optimizer, sorted};
use super::trainer::{check_no_backbone, placement};

/// What a [`Baseline`] learns from.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the module says what each is")]
pub enum Method {
    BehaviorOnly,
    SamePathPairs { weight: f64 },
    SamePathReward { weight: f64 },
    Imputation { weight: f64 },
    NoLora { dpo_weight: f64 },
}

impl Method {
    /// Whether drawn pairs teach the main path.
    fn joins_drawn(self) -> bool {
        matches!(self, Self::SamePathPairs { .. } | Self::SamePathReward { .. } | Self::NoLora { .. })
    }
}

/// The satisfaction path beside the main one.
struct Tower {
    group: ParameterGroup,
    head: Head,
    adam: Adam,
    /// Ws and bs, the first leaves of the group; none where the main path's projection serves both.
    has_projection: bool,
}

/// A model that learns by one of the [`Method`]s.
pub struct Baseline {
    method: Method,
    architecture: Architecture,
    reward: settings::Reward,
    satisfaction_weight: f64,
    placement: Placement,
    main: MainPath,
    optimizer: MainOptimizer,
    tower: Option<Tower>,
    normalizer: Normalizer,
    reservoir: Reservoir,
    /// Δ without the answers, reward⁺ − reward⁻, of the pairs that were offered.
    reward_differences: BTreeMap<PairSource, f64>,
}

/// The losses of a step, unweighted; None where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MethodLosses {
    /// L_main; of `same-path-reward` the mean over drawn pairs too.
    pub main: Option<f64>,
    /// L_satis
    pub satisfaction: Option<f64>,
    /// L_DPO
    pub dpo: Option<f64>,
    /// The mean over the drawn pairs of `same-path-pairs`.
    pub same_path: Option<f64>,
}

/// What a step learns from.
struct Terms {
    losses: MethodLosses,
    total: Tensor,
    teaches_main: bool,
    teaches_tower: bool,
}

impl Baseline {
    /// A new model, drawn from `model.seed` alone: its main path is that of [`super::Trainer`].
    ///
    /// # Errors
    /// As [`super::Trainer::new`].
    pub fn new(settings: &Settings, method: Method, dtype: Dtype) -> Result<Baseline, TrainError> {
        check_no_backbone(settings)?;
        let placement = placement(settings, dtype)?;
        let baseline = Self::load(settings, method, &mut Source::Seed(settings.model.seed), placement);
        Ok(baseline.expect("a seed gives every value"))
    }

    /// With these parameters: exactly those of [`Baseline::tensors`], but for the normalizer's.
    ///
    /// # Errors
    /// As [`Baseline::new`]; or the tensors do not fit, every fault named.
    pub fn from_tensors(
        settings: &Settings,
        method: Method,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<Baseline, TrainError> {
        let mut tensors = TensorMap::new(tensors);
        let placement = placement(settings, tensors.precision())?;
        let mut source = Source::Tensors { tensors: &mut tensors, prefix: "" };
        let baseline = Self::load(settings, method, &mut source, placement);
        tensors.finish()?;
        Ok(baseline.expect("tensors without a fault make a model"))
    }

    fn load(
        settings: &Settings,
        method: Method,
        source: &mut Source,
        placement: Placement,
    ) -> Option<Baseline> {
        let train = &settings.train;
        let architecture = Architecture::from_settings(settings);
        let main = MainPath::load(&architecture, train.embedding_std, source, placement)?;
        let specs = match method {
            Method::Imputation { .. } => Some((tower_specs(&architecture), true)),
            Method::NoLora { .. } => Some((satisfaction_head_specs(&architecture), false)),
            _ => None,
        };
        let tower = match specs {
            None => None,
            Some((specs, has_projection)) => {
                let group = ParameterGroup::load(specs, source, placement.dtype, placement.device)?;
                let head = Head::new(group.leaves(), architecture.gated);
                let adam = Adam::new(&group, train.lora_learning_rate);
                Some(Tower { group, head, adam, has_projection })
            }
        };
        let reservoir = Reservoir::new(
            train.reservoir_pairs,
            train.reservoir_batch_pairs,
            reuse(settings),
            settings.model.seed,
        );
        Some(Baseline {
            method,
            reward: settings.reward.clone(),
            satisfaction_weight: train.satisfaction_weight,
            placement,
            optimizer: MainOptimizer::new(&main, train),
            main,
            tower,
            normalizer: Normalizer::new(architecture.dense.len(), train.normalizer_views),
            architecture,
            reservoir,
            reward_differences: BTreeMap::new(),
        })
    }

    /// Fixes the statistics of the dense features.
    ///
    /// # Panics
    /// There are not as many as dense features.
    pub fn freeze_normalizer(&mut self, mean: &[f64], std: &[f64]) {
        assert_eq!((mean.len(), std.len()), (self.architecture.dense.len(), self.architecture.dense.len()));
        let scaling = crate::model::Scaling { mean: mean.to_vec(), std: std.to_vec() };
        self.normalizer = Normalizer::frozen(&scaling);
    }

    /// Puts a pair into the reservoir. `source` tells it from all others.
    pub fn offer_pair(&mut self, pair: &v1::PreferencePair, source: PairSource) -> Offered {
        let usable = |view: &Option<v1::LabelledView>| {
            let view = view.as_ref().and_then(|labelled| labelled.view.as_ref());
            let view = view.ok_or(DropReason::IncompletePair)?;
            let features = check_features(&self.architecture, view.features.as_ref())?.clone();
            let engagement = view.engagement.clone().unwrap_or_default();
            // Only one method reads the rewards; the others learn a pair without.
            Ok((features, reward(&self.reward, &engagement).unwrap_or(0.0)))
        };
        if self.method == Method::BehaviorOnly {
            // Nobody draws it, and a full reservoir would close main batches that others leave open.
            return Offered::Taken;
        }
        match (usable(&pair.chosen), usable(&pair.rejected)) {
            (Err(reason), _) | (_, Err(reason)) => Offered::Dropped(reason),
            _ if self.reservoir.is_full() => Offered::Full,
            (Ok((chosen, reward)), Ok((rejected, other))) => {
                self.reward_differences.insert(source, reward - other);
                self.reservoir.push(StoredPair::new(chosen, rejected, source, 0));
                Offered::Taken
            }
        }
    }

    /// Learns from a main batch, and from pairs drawn from the reservoir.
    ///
    /// # Errors
    /// A gradient is not finite: nothing of what it is the gradient of was changed.
    pub fn step(&mut self, groups: &[v1::BehaviorGroup]) -> Result<MethodLosses, BadBatch> {
        let mut main = MainBatch::new(&self.architecture, &self.reward, groups);
        main.views.iter().for_each(|features| self.normalizer.observe(&features.dense));
        let scaling = self.normalizer.scaling(self.placement.dtype);
        let draw = match self.method {
            Method::BehaviorOnly => Draw::default(),
            _ => self.reservoir.draw(),
        };
        let drawn = self.reservoir.views(&draw);
        let joins = self.method.joins_drawn();
        let mut batch = Batch::new(&self.architecture, &scaling, self.placement, joins, &main, &drawn);
        self.impute(&mut main, &mut batch);
        let rows = gather(&self.main, &batch.model().index);
        let Some(terms) = self.terms(&rows, &main, &batch, &draw) else {
            return Ok(MethodLosses::default());
        };
        let bad = |what| BadBatch {
            what,
            groups: main.groups,
            drawn_pairs: draw.positions.len(),
            lost_pairs: Vec::new(),
            lost_pairs_without_source: 0,
            dropped: main.dropped.clone(),
        };
        let of_main = if terms.teaches_main { leaves(&self.main, &rows) } else { Vec::new() };
        let of_tower = self.tower.iter().filter(|_| terms.teaches_tower);
        let of_tower = of_tower.flat_map(|tower| tower.group.leaves());
        let all: Vec<&Tensor> = of_main.iter().copied().chain(of_tower).collect();
        let mut gradients = run_backward(&terms.total, &all);
        let of_tower = gradients.split_off(of_main.len());
        if terms.teaches_main {
            let gradients = main_gradients(&self.main, gradients, &batch.model().index);
            let norm = gradients.flat.norm().double_value(&[]);
            if !norm.is_finite() {
                return Err(bad("the gradient of the main path"));
            }
            self.optimizer.step(&mut self.main, &gradients, norm);
        }
        if let Some(tower) = self.tower.as_mut().filter(|_| terms.teaches_tower) {
            let gradient = flatten(&of_tower);
            if !gradient.norm().double_value(&[]).is_finite() {
                return Err(bad("the gradient of the tower"));
            }
            tower.adam.step(&mut tower.group, &gradient);
        }
        Ok(terms.losses)
    }

    /// Adds what the tower thinks of the views to their rewards.
    fn impute(&self, main: &mut MainBatch, batch: &mut Batch) {
        let (Method::Imputation { weight }, Some(tower)) = (self.method, &self.tower) else { return };
        let has_learned = tower.adam.steps > 0 || batch.drawn.is_some();
        let (true, Some(views)) = (has_learned, &batch.model().views) else { return };
        let imputed = no_grad(|| {
            let rows = gather(&self.main, &batch.model().index);
            self.satisfaction(tower, &views.input(&rows))
        });
        let mut satisfaction = vec![0.0; main.views.len()];
        imputed.to_kind(Kind::Double).copy_data(&mut satisfaction, main.views.len());
        let rewards: Vec<f64> =
            main.rewards.iter().zip(satisfaction).map(|(reward, s)| reward + weight * s).collect();
        main.prefer_by(&rewards, self.reward.margin);
        batch.pairs = Pairs::new(main, self.placement);
    }

    /// ŝ of x [n, k]
    fn satisfaction(&self, tower: &Tower, x: &Tensor) -> Tensor {
        let hidden = match tower.has_projection {
            true => x.detach().linear(&tower.group.leaves()[0], Some(&tower.group.leaves()[1])),
            false => self.main.project(x),
        };
        tower.head.forward(&hidden).score
    }

    /// None where nothing is to be learned.
    fn terms(&self, rows: &[Tensor], main: &MainBatch, batch: &Batch, draw: &Draw) -> Option<Terms> {
        let Pairs { left, right, right_is_better, weight, .. } = &batch.pairs;
        let behavior_pairs = main.behavior_pairs();
        let score = |x: &Tensor| self.main.head(&self.main.project(x)).score;
        let views = batch.model().views.as_ref().map(|views| views.input(rows));
        let differences = views.as_ref().map(|x| ScoreDifferences::new(&score(x), left, right));
        let main_loss = differences.as_ref().filter(|_| behavior_pairs > 0);
        let main_loss = main_loss.map(|differences| differences.main_loss(right_is_better, weight));
        let drawn = batch.drawn.as_ref().map(|drawn| match self.method.joins_drawn() {
            true => drawn.input(rows),
            false => no_grad(|| drawn.input(&self.main.tables)),
        });
        let mut terms = [main_loss, None, None, None];
        let [of_main, of_tower, of_dpo, same_path] = &mut terms;
        let mut weights = [1.0, self.satisfaction_weight, 0.0, 0.0];
        match (self.method, &drawn) {
            (Method::BehaviorOnly, _)
            | (Method::SamePathPairs { .. } | Method::SamePathReward { .. }, None) => {}
            (Method::SamePathPairs { weight }, Some(x)) => {
                *same_path = Some(satisfaction_loss(&score(x)));
                weights[3] = weight;
            }
            (Method::SamePathReward { weight }, Some(x)) => {
                let (sum, pairs) = self.reward_pairs(&score(x), draw, weight);
                let all = (behavior_pairs + pairs) as f64;
                let of_views = of_main.take().map(|loss| loss * (behavior_pairs as f64 / all));
                let of_pairs = (pairs > 0).then(|| sum / all);
                *of_main = of_views.into_iter().chain(of_pairs).reduce(|sum, term| sum + term);
            }
            (Method::Imputation { .. }, x) => {
                let tower = self.tower.as_ref()?;
                *of_tower = x.as_ref().map(|x| satisfaction_loss(&self.satisfaction(tower, x)));
            }
            (Method::NoLora { dpo_weight }, x) => {
                let tower = self.tower.as_ref()?;
                if let (Some(x), Some(differences)) = (&views, &differences)
                    && (tower.adam.steps > 0 || drawn.is_some())
                    && dpo_weight != 0.0
                {
                    let labels = no_grad(|| live_labels(&self.satisfaction(tower, x), left, right));
                    *of_dpo = Some(differences.dpo_live(&labels));
                    weights[2] = dpo_weight;
                }
                *of_tower = x.as_ref().map(|x| satisfaction_loss(&self.satisfaction(tower, x)));
            }
        }
        let teaches_tower = of_tower.is_some();
        let shares_projection = matches!(self.method, Method::NoLora { .. });
        let teaches_main = of_main.is_some()
            || of_dpo.is_some()
            || same_path.is_some()
            || (teaches_tower && shares_projection);
        let value = |loss: &Option<Tensor>| loss.as_ref().map(|loss| loss.double_value(&[]));
        let [main, satisfaction, dpo, same_path] = [0, 1, 2, 3].map(|index| value(&terms[index]));
        let losses = MethodLosses { main, satisfaction, dpo, same_path };
        let weighted = terms.into_iter().zip(weights).filter_map(|(loss, weight)| Some(loss? * weight));
        let total = weighted.reduce(|sum, term| sum + term)?;
        Some(Terms { losses, total, teaches_main, teaches_tower })
    }

    /// Sum of softplus over the drawn pairs that differ in reward once the answers count, and their
    /// number. `score` [2m]: chosen, then rejected views.
    fn reward_pairs(&self, score: &Tensor, draw: &Draw, weight: f64) -> (Tensor, usize) {
        let of_pair = |source: Option<PairSource>| {
            let known = source.and_then(|source| self.reward_differences.get(&source));
            let difference = known.copied().unwrap_or(0.0) + 2.0 * weight;
            if difference.abs() > self.reward.margin { difference.signum() } else { 0.0 }
        };
        let directions: Vec<f64> = self.reservoir.sources(draw).into_iter().map(of_pair).collect();
        let counted = directions.iter().filter(|direction| **direction != 0.0).count();
        let directions =
            upload(&Tensor::from_slice(&directions), self.placement.kind(), self.placement.device);
        let pairs = score.size()[0] / 2;
        let lead = score.narrow(0, 0, pairs) - score.narrow(0, pairs, pairs);
        let costs = (lead * -&directions).softplus() * directions.abs();
        (costs.sum(None::<Kind>), counted)
    }

    /// All parameters and the statistics of the dense features, ordered by name.
    pub fn tensors(&self) -> Vec<HostTensor> {
        let mut tensors = self.main.save("");
        tensors.extend(self.tower.iter().flat_map(|tower| tower.group.save("")));
        tensors.extend(self.normalizer.scaling(self.placement.dtype).save(self.placement.dtype));
        sorted(tensors)
    }

    /// The state of the optimizers under the names of a checkpoint.
    pub fn optimizer_state(&self) -> Vec<HostTensor> {
        let mut tensors = save_main_optimizer(&self.optimizer, "training.main", &self.main);
        tensors.extend(self.tower.iter().flat_map(|tower| save_adam(&tower.adam, "training.satisfaction")));
        sorted(tensors)
    }

    /// ŷ of each view, in the order given.
    ///
    /// # Errors
    /// Why the first view that cannot be scored cannot.
    pub fn score(&self, views: &[&v1::Features]) -> Result<Vec<f64>, DropReason> {
        score(&self.architecture, &self.normalizer, self.placement, views, |views| {
            self.main.head(&self.main.project(&views.input(&self.main.tables))).score
        })
    }
}

/// Scores views with the statistics of now.
pub(super) fn score(
    architecture: &Architecture,
    normalizer: &Normalizer,
    placement: Placement,
    views: &[&v1::Features],
    forward: impl FnOnce(&ViewTensors) -> Tensor,
) -> Result<Vec<f64>, DropReason> {
    for features in views {
        check_features(architecture, Some(features))?;
    }
    let scaling = normalizer.scaling(placement.dtype);
    let encoded = EncodedViews::new(architecture, &scaling, views);
    let scores = no_grad(|| forward(&encoded.upload(placement.kind(), placement.device)));
    let mut values = vec![0.0; views.len()];
    scores.to_kind(Kind::Double).to_device(tch::Device::Cpu).copy_data(&mut values, views.len());
    Ok(values)
}

impl Learner for Baseline {
    type Report = MethodLosses;

    fn offer_pair(&mut self, pair: &v1::PreferencePair, source: PairSource) -> Offered {
        Baseline::offer_pair(self, pair, source)
    }

    fn step(&mut self, groups: &[v1::BehaviorGroup]) -> Result<MethodLosses, BadBatch> {
        Baseline::step(self, groups)
    }
}
