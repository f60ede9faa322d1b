//! Partitions come and go: the states of new ones are built from what the group has committed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::contract::Side;
use crate::join::{self, Frontier, InputState, PartitionJoin, Position};
use crate::kafka::identity::TopicId;
use crate::kafka::membership::{Bounds, Committed, CommittedPartition, PATIENCE, Start};
use crate::kafka::reader::{From, ReadError, Reading};
use crate::settings::Settings;
use crate::telemetry::events;

use super::JoinerError;
use super::begin::{BeginAt, begin_at};
use super::error::TopicReplaced;
use super::instance::{Instance, Pending};
use super::partition::{Partition, Phase, TailReading};
use super::tail::{Tail, TailProgress};

/// How long one turn of the loop reads earlier outputs.
const TAIL_SLICE: Duration = Duration::from_millis(100);
/// How long a tail is left alone when there was nothing to read.
const TAIL_PAUSE: Duration = Duration::from_millis(200);

impl Instance<'_> {
    pub(super) fn on_assigned(&mut self, partitions: Vec<i32>) -> Result<(), JoinerError> {
        self.must_rebuild = false;
        self.partitions.clear();
        self.pending = Some(Pending { partitions, since: Instant::now() });
        self.start_pending()?;
        if self.pending.is_some() {
            self.membership.put_off()?;
        }
        Ok(())
    }

    /// Builds the states of an assignment and begins to read; later, when the brokers do not answer.
    pub(super) fn start_pending(&mut self) -> Result<(), JoinerError> {
        let Some(Pending { partitions, since }) = self.pending.clone() else { return Ok(()) };
        let mut kept = std::mem::take(&mut self.kept);
        let recovered = match self.recover(&partitions, &mut kept, since) {
            Err(error) if error.is_no_answer() => {
                self.kept = kept;
                return Ok(());
            }
            recovered => recovered?,
        };
        self.pending = None;
        let Some(states) = recovered else {
            self.membership.release()?;
            return Ok(());
        };
        self.membership.start(&starts(&states))?;
        self.partitions = states;
        events::PartitionsAssigned {
            instance: self.number,
            partitions: &partitions,
            topics: [&self.settings.topics.behavior, &self.settings.topics.responses],
            after: self.nothing_since.elapsed(),
        }
        .emit();
        Ok(())
    }

    pub(super) fn on_revoked(&mut self, lost: bool) -> Result<(), JoinerError> {
        self.pending = None;
        if lost {
            self.abort("the assignment was lost")?;
        } else {
            self.transact(Self::commit)?;
            // Most of them come back at once: a member that joins or leaves moves a few.
            let mut partitions = std::mem::take(&mut self.partitions);
            partitions.retain(|_, partition| partition.is_as_committed());
            self.kept.append(&mut partitions);
        }
        self.forget_partitions(lost);
        self.membership.release()?;
        Ok(())
    }

    /// Builds the states of the same assignment again, after an abort.
    pub(super) fn rebuild(&mut self) -> Result<(), JoinerError> {
        let owned = self.membership.owned();
        let recovered = match self.recover(&owned, &mut BTreeMap::new(), Instant::now()) {
            Err(error) if error.is_no_answer() => return Ok(()),
            recovered => recovered?,
        };
        // The assignment is lost, which a poll will say.
        let Some(states) = recovered else { return Ok(()) };
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
        self.nothing_since = Instant::now();
        events::PartitionsRevoked { instance: self.number, partitions: &partitions, lost }.emit();
    }

    /// The states of these partitions as of the committed offsets; `None` when stopped, or when the
    /// assignment was lost meanwhile. One of `kept` goes on if nobody has committed since: offsets
    /// and metadata, which every commit changes, are what this instance committed last.
    fn recover(
        &mut self,
        partitions: &[i32],
        kept: &mut BTreeMap<i32, Partition>,
        since: Instant,
    ) -> Result<Option<BTreeMap<i32, Partition>>, JoinerError> {
        if partitions.is_empty() {
            return Ok(Some(BTreeMap::new()));
        }
        let Some(ids) = self.membership.topic_ids(self.stop)? else { return Ok(None) };
        let Some(committed) = self.membership.committed(partitions, self.stop)? else { return Ok(None) };
        let mut states = BTreeMap::new();
        let mut unchanged = Vec::new();
        for of_partition in committed {
            let number = of_partition.partition;
            let frontier = frontier(&of_partition);
            if kept.get(&number).is_some_and(|kept| {
                frontier.is_some() && kept.frontier == frontier && are_the_same(kept.join.topic_ids(), &ids)
            }) {
                unchanged.push(number);
                continue;
            }
            let Some(mut state) = self.recover_partition(of_partition, &ids, since)? else {
                return Ok(None);
            };
            state.frontier = frontier;
            states.insert(number, state);
        }
        states.iter().for_each(|(&number, state)| self.report_losses(number, &state.join));
        for number in unchanged {
            if let Some(mut partition) = kept.remove(&number) {
                partition.go_on(Instant::now());
                states.insert(number, partition);
            }
        }
        self.tokens.know_topics(&ids);
        Ok(Some(states))
    }

    fn recover_partition(
        &mut self,
        committed: CommittedPartition,
        ids: &[Option<TopicId>; 2],
        since: Instant,
    ) -> Result<Option<Partition>, JoinerError> {
        let number = committed.partition;
        let [views_id, responses_id] = ids;
        match (committed.views, committed.responses) {
            (Some(views), Some(responses)) => {
                let Some(views) = self.resume(Side::Views, number, views, views_id)? else { return Ok(None) };
                let Some(responses) = self.resume(Side::Responses, number, responses, responses_id)? else {
                    return Ok(None);
                };
                let Some(tail) = self.plan_tail(number, (views.clone(), responses.clone()))? else {
                    return Ok(None);
                };
                let join = self.join(number, (views, responses), ids);
                Ok(Some(Partition::new(number, join, Phase::Tail(Box::new(tail.into())), since)))
            }
            (None, None) => self.begin(number, ids, since),
            (Some(_), None) => Err(self.one_sided(Side::Views, number)),
            (None, Some(_)) => Err(self.one_sided(Side::Responses, number)),
        }
    }

    /// Says loudly what retention has removed of what is still needed: records that were consumed
    /// and wait in the window, and records that nobody has read.
    fn report_losses(&mut self, partition: i32, join: &PartitionJoin) {
        for loss in join.retention_losses() {
            let Some(offsets) = self.told_losses.news(partition, loss) else { continue };
            let topic = self.membership.topic(loss.side);
            events::RecordsLost { topic, partition, offsets, times_ms: (loss.from_time_ms, loss.to_time_ms) }
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
        topic_id: &Option<TopicId>,
    ) -> Result<Option<join::Start>, JoinerError> {
        let topic = self.membership.topic(side);
        let group = || self.settings.joiner.group.clone();
        let state = InputState::decode(committed.offset, &committed.metadata).map_err(|source| {
            JoinerError::Frontier { group: group(), topic: topic.to_string(), partition, source }
        })?;
        if let (Some(before), Some(now)) = (&state.topic_id, topic_id)
            && before != now
        {
            return Err(JoinerError::TopicReplaced(Box::new(TopicReplaced {
                group: group(),
                topic: topic.to_string(),
                partition,
                offset: committed.offset,
                before: before.clone(),
                now: now.clone(),
            })));
        }
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
    fn begin(
        &self,
        partition: i32,
        ids: &[Option<TopicId>; 2],
        since: Instant,
    ) -> Result<Option<Partition>, JoinerError> {
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
        let join = self.join(partition, (views, responses), ids);
        let mut state = Partition::new(partition, join, Phase::Live, since);
        // A beginning that depends on the time of the start is committed at once, so that the next
        // start does not choose another one.
        state.is_changed = begin_at(&self.settings.input.start)? != BeginAt::Earliest;
        Ok(Some(state))
    }

    fn join(
        &self,
        partition: i32,
        (views, responses): (join::Start, join::Start),
        [views_id, responses_id]: &[Option<TopicId>; 2],
    ) -> PartitionJoin {
        PartitionJoin::new(self.config.clone(), partition, views, responses)
            .with_topic_ids(views_id.clone(), responses_id.clone())
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
            if low == end {
                continue;
            }
            // What lies there can have been aborted: only a record that readers see is an output.
            let Some(first) = self.first_record(topic, partition)? else { return Ok(false) };
            if let Some(offset) = first {
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

    /// The offset of the first record of an output partition that a reader sees, if there is one;
    /// `None` when the stop comes first.
    fn first_record(&self, topic: &str, partition: i32) -> Result<Option<Option<i64>>, JoinerError> {
        let begun = Instant::now();
        let mut reading = Reading::begin(&self.settings.kafka, topic, partition, From::Beginning, PATIENCE)?;
        let mut first = None;
        while !self.stop.is_stopped() {
            if begun.elapsed() > 2 * PATIENCE {
                let reason = "its first record does not come".to_owned();
                return Err(ReadError::Unavailable { topic: topic.to_owned(), reason }.into());
            }
            let is_over = reading.advance(Instant::now() + TAIL_SLICE, |record| {
                first = Some(record.offset);
                ControlFlow::Break(())
            })?;
            if is_over || first.is_some() {
                return Ok(Some(first));
            }
        }
        Ok(None)
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

    /// Reads on in the labelled tail of one partition, for a moment, so that the next poll is never
    /// far away.
    pub(super) fn read_tails(&mut self) -> Result<(), JoinerError> {
        let lookback = self.settings.join.pair_lookback;
        let now = Instant::now();
        for (&number, partition) in &mut self.partitions {
            let Phase::Tail(reading) = &mut partition.phase else { continue };
            if reading.not_before > now {
                continue;
            }
            let progress = match read_slice(self.settings, number, reading, &mut partition.join) {
                Ok(true) => reading.tail.progress(lookback),
                // Not over; or the brokers are away, nothing was read: on in the next turn.
                Ok(false) | Err(JoinerError::Outputs(ReadError::Unavailable { .. })) => TailProgress::Waiting,
                // Retention has removed labelled views since the reading was planned.
                Err(JoinerError::Outputs(ReadError::OffsetGone { low, .. })) if low > reading.tail.next => {
                    reading.tail.begins_at(low);
                    TailProgress::TooFew
                }
                Err(error) => return Err(error),
            };
            match progress {
                // For a transaction, perhaps: the others need not.
                TailProgress::Waiting if reading.reading.is_none() => reading.not_before = now + TAIL_PAUSE,
                TailProgress::Waiting => {}
                TailProgress::Done => partition.phase = Phase::Replay,
                TailProgress::TooFew => {
                    reading.tail.widen();
                    let (views, responses) = reading.tail.starts.clone();
                    let [views_id, responses_id] = partition.join.topic_ids().map(|id| id.map(str::to_owned));
                    partition.join = PartitionJoin::new(self.config.clone(), number, views, responses)
                        .with_topic_ids(views_id, responses_id);
                }
            }
            return Ok(());
        }
        Ok(())
    }
}

/// Gives the next labelled views of a tail to the join; true once it has come to the end of what can
/// be read.
fn read_slice(
    settings: &Settings,
    partition: i32,
    reading: &mut TailReading,
    join: &mut PartitionJoin,
) -> Result<bool, JoinerError> {
    let topic = &settings.topics.labelled_views;
    let TailReading { tail, reading: open, .. } = reading;
    let mut slice = match open.take() {
        Some(slice) => slice,
        None => Reading::begin(&settings.kafka, topic, partition, From::Offset(tail.next), PATIENCE)?,
    };
    let mut fault = None;
    let is_over = slice.advance(Instant::now() + TAIL_SLICE, |record| {
        tail.records += 1;
        let payload = record.payload.as_deref().unwrap_or_default();
        fault = join.on_labelled_tail(record.offset, payload).err();
        if fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // Also after an error: what the join was given it must not be given again.
    tail.next = slice.next_offset();
    let is_over = is_over?;
    if !is_over {
        *open = Some(slice);
    }
    fault.map_or(Ok(is_over), |fault| Err(fault.into()))
}

/// Whether topics are still those that they were, as far as the cluster says.
fn are_the_same(before: [Option<&str>; 2], now: &[Option<TopicId>; 2]) -> bool {
    before.iter().zip(now).all(|(before, now)| now.is_none() || *before == now.as_deref())
}

/// What the group has committed of both inputs.
fn frontier(committed: &CommittedPartition) -> Option<Frontier> {
    let position = |of: &Committed| Position { next_offset: of.offset, metadata: of.metadata.clone() };
    let (views, responses) = (committed.views.as_ref()?, committed.responses.as_ref()?);
    Some(Frontier { views: position(views), responses: position(responses) })
}

fn starts(states: &BTreeMap<i32, Partition>) -> Vec<Start> {
    let start = |(&partition, state): (&i32, &Partition)| Start {
        partition,
        views: state.join.read_from(Side::Views),
        responses: state.join.read_from(Side::Responses),
    };
    states.iter().map(start).collect()
}
