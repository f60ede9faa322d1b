//! The wire contract: generated types, their validation, the partitioners that producers use, and
//! sample files.
//!
//! [`v1`] holds the messages of `proto/easq/v1`, [`v1::envelope`] the same messages with their
//! bulky parts left as bytes. [`validate`] turns an input record into what the join needs of it,
//! or says why the record is rejected; it decodes no features and copies no bytes.
//!
//! All times are Unix milliseconds of event time. Ids are opaque UTF-8 of 1 to
//! [`MAX_ID_BYTES`] bytes.

pub mod partitioner;
mod rejection;
pub mod samples;
pub(crate) mod validate;
mod wire;

pub(crate) use rejection::Rejection;

use bytes::Bytes;

/// Greatest length of an id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Value of the header [`headers::CONTRACT_VERSION`]: the `1` of `easq.v1`.
pub const CONTRACT_VERSION: &str = "1";

/// Names of the record headers that the outputs carry. Values are UTF-8; numbers are decimal.
pub(crate) mod headers {
    /// On every output: [`CONTRACT_VERSION`](super::CONTRACT_VERSION).
    pub const CONTRACT_VERSION: &str = "contract-version";
    /// On late records and dead letters: why the record is there.
    pub const REASON: &str = "reason";
    /// On dead letters: the values that broke the rule.
    pub const DETAIL: &str = "detail";
    /// On late records and dead letters: where the record came from.
    pub const TOPIC: &str = "topic";
    /// On late records and dead letters: its partition there.
    pub const PARTITION: &str = "partition";
    /// On late records and dead letters: its offset there.
    pub const OFFSET: &str = "offset";
}

/// A record of one of the two input topics, as far as the contract looks at it.
///
/// Key and payload are shared with whoever read the record; nothing here copies them.
#[derive(Debug, Clone, PartialEq)]
pub struct InputRecord {
    /// Number of the partition that it lies in.
    pub partition: i32,
    /// Its place in that partition.
    pub offset: i64,
    /// The record's own Kafka timestamp.
    pub timestamp_ms: Option<i64>,
    /// The user id, byte for byte, in a record that is keyed as it should be.
    pub key: Option<Bytes>,
    /// An encoded [`v1::BehaviorEvent`] or [`v1::QuestionnaireResponse`]; `None`: a tombstone.
    pub payload: Option<Bytes>,
}

/// One of the two inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// `topics.behavior`.
    Views,
    /// `topics.responses`.
    Responses,
}

impl Side {
    /// The input that a record of this one is matched with.
    pub fn other(self) -> Side {
        match self {
            Side::Views => Side::Responses,
            Side::Responses => Side::Views,
        }
    }

    /// The value of metrics labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Views => "views",
            Side::Responses => "responses",
        }
    }
}

/// The messages of `proto/easq/v1`; their comments are those of the schemas.
#[allow(clippy::all, missing_docs, reason = "generated; the schemas say what the name of a field does not")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/easq.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/easq.v1.serde.rs"));
    /// The messages that the join reads and writes, with the parts that it does not look at as bytes.
    pub mod envelope {
        include!(concat!(env!("OUT_DIR"), "/easq.v1.envelope.rs"));
    }
}
