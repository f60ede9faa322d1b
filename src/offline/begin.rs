//! What training begins with.

use std::path::Path;

use super::error::TrainFileError;
use crate::contract::v1;
use crate::model::{Dtype, HostTensor};
use crate::publish::folder::Folder;
use crate::publish::{TRAINING_PREFIX, files, manifest};
use crate::settings::Settings;
use crate::train::Trainer;

/// A trainer before its first sample.
pub struct Begun {
    pub trainer: Trainer,
    /// Greatest event time among the samples that it has learned.
    pub event_time_watermark_ms: i64,
    /// What it has learned of each input partition, as far as its manifest says so.
    pub inputs: Vec<v1::LearnedRange>,
}

/// What a person named to begin with.
pub struct Initial<'a> {
    /// The argument that named it, for errors.
    pub argument: &'static str,
    /// A folder or file; of a version in the registry only how it was named.
    pub path: &'a Path,
}

/// A new trainer.
///
/// # Errors
/// The frozen backbone of the settings does not fit, or cannot be read.
pub fn begin_anew(settings: &Settings, dtype: Option<Dtype>) -> Result<Begun, TrainFileError> {
    let dtype = dtype.unwrap_or(Dtype::F32);
    let trainer = match backbone(settings)? {
        Some(backbone) => Trainer::adapting(settings, dtype, backbone),
        None => Trainer::with_dtype(settings, dtype),
    };
    Ok(Begun { trainer: trainer?, event_time_watermark_ms: 0, inputs: Vec::new() })
}

/// The trainer that a folder or file holds.
///
/// # Errors
/// It cannot be read, or is of another model or precision.
pub fn begin_from(
    settings: &Settings,
    initial: &Initial<'_>,
    dtype: Option<Dtype>,
) -> Result<Begun, TrainFileError> {
    let path = initial.path;
    let in_folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let is_state = path.file_name().is_some_and(|name| name == files::TRAINING);
    let (folder, tensors) = if path.is_dir() {
        let folder = Folder::version(path);
        let tensors = files::read_folder(&folder);
        (folder, tensors)
    } else if is_state {
        let tensors = files::read_folder(&in_folder);
        (in_folder, tensors)
    } else {
        (in_folder, files::read_tensors(path))
    };
    let tensors = tensors.map_err(TrainFileError::file(path))?;
    // A file alone does not say what its model was, but for the shapes.
    let beside = folder.join(files::MANIFEST);
    let described = match beside.exists() {
        true => Some(files::read_manifest(&folder).map_err(TrainFileError::file(&beside))?),
        false => None,
    };
    take_up(settings, initial, tensors, described.as_ref(), dtype)
}

/// The trainer of these tensors, which `described` describes.
///
/// # Errors
/// They are of another model or precision.
pub fn take_up(
    settings: &Settings,
    initial: &Initial<'_>,
    tensors: Vec<HostTensor>,
    described: Option<&v1::Manifest>,
    dtype: Option<Dtype>,
) -> Result<Begun, TrainFileError> {
    let (argument, path) = (initial.argument, initial.path.to_owned());
    if let Some(sections) = described.and_then(|found| manifest::unlike_sections(found, settings)) {
        return Err(TrainFileError::OtherModel { argument, path, sections });
    }
    let failed = |source| TrainFileError::Init { argument, path: path.clone(), source };
    let inputs = described.map_or_else(Vec::new, |found| found.inputs.clone());
    let begun = if tensors.iter().any(is_training_state) {
        let trainer = Trainer::restore(settings, tensors).map_err(failed)?;
        let event_time_watermark_ms = described.map_or(0, |found| found.event_time_watermark_ms);
        Begun { trainer, event_time_watermark_ms, inputs }
    } else {
        let trainer = Trainer::from_parameters(settings, tensors).map_err(failed)?;
        Begun { trainer, event_time_watermark_ms: 0, inputs }
    };
    if let Some(backbone) = backbone(settings)? {
        begun.trainer.check_backbone(backbone).map_err(failed)?;
    }
    let found = begun.trainer.dtype();
    match dtype.filter(|wanted| *wanted != found) {
        Some(wanted) => Err(TrainFileError::OtherPrecision {
            argument,
            path,
            found: found.as_str(),
            wanted: wanted.as_str(),
        }),
        None => Ok(begun),
    }
}

fn backbone(settings: &Settings) -> Result<Option<Vec<HostTensor>>, TrainFileError> {
    files::read_backbone(settings).map_err(TrainFileError::file(Path::new(&settings.model.backbone)))
}

fn is_training_state(tensor: &HostTensor) -> bool {
    tensor.name.starts_with(TRAINING_PREFIX)
}
