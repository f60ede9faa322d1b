//! `easq follow`, `easq model` and `easq score`: their arguments and what they do.

mod export;
mod follow;
mod list;
mod pin;
mod score;
mod seed;

use thiserror::Error;

use crate::model::{LoadError, ScoreError};

use super::error::PublishError;
use super::manifest::ManifestError;

pub use follow::{FollowArgs, follow};
pub use list::{ModelCommand, model};
pub use score::{ScoreArgs, score};

/// Why one of these commands could not do what it was asked.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("version {version} of model '{model}' is not in the registry, which holds {held}")]
    NoVersion { model: String, version: u64, held: String },
    #[error("version {version} of model '{model}' cannot be used: {reason}")]
    UnusableVersion { model: String, version: u64, reason: ManifestError },
    #[error("model '{model}' has no {pointer}: `easq model list` shows its versions")]
    NothingPointed { model: String, pointer: &'static str },
    #[error(
        "version {version} of model '{model}' is no checkpoint and has no training state; checkpoints: {checkpoints}"
    )]
    NoTrainingState { model: String, version: u64, checkpoints: String },
    #[error("--output {}: it is not empty, and a model is never written over; name a folder that is not there", path.display())]
    OutputInUse { path: std::path::PathBuf },
    #[error("{}: {reason}", path.display())]
    NoSeed { path: std::path::PathBuf, reason: String },
    #[error("version {version} of model '{model}' is not pinned: {reason}")]
    NotPinned { model: String, version: u64, reason: String },
    #[error("model '{model}' has no version yet: there is no stream to accept")]
    NoStream { model: String },
    #[error(transparent)]
    Produce(#[from] crate::kafka::producer::ProduceError),
    #[error("{}: {source}", path.display())]
    Load { path: std::path::PathBuf, source: LoadError },
    #[error("{input} line {line}: {reason}")]
    Input { input: String, line: usize, reason: String },
    #[error("{input}: {reason}")]
    Samples { input: String, reason: String },
    #[error("impression '{impression_id}': {source}")]
    Score { impression_id: String, source: ScoreError },
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// Whether the arguments are at fault (exit code 2), not what was found.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::OutputInUse { .. })
    }
}
