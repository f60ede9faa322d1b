//! The join of a range, without Kafka between its parts.

use std::sync::Arc;
use std::time::Duration;

use super::error::BackfillError;
use super::merge::{Merge, Source, Step};
use super::plan::Plan;
use super::range::Range;
use crate::contract::{InputRecord, Side};
use crate::join::{Config, Effects, Judged, Output, PartitionJoin, Start};
use crate::kafka::Record;
use crate::kafka::reader::{Fed, Feeds};
use crate::settings::Settings;
use crate::supervise::{StopToken, failpoint};

/// How long to wait for a partition before the stop is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Records between two looks.
const LOOK_RECORDS: u64 = 4096;

/// What a replay is for.
pub trait Receiver {
    /// Takes the next output of the join.
    ///
    /// # Errors
    /// Ends the replay.
    fn take(&mut self, output: &Output) -> Result<(), BackfillError>;

    /// Whether a stop may come now.
    fn is_at_rest(&self) -> bool;

    /// Called now and then.
    fn look(&mut self, replay: &Replay);
}

/// A replay on its way.
pub struct Replay {
    config: Arc<Config>,
    sources: Vec<Source>,
    feeds: Feeds,
    merge: Merge<Judged>,
    /// One for each partition number.
    joins: Vec<PartitionJoin>,
    records: u64,
    time_ms: Option<i64>,
}

impl Replay {
    /// Begins to read.
    ///
    /// # Errors
    /// The Kafka client refuses.
    pub fn begin(settings: &Settings, plan: &Plan, range: &Range) -> Result<Self, BackfillError> {
        let config = Arc::new(Config::new(settings, plan.partitions));
        let partitions = plan.partitions.unsigned_abs() as usize;
        let start = |number: usize| Start::At(plan.stretches[number].from);
        let join = |number: usize| {
            let partition = plan.sources[number].partition;
            PartitionJoin::new(Arc::clone(&config), partition, start(number), start(partitions + number))
        };
        Ok(Self {
            feeds: Feeds::begin(&settings.kafka, "backfill reader", plan.stretches.clone())?,
            merge: Merge::new(&plan.sources, range.read_until_ms),
            joins: (0..partitions).map(join).collect(),
            sources: plan.sources.clone(),
            config,
            records: 0,
            time_ms: None,
        })
    }

    /// Gives what the join emits to `receiver`, in order, to the end of the range.
    ///
    /// # Errors
    /// Of the receiver, of reading, and of the join; [`BackfillError::Interrupted`] after `stop`, as soon as the
    /// receiver is at rest or no record comes.
    pub fn run(&mut self, receiver: &mut impl Receiver, stop: &StopToken) -> Result<(), BackfillError> {
        let mut effects = Effects::default();
        let mut is_stopping = false;
        loop {
            match self.merge.step() {
                Step::Read(number) => self.read(number, stop)?,
                Step::Take(number, judged) => {
                    self.take(number, judged, &mut effects)?;
                    for output in effects.outputs.drain(..) {
                        receiver.take(&output)?;
                    }
                    if self.records.is_multiple_of(LOOK_RECORDS) {
                        failpoint("backfill-look");
                        receiver.look(self);
                        is_stopping = stop.is_stopped();
                    }
                    if is_stopping && receiver.is_at_rest() {
                        return Err(BackfillError::Interrupted);
                    }
                }
                Step::Over => return Ok(()),
            }
        }
    }

    fn read(&mut self, number: usize, stop: &StopToken) -> Result<(), BackfillError> {
        match self.feeds.next(number, POLL)? {
            Fed::Record(record) => {
                let side = self.sources[number].side;
                let judged = Judged::new(&self.config, side, input(record));
                self.merge.give(number, judged.offset(), judged.event_time_ms(), judged);
            }
            Fed::End => self.merge.end(number),
            Fed::Nothing if stop.is_stopped() => return Err(BackfillError::Interrupted),
            Fed::Nothing => {}
        }
        Ok(())
    }

    fn take(&mut self, number: usize, judged: Judged, effects: &mut Effects) -> Result<(), BackfillError> {
        self.records += 1;
        self.time_ms = self.merge.stream_time_ms(number).or(self.time_ms);
        let partitions = self.joins.len();
        let (join, other) = match self.sources[number].side {
            Side::Views => (&mut self.joins[number], number + partitions),
            Side::Responses => (&mut self.joins[number - partitions], number - partitions),
        };
        if self.merge.is_over(other) {
            // Nothing of it can match any more: its windows need not wait for it.
            join.on_idle(self.sources[other].side);
        }
        Ok(join.on_judged(judged, effects)?)
    }

    /// Records joined so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The event time that has been reached; none before the first record.
    pub fn time_ms(&self) -> Option<i64> {
        self.time_ms
    }

    /// The offset behind the last record that was read of a source.
    pub fn next_offset(&self, number: usize) -> i64 {
        self.feeds.next_offset(number)
    }

    /// The stream time of a source; none where no record gave it one.
    pub fn stream_time_ms(&self, number: usize) -> Option<i64> {
        self.merge.stream_time_ms(number)
    }

    /// One for each partition number.
    pub fn joins(&self) -> &[PartitionJoin] {
        &self.joins
    }
}

fn input(record: Record) -> InputRecord {
    InputRecord {
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key,
        payload: record.payload,
    }
}
