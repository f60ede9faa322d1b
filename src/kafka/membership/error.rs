//! What ends a membership.

use rdkafka::error::KafkaError;

use crate::kafka::reader::ReadError;

#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(
        "topics.behavior '{behavior}' has {behavior_partitions} partitions, topics.responses '{responses}' \
         has {responses_partitions} partitions: a user's views and responses meet in one partition only when both \
         topics have the same number; create one of them anew with the other's number"
    )]
    UnequalPartitions {
        behavior: String,
        behavior_partitions: i32,
        responses: String,
        responses_partitions: i32,
    },
    #[error("topic '{topic}' does not exist: create it (`easq topics create`), or correct [topics]")]
    TopicMissing { topic: String },
    #[error(
        "group '{group}' assigned partitions {views:?} of topics.behavior but {responses:?} of topics.responses: \
         every member must subscribe to both topics with the range assignor"
    )]
    Misaligned { group: String, views: Vec<i32>, responses: Vec<i32> },
    #[error(
        "the broker gave this member of group '{group}' up ({reason}): another process with the same \
         joiner.instance_id runs, or the session was lost; a restart is right"
    )]
    Fenced { group: String, reason: String },
    /// It passes by itself.
    #[error(
        "no answer yet about {what} of group '{group}' ({reason}): the brokers are away, or the previous owner's \
         transaction is pending, which ends within its transaction timeout"
    )]
    NoAnswer { what: String, group: String, reason: String },
    #[error(
        "not allowed to read '{what}' ({reason}): grant Read on the topic and the group, or correct [kafka]"
    )]
    NotAuthorized { what: String, reason: String },
    /// Passed over, the records would have no outcome (invariant 11). They may be whole in another replica,
    /// so nothing that is lost for good is made of them here.
    #[error(
        "{place}; to go on without it, delete the log up to behind it (kafka-delete-records): the joiner says what is lost \
         with it"
    )]
    Unreadable { place: ReadError },
    #[error("{what}: {source}")]
    Client { what: String, source: KafkaError },
}

impl MembershipError {
    /// A restart of the process is right: the broker no longer accepts this session.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}

/// For `map_err`: what was being done when librdkafka refused.
pub(super) fn failed(what: &str) -> impl FnOnce(KafkaError) -> MembershipError {
    move |source| MembershipError::Client { what: what.to_owned(), source }
}
