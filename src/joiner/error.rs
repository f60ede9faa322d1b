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
         with new output topics"
    )]
    OffsetBeyondEnd { group: String, topic: String, partition: i32, committed: i64, end: i64 },
    #[error(
        "group '{group}' has committed offsets of '{with}' partition {partition} but none of '{without}': that \
         topic was deleted and created again, or its offsets were reset by hand; use a new joiner.group with new \
         output topics"
    )]
    OneSided { group: String, with: String, without: String, partition: i32 },
    #[error(
        "group '{group}' has no committed offsets of partition {partition}, but '{topic}' holds outputs of it \
         (offset {offset}): they would be written again; name the group that wrote them (joiner.group; its \
         offsets may have expired), or use new output topics"
    )]
    OutputsWithoutOffsets { group: String, topic: String, partition: i32, offset: i64 },
    #[error("input.start = \"{value}\": not a time ({reason}); use earliest, latest or RFC 3339")]
    Start { value: String, reason: String },
    #[error("joiner instance {instance} panicked: {message}")]
    Panicked { instance: usize, message: String },
    #[error("cannot start a thread for joiner instance {instance}")]
    Thread { instance: usize, source: std::io::Error },
}

impl JoinerError {
    /// True when the process must end with exit code 3: a restart goes on where this one stopped.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Membership(error) => error.is_fenced(),
            Self::Transaction(error) => error.is_fenced(),
            _ => false,
        }
    }
}
