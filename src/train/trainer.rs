//! The training state and its one transition, a step.

use crate::contract::v1;
use crate::model::{HostTensor, LoadError};
use crate::settings::Settings;

use super::report::{BadBatch, Offered, StepReport};

/// The trainer cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("train.device = \"{value}\": {problem}")]
    Device { value: String, problem: String },
    #[error("the checkpoint cannot be resumed: {0}")]
    Load(#[from] LoadError),
}

/// Model, behavior-only twin, optimizers, label reservoir and progressive figures.
pub struct Trainer {}

impl Trainer {
    /// A new model, drawn from `model.seed` alone.
    ///
    /// # Errors
    /// `train.device` is unknown or not there.
    pub fn new(_settings: &Settings) -> Result<Trainer, TrainError> {
        todo!()
    }

    /// Goes on from a checkpoint: all its tensors, those of serving and those of training. On the
    /// CPU with one thread what follows is bit for bit what would have followed without the break.
    ///
    /// # Errors
    /// As [`Trainer::new`]; or the tensors do not fit the settings, every fault named.
    pub fn restore(_settings: &Settings, _tensors: Vec<HostTensor>) -> Result<Trainer, TrainError> {
        todo!()
    }

    /// Scores a first-seen pair for the progressive figures, then puts it into the reservoir.
    pub fn offer_pair(&mut self, _pair: &v1::PreferencePair) -> Offered {
        todo!()
    }

    /// Whether [`offer_pair`](Self::offer_pair) would answer [`Offered::Full`].
    pub fn is_full(&self) -> bool {
        todo!()
    }

    /// Scores a main batch, then learns from it and from pairs drawn from the reservoir. Without
    /// groups only the drawn pairs are learned.
    ///
    /// # Errors
    /// [`BadBatch`]: skipped whole, the samples of this batch are not learned.
    pub fn step(&mut self, _groups: &[v1::BehaviorGroup]) -> Result<StepReport, BadBatch> {
        todo!()
    }

    /// Steps taken since the model began.
    pub fn steps(&self) -> u64 {
        todo!()
    }

    pub fn behavior_groups_learned(&self) -> u64 {
        todo!()
    }

    /// Distinct pairs that have been drawn at least once.
    pub fn preference_pairs_learned(&self) -> u64 {
        todo!()
    }

    /// The tensors that scoring needs: the whole table of names, LoRA and satisfaction head
    /// included, ordered by name.
    pub fn serving_tensors(&self) -> Vec<HostTensor> {
        todo!()
    }

    /// What a checkpoint carries besides, ordered by name: all names begin with `training.`.
    pub fn training_state(&self) -> Vec<HostTensor> {
        todo!()
    }

    /// Test, then train: figures over the last `train.progressive_pairs` pairs of either kind.
    pub fn progressive(&self) -> v1::ProgressiveMetrics {
        todo!()
    }
}

/// The behavior-only twin of a checkpoint as a serving version of its own, for
/// [`Scorer`](crate::model::Scorer): evaluation compares the two.
///
/// # Errors
/// `checkpoint` lacks the twin's tensors.
pub fn behavior_only_tensors(_checkpoint: &[HostTensor]) -> Result<Vec<HostTensor>, LoadError> {
    todo!()
}
