//! Why the demo did not end well.

use std::path::PathBuf;

use thiserror::Error;

use super::charts::ChartError;
use crate::evaluate::held_out::EvaluateError;
use crate::joiner::JoinerError;
use crate::kafka::embedded::EmbeddedError;
use crate::kafka::reader::ReadError;
use crate::kafka::topics::TopicsError;
use crate::model::LoadError;
use crate::publish::error::PublishError;
use crate::simulate::{SimulateError, WorldError};
use crate::trainer::TrainerError;

#[derive(Debug, Error)]
pub enum DemoError {
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error("the topics of the demo cannot be created: {0}")]
    Topics(#[from] TopicsError),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error("the world failed: {0}")]
    Simulate(#[from] SimulateError),
    #[error("the joiner failed: {0}")]
    Joiner(#[from] JoinerError),
    #[error("the trainer failed: {0}")]
    Trainer(#[from] TrainerError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the model cannot be loaded: {0}")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error(transparent)]
    Chart(#[from] ChartError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("'{topic}' partition {partition} offset {offset} is not what the contract says: {reason}")]
    Output { topic: String, partition: i32, offset: i64, reason: String },
    #[error("the follower could not load version {version}: {reason}")]
    NotLoaded { version: u64, reason: String },
    #[error("cannot start the thread '{stage}': {source}")]
    Start { stage: &'static str, source: std::io::Error },
    #[error("{stage} ended although nothing had asked it to")]
    EndedEarly { stage: &'static str },
    #[error("{stage} panicked: {message}")]
    Panicked { stage: &'static str, message: String },
    #[error("waiting until {what}: {missing} records are missing, and nothing changed for {seconds} s")]
    Stalled { what: &'static str, missing: u64, seconds: u64 },
    #[error("stopped before the end: there is no report")]
    Interrupted,
    #[error("the counts do not add up: {}", faults.join("; "))]
    NotConserved { faults: Vec<String> },
}

impl DemoError {
    /// Whether it was a person who ended it (exit code 4).
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    /// Whether the arguments or settings are at fault (exit code 2).
    pub fn is_usage(&self) -> bool {
        match self {
            Self::World(_) => true,
            Self::Simulate(error) => error.is_usage(),
            _ => false,
        }
    }
}
