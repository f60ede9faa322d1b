//! Scoring with given tensors: what a ranker does.

use crate::contract::v1;

use super::{Architecture, HostTensor, LoadError};

/// A view cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("view {index} cannot be scored: {reason}")]
pub struct ScoreError {
    /// Position in the slice that was handed over.
    pub index: usize,
    pub reason: String,
}

/// The served score ŷ of views; runs on the CPU in the dtype of the tensors (F32 or F64).
pub struct Scorer {}

impl Scorer {
    /// `tensors` are exactly those of a serving version; training state (names below `training.`)
    /// is passed over, so a checkpoint's tensors serve as well.
    ///
    /// # Errors
    /// Names every tensor that is missing, not part of the model, or of another dtype or shape.
    pub fn from_tensors(
        _architecture: &Architecture,
        _tensors: Vec<HostTensor>,
    ) -> Result<Scorer, LoadError> {
        todo!()
    }

    /// ŷ of each view, in the order given.
    ///
    /// # Errors
    /// The first view whose features do not fit the model or are not finite.
    pub fn score(&self, _features: &[&v1::Features]) -> Result<Vec<f64>, ScoreError> {
        todo!()
    }
}
