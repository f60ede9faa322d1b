//! `easq model seed`: a first version from a folder, for a trainer to go on from.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use super::CommandError;
use crate::contract::v1::{self, LearnedRange, SkippedRange, VersionKind};
use crate::kafka::reader::{LogReader, ReadError};
use crate::model::HostTensor;
use crate::publish::error::PublishError;
use crate::publish::pages::sha256;
use crate::publish::{Candidate, TRAINING_PREFIX, empty_registry, files, manifest, publish_first};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::train::{RESERVOIR_SOURCES, Trainer};

/// How long one question to the brokers may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const BEFORE: &str = "older than the place at which the model was told to begin (easq model seed)";

/// Where a trainer begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    Latest,
    Earliest,
    At(Timestamp),
}

impl FromStr for StartAt {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "latest" => Ok(Self::Latest),
            "earliest" => Ok(Self::Earliest),
            time => time
                .parse()
                .map(Self::At)
                .map_err(|_| "latest, earliest or a time with its zone, as in 2026-01-31T06:00:00Z"),
        }
    }
}

/// What the first version is, and where its trainer goes on.
#[derive(Debug, Clone, clap::Args)]
pub struct SeedArgs {
    /// Folder with the training state: of `easq backfill --output`, of `easq train`, or of `easq model
    /// export --checkpoint`.
    pub dir: PathBuf,
    /// From where on the trainer reads behavior groups and preference pairs: their ends as they are now
    /// (latest), all that there is (earliest), or what the joiner has written from a time on. What lies
    /// before is a gap in the lineage.
    #[arg(long, value_name = "latest|earliest|TIME", default_value = "latest")]
    pub start: StartAt,
}

/// Publishes the model of a folder as the first version of the model that the settings name.
pub fn seed(
    settings: &Settings,
    args: &SeedArgs,
    stop: &StopToken,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let (described, mut tensors) = read(settings, &args.dir)?;
    // The pairs that wait there come from other logs than those that its trainer reads.
    tensors.retain(|tensor| tensor.name != RESERVOIR_SOURCES);
    check_trainer(settings, &args.dir, &tensors)?;
    empty_registry(settings, stop)?;
    let candidate = Candidate {
        kind: VersionKind::Checkpoint,
        tensors,
        inputs: inputs(settings, args.start).map_err(PublishError::from)?,
        event_time_watermark_ms: described.event_time_watermark_ms,
        step: described.step,
        behavior_groups_learned: described.behavior_groups_learned,
        preference_pairs_learned: described.preference_pairs_learned,
        progressive: described.progressive.unwrap_or_default(),
        ..Candidate::default()
    };
    let version = publish_first(settings, candidate, stop)?.version;
    writeln!(out, "version {version} of model '{}' is {}", settings.model.name, args.dir.display())?;
    Ok(())
}

/// The checkpoint of a folder, every digest checked.
fn read(settings: &Settings, dir: &Path) -> Result<(v1::Manifest, Vec<HostTensor>), CommandError> {
    let refused = |reason: String| CommandError::NoSeed { path: dir.to_owned(), reason };
    let described = files::read_manifest(dir).map_err(PublishError::file(&dir.join(files::MANIFEST)))?;
    let tensors = files::read_folder(dir).map_err(PublishError::file(dir))?;
    if let Some(sections) = manifest::unlike_sections(&described, settings) {
        return Err(refused(format!("it was trained with other settings of {sections}; set them back")));
    }
    if !tensors.iter().any(|tensor| tensor.name.starts_with(TRAINING_PREFIX)) {
        let remedy = "`easq model export` leaves it out without --checkpoint, and a follower does always";
        return Err(refused(format!("it has no training state ({}): {remedy}", files::TRAINING)));
    }
    let is_there = |named: &&v1::Tensor| tensors.iter().any(|tensor| tensor.name == named.name);
    if let Some(missing) = described.tensors.iter().find(|named| !is_there(named)) {
        return Err(refused(format!("tensor '{}' of its {} is missing", missing.name, files::MANIFEST)));
    }
    for tensor in &tensors {
        let named = described.tensors.iter().find(|named| named.name == tensor.name);
        if !named.is_some_and(|named| is_described(tensor, named)) {
            return Err(refused(format!("tensor '{}' is not that of its {}", tensor.name, files::MANIFEST)));
        }
        if !tensor.is_finite() {
            return Err(refused(format!("tensor '{}' has a value that is not finite", tensor.name)));
        }
    }
    Ok((described, tensors))
}

fn is_described(tensor: &HostTensor, named: &v1::Tensor) -> bool {
    tensor.dtype.as_str() == named.dtype
        && tensor.shape.iter().map(|&size| size as u64).eq(named.shape.iter().copied())
        && sha256(&tensor.data)[..] == named.sha256[..]
}

/// Whether a trainer can go on from what would be published.
fn check_trainer(settings: &Settings, dir: &Path, tensors: &[HostTensor]) -> Result<(), CommandError> {
    let refused = |reason: String| CommandError::NoSeed { path: dir.to_owned(), reason };
    let backbone = files::read_backbone(settings);
    let backbone = backbone.map_err(PublishError::file(Path::new(&settings.model.backbone)))?;
    let unfit = |reason: &dyn std::fmt::Display| refused(format!("no trainer can go on from it: {reason}"));
    let trainer = Trainer::restore(settings, tensors.iter().cloned()).map_err(|error| unfit(&error))?;
    if let Some(backbone) = backbone {
        trainer.check_backbone(backbone).map_err(|error| unfit(&error))?;
    }
    Ok(())
}

/// Where the lineage begins in the two topics that a trainer reads.
fn inputs(settings: &Settings, start: StartAt) -> Result<Vec<LearnedRange>, ReadError> {
    let reader = LogReader::new(&settings.kafka, "model command")?;
    let mut inputs = Vec::new();
    for topic in [&settings.topics.behavior_groups, &settings.topics.preference_pairs] {
        let topic_id = reader.topic_id(topic, ANSWER_WITHIN)?.unwrap_or_default();
        let partitions = reader.partitions(topic)?;
        let since = match start {
            StartAt::At(time) => reader.offsets_at(topic, 0..partitions, time.as_millisecond())?,
            StartAt::Latest | StartAt::Earliest => Vec::new(),
        };
        for partition in 0..partitions {
            let (low, high) = reader.watermarks(topic, partition)?;
            let since = since.get(partition.unsigned_abs() as usize).copied().flatten();
            let next_offset = match start {
                StartAt::Earliest => low,
                StartAt::Latest | StartAt::At(_) => since.unwrap_or(high).clamp(low, high),
            };
            let gap = SkippedRange { from_offset: 0, to_offset: next_offset, reason: BEFORE.to_owned() };
            inputs.push(LearnedRange {
                topic: topic.clone(),
                partition,
                next_offset,
                gaps: if next_offset > 0 { vec![gap] } else { Vec::new() },
                topic_id: topic_id.clone(),
                ..LearnedRange::default()
            });
        }
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trainer_begins_at_either_end_or_at_a_time_with_its_zone() {
        assert_eq!("latest".parse(), Ok(StartAt::Latest));
        assert_eq!("earliest".parse(), Ok(StartAt::Earliest));
        let time = Timestamp::from_second(2).expect("a time");
        assert_eq!("1970-01-01T00:00:02Z".parse(), Ok(StartAt::At(time)));
        for wrong in ["", "now", "1970-01-01T00:00:02"] {
            assert!(wrong.parse::<StartAt>().is_err(), "{wrong}");
        }
    }
}
