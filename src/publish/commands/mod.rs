//! `easq follow`, `easq model list|show` and `easq score`: their arguments and what they do.

mod follow;
mod list;
mod score;

use thiserror::Error;

pub use follow::{FollowArgs, follow};
pub use list::{ListArgs, ModelCommand, ShowArgs, model};
pub use score::{ScoreArgs, score};

/// Why one of these commands could not do what it was asked.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error(transparent)]
    Publish(#[from] super::error::PublishError),
}
