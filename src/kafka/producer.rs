//! A plain idempotent writer: no transaction, no doubles, for records that come from outside.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};

use super::Outgoing;
use super::client::{Context, client_config};
use crate::settings::{self, Partitioner};

/// Why a record could not be queued or was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum ProduceError {
    #[error("the producer cannot be made: {reason}")]
    Client { reason: String },
    #[error("a record of {bytes} bytes for '{topic}' was refused: {reason}")]
    Refused { topic: String, bytes: usize, reason: String },
    #[error("the queue stayed full for {} s: no broker takes records", QUEUE_TIMEOUT.as_secs())]
    QueueFull,
    #[error("{waiting} records were not delivered within {timeout_s} s")]
    NotFlushed { waiting: i32, timeout_s: u64 },
    #[error("{failed} records were not delivered; the first: {reason}")]
    NotDelivered { failed: u64, reason: String },
}

/// How long a full queue is waited for.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(120);
const QUEUE_POLL: Duration = Duration::from_millis(5);

const TUNING: [(&str, &str); 6] = [
    ("linger.ms", "5"),
    ("batch.size", "131072"),
    ("compression.type", "lz4"),
    ("queue.buffering.max.messages", "200000"),
    ("queue.buffering.max.kbytes", "131072"),
    ("message.max.bytes", "8388608"),
];

/// Deliveries so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// Records that the broker has.
    pub acknowledged: u64,
    /// Records given up: never in the log, unless an acknowledgement was lost.
    pub failed: u64,
}

/// An idempotent producer that may be shared by threads. Records of one key keep their order.
pub struct Producer {
    producer: ThreadedProducer<Context<Counts>>,
}

impl Producer {
    /// `partitioner` is the one that the joiner expects of its inputs (`input.partitioner`).
    ///
    /// # Errors
    /// [`ProduceError::Client`] when librdkafka refuses the properties.
    pub fn new(kafka: &settings::Kafka, partitioner: Partitioner) -> Result<Self, ProduceError> {
        let partitioner = match partitioner {
            Partitioner::Murmur2Random => "murmur2_random",
            Partitioner::ConsistentRandom => "consistent_random",
        };
        let controlled = [("enable.idempotence", "true"), ("partitioner", partitioner)];
        let producer = client_config(kafka, &TUNING, &controlled)
            .create_with_context(Context::new("producer", Counts::default()))
            .map_err(|error| ProduceError::Client { reason: error.to_string() })?;
        Ok(Self { producer })
    }

    /// Queues a record; librdkafka copies it. Blocks while the queue is full.
    ///
    /// # Errors
    /// [`ProduceError::Refused`], or [`ProduceError::QueueFull`] after two minutes.
    pub fn send(&self, record: &Outgoing) -> Result<(), ProduceError> {
        let mut native = record.as_base_record(0);
        let mut full_since: Option<Instant> = None;
        loop {
            let (error, returned) = match self.producer.send(native) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                let (topic, bytes, reason) =
                    (record.topic.to_string(), record.len_bytes(), error.to_string());
                return Err(ProduceError::Refused { topic, bytes, reason });
            }
            if full_since.get_or_insert_with(Instant::now).elapsed() >= QUEUE_TIMEOUT {
                return Err(ProduceError::QueueFull);
            }
            native = returned;
            self.producer.poll(QUEUE_POLL);
        }
    }

    /// Waits until everything queued has been delivered.
    ///
    /// # Errors
    /// [`ProduceError::NotFlushed`] after `timeout`; [`ProduceError::NotDelivered`] when a record
    /// has failed since the producer was made.
    pub fn flush(&self, timeout: Duration) -> Result<(), ProduceError> {
        if self.producer.flush(timeout).is_err() {
            let waiting = self.producer.in_flight_count();
            return Err(ProduceError::NotFlushed { waiting, timeout_s: timeout.as_secs() });
        }
        match (self.delivered().failed, self.producer.context().state.first_failure.get()) {
            (failed, Some(reason)) => Err(ProduceError::NotDelivered { failed, reason: reason.clone() }),
            (_, None) => Ok(()),
        }
    }

    /// Records acknowledged by the brokers, and records that failed for good.
    pub fn delivered(&self) -> Delivered {
        let counts = &self.producer.context().state;
        Delivered {
            acknowledged: counts.acknowledged.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
        }
    }
}

/// Counted on the producer's polling thread.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_failure: OnceLock<String>,
}

impl ProducerContext for Context<Counts> {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, _: usize) {
        match result {
            Ok(_) => {
                self.connection.note_up();
                self.state.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, message)) => {
                self.state.first_failure.get_or_init(|| {
                    format!("'{}' partition {}: {error}", message.topic(), message.partition())
                });
                self.state.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
