//! Partitions that are read beside each other, each at its own pace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::queue::{Message, Queue, Queued, QueuedError};
use super::unreadable::{is_unreadable, unreadable};
use super::{LogReader, Polled, ReadError};
use crate::contract::InputRecord;
use crate::kafka::client::is_connection_trouble;
use crate::settings;

/// What librdkafka may fetch ahead in all, shared by the partitions. Below its bound a partition is fetched once
/// more: it can lie above by one fetch, and by what the batches of that take when they are decompressed.
const AHEAD_KIB: usize = 256 << 10;
const MAX_AHEAD_KIB: usize = 64 << 10;
const MIN_AHEAD_KIB: usize = 1 << 10;
const MAX_FETCH_KIB: usize = 4 << 10;
/// Records are copied into pieces of memory of this size, which last as long as any record in them.
const PIECE_BYTES: usize = 32 << 10;

/// Offsets of a partition, from the first one up to and without the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
    /// The first offset to read.
    pub from: i64,
    /// The offset to stop at, at most the last stable one.
    pub end: i64,
}

/// What a partition has next.
#[derive(Debug)]
pub enum Fed {
    /// The record that follows. It shares its memory with its neighbors: who keeps few of many copies them.
    Record(InputRecord),
    /// There is no committed record before the end any more.
    End,
    /// Nothing yet.
    Nothing,
}

/// Reads stretches of several partitions, each of which waits for as long as nobody asks it: what is
/// fetched ahead of a partition is bounded by itself, so one that is slow does not make the others
/// pile up. Belongs to no group and commits nothing. Used by one thread.
pub struct Feeds {
    feeds: Vec<Feed>,
    reader: LogReader,
}

struct Feed {
    stretch: Stretch,
    queue: Queue,
    piece: BytesMut,
    /// Taken out of the queue, and not handed out.
    ready: VecDeque<Result<InputRecord, QueuedError>>,
    /// The last error, until a record comes.
    told: Option<Code>,
    /// The offset behind the last record that was handed out.
    next: i64,
    /// There is no committed record between those that are ready and this offset.
    reached: i64,
}

/// What came out of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Records, or that there are none for now: a broker has answered.
    Life,
    /// Errors only.
    Trouble,
    Nothing,
}

impl Feeds {
    /// Begins to fetch. `client` names the reader in logs.
    ///
    /// # Errors
    /// [`ReadError::Client`] when librdkafka refuses.
    pub fn begin(kafka: &settings::Kafka, client: &str, stretches: Vec<Stretch>) -> Result<Self, ReadError> {
        let ahead_kib = (AHEAD_KIB / stretches.len().max(1)).clamp(MIN_AHEAD_KIB, MAX_AHEAD_KIB);
        let (ahead, fetch) = (ahead_kib.to_string(), (ahead_kib.min(MAX_FETCH_KIB) << 10).to_string());
        let tuning = [
            // Of partitions with queues of their own this is the bound of each.
            ("queued.max.messages.kbytes", &*ahead),
            ("max.partition.fetch.bytes", &*fetch),
            // While it waits for partitions that are at their ends, nothing comes of the others.
            ("fetch.wait.max.ms", "20"),
        ];
        let mut reader = LogReader::tuned(kafka, client, &tuning)?;
        let assigned: Vec<(Arc<str>, i32, i64)> = stretches
            .iter()
            .filter(|stretch| stretch.from < stretch.end)
            .map(|stretch| (Arc::clone(&stretch.topic), stretch.partition, stretch.from))
            .collect();
        let feed = |stretch: Stretch| {
            let queue = Queue::split(&reader.consumer, &stretch.topic, stretch.partition);
            let queue = queue.ok_or_else(|| ReadError::Client {
                client: client.to_owned(),
                reason: format!("'{}' has no partition {}", stretch.topic, stretch.partition),
            })?;
            let (next, reached) = (stretch.from, stretch.from);
            let (piece, ready) = (BytesMut::new(), VecDeque::new());
            Ok(Feed { stretch, queue, piece, ready, told: None, next, reached })
        };
        let feeds = stretches.into_iter().map(feed).collect::<Result<_, ReadError>>()?;
        let assigned: Vec<_> =
            assigned.iter().map(|(topic, number, from)| (&**topic, *number, *from)).collect();
        reader.assign(&assigned)?;
        Ok(Self { feeds, reader })
    }

    /// The next record of the stretch with this number, waiting for it for up to `timeout`.
    ///
    /// # Errors
    /// As [`LogReader::poll`].
    pub fn next(&mut self, number: usize, timeout: Duration) -> Result<Fed, ReadError> {
        let fed = self.fed(number, timeout)?;
        if matches!(fed, Fed::End) {
            // The brokers need not be asked for what comes behind it.
            let Stretch { topic, partition, .. } = &self.feeds[number].stretch;
            self.reader.pause_partition(topic, *partition)?;
        }
        Ok(fed)
    }

