//! Logs read from explicit offsets: committed records only, no group, no silent jumps.
//!
//! Where a reader goes on is the caller's knowledge (a checkpoint, a manifest); an offset that the
//! log does not hold any more is an error that names it, never a reset.

mod feeds;
mod queue;
mod reading;
pub(super) mod unreadable;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};

pub use feeds::{Fed, Feeds, Stretch};
pub use reading::{From, Reading, read_to_end};

use super::client::{Context, client_config, is_access_refused, is_connection_trouble};
use super::identity::{TopicId, topic_ids};
use super::{Record, TopicNames, metadata, partition_list};
use crate::settings;
use unreadable::is_unreadable;

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum ReadError {
    /// Retention or a trim has removed the offset, or the topic was deleted and made anew.
    #[error("offset {offset} of '{topic}' partition {partition} is gone: the log holds {low} up to {high}")]
    OffsetGone { topic: Arc<str>, partition: i32, offset: i64, low: i64, high: i64 },
    /// Retrying does not help, and the records there are not passed over.
    #[error("'{topic}' partition {partition} cannot be read from offset {offset} on: {reason}")]
    Unreadable { topic: Arc<str>, partition: i32, offset: i64, reason: String },
    #[error("topic '{topic}' does not exist: create it, for example with `easq topics create`")]
    UnknownTopic { topic: String },
    #[error("the brokers refuse '{client}': {reason}; grant the rights or correct the credentials")]
    AccessRefused { client: String, reason: String },
    #[error("no answer about '{topic}': {reason}")]
    Unavailable { topic: String, reason: String },
    #[error("stopped before the end of '{topic}' partition {partition}")]
    Stopped { topic: String, partition: i32 },
    #[error("reading as '{client}': {reason}")]
    Client { client: String, reason: String },
}

/// How long a question about a topic may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often brokers that are away are asked whether they are back, and for how long: an answer may wait
/// behind a fetch.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// `poll` returns at once, again and again, while brokers are down.
const PAUSE_ON_ERROR: Duration = Duration::from_millis(20);

/// librdkafka's properties for a reader of dense topics, as measured: the default
/// fetch.queue.backoff.ms costs more than half of the throughput, looking at checksums 4 % of the
/// processor time of bare reading.
pub const FETCH_TUNING: [(&str, &str); 7] = [
    ("check.crcs", "true"),
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.min.bytes", "1"),
    ("fetch.error.backoff.ms", "50"),
    ("max.partition.fetch.bytes", "4194304"),
    ("queued.max.messages.kbytes", "65536"),
    ("queued.min.messages", "100000"),
];

/// Properties of a consumer whose partitions are assigned by hand. `assign` fails without a
/// group id; nothing is ever committed for this one.
pub(crate) const BY_HAND: [(&str, &str); 6] = [
    ("group.id", "easq-reader"),
    ("isolation.level", "read_committed"),
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
];

/// Reads committed records of partitions that were assigned by hand. Used by one thread.
pub struct LogReader {
    consumer: Arc<BaseConsumer<Context>>,
    client: String,
    kafka: settings::Kafka,
    names: RefCell<TopicNames>,
    assigned: Vec<(Arc<str>, i32, i64)>,
    /// When brokers that were away were asked last.
    asked: Cell<Option<Instant>>,
    /// The last error that was tried again, until a record comes.
    told: Cell<Option<Code>>,
}

/// What one poll of a partition's log came to.
enum Polled {
    Record(Record),
    /// A partition of this number has been read to its last stable offset. librdkafka does not
    /// say of which topic.
    End,
    Nothing,
}

impl LogReader {
    /// A reader without partitions. `client` names it in logs and errors, for example
    /// `trainer reader`.
    ///
    /// # Errors
    /// [`ReadError::Client`] when librdkafka refuses the properties.
    pub fn new(kafka: &settings::Kafka, client: &str) -> Result<Self, ReadError> {
        Self::with_tuning(kafka, client, &FETCH_TUNING)
    }

    /// As [`new`](Self::new), with properties beside or instead of [`FETCH_TUNING`]'s.
    pub(crate) fn tuned(
        kafka: &settings::Kafka,
        client: &str,
        tuning: &[(&str, &str)],
    ) -> Result<Self, ReadError> {
        Self::with_tuning(kafka, client, &[&FETCH_TUNING[..], tuning].concat())
    }

