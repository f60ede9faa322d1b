//! Why `easq train` wrote nothing.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::summary::Dropped;
use crate::contract::samples::SampleError;
use crate::train::{BadBatches, TrainError};

#[derive(Debug, Error)]
pub enum TrainFileError {
    #[error("--output {}: it is not empty, and a model is never written over; name a folder that is not there", path.display())]
    OutputInUse { path: PathBuf },
    #[error(
        "{argument} {}: its parameters are {found} and --dtype says {wanted}; leave --dtype out to go on in the \
         precision that they have", path.display()
    )]
    OtherPrecision { argument: &'static str, path: PathBuf, found: &'static str, wanted: &'static str },
    #[error("{argument} {}: it was trained with other settings of {sections}; set them back", path.display())]
    OtherModel { argument: &'static str, path: PathBuf, sections: String },
    #[error("{argument} {}: {source}", path.display())]
    Init { argument: &'static str, path: PathBuf, source: TrainError },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Samples(#[from] SampleError),
    #[error("'{}', sample {number}: a held-out list is there to be evaluated on (easq evaluate), not to be learned", path.display())]
    HeldOut { path: PathBuf, number: u64 },
    #[error("'{}', sample {number}: it is neither a group nor a pair; a newer easq may have written it", path.display())]
    UnknownSample { path: PathBuf, number: u64 },
    #[error("'{}' holds nothing that could be learned{}", path.display(), Dropped(dropped))]
    NothingLearned { path: PathBuf, dropped: super::summary::Reasons },
    #[error(transparent)]
    BadBatches(#[from] BadBatches),
    #[error(
        "tensor '{tensor}' has a value that is not finite: nothing was written; a smaller train.learning_rate may help"
    )]
    NotFinite { tensor: String },
    #[error("interrupted before the end of the samples: nothing was written")]
    Interrupted,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl TrainFileError {
    /// For `map_err` of what is done with a file or folder.
    pub(super) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether it was a person who ended it (exit code 4).
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    /// Whether the arguments are at fault (exit code 2), not the run.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::OutputInUse { .. }
                | Self::OtherPrecision { .. }
                | Self::OtherModel { .. }
                | Self::Samples(SampleError::Extension { .. })
        )
    }
}