    fn fed(&mut self, number: usize, timeout: Duration) -> Result<Fed, ReadError> {
        let feed = &mut self.feeds[number];
        if feed.next >= feed.stretch.end {
            return Ok(Fed::End);
        }
        if feed.ready.is_empty() {
            match feed.refill(timeout) {
                Came::Life => self.reader.consumer.context().connection.note_up(),
                Came::Trouble => {}
                Came::Nothing => self.reader.beside_queues()?,
            }
        }
        match feed.ready.pop_front() {
            Some(Ok(record)) => Ok(feed.hand_out(record)),
            Some(Err(error)) => feed.on_error(error, &self.reader),
            // Behind the last record there are only control records and aborted ones; but the end that a
            // new leader sees may lie before the one that the old leader has told.
            None if feed.reached >= feed.stretch.end => {
                feed.next = feed.stretch.end;
                Ok(Fed::End)
            }
            None => Ok(Fed::Nothing),
        }
    }

    /// The offset behind the last record of a stretch that was handed out; its end, once that was told.
    pub fn next_offset(&self, number: usize) -> i64 {
        self.feeds[number].next
    }
}

impl Feed {
    /// Takes what has been fetched, or waits for it.
    fn refill(&mut self, timeout: Duration) -> Came {
        let Self { stretch, queue, piece, ready, reached, .. } = self;
        let mut came = Came::Nothing;
        queue.take(timeout, |queued| match queued {
            Queued::Message(message) => {
                ready.push_back(Ok(copied(piece, stretch.partition, &message)));
                came = Came::Life;
            }
            Queued::End(offset) => {
                *reached = offset.max(*reached);
                came = Came::Life;
            }
            Queued::Error(error) => {
                ready.push_back(Err(error));
                if came == Came::Nothing {
                    came = Came::Trouble;
                }
            }
        });
        came
    }

    /// What stands where a record would.
    fn on_error(&mut self, error: QueuedError, reader: &LogReader) -> Result<Fed, ReadError> {
        let Self { stretch: Stretch { topic, partition, end, .. }, next, told, .. } = self;
        let QueuedError { code, offset } = error;
        let offset = offset.map_or(*next, |offset| offset.max(*next));
        let cause = KafkaError::MessageConsumption(code);
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                let (topic, partition, offset) = (Arc::clone(topic), *partition, *next);
                let (low, high) = reader.watermarks(&topic, partition)?;
                if (low..=high).contains(&offset) {
                    return Err(unreadable(&topic, partition, offset, code));
                }
                return Err(ReadError::OffsetGone { topic, partition, offset, low, high });
            }
            _ if is_unreadable(code) && offset >= *end => {
                *next = *end;
                return Ok(Fed::End);
            }
            _ if is_unreadable(code) => return Err(unreadable(topic, *partition, offset, code)),
            _ if is_connection_trouble(&cause) => {}
            _ if told.replace(code) != Some(code) => {
                tracing::warn!(%topic, partition, offset, "reading fails, and is tried again: {cause}");
            }
            _ => {}
        }
        reader.on_error(&cause).map(|()| Fed::Nothing)
    }

    fn hand_out(&mut self, record: InputRecord) -> Fed {
        if record.offset >= self.stretch.end {
            self.next = self.stretch.end;
            return Fed::End;
        }
        self.next = record.offset + 1;
        self.told = None;
        Fed::Record(record)
    }
}

impl LogReader {
    /// What concerns no single partition.
    fn beside_queues(&self) -> Result<(), ReadError> {
        match self.next(Duration::ZERO)? {
            Polled::Nothing => Ok(()),
            Polled::Record(_) | Polled::End => Err(ReadError::Client {
                client: self.client.clone(),
                reason: "what was fetched of a partition did not come out of its queue".to_owned(),
            }),
        }
    }
}

fn copied(piece: &mut BytesMut, partition: i32, message: &Message<'_>) -> InputRecord {
    let (key, payload) = (message.key.unwrap_or_default(), message.payload.unwrap_or_default());
    let bytes = key.len() + payload.len();
    if bytes > piece.capacity() {
        *piece = BytesMut::with_capacity(bytes.max(PIECE_BYTES));
    }
    piece.extend_from_slice(key);
    piece.extend_from_slice(payload);
    let mut rest = piece.split().freeze();
    InputRecord {
        partition,
        offset: message.offset,
        timestamp_ms: message.timestamp_ms,
        key: message.key.map(|key| rest.split_to(key.len())),
        payload: message.payload.map(|_| rest),
    }
}
