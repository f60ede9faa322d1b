//! The published model against its behavior-only twin, on lists that nothing was trained on.

use std::path::Path;

use super::error::DemoError;
use super::report::HeldOut;
use crate::contract::v1::{HeldOutList, Manifest};
use crate::evaluate::held_out::rank_lists;
use crate::model::{Architecture, Scorer};
use crate::publish::files;
use crate::publish::page_reader::PageReader;
use crate::settings::Settings;
use crate::simulate::World;
use crate::train::behavior_only_tensors;

/// As many as in the model's prototype.
const LISTS: usize = 1500;

/// Ranks held-out lists with the model in `version_dir`, as a ranker loads it from its files, and
/// with the twin in the training state of the same version, which must be a checkpoint.
///
/// # Errors
/// When either cannot be loaded, or the world gives no lists.
pub(super) fn judge(
    settings: &Settings,
    world: &World,
    version_dir: &Path,
    checkpoint: &Manifest,
) -> Result<HeldOut, DemoError> {
    let lists: Vec<HeldOutList> = world.held_out_lists(LISTS);
    let file = |source| DemoError::File { path: version_dir.to_owned(), source };
    let manifest = files::read_manifest(version_dir).map_err(file)?;
    let architecture = Architecture::from_manifest(
        &manifest.features.unwrap_or_default(),
        &manifest.shape.unwrap_or_default(),
    );
    let tensors = files::read_tensors(&version_dir.join(files::MODEL)).map_err(file)?;
    let production = Scorer::from_tensors(&architecture, tensors)?;
    let mut pages = PageReader::new(settings, "demo twin")?;
    let state = pages.load(checkpoint, |_| true)?;
    let twin = Scorer::from_tensors(&architecture, behavior_only_tensors(&state)?)?;
    Ok(HeldOut::of(
        manifest.version,
        rank_lists(&production, &lists, &settings.reward)?,
        rank_lists(&twin, &lists, &settings.reward)?,
    ))
}
