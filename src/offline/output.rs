//! The folder with the model.

use std::path::Path;

use super::error::TrainFileError;
use super::learning::Learning;
use crate::contract::v1;
use crate::model::HostTensor;
use crate::publish::pages::{KnownPages, PagePlan};
use crate::publish::{files, manifest};
use crate::settings::Settings;

/// Refuses a folder that holds something, before anything is learned.
pub fn check_free(dir: &Path) -> Result<(), TrainFileError> {
    match files::is_free(dir).map_err(TrainFileError::file(dir))? {
        true => Ok(()),
        false => Err(TrainFileError::OutputInUse { path: dir.to_owned() }),
    }
}

/// The parameters and the training state.
///
/// # Errors
/// A value is not finite.
pub fn tensors(learning: &Learning) -> Result<Vec<HostTensor>, TrainFileError> {
    let mut tensors = learning.trainer().serving_tensors();
    tensors.extend(learning.trainer().training_state());
    match tensors.iter().find(|tensor| !tensor.is_finite()) {
        Some(broken) => Err(TrainFileError::NotFinite { tensor: broken.name.clone() }),
        None => Ok(tensors),
    }
}

/// Writes what was learned, and beside it the files `more`, by name and content.
pub fn write(
    settings: &Settings,
    learning: &Learning,
    dir: &Path,
    more: &[(&str, &[u8])],
) -> Result<(), TrainFileError> {
    let tensors = tensors(learning)?;
    let manifest = manifest(settings, learning, &tensors);
    files::write_folder(dir, &manifest, &tensors, more).map_err(TrainFileError::file(dir))
}

/// A version of no registry: it has no number, no parent and no offsets, and says not when it was
/// written, so that the same samples give the same bytes. Its pages are numbered, not placed.
fn manifest(settings: &Settings, learning: &Learning, tensors: &[HostTensor]) -> v1::Manifest {
    let trainer = learning.trainer();
    let plan = PagePlan::new(tensors, settings.publish.page_bytes, &KnownPages::default());
    let numbers: Vec<i64> = (0..).take(plan.writes.len()).collect();
    v1::Manifest {
        format: manifest::FORMAT,
        model: settings.model.name.clone(),
        kind: v1::VersionKind::Checkpoint.into(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        event_time_watermark_ms: learning.event_time_watermark_ms(),
        step: trainer.steps(),
        behavior_groups_learned: trainer.behavior_groups_learned(),
        preference_pairs_learned: trainer.preference_pairs_learned(),
        features: Some(trainer.architecture().feature_schema()),
        shape: Some(trainer.architecture().model_shape()),
        tensors: plan.placed(&numbers),
        progressive: Some(trainer.progressive()),
        ..v1::Manifest::default()
    }
}
