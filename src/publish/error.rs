//! What can go wrong between tensors and a version that others can load.

use thiserror::Error;

use super::manifest::ManifestError;
use super::pages::PageError;

/// Why a version was not published, or could not be loaded.
#[derive(Debug, Error)]
pub enum PublishError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Page(#[from] PageError),
}
