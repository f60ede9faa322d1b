//! Records that no joiner can use: spoiled copies of true ones, one for each reason.

use bytes::Bytes;
use prost::Message;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::faults::{Delivery, Fault, Input, Partitioning};
use super::stream::Event;
use crate::contract::partitioner;
use crate::contract::v1::{BehaviorEvent, Features, QuestionnaireResponse};

/// An id of the contract has at most 128 bytes.
const OVERSIZED_ID_BYTES: usize = 129;
/// Above `input.max_record_bytes`, below what a broker takes.
const OVERSIZED_RECORD_BYTES: usize = 70_000;
/// Above `input.max_clock_skew_ms`.
const AHEAD_MS: i64 = 3_600_000;
/// Field 1 of four gibibytes.
const UNDECODABLE: &[u8] = b"\x0a\xff\xff\xff\xff\x0f";

const FOREIGN_KEY: &[u8] = b"somebody else";

/// What is wrong with a malformed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// A record without a value.
    Empty,
    /// Bytes that are no message.
    Undecodable,
    /// More than `input.max_record_bytes` in one record.
    OversizedRecord,
    /// The id that view and answer would meet by is empty.
    MissingImpressionId,
    /// That id has a byte more than the contract takes.
    OversizedImpressionId,
    /// The id that decides the partition is empty.
    MissingUserId,
    /// The event time is 0.
    NoEventTime,
    /// The event time is an hour after the record's own timestamp.
    TimeAhead,
    /// In a partition that the partitioner does not give the user.
    WrongPartition,
    /// The key is not the user.
    ForeignKey,
    /// A response whose answer is unspecified.
    NoAnswer,
    /// A view of a request that was served after the view had ended.
    RequestAfterEvent,
    /// Features of a schema version that the model does not have.
    WrongSchema,
    /// One dense feature too many.
    WrongDenseLength,
    /// A view with two sets of features.
    FeaturesTwice,
}

impl Defect {
    /// Its name in the truth file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Undecodable => "undecodable",
            Self::OversizedRecord => "oversized_record",
            Self::MissingImpressionId => "missing_impression_id",
            Self::OversizedImpressionId => "oversized_impression_id",
            Self::MissingUserId => "missing_user_id",
            Self::NoEventTime => "no_event_time",
            Self::TimeAhead => "time_ahead",
            Self::WrongPartition => "wrong_partition",
            Self::ForeignKey => "foreign_key",
            Self::NoAnswer => "no_answer",
            Self::RequestAfterEvent => "request_after_event",
            Self::WrongSchema => "wrong_schema",
            Self::WrongDenseLength => "wrong_dense_length",
            Self::FeaturesTwice => "features_twice",
        }
    }

    fn of(input: Input, partitioning: Partitioning, rng: &mut ChaCha8Rng) -> Self {
        const BOTH: [Defect; 9] = [
            Defect::Empty,
            Defect::Undecodable,
            Defect::OversizedRecord,
            Defect::MissingImpressionId,
            Defect::OversizedImpressionId,
            Defect::MissingUserId,
            Defect::NoEventTime,
            Defect::TimeAhead,
            Defect::ForeignKey,
        ];
        const OF_VIEWS: [Defect; 4] =
            [Defect::RequestAfterEvent, Defect::WrongSchema, Defect::WrongDenseLength, Defect::FeaturesTwice];
        let mut defects = BOTH.to_vec();
        match input {
            Input::Behavior => defects.extend(OF_VIEWS),
            Input::Responses => defects.push(Defect::NoAnswer),
        }
        if partitioning.partitions > 1 {
            defects.push(Defect::WrongPartition);
        }
        defects[rng.random_range(0..defects.len())]
    }
}

/// A copy of `original`, which is `event` encoded, with a defect drawn from those of its input.
pub(super) fn spoil(
    event: &Event,
    original: &Delivery,
    partitioning: Partitioning,
    rng: &mut ChaCha8Rng,
) -> Delivery {
    let defect = Defect::of(original.input, partitioning, rng);
    let payload = match (defect, event) {
        (Defect::Empty, _) => None,
        (Defect::WrongPartition | Defect::ForeignKey, _) => original.payload.clone(),
        (Defect::Undecodable, _) => Some(Bytes::from_static(UNDECODABLE)),
        (_, Event::View(simulated)) => Some(spoiled_view(defect, simulated.view.clone()).into()),
        (_, Event::Response(response)) => Some(spoiled_response(defect, response.clone()).into()),
    };
    let partition = (defect == Defect::WrongPartition)
        .then(|| (partitioning.of(&original.key) + 1) % partitioning.partitions);
    let key = match defect {
        Defect::ForeignKey => Bytes::from_static(FOREIGN_KEY),
        _ => original.key.clone(),
    };
    Delivery {
        key,
        payload,
        partition,
        fault: Some(Fault::Malformed(defect)),
        truth: None,
        ..original.clone()
    }
}

impl Partitioning {
    /// The partition of a key.
    pub fn of(self, key: &[u8]) -> i32 {
        partitioner::partition(self.partitioner, key, self.partitions)
    }
}

fn spoiled_view(defect: Defect, mut view: BehaviorEvent) -> Vec<u8> {
    match defect {
        Defect::OversizedRecord => view.scenario = "x".repeat(OVERSIZED_RECORD_BYTES),
        Defect::MissingImpressionId => view.impression_id.clear(),
        Defect::OversizedImpressionId => view.impression_id = "x".repeat(OVERSIZED_ID_BYTES),
        Defect::MissingUserId => view.user_id.clear(),
        Defect::NoEventTime => view.event_time_ms = 0,
        Defect::TimeAhead => view.event_time_ms += AHEAD_MS,
        Defect::RequestAfterEvent => view.request_time_ms = view.event_time_ms + 1,
        Defect::WrongSchema => features(&mut view).schema_version += 1,
        Defect::WrongDenseLength => features(&mut view).dense.push(0.0),
        Defect::FeaturesTwice => {
            let mut bytes = view.encode_to_vec();
            let again = BehaviorEvent { features: view.features, ..BehaviorEvent::default() };
            bytes.extend(again.encode_to_vec());
            return bytes;
        }
        Defect::Empty
        | Defect::Undecodable
        | Defect::WrongPartition
        | Defect::ForeignKey
        | Defect::NoAnswer => {}
    }
    view.encode_to_vec()
}

fn features(view: &mut BehaviorEvent) -> &mut Features {
    view.features.get_or_insert_default()
}

fn spoiled_response(defect: Defect, mut response: QuestionnaireResponse) -> Vec<u8> {
    match defect {
        Defect::OversizedRecord => response.questionnaire_id = "x".repeat(OVERSIZED_RECORD_BYTES),
        Defect::MissingImpressionId => response.impression_id.clear(),
        Defect::OversizedImpressionId => response.impression_id = "x".repeat(OVERSIZED_ID_BYTES),
        Defect::MissingUserId => response.user_id.clear(),
        Defect::NoEventTime => response.event_time_ms = 0,
        Defect::TimeAhead => response.event_time_ms += AHEAD_MS,
        Defect::NoAnswer => response.answer = 0,
        Defect::Empty
        | Defect::Undecodable
        | Defect::WrongPartition
        | Defect::ForeignKey
        | Defect::RequestAfterEvent
        | Defect::WrongSchema
        | Defect::WrongDenseLength
        | Defect::FeaturesTwice => {}
    }
    response.encode_to_vec()
}
