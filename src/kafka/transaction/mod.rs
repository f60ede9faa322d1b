//! Outputs, input offsets and recovery metadata that become visible together, or not at all.
//!
//! A transactional id belongs to one process at a time. Its next owner's
//! [`init`](TransactionalProducer::init) aborts what the one before left open and fences it off.
//! Keep the id stable over restarts: another id has to wait for the transaction timeout.
//!
//! An open transaction holds back every `read_committed` reader of the partitions it wrote to, so
//! prepare everything before [`begin`](TransactionalProducer::begin).

mod delivery;
mod error;

use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ThreadedProducer};
use rdkafka::util::Timeout;

use delivery::{Deliveries, DeliveryContext, NO_SLOT, UNKNOWN_OFFSET};
pub use error::TransactionError;
use error::{Facts, Verdict, is_of_group};

use super::client::{STATISTICS, client_config, is_access_refused};
use super::{GroupMetadata, MAX_METADATA_BYTES, NextOffset, Outgoing, metadata, partition_list};
use crate::settings;
use crate::supervise::{Beat, StopToken, failpoint};

/// `init_transactions` goes on in the background between calls, so that it alone can be waited for
/// in slices, with a look at the stop; every other call waits for its outcome.
const INIT_SLICE: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before a retriable call is made again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Of a refusal by the brokers.
const REMEDY: &str = "; grant the rights (Write on the transactional id) or correct the credentials";
/// Of a topic that is not there.
const MISSING_REMEDY: &str = "docs/operations.md (When something is lost) says what to do if it was deleted";
/// How long a full queue is served before the record is offered again.
const QUEUE_POLL: Duration = Duration::from_millis(5);

const TUNING: [(&str, &str); 8] = [
    ("linger.ms", "5"),
    ("batch.size", "131072"),
    ("compression.type", "lz4"),
    ("queue.buffering.max.messages", "200000"),
    ("queue.buffering.max.kbytes", "131072"),
    // The broker decides what is too large (`max.message.bytes` of the topic), not the client.
    ("message.max.bytes", "8388608"),
    // librdkafka (its issues 5456 and 5511) waits without an end for a coordinator that has left the
    // cluster, until the connection to any broker changes. The idle ones are closed for that: in
    // time, since the transaction timeout is longer.
    ("connections.max.idle.ms", "10000"),
    STATISTICS,
];

/// One transactional id's producer. One transaction at a time, driven by one thread.
pub struct TransactionalProducer {
    producer: ThreadedProducer<DeliveryContext>,
    transactional_id: String,
    timeout: Duration,
    stop: StopToken,
    beat: Beat,
}

impl TransactionalProducer {
    /// A producer that has not contacted a broker yet, called by its transactional id in metrics and logs.
    ///
    /// `timeout` is the transaction timeout: an outage longer than this ends in
    /// [`TransactionError::Fenced`]. `stop` ends waiting for brokers in [`init`](Self::init) alone:
    /// from then on a transaction may be open, and given up neither committed nor aborted it would
    /// hold back its readers for up to the transaction timeout. Who asks for the stop bounds what
    /// comes after it.
    ///
    /// # Errors
    /// [`TransactionError::Fatal`] when librdkafka refuses the properties.
    pub fn new(
        kafka: &settings::Kafka,
        transactional_id: &str,
        timeout: Duration,
        stop: &StopToken,
    ) -> Result<Self, TransactionError> {
        Self::named(kafka, transactional_id, transactional_id, timeout, stop)
    }

