//! Every offset that any group has committed, as it lies in the brokers' own topic: what was overwritten
//! since is there too.

use bytes::Buf;

use super::{Kafka, Record};

const TOPIC: &str = "__consumer_offsets";
/// From this version on, lengths of strings are written in as few bytes as they need.
const COMPACT: u16 = 4;

/// An offset that was committed.
#[derive(Debug)]
pub struct Commit {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub metadata: String,
}

/// All that were ever committed for partitions of `topics`; of one partition in their order.
pub fn commits(kafka: &Kafka, topics: &[String]) -> Vec<Commit> {
    let commits = kafka.read_to_end(TOPIC).into_iter().filter_map(commit);
    commits.filter(|commit| topics.contains(&commit.topic)).collect()
}

/// Of a record that holds one: others tell who is in a group, or that a commit is forgotten.
fn commit(record: Record) -> Option<Commit> {
    let (key, value) = (record.key?, record.payload?);
    let (mut key, mut value) = (&key[..], &value[..]);
    if key.get_u16() > 1 {
        return None;
    }
    let (group, topic) = (string(&mut key), string(&mut key));
    let version = value.get_u16();
    assert!((3..=COMPACT).contains(&version), "{TOPIC} has records of version {version}");
    let (offset, _leader_epoch) = (value.get_i64(), value.get_i32());
    let metadata = if version < COMPACT { string(&mut value) } else { compact_string(&mut value) };
    Some(Commit { group, topic, partition: key.get_i32(), offset, metadata })
}

fn string(bytes: &mut &[u8]) -> String {
    let length = bytes.get_u16();
    text(bytes, length.into())
}

fn compact_string(bytes: &mut &[u8]) -> String {
    let length = prost::encoding::decode_varint(bytes).expect("a length");
    text(bytes, usize::try_from(length).expect("a small number") - 1)
}

fn text(bytes: &mut &[u8], length: usize) -> String {
    String::from_utf8(bytes.copy_to_bytes(length).to_vec()).expect("UTF-8")
}
