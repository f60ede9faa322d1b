//! A partition read once, to its end.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{CONTROL_SLICE, FETCH_TUNING, LogReader, Polled, REQUEST_TIMEOUT, ReadError};
use crate::kafka::Record;
use crate::settings;
use crate::supervise::StopToken;

/// How often a reader to the end looks at the stop.
const POLL_SLICE: Duration = Duration::from_millis(100);

/// Where a [`Reading`] begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The first record that the log holds.
    Beginning,
    /// This offset, which the log must hold or end at.
    Offset(i64),
}

/// A partition that is read once, from an offset to the last stable offset at the time of the call or
/// somewhat later, in slices: for a thread that has something else to do in between.
pub struct Reading {
    reader: LogReader,
    topic: String,
    partition: i32,
    next: i64,
    end: i64,
}

impl Reading {
    /// Asks for the bounds of the partition and begins to fetch.
    ///
    /// # Errors
    /// [`ReadError::OffsetGone`], [`ReadError::UnknownTopic`], [`ReadError::AccessRefused`];
    /// [`ReadError::Unavailable`] when no broker answers within `patience`.
    pub fn begin(
        kafka: &settings::Kafka,
        topic: &str,
        partition: i32,
        from: From,
        patience: Duration,
    ) -> Result<Self, ReadError> {
        // A fetch at the end waits this long before it says that there is no more.
        let tuning = [&FETCH_TUNING[..], &[("fetch.wait.max.ms", "20")]].concat();
        let mut reader = LogReader::with_tuning(kafka, "one-time reader", &tuning)?;
        let (low, end) = reader.watermarks_within(topic, partition, patience)?;
        let next = match from {
            From::Beginning => low,
            From::Offset(offset) => offset,
        };
        if next < low || next > end {
            return Err(ReadError::OffsetGone {
                topic: topic.into(),
                partition,
                offset: next,
                low,
                high: end,
            });
        }
        reader.assign(&[(topic, partition, next)])?;
        Ok(Self { reader, topic: topic.to_owned(), partition, next, end })
    }

    /// The offset to go on from.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next
    }

    /// Gives committed records to `each` until the end, until `deadline`, or until `each` breaks;
    /// true at the end.
    ///
    /// # Errors
    /// As [`LogReader::poll`].
    pub fn advance(
        &mut self,
        deadline: Instant,
        mut each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<bool, ReadError> {
        while self.next < self.end {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reader.next(left.min(CONTROL_SLICE))? {
                Polled::Record(record) => {
                    self.next = record.offset + 1;
                    if each(record).is_break() {
                        break;
                    }
                }
                // Behind the last record there are only control records and aborted ones; but the end
                // that a new leader sees may lie before the one that the old leader has told.
                Polled::End | Polled::Nothing => {
                    let reached = self.reader.reached(&self.topic, self.partition);
                    self.next = self.next.max(reached.unwrap_or(self.next));
                }
            }
            if left.is_zero() {
                break;
            }
        }
        Ok(self.next >= self.end)
    }
}

/// Gives every committed record of a partition, up to the last stable offset at the time of the
/// call or somewhat later, to `each`; the offset to go on from.
///
/// # Errors
/// As [`Reading::begin`] and [`Reading::advance`]; [`ReadError::Stopped`] when the stop comes first.
pub fn read_to_end(
    kafka: &settings::Kafka,
    topic: &str,
    partition: i32,
    from: From,
    stop: &StopToken,
    mut each: impl FnMut(Record),
) -> Result<i64, ReadError> {
    let mut reading = Reading::begin(kafka, topic, partition, from, REQUEST_TIMEOUT)?;
    loop {
        if stop.is_stopped() {
            return Err(ReadError::Stopped { topic: reading.topic, partition: reading.partition });
        }
        let is_over = reading.advance(Instant::now() + POLL_SLICE, |record| {
            each(record);
            ControlFlow::Continue(())
        })?;
        if is_over {
            return Ok(reading.next);
        }
    }
}
