//! A trainer from settings or from a checkpoint, and the checkpoint of a trainer.
//!
//! Every item is here because a run that resumed without it went another way.

use tch::Tensor;

use crate::model::{
    Architecture, Dtype, HostTensor, LoadError, MainPath, Model, Normalizer, Placement, Scaling, Source,
    TensorMap, check_features, host_tensor,
};
use crate::settings::{Dpo, Settings};

use super::Trainer;
use super::arrivals::Arrivals;
use super::learn::{Gradients, Objective};
use super::optimizer::{Adam, MainOptimizer};
use super::price::Price;
use super::progressive::{RunningMean, Window};
use super::references::References;
use super::reservoir::{Reservoir, Reuse};
use super::stream::StreamWatch;

const TWIN: &str = "training.twin.";
const MAIN_OPTIMIZER: &str = "training.main";
const SATISFACTION_OPTIMIZER: &str = "training.satisfaction";
const TWIN_OPTIMIZER: &str = "training.twin.main";
const COUNTS: &str = "training.counts";
const LOSSES: &str = "training.progressive.losses";

pub(super) fn create(settings: &Settings, placement: Placement) -> Trainer {
    create_as(settings, Architecture::from_settings(settings), placement)
}

/// A model of another architecture than that of the settings.
pub(super) fn create_as(settings: &Settings, architecture: Architecture, placement: Placement) -> Trainer {
    let seed = settings.model.seed;
    create_from(settings, architecture, placement, &mut Source::Seed(seed), &mut Source::Seed(seed))
        .expect("a seed gives every value")
}

/// A new trainer on the frozen backbone of these tensors. None when they do not fit, which they
/// remember.
pub(super) fn adapt(settings: &Settings, placement: Placement, tensors: &mut TensorMap) -> Option<Trainer> {
    let seed = settings.model.seed;
    let scaling = Scaling::load_any(settings.features.dense.len(), tensors);
    let mut source = Source::Backbone { tensors, seed };
    let architecture = Architecture::from_settings(settings);
    let trainer = create_from(settings, architecture, placement, &mut source, &mut Source::Seed(seed));
    Some(Trainer { normalizer: Normalizer::frozen(&scaling?), ..trainer? })
}

/// A new trainer with the model of one source, and what its twin has of its own of the other.
fn create_from(
    settings: &Settings,
    architecture: Architecture,
    placement: Placement,
    of_model: &mut Source,
    of_twin: &mut Source,
) -> Option<Trainer> {
    let train = &settings.train;
    let model = Model::load(&architecture, train.embedding_std, of_model, placement)?;
    let twin = load_twin(&model, &architecture, train.embedding_std, of_twin, placement)?;
    let reservoir = Reservoir::new(
        train.reservoir_pairs,
        train.reservoir_batch_pairs,
        reuse(settings),
        settings.model.seed,
    );
    Some(Trainer {
        normalizer: Normalizer::new(architecture.dense.len(), train.normalizer_views),
        reward: settings.reward.clone(),
        placement,
        objective: Objective::new(train),
        price: Price::new(train),
        main_optimizer: MainOptimizer::new(&model.main, train),
        satisfaction_adam: Adam::new(&model.satisfaction.group, train.lora_learning_rate),
        twin_optimizer: MainOptimizer::new(&twin, train),
        model,
        twin,
        reservoir,
        behavior: Window::new("behavior", train.progressive_pairs),
        preference: Arrivals::new(Window::new("preference", train.progressive_pairs)),
        losses: Default::default(),
        references: References::new(&architecture, settings.gate.window),
        watch: StreamWatch::new(&settings.gate, &architecture.dense),
        warmup_steps: settings.gate.warmup_steps,
        architecture,
        steps: 0,
        groups_learned: 0,
    })
}

fn load_twin(
    model: &Model,
    architecture: &Architecture,
    embedding_std: f64,
    source: &mut Source,
    placement: Placement,
) -> Option<MainPath> {
    match architecture.frozen_backbone {
        true => MainPath::beside(&model.main, architecture, source, placement),
        false => MainPath::load(architecture, embedding_std, source, placement),
    }
}

