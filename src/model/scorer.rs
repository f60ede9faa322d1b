//! Scoring with given tensors: what a ranker does.

use tch::{Device, Kind, no_grad};

use crate::contract::v1;

use super::parameters::Source;
use super::{
    Architecture, DropReason, Dtype, EncodedViews, HostTensor, LoadError, Model, Placement, Scaling,
    TensorMap, check_features,
};

/// A view cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("view {index} cannot be scored: {reason}")]
pub struct ScoreError {
    /// Position in the slice that was handed over.
    pub index: usize,
    /// What is wrong with its features.
    pub reason: DropReason,
}

/// The served score ŷ of views; runs on the CPU in the dtype of the tensors (F32 or F64).
pub struct Scorer {
    architecture: Architecture,
    scaling: Scaling,
    model: Model,
    placement: Placement,
}

impl Scorer {
    /// `tensors` are exactly those of a serving version; training state (names below `training.`)
    /// is passed over, so a checkpoint's tensors serve as well.
    ///
    /// # Errors
    /// Names every tensor that is missing, not part of the model, or of another dtype or shape.
    pub fn from_tensors(
        architecture: &Architecture,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<Scorer, LoadError> {
        let serving = tensors.into_iter().filter(|tensor| !tensor.name.starts_with("training."));
        let mut tensors = TensorMap::new(serving);
        let placement = Placement { dtype: tensors.precision(), device: Device::Cpu };
        let scaling = Scaling::load(architecture.dense.len(), placement.dtype, &mut tensors);
        let mut source = Source::Tensors { tensors: &mut tensors, prefix: "" };
        let model = Model::load(architecture, 0.0, &mut source, placement);
        tensors.finish()?;
        let (scaling, model) = scaling.zip(model).expect("tensors without a fault make a model");
        Ok(Scorer { architecture: architecture.clone(), scaling, model, placement })
    }

    /// ŷ of each view, in the order given.
    ///
    /// # Errors
    /// The first view whose features do not fit the model or are not finite.
    pub fn score(&self, views: &[&v1::Features]) -> Result<Vec<f64>, ScoreError> {
        if views.is_empty() {
            return Ok(Vec::new());
        }
        for (index, features) in views.iter().enumerate() {
            check_features(&self.architecture, Some(features))
                .map_err(|reason| ScoreError { index, reason })?;
        }
        let encoded = EncodedViews::new(&self.architecture, &self.scaling, views);
        let tensors = encoded.upload(self.placement.kind(), self.placement.device);
        let score = no_grad(|| self.model.score(&tensors.input(&self.model.main.tables)).score);
        let mut values = vec![0.0; views.len()];
        score.to_kind(Kind::Double).copy_data(&mut values, views.len());
        Ok(values)
    }

    /// The precision that the tensors had.
    pub fn dtype(&self) -> Dtype {
        self.placement.dtype
    }
}
