//! One owned partition number: its join, the records that wait for it, and what of it is committed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::contract::{InputRecord, Side};
use crate::join::{Effects, Frontier, JoinFault, PartitionJoin};
use crate::kafka::Record;
use crate::kafka::reader::Reading;
use crate::telemetry::events;
use crate::telemetry::partitions::PartitionReport;

use super::tail::Tail;

/// How far the rebuilding of a partition's state has come.
pub(super) enum Phase {
    /// The last labelled views of this partition are read again. Input records wait.
    Tail(Box<TailReading>),
    /// Input records below the committed offsets are read again, without output.
    Replay,
    Live,
}

/// The reading of the labelled topic, a slice in each turn.
pub(super) struct TailReading {
    pub(super) tail: Tail,
    /// `None` before the first slice, and after the brokers were away.
    pub(super) reading: Option<Reading>,
    pub(super) not_before: Instant,
}

impl From<Tail> for TailReading {
    fn from(tail: Tail) -> Self {
        Self { tail, reading: None, not_before: Instant::now() }
    }
}

/// Records of one input on their way to the join.
#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<InputRecord>,
    /// When the last record arrived, or reading began.
    last_arrival: Option<Instant>,
    /// Kafka timestamp of the last record given to the join.
    last_consumed_ms: Option<i64>,
}

pub(super) struct Partition {
    pub(super) number: i32,
    pub(super) join: PartitionJoin,
    pub(super) phase: Phase,
    /// The join has taken records since the last commit.
    pub(super) is_changed: bool,
    /// What was last committed, as it is shown.
    pub(super) committed: Option<PartitionReport>,
    /// What the group holds of this partition, as far as this instance knows.
    pub(super) frontier: Option<Frontier>,
    replayed_records: u64,
    assigned_at: Instant,
    views: Waiting,
    responses: Waiting,
}

/// What a partition knows about its inputs from the consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// Everything was fetched, and nothing has arrived since.
    pub(super) views: bool,
    pub(super) responses: bool,
}

impl Partition {
    pub(super) fn new(number: i32, join: PartitionJoin, phase: Phase, assigned_at: Instant) -> Self {
        let reading = || Waiting { last_arrival: Some(Instant::now()), ..Waiting::default() };
        Self {
            number,
            join,
            phase,
            is_changed: false,
            committed: None,
            frontier: None,
            replayed_records: 0,
            assigned_at,
            views: reading(),
            responses: reading(),
        }
    }

    pub(super) fn accept(&mut self, side: Side, record: Record, now: Instant) {
        let waiting = self.waiting_mut(side);
        waiting.last_arrival = Some(now);
        waiting.records.push_back(InputRecord {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            payload: record.payload,
        });
    }

    /// Gives the join all records that it may read now; true when there were any. Responses come
    /// first: they are few, and someone waits for their effect. Of each record that completed a
    /// label the Kafka timestamp is added to `completed_ms`.
    pub(super) fn advance(
        &mut self,
        ends: Ends,
        effects: &mut Effects,
        completed_ms: &mut Vec<i64>,
    ) -> Result<bool, JoinFault> {
        let mut moved = false;
        if matches!(self.phase, Phase::Tail(_)) {
            return Ok(moved);
        }
        loop {
            let views_unread = !self.views.records.is_empty() || !ends.views;
            let responses_unread = !self.responses.records.is_empty() || !ends.responses;
            let side = if !self.responses.records.is_empty()
                && self.join.may_read(Side::Responses, views_unread)
            {
                Side::Responses
            } else if !self.views.records.is_empty() && self.join.may_read(Side::Views, responses_unread) {
                Side::Views
            } else {
                return Ok(moved);
            };
            let labels = self.join.products().labelled_views;
            let timestamp_ms = self.consume(side, effects)?;
            if self.join.products().labelled_views > labels {
                completed_ms.extend(timestamp_ms);
            }
            moved = true;
        }
    }