/// Compares the frozen backbone with these tensors; what differs or does not fit, they remember.
pub(super) fn check_backbone(trainer: &Trainer, tensors: &mut TensorMap) {
    let dtypes = [Dtype::F32, Dtype::F64];
    let scaling = trainer.normalizer.scaling(Dtype::F64);
    let statistics = scaling.save(Dtype::F64).into_iter();
    let learned: Vec<_> = trainer.model.main.save_learned("").into_iter().map(|tensor| tensor.name).collect();
    let constants = trainer.model.main.save("").into_iter().filter(|tensor| !learned.contains(&tensor.name));
    for own in constants.chain(statistics) {
        let shape: Vec<_> = own.shape.iter().copied().map(Some).collect();
        let Some(other) = tensors.take(&own.name, &dtypes, &shape) else { continue };
        let rounded = |values: Option<Vec<f64>>| -> Vec<f64> {
            let values = values.unwrap_or_default().into_iter();
            match trainer.placement.dtype {
                Dtype::F32 => values.map(|value| f64::from(value as f32)).collect(),
                _ => values.collect(),
            }
        };
        if rounded(own.to_f64()) != rounded(other.to_f64()) {
            tensors.fault(format!("{} has other values than the model was trained with", own.name));
        }
    }
}

/// A new trainer, everything in it replaced by what was saved. None when the tensors do not fit,
/// which they remember: all items are tried, so that every fault is named.
pub(super) fn restore(settings: &Settings, placement: Placement, tensors: &mut TensorMap) -> Option<Trainer> {
    restore_as(settings, Architecture::from_settings(settings), placement, tensors)
}

/// A model of another architecture than that of the settings.
pub(super) fn restore_as(
    settings: &Settings,
    architecture: Architecture,
    placement: Placement,
    tensors: &mut TensorMap,
) -> Option<Trainer> {
    let mut trainer = create_as(settings, architecture.clone(), placement);
    let dense = architecture.dense.len();
    let mut source = Source::Tensors { tensors, prefix: "" };
    let model = Model::load(&architecture, 0.0, &mut source, placement);
    let mut source = Source::Tensors { tensors, prefix: TWIN };
    // On the new trainer's model where the restored one has a fault: the twin's own are still named.
    let beside = model.as_ref().unwrap_or(&trainer.model);
    let twin = load_twin(beside, &architecture, 0.0, &mut source, placement);
    // The published statistics follow from the saved sums.
    let scaling = Scaling::load(dense, placement.dtype, tensors);
    let views = if architecture.frozen_backbone { 0 } else { settings.train.normalizer_views };
    let normalizer = Normalizer::load(dense, views, tensors);
    let optimizers = [
        load_main_optimizer(&mut trainer.main_optimizer, MAIN_OPTIMIZER, &trainer.model.main, tensors),
        load_main_optimizer(&mut trainer.twin_optimizer, TWIN_OPTIMIZER, &trainer.twin, tensors),
        load_adam(&mut trainer.satisfaction_adam, SATISFACTION_OPTIMIZER, tensors),
    ];
    let counts = tensors.take_i64(COUNTS, Some(2));
    let steps = counts.as_ref().map_or(0, |counts| counts[0].cast_unsigned());
    let reservoir =
        trainer.reservoir.load(tensors, steps, |view| check_features(&architecture, Some(view)).is_ok());
    let behavior = trainer.behavior.load(tensors);
    let preference = trainer.preference.load(tensors);
    let price = trainer.price.load(tensors);
    let watch = trainer.watch.clone().load(tensors);
    let losses = tensors.take(LOSSES, &[Dtype::F64], &[Some(3)]);

    scaling?;
    optimizers.into_iter().collect::<Option<()>>()?;
    let (losses, counts) = (losses?.to_f64()?, counts?);
    Some(Trainer {
        model: model?,
        twin: twin?,
        normalizer: normalizer?,
        reservoir: reservoir?,
        behavior: behavior?,
        preference: preference?,
        price: price?,
        watch: watch?,
        losses: std::array::from_fn(|i| RunningMean::from_saved(losses[i])),
        steps: counts[0] as u64,
        groups_learned: counts[1] as u64,
        ..trainer
    })
}

