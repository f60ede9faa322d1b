//! The training state and its one transition, a step.

use tch::{Device, Tensor};

use crate::contract::v1;
use crate::model::{
    Architecture, DropReason, Dtype, EncodedViews, HostTensor, LoadError, MainPath, Model, Normalizer,
    Placement, check_features,
};
use crate::settings::{self, Settings};

use super::device;
use super::groups::MainBatch;
use super::learn::{Batch, Forward, Gradients, Loss, Objective, Readback, TwinForward, score_pair};
use super::optimizer::{Adam, MainGradients, MainOptimizer};
use super::progressive::{RunningMean, Window};
use super::report::{BadBatch, Offered, PairSource, StepReport};
use super::reservoir::{Reservoir, StoredPair};

/// The trainer cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum TrainError {
    #[error("train.device = \"{value}\": {problem}")]
    Device { value: String, problem: String },
    #[error("the checkpoint cannot be resumed: {0}")]
    Load(#[from] LoadError),
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
    pub(super) model: Model,
    pub(super) main_optimizer: MainOptimizer,
    pub(super) satisfaction_adam: Adam,
    pub(super) twin: MainPath,
    pub(super) twin_optimizer: MainOptimizer,
    pub(super) normalizer: Normalizer,
    pub(super) reservoir: Reservoir,
    pub(super) behavior: Window,
    pub(super) preference: Window,
    /// L_main, L_satis, L_DPO
    pub(super) losses: [RunningMean; 3],
    pub(super) steps: u64,
    pub(super) groups_learned: u64,
}

impl Trainer {
    /// A new model, drawn from `model.seed` alone.
    ///
    /// # Errors
    /// `train.device` is unknown or not there.
    pub fn new(settings: &Settings) -> Result<Trainer, TrainError> {
        Trainer::with_dtype(settings, Dtype::F32)
    }

