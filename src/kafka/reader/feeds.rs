//! Partitions that are read beside each other, each at its own pace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;

use super::{Context, LogReader, Polled, ReadError};
use crate::kafka::Record;
use crate::settings;

/// What librdkafka may fetch ahead in all, shared by the partitions.
const AHEAD_KIB: usize = 256 << 10;
const MAX_AHEAD_KIB: usize = 64 << 10;
const MIN_AHEAD_KIB: usize = 1 << 10;
const MAX_FETCH_KIB: usize = 4 << 10;

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
    /// The record that follows.
    Record(Record),
    /// There is no committed record before the end any more.
    End,
    /// Nothing yet.
    Nothing,
}

/// Reads stretches of several partitions, each of which waits for as long as nobody asks it: what is
/// fetched ahead of a partition is bounded by itself, so one that is slow does not make the others
/// pile up. Belongs to no group and commits nothing. Used by one thread.
pub struct Feeds {
    // Before the reader: a queue must not outlive the client that it is a part of.
    feeds: Vec<Feed>,
    reader: LogReader,
}

struct Feed {
    stretch: Stretch,
    queue: PartitionQueue<Context>,
    /// Records that came before the partition had a queue of its own.
    early: VecDeque<Record>,
    next: i64,
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
        let assigned: Vec<_> =
            stretches.iter().map(|stretch| (&*stretch.topic, stretch.partition, stretch.from)).collect();
        reader.assign(&assigned)?;
        let mut feeds = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            let queue = reader.consumer.split_partition_queue(&stretch.topic, stretch.partition);
            let queue = queue.ok_or_else(|| ReadError::UnknownTopic { topic: stretch.topic.to_string() })?;
            feeds.push(Feed { next: stretch.from, stretch, queue, early: VecDeque::new() });
        }
        let mut feeds = Self { feeds, reader };
        // Nothing comes here after the split but what is no record.
        while feeds.serve()? {}
        Ok(feeds)
    }

    /// The next record of the stretch with this number, waiting for it for up to `timeout`.
    ///
    /// # Errors
    /// As [`LogReader::poll`].
    pub fn next(&mut self, number: usize, timeout: Duration) -> Result<Fed, ReadError> {
        let feed = &mut self.feeds[number];
        if feed.next >= feed.stretch.end {
            return Ok(Fed::End);
        }
        if let Some(record) = feed.early.pop_front() {
            return Ok(feed.take(record));
        }
        match self.reader.polled(feed.queue.poll(timeout))? {
            Polled::Record(record) => Ok(feed.take(record)),
            // Behind the last record there are only control records and aborted ones; but the end that a
            // new leader sees may lie before the one that the old leader has told.
            Polled::End => Ok(self.end(number)),
            Polled::Nothing => {
                self.serve()?;
                Ok(self.end(number))
            }
        }
    }

    /// Whether nothing but control records lay before the end of a stretch.
    fn end(&mut self, number: usize) -> Fed {
        let feed = &mut self.feeds[number];
        let reached = self.reader.reached(&feed.stretch.topic, feed.stretch.partition);
        // What came early may wait still.
        if !feed.early.is_empty() || reached.is_none_or(|reached| reached < feed.stretch.end) {
            return Fed::Nothing;
        }
        feed.next = feed.stretch.end;
        Fed::End
    }

    /// The offset behind the last record of a stretch that was handed out; its end, once that was told.
    pub fn next_offset(&self, number: usize) -> i64 {
        self.feeds[number].next
    }

    /// Takes what concerns no single partition; false when there is nothing.
    fn serve(&mut self) -> Result<bool, ReadError> {
        match self.reader.next(Duration::ZERO)? {
            Polled::Record(record) => {
                let is_its = |feed: &&mut Feed| {
                    feed.stretch.partition == record.partition && feed.stretch.topic == record.topic
                };
                if let Some(feed) = self.feeds.iter_mut().find(is_its) {
                    feed.early.push_back(record);
                }
                Ok(true)
            }
            Polled::End => Ok(true),
            Polled::Nothing => Ok(false),
        }
    }
}

impl Feed {
    fn take(&mut self, record: Record) -> Fed {
        if record.offset >= self.stretch.end {
            self.next = self.stretch.end;
            return Fed::End;
        }
        self.next = record.offset + 1;
        Fed::Record(record)
    }
}