/// A new trainer with the parameters of `map`, which holds `tensors`, for the model and for the twin.
/// None when they do not fit, which `map` remembers.
pub(super) fn begin_with(
    settings: &Settings,
    placement: Placement,
    tensors: Vec<HostTensor>,
    map: &mut TensorMap,
) -> Option<Trainer> {
    let trainer = create(settings, placement);
    let architecture = &trainer.architecture;
    let mut source = Source::Tensors { tensors: map, prefix: "" };
    let model = Model::load(architecture, 0.0, &mut source, placement);
    let scaling = Scaling::load(architecture.dense.len(), placement.dtype, map);
    let (model, scaling) = (model?, scaling?);
    let mut copies = TensorMap::new(tensors);
    let mut source = Source::Tensors { tensors: &mut copies, prefix: "" };
    let twin = load_twin(&model, architecture, 0.0, &mut source, placement)?;
    Some(Trainer { model, twin, normalizer: Normalizer::frozen(&scaling), ..trainer })
}

/// The printed form of L_DPO learns each pair once: replayed ones are memorized through the ids.
pub(super) fn reuse(settings: &Settings) -> Reuse {
    match settings.train.reservoir_reuse.parse() {
        _ if settings.train.dpo == Dpo::Pairs => Reuse::Fixed(1),
        Ok(limit) => Reuse::Fixed(limit),
        Err(_) => Reuse::Auto,
    }
}

impl Trainer {
    /// The tensors that scoring needs: the whole table of names, LoRA and satisfaction head
    /// included, ordered by name.
    pub fn serving_tensors(&self) -> Vec<HostTensor> {
        let dtype = self.placement.dtype;
        let mut tensors = self.model.save();
        tensors.extend(self.normalizer.scaling(dtype).save(dtype));
        sorted(tensors)
    }

    /// What a checkpoint carries besides, ordered by name: all names begin with `training.`.
    pub fn training_state(&self) -> Vec<HostTensor> {
        let mut tensors = self.twin.save_learned(TWIN);
        tensors.extend(save_main_optimizer(&self.main_optimizer, MAIN_OPTIMIZER, &self.model.main));
        tensors.extend(save_main_optimizer(&self.twin_optimizer, TWIN_OPTIMIZER, &self.twin));
        tensors.extend(save_adam(&self.satisfaction_adam, SATISFACTION_OPTIMIZER));
        tensors.extend(self.normalizer.save());
        tensors.extend(self.reservoir.save());
        tensors.extend([self.behavior.save(), self.preference.window().save(), self.price.save()]);
        tensors.extend(self.watch.save());
        let losses = self.losses.map(RunningMean::to_saved);
        tensors.push(HostTensor::from_f64(LOSSES, vec![3], &losses));
        tensors.push(HostTensor::from_i64(COUNTS, &[self.steps as i64, self.groups_learned as i64]));
        sorted(tensors)
    }
}

pub(super) fn save_adam(adam: &Adam, prefix: &str) -> Vec<HostTensor> {
    let moment = |name: &str, moment: &Tensor| {
        host_tensor(format!("{prefix}.adam.{name}"), vec![moment.numel()], moment)
    };
    let steps = HostTensor::from_i64(format!("{prefix}.adam.steps"), &[adam.steps]);
    vec![moment("m", &adam.m), moment("v", &adam.v), steps]
}

/// Into `adam`, whose moments have the right size. None when the tensors do not fit.
fn load_adam(adam: &mut Adam, prefix: &str, tensors: &mut TensorMap) -> Option<()> {
    let m = load_like(&mut adam.m, &format!("{prefix}.adam.m"), tensors);
    let v = load_like(&mut adam.v, &format!("{prefix}.adam.v"), tensors);
    adam.steps = tensors.take_i64(&format!("{prefix}.adam.steps"), Some(1))?[0];
    m.and(v)
}