    /// [`Trainer::new`] in F32, or in F64 to verify results against other programs.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_dtype(settings: &Settings, dtype: Dtype) -> Result<Trainer, TrainError> {
        let placement = placement(settings, dtype)?;
        Ok(super::state::create(settings, placement))
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
        let mut tensors = crate::model::TensorMap::new(tensors);
        let placement = placement(settings, tensors.precision())?;
        let trainer = super::state::restore(settings, placement, &mut tensors);
        tensors.finish()?;
        Ok(trainer.expect("tensors without a fault make a trainer"))
    }

    /// Scores a first-seen pair for the progressive figures, then puts it into the reservoir.
    /// `source` says where it lies, and comes back in a [`BadBatch`] that loses it.
    pub fn offer_pair(&mut self, pair: &v1::PreferencePair, source: PairSource) -> Offered {
        let (chosen, rejected) = match self.pair_features(pair) {
            Ok(views) => views,
            Err(reason) => return Offered::Dropped(reason),
        };
        if self.reservoir.is_full() {
            return Offered::Full;
        }
        let scaling = self.normalizer.scaling(self.placement.dtype);
        let views = EncodedViews::new(&self.architecture, &scaling, &[chosen, rejected]);
        let views = views.upload(self.placement.kind(), self.placement.device);
        let [model, twin] = score_pair(&self.model, &self.twin, &views);
        self.preference.push(model.0 - model.1, twin.0 - twin.1);
        self.reservoir.push(StoredPair::new(chosen.clone(), rejected.clone(), source));
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
    pub fn is_full(&self) -> bool {
        self.reservoir.is_full()
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
        let batch = Batch::new(&self.architecture, &scaling, self.placement, self.objective, &main, &drawn);

        let forward = Forward::new(&self.model, &batch, self.objective, self.satisfaction_adam.steps > 0);
        let gradients = forward.gradients(&self.model, &batch, self.objective);
        let twin = TwinForward::new(&self.twin, &batch);
        let results = Results::fetch(&forward, &gradients, twin.as_ref());
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

        self.normalizer = normalizer;
        self.apply(&gradients, twin.and_then(|twin| twin.gradients), &results);
        self.steps += 1;
        self.groups_learned += main.groups as u64;
        let mut report = StepReport {
            step: self.steps,
            groups: main.groups,
            views: main.views.len(),
            behavior_pairs: main.behavior_pairs(),
            drawn_pairs: draw.positions.len(),
            drawn_new_pairs: draw.new,
            clipped: self.main_optimizer.clips(results.main_norm),
            ..Default::default()
        };
        (report.behavior_wins, report.behavior_only_wins) = self.count_wins(&main, &results);
        report.dropped = main.dropped;
        report.too_small = main.too_small;
        results.describe(&mut report);
        for (mean, loss) in self.losses.iter_mut().zip(results.losses) {
            mean.push(loss);
        }
        Ok(report)
    }

    fn apply(&mut self, gradients: &Gradients, twin: Option<MainGradients>, results: &Results) {
        if let Some(main) = &gradients.main {
            self.main_optimizer.step(&mut self.model.main, main, results.main_norm);
        }
        if let Some(satisfaction) = &gradients.satisfaction {
            self.satisfaction_adam.step(&mut self.model.satisfaction.group, satisfaction);
        }
        if let Some(twin) = &twin {
            self.twin_optimizer.step(&mut self.twin, twin, results.twin_norm);
        }
    }

    /// Behavior pairs of a batch that the scores from before its step rank right.
    fn count_wins(&mut self, main: &MainBatch, results: &Results) -> (f64, f64) {
        let mut wins = (0.0, 0.0);
        for ((&left, &right), &preferred) in main.left.iter().zip(&main.right).zip(&main.preferred) {
            if preferred != 0 {
                let difference =
                    |scores: &[f64]| f64::from(preferred) * (scores[left as usize] - scores[right as usize]);
                let (model, twin) =
                    self.behavior.push(difference(&results.scores), difference(&results.twin_scores));
                wins = (wins.0 + model, wins.1 + twin);
            }
        }
        wins
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
        let batch = Batch::new(&self.architecture, &scaling, self.placement, self.objective, &main, &drawn);
        let forward = Forward::new(&self.model, &batch, self.objective, self.satisfaction_adam.steps > 0);
        let gradients = forward.gradients_of(loss, &self.model, &batch)?;
        let value = forward.loss(loss)?.double_value(&[]);
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

    /// Pairs in the label reservoir: those never used, and those that were.
    pub fn reservoir_pairs(&self) -> (usize, usize) {
        self.reservoir.counts()
    }

    /// That of the settings, and of the checkpoint if it was restored from one.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Test, then train: figures over the last `train.progressive_pairs` pairs of either kind;
    /// losses as means over about the last 100 steps.
    pub fn progressive(&self) -> v1::ProgressiveMetrics {
        let (behavior, behavior_only) = self.behavior.win_rates();
        let (preference, behavior_only_preference) = self.preference.win_rates();
        let [main, satisfaction, dpo] = self.losses.map(|mean| mean.0.unwrap_or(0.0));
        v1::ProgressiveMetrics {
            behavior_win_rate: behavior,
            behavior_pairs: self.behavior.pairs(),
            behavior_only_win_rate: behavior_only,
            preference_win_rate: preference,
            preference_pairs: self.preference.pairs(),
            behavior_only_preference_win_rate: behavior_only_preference,
            loss_main: main,
            loss_satisfaction: satisfaction,
            loss_dpo: dpo,
        }
    }
}

fn placement(settings: &Settings, dtype: Dtype) -> Result<Placement, TrainError> {
    let device = device::choose(&settings.train.device)?;
    if device == Device::Cpu {
        tch::set_num_threads(settings.train.intra_op_threads.max(1) as i32);
    }
    Ok(Placement { dtype, device })
}

/// What a step computed, on the host.
#[derive(Debug, Default)]
struct Results {
    /// ŷ of the batch's views by model and twin.
    scores: Vec<f64>,
    twin_scores: Vec<f64>,
    /// Row-major [n, K]
    gates: Vec<f64>,
    satisfaction: Option<Vec<f64>>,
    /// L_main, L_satis, L_DPO
    losses: [Option<f64>; 3],
    twin_loss: Option<f64>,
    main_norm: f64,
    twin_norm: f64,
    /// Norms of everything else that is learned from.
    other_norms: Vec<f64>,
}

impl Results {
    fn fetch(forward: &Forward, gradients: &Gradients, twin: Option<&TwinForward>) -> Results {
        let mut readback = Readback::default();
        let scores = forward.scores.as_ref();
        let twin_gradients = twin.and_then(|twin| twin.gradients.as_ref());
        let losses = [&forward.main, &forward.satisfaction_loss, &forward.dpo];
        let mut add = |tensor: Option<&Tensor>| tensor.map(|tensor| readback.add(tensor)).is_some();
        let has_scores = add(scores.map(|output| &output.score));
        add(scores.map(|output| &output.gates));
        let has_satisfaction = add(forward.satisfaction.as_ref());
        let has_losses = losses.map(|loss| add(loss.as_ref()));
        let has_twin = add(twin.map(|twin| &twin.score));
        let has_twin_loss = add(twin.and_then(|twin| twin.loss.as_ref()));
        let flat = |gradients: Option<&MainGradients>| gradients.map(|gradients| gradients.flat.norm());
        let has_main_norm = add(flat(gradients.main.as_ref()).as_ref());
        let has_twin_norm = add(flat(twin_gradients).as_ref());
        let rows = gradients.main.iter().chain(twin_gradients).flat_map(|gradients| &gradients.rows);
        for gradient in rows.chain(&gradients.satisfaction) {
            add(Some(&gradient.norm()));
        }

        let mut fetched = readback.fetch();
        let mut next = |is_there: bool| is_there.then(|| fetched.next().unwrap_or_default());
        let scalar = |values: Option<Vec<f64>>| values.and_then(|values| values.first().copied());
        Results {
            scores: next(has_scores).unwrap_or_default(),
            gates: next(has_scores).unwrap_or_default(),
            satisfaction: next(has_satisfaction),
            losses: has_losses.map(|is_there| scalar(next(is_there))),
            twin_scores: next(has_twin).unwrap_or_default(),
            twin_loss: scalar(next(has_twin_loss)),
            main_norm: scalar(next(has_main_norm)).unwrap_or(0.0),
            twin_norm: scalar(next(has_twin_norm)).unwrap_or(0.0),
            other_norms: fetched.flatten().collect(),
        }
    }

    /// The first thing that is not finite, if there is one. A norm is finite exactly when all
    /// elements are, unless it overflows, which is as bad.
    fn non_finite(&self) -> Option<&'static str> {
        let [main, satisfaction, dpo] = self.losses.map(|loss| loss.unwrap_or(0.0));
        let named = [
            (main, "L_main"),
            (satisfaction, "L_satis"),
            (dpo, "L_DPO"),
            (self.twin_loss.unwrap_or(0.0), "the twin's L_main"),
            (self.main_norm, "the gradient of projection and main head"),
            (self.twin_norm, "the gradient of the twin"),
            (self.other_norms.iter().sum(), "the gradient of embeddings, LoRA or satisfaction head"),
        ];
        let scores = self.scores.iter().chain(&self.twin_scores).sum::<f64>();
        let named = named.into_iter().chain([(scores, "a score")]);
        named.into_iter().find(|(value, _)| !value.is_finite()).map(|(_, what)| what)
    }

    fn describe(&self, report: &mut StepReport) {
        [report.loss_main, report.loss_satisfaction, report.loss_dpo] = self.losses;
        report.gradient_norm = self.main_norm;
        (report.score_mean, report.score_min) = mean_and_min(&self.scores).unwrap_or_default();
        let satisfaction = self.satisfaction.as_deref().and_then(mean_and_min);
        report.satisfaction_mean = satisfaction.map(|(mean, _)| mean);
        report.satisfaction_min = satisfaction.map(|(_, min)| min);
        let views = self.scores.len();
        let Some(experts) = self.gates.len().checked_div(views) else { return };
        let share = |dead: usize| dead as f64 / views as f64;
        let rows = || self.gates.chunks(experts);
        report.dead_gates =
            (0..experts).map(|k| share(rows().filter(|gates| gates[k] == 0.0).count())).collect();
        report.all_gates_dead = share(rows().filter(|gates| gates.iter().all(|gate| *gate == 0.0)).count());
    }
}

fn mean_and_min(values: &[f64]) -> Option<(f64, f64)> {
    let min = values.iter().copied().reduce(f64::min)?;
    Some((values.iter().sum::<f64>() / values.len() as f64, min))
}
