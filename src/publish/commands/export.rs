//! `easq model export`: one version as a folder, without a follower.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::CommandError;
use super::list::kind;
use crate::contract::v1;
use crate::publish::error::PublishError;
use crate::publish::page_reader::PageReader;
use crate::publish::registry::{PIN, PRODUCTION, Registry, RegistryReader};
use crate::publish::{TRAINING_PREFIX, files};
use crate::settings::Settings;
use crate::supervise::StopToken;

/// A version of a model, as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    Number(u64),
    Production,
    Pin,
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            PRODUCTION => Ok(Self::Production),
            PIN => Ok(Self::Pin),
            number => number.parse().map(Self::Number).map_err(|_| "a version's number, production or pin"),
        }
    }
}

/// Which version, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// The version's number, `production` or `pin` [default: what readers follow, pin, else production; with
    /// --checkpoint the newest checkpoint].
    pub version: Option<Named>,
    /// Folder for the version; must not be there, or be empty. It appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// The training state besides, which checkpoints have: `easq train --init DIR` goes on from it.
    #[arg(long)]
    pub checkpoint: bool,
}

/// Writes the files that a follower keeps of a version, every digest checked.
pub fn export(
    settings: &Settings,
    args: &ExportArgs,
    stop: &StopToken,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let output = &args.output;
    if !files::is_free(output).map_err(PublishError::file(output))? {
        return Err(CommandError::OutputInUse { path: output.clone() });
    }
    let registry = RegistryReader::open(settings, "model command", stop)?.registry;
    let manifest = match args.version {
        None if args.checkpoint => newest_checkpoint(settings, &registry)?,
        named => find(settings, &registry, named)?,
    };
    let version = manifest.version;
    if args.checkpoint && manifest.kind() != v1::VersionKind::Checkpoint {
        let checkpoints =
            registry.versions.values().filter(|found| found.kind() == v1::VersionKind::Checkpoint);
        let checkpoints = listed(checkpoints.map(|found| found.version));
        let model = settings.model.name.clone();
        return Err(CommandError::NoTrainingState { model, version, checkpoints });
    }
    let wanted = |name: &str| args.checkpoint || !name.starts_with(TRAINING_PREFIX);
    let tensors = PageReader::new(settings, "model export")?.load(&manifest, wanted)?;
    files::write_folder(output, &manifest, &tensors, &[]).map_err(PublishError::file(output))?;
    let (model, kind) = (&settings.model.name, kind(&manifest));
    writeln!(out, "{}: version {version} of model '{model}' ({kind})", output.display())?;
    Ok(())
}

/// That from which training would go on now.
fn newest_checkpoint(settings: &Settings, registry: &Registry) -> Result<Arc<v1::Manifest>, CommandError> {
    let pointer = "checkpoint whose values are finite";
    let nothing = || CommandError::NothingPointed { model: settings.model.name.clone(), pointer };
    registry.newest_checkpoint().cloned().ok_or_else(nothing)
}

/// The manifest of a version that the registry holds.
pub(super) fn find(
    settings: &Settings,
    registry: &Registry,
    named: Option<Named>,
) -> Result<Arc<v1::Manifest>, CommandError> {
    let model = || settings.model.name.clone();
    let nothing = |pointer| CommandError::NothingPointed { model: model(), pointer };
    let number = |pointer: &Option<v1::VersionPointer>| pointer.as_ref().map(|pointer| pointer.version);
    let version = match named {
        Some(Named::Number(version)) => version,
        Some(Named::Production) => number(&registry.production).ok_or_else(|| nothing(PRODUCTION))?,
        Some(Named::Pin) => number(&registry.pin).ok_or_else(|| nothing(PIN))?,
        None => registry.followed().ok_or_else(|| nothing("production or pin"))?,
    };
    if let Some(reason) = registry.unusable.get(&version) {
        return Err(CommandError::UnusableVersion { model: model(), version, reason: reason.clone() });
    }
    let found = registry.versions.get(&version).cloned();
    let held = || listed(registry.versions.keys().copied());
    found.ok_or_else(|| CommandError::NoVersion { model: model(), version, held: held() })
}

/// Ascending numbers in words: `3 to 9, 11`.
fn listed(numbers: impl Iterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let words = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_listed_in_runs() {
        let list = |numbers: &[u64]| listed(numbers.iter().copied());
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&[4]), "4");
        assert_eq!(list(&[1, 3, 4, 7, 8, 9, 12]), "1, 3, 4, 7 to 9, 12");
    }

    #[test]
    fn a_version_has_a_number_or_one_of_two_names() {
        assert_eq!("12".parse(), Ok(Named::Number(12)));
        assert_eq!("production".parse(), Ok(Named::Production));
        assert_eq!("pin".parse(), Ok(Named::Pin));
        assert!("newest".parse::<Named>().is_err() && "-1".parse::<Named>().is_err());
    }
}