    fn consume(&mut self, side: Side, effects: &mut Effects) -> Result<Option<i64>, JoinFault> {
        let waiting = self.waiting_mut(side);
        let Some(record) = waiting.records.pop_front() else { return Ok(None) };
        waiting.last_consumed_ms = record.timestamp_ms.or(waiting.last_consumed_ms);
        // The last record of a replay can be followed by live ones in the same turn.
        if self.join.is_replaying() {
            self.replayed_records += 1;
        } else {
            self.is_changed = true;
        }
        let timestamp_ms = record.timestamp_ms;
        match side {
            Side::Views => self.join.on_view(record, effects)?,
            Side::Responses => self.join.on_response(record, effects)?,
        }
        Ok(timestamp_ms)
    }

    /// Tells the join about inputs that were read to their end and have been silent for so long
    /// that they no longer hold the other back. `is_at_current_end` asks the brokers: silence alone
    /// may mean that they are away, with records that nobody has seen.
    pub(super) fn note_idle(
        &mut self,
        ends: Ends,
        idle_after: Duration,
        now: Instant,
        mut is_at_current_end: impl FnMut(Side) -> bool,
    ) {
        if !matches!(self.phase, Phase::Live) {
            return;
        }
        for (side, at_end) in [(Side::Views, ends.views), (Side::Responses, ends.responses)] {
            let waiting = self.waiting(side);
            let silent = waiting.last_arrival.is_some_and(|last| now.duration_since(last) >= idle_after);
            let seems_idle = at_end && silent && waiting.records.is_empty();
            if seems_idle && self.join.holds_back(side) && is_at_current_end(side) {
                self.is_changed |= self.join.on_idle(side);
            }
        }
    }

    /// Goes live once both inputs were read again up to their committed offsets.
    pub(super) fn note_recovered(&mut self) {
        if matches!(self.phase, Phase::Replay) && !self.join.is_replaying() {
            self.phase = Phase::Live;
            events::PartitionRecovered {
                partition: self.number,
                replayed_records: self.replayed_records,
                elapsed: self.assigned_at.elapsed(),
            }
            .emit();
        }
    }

    /// Whether it gives new output.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// True while nothing of the join differs from what is committed, and that is not shown yet.
    pub(super) fn is_to_be_shown(&self) -> bool {
        matches!(self.phase, Phase::Live) && !self.is_changed && self.committed.is_none()
    }

    /// What to commit, when there is something to commit.
    pub(super) fn uncommitted(&mut self) -> Option<Frontier> {
        (matches!(self.phase, Phase::Live) && self.is_changed).then(|| self.join.frontier())
    }

    /// Whether the state is exactly what the group holds, so that it may outlast a rebalance.
    pub(super) fn is_as_committed(&self) -> bool {
        matches!(self.phase, Phase::Live) && !self.is_changed && self.frontier.is_some()
    }

    /// Begins a new assignment with the state of the one before. What was fetched and not consumed
    /// is fetched again.
    pub(super) fn go_on(&mut self, now: Instant) {
        self.assigned_at = now;
        for side in [Side::Views, Side::Responses] {
            let waiting = self.waiting_mut(side);
            waiting.records.clear();
            waiting.last_arrival = Some(now);
        }
        events::PartitionKept { partition: self.number }.emit();
    }

    pub(super) fn waiting_records(&self, side: Side) -> usize {
        self.waiting(side).records.len()
    }

    pub(super) fn last_consumed_ms(&self, side: Side) -> Option<i64> {
        self.waiting(side).last_consumed_ms
    }

    fn waiting(&self, side: Side) -> &Waiting {
        match side {
            Side::Views => &self.views,
            Side::Responses => &self.responses,
        }
    }

