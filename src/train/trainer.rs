//! The training state and its one transition, a step.

use tch::Device;

use crate::contract::v1;
use crate::model::{
    Architecture, DropReason, Dtype, EncodedViews, HostTensor, LoadError, MainPath, Model, Normalizer,
    Placement, TensorMap, check_features,
};
use crate::settings::{self, Dpo, Settings};

use super::arrivals::Arrivals;
use super::device;
use super::groups::MainBatch;
use super::learn::{Batch, Forward, Loss, Objective, TwinForward, score_pair};
use super::optimizer::{Adam, MainOptimizer};
use super::price::{self, Price};
use super::progressive::{RunningMean, Window};
use super::readback::Readback;
use super::references::References;
use super::report::{BadBatch, Offered, PairSource, ReservoirFigures, StepReport};
use super::reservoir::{Reservoir, StoredPair};
use super::results::{Computed, Norms, Results, ranked_pairs};
use super::stream::StreamWatch;

/// The trainer cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum TrainError {
    #[error("train.device = \"{value}\": {problem}")]
    Device { value: String, problem: String },
    #[error("the checkpoint cannot be resumed: {0}")]
    Load(#[from] LoadError),
    #[error("model.backbone: {0}")]
    Backbone(LoadError),
    #[error("model.backbone = \"{0}\" names tensors that are not given here")]
    NoBackbone(String),
    #[error("training cannot begin with these parameters: {0}")]
    Parameters(LoadError),
}

/// Model, behavior-only twin, optimizers, label reservoir and progressive figures.
///
/// The twin has the model's initialization and learns the same main batches by L_main alone; it is
/// never served, and shows what behavior would have been without alignment.
pub struct Trainer {
    pub(super) architecture: Architecture,
    pub(super) reward: settings::Reward,
    pub(super) placement: Placement,
    pub(super) objective: Objective,
    pub(super) price: Price,
    pub(super) model: Model,
    pub(super) main_optimizer: MainOptimizer,
    pub(super) satisfaction_adam: Adam,
    pub(super) twin: MainPath,
    pub(super) twin_optimizer: MainOptimizer,
    pub(super) normalizer: Normalizer,
    pub(super) reservoir: Reservoir,
    pub(super) references: References,
    pub(super) watch: StreamWatch,
    /// Until then neither the stream nor a version is judged.
    pub(super) warmup_steps: u64,
    pub(super) behavior: Window,
    pub(super) preference: Arrivals,
    /// L_main, L_satis, L_DPO
    pub(super) losses: [RunningMean; 3],
    pub(super) steps: u64,
    pub(super) groups_learned: u64,
}

impl Trainer {
    /// A new model, drawn from `model.seed` alone.
    ///
    /// # Errors
    /// `train.device` is unknown or not there; or `model.backbone` asks for
    /// [`adapting`](Trainer::adapting).
    pub fn new(settings: &Settings) -> Result<Trainer, TrainError> {
        Trainer::with_dtype(settings, Dtype::F32)
    }

