//! What the join cannot go on after, and what it can only report.

use super::Side;
use crate::settings::Partitioner;

/// The caller stops with the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum JoinFault {
    #[error(
        "{mis_keyed} of the first {records} records of '{topic}' partition {partition} are mis-keyed: their key is \
         not their user_id, or does not belong to this partition under input.partitioner = {configured}; {remedy}"
    )]
    MisKeyed {
        topic: String,
        partition: i32,
        records: u64,
        mis_keyed: u64,
        configured: Partitioner,
        /// The known partitioner under which the keys lie where they should.
        suggested: Option<Partitioner>,
        remedy: String,
    },
    #[error(
        "'{topic}' partition {partition} offset {offset} holds another record than the one that was consumed: the \
         topic was deleted and created again; use a new joiner.group, or bring the topic back"
    )]
    TopicChanged { topic: String, partition: i32, offset: i64 },
    #[error(
        "'{topic}' partition {partition}: offset {offset} came after the position had reached {expected}"
    )]
    OutOfOrder { topic: String, partition: i32, offset: i64, expected: i64 },
    #[error("'{topic}' partition {partition} offset {offset} is not a labelled view: {detail}")]
    BadTail { topic: String, partition: i32, offset: i64, detail: String },
}

/// Part of a replay that retention has removed. Say it loudly: labels may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionLoss {
    /// The input that it happened to.
    pub side: Side,
    /// The first offset that is needed and gone. Those at or above the committed offset were never
    /// consumed.
    pub from_offset: i64,
    /// Exclusive.
    pub to_offset: i64,
    /// Stream time just before `from_offset`.
    pub from_time_ms: Option<i64>,
    /// At the committed offset.
    pub to_time_ms: Option<i64>,
}
