//! Joiner processes on a line, and what can be seen of their work from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use easq::contract::Side;
use easq::join::InputState;
use prost::Message;

use super::oracle::Address;
use super::{Easq, Kafka, Line, Record, eventually};

/// Long enough for any step of a test on a busy machine.
pub const SOON: Duration = Duration::from_secs(120);

/// A process of `easq run --role joiner` with a static name and its own metrics endpoint.
pub struct Joiner {
    pub process: Easq,
}

impl Joiner {
    pub fn start(line: &Line, instance_id: &str) -> Self {
        let line = line.clone().set("joiner.instance_id", instance_id).set("telemetry.listen", "127.0.0.1:0");
        Self { process: line.start(&["run", "--role", "joiner"]) }
    }

    /// SIGTERM; it must drain and exit with code 0.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.terminate();
        let status = self.process.wait(SOON);
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
    }

    /// The text of all of them; empty before the process serves them.
    fn metrics(&self) -> String {
        let address = self.process.served_at();
        address.and_then(|address| get(&address, "/metrics").ok()).unwrap_or_default()
    }

    /// The samples of one metric, by their labels as they stand in the text; none before the process
    /// serves them.
    pub fn metric(&self, name: &str) -> BTreeMap<String, f64> {
        let text = self.metrics();
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        samples
            .map(|sample| {
                let (labels, value) = sample.rsplit_once("} ").expect("labels and a value");
                (labels.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }

    /// The sample of a metric without labels.
    pub fn metric_of_all(&self, name: &str) -> Option<f64> {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }
}

fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a label in the text of a sample's labels.
pub fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

/// Both inputs of a line, with their topics.
pub fn inputs(line: &Line) -> [(Side, String); 2] {
    let topics = line.settings().topics;
    [(Side::Views, topics.behavior), (Side::Responses, topics.responses)]
}

/// The state that the group has committed with the offset of one input partition.
pub fn committed(line: &Line, topic: &str, partition: i32) -> Option<InputState> {
    let group = line.settings().joiner.group;
    let (offset, metadata) = line.kafka().committed(&group, topic, partition)?;
    Some(InputState::decode(offset, &metadata).expect("state of this program"))
}

/// Records of both inputs that the group has consumed and committed.
pub fn consumed_records(line: &Line, partitions: i32) -> u64 {
    let one = |topic: &str, partition| committed(line, topic, partition).map_or(0, |s| s.outcomes.consumed());
    inputs(line).iter().flat_map(|(_, topic)| (0..partitions).map(move |p| one(topic, p))).sum()
}

/// Waits until everything that lies in both inputs is consumed and committed.
#[track_caller]
pub fn consumed_to_the_end(line: &Line, partitions: i32) {
    for (_, topic) in inputs(line) {
        for partition in 0..partitions {
            let (_, end) = line.kafka().watermarks(&topic, partition);
            let what = format!("'{topic}' partition {partition} is consumed up to {end}");
            eventually(SOON, &what, || {
                let next = committed(line, &topic, partition).map_or(0, |state| state.next_offset);
                end == 0 || next >= end
            });
        }
    }
}

/// Whether that is so now.
pub fn is_consumed_to_the_end(line: &Line, partitions: i32) -> bool {
    let topics = inputs(line);
    let mut each = topics.iter().flat_map(|(_, topic)| (0..partitions).map(move |number| (topic, number)));
    each.all(|(topic, partition)| {
        let (_, end) = line.kafka().watermarks(topic, partition);
        end == 0 || committed(line, topic, partition).is_some_and(|state| state.next_offset >= end)
    })
}

/// Messages of an output topic on the shared broker, in the order of partition and offset.
pub fn messages<M: Message + Default>(topic: &str) -> Vec<M> {
    messages_on(Kafka::shared(), topic)
}

/// The same on other brokers.
pub fn messages_on<M: Message + Default>(kafka: &Kafka, topic: &str) -> Vec<M> {
    kafka.read_to_end(topic).iter().map(Record::decode).collect()
}

/// Where a record of `topics.late` or `topics.dead_letters` came from.
#[track_caller]
pub fn origin(record: &Record) -> Address {
    let number = |name: &str| -> i64 {
        record.header(name).expect("a header with the origin").parse().expect("a number")
    };
    let topic = record.header("topic").expect("a header with the topic");
    let partition = i32::try_from(number("partition")).expect("a partition number");
    (topic, partition, number("offset"))
}

/// Where records came from. Fails when one is there twice.
#[track_caller]
pub fn origins(records: &[Record]) -> BTreeSet<Address> {
    let mut origins = BTreeSet::new();
    for origin in records.iter().map(origin) {
        assert!(origins.insert(origin.clone()), "{origin:?} is there twice");
    }
    origins
}