    /// [`Trainer::new`] in F32, or in F64 to verify results against other programs.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_dtype(settings: &Settings, dtype: Dtype) -> Result<Trainer, TrainError> {
        check_no_backbone(settings)?;
        let placement = placement(settings, dtype)?;
        Ok(super::state::create(settings, placement))
    }

    /// A new model on a backbone made elsewhere (`model.backbone`): `embeddings.*`, `projection.weight`,
    /// `projection.bias`, `normalizer.mean` and `normalizer.std`, each in F32 or F64, and nothing
    /// else. These are never trained; LoRA and both heads are.
    ///
    /// # Errors
    /// As [`Trainer::new`]; or the tensors do not fit the settings, every fault named.
    pub fn adapting(
        settings: &Settings,
        dtype: Dtype,
        backbone: impl IntoIterator<Item = HostTensor>,
    ) -> Result<Trainer, TrainError> {
        let backbone: Vec<HostTensor> = backbone.into_iter().collect();
        let mut tensors = TensorMap::new(backbone.iter().cloned());
        // In the precision of training: what is finite in the file may be too large for it.
        let is_finite =
            |value: f64| if dtype == Dtype::F32 { (value as f32).is_finite() } else { value.is_finite() };
        for tensor in &backbone {
            if !tensor.to_f64().is_none_or(|values| values.into_iter().all(is_finite)) {
                tensors.fault(format!("{} has a value that is not finite", tensor.name));
            }
        }
        let trainer = super::state::adapt(settings, placement(settings, dtype)?, &mut tensors);
        tensors.finish().map_err(TrainError::Backbone)?;
        Ok(trainer.expect("tensors without a fault make a trainer"))
    }

    /// Refuses a backbone that is not the one that this model was trained on.
    ///
    /// # Errors
    /// Names every tensor that is missing, not part of it, of another shape, or has other values.
    pub fn check_backbone(&self, backbone: impl IntoIterator<Item = HostTensor>) -> Result<(), TrainError> {
        let mut tensors = TensorMap::new(backbone);
        super::state::check_backbone(self, &mut tensors);
        tensors.finish().map_err(TrainError::Backbone)
    }

    /// [`Trainer::restore`] of a model whose heads are one expert each, without a gate: an ablation.
    ///
    /// # Errors
    /// As [`Trainer::restore`].
    #[cfg(feature = "research")]
    pub fn restore_without_mixture(
        settings: &Settings,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<Trainer, TrainError> {
        let mut tensors = TensorMap::new(tensors);
        let placement = placement(settings, tensors.precision())?;
        let architecture = without_mixture(settings);
        let trainer = super::state::restore_as(settings, architecture, placement, &mut tensors);
        tensors.finish()?;
        Ok(trainer.expect("tensors without a fault make a trainer"))
    }

    /// [`Trainer::with_dtype`] of such a model.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    #[cfg(feature = "research")]
    pub fn without_mixture(settings: &Settings, dtype: Dtype) -> Result<Trainer, TrainError> {
        let placement = placement(settings, dtype)?;
        Ok(super::state::create_as(settings, without_mixture(settings), placement))
    }

    /// ŷ of each view, in the order given.
    ///
    /// # Errors
    /// Why the first view that cannot be scored cannot.
    #[cfg(feature = "research")]
    pub fn score(&self, views: &[&v1::Features]) -> Result<Vec<f64>, DropReason> {
        super::research::score(&self.architecture, &self.normalizer, self.placement, views, |views| {
            self.model.score(&views.input(&self.model.main.tables)).score
        })
    }

    /// Goes on from a checkpoint: all its tensors, those of serving and those of training, in the
    /// precision that they have. On the CPU with one thread what follows is bit for bit what would
    /// have followed without the break.
    ///
    /// # Errors
    /// As [`Trainer::new`]; or the tensors do not fit the settings, every fault named.
    pub fn restore(
        settings: &Settings,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<Trainer, TrainError> {
        let mut tensors = TensorMap::new(tensors);
        let placement = placement(settings, tensors.precision())?;
        let trainer = super::state::restore(settings, placement, &mut tensors);
        tensors.finish()?;
        Ok(trainer.expect("tensors without a fault make a trainer"))
    }

    /// A new trainer that begins with given parameters: exactly the tensors of a serving version, in
    /// the precision that they have. Optimizers, reservoir and figures are those of a new model, the
    /// twin has the same parameters, and the normalizer stays as it is given.
    ///
    /// # Errors
    /// As [`Trainer::new`]; or the tensors do not fit the settings, every fault named.
    pub fn from_parameters(
        settings: &Settings,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<Trainer, TrainError> {
        let tensors: Vec<HostTensor> = tensors.into_iter().collect();
        let mut map = TensorMap::new(tensors.iter().cloned());
        for tensor in tensors.iter().filter(|tensor| !tensor.is_finite()) {
            map.fault(format!("{} has a value that is not finite", tensor.name));
        }
        let placement = placement(settings, map.precision())?;
        let trainer = super::state::begin_with(settings, placement, tensors, &mut map);
        map.finish().map_err(TrainError::Parameters)?;
        Ok(trainer.expect("tensors without a fault make a trainer"))
    }

    /// Scores a first-seen pair for the progressive figures, then puts it into the reservoir.
    /// `source` says where it lies, and comes back in a [`BadBatch`] that loses it.
    pub fn offer_pair(&mut self, pair: &v1::PreferencePair, source: PairSource) -> Offered {
        let (chosen, rejected) = match self.pair_features(pair) {
            Ok(views) => views,
            Err(reason) => return Offered::Dropped(reason),
        };
        if self.is_full() {
            return Offered::Full;
        }
        let scaling = self.normalizer.scaling(self.placement.dtype);
        let views = EncodedViews::new(&self.architecture, &scaling, &[chosen, rejected]);
        let views = views.upload(self.placement.kind(), self.placement.device);
        self.preference.push(score_pair(&self.model, &self.twin, &views));
        let is_suspect = self.examine_pair(pair, chosen, rejected);
        self.references.settle(self.preference.take_settled());
        // A pair that ends the suspicion may find the reservoir full.
        if is_suspect || self.reservoir.is_full() {
            return Offered::HeldOut;
        }
        self.reservoir.push(StoredPair::new(chosen.clone(), rejected.clone(), source, self.steps));
        Offered::Taken
    }

    fn pair_features<'a>(
        &self,
        pair: &'a v1::PreferencePair,
    ) -> Result<(&'a v1::Features, &'a v1::Features), DropReason> {
        let features = |view: &'a Option<v1::LabelledView>| {
            let view = view.as_ref().and_then(|labelled| labelled.view.as_ref());
            let view = view.ok_or(DropReason::IncompletePair)?;
            check_features(&self.architecture, view.features.as_ref())
        };
        Ok((features(&pair.chosen)?, features(&pair.rejected)?))
    }

    /// Whether [`offer_pair`](Self::offer_pair) would answer [`Offered::Full`] to a usable pair.
    /// Never while the stream is suspect: then its pairs are scored and held out.
    pub fn is_full(&self) -> bool {
        self.reservoir.is_full() && !self.is_suspect()
    }

    /// Scores a main batch, then learns from it and from pairs drawn from the reservoir. Without
    /// groups only the drawn pairs are learned.
    ///
    /// # Errors
    /// [`BadBatch`]: skipped whole; these groups, and the pairs that it names, are not learned.
    pub fn step(&mut self, groups: &[v1::BehaviorGroup]) -> Result<StepReport, BadBatch> {
        let main = MainBatch::new(&self.architecture, &self.reward, groups);
        let mut normalizer = self.normalizer.clone();
        main.views.iter().for_each(|features| normalizer.observe(&features.dense));
        let scaling = normalizer.scaling(self.placement.dtype);
        let draw = self.reservoir.draw();
        let drawn = self.reservoir.views(&draw);
        let joins_drawn = self.objective.applies(Dpo::Pairs);
        let batch = Batch::new(&self.architecture, &scaling, self.placement, joins_drawn, &main, &drawn);

        let computed = self.compute(&batch);
        // Whether the batch is bad must be known before the next draw: here a step waits, once.
        let results = Results::fetch(&computed, &mut self.preference);
        self.references.settle(self.preference.take_settled());
        if let Some(what) = results.non_finite() {
            let lost = self.reservoir.lose(&draw);
            return Err(BadBatch {
                what,
                groups: main.groups,
                drawn_pairs: draw.positions.len(),
                lost_pairs_without_source: lost.iter().filter(|source| source.is_none()).count(),
                lost_pairs: lost.into_iter().flatten().collect(),
                dropped: main.dropped,
            });
        }

        self.references.observe_batch(&main, &results.scores);
        self.normalizer = normalizer;
        let [weight, cost] = results.price;
        self.price = self.price.moved_to(weight, cost);
        self.apply(&computed, &results.norms);
        self.steps += 1;
        self.groups_learned += main.groups as u64;
        let mut report = StepReport {
            step: self.steps,
            groups: main.groups,
            views: main.views.len(),
            behavior_pairs: main.behavior_pairs(),
            drawn_pairs: draw.positions.len(),
            drawn_new_pairs: draw.new,
            dpo_weight: weight,
            behavior_cost: cost,
            gradient_norm: results.norms.main,
            clipped: self.main_optimizer.clips(results.norms.main),
            ..Default::default()
        };
        for pair in ranked_pairs(&main, &results) {
            let (model, twin) = self.behavior.push(pair);
            report.behavior_wins += model;
            report.behavior_only_wins += twin;
        }
        report.dropped = main.dropped;
        report.too_small = main.too_small;
        results.describe(&mut report);
        for (mean, loss) in self.losses.iter_mut().zip(results.losses) {
            mean.push(loss);
        }
        Ok(report)
    }

    /// All that a step has to know, enqueued.
    fn compute(&self, batch: &Batch) -> Computed {
        let forward = Forward::new(&self.model, batch, self.objective, self.satisfaction_adam.steps > 0);
        let twin = TwinForward::new(&self.twin, batch);
        let ranks = forward.ranks.as_ref().zip(twin.as_ref().and_then(|twin| twin.ranks.as_ref()));
        let d = ranks.map(|(model, twin)| price::cost_of(model, twin, batch.behavior_pairs));
        let may_move = Price::may_move(self.steps, self.reservoir.arrived(), self.reservoir.batch_pairs());
        let price = self.price.after(d.as_ref(), may_move, self.placement.device);
        let gradients = forward.gradients(&self.model, batch, self.objective, &price.weight);
        let twin_gradients = twin.as_ref().and_then(|twin| twin.gradients(&self.twin, batch));
        Computed { forward, twin, price, gradients, twin_gradients }
    }

    fn apply(&mut self, computed: &Computed, norms: &Norms) {
        if let Some(main) = &computed.gradients.main {
            self.main_optimizer.step(&mut self.model.main, main, norms.main);
        }
        if let Some(satisfaction) = &computed.gradients.satisfaction {
            self.satisfaction_adam.step(&mut self.model.satisfaction.group, satisfaction);
        }
        if let Some(twin) = &computed.twin_gradients {
            self.twin_optimizer.step(&mut self.twin, twin, norms.twin);
        }
    }

    /// The gradient of one loss alone by every parameter, by public name: what
    /// [invariant 6](crate) is about. Embeddings are reported as the rows that the samples touch,
    /// in ascending order. `pairs` take the place of those drawn from the reservoir. None when
    /// these samples do not give that loss. Changes nothing.
    pub fn gradients_of(
        &self,
        loss: Loss,
        groups: &[v1::BehaviorGroup],
        pairs: &[v1::PreferencePair],
    ) -> Option<(f64, Vec<HostTensor>)> {
        let main = MainBatch::new(&self.architecture, &self.reward, groups);
        let pairs: Vec<_> = pairs.iter().filter_map(|pair| self.pair_features(pair).ok()).collect();
        let (chosen, rejected): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let drawn = [chosen, rejected].concat();
        let scaling = self.normalizer.scaling(self.placement.dtype);
        let joins_drawn = self.objective.applies(Dpo::Pairs);
        let batch = Batch::new(&self.architecture, &scaling, self.placement, joins_drawn, &main, &drawn);
        let forward = Forward::new(&self.model, &batch, self.objective, self.satisfaction_adam.steps > 0);
        let gradients = forward.gradients_of(loss, &self.model, &batch)?;
        let value = Readback::of(forward.loss(loss)?)[0];
        Some((value, super::state::name_gradients(&self.model, &gradients)))
    }

    /// Steps taken since the model began.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Usable groups of all good steps since the model began.
    pub fn behavior_groups_learned(&self) -> u64 {
        self.groups_learned
    }

    /// Distinct pairs that a step has learned.
    pub fn preference_pairs_learned(&self) -> u64 {
        self.reservoir.learned()
    }

    /// Pairs that the label reservoir has ever taken in.
    pub fn preference_pairs_taken(&self) -> u64 {
        self.reservoir.arrived()
    }

    /// The precision of its parameters.
    pub fn dtype(&self) -> Dtype {
        self.placement.dtype
    }

    /// What the label reservoir holds.
    pub fn reservoir(&self) -> ReservoirFigures {
        self.reservoir.figures(self.steps)
    }

    /// That of the settings, and of the checkpoint if it was restored from one.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Test, then train: figures over the last `train.progressive_pairs` pairs of either kind;
    /// losses as means over about the last 100 steps.
    pub fn progressive(&self) -> v1::ProgressiveMetrics {
        let (behavior, behavior_only) = self.behavior.win_rates();
        let arrived = self.preference.window();
        let (preference, behavior_only_preference) = arrived.win_rates();
        let [main, satisfaction, dpo] = self.losses.map(|mean| mean.0.unwrap_or(0.0));
        v1::ProgressiveMetrics {
            behavior_win_rate: behavior,
            behavior_pairs: self.behavior.pairs(),
            behavior_only_win_rate: behavior_only,
            preference_win_rate: preference,
            preference_pairs: arrived.pairs(),
            behavior_only_preference_win_rate: behavior_only_preference,
            loss_main: main,
            loss_satisfaction: satisfaction,
            loss_dpo: dpo,
        }
    }
}

#[cfg(feature = "research")]
fn without_mixture(settings: &Settings) -> Architecture {
    let architecture = Architecture::from_settings(settings);
    Architecture { gated: false, main_experts: 1, satisfaction_experts: 1, ..architecture }
}

/// Drawn, a frozen backbone would stay random for ever.
pub(super) fn check_no_backbone(settings: &Settings) -> Result<(), TrainError> {
    match settings.model.backbone.as_str() {
        "" => Ok(()),
        path => Err(TrainError::NoBackbone(path.to_owned())),
    }
}

pub(super) fn placement(settings: &Settings, dtype: Dtype) -> Result<Placement, TrainError> {
    let device = device::choose(&settings.train.device)?;
    if device == Device::Cpu {
        tch::set_num_threads(settings.train.intra_op_threads.max(1) as i32);
    }
    Ok(Placement { dtype, device })
}
