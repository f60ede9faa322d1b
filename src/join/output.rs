//! The records that the join emits, ready to be produced.

use bytes::Bytes;
use prost::Message;

use super::Side;
use super::groups::Group;
use crate::contract::v1::{Source, envelope};
use crate::contract::{CONTRACT_VERSION, InputRecord, headers};
use crate::settings::Topics;

/// A dead letter carries at most this much of a record's key and of its value.
const MAX_DEAD_LETTER_BYTES: usize = 64 << 10;

/// Which of the joiner's topics a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputKind {
    /// A view with its answer; the changelog of pairing (invariant 5).
    LabelledView,
    /// Two labelled views that may be compared.
    PreferencePair,
    /// The views of one request.
    BehaviorGroup,
    /// An input record that came too late or was pushed out, as it came.
    Late,
    /// An input record that was rejected, as it came.
    DeadLetter,
}

impl OutputKind {
    /// Its name in the settings.
    pub fn topic(self, topics: &Topics) -> &str {
        match self {
            OutputKind::LabelledView => &topics.labelled_views,
            OutputKind::PreferencePair => &topics.preference_pairs,
            OutputKind::BehaviorGroup => &topics.behavior_groups,
            OutputKind::Late => &topics.late,
            OutputKind::DeadLetter => &topics.dead_letters,
        }
    }
}

/// One record to produce, to the partition of the same number as the join's.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Decides the topic.
    pub kind: OutputKind,
    /// The user id; of late records and dead letters the original key.
    pub key: Option<Bytes>,
    /// An encoded message; of late records and dead letters the original value.
    pub payload: Option<Bytes>,
    /// Those of [`contract::headers`](crate::contract) that this kind carries.
    pub headers: Vec<(&'static str, Bytes)>,
    /// Of late records and dead letters: the input and the value of the header `reason`.
    pub reason: Option<(Side, &'static str)>,
    /// Of labelled views: the event time of the answer, Unix milliseconds.
    pub answered_ms: Option<i64>,
}

/// What the join wants done, in order. The caller takes the outputs and may reuse the value.
#[derive(Debug, Default)]
pub struct Effects {
    /// In the order in which they are to lie in the partition.
    pub outputs: Vec<Output>,
}

impl Output {
    /// A message of the contract, keyed by user.
    fn message(kind: OutputKind, user_id: Bytes, encoded: Bytes) -> Output {
        let headers = vec![(headers::CONTRACT_VERSION, Bytes::from_static(CONTRACT_VERSION.as_bytes()))];
        Output { kind, key: Some(user_id), payload: Some(encoded), headers, reason: None, answered_ms: None }
    }

    pub(super) fn labelled_view(user_id: Bytes, encoded: Bytes, answered_ms: i64) -> Output {
        let label = Output::message(OutputKind::LabelledView, user_id, encoded);
        Output { answered_ms: Some(answered_ms), ..label }
    }

    pub(super) fn preference_pair(user_id: Bytes, pair: &envelope::PreferencePair) -> Output {
        Output::message(OutputKind::PreferencePair, user_id, pair.encode_to_vec().into())
    }

    /// `topic` and `partition`: where the views came from.
    pub(super) fn behavior_group(group: Group, topic: &str, partition: i32) -> Output {
        let user_id = group.user_id();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let message = envelope::BehaviorGroup {
            request_id: text(group.request_id()),
            user_id: text(&user_id),
            scenario: text(group.scenario()),
            event_time_ms: group.event_time_ms,
            first_source: Some(Source { topic: topic.to_owned(), partition, offset: group.first_offset }),
            views: group.into_views(),
        };
        Output::message(OutputKind::BehaviorGroup, user_id, message.encode_to_vec().into())
    }

    /// A record that came too late or was pushed out, with its original bytes.
    pub(super) fn late(origin: &Origin<'_>, key: Option<Bytes>, payload: Option<Bytes>) -> Output {
        let headers = origin.headers();
        let reason = Some((origin.side, origin.reason));
        Output { kind: OutputKind::Late, key, payload, headers, reason, answered_ms: None }
    }

    /// A rejected record; of a longer one its first 64 KiB.
    pub(super) fn dead_letter(origin: &Origin<'_>, detail: String, record: &InputRecord) -> Output {
        let cut = |bytes: &Bytes| bytes.slice(..bytes.len().min(MAX_DEAD_LETTER_BYTES));
        let mut headers = origin.headers();
        headers.push((headers::DETAIL, Bytes::from(detail)));
        Output {
            kind: OutputKind::DeadLetter,
            key: record.key.as_ref().map(cut),
            payload: record.payload.as_ref().map(cut),
            headers,
            reason: Some((origin.side, origin.reason)),
            answered_ms: None,
        }
    }
}

/// Where a late record or dead letter came from, and why it is one.
pub(super) struct Origin<'a> {
    pub side: Side,
    pub reason: &'static str,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
}

impl Origin<'_> {
    fn headers(&self) -> Vec<(&'static str, Bytes)> {
        vec![
            (headers::CONTRACT_VERSION, Bytes::from_static(CONTRACT_VERSION.as_bytes())),
            (headers::REASON, Bytes::from_static(self.reason.as_bytes())),
            (headers::TOPIC, Bytes::copy_from_slice(self.topic.as_bytes())),
            (headers::PARTITION, self.partition.to_string().into()),
            (headers::OFFSET, self.offset.to_string().into()),
        ]
    }
}