    /// [`new`](Self::new), called `client` where its transactional id is another one at each start: each
    /// would be a series of its own. The log says once which id it has.
    pub fn named(
        kafka: &settings::Kafka,
        client: &str,
        transactional_id: &str,
        timeout: Duration,
        stop: &StopToken,
    ) -> Result<Self, TransactionError> {
        tracing::info!(client, transactional_id, "a transactional producer");
        let timeout_ms = timeout.as_millis().to_string();
        let config = client_config(
            kafka,
            &[&TUNING[..], &[("message.timeout.ms", &timeout_ms)]].concat(),
            &[
                ("transactional.id", transactional_id),
                ("transaction.timeout.ms", &timeout_ms),
                ("enable.idempotence", "true"),
            ],
        );
        let producer =
            config.create_with_context(DeliveryContext::new(client, Mutex::default())).map_err(|error| {
                TransactionError::Fatal {
                    transactional_id: transactional_id.to_owned(),
                    call: "creating the producer",
                    reason: error.to_string(),
                }
            })?;
        let transactional_id = transactional_id.to_owned();
        Ok(Self { producer, transactional_id, timeout, stop: stop.clone(), beat: Beat::default() })
    }

    /// The same, moving `beat` before and after each call into librdkafka. Those that wait for brokers
    /// come back within the transaction timeout, also without an answer, and are made again.
    pub(crate) fn beating(self, beat: &Beat) -> Self {
        Self { beat: beat.clone(), ..self }
    }

    /// Takes over the transactional id: fences its previous owner and aborts what that left open.
    /// Waits for the brokers until the stop.
    pub fn init(&self) -> Result<(), TransactionError> {
        const CALL: &str = "init_transactions";
        while !self.attempt(CALL, || self.producer.init_transactions(INIT_SLICE))? {
            if self.stop.wait(RETRY_PAUSE) {
                let transactional_id = self.transactional_id.clone();
                return Err(TransactionError::Stopped { transactional_id, call: CALL });
            }
        }
        self.producer.context().connection.note_up();
        Ok(())
    }

    /// Opens a transaction; local, no broker is asked.
    pub fn begin(&self) -> Result<(), TransactionError> {
        *self.deliveries() = Deliveries::default();
        self.retrying("begin_transaction", || self.producer.begin_transaction())
    }

    /// Queues a record of the open transaction; librdkafka copies key, payload and headers.
    ///
    /// Blocks while the queue is full, at most for the transaction timeout. A delivery that fails
    /// later is reported by the next [`deliver`](Self::deliver) or commit.
    pub fn send(&self, record: &Outgoing) -> Result<(), TransactionError> {
        self.enqueue(record, NO_SLOT)
    }

    /// Sends records and waits until all of them are in the log: their offsets, in their order.
    /// They are visible to `read_committed` readers once the transaction commits.
    pub fn deliver(&self, records: &[Outgoing]) -> Result<Vec<i64>, TransactionError> {
        self.deliveries().offsets = vec![UNKNOWN_OFFSET; records.len()];
        for (index, record) in records.iter().enumerate() {
            self.enqueue(record, index + 1)?;
        }
        self.flush("deliver")?;
        let offsets = std::mem::take(&mut self.deliveries().offsets);
        match offsets.iter().position(|&offset| offset < 0) {
            None => Ok(offsets),
            Some(index) => Err(self.must_abort(
                "deliver",
                format!(
                    "the broker did not say at which offset it stored a record of '{}'",
                    records[index].topic
                ),
            )),
        }
    }

    /// Commits everything sent together with the next offsets of the group's inputs.
    ///
    /// The broker refuses it when the group has moved on since `group` was captured. It checks this
    /// only along with an offset: an empty `next` commits without any fence but the
    /// transactional id.
    pub fn commit(&self, next: &[NextOffset], group: &GroupMetadata) -> Result<(), TransactionError> {
        self.check_metadata(next)?;
        self.flush("commit")?;
        failpoint("transaction-before-offsets");
        self.retrying("send_offsets_to_transaction", || {
            let positions =
                next.iter().map(|next| (&*next.topic, next.partition, Offset::Offset(next.offset)));
            let list = partition_list(positions)?;
            for next in next.iter().filter(|next| !next.metadata.is_empty()) {
                if let Some(mut element) = list.find_partition(&next.topic, next.partition) {
                    element.set_metadata(&next.metadata);
                }
            }
            self.producer.send_offsets_to_transaction(&list, group.native(), Timeout::Never)
        })?;
        failpoint("transaction-before-end");
        self.retrying("commit_transaction", || self.producer.commit_transaction(Timeout::Never))
    }

