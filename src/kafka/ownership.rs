//! Which of several processes owns a model: the one that holds the single partition of its
//! registry topic in the consumer group `easq-trainer-<model>`.
//!
//! The member reads nothing: its membership alone matters, and the metadata of that membership
//! goes into every publish transaction, so that an owner that has lost the model cannot commit.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::GroupMetadata;
use super::client::{Context, client_config, is_access_refused, is_connection_trouble};
use crate::settings;

/// What a process is to a model at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// It owns the model: it alone trains and publishes.
    Yes,
    /// Another process does, or the group has not decided: stand by.
    No,
    /// It has owned the model and does not any more. Said once; what it has not published is
    /// void, since another owner may have published meanwhile. After it comes `Yes` or `No`.
    Lost,
}

/// Why the membership cannot go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum OwnershipError {
    #[error("topic '{topic}' does not exist: create it, for example with `easq topics create`")]
    UnknownTopic { topic: String },
    #[error("the brokers refuse group '{group}': {reason}; grant the rights or correct the credentials")]
    AccessRefused { group: String, reason: String },
    /// Another process has joined with the same instance id.
    #[error(
        "group '{group}' has fenced this member: {reason}; another process uses its instance id: restart"
    )]
    Fenced { group: String, reason: String },
    #[error("membership of group '{group}': {reason}")]
    Client { group: String, reason: String },
}

impl OwnershipError {
    /// True when the process must end with exit code 3.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}

const PAUSE_ON_ERROR: Duration = Duration::from_millis(20);
const SESSION_TIMEOUT_MS: &str = "10000";
const HEARTBEAT_INTERVAL_MS: &str = "2000";
/// An owner that does not poll for this long is taken for hung and loses the model.
const MAX_POLL_INTERVAL_MS: &str = "120000";

/// A process's membership in the group of a model. Poll it from one thread, more often than every
/// two minutes. Dropping it leaves the group, so that another process takes over at once; after a
/// kill the others wait for the session timeout of ten seconds.
pub struct Ownership {
    consumer: BaseConsumer<Member>,
    group: String,
    topic: String,
}

impl Ownership {
    /// Joins `group` with a subscription to `topic`, which has one partition.
    ///
    /// # Errors
    /// [`OwnershipError::Client`] when librdkafka refuses the properties. No broker is contacted
    /// before the first [`poll`](Self::poll).
    pub fn join(kafka: &settings::Kafka, group: &str, topic: &str) -> Result<Self, OwnershipError> {
        let failed =
            |error: KafkaError| OwnershipError::Client { group: group.to_owned(), reason: error.to_string() };
        let config = client_config(
            kafka,
            &[],
            &[
                ("group.id", group),
                ("group.protocol", "classic"),
                // Who owns the model keeps it when others join: any other assignor would take it
                // from a healthy owner, or revoke it for a moment, whenever one comes to stand by.
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("isolation.level", "read_committed"),
                ("auto.offset.reset", "latest"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("session.timeout.ms", SESSION_TIMEOUT_MS),
                ("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS),
                ("max.poll.interval.ms", MAX_POLL_INTERVAL_MS),
            ],
        );
        let consumer: BaseConsumer<Member> =
            config.create_with_context(Member::new(group, Mutex::default())).map_err(failed)?;
        consumer.subscribe(&[topic]).map_err(failed)?;
        Ok(Self { consumer, group: group.to_owned(), topic: topic.to_owned() })
    }

    /// Serves the membership for up to `timeout` and says who owns the model now.
    ///
    /// # Errors
    /// Nothing that passes by itself; while brokers are away the state stays as it was.
    pub fn poll(&self, timeout: Duration) -> Result<Owned, OwnershipError> {
        match self.consumer.poll(timeout) {
            None | Some(Ok(_)) => {}
            Some(Err(error)) => self.on_error(&error)?,
        }
        let mut state = self.consumer.context().lock();
        if std::mem::take(&mut state.lost) {
            return Ok(Owned::Lost);
        }
        Ok(if state.generation.is_some() { Owned::Yes } else { Owned::No })
    }

    fn on_error(&self, error: &KafkaError) -> Result<(), OwnershipError> {
        use RDKafkaErrorCode as Code;
        let (group, reason) = (self.group.clone(), error.to_string());
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                Err(OwnershipError::UnknownTopic { topic: self.topic.clone() })
            }
            Some(Code::FencedInstanceId | Code::Fenced) => Err(OwnershipError::Fenced { group, reason }),
            Some(code) if is_access_refused(code) => Err(OwnershipError::AccessRefused { group, reason }),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(OwnershipError::Client { group, reason })
            }
            _ => {
                if is_connection_trouble(error) {
                    self.consumer.context().connection.note_down(&reason);
                }
                thread::sleep(PAUSE_ON_ERROR);
                Ok(())
            }
        }
    }

    /// The membership under which the model is owned, for [`commit`]; `None` when it is not.
    ///
    /// [`commit`]: super::transaction::TransactionalProducer::commit
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        self.consumer.context().lock().generation.clone()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Captured at the last rebalance; `None` while the partition is not assigned.
    generation: Option<GroupMetadata>,
    lost: bool,
}

/// Takes assignments on the thread that polls.
type Member = Context<Mutex<State>>;

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let confirmed = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => take_up(consumer, partitions),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        };
        if let Err(error) = confirmed {
            tracing::error!(group = self.connection.client(), %error, "the assignment was not confirmed");
        }
        self.connection.note_up();
        let mut state = self.lock();
        let assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let owns = assigned && (partitions.count() > 0 || state.generation.is_some());
        state.lost |= state.generation.is_some() && !owns;
        // An assignment that adds nothing still tells of a new generation, and the broker refuses
        // commits with the one before.
        let generation = owns.then(|| consumer.group_metadata()).flatten().map(GroupMetadata::new);
        state.generation = generation;
    }
}

/// Confirms what was added to the assignment. Nothing is fetched of it.
fn take_up(consumer: &BaseConsumer<Member>, added: &TopicPartitionList) -> KafkaResult<()> {
    consumer.incremental_assign(added)?;
    if added.count() == 0 { Ok(()) } else { consumer.pause(added) }
}
