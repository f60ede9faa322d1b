//! `easq simulate`: the world's records to Kafka, or its joined samples to a file.

use thiserror::Error;

use super::args::Args;
use super::config::WorldError;
use crate::settings::Settings;
use crate::supervise::StopToken;

#[derive(Debug, Error)]
pub enum SimulateError {
    #[error("{argument} = {value}: must be {allowed}")]
    Argument { argument: &'static str, value: String, allowed: &'static str },
    #[error(transparent)]
    World(#[from] WorldError),
}

impl SimulateError {
    pub(super) fn argument(argument: &'static str, value: f64, allowed: &'static str) -> Self {
        Self::Argument { argument, value: value.to_string(), allowed }
    }

    /// Whether the arguments are at fault (exit code 2), not the run.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Argument { .. } | Self::World(_))
    }
}

/// Writes the stream that `args` describe, or as much of it as there is time for before `stop`.
/// Blocks the calling thread.
///
/// # Errors
/// When an argument is out of range, or the records cannot be written.
pub fn run(_settings: &Settings, _args: &Args, _stop: &StopToken) -> Result<(), SimulateError> {
    todo!()
}
