//! Why a record is rejected once and for all.

use std::fmt;

use super::MAX_ID_BYTES;

/// Why an input record goes to the dead letters. `Display` gives the detail with the values.
///
/// All of it is a property of the record and the settings, never of when it was read: a replay
/// rejects the same records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Key or value is longer than `input.max_record_bytes`.
    TooLarge {
        bytes: usize,
        max_bytes: usize,
    },
    /// Not a message of the contract, or without a value.
    Undecodable {
        detail: &'static str,
    },
    MissingId {
        field: &'static str,
    },
    /// An id or a label (scenario, questionnaire) longer than [`MAX_ID_BYTES`].
    OversizedId {
        field: &'static str,
        bytes: usize,
    },
    /// Event time before the first millisecond of 1970.
    EventTime {
        event_time_ms: i64,
    },
    /// Request time not within 1 to the event time.
    RequestTime {
        request_time_ms: i64,
        event_time_ms: i64,
    },
    MissingFeatures,
    /// `features` more than once: either copy alone would be a guess.
    RepeatedFeatures,
    WrongSchemaVersion {
        found: u32,
        expected: u32,
    },
    WrongDenseLength {
        found: usize,
        expected: usize,
    },
    UnknownAnswer {
        answer: i32,
    },
    /// Without the record's own timestamp an absurd event time cannot be told, and one absurd
    /// event time would make everything after it late.
    NoTimestamp,
    /// Event time more than `input.max_clock_skew_ms` after the record's own timestamp.
    TimeAhead {
        event_time_ms: i64,
        timestamp_ms: i64,
    },
    /// The key is not the `user_id`, byte for byte.
    KeyNotUserId,
    /// The key belongs to another partition under `input.partitioner`.
    WrongPartition {
        expected: i32,
        found: i32,
    },
}

impl Rejection {
    /// The value of metrics labels and of the header `reason`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Rejection::TooLarge { .. } => "too_large",
            Rejection::Undecodable { .. } => "undecodable",
            Rejection::MissingId { .. } => "missing_id",
            Rejection::OversizedId { .. } => "oversized_id",
            Rejection::EventTime { .. } => "event_time",
            Rejection::RequestTime { .. } => "request_time",
            Rejection::MissingFeatures => "missing_features",
            Rejection::RepeatedFeatures => "repeated_features",
            Rejection::WrongSchemaVersion { .. } => "schema_version",
            Rejection::WrongDenseLength { .. } => "dense_length",
            Rejection::UnknownAnswer { .. } => "unknown_answer",
            Rejection::NoTimestamp => "no_timestamp",
            Rejection::TimeAhead { .. } => "time_ahead",
            Rejection::KeyNotUserId | Rejection::WrongPartition { .. } => "mis_keyed",
        }
    }

    /// Whether the producers' partitioner or key may be other than the settings say.
    pub fn is_mis_keyed(&self) -> bool {
        matches!(self, Rejection::KeyNotUserId | Rejection::WrongPartition { .. })
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::TooLarge { bytes, max_bytes } => {
                write!(f, "{bytes} bytes, at most {max_bytes} are taken")
            }
            Rejection::Undecodable { detail } => write!(f, "{detail}"),
            Rejection::MissingId { field } => write!(f, "{field} is empty"),
            Rejection::OversizedId { field, bytes } => {
                write!(f, "{field} has {bytes} bytes, at most {MAX_ID_BYTES} are allowed")
            }
            Rejection::EventTime { event_time_ms } => write!(f, "event_time_ms {event_time_ms} is below 1"),
            Rejection::RequestTime { request_time_ms, event_time_ms } => {
                write!(
                    f,
                    "request_time_ms {request_time_ms} is not within 1 to event_time_ms {event_time_ms}"
                )
            }
            Rejection::MissingFeatures => write!(f, "features is missing"),
            Rejection::RepeatedFeatures => write!(f, "features is there more than once"),
            Rejection::WrongSchemaVersion { found, expected } => {
                write!(f, "features.schema_version {found}, the settings say {expected}")
            }
            Rejection::WrongDenseLength { found, expected } => {
                write!(f, "features.dense has {found} values, the settings name {expected}")
            }
            Rejection::UnknownAnswer { answer } => write!(f, "answer {answer} is not one of 1, 2, 3"),
            Rejection::NoTimestamp => write!(f, "the record has no timestamp of its own"),
            Rejection::TimeAhead { event_time_ms, timestamp_ms } => {
                write!(
                    f,
                    "event_time_ms {event_time_ms} is too far after the record's timestamp {timestamp_ms}"
                )
            }
            Rejection::KeyNotUserId => write!(f, "the record's key is not its user_id"),
            Rejection::WrongPartition { expected, found } => {
                write!(f, "the key belongs to partition {expected}, the record lies in {found}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One of each.
    fn all() -> Vec<Rejection> {
        let field = "user_id";
        vec![
            Rejection::TooLarge { bytes: 2, max_bytes: 1 },
            Rejection::Undecodable { detail: "" },
            Rejection::MissingId { field },
            Rejection::OversizedId { field, bytes: 129 },
            Rejection::EventTime { event_time_ms: 0 },
            Rejection::RequestTime { request_time_ms: 0, event_time_ms: 1 },
            Rejection::MissingFeatures,
            Rejection::RepeatedFeatures,
            Rejection::WrongSchemaVersion { found: 1, expected: 2 },
            Rejection::WrongDenseLength { found: 1, expected: 2 },
            Rejection::UnknownAnswer { answer: 4 },
            Rejection::NoTimestamp,
            Rejection::TimeAhead { event_time_ms: 2, timestamp_ms: 1 },
            Rejection::KeyNotUserId,
            Rejection::WrongPartition { expected: 1, found: 2 },
        ]
    }

    #[test]
    fn the_contract_documents_every_reason_and_no_other() {
        let contract = include_str!("../../docs/contract.md");
        let (_, section) = contract.split_once("### Why a record is rejected\n").expect("the section");
        let table = section.lines().take_while(|line| !line.starts_with("Whether a record"));
        let rows = table.filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
        let documented: BTreeSet<_> = rows.collect();
        assert_eq!(documented, all().iter().map(Rejection::as_str).collect());
    }
}
