//! How far one input has been read, and what became of its records.

use xxhash_rust::xxh3::Xxh3Default;

use super::keying::KeyingCheck;
use super::lateness::StreamClock;
use super::replay_index::ReplayIndex;
use super::{Config, InputState, JoinFault, Outcome, Outcomes, RecordIdentity, RetentionLoss, Side};
use crate::contract::InputRecord;

/// Where an input partition begins. Made once for each, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Nothing was committed: at this offset.
    At(i64),
    /// From the state that was committed.
    Resume {
        /// As the last commit of the group has it.
        state: InputState,
        /// The lowest offset that can be read.
        low_watermark: i64,
    },
}

#[derive(Debug)]
pub(super) struct Progress {
    pub side: Side,
    pub clock: StreamClock,
    pub index: ReplayIndex,
    pub keying: KeyingCheck,
    /// Everything held below it was let go at a memory bound.
    pub evicted_below: i64,
    partition: i32,
    next_offset: i64,
    outcomes: Outcomes,
    /// Records held as waiting that the outcomes already count, see [`Progress::resume`].
    uncounted: u64,
    last: LastRecord,
    pub topic_id: Option<String>,
    /// The committed state, until it is rebuilt.
    target: Option<Box<InputState>>,
    loss: Option<RetentionLoss>,
}

#[derive(Debug)]
enum LastRecord {
    Known(Option<RecordIdentity>),
    /// Hashed only when its identity is asked for.
    Read(InputRecord),
}

impl Progress {
    pub fn new(side: Side, partition: i32, start: Start, config: &Config) -> Progress {
        let mut progress = Progress {
            side,
            clock: StreamClock::default(),
            index: ReplayIndex::new(config.replay_stretch_records),
            keying: KeyingCheck::default(),
            evicted_below: i64::MIN,
            partition,
            next_offset: 0,
            outcomes: Outcomes::default(),
            uncounted: 0,
            last: LastRecord::Known(None),
            topic_id: None,
            target: None,
            loss: None,
        };
        match start {
            Start::At(offset) => progress.next_offset = offset,
            Start::Resume { state, low_watermark } => progress.begin_replay(state, low_watermark),
        }
        progress
    }

    fn begin_replay(&mut self, state: InputState, low_watermark: i64) {
        self.next_offset = state.replay_from.max(low_watermark);
        self.clock = StreamClock::new(state.replay_time_ms, state.idle_advances.clone());
        self.evicted_below = state.evicted_below;
        self.loss = (low_watermark > state.replay_from).then_some(RetentionLoss {
            side: self.side,
            from_offset: state.replay_from,
            to_offset: low_watermark,
            from_time_ms: state.replay_time_ms,
            to_time_ms: state.stream_time_ms,
        });
        self.last = LastRecord::Known(state.last);
        self.topic_id = state.topic_id.clone();
        self.target = Some(Box::new(state));
    }

    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    pub fn loss(&self) -> Option<&RetentionLoss> {
        self.loss.as_ref()
    }

    /// Whether every record below the committed offset has been read again.
    pub fn has_caught_up(&self) -> bool {
        self.target.as_ref().is_none_or(|target| self.next_offset >= target.next_offset)
    }

    pub fn target(&self) -> Option<&InputState> {
        self.target.as_deref()
    }

    pub fn expiry_time_ms(&self) -> Option<i64> {
        self.clock.expiry_time_ms(self.next_offset)
    }

    /// Takes note of the next record. Its offset is at or above the position.
    pub fn begin(&mut self, offset: i64, topic: &str) -> Result<(), JoinFault> {
        if offset < self.next_offset {
            return Err(JoinFault::OutOfOrder {
                topic: topic.to_owned(),
                partition: self.partition,
                offset,
                expected: self.next_offset,
            });
        }
        self.index.note(offset, self.clock.time_ms());
        self.next_offset = offset + 1;
        Ok(())
    }

    /// Keeps the record that [`begin`](Self::begin) announced: it is the last, for now.
    pub fn remember(&mut self, record: InputRecord) {
        // In a replay only the record that was committed as the last is looked at: keeping one costs.
        let last = self.target.as_ref().and_then(|target| target.last);
        self.last = match last {
            Some(last) if record.offset < last.offset => LastRecord::Known(None),
            _ => LastRecord::Read(record),
        };
    }

