//! The join of a range, without Kafka between its parts.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use super::error::BackfillError;
use super::plan::Plan;
use super::range::Range;
use super::reader::{Next, Reader};
use crate::join::{Config, Effects, Output, PartitionJoin, Start};
use crate::settings::Settings;
use crate::supervise::{StopToken, failpoint};

/// Records between two looks.
const LOOK_RECORDS: u64 = 4096;
/// Batches that may wait for the join.
const WAITING_BATCHES: usize = 8;

/// How far a replay has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reached {
    /// Records joined.
    pub records: u64,
    /// Event time; none before the first record.
    pub time_ms: Option<i64>,
}

impl Reached {
    /// One record more, with which its source stands at this time.
    pub fn add(&mut self, time_ms: Option<i64>) {
        self.records += 1;
        self.time_ms = time_ms.or(self.time_ms);
    }

    /// Shows it to `receiver`, if it is time to.
    pub fn show(self, receiver: &mut impl Receiver) {
        if self.records.is_multiple_of(LOOK_RECORDS) {
            failpoint("backfill-look");
            receiver.look(self);
        }
    }
}

/// What a replay is for.
pub trait Receiver {
    /// Takes the next output of the join of a partition.
    ///
    /// # Errors
    /// Ends the replay.
    fn take(&mut self, partition: i32, output: &Output) -> Result<(), BackfillError>;

    /// Called now and then.
    fn look(&mut self, reached: Reached);
}

/// A replay on its way.
pub struct Replay {
    pub reader: Reader,
    joining: Joining,
}

/// What the thread of the join has.
struct Joining {
    /// One for each partition number.
    joins: Vec<PartitionJoin>,
    reached: Reached,
    effects: Effects,
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
            let partition = plan.stretches[number].partition;
            PartitionJoin::new(Arc::clone(&config), partition, start(number), start(partitions + number))
        };
        let joins = (0..partitions).map(join).collect();
        Ok(Self {
            reader: Reader::begin(settings, config, plan, range)?,
            joining: Joining { joins, reached: Reached::default(), effects: Effects::default() },
        })
    }

    /// Gives what the join emits to `receiver`, in order, to the end of the range.
    ///
    /// # Errors
    /// Of the receiver, of reading, and of the join; [`BackfillError::Interrupted`] after `stop`.
    pub fn run(&mut self, receiver: &mut impl Receiver, stop: &StopToken) -> Result<(), BackfillError> {
        let Self { reader, joining } = self;
        let (sender, batches) = crossbeam_channel::bounded(WAITING_BATCHES);
        thread::scope(|scope| {
            let read = move || reader.run(&sender, stop);
            let reading = thread::Builder::new().name("backfill reader".to_owned()).spawn_scoped(scope, read);
            let reading = reading.map_err(BackfillError::Thread)?;
            let joined = batches.iter().try_for_each(|batch| joining.take(batch, receiver, stop));
            // Where the join has ended before, nobody takes what the reader would still send.
            drop(batches);
            let is_whole = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
            joined?;
            if is_whole? { Ok(()) } else { Err(BackfillError::Interrupted) }
        })
    }

    /// How far it has come.
    pub fn reached(&self) -> Reached {
        self.joining.reached
    }

    /// One for each partition number.
    pub fn joins(&self) -> &[PartitionJoin] {
        &self.joining.joins
    }
}

impl Joining {
    fn take(
        &mut self,
        batch: Vec<Next>,
        receiver: &mut impl Receiver,
        stop: &StopToken,
    ) -> Result<(), BackfillError> {
        if stop.is_stopped() {
            return Err(BackfillError::Interrupted);
        }
        for next in batch {
            let partition = next.partition as i32;
            self.join(next)?;
            for output in self.effects.outputs.drain(..) {
                receiver.take(partition, &output)?;
            }
            self.reached.show(receiver);
        }
        Ok(())
    }

    fn join(&mut self, next: Next) -> Result<(), BackfillError> {
        self.reached.add(next.stream_time_ms);
        let join = &mut self.joins[next.partition];
        if next.is_other_over {
            // Nothing of it can match any more: its windows need not wait for it.
            join.on_idle(next.judged.side().other());
        }
        Ok(join.on_judged(next.judged, &mut self.effects)?)
    }
}
