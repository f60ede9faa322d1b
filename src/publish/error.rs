//! What can go wrong between tensors and a version that others can load.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kafka::ownership::OwnershipError;
use crate::kafka::reader::ReadError;
use crate::kafka::topics::TopicsError;
use crate::kafka::transaction::TransactionError;

use super::manifest::ManifestError;
use super::pages::PageError;

/// Of what kind the fault is that kept a follower from taking a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The pointer names a version that the registry does not hold.
    NoManifest,
    /// The manifest does not decode, or contradicts itself.
    WrongManifest,
    /// The manifest is of a format that this program does not know: upgrade it.
    NewerFormat,
    /// The manifest names another model.
    OtherModel,
    /// A page is not in the log any more, was never committed, or has no content.
    MissingPage,
    /// A page or tensor has another length or SHA-256 than the manifest says.
    WrongPage,
    /// The version could not be written to the folder.
    Disk,
    /// Anything else, for example rights that are not granted.
    Other,
}

impl Refusal {
    /// The label of `easq_follower_refused_versions_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoManifest => "no_manifest",
            Self::WrongManifest => "wrong_manifest",
            Self::NewerFormat => "newer_format",
            Self::OtherModel => "other_model",
            Self::MissingPage => "missing_page",
            Self::WrongPage => "wrong_page",
            Self::Disk => "disk",
            Self::Other => "other",
        }
    }
}

impl From<&ManifestError> for Refusal {
    fn from(error: &ManifestError) -> Self {
        match error {
            ManifestError::NewerFormat { .. } => Self::NewerFormat,
            ManifestError::WrongModel { .. } => Self::OtherModel,
            _ => Self::WrongManifest,
        }
    }
}

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
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error("no answer from '{topic}' about the page at offset {offset} within {seconds} s")]
    PageTimeout { topic: String, offset: i64, seconds: u64 },
    #[error(
        "'{topic}' holds or held version {version} of model '{model}', which so has its first version: choose another \
         name, or delete the two topics of that model"
    )]
    NotFirst { model: String, topic: String, version: u64 },
    #[error("another process owns model '{model}', a trainer or one that publishes it: stop it first")]
    Owned { model: String },
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
    #[error(
        "pages have up to {page_bytes} bytes (publish.page_bytes), and '{topic}' takes records of {limit} at most: lower \
         that, or raise the topic's max.message.bytes"
    )]
    PageTooLarge { page_bytes: usize, topic: String, limit: u64 },
    #[error(
        "the manifest of version {version} names {pages} pages and has up to {bytes} bytes, and '{topic}' takes records \
         of {limit} at most: raise its max.message.bytes, or publish.page_bytes ({page_bytes}) so that there are \
         fewer pages"
    )]
    ManifestTooLarge { version: u64, bytes: u64, pages: usize, page_bytes: usize, topic: String, limit: u64 },
    #[error("the thread that owns the model cannot start: {0}")]
    Thread(std::io::Error),
    #[error("{}: another follower keeps this folder; give each its own", path.display())]
    FolderTaken { path: PathBuf },
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

    /// Whether it only says that a stop came before the end of something.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(
            self,
            Self::Transaction(TransactionError::Stopped { .. }) | Self::Read(ReadError::Stopped { .. })
        )
    }

    /// Of what kind the fault is that keeps a follower from taking a version; `None` for an outage.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            _ if self.is_outage() => None,
            Self::Manifest(fault) => Some(fault.into()),
            Self::Page(PageError::Missing { .. }) | Self::Read(ReadError::OffsetGone { .. }) => {
                Some(Refusal::MissingPage)
            }
            Self::Page(_) | Self::Read(ReadError::Unreadable { .. }) => Some(Refusal::WrongPage),
            Self::File { .. } => Some(Refusal::Disk),
            _ => Some(Refusal::Other),
        }
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
