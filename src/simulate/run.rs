//! `easq simulate`: the world's records to Kafka, or its joined samples to a file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use prost::DecodeError;
use thiserror::Error;

use super::args::Args;
use super::config::WorldError;
use super::faults::Delivery;
use super::produce::{ProduceOptions, Produced, produce};
use super::samples::{write_held_out, write_samples};
use super::truth::TruthFile;
use super::world::World;
use crate::contract::samples::SampleError;
use crate::join::JoinFault;
use crate::kafka::producer::ProduceError;
use crate::kafka::reader::ReadError;
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::Progress;

/// Views between two changes of the progress.
const SHOWN_VIEWS: u64 = 500;

#[derive(Debug, Error)]
pub enum SimulateError {
    #[error("{argument} = {value}: must be {allowed}")]
    Argument { argument: &'static str, value: String, allowed: &'static str },
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(
        "'{behavior}' has {behavior_partitions} partitions and '{responses}' {responses_partitions}: both \
         need as many, create them with `easq topics create`"
    )]
    UnlikePartitions {
        behavior: String,
        behavior_partitions: i32,
        responses: String,
        responses_partitions: i32,
    },
    #[error("the number of partitions cannot be asked for: {0}")]
    Topics(#[from] ReadError),
    #[error(transparent)]
    Produce(#[from] ProduceError),
    #[error("the samples cannot be written: {0}")]
    Samples(#[from] SampleError),
    #[error("--held-out and --samples both name '{}': a stream that is learned holds no held-out list", path.display())]
    SameFile { path: PathBuf },
    #[error(
        "this world has {found} of the {wanted} held-out lists asked for: too few of its views satisfy, or too many"
    )]
    Lists { found: usize, wanted: usize },
    #[error("the join refuses the stream: {0}")]
    Join(#[from] JoinFault),
    #[error("the join emitted what the contract does not know: {0}")]
    Output(#[from] DecodeError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl SimulateError {
    pub(super) fn argument(argument: &'static str, value: f64, allowed: &'static str) -> Self {
        Self::Argument { argument, value: value.to_string(), allowed }
    }

    pub(super) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// Whether the arguments are at fault (exit code 2), not the run.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Argument { .. }
                | Self::World(_)
                | Self::SameFile { .. }
                | Self::Samples(SampleError::Extension { .. })
        )
    }
}

/// Writes the stream that `args` describe, or as much of it as there is time for before `stop`.
/// Blocks the calling thread.
///
/// # Errors
/// When an argument is out of range, or the records cannot be written.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), SimulateError> {
    let plan = args.plan(settings, Timestamp::now())?;
    if let Some(path) = args.held_out.as_ref().filter(|path| args.samples.as_ref() == Some(*path)) {
        return Err(SimulateError::SameFile { path: path.clone() });
    }
    let world = World::new(plan.world)?;
    let mut truth = args.truth.as_deref().map(TruthFile::create).transpose()?;
    if let Some(path) = &args.held_out {
        write_held_out(&world, args.lists as usize, path)?;
    }
    let mut progress = Progress::new(world.config().views, "views");
    let began = Instant::now();
    let mut show = |_: &Delivery, produced: &Produced| {
        if produced.views.is_multiple_of(SHOWN_VIEWS) {
            progress.set(produced.views, summary(produced, began));
        }
    };
    let produced = if let Some(path) = &args.samples {
        write_samples(settings, &world, args.faults, path, truth.as_mut(), &mut show, stop)?
    } else {
        let options =
            ProduceOptions { faults: args.faults, duration: plan.duration, record_time: args.record_time };
        produce(settings, &world, options, truth.as_mut(), &mut show, stop)?
    };
    progress.set(produced.views, summary(&produced, began));
    progress.finish();
    truth.map_or(Ok(()), TruthFile::finish)
}

fn summary(produced: &Produced, began: Instant) -> String {
    let rate = produced.views as f64 / began.elapsed().as_secs_f64().max(1e-3);
    let faults: u64 = produced.faults.values().sum();
    format!("{rate:.0}/s, {} answers, {faults} faults", produced.responses)
}