    /// Commits everything sent, without offsets.
    pub fn commit_outputs(&self) -> Result<(), TransactionError> {
        self.flush("commit")?;
        self.retrying("commit_transaction", || self.producer.commit_transaction(Timeout::Never))
    }

    /// Gives the open transaction up: no `read_committed` reader ever sees its records.
    pub fn abort(&self) -> Result<(), TransactionError> {
        // An abort right behind a send can end in a fatal INVALID_TXN_STATE; after a flush it
        // does not. Failed deliveries are no matter here.
        self.beat.beat();
        self.native_flush();
        self.retrying("abort_transaction", || self.producer.abort_transaction(Timeout::Never))?;
        *self.deliveries() = Deliveries::default();
        Ok(())
    }

    fn enqueue(&self, record: &Outgoing, slot: usize) -> Result<(), TransactionError> {
        const CALL: &str = "send";
        let mut native = record.as_base_record(slot);
        let mut full_since: Option<Instant> = None;
        loop {
            self.beat.beat();
            let (error, returned) = match self.producer.send(native) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(self.refused(record, &error));
            }
            if full_since.get_or_insert_with(Instant::now).elapsed() >= self.timeout {
                return Err(self.must_abort(CALL, "the queue stayed full for the transaction timeout".into()));
            }
            native = returned;
            self.producer.poll(QUEUE_POLL);
        }
    }

    /// Why librdkafka did not take a record at all.
    fn refused(&self, record: &Outgoing, error: &KafkaError) -> TransactionError {
        const CALL: &str = "send";
        let reason = format!("topic '{}', {} bytes: {error}", record.topic, record.len_bytes());
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return self.ended(CALL, code, text);
        }
        match error.rdkafka_error_code() {
            // A transaction that has failed already takes no more records.
            Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PurgeQueue) => self.failed(CALL, reason),
            Some(code) if metadata::is_unknown_code(code) => {
                self.deliveries().perhaps_missing.insert(record.topic.to_string());
                self.failed(CALL, reason)
            }
            _ => self.fatal(CALL, reason),
        }
    }

    fn check_metadata(&self, next: &[NextOffset]) -> Result<(), TransactionError> {
        match next.iter().find(|next| next.metadata.len() > MAX_METADATA_BYTES) {
            None => Ok(()),
            Some(next) => Err(self.fatal(
                "commit",
                format!(
                    "metadata of '{}' partition {} has {} bytes, brokers store {MAX_METADATA_BYTES}",
                    next.topic,
                    next.partition,
                    next.metadata.len()
                ),
            )),
        }
    }

    /// Waits for all deliveries; a failed one keeps the transaction from committing.
    fn flush(&self, call: &'static str) -> Result<(), TransactionError> {
        self.beat.beat();
        self.native_flush();
        self.beat.beat();
        let failed = self.deliveries().failed.take();
        match (failed, self.producer.client().fatal_error()) {
            (_, Some((code, text))) => Err(self.ended(call, code, text)),
            (Some(failure), None) if failure.for_good => Err(self.fatal(call, failure.reason)),
            (Some(failure), None) => Err(self.failed(call, failure.reason)),
            (None, None) => Ok(()),
        }
    }

    /// The transaction cannot commit: for good where a topic is missing that it writes to.
    fn failed(&self, call: &'static str, reason: String) -> TransactionError {
        self.of_missing_topic(call, &reason).unwrap_or_else(|| self.must_abort(call, reason))
    }

    /// An error that names a topic of the open transaction that is not there, if there is one. Asks the
    /// brokers, for some seconds before it believes them.
    fn of_missing_topic(&self, call: &'static str, reason: &str) -> Option<TransactionError> {
        let topics = self.deliveries().perhaps_missing.clone();
        let is_missing =
            |topic: &String| metadata::is_missing(self.producer.client(), topic, REQUEST_TIMEOUT);
        let topic = topics.into_iter().find(is_missing)?;
        Some(self.fatal(call, format!("{reason}; topic '{topic}' does not exist: {MISSING_REMEDY}")))
    }

    /// Waits until no record is on its way any more, delivered or failed; bounded by
    /// `message.timeout.ms`, which is the transaction timeout.
    ///
    /// rdkafka's own `flush` waits in slices of 100 ms and `commit_transaction` begins with it: a
    /// transaction of 20 records takes 104 ms with it and 4 ms with this. Delivery reports are
    /// served by the producer's polling thread, and a record counts as on its way until its report
    /// has been handled.
    #[allow(unsafe_code)]
    fn native_flush(&self) {
        const WITHOUT_LIMIT: i32 = -1;
        // SAFETY: the pointer belongs to `self.producer`, which outlives the call; librdkafka is
        // thread-safe, and this function keeps nothing of its arguments.
        unsafe {
            rdkafka::bindings::rd_kafka_flush(self.producer.client().native_ptr(), WITHOUT_LIMIT);
        }
    }

    /// Makes a transactional call until it succeeds or fails for good.
    fn retrying(
        &self,
        call: &'static str,
        run: impl Fn() -> KafkaResult<()>,
    ) -> Result<(), TransactionError> {
        while !self.attempt(call, &run)? {
            thread::sleep(RETRY_PAUSE);
        }
        Ok(())
    }

    /// Makes a transactional call once; false when the same call is to be made again.
    fn attempt(
        &self,
        call: &'static str,
        run: impl Fn() -> KafkaResult<()>,
    ) -> Result<bool, TransactionError> {
        self.beat.beat();
        let answer = run();
        self.beat.beat();
        let error = match answer {
            Ok(()) => return Ok(true),
            Err(KafkaError::Transaction(error)) => error,
            Err(other) => return Err(self.fatal(call, other.to_string())),
        };
        let remedy = if is_access_refused(error.code()) { REMEDY } else { "" };
        let reason = format!("{} ({}){remedy}", error.string(), error.name());
        match Facts::of(&error).verdict() {
            Verdict::Over => Err(self.ended(call, error.code(), reason)),
            Verdict::Abort if is_of_group(error.code()) => {
                let transactional_id = self.transactional_id.clone();
                Err(TransactionError::GroupMoved { transactional_id, reason })
            }
            Verdict::Abort => Err(self.must_abort(call, reason)),
            Verdict::Fatal => Err(self.fatal(call, reason)),
            Verdict::Retry => {
                tracing::debug!(transactional_id = self.transactional_id, call, reason, "trying again");
                Ok(false)
            }
        }
    }

    fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.producer.context().lock()
    }

    /// The client is unusable: by fencing, or because a person has to change something first, a topic
    /// that is gone included.
    fn ended(&self, call: &'static str, code: RDKafkaErrorCode, reason: String) -> TransactionError {
        use RDKafkaErrorCode::{InvalidTransactionTimeout, UnsupportedFeature, UnsupportedVersion};
        let human = is_access_refused(code)
            || matches!(code, InvalidTransactionTimeout | UnsupportedFeature | UnsupportedVersion);
        if human {
            return self.fatal(call, reason);
        }
        let transactional_id = self.transactional_id.clone();
        // An abort of what librdkafka could not add to the transaction ends so, too.
        self.of_missing_topic(call, &reason).unwrap_or(TransactionError::Fenced {
            transactional_id,
            call,
            reason,
        })
    }

    fn must_abort(&self, call: &'static str, reason: String) -> TransactionError {
        TransactionError::MustAbort { transactional_id: self.transactional_id.clone(), call, reason }
    }

    fn fatal(&self, call: &'static str, reason: String) -> TransactionError {
        TransactionError::Fatal { transactional_id: self.transactional_id.clone(), call, reason }
    }
}
