//! One partition number of both inputs.

use std::sync::Arc;

use super::{Effects, Frontier, InputState, Outcomes, Products, Side};
use crate::contract::InputRecord;
use crate::contract::validate::Limits;
use crate::settings::{Join, Partitioner, Settings, Topics};

/// What every partition's join is told. Shared by all of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub join: Join,
    pub topics: Topics,
    pub limits: Limits,
    pub mis_keyed_sample_records: u64,
    pub mis_keyed_max_ratio: f64,
}

impl Config {
    /// `partitions`: of either input topic.
    pub fn new(settings: &Settings, partitions: i32) -> Config {
        Config {
            join: settings.join.clone(),
            topics: settings.topics.clone(),
            limits: Limits::new(settings, partitions),
            mis_keyed_sample_records: settings.input.mis_keyed_sample_records,
            mis_keyed_max_ratio: settings.input.mis_keyed_max_ratio,
        }
    }
}

/// Where an input partition begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Nothing was committed: at this offset.
    At(i64),
    /// From the state that was committed. `low_watermark` is the lowest offset that can be read.
    Resume { state: InputState, low_watermark: i64 },
}

/// Part of a replay that retention has removed. Say it loudly: labels may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionLoss {
    pub side: Side,
    /// The offsets that were needed and are gone: from, to (exclusive).
    pub from_offset: i64,
    pub to_offset: i64,
    /// Stream time just before `from_offset`, and at the frontier.
    pub from_time_ms: Option<i64>,
    pub to_time_ms: Option<i64>,
}

/// What the join cannot go on after. The caller stops with the message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JoinFault {
    #[error(
        "{mis_keyed} of the first {records} records of '{topic}' partition {partition} are not keyed by user_id \
         with the partitioner '{configured}' (input.partitioner); {remedy}"
    )]
    MisKeyed {
        topic: String,
        partition: i32,
        records: u64,
        mis_keyed: u64,
        configured: String,
        suggested: Option<Partitioner>,
        remedy: String,
    },
    #[error(
        "'{topic}' partition {partition} offset {offset} holds another record than the one that was consumed: \
         the topic was deleted and created again; use a new joiner.group, or bring the topic back"
    )]
    TopicChanged { topic: String, partition: i32, offset: i64 },
    #[error(
        "'{topic}' partition {partition}: offset {offset} came after the position had reached {expected}"
    )]
    OutOfOrder { topic: String, partition: i32, offset: i64, expected: i64 },
    #[error("'{topic}' partition {partition} offset {offset} is not a labelled view: {detail}")]
    BadTail { topic: String, partition: i32, offset: i64, detail: String },
}

/// Sizes of what is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    pub held_views: usize,
    pub held_responses: usize,
    /// Bytes of waiting records and of views in open groups.
    pub held_bytes: usize,
    pub open_groups: usize,
    /// Labelled views that can still become partners.
    pub pair_candidates: usize,
}

/// The join of one partition number of both inputs.
///
/// Order of use: [`new`](PartitionJoin::new); the tail of the labelled topic through
/// [`on_labelled_tail`](PartitionJoin::on_labelled_tail); then the records of each input in offset
/// order, from [`read_from`](PartitionJoin::read_from) on, of the side that
/// [`may_read`](PartitionJoin::may_read) allows. While
/// [`is_replaying`](PartitionJoin::is_replaying) nothing is emitted and nothing may be committed.
#[derive(Debug)]
pub struct PartitionJoin {
    config: Arc<Config>,
    partition: i32,
}

impl PartitionJoin {
    pub fn new(_config: Arc<Config>, _partition: i32, _views: Start, _responses: Start) -> PartitionJoin {
        unimplemented!()
    }

    /// Where to assign an input: its first offset to read.
    pub fn read_from(&self, _side: Side) -> i64 {
        unimplemented!()
    }

    /// What retention had removed when this join was made.
    pub fn retention_losses(&self) -> &[RetentionLoss] {
        unimplemented!()
    }

    /// Whether records below the committed offsets are still being read again.
    pub fn is_replaying(&self) -> bool {
        unimplemented!()
    }

    /// Whether the next record of this input may be given now; if not, let it wait in the
    /// application.
    ///
    /// In a replay, a side that has reached its committed offset waits for the other. Otherwise a
    /// side waits while it is more than `join.max_lead_ms` ahead of one that has unread records.
    pub fn may_read(&self, _side: Side, _other_has_unread: bool) -> bool {
        unimplemented!()
    }

    /// Takes a record of `topics.labelled_views`, in offset order, before any input record: the
    /// last `join.pair_lookback` records of the partition or more, at least as many as there are.
    pub fn on_labelled_tail(&mut self, _offset: i64, _payload: &[u8]) -> Result<(), JoinFault> {
        unimplemented!()
    }

    /// Takes the next record of `topics.behavior`.
    pub fn on_view(&mut self, _record: &InputRecord, _effects: &mut Effects) -> Result<(), JoinFault> {
        unimplemented!()
    }

    /// Takes the next record of `topics.responses`.
    pub fn on_response(&mut self, _record: &InputRecord, _effects: &mut Effects) -> Result<(), JoinFault> {
        unimplemented!()
    }

    /// Says that an input is read to its end and has been silent for `join.idle_after_ms`: it no
    /// longer holds the other back. Call it as long as that lasts.
    pub fn on_idle(&mut self, _side: Side) {
        unimplemented!()
    }

    /// What to commit with everything emitted so far. Not while replaying.
    pub fn frontier(&mut self) -> Frontier {
        unimplemented!()
    }

    /// Cumulative counts of an input. Export them only after the commit.
    pub fn outcomes(&self, _side: Side) -> Outcomes {
        unimplemented!()
    }

    pub fn products(&self) -> Products {
        unimplemented!()
    }

    /// Greatest event time read of an input.
    pub fn stream_time_ms(&self, _side: Side) -> Option<i64> {
        unimplemented!()
    }

    pub fn gauges(&self) -> Gauges {
        unimplemented!()
    }
}
