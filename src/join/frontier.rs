//! What is committed with the next offset of each input, and read back by a new owner.
//!
//! The metadata of a Kafka offset is a string of at most [`MAX_METADATA_BYTES`]. It is JSON, so
//! that a person can read it where the group's offsets are described.

use serde::{Deserialize, Serialize};

use super::{Outcomes, Products};

/// The broker's default for `offset.metadata.max.bytes`.
pub const MAX_METADATA_BYTES: usize = 4096;

/// Raised when a program of the format before would misread it.
const FORMAT: u32 = 1;

/// One input's next offset, with the string to commit beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Of the first record that was not consumed.
    pub next_offset: i64,
    /// An encoded [`InputState`].
    pub metadata: String,
}

/// What to commit for both inputs, always together and with the outputs (invariant 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontier {
    /// Of `topics.behavior`.
    pub views: Position,
    /// Of `topics.responses`.
    pub responses: Position,
}

/// Enough of a record to tell whether the same offset still holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordIdentity {
    /// Where it lay when it was consumed.
    pub offset: i64,
    /// Its own, as its producer or the broker set it; Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// xxh3-64 of key and value.
    pub hash: u64,
}

/// The state of one input partition at its frontier. The open windows and groups are not in it:
/// they are rebuilt by reading again from `replay_from`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputState {
    /// Of the first record that was not consumed.
    pub next_offset: i64,
    /// Greatest event time below `next_offset`.
    pub stream_time_ms: Option<i64>,
    /// At most the lowest offset that the state at the frontier depends on.
    pub replay_from: i64,
    /// Greatest event time below `replay_from`.
    pub replay_time_ms: Option<i64>,
    /// Everything below it was let go at a memory bound.
    pub evicted_below: i64,
    /// Advances while idle that still matter: first offset each applies to, and its time.
    pub idle_advances: Vec<(i64, i64)>,
    /// Of all records below `next_offset`.
    pub outcomes: Outcomes,
    /// Records among the first `input.mis_keyed_sample_records` whose key was wrong.
    pub mis_keyed: u64,
    /// Of the views alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub products: Option<Products>,
    /// The last record consumed.
    pub last: Option<RecordIdentity>,
    /// What the cluster calls the topic, where it says so: another one of the same name has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
}

/// The joiner cannot go on from a committed offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum FrontierError {
    #[error(
        "the committed offset {offset} carries no state of this program: another program committed in this \
         group, or its offsets were reset; use a new joiner.group"
    )]
    Foreign { offset: i64 },
    #[error(
        "the state committed with offset {offset} has format {format}, this program reads up to {FORMAT}: run \
         the newer program"
    )]
    Newer { offset: i64, format: u32 },
    #[error("the state committed with offset {offset} cannot be read: {detail}")]
    Broken { offset: i64, detail: String },
}

#[derive(Serialize)]
struct Envelope<'a> {
    easq: u32,
    #[serde(flatten)]
    state: &'a InputState,
}

impl InputState {
    /// The metadata to commit: one line of JSON, at most [`MAX_METADATA_BYTES`] for all counts there can be.
    pub fn encode(&self) -> String {
        let envelope = Envelope { easq: FORMAT, state: self };
        serde_json::to_string(&envelope).expect("numbers and lists are representable in JSON")
    }