    fn with_tuning(
        kafka: &settings::Kafka,
        client: &str,
        tuning: &[(&str, &str)],
    ) -> Result<Self, ReadError> {
        let consumer = client_config(kafka, tuning, &BY_HAND)
            .create_with_context(Context::new(client, ()))
            .map_err(|error| client_error(client, &error))?;
        let names = RefCell::default();
        Ok(Self {
            consumer: Arc::new(consumer),
            client: client.to_owned(),
            kafka: kafka.clone(),
            names,
            assigned: Vec::new(),
            asked: Cell::default(),
            told: Cell::default(),
        })
    }

    /// Reads exactly these partitions from now on, each from the given offset. Whether the log
    /// still holds the offset shows in [`poll`](Self::poll).
    pub fn assign(&mut self, partitions: &[(&str, i32, i64)]) -> Result<(), ReadError> {
        let positions =
            partitions.iter().map(|&(topic, partition, offset)| (topic, partition, Offset::Offset(offset)));
        let list = partition_list(positions).map_err(|error| client_error(&self.client, &error))?;
        self.consumer.assign(&list).map_err(|error| client_error(&self.client, &error))?;
        let names = self.names.get_mut();
        self.assigned = partitions
            .iter()
            .map(|&(topic, partition, offset)| (names.get(topic), partition, offset))
            .collect();
        Ok(())
    }

    /// The next committed record, or `None` when there is none within `timeout` or no broker can
    /// be reached (reported in the log once per change).
    ///
    /// # Errors
    /// [`ReadError::OffsetGone`], [`ReadError::Unreadable`], [`ReadError::UnknownTopic`],
    /// [`ReadError::AccessRefused`]: nothing that passes by itself.
    pub fn poll(&self, timeout: Duration) -> Result<Option<Record>, ReadError> {
        match self.next(timeout)? {
            Polled::Record(record) => Ok(Some(record)),
            Polled::End | Polled::Nothing => Ok(None),
        }
    }

