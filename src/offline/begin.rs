//! What training begins with.

use std::path::Path;

use super::args::Args;
use super::error::TrainFileError;
use crate::model::{Dtype, HostTensor};
use crate::publish::folder::Folder;
use crate::publish::{TRAINING_PREFIX, files, manifest};
use crate::settings::Settings;
use crate::train::Trainer;

/// A trainer before its first sample of the file.
pub struct Begun {
    pub trainer: Trainer,
    /// Greatest event time among the samples that it has learned.
    pub event_time_watermark_ms: i64,
}

/// A new trainer, or the one that `args.init` holds.
pub fn begin(settings: &Settings, args: &Args) -> Result<Begun, TrainFileError> {
    let wanted = args.dtype.map(|precision| precision.dtype());
    let backbone =
        files::read_backbone(settings).map_err(TrainFileError::file(Path::new(&settings.model.backbone)))?;
    let Some(init) = &args.init else {
        let dtype = wanted.unwrap_or(Dtype::F32);
        let trainer = match backbone {
            Some(backbone) => Trainer::adapting(settings, dtype, backbone),
            None => Trainer::with_dtype(settings, dtype),
        };
        return Ok(Begun { trainer: trainer?, event_time_watermark_ms: 0 });
    };
    let begun = take_up(settings, init)?;
    if let Some(backbone) = backbone {
        let failed = |source| TrainFileError::Init { path: init.clone(), source };
        begun.trainer.check_backbone(backbone).map_err(failed)?;
    }
    let found = begun.trainer.dtype();
    match wanted.filter(|wanted| *wanted != found) {
        Some(wanted) => Err(TrainFileError::OtherPrecision {
            path: init.clone(),
            found: found.as_str(),
            wanted: wanted.as_str(),
        }),
        None => Ok(begun),
    }
}

fn take_up(settings: &Settings, init: &Path) -> Result<Begun, TrainFileError> {
    let in_folder = init.parent().unwrap_or(Path::new("")).to_owned();
    let is_state = init.file_name().is_some_and(|name| name == files::TRAINING);
    let (folder, tensors) = if init.is_dir() {
        let folder = Folder::version(init);
        let tensors = files::read_folder(&folder);
        (folder, tensors)
    } else if is_state {
        let tensors = files::read_folder(&in_folder);
        (in_folder, tensors)
    } else {
        (in_folder, files::read_tensors(init))
    };
    let tensors = tensors.map_err(TrainFileError::file(init))?;
    // A file alone does not say what its model was, but for the shapes.
    let beside = folder.join(files::MANIFEST);
    let described = match beside.exists() {
        true => Some(files::read_manifest(&folder).map_err(TrainFileError::file(&beside))?),
        false => None,
    };
    if let Some(sections) = described.as_ref().and_then(|found| manifest::unlike_sections(found, settings)) {
        return Err(TrainFileError::OtherModel { path: init.to_owned(), sections });
    }
    let failed = |source| TrainFileError::Init { path: init.to_owned(), source };
    if tensors.iter().any(is_training_state) {
        let trainer = Trainer::restore(settings, tensors).map_err(failed)?;
        let event_time_watermark_ms = described.map_or(0, |found| found.event_time_watermark_ms);
        Ok(Begun { trainer, event_time_watermark_ms })
    } else {
        let trainer = Trainer::from_parameters(settings, tensors).map_err(failed)?;
        Ok(Begun { trainer, event_time_watermark_ms: 0 })
    }
}

fn is_training_state(tensor: &HostTensor) -> bool {
    tensor.name.starts_with(TRAINING_PREFIX)
}
