//! The service around [`crate::train`]: samples in, versions out.

use thiserror::Error;

use crate::settings::Settings;
use crate::supervise::StopToken;

/// Why the trainer ended before it was asked to.
#[derive(Debug, Error)]
pub enum TrainerError {
    #[error("another trainer of model '{model}' took over")]
    Fenced { model: String },
}

impl TrainerError {
    /// Whether another instance took over, so that a restart is right (exit code 3).
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}

/// Trains the model that the settings name until `stop`, then publishes a checkpoint and leaves the
/// group. Blocks the calling thread.
pub fn run(_settings: &Settings, _stop: StopToken) -> Result<(), TrainerError> {
    todo!()
}
