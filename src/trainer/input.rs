//! One input topic: polled and decoded on a thread of its own, into a bounded channel.
//!
//! Each input has its own reader, so that the sparse pairs never wait behind the dense groups, and
//! back-pressure is a full channel: the thread waits, librdkafka's own queue fills and stops
//! fetching. Pausing partitions instead would throw away what is in that queue on every pause.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};
use prost::Message;

use crate::kafka::Record;
use crate::kafka::identity::TopicId;
use crate::kafka::reader::{LogReader, ReadError};
use crate::settings::Gap;
use crate::supervise::StopToken;
use crate::telemetry::events::{GapAccepted, RecordRepeated, TrainerLag, TrainerReads};

use super::error::TrainerError;
use super::progress::Partition;
use super::resume::{self, Held};

/// How often a waiting thread looks at the stop.
const SLICE: Duration = Duration::from_millis(100);
/// How long the question which topic it is may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often lag is measured: it asks the brokers.
const LAG_INTERVAL: Duration = Duration::from_secs(5);

/// What came from one partition, in the order of its offsets.
#[derive(Debug)]
pub struct Arrival<T> {
    pub partition: Partition,
    pub what: What<T>,
}

#[derive(Debug)]
pub enum What<T> {
    Sample {
        offset: i64,
        sample: T,
    },
    Undecodable {
        offset: i64,
    },
    /// Everything below it is gone from the log.
    Gap {
        to_offset: i64,
    },
}

/// Reads the given partitions of one topic.
pub struct Input<T> {
    pub reader: LogReader,
    pub topic: String,
    /// The cluster's id of the topic, as far as it is known.
    pub topic_id: Option<TopicId>,
    /// The next offset of every partition.
    pub positions: BTreeMap<i32, i64>,
    pub gap: Gap,
    pub sender: Sender<Arrival<T>>,
    pub halt: StopToken,
}

impl<T: Message + Default> Input<T> {
    /// Reads until the halt, or until nobody listens any more.
    pub fn run(mut self) -> Result<(), TrainerError> {
        self.assign()?;
        let partitions: Vec<_> = self.positions.keys().copied().collect();
        TrainerReads { topic: &self.topic, partitions: &partitions }.emit();
        let mut lag_at = Instant::now();
        while !self.halt.is_stopped() {
            let arrival = match self.reader.poll(SLICE) {
                Ok(Some(record)) => self.arrival(&record),
                Ok(None) => None,
                Err(ReadError::OffsetGone { topic, partition: number, offset, low, high }) => {
                    self.check_topic()?;
                    let partition = Partition { topic, number };
                    self.on_gone(Held { partition, topic_id: None, low, high }, offset)?
                }
                Err(error) => return Err(error.into()),
            };
            if arrival.is_some_and(|arrival| !self.hand_over(arrival)) {
                break;
            }
            if lag_at.elapsed() >= LAG_INTERVAL {
                lag_at = Instant::now();
                self.check_topic()?;
                self.report_lag();
            }
        }
        Ok(())
    }

    fn assign(&mut self) -> Result<(), ReadError> {
        let topic = self.topic.as_str();
        let list: Vec<_> =
            self.positions.iter().map(|(&partition, &offset)| (topic, partition, offset)).collect();
        self.reader.assign(&list)
    }

    fn arrival(&mut self, record: &Record) -> Option<Arrival<T>> {
        let next = self.positions.get_mut(&record.partition)?;
        if record.offset < *next {
            let (topic, partition, offset) = (&*self.topic, record.partition, record.offset);
            RecordRepeated { topic, partition, offset }.emit();
            return None;
        }
        *next = record.offset + 1;
        let partition = Partition { topic: record.topic.clone(), number: record.partition };
        let offset = record.offset;
        let what = match T::decode(record.payload.clone().unwrap_or_default()) {
            // Protobuf decodes nothing to an empty message: a record without a value is not one.
            Ok(sample) if record.payload.is_some() => What::Sample { offset, sample },
            _ => What::Undecodable { offset },
        };
        Some(Arrival { partition, what })
    }

    fn on_gone(&mut self, held: Held, offset: i64) -> Result<Option<Arrival<T>>, TrainerError> {
        let Some(low) = resume::judge(&held, offset, self.gap)? else { return Ok(None) };
        let partition = held.partition;
        GapAccepted { topic: &self.topic, partition: partition.number, offsets: (offset, low) }.emit();
        self.positions.insert(partition.number, low);
        self.assign()?;
        Ok(Some(Arrival { partition, what: What::Gap { to_offset: low } }))
    }

    /// Waits while the channel is full; false when it is over.
    fn hand_over(&self, mut arrival: Arrival<T>) -> bool {
        loop {
            match self.sender.send_timeout(arrival, SLICE) {
                Ok(()) => return true,
                Err(SendTimeoutError::Disconnected(_)) => return false,
                Err(SendTimeoutError::Timeout(_)) if self.halt.is_stopped() => return false,
                Err(SendTimeoutError::Timeout(back)) => arrival = back,
            }
        }
    }

    /// Whether the topic is still the one that was begun with: librdkafka goes on at its old offsets in
    /// another one. Without an answer it is asked again later.
    fn check_topic(&self) -> Result<(), TrainerError> {
        // Where it was not known at the beginning, the brokers give none.
        let Some(before) = &self.topic_id else { return Ok(()) };
        let Ok(Some(now)) = self.reader.topic_id(&self.topic, ANSWER_WITHIN) else { return Ok(()) };
        let Some((&number, &offset)) = self.positions.first_key_value() else { return Ok(()) };
        let partition = Partition { topic: self.topic.as_str().into(), number };
        let held = Held { partition, topic_id: Some(now), low: 0, high: 0 };
        resume::check_identity(Some(before), &held, offset)
    }

    fn report_lag(&self) {
        for (&partition, &next) in &self.positions {
            // Without an answer the figure stays as it is: the connection's state says why.
            if let Ok((_, end)) = self.reader.watermarks(&self.topic, partition) {
                let records = u64::try_from(end - next).unwrap_or(0);
                TrainerLag { topic: &self.topic, partition, records }.emit();
            }
        }
    }
}