    /// Checks that the last record read again is the one that was consumed.
    pub fn check_identity(&self, topic: &str) -> Result<(), JoinFault> {
        let expected = self.target.as_ref().and_then(|target| target.last);
        match (self.last_identity(), expected) {
            (found, Some(expected)) if found != Some(expected) => Err(JoinFault::TopicChanged {
                topic: topic.to_owned(),
                partition: self.partition,
                offset: expected.offset,
            }),
            _ => Ok(()),
        }
    }

    /// Goes on from the committed counts, when the replay is complete and `waiting` records were
    /// rebuilt as waiting. `is_lossy`: whether retention had removed part of either input.
    ///
    /// Without evictions and losses these are exactly the records that waited. Of those that are
    /// missing the outcome is known now; those that are too many (their partner, which they had
    /// met, is gone) stay, but leave without being counted again. So the sum stays the number of
    /// records consumed (invariant 11).
    pub fn resume(&mut self, waiting: u64, is_lossy: bool) -> Option<Box<InputState>> {
        let target = self.target.take()?;
        self.keying = KeyingCheck::new(target.mis_keyed);
        self.outcomes = target.outcomes;
        let missing = target.outcomes.waiting.saturating_sub(waiting);
        let outcome = if is_lossy { Outcome::LostToRetention } else { Outcome::Evicted };
        self.outcomes.add(outcome, missing);
        self.uncounted = waiting.saturating_sub(target.outcomes.waiting);
        Some(target)
    }

    /// Counts an outcome of a record that did not wait.
    pub fn count(&mut self, outcome: Outcome, records: u64) {
        self.outcomes.add(outcome, records);
    }

    /// Counts an outcome of a record that waited; `waiting` others still do.
    pub fn settle(&mut self, outcome: Outcome, waiting: u64) {
        let has_no_partner = outcome != Outcome::Matched && outcome != Outcome::Duplicate;
        if self.uncounted > 0 && (has_no_partner || waiting < self.uncounted) {
            self.uncounted -= 1;
        } else {
            self.outcomes.add(outcome, 1);
        }
    }

    pub fn outcomes(&self, waiting: u64) -> Outcomes {
        Outcomes { waiting: waiting - self.uncounted.min(waiting), ..self.outcomes }
    }

    /// Judges the keys of the records that the group began with. Called after the record's outcome
    /// is counted.
    pub fn check_keying(
        &mut self,
        waiting: u64,
        record: &InputRecord,
        rejection: Option<&crate::contract::Rejection>,
        topic: &str,
        config: &Config,
    ) -> Result<(), JoinFault> {
        let number = self.outcomes(waiting).consumed();
        self.keying.observe(number, record, rejection, topic, config)
    }

    /// The state to commit. `clocks`: where the window clock and the stream time of the views stand.
    pub fn state(&mut self, waiting: u64, window_ms: Option<i64>, view_ms: Option<i64>) -> InputState {
        let time_ms = self.clock.time_ms();
        let replay = self.index.replay_from(window_ms, view_ms);
        let (replay_from, replay_time_ms) = replay.unwrap_or((self.next_offset, time_ms));
        self.clock.forget_advances(replay_from, replay_time_ms);
        InputState {
            next_offset: self.next_offset,
            stream_time_ms: time_ms,
            replay_from,
            replay_time_ms,
            evicted_below: self.evicted_below,
            idle_advances: self.clock.advances().to_vec(),
            outcomes: self.outcomes(waiting),
            mis_keyed: self.keying.mis_keyed(),
            products: None,
            last: self.last_identity(),
            topic_id: self.topic_id.clone(),
        }
    }

    fn last_identity(&self) -> Option<RecordIdentity> {
        match &self.last {
            LastRecord::Known(identity) => *identity,
            LastRecord::Read(record) => Some(identity(record)),
        }
    }
}

fn identity(record: &InputRecord) -> RecordIdentity {
    let mut hash = Xxh3Default::new();
    for bytes in [&record.key, &record.payload] {
        let length = bytes.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64);
        hash.update(&length.to_le_bytes());
        hash.update(bytes.as_deref().unwrap_or_default());
    }
    RecordIdentity { offset: record.offset, timestamp_ms: record.timestamp_ms, hash: hash.digest() }
}
