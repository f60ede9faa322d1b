//! Partitions come and go: the states of new ones are built from what the group has committed.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::contract::Side;
use crate::join::{self, InputState, PartitionJoin};
use crate::kafka::membership::{Bounds, Committed, CommittedPartition, Start};
use crate::kafka::reader::{self, From, ReadError};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events;

use super::JoinerError;
use super::begin::{BeginAt, begin_at};
use super::instance::Instance;
use super::partition::{Partition, Phase};
use super::tail::{Tail, TailProgress};

impl Instance<'_> {
    pub(super) fn on_assigned(&mut self, partitions: Vec<i32>) -> Result<(), JoinerError> {
        self.must_rebuild = false;
        self.partitions.clear();
        let Some(states) = self.recover(&partitions)? else {
            self.membership.release()?;
            return Ok(());
        };
        self.membership.start(&starts(&states))?;
        self.partitions = states;
        events::PartitionsAssigned { instance: self.number, partitions: &partitions }.emit();
        Ok(())
    }

    pub(super) fn on_revoked(&mut self, lost: bool) -> Result<(), JoinerError> {
        if lost {
            self.abort("the assignment was lost")?;
        } else {
            self.transact(Self::commit)?;
        }
        self.forget_partitions(lost);
        self.membership.release()?;
        Ok(())
    }

    /// Builds the states of the same assignment again, after an abort.
    pub(super) fn rebuild(&mut self) -> Result<(), JoinerError> {
        let owned = self.membership.owned();
        // Without an answer the assignment is lost, which a poll will say.
        let Some(states) = self.recover(&owned)? else { return Ok(()) };
        self.membership.rewind(&starts(&states))?;
        self.partitions = states;
        self.must_rebuild = false;
        Ok(())
    }

    /// Nothing is owned, nothing of it is shown any more.
    pub(super) fn forget_partitions(&mut self, lost: bool) {
        let partitions = self.membership.owned();
        self.partitions.clear();
        self.must_rebuild = false;
        events::PartitionsRevoked { instance: self.number, partitions: &partitions, lost }.emit();
    }

    /// The states of these partitions as of the committed offsets; `None` when stopped, or when the
    /// assignment was lost meanwhile.
    fn recover(&mut self, partitions: &[i32]) -> Result<Option<BTreeMap<i32, Partition>>, JoinerError> {
        let Some(committed) = self.membership.committed(partitions, self.stop)? else { return Ok(None) };
        let mut states = BTreeMap::new();
        for of_partition in committed {
            let number = of_partition.partition;
            let Some(state) = self.recover_partition(of_partition)? else { return Ok(None) };
            states.insert(number, state);
        }
        Ok(Some(states))
    }

    fn recover_partition(&mut self, committed: CommittedPartition) -> Result<Option<Partition>, JoinerError> {
        let number = committed.partition;
        match (committed.views, committed.responses) {
            (Some(views), Some(responses)) => {
                let Some(views) = self.resume(Side::Views, number, views)? else { return Ok(None) };
                let Some(responses) = self.resume(Side::Responses, number, responses)? else {
                    return Ok(None);
                };
                let Some(tail) = self.plan_tail(number, (views.clone(), responses.clone()))? else {
                    return Ok(None);
                };
                let join = PartitionJoin::new(self.config.clone(), number, views, responses);
                self.report_losses(number, &join);
                Ok(Some(Partition::new(number, join, Phase::Tail(Box::new(tail)), Instant::now())))
            }
            (None, None) => self.begin(number),
            (Some(_), None) => Err(self.one_sided(Side::Views, number)),
            (None, Some(_)) => Err(self.one_sided(Side::Responses, number)),
        }
    }

    /// Says loudly what retention has removed of what is still needed: records that were consumed
    /// and wait in the window, and records that nobody has read.
    fn report_losses(&self, partition: i32, join: &PartitionJoin) {
        for loss in join.retention_losses() {
            let topic = self.membership.topic(loss.side);
            events::RecordsLost {
                topic,
                partition,
                offsets: (loss.from_offset, loss.to_offset),
                times_ms: (loss.from_time_ms, loss.to_time_ms),
            }
            .emit();
        }
    }

    /// The broker forgets a group's offsets of a topic that is deleted.
    fn one_sided(&self, with: Side, partition: i32) -> JoinerError {
        JoinerError::OneSided {
            group: self.settings.joiner.group.clone(),
            with: self.membership.topic(with).to_string(),
            without: self.membership.topic(with.other()).to_string(),
            partition,
        }
    }

    fn resume(
        &self,
        side: Side,
        partition: i32,
        committed: Committed,
    ) -> Result<Option<join::Start>, JoinerError> {
        let topic = self.membership.topic(side);
        let group = || self.settings.joiner.group.clone();
        let state = InputState::decode(committed.offset, &committed.metadata).map_err(|source| {
            JoinerError::Frontier { group: group(), topic: topic.to_string(), partition, source }
        })?;
        let Some(Bounds { low, end }) = self.membership.bounds(topic, partition, self.stop)? else {
            return Ok(None);
        };
        if committed.offset > end {
            return Err(JoinerError::OffsetBeyondEnd {
                group: group(),
                topic: topic.to_string(),
                partition,
                committed: committed.offset,
                end,
            });
        }
        Ok(Some(join::Start::Resume { state, low_watermark: low }))
    }

    /// A partition of which the group has consumed nothing yet.
    fn begin(&self, partition: i32) -> Result<Option<Partition>, JoinerError> {
        if !self.check_no_outputs(partition)? {
            return Ok(None);
        }
        let mut first = [0; 2];
        for (first, side) in first.iter_mut().zip([Side::Views, Side::Responses]) {
            let Some(bounds) = self.membership.bounds(self.membership.topic(side), partition, self.stop)?
            else {
                return Ok(None);
            };
            *first = match begin_at(&self.settings.input.start)? {
                BeginAt::Earliest => bounds.low,
                BeginAt::Latest => bounds.end,
                BeginAt::TimeMs(time_ms) => {
                    match self.membership.offset_at(side, partition, time_ms, self.stop)? {
                        Some(offset) => offset,
                        None => return Ok(None),
                    }
                }
            };
        }
        let [views, responses] = first.map(join::Start::At);
        let join = PartitionJoin::new(self.config.clone(), partition, views, responses);
        let mut state = Partition::new(partition, join, Phase::Live, Instant::now());
        // A beginning that depends on the time of the start is committed at once, so that the next
        // start does not choose another one.
        state.is_changed = begin_at(&self.settings.input.start)? != BeginAt::Earliest;
        Ok(Some(state))
    }

    /// Outputs without committed offsets mean that offsets have expired, or that the group has a
    /// new name: beginning again would write all of them twice. `false`: no answer before the stop.
    fn check_no_outputs(&self, partition: i32) -> Result<bool, JoinerError> {
        let topics = &self.settings.topics;
        let outputs = [
            &topics.labelled_views,
            &topics.preference_pairs,
            &topics.behavior_groups,
            &topics.late,
            &topics.dead_letters,
        ];
        for topic in outputs {
            let Some(Bounds { low, end }) = self.membership.bounds(topic, partition, self.stop)? else {
                return Ok(false);
            };
            // What lies there can have been aborted: only a record that readers see is an output.
            if low < end
                && let Some(offset) = first_record(self.settings, topic, partition)?
            {
                return Err(JoinerError::OutputsWithoutOffsets {
                    group: self.settings.joiner.group.clone(),
                    topic: topic.clone(),
                    partition,
                    offset,
                });
            }
        }
        Ok(true)
    }

    /// What has to be read of the labelled topic: its last `join.pair_lookback` records, and all
    /// that the previous owner's decided transactions wrote. These may be seen a moment later than
    /// its offsets, so the end is the end of the log, not its last stable offset.
    fn plan_tail(
        &self,
        partition: i32,
        starts: (join::Start, join::Start),
    ) -> Result<Option<Tail>, JoinerError> {
        let topic = &self.settings.topics.labelled_views;
        let Some(end) = self.membership.uncommitted_end(topic, partition, self.stop)? else {
            return Ok(None);
        };
        let Some(stable) = self.membership.bounds(topic, partition, self.stop)? else { return Ok(None) };
        Ok(Some(Tail::plan(self.settings.join.pair_lookback, stable, end, starts)))
    }

    /// Reads the labelled tail of one partition, so that the next poll is never far away.
    pub(super) fn read_tails(&mut self) -> Result<(), JoinerError> {
        let settings = self.settings;
        let topic = &settings.topics.labelled_views;
        for (&number, partition) in &mut self.partitions {
            let Phase::Tail(tail) = &mut partition.phase else { continue };
            let mut fault = None;
            let (join, records) = (&mut partition.join, &mut tail.records);
            let from = From::Offset(tail.next);
            let read = reader::read_to_end(&settings.kafka, topic, number, from, self.stop, |record| {
                *records += 1;
                let payload = record.payload.as_deref().unwrap_or_default();
                fault = fault.take().or_else(|| join.on_labelled_tail(record.offset, payload).err());
            });
            match (read, fault) {
                (_, Some(fault)) => return Err(fault.into()),
                (Ok(next), None) => tail.next = next,
                // The brokers are away, nothing was read: the same again in the next turn.
                (Err(ReadError::Stopped { .. } | ReadError::Unavailable { .. }), None) => return Ok(()),
                (Err(error), None) => return Err(error.into()),
            }
            match tail.progress(settings.join.pair_lookback) {
                TailProgress::Waiting => {}
                TailProgress::Done => partition.phase = Phase::Replay,
                TailProgress::TooFew => {
                    tail.restart_at_low();
                    let (views, responses) = tail.starts.clone();
                    partition.join = PartitionJoin::new(self.config.clone(), number, views, responses);
                }
            }
            return Ok(());
        }
        Ok(())
    }
}

fn starts(states: &BTreeMap<i32, Partition>) -> Vec<Start> {
    let start = |(&partition, state): (&i32, &Partition)| Start {
        partition,
        views: state.join.read_from(Side::Views),
        responses: state.join.read_from(Side::Responses),
    };
    states.iter().map(start).collect()
}

/// The offset of the first record of an output partition that a reader sees.
fn first_record(settings: &Settings, topic: &str, partition: i32) -> Result<Option<i64>, ReadError> {
    let mut first = None;
    // Stopped by the record that answers the question, so that not all of the topic is read.
    let found = StopToken::new();
    let read = reader::read_to_end(&settings.kafka, topic, partition, From::Beginning, &found, |record| {
        first.get_or_insert(record.offset);
        found.stop();
    });
    match read {
        Ok(_) | Err(ReadError::Stopped { .. }) => Ok(first),
        Err(error) => Err(error),
    }
}
