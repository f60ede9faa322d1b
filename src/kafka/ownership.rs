//! Which of several processes owns a model: the one that holds the single partition of its
//! registry topic in the consumer group `easq-trainer-<model>`.
//!
//! The member reads nothing: its membership alone matters, and the metadata of that membership
//! goes into every publish transaction, so that an owner that has lost the model cannot commit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::client::{Context, STATISTICS, client_config, is_access_refused, is_connection_trouble};
use super::{GroupMetadata, metadata};
use crate::settings::Settings;

/// What a process is to a model at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// It owns the model: it alone trains and publishes.
    Yes,
    /// Another process does, or the group has not decided: stand by.
    No,
    /// It has owned the model and does not any more. Said once; what it has not published is
    /// void, since another owner may have published meanwhile. The membership is over: after it
    /// comes `No`.
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
        "group '{group}' has fenced this member: {reason}; another process uses its train.instance_id: give each a \
         name of its own, and restart"
    )]
    Fenced { group: String, reason: String },
    #[error(
        "the brokers refuse group '{group}' a session of {session_timeout_ms} ms (train.session_timeout_ms): stay \
         within their group.min.session.timeout.ms and group.max.session.timeout.ms"
    )]
    SessionTimeout { group: String, session_timeout_ms: u64 },
    #[error("membership of group '{group}': {reason}")]
    Client { group: String, reason: String },
}

impl OwnershipError {
    /// True when the process must end with exit code 3.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE_ON_ERROR: Duration = Duration::from_millis(20);
/// An owner that does not poll for this long, or for the session timeout if that is longer, loses
/// the model. The thread that polls does nothing else; whether the model is being trained at all is
/// not told by it.
const MAX_POLL_INTERVAL_MS: u64 = 120_000;

/// A process's membership in the group of a model. Poll it from one thread, more often than every
/// two minutes. Dropping it leaves the group, so that another process takes over at once; after a
/// kill the others wait for `train.session_timeout_ms`. A static member (`train.instance_id`) never
/// leaves: they wait for it in either case, and a process of the same name takes over at once.
pub struct Ownership {
    consumer: BaseConsumer<Member>,
    group: String,
    topic: String,
    session_timeout_ms: u64,
}

/// What proves to the brokers that this process owns the model, for the threads that publish. Void
/// once the [`Ownership`] is dropped.
#[derive(Clone)]
pub struct Claim(Arc<Mutex<State>>);

impl Claim {
    /// The membership under which the model is owned, for [`commit`]; `None` when it is not.
    ///
    /// [`commit`]: super::transaction::TransactionalProducer::commit
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        lock(&self.0).generation.clone()
    }
}

impl Ownership {
    /// Joins `group` with a subscription to `topic`, which has one partition.
    ///
    /// # Errors
    /// [`OwnershipError::Client`] when librdkafka refuses the properties. No broker is contacted
    /// before the first [`poll`](Self::poll).
    pub fn join(settings: &Settings, group: &str, topic: &str) -> Result<Self, OwnershipError> {
        let train = &settings.train;
        let failed =
            |error: KafkaError| OwnershipError::Client { group: group.to_owned(), reason: error.to_string() };
        let max_poll_interval_ms = MAX_POLL_INTERVAL_MS.max(train.session_timeout_ms);
        let mut config = client_config(
            &settings.kafka,
            &[STATISTICS],
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
                ("session.timeout.ms", &train.session_timeout_ms.to_string()),
                ("heartbeat.interval.ms", &train.heartbeat_interval_ms.to_string()),
                ("max.poll.interval.ms", &max_poll_interval_ms.to_string()),
            ],
        );
        if !train.instance_id.is_empty() {
            config.set("group.instance.id", &train.instance_id);
        }
        let consumer: BaseConsumer<Member> =
            config.create_with_context(Member::new(group, Arc::default())).map_err(failed)?;
        consumer.subscribe(&[topic]).map_err(failed)?;
        let (group, topic) = (group.to_owned(), topic.to_owned());
        Ok(Self { consumer, group, topic, session_timeout_ms: train.session_timeout_ms })
    }

    /// A view of the ownership for another thread, which outlives it.
    pub fn claim(&self) -> Claim {
        Claim(Arc::clone(&self.consumer.context().state))
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
        let mut state = lock(&self.consumer.context().state);
        if std::mem::take(&mut state.lost) {
            return Ok(Owned::Lost);
        }
        Ok(if state.generation.is_some() { Owned::Yes } else { Owned::No })
    }

    /// Whether the group has taken it in: it owns the model or knows that another one does.
    pub fn is_member(&self) -> bool {
        lock(&self.consumer.context().state).is_member
    }

    fn on_error(&self, error: &KafkaError) -> Result<(), OwnershipError> {
        use RDKafkaErrorCode as Code;
        let (group, reason) = (self.group.clone(), error.to_string());
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)
                if metadata::is_missing(self.consumer.client(), &self.topic, REQUEST_TIMEOUT) =>
            {
                Err(OwnershipError::UnknownTopic { topic: self.topic.clone() })
            }
            Some(Code::FencedInstanceId | Code::Fenced) => Err(OwnershipError::Fenced { group, reason }),
            Some(Code::InvalidSessionTimeout) => {
                let session_timeout_ms = self.session_timeout_ms;
                Err(OwnershipError::SessionTimeout { group, session_timeout_ms })
            }
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

    /// As [`Claim::group_metadata`].
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        self.claim().group_metadata()
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        lock(&self.consumer.context().state).generation = None;
    }
}

/// The state is never left half changed, so that of a holder that panicked is whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    /// Captured at the last rebalance; `None` while the partition is not assigned.
    generation: Option<GroupMetadata>,
    lost: bool,
    /// The group has said what this member owns, perhaps nothing.
    is_member: bool,
}

/// Takes assignments on the thread that polls.
type Member = Context<Arc<Mutex<State>>>;

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
        let mut state = lock(&self.state);
        let assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        state.is_member = assigned;
        let owns = assigned && (partitions.count() > 0 || state.generation.is_some());
        if state.generation.is_some() && !owns {
            state.lost = true;
            // Otherwise it would begin to join the group anew; whoever begins that and does not end
            // it keeps the others waiting for a whole session.
            consumer.unsubscribe();
        }
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
