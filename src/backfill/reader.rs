//! Both inputs read, validated and merged: on a thread of its own, so that the join need not wait for it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::error::BackfillError;
use super::merge::{Merge, Step};
use super::plan::Plan;
use super::range::Range;
use crate::contract::Side;
use crate::join::{Config, Judged};
use crate::kafka::reader::{Fed, Feeds};
use crate::settings::Settings;
use crate::supervise::StopToken;

/// How long to wait for a partition before the stop is looked at.
pub const POLL: Duration = Duration::from_millis(100);
/// Records that go to the join together are at most so many, ...
const BATCH_RECORDS: usize = 1024;
/// ... or as many as have these bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The next record of all.
pub struct Next {
    /// The number of its partition.
    pub partition: usize,
    pub judged: Judged,
    /// Where its source stands with it; none before the first event time.
    pub stream_time_ms: Option<i64>,
    /// The other input of the same partition number has ended before.
    pub is_other_over: bool,
}

/// Reads what a plan names, in the one order of all records.
pub struct Reader {
    config: Arc<Config>,
    /// Of either input. The sources are those of the views, then those of the responses.
    partitions: usize,
    feeds: Feeds,
    merge: Merge<Judged>,
}

impl Reader {
    /// Begins to fetch.
    ///
    /// # Errors
    /// The Kafka client refuses.
    pub fn begin(
        settings: &Settings,
        config: Arc<Config>,
        plan: &Plan,
        range: &Range,
    ) -> Result<Self, BackfillError> {
        Ok(Self {
            config,
            feeds: Feeds::begin(&settings.kafka, "backfill reader", plan.stretches.clone())?,
            merge: Merge::new(plan.stretches.len(), range.read_until_ms),
            partitions: plan.stretches.len() / 2,
        })
    }

    /// Sends all records on. False when it ended before the last one: nobody takes them any more, or `stop`
    /// came before the next of them.
    ///
    /// # Errors
    /// As [`Feeds::next`].
    pub fn run(&mut self, batches: &Sender<Vec<Next>>, stop: &StopToken) -> Result<bool, BackfillError> {
        let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_RECORDS), 0);
        loop {
            let is_due = match self.merge.step() {
                Step::Read(number) if self.read(number)? => false,
                Step::Read(_) if stop.is_stopped() => return Ok(false),
                Step::Read(_) => !batch.is_empty(),
                Step::Take(number, judged) => {
                    bytes += judged.bytes();
                    batch.push(self.next(number, judged));
                    batch.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES
                }
                Step::Over => return Ok(batches.send(batch).is_ok()),
            };
            if is_due {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_RECORDS));
                bytes = 0;
                if batches.send(full).is_err() {
                    return Ok(false);
                }
            }
        }
    }

    /// Reads the next record of a source, or its end; false when there is neither yet.
    fn read(&mut self, number: usize) -> Result<bool, BackfillError> {
        match self.feeds.next(number, POLL)? {
            Fed::Record(record) => {
                let mut judged = Judged::new(&self.config, self.side(number), record);
                judged.detach(&self.config);
                self.merge.give(number, judged.event_time_ms(), judged);
            }
            Fed::End => self.merge.end(number),
            Fed::Nothing => return Ok(false),
        }
        Ok(true)
    }

    fn next(&self, number: usize, judged: Judged) -> Next {
        let other = match self.side(number) {
            Side::Views => number + self.partitions,
            Side::Responses => number - self.partitions,
        };
        Next {
            partition: number % self.partitions,
            judged,
            stream_time_ms: self.merge.stream_time_ms(number),
            is_other_over: self.merge.is_over(other),
        }
    }

    fn side(&self, number: usize) -> Side {
        if number < self.partitions { Side::Views } else { Side::Responses }
    }

    /// The offset behind the last record that was read of a source.
    pub fn next_offset(&self, number: usize) -> i64 {
        self.feeds.next_offset(number)
    }

    /// The stream time of a source; none where no record gave it one.
    pub fn stream_time_ms(&self, number: usize) -> Option<i64> {
        self.merge.stream_time_ms(number)
    }
}
