//! The only user of rdkafka: clients, transactions, readers, ownership, topics.
//!
//! Everything here blocks the calling thread; asynchronous callers give it a thread of its own.
//! librdkafka works on background threads, so that no call does I/O by itself.
//!
//! | module | who uses it |
//! |---|---|
//! | [`transaction`] | joiner and trainer: outputs and offsets that commit together |
//! | [`reader`] | trainer, follower, registry: a log read from explicit offsets |
//! | [`membership`] | joiner: two consumers of two co-partitioned topics, one membership |
//! | [`ownership`] | trainer: which of several processes owns a model |
//! | [`producer`] | simulator: a plain idempotent writer |
//! | [`topics`] | `easq topics`: what must exist, and how it must be set |
//! | [`embedded`] | demo: a broker inside this process |
//! | [`identity`] | joiner and trainer: whether a topic is still the one it was |
//! | [`client`] | all of the above: properties, logs, connection state |

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::BaseRecord;

pub mod client;
pub(crate) mod embedded;
pub mod identity;
pub(crate) mod membership;
mod metadata;
pub mod ownership;
pub mod producer;
pub mod reader;
pub mod topics;
pub mod transaction;

/// A record that was read. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// One allocation for all records that one client reads of a topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
    /// Its place in that partition.
    pub offset: i64,
    /// The record's own timestamp, as its producer or the broker set it; Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// `None` where it was written without one.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// In the order in which they were written; a name may come again.
    pub headers: Vec<(String, Bytes)>,
}

impl Record {
    /// Copies a message out of librdkafka's buffers.
    ///
    /// `topic` is the message's topic, interned by the caller (see [`TopicNames`]).
    pub(crate) fn copied(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        let (key, payload) = copied_together(message.key(), message.payload());
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key,
            payload,
            headers: message.headers().map(copied_headers).unwrap_or_default(),
        }
    }

    /// The value of the last header of this name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// Key and payload in one piece of memory, which lasts as long as either.
fn copied_together(key: Option<&[u8]>, payload: Option<&[u8]>) -> (Option<Bytes>, Option<Bytes>) {
    let both = [key.unwrap_or_default(), payload.unwrap_or_default()].concat();
    let mut rest = Bytes::from(both);
    let key = key.map(|key| rest.split_to(key.len()));
    (key, payload.map(|_| rest))
}

fn copied_headers(headers: &impl Headers) -> Vec<(String, Bytes)> {
    (0..headers.count())
        .filter_map(|index| headers.try_get(index))
        .map(|header| (header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap_or_default())))
        .collect()
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: Arc<str>,
    /// `None`: the producer's partitioner chooses by key.
    pub partition: Option<i32>,
    /// What a partitioner, and compaction, go by.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// In the order in which they are written.
    pub headers: Vec<(&'static str, Bytes)>,
    /// Unix milliseconds; `None`: the time of sending.
    pub timestamp_ms: Option<i64>,
}

impl Outgoing {
    /// An empty record for `topic`: no key, no payload, the partitioner chooses.
    pub fn to(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            payload: None,
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }

    /// Sends it to this partition, whatever its key.
    pub fn partition(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }

    /// Replaces the key.
    pub fn key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Replaces the value; without one the record is a tombstone.
    pub fn payload(self, payload: impl Into<Bytes>) -> Self {
        Self { payload: Some(payload.into()), ..self }
    }

    /// Adds a header behind those that are there.
    pub fn header(mut self, name: &'static str, value: impl Into<Bytes>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Replaces the time of sending, in Unix milliseconds. The broker refuses one far ahead of its clock.
    pub fn timestamp_ms(self, timestamp_ms: i64) -> Self {
        Self { timestamp_ms: Some(timestamp_ms), ..self }
    }

    /// Key, payload and header values: what the record weighs, without the protocol's overhead.
    pub fn len_bytes(&self) -> usize {
        let optional = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        optional(&self.key) + optional(&self.payload) + headers
    }

    /// The same record as librdkafka takes it; it copies key and payload into its own queue.
    pub(crate) fn as_base_record(&self, delivery: usize) -> BaseRecord<'_, [u8], [u8], usize> {
        BaseRecord {
            topic: &self.topic,
            partition: self.partition,
            payload: self.payload.as_deref(),
            key: self.key.as_deref(),
            timestamp: self.timestamp_ms,
            headers: (!self.headers.is_empty()).then(|| native_headers(&self.headers)),
            delivery_opaque: delivery,
        }
    }
}

fn native_headers(headers: &[(&'static str, Bytes)]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |native, (key, value)| {
        native.insert(Header { key, value: Some(&value[..]) })
    })
}

/// How far a group has come in one input partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextOffset {
    /// Of an input of the group.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
    /// The offset of the next record to read.
    pub offset: i64,
    /// Comes back with the committed offset; at most [`MAX_METADATA_BYTES`] bytes, may be empty.
    pub metadata: String,
}

/// What a broker stores as metadata of one committed offset (`offset.metadata.max.bytes`).
pub const MAX_METADATA_BYTES: usize = 4096;

/// One generation of a group membership, captured when its partitions were assigned.
///
/// A transaction that commits offsets with it is refused once the group has moved on. Metadata of
/// a consumer that never joined is accepted by the broker and fences nothing.
#[derive(Clone)]
pub struct GroupMetadata(Arc<ConsumerGroupMetadata>);

impl GroupMetadata {
    /// Whether both were captured at the same assignment.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn new(metadata: ConsumerGroupMetadata) -> Self {
        Self(Arc::new(metadata))
    }

    pub(crate) fn native(&self) -> &ConsumerGroupMetadata {
        &self.0
    }
}

impl std::fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GroupMetadata")
    }
}

/// Topic names by text, so that records of one topic share one allocation.
#[derive(Debug, Default)]
pub(crate) struct TopicNames(Vec<Arc<str>>);

impl TopicNames {
    /// The shared name. A client reads a handful of topics, so a scan is the fastest look-up.
    pub(crate) fn get(&mut self, topic: &str) -> Arc<str> {
        if let Some(name) = self.0.iter().find(|name| &***name == topic) {
            return Arc::clone(name);
        }
        let name: Arc<str> = topic.into();
        self.0.push(Arc::clone(&name));
        name
    }
}

/// A list made afresh for one call: a list handed to two clients aborts the process (an assertion
/// in librdkafka that is reached from safe code).
pub(crate) fn partition_list<'a>(
    positions: impl IntoIterator<Item = (&'a str, i32, Offset)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in positions {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_share_one_allocation() {
        let mut names = TopicNames::default();
        let first = names.get("a");
        let other = names.get("b");
        assert!(Arc::ptr_eq(&first, &names.get("a")));
        assert_eq!(&*other, "b");
    }

    #[test]
    fn a_copied_record_has_its_key_and_its_payload_or_none() {
        let parts: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"k"), Some(b"payload")];
        for key in parts {
            for payload in parts {
                let (copied_key, copied_payload) = copied_together(key, payload);
                assert_eq!((copied_key.as_deref(), copied_payload.as_deref()), (key, payload));
            }
        }
    }

    #[test]
    fn a_record_weighs_its_key_payload_and_headers() {
        let record = Outgoing::to("t").key("12").payload("345").header("6", "7");
        assert_eq!(record.len_bytes(), 7);
        assert_eq!(Outgoing::to("t").len_bytes(), 0);
    }
}