fn accumulator_names(prefix: &str, path: &MainPath) -> Vec<String> {
    path.table_names().iter().map(|table| format!("{prefix}.adagrad.{table}")).collect()
}

pub(super) fn save_main_optimizer(
    optimizer: &MainOptimizer,
    prefix: &str,
    path: &MainPath,
) -> Vec<HostTensor> {
    let mut tensors = save_adam(&optimizer.adam, prefix);
    let accumulators = accumulator_names(prefix, path).into_iter().zip(&optimizer.adagrad.accumulators);
    tensors.extend(accumulators.map(|(name, sum)| host_tensor(name, vec![sum.numel()], sum)));
    tensors
}

fn load_main_optimizer(
    optimizer: &mut MainOptimizer,
    prefix: &str,
    path: &MainPath,
    tensors: &mut TensorMap,
) -> Option<()> {
    let mut loaded = load_adam(&mut optimizer.adam, prefix, tensors);
    for (name, sum) in accumulator_names(prefix, path).iter().zip(&mut optimizer.adagrad.accumulators) {
        loaded = load_like(sum, name, tensors).and(loaded);
    }
    loaded
}

/// Overwrites a vector with the saved one of the same size and type.
fn load_like(vector: &mut Tensor, name: &str, tensors: &mut TensorMap) -> Option<()> {
    let dtype = if vector.kind() == tch::Kind::Double { Dtype::F64 } else { Dtype::F32 };
    let values = tensors.take(name, &[dtype], &[Some(vector.numel())])?.to_f64()?;
    vector.copy_(&Tensor::from_slice(&values).to_kind(vector.kind()));
    Some(())
}

pub(super) fn sorted(mut tensors: Vec<HostTensor>) -> Vec<HostTensor> {
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Gradients under the names of what they are gradients of.
pub(super) fn name_gradients(model: &Model, gradients: &Gradients) -> Vec<HostTensor> {
    let mut named = Vec::new();
    if let Some(main) = &gradients.main {
        named.extend(model.main.group.split(&main.flat));
        let rows = model.main.table_names().iter().zip(&main.rows);
        named.extend(rows.map(|(name, rows)| {
            let shape = rows.size().iter().map(|&size| size as usize).collect();
            host_tensor(name.clone(), shape, rows)
        }));
    }
    if let Some(satisfaction) = &gradients.satisfaction {
        named.extend(model.satisfaction.group.split(satisfaction));
    }
    sorted(named)
}

/// The behavior-only twin of a checkpoint as a serving version of its own, for
/// [`Scorer`](crate::model::Scorer): evaluation compares the two. LoRA, which the twin does not
/// have, is zero in it.
///
/// # Errors
/// `checkpoint` lacks the twin's tensors.
pub fn behavior_only_tensors(checkpoint: &[HostTensor]) -> Result<Vec<HostTensor>, LoadError> {
    let mut missing = Vec::new();
    let mut tensors = Vec::new();
    // A twin on a frozen backbone has a head of its own and no more.
    let is_frozen = !checkpoint.iter().any(|tensor| tensor.name == format!("{TWIN}projection.weight"));
    for tensor in checkpoint.iter().filter(|tensor| !tensor.name.starts_with("training.")) {
        let mut tensor = tensor.clone();
        let name = &tensor.name;
        let is_backbone = name.starts_with("embeddings.")
            || ["projection.weight", "projection.bias"].contains(&name.as_str());
        if name.starts_with("main.") || (is_backbone && !is_frozen) {
            let twin = format!("{TWIN}{name}");
            match checkpoint.iter().find(|tensor| tensor.name == twin) {
                Some(twin) => tensor.data = twin.data.clone(),
                None => missing.push(twin),
            }
        } else if name == "projection.lora_B.weight" {
            tensor.data = vec![0; tensor.data.len()].into();
        }
        tensors.push(tensor);
    }
    if missing.is_empty() { Ok(tensors) } else { Err(LoadError { missing, ..Default::default() }) }
}
