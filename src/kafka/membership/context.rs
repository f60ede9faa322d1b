//! What the callbacks of one consumer leave behind for the polling thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;

use crate::kafka::client::Context;

/// What the callbacks of one consumer write down. They run inside `poll`, on the polling thread;
/// the locks are only for the compiler and are never held across a poll.
pub(super) struct FeedContext {
    pub(super) logging: Context,
    topic: Arc<str>,
    rebalances: Mutex<VecDeque<Change>>,
    end_offsets: Mutex<BTreeMap<i32, i64>>,
    /// The consumer is being closed: revocations are answered here, nobody asks for them any more.
    closing: AtomicBool,
}

/// A rebalance as librdkafka reports it: partitions of both topics.
pub(super) struct Change {
    pub(super) kind: ChangeKind,
    partitions: Vec<(String, i32)>,
}

#[derive(Clone, Copy)]
pub(super) enum ChangeKind {
    Assigned,
    Revoked { lost: bool },
}

impl Change {
    /// The sorted partition numbers of one topic.
    pub(super) fn numbers(&self, topic: &str) -> Vec<i32> {
        let of_topic = self.partitions.iter().filter(|(name, _)| name == topic);
        let mut numbers: Vec<i32> = of_topic.map(|&(_, partition)| partition).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl FeedContext {
    /// `client` names the consumer in the logs.
    pub(super) fn new(client: &str, topic: Arc<str>) -> Self {
        Self {
            logging: Context::new(client, ()),
            topic,
            rebalances: Mutex::default(),
            end_offsets: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    pub(super) fn take_rebalance(&self) -> Option<Change> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn has_rebalance(&self) -> bool {
        !self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn end_offset(&self, partition: i32) -> Option<i64> {
        self.end_offsets.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied()
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for FeedContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.logging.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.logging.connection.note_statistics(&statistics);
        let Some(topic) = statistics.topics.get(&*self.topic) else { return };
        let mut end_offsets = self.end_offsets.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in topic.partitions.values() {
            // What a read_committed consumer can read ends at the last stable offset.
            if partition.partition >= 0 && partition.ls_offset >= 0 {
                end_offsets.insert(partition.partition, partition.ls_offset);
            }
        }
    }
}

impl ConsumerContext for FeedContext {
    /// Only writes the change down: librdkafka waits for the answer, and the polling thread gives
    /// it where it owns the state that the answer depends on.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.closing.load(Ordering::Relaxed) {
            // Nothing can be done about a failure here: the client is on its way out.
            let _ = consumer.unassign();
            return;
        }
        let kind = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => ChangeKind::Assigned,
            _ => ChangeKind::Revoked { lost: consumer.assignment_lost() },
        };
        let partitions = partitions
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(Change { kind, partitions });
    }
}