    fn waiting_mut(&mut self, side: Side) -> &mut Waiting {
        match side {
            Side::Views => &mut self.views,
            Side::Responses => &mut self.responses,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::contract::v1::{BehaviorEvent, Features};
    use crate::join::{Config, InputState, Start};
    use crate::kafka::membership::Bounds;
    use crate::settings::Settings;

    const AT_END: Ends = Ends { views: true, responses: true };
    const NOW_MS: i64 = 1_700_000_000_000;

    fn view(offset: i64) -> Record {
        let settings = Settings::default();
        let dense = vec![0.0; settings.features.dense.len()];
        let schema_version = settings.features.schema_version;
        let event = BehaviorEvent {
            impression_id: format!("impression-{offset}"),
            user_id: "user".to_owned(),
            video_id: "video".to_owned(),
            request_id: "request".to_owned(),
            event_time_ms: NOW_MS + offset,
            request_time_ms: NOW_MS,
            questionnaire_exposed: Some(true),
            features: Some(Features { dense, schema_version, ..Features::default() }),
            ..BehaviorEvent::default()
        };
        Record {
            topic: settings.topics.behavior.into(),
            partition: 0,
            offset,
            timestamp_ms: Some(NOW_MS + offset),
            key: Some(Bytes::from_static(b"user")),
            payload: Some(event.encode_to_vec().into()),
            headers: Vec::new(),
        }
    }

    fn join(views: Start, responses: Start) -> PartitionJoin {
        PartitionJoin::new(Arc::new(Config::new(&Settings::default(), 1)), 0, views, responses)
    }

    fn advance(partition: &mut Partition) -> bool {
        partition.advance(AT_END, &mut Effects::default(), &mut Vec::new()).expect("well-formed views")
    }

    /// A partition whose group has committed `consumed` views.
    fn resumed(consumed: i64, phase: impl Fn((Start, Start)) -> Phase) -> Partition {
        let now = Instant::now();
        let mut before = Partition::new(0, join(Start::At(0), Start::At(0)), Phase::Live, now);
        (0..consumed).for_each(|offset| before.accept(Side::Views, view(offset), now));
        advance(&mut before);
        let frontier = before.uncommitted().expect("something to commit");
        let resume = |position: crate::join::Position| {
            let state = InputState::decode(position.next_offset, &position.metadata).expect("own metadata");
            Start::Resume { state, low_watermark: 0 }
        };
        let starts = (resume(frontier.views), resume(frontier.responses));
        Partition::new(0, join(starts.0.clone(), starts.1.clone()), phase(starts), now)
    }

    #[test]
    fn there_is_nothing_to_commit_before_a_record_was_consumed() {
        let mut partition = Partition::new(0, join(Start::At(0), Start::At(0)), Phase::Live, Instant::now());
        assert!(!advance(&mut partition));
        assert_eq!(partition.uncommitted(), None);
    }

    /// Invariant 2: the first live record can be consumed in the turn in which the replay ends.
    #[test]
    fn a_record_that_follows_the_replay_in_the_same_turn_is_committed() {
        let mut partition = resumed(3, |_| Phase::Replay);
        (0..4).for_each(|offset| partition.accept(Side::Views, view(offset), Instant::now()));
        assert!(advance(&mut partition));
        partition.note_recovered();
        assert_eq!(partition.replayed_records, 3);
        assert_eq!(partition.uncommitted().expect("a live record").views.next_offset, 4);
    }

    #[test]
    fn a_replay_alone_leaves_nothing_to_commit_and_is_shown() {
        let mut partition = resumed(3, |_| Phase::Replay);
        (0..3).for_each(|offset| partition.accept(Side::Views, view(offset), Instant::now()));
        advance(&mut partition);
        partition.note_recovered();
        assert_eq!(partition.uncommitted(), None);
        assert!(partition.is_to_be_shown());
    }

    /// Invariant 3: while a leader is away its partition is silent and may hold records.
    #[test]
    fn a_silent_input_is_idle_only_when_the_brokers_confirm_its_end() {
        let now = Instant::now();
        for (is_confirmed, changed) in [(false, false), (true, true)] {
            let mut partition = Partition::new(0, join(Start::At(0), Start::At(0)), Phase::Live, now);
            partition.accept(Side::Views, view(0), now);
            advance(&mut partition);
            partition.is_changed = false;
            partition.note_idle(AT_END, Duration::ZERO, now, |_| is_confirmed);
            assert_eq!(partition.is_changed, changed);
        }
    }

    /// Invariant 5: no label is paired before the labelled views of the past are known.
    #[test]
    fn records_wait_while_the_labelled_tail_is_read() {
        let bounds = Bounds { low: 0, end: 10 };
        let mut partition =
            resumed(3, |starts| Phase::Tail(Box::new(Tail::plan(10, bounds, 10, starts).into())));
        partition.accept(Side::Views, view(0), Instant::now());
        assert!(!advance(&mut partition));
        assert_eq!(partition.waiting_records(Side::Views), 1);
    }
}
