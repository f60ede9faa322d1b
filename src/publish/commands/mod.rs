//! `easq follow`, `easq model` and `easq score`: their arguments and what they do.

mod follow;
mod list;
mod pin;
mod score;

use thiserror::Error;

use crate::model::{LoadError, ScoreError};

use super::error::PublishError;

pub use follow::{FollowArgs, follow};
pub use list::{ModelCommand, model};
pub use score::{ScoreArgs, score};

/// Why one of these commands could not do what it was asked.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("version {version} of model '{model}' is not in the registry: `easq model list` shows what is")]
    NoVersion { model: String, version: u64 },
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