    /// Reads what was committed with `offset`.
    pub fn decode(offset: i64, metadata: &str) -> Result<InputState, FrontierError> {
        let broken = |detail: String| FrontierError::Broken { offset, detail };
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(metadata) else {
            return Err(FrontierError::Foreign { offset });
        };
        let format = fields.remove("easq").and_then(|format| format.as_u64());
        let format = format.ok_or(FrontierError::Foreign { offset })?;
        if format != u64::from(FORMAT) {
            return Err(FrontierError::Newer { offset, format: u32::try_from(format).unwrap_or(u32::MAX) });
        }
        let state: InputState =
            serde_json::from_value(fields.into()).map_err(|error| broken(error.to_string()))?;
        if state.next_offset != offset {
            return Err(broken(format!("it was written for offset {}", state.next_offset)));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::lateness::MAX_ADVANCES;
    use crate::join::{Outcome, Side};

    fn state() -> InputState {
        let mut outcomes = Outcomes { waiting: 3, ..Outcomes::default() };
        outcomes.add(Outcome::Matched, 40);
        InputState {
            next_offset: 57,
            stream_time_ms: Some(1_700_000_000_000),
            replay_from: 12,
            replay_time_ms: None,
            evicted_below: i64::MIN,
            idle_advances: vec![(20, 1_600_000_000_000)],
            outcomes,
            mis_keyed: 1,
            products: Some(Products { labelled_views: 40, ..Products::default() }),
            last: Some(RecordIdentity { offset: 56, timestamp_ms: None, hash: u64::MAX }),
            topic_id: Some("topic".to_owned()),
        }
    }

    #[test]
    fn a_state_comes_back_as_it_was_committed() {
        assert_eq!(InputState::decode(57, &state().encode()), Ok(state()));
        let bare =
            InputState { products: None, last: None, idle_advances: Vec::new(), topic_id: None, ..state() };
        assert_eq!(InputState::decode(57, &bare.encode()), Ok(bare));
    }

    /// An example of every format that was ever released must stay readable.
    #[test]
    fn format_1_is_read() {
        let metadata = r#"{"easq":1,"next_offset":57,"stream_time_ms":1700000000000,"replay_from":12,
            "replay_time_ms":null,"evicted_below":-9223372036854775808,"idle_advances":[[20,1600000000000]],
            "outcomes":{"waiting":3,"decided":[40,0,0,0,0,0,0,0,0,0]},"mis_keyed":1,"products":{
            "labelled_views":40,"user_pairs":0,"scenario_pairs":0,"groups":0,"grouped_views":0,
            "single_view_groups":0,"unsampled_views":0,"views_after_group":0,"views_over_group":0,
            "views_again_in_group":0,"views_of_evicted_groups":0,"forgotten_views":0},
            "last":{"offset":56,"timestamp_ms":null,"hash":18446744073709551615}}"#;
        assert_eq!(InputState::decode(57, metadata), Ok(InputState { topic_id: None, ..state() }));
    }

    #[test]
    fn invariant_12_the_largest_state_fits_into_the_metadata_of_an_offset() {
        let mut outcomes = Outcomes { waiting: u64::MAX, ..Outcomes::default() };
        for &outcome in Outcome::of(Side::Views).iter().chain(&[Outcome::Unmatched]) {
            outcomes.add(outcome, u64::MAX);
        }
        let products = Products {
            labelled_views: u64::MAX,
            user_pairs: u64::MAX,
            scenario_pairs: u64::MAX,
            groups: u64::MAX,
            grouped_views: u64::MAX,
            single_view_groups: u64::MAX,
            unsampled_views: u64::MAX,
            views_after_group: u64::MAX,
            views_over_group: u64::MAX,
            views_again_in_group: u64::MAX,
            views_of_evicted_groups: u64::MAX,
            forgotten_views: u64::MAX,
        };
        let state = InputState {
            next_offset: i64::MIN,
            stream_time_ms: Some(i64::MIN),
            replay_from: i64::MIN,
            replay_time_ms: Some(i64::MIN),
            evicted_below: i64::MIN,
            idle_advances: vec![(i64::MIN, i64::MIN); MAX_ADVANCES],
            outcomes,
            mis_keyed: u64::MAX,
            products: Some(products),
            last: Some(RecordIdentity { offset: i64::MIN, timestamp_ms: Some(i64::MIN), hash: u64::MAX }),
            topic_id: Some("x".repeat(22)),
        };
        assert!(state.encode().len() <= MAX_METADATA_BYTES, "{} bytes", state.encode().len());
    }

    #[test]
    fn a_newer_format_is_refused() {
        let newer = state().encode().replacen("\"easq\":1", "\"easq\":2", 1);
        assert_eq!(InputState::decode(57, &newer), Err(FrontierError::Newer { offset: 57, format: 2 }));
    }

    #[test]
    fn what_another_program_committed_is_refused() {
        for metadata in ["", "{}", "null", "spark", r#"{"offset":3}"#] {
            assert_eq!(InputState::decode(57, metadata), Err(FrontierError::Foreign { offset: 57 }));
        }
    }

    #[test]
    fn a_state_of_another_offset_is_refused() {
        let error = InputState::decode(58, &state().encode()).unwrap_err();
        assert!(matches!(error, FrontierError::Broken { offset: 58, .. }), "{error}");
    }
}
