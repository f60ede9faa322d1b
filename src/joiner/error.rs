//! What ends a joiner instance.

use crate::join::{FrontierError, JoinFault};
use crate::kafka::membership::MembershipError;
use crate::kafka::reader::ReadError;
use crate::kafka::transaction::TransactionError;

/// Why a joiner instance ended before it was asked to.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum JoinerError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    #[error(transparent)]
    Join(#[from] JoinFault),
    #[error("topic '{topic}' partition {partition}, group '{group}': {source}")]
    Frontier { group: String, topic: String, partition: i32, source: FrontierError },
    #[error("reading the outputs of an earlier run: {0}")]
    Outputs(#[from] ReadError),
    #[error(
        "group '{group}' has committed offset {committed} of '{topic}' partition {partition}, which ends at {end}: \
         the topic was deleted and created again, or records were lost; bring them back, or use a new joiner.group \
         with new output topics and a new model.name"
    )]
    OffsetBeyondEnd { group: String, topic: String, partition: i32, committed: i64, end: i64 },
    #[error(transparent)]
    TopicReplaced(Box<TopicReplaced>),
    #[error(
        "topic '{topic}' was deleted and created again while it was read (id {before} before, {now} now): what the \
         new one held at the old offsets in the last {within_seconds} s may have been joined; use a new joiner.group \
         with new output topics and a new model.name"
    )]
    TopicReplacedMeanwhile { topic: String, before: String, now: String, within_seconds: u64 },
    #[error(
        "group '{group}' has committed offsets of '{with}' partition {partition} but none of '{without}': that \
         topic was deleted and created again, or its offsets were reset by hand; use a new joiner.group with new \
         output topics and a new model.name"
    )]
    OneSided { group: String, with: String, without: String, partition: i32 },
    #[error(
        "group '{group}' has no committed offsets of partition {partition}, but '{topic}' holds outputs of it \
         (offset {offset}): they would be written again; name the group that wrote them (joiner.group; its \
         offsets may have expired), or use new output topics and a new model.name"
    )]
    OutputsWithoutOffsets { group: String, topic: String, partition: i32, offset: i64 },
    #[error("input.start = \"{value}\": not a time ({reason}); use earliest, latest or RFC 3339")]
    Start { value: String, reason: String },
    #[error("watching the input topics: {0}")]
    Observer(String),
    #[error("joiner instance {instance} panicked: {message}")]
    Panicked { instance: usize, message: String },
    #[error(
        "joiner instance {instance} has not moved for {limit_ms} ms (joiner.max_poll_interval_ms): it waits in the \
         Kafka client for an answer that does not come, and has lost its partitions; a restart is right"
    )]
    Hung { instance: usize, limit_ms: u64 },
    #[error("cannot start a thread for joiner instance {instance}")]
    Thread { instance: usize, source: std::io::Error },
}

/// Offsets were committed of a topic whose name belongs to another one now.
#[derive(Debug, thiserror::Error)]
#[error(
    "topic '{topic}' was deleted and created again: group '{group}' has read the topic with id {before}, and the \
     one of this name has id {now}, so that offset {offset} of partition {partition} means another record; use a \
     new joiner.group with new output topics and a new model.name to begin with it"
)]
pub struct TopicReplaced {
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) before: String,
    pub(super) now: String,
}

impl JoinerError {
    /// True when the brokers have not answered yet: poll, and try again.
    pub(super) fn is_no_answer(&self) -> bool {
        matches!(
            self,
            Self::Membership(MembershipError::NoAnswer { .. }) | Self::Outputs(ReadError::Unavailable { .. })
        )
    }

    /// True when the process must end with exit code 3: a restart goes on where this one stopped.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Membership(error) => error.is_fenced(),
            Self::Transaction(error) => error.is_fenced(),
            Self::Hung { .. } => true,
            _ => false,
        }
    }

    /// Whether a thread is left that only the end of the process ends.
    #[must_use]
    pub fn leaves_threads(&self) -> bool {
        matches!(self, Self::Hung { .. })
    }
}
