//! What can go wrong between tensors and a version that others can load.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kafka::reader::ReadError;
use crate::kafka::topics::TopicsError;
use crate::kafka::transaction::TransactionError;

use super::manifest::ManifestError;
use super::pages::PageError;

/// Why a version was not published, or could not be loaded.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum PublishError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    #[error(transparent)]
    Topics(#[from] TopicsError),
    #[error("no answer from '{topic}' about the page at offset {offset} within {seconds} s")]
    PageTimeout { topic: String, offset: i64, seconds: u64 },
    #[error("model '{model}' is owned by another trainer now: restart to stand by")]
    NotOwned { model: String },
    #[error(
        "version {version} could not be committed in {attempts} attempts; the last was refused: {reason}"
    )]
    Attempts { version: u64, attempts: u32, reason: String },
    #[error(
        "versions/{version} in '{topic}' cannot be used: {reason}; to go on without it, write a tombstone for that key"
    )]
    UnusableVersion { version: u64, topic: String, reason: ManifestError },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl PublishError {
    /// For `map_err` of what is done with a file or folder.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether brokers gave no answer, which passes by itself.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Read(ReadError::Unavailable { .. }) | Self::PageTimeout { .. })
    }

    /// True when another trainer took over, so that a restart is right (exit code 3).
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::NotOwned { .. } => true,
            Self::Transaction(error) => error.is_fenced(),
            _ => false,
        }
    }
}
