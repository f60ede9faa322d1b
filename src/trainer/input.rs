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
use crate::telemetry::events::{GapAccepted, RecordRepeated, SamplesQueued, TrainerLag};

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
    /// Kafka timestamp of the last record of every partition.
    pub written_ms: BTreeMap<i32, i64>,
    /// When the brokers were asked how far the ends are.
    pub looked: Instant,
}

impl<T: Message + Default> Input<T> {
    /// Reads until the halt, or until nobody listens any more.
    pub fn run(mut self) -> Result<(), TrainerError> {
        self.assign()?;
        while !self.halt.is_stopped() {
            let arrival = match self.reader.poll(SLICE) {
                Ok(Some(record)) => self.arrival(&record),
                Ok(None) => None,
                Err(ReadError::OffsetGone { topic, partition: number, offset, low, high }) => {
                    self.check_topic()?;
                    let partition = Partition { topic, number };
                    self.on_gone(Held { partition, topic_id: None, low, high }, offset)?
                }
                Err(place @ ReadError::Unreadable { .. }) => {
                    return Err(TrainerError::Unreadable { place });
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(arrival) = arrival
                && !self.hand_over(arrival)?
            {
                break;
            }
            self.look_if_due()?;
        }
        Ok(())
    }

    /// Looks from time to time how far the end is, and whether it is still the same topic.
    fn look_if_due(&mut self) -> Result<(), TrainerError> {
        if self.looked.elapsed() >= LAG_INTERVAL {
            self.check_topic()?;
            self.report_lag();
            self.looked = Instant::now();
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
        self.written_ms.extend(record.timestamp_ms.map(|written_ms| (record.partition, written_ms)));
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
    fn hand_over(&mut self, mut arrival: Arrival<T>) -> Result<bool, TrainerError> {
        loop {
            match self.sender.send_timeout(arrival, SLICE) {
                Ok(()) => return Ok(true),
                Err(SendTimeoutError::Disconnected(_)) => return Ok(false),
                Err(SendTimeoutError::Timeout(_)) if self.halt.is_stopped() => return Ok(false),
                Err(SendTimeoutError::Timeout(back)) => arrival = back,
            }
            self.look_if_due()?;
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
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let topic = &self.topic;
        SamplesQueued { topic, samples: self.sender.len() }.emit();
        for (&partition, &next) in &self.positions {
            // Without an answer the figure stays as it is: the connection's state says why.
            if let Ok((_, end)) = self.reader.watermarks(topic, partition) {
                // Behind control records too.
                let next = self.reader.position(topic, partition).map_or(next, |read| read.max(next));
                let written_ms = self.written_ms.get(&partition).copied();
                let Lag { records, seconds } = lag(next, end, written_ms, now_ms);
                TrainerLag { topic, partition, records, seconds }.emit();
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Lag {
    records: u64,
    /// Unknown before the first record.
    seconds: Option<f64>,
}

/// How far behind is who goes on at `next`, having read a record last that was written at `written_ms`.
fn lag(next: i64, end: i64, written_ms: Option<i64>, now_ms: i64) -> Lag {
    let records = u64::try_from(end - next).unwrap_or(0);
    let behind = |written_ms: i64| now_ms.saturating_sub(written_ms).max(0) as f64 / 1_000.0;
    Lag { records, seconds: if records == 0 { Some(0.0) } else { written_ms.map(behind) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_lies_before_the_end_and_the_age_of_what_was_read_last() {
        assert_eq!(lag(7, 10, Some(2_000), 5_500), Lag { records: 3, seconds: Some(3.5) });
        assert_eq!(lag(7, 10, None, 5_500), Lag { records: 3, seconds: None });
        assert_eq!(lag(10, 10, Some(2_000), 5_500), Lag { records: 0, seconds: Some(0.0) });
        assert_eq!(lag(11, 10, None, 5_500), Lag { records: 0, seconds: Some(0.0) }, "an end of before");
    }
}
