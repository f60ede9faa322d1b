//! Why training ends before it was asked to.

use thiserror::Error;

use crate::kafka::ownership::OwnershipError;
use crate::kafka::reader::ReadError;
use crate::kafka::transaction::TransactionError;
use crate::publish::error::PublishError;
use crate::train::{BadBatches, TrainError};

/// Why the trainer ended before it was asked to.
#[derive(Debug, Error)]
pub enum TrainerError {
    #[error("this process has lost model '{model}' to another trainer: restart to stand by")]
    Fenced { model: String },
    #[error(
        "training of model '{model}' has made no progress for {limit_ms} ms (train.hang_timeout_ms): the model is free \
         for a trainer that stands by; restart, and look at train.device if it comes again; raise the setting if one \
         step may take that long"
    )]
    Hung { model: String, limit_ms: u64 },
    #[error(
        "publishing of model '{model}' has made no progress for {limit_ms} ms (train.hang_timeout_ms, and the time within \
         which each call to the brokers comes back, whether they are there or not): the model is free for a trainer that \
         stands by; restart"
    )]
    PublishHung { model: String, limit_ms: u64 },
    /// It goes on with what it does until the process ends; nothing of it can be committed.
    #[error("{source}; what it was doing did not end within {seconds} s (joiner.drain_deadline_ms)")]
    Left { source: Box<TrainerError>, seconds: u64 },
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Of an input: passed over, a version would claim offsets that it has not learned (invariant 7).
    #[error(
        "{place}; to go on without it, delete the log up to behind it (kafka-delete-records) and set train.gap = \"accept\", \
         which records the gap"
    )]
    Unreadable { place: ReadError },
    #[error("version {version} cannot be compared with: {source}")]
    Reference { version: u64, source: crate::model::LoadError },
    #[error("version {version} cannot be resumed: {source}")]
    Resume { version: u64, source: TrainError },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("model.backbone '{path}': {source}")]
    Backbone { path: String, source: std::io::Error },
    #[error(
        "version {version} was trained with other settings of {sections}: set them back, or give the model a new \
         model.name"
    )]
    OtherModel { version: u64, sections: String },
    #[error(
        "version {version} of model '{model}' has learned from '{topic}', which a trainer does not read: it is of `easq \
         backfill`, or topics.* were changed since; where training would go on is not known, so set them back, or begin a \
         model of another model.name with its folder (`easq model export --checkpoint`, `easq model seed`)"
    )]
    OtherInputs { model: String, version: u64, topic: String },
    #[error(
        "'{topic}' partition {partition}: training stands at offset {offset}, the log holds {low} up to {high}; set \
         train.gap = \"accept\" to go on at {low} with the gap recorded"
    )]
    OffsetGone { topic: String, partition: i32, offset: i64, low: i64, high: i64 },
    #[error(
        "'{topic}' partition {partition}: training stands at offset {offset}, the log ends at {high}: the topic was \
         deleted and created again; give the model a new model.name, which `easq model seed` lets begin with what was learned"
    )]
    TopicReplaced { topic: String, partition: i32, offset: i64, high: i64 },
    #[error(
        "'{topic}' partition {partition}: training stands at offset {offset} of the topic with id {before}, the one of \
         this name has id {now}: it was deleted and created again; give the model a new model.name, which `easq model \
         seed` lets begin with what was learned"
    )]
    OtherTopic { topic: String, partition: i32, offset: i64, before: String, now: String },
    #[error("'{topic}' has no partition {partition} any more, training stands at offset {offset} of it")]
    PartitionGone { topic: String, partition: i32, offset: i64 },
    #[error(transparent)]
    BadBatches(#[from] BadBatches),
    #[error("cannot start the thread {name}: {source}")]
    Thread { name: &'static str, source: std::io::Error },
}

impl TrainerError {
    /// Whether another instance took over, so that a restart is right (exit code 3).
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Fenced { .. } => true,
            Self::Left { source, .. } => source.is_fenced(),
            Self::Ownership(error) => error.is_fenced(),
            Self::Transaction(error) => error.is_fenced(),
            Self::Publish(error) => error.is_fenced(),
            _ => false,
        }
    }

    /// Whether threads are left that cannot be ended: the process must end without waiting for them.
    pub fn leaves_threads(&self) -> bool {
        matches!(self, Self::Hung { .. } | Self::PublishHung { .. } | Self::Left { .. })
    }

    /// Whether brokers gave no answer, which passes by itself.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Read(ReadError::Unavailable { .. }) => true,
            Self::Publish(error) => error.is_outage(),
            _ => false,
        }
    }

    /// Whether it only says that a stop came before the end of something.
    pub(super) fn is_stop(&self) -> bool {
        match self {
            Self::Transaction(TransactionError::Stopped { .. }) | Self::Read(ReadError::Stopped { .. }) => {
                true
            }
            Self::Publish(error) => error.is_stopped(),
            _ => false,
        }
    }
}
