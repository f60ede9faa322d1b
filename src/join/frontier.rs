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
    pub next_offset: i64,
    pub metadata: String,
}

/// What to commit for both inputs, always together and with the outputs (invariant 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontier {
    pub views: Position,
    pub responses: Position,
}

/// Enough of a record to tell whether the same offset still holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordIdentity {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    /// xxh3-64 of key and value.
    pub hash: u64,
}

/// The state of one input partition at its frontier. The open windows and groups are not in it:
/// they are rebuilt by reading again from `replay_from`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputState {
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
    pub outcomes: Outcomes,
    pub mis_keyed: u64,
    /// Of the views alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub products: Option<Products>,
    /// The last record consumed.
    pub last: Option<RecordIdentity>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
