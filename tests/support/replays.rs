//! `easq backfill` on a line, and what the service beside it has in Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use easq::contract::samples::SampleReader;
use easq::contract::v1::{LabelledView, PreferencePair, Source, sample};
use easq::settings::Settings;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use super::{Easq, Kafka, Line, Record};

pub const DEADLINE: Duration = Duration::from_secs(120);
/// Of every input.
pub const PARTITIONS: i32 = 3;

/// A line whose model learns in small batches, so that a short range makes many steps.
pub fn line(prefix: &str) -> Line {
    Line::new(prefix)
        .set("train.device", "cpu")
        .set("train.batch_groups", 8)
        .set("train.reservoir_pairs", 64)
        .set("train.normalizer_views", 3000)
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).expect("a time").to_string()
}

/// The command line of a replay.
pub fn command(line: &Line, range: (i64, i64), more: &[&str]) -> Vec<String> {
    let (from, to) = (time(range.0), time(range.1));
    line.arguments(&[&["backfill", "--from", &from, "--to", &to], more].concat())
}

#[track_caller]
pub fn replayed(line: &Line, range: (i64, i64), more: &[&str]) -> String {
    let (status, output) = Easq::run(command(line, range, more), DEADLINE);
    assert!(status.success(), "{output}");
    settle(line, more);
    output
}

/// The model that a replay of this name publishes.
pub fn replayed_model(line: &Line, run: &str) -> Line {
    line.clone().set("model.name", format!("{}.replay-{run}", line.settings().model.name))
}

/// Waits until readers see what a replay with these words has committed.
#[track_caller]
fn settle(line: &Line, words: &[&str]) {
    for word in words.windows(2) {
        match word[0] {
            "--pairs-topic" => line.kafka().settle(word[1]),
            "--publish" => {
                let settings = replayed_model(line, word[1]).settings();
                line.kafka().settle(&settings.topics.registry(&settings.model.name));
            }
            _ => {}
        }
    }
}

/// Runs to an error with this exit code; what it says.
#[track_caller]
pub fn refused(line: &Line, range: (i64, i64), more: &[&str], code: i32) -> String {
    let (status, output) = Easq::run(command(line, range, more), DEADLINE);
    assert_eq!(status.code(), Some(code), "{output}");
    output.lines().last().expect("a process that fails says why").to_owned()
}

/// Goes on with what was interrupted.
#[track_caller]
pub fn resumed(line: &Line, more: &[&str]) -> String {
    let (status, output) = Easq::run(line.arguments(&[&["backfill", "--resume"], more].concat()), DEADLINE);
    assert!(status.success(), "{output}");
    settle(line, more);
    output
}

/// Runs to an end that these failpoints bring; the exit code, if it has one, and what it says.
#[track_caller]
pub fn ended_by(arguments: Vec<String>, failpoints: &str) -> (Option<i32>, String) {
    let mut process = Easq::start_with(arguments, [("FAILPOINTS", failpoints)]);
    let status = process.wait(DEADLINE);
    (status.code(), process.output())
}

/// Runs until a Ctrl-C that comes after the range has begun; what it says. Each look behind that is a
/// long one: what is left of the range must not end before the Ctrl-C is heard.
#[track_caller]
pub fn interrupted(arguments: Vec<String>) -> String {
    let (code, output) = ended_by(arguments, "backfill-look=4*off->1*return(INT)->sleep(1000)");
    assert_eq!(code, Some(4), "{output}");
    output
}

/// The account beside a sample file or in a model's folder.
#[track_caller]
pub fn account(path: &Path) -> Value {
    let json = fs::read(path).expect("the account");
    serde_json::from_slice(&json).expect("JSON")
}

pub fn samples(path: &Path) -> Vec<sample::Sample> {
    let samples = SampleReader::open(path).expect("a sample file");
    samples.map(|sample| sample.expect("a sample").sample.expect("a known sample")).collect()
}

pub fn pairs(path: &Path) -> Vec<PreferencePair> {
    let pair = |sample| match sample {
        sample::Sample::PreferencePair(pair) => Some(pair),
        _ => None,
    };
    samples(path).into_iter().filter_map(pair).collect()
}

pub fn answered_at(label: &LabelledView) -> i64 {
    label.response.as_ref().expect("a label has its answer").event_time_ms
}

pub fn of_view(label: &LabelledView) -> Source {
    label.view_source.clone().expect("a label names its view")
}

/// The partition that a pair belongs to.
pub fn partition_of(pair: &PreferencePair) -> i32 {
    of_view(pair.chosen.as_ref().expect("a pair has two labels")).partition
}

/// Everything that a service has in Kafka.
#[derive(PartialEq)]
pub struct State {
    /// What any group of the cluster has committed for a partition of these topics, with its metadata.
    pub committed: BTreeMap<(String, String, i32), (i64, String)>,
    /// Of all its topics, the inputs included.
    pub records: BTreeMap<String, Vec<Record>>,
}

/// All topics of a service, the inputs included.
pub fn topics(settings: &Settings) -> Vec<String> {
    let (topics, model) = (&settings.topics, &settings.model.name);
    let partitioned = topics.partitioned().map(|(_, topic)| topic.to_owned());
    partitioned.into_iter().chain([topics.model(model), topics.registry(model)]).collect()
}

pub fn state(line: &Line) -> State {
    let names = topics(&line.settings());
    let records = names.iter().map(|topic| (topic.clone(), Kafka::shared().read_to_end(topic))).collect();
    State { committed: committed_by_any_group(&names), records }
}

/// What any group of the cluster has committed for these topics: group, topic, partition.
pub fn committed_by_any_group(topics: &[String]) -> BTreeMap<(String, String, i32), (i64, String)> {
    let client: BaseConsumer = Kafka::shared().client().create().expect("a valid configuration");
    let groups = client.fetch_group_list(None, DEADLINE).expect("the groups");
    let mut committed = BTreeMap::new();
    for group in groups.groups() {
        let name = group.name();
        let member: BaseConsumer =
            Kafka::shared().client().set("group.id", name).create().expect("a valid configuration");
        let mut wanted = TopicPartitionList::new();
        for topic in topics {
            wanted.add_partition_range(topic, 0, Kafka::shared().partitions(topic).max(1) - 1);
        }
        let found = member.committed_offsets(wanted, DEADLINE).expect("the group's offsets");
        for element in found.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let key = (name.to_owned(), element.topic().to_owned(), element.partition());
                committed.insert(key, (offset, element.metadata().to_owned()));
            }
        }
    }
    committed
}

/// The groups among [`committed_by_any_group`].
pub fn groups(committed: &BTreeMap<(String, String, i32), (i64, String)>) -> BTreeSet<&str> {
    committed.keys().map(|(group, ..)| group.as_str()).collect()
}

/// Names of groups and topics that have `prefix` in them, or belong to no test.
pub fn names_in_kafka(prefix: &str) -> BTreeSet<String> {
    let client: BaseConsumer = Kafka::shared().client().create().expect("a valid configuration");
    let groups = client.fetch_group_list(None, DEADLINE).expect("the groups");
    let topics = client.fetch_metadata(None, DEADLINE).expect("the topics");
    let groups = groups.groups().iter().map(|group| group.name().to_owned());
    let topics = topics.topics().iter().map(|topic| topic.name().to_owned());
    let of_no_test = |name: &str| name.starts_with("easq") && !name.starts_with("easq-trainer-");
    groups.chain(topics).filter(|name| name.contains(prefix) || of_no_test(name)).collect()
}