    /// Gives every committed record of an assigned partition below `end` to `each`, and perhaps some
    /// behind it. False when nothing has come for `patience` before that: no broker can be reached,
    /// or `end` is not stable yet.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn read_up_to(
        &self,
        topic: &str,
        partition: i32,
        end: i64,
        patience: Duration,
        mut each: impl FnMut(Record),
    ) -> Result<bool, ReadError> {
        let mut heard_at = Instant::now();
        while self.reached(topic, partition).is_none_or(|reached| reached < end) {
            match self.next(CONTROL_SLICE.min(patience))? {
                Polled::Record(record) => each(record),
                // It may have waited in the queue while records came in behind it.
                Polled::End => {}
                Polled::Nothing if heard_at.elapsed() >= patience => return Ok(false),
                Polled::Nothing => continue,
            }
            heard_at = Instant::now();
        }
        Ok(true)
    }

    fn next(&self, timeout: Duration) -> Result<Polled, ReadError> {
        let polled = self.polled(self.consumer.poll(timeout))?;
        if matches!(polled, Polled::Nothing) {
            self.ask_if_away();
        }
        Ok(polled)
    }

    /// Asks from time to time whether brokers that were away are back: an idle log brings no record that
    /// tells.
    fn ask_if_away(&self) {
        let connection = &self.consumer.context().connection;
        if !connection.is_down() || self.asked.get().is_some_and(|asked| asked.elapsed() < ASK_INTERVAL) {
            return;
        }
        let answers = |(topic, partition, _): &(Arc<str>, i32, i64)| {
            metadata::watermarks(self.consumer.client(), topic, *partition, ASK_TIMEOUT).is_ok()
        };
        if !self.assigned.is_empty() && self.assigned.iter().all(answers) {
            connection.note_up();
        }
        self.asked.set(Some(Instant::now()));
    }

    fn polled(&self, message: Option<Result<BorrowedMessage<'_>, KafkaError>>) -> Result<Polled, ReadError> {
        match message {
            None => Ok(Polled::Nothing),
            Some(Ok(message)) => {
                self.consumer.context().connection.note_up();
                self.told.set(None);
                let topic = self.names.borrow_mut().get(message.topic());
                Ok(Polled::Record(Record::copied(topic, &message)))
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.consumer.context().connection.note_up();
                Ok(Polled::End)
            }
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if is_unreadable(code) => Err(self.unreadable(code)),
                code => {
                    self.on_error(&error)?;
                    self.tell_once(code, &error);
                    Ok(Polled::Nothing)
                }
            },
        }
    }

    fn on_error(&self, error: &KafkaError) -> Result<(), ReadError> {
        match error.rdkafka_error_code() {
            Some(code @ (Code::AutoOffsetReset | Code::OffsetOutOfRange)) => {
                Err(self.gone_offset()?.unwrap_or_else(|| self.unreadable(code)))
            }
            _ if metadata::is_unknown(error) => match self.missing_topic() {
                Some(topic) => Err(ReadError::UnknownTopic { topic }),
                None => {
                    self.consumer.context().connection.note_down(&error.to_string());
                    thread::sleep(PAUSE_ON_ERROR);
                    Ok(())
                }
            },
            Some(code) if is_access_refused(code) => {
                Err(ReadError::AccessRefused { client: self.client.clone(), reason: error.to_string() })
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(client_error(&self.client, error))
            }
            _ => {
                if is_connection_trouble(error) {
                    self.consumer.context().connection.note_down(&error.to_string());
                } else {
                    tracing::debug!(client = self.client, %error, "poll");
                }
                thread::sleep(PAUSE_ON_ERROR);
                Ok(())
            }
        }
    }

    /// Says once what is tried again while brokers answer.
    fn tell_once(&self, code: Option<Code>, error: &KafkaError) {
        let is_told = is_connection_trouble(error) || metadata::is_unknown(error);
        if !is_told && self.told.replace(code) != code {
            tracing::warn!(client = self.client, "reading fails, and is tried again: {error}");
        }
    }

    /// The assigned partition whose position its log does not hold; librdkafka does not name it.
    fn gone_offset(&self) -> Result<Option<ReadError>, ReadError> {
        for (topic, partition, assigned) in &self.assigned {
            let offset = self.position(topic, *partition).unwrap_or(*assigned);
            let (low, high) = self.watermarks(topic, *partition)?;
            if offset < low || offset > high {
                let (topic, partition) = (Arc::clone(topic), *partition);
                return Ok(Some(ReadError::OffsetGone { topic, partition, offset, low, high }));
            }
        }
        Ok(None)
    }

    /// The first assigned topic that is not there.
    fn missing_topic(&self) -> Option<String> {
        let mut topics: Vec<&str> = self.assigned.iter().map(|(topic, ..)| &**topic).collect();
        topics.dedup();
        let is_missing = |topic: &&str| metadata::is_missing(self.consumer.client(), topic, REQUEST_TIMEOUT);
        topics.into_iter().find(is_missing).map(str::to_owned)
    }

    /// The offset behind the last record that [`poll`](Self::poll) gave; `None` before the first.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let positions = self.consumer.position().ok()?;
        match positions.find_partition(topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// The position, which is where the partition was assigned before the first record.
    fn reached(&self, topic: &str, partition: i32) -> Option<i64> {
        let is_it =
            |(assigned, number, _): &&(Arc<str>, i32, i64)| &**assigned == topic && *number == partition;
        let (.., from) = self.assigned.iter().find(is_it)?;
        Some(self.position(topic, partition).unwrap_or(*from))
    }

    /// Stops fetching all assigned partitions of a topic. Records already fetched are let go and
    /// fetched again after [`resume`](Self::resume), so do not pause for moments.
    pub fn pause(&self, topic: &str) -> Result<(), ReadError> {
        self.set_paused(true, |assigned, _| assigned == topic)
    }

    /// Ends a [`pause`](Self::pause): reads on where it stopped.
    pub fn resume(&self, topic: &str) -> Result<(), ReadError> {
        self.set_paused(false, |assigned, _| assigned == topic)
    }

    /// [`pause`](Self::pause) for one assigned partition.
    pub fn pause_partition(&self, topic: &str, partition: i32) -> Result<(), ReadError> {
        self.set_paused(true, |assigned, number| assigned == topic && number == partition)
    }

    /// [`resume`](Self::resume) for one assigned partition.
    pub fn resume_partition(&self, topic: &str, partition: i32) -> Result<(), ReadError> {
        self.set_paused(false, |assigned, number| assigned == topic && number == partition)
    }

    fn set_paused(&self, paused: bool, chosen: impl Fn(&str, i32) -> bool) -> Result<(), ReadError> {
        let partitions = self
            .assigned
            .iter()
            .filter(|(topic, partition, _)| chosen(topic, *partition))
            .map(|(topic, partition, _)| (&**topic, *partition, Offset::Invalid));
        let list = partition_list(partitions).map_err(|error| client_error(&self.client, &error))?;
        let done = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        done.map_err(|error| client_error(&self.client, &error))
    }

    /// The first offset that the log holds, and its last stable offset: the one behind the last
    /// committed record or control record. Asks the broker; blocks for up to ten seconds.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), ReadError> {
        self.watermarks_within(topic, partition, REQUEST_TIMEOUT)
    }

    fn watermarks_within(
        &self,
        topic: &str,
        partition: i32,
        patience: Duration,
    ) -> Result<(i64, i64), ReadError> {
        let client = self.consumer.client();
        metadata::patiently(patience, || metadata::watermarks(client, topic, partition, patience))
            .map_err(|error| self.question_failed(topic, &error))
    }

    /// The cluster's id of a topic, where it gives one. Asks a broker; blocks for up to `timeout`, and
    /// longer where there seems to be no such topic.
    ///
    /// # Errors
    /// As [`LogReader::watermarks`].
    pub fn topic_id(&self, topic: &str, timeout: Duration) -> Result<Option<TopicId>, ReadError> {
        let ids = topic_ids(self.consumer.client(), &[topic], timeout);
        let mut ids = ids.map_err(|error| self.question_failed(topic, &error))?;
        Ok(ids.pop().flatten())
    }

    /// The number of partitions of a topic. Asks a broker; blocks for up to ten seconds.
    pub fn partitions(&self, topic: &str) -> Result<i32, ReadError> {
        match metadata::partition_count(self.consumer.client(), topic, REQUEST_TIMEOUT) {
            Ok(count) if count > 0 => Ok(count),
            Ok(_) => Err(self.question_failed(topic, &KafkaError::MetadataFetch(Code::UnknownTopic))),
            Err(error) => Err(self.question_failed(topic, &error)),
        }
    }

    /// Of some partitions of a topic, the first offset whose record has this timestamp or a later one;
    /// `None` where there is none. Asks the brokers; blocks for up to ten seconds.
    ///
    /// # Errors
    /// As [`watermarks`](Self::watermarks).
    pub fn offsets_at(
        &self,
        topic: &str,
        partitions: std::ops::Range<i32>,
        time_ms: i64,
    ) -> Result<Vec<Option<i64>>, ReadError> {
        // No record is older; of negative numbers some mean something else.
        let time_ms = time_ms.max(0);
        let asked = partitions.clone().map(|partition| (topic, partition, Offset::Offset(time_ms)));
        let ask = || {
            let found = self.consumer.offsets_for_times(partition_list(asked.clone())?, REQUEST_TIMEOUT)?;
            let offset = |partition| {
                let Some(element) = found.find_partition(topic, partition) else { return Ok(None) };
                element.error()?;
                match element.offset() {
                    Offset::Offset(offset) => Ok(Some(offset)),
                    _ => Ok(None),
                }
            };
            partitions.clone().map(offset).collect()
        };
        metadata::patiently(REQUEST_TIMEOUT, ask).map_err(|error| self.question_failed(topic, &error))
    }

    fn question_failed(&self, topic: &str, error: &KafkaError) -> ReadError {
        let (client, reason) = (self.client.clone(), error.to_string());
        match error.rdkafka_error_code() {
            _ if metadata::is_unknown(error)
                && metadata::is_missing(self.consumer.client(), topic, REQUEST_TIMEOUT) =>
            {
                ReadError::UnknownTopic { topic: topic.to_owned() }
            }
            Some(code) if is_access_refused(code) => ReadError::AccessRefused { client, reason },
            _ => ReadError::Unavailable { topic: topic.to_owned(), reason },
        }
    }
}

fn client_error(client: &str, error: &KafkaError) -> ReadError {
    ReadError::Client { client: client.to_owned(), reason: error.to_string() }
}

/// A poll passes over control records, which may be all that lies before an end, without coming
/// back: the position, which moves with them, is looked at this often.
const CONTROL_SLICE: Duration = Duration::from_millis(5);
