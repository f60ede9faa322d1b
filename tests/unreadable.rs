//! Batches that lie in the log and cannot be read, as a bad disk makes them: whoever reads says where, and
//! nobody goes on behind them as if nothing had been there (invariants 7 and 11).

mod support;

use std::time::Duration;

use easq::contract::Side;
use easq::contract::v1::Answer;
use easq::kafka::reader::{From, LogReader, ReadError, read_to_end};
use easq::kafka::topics::Admin;
use easq::publish::registry::RegistryReader;
use easq::supervise::StopToken;
use prost::Message;
use support::joiners::{self, Joiner};
use support::lineage::{History, registry};
use support::trainers::{self, PARTITIONS, Trainer, production_learns_all};
use support::{
    Cluster, Input, Kafka, Line, Samples, Supervised, eventually, eventually_some, response, view,
};

const SOON: Duration = Duration::from_secs(120);
const SLICE: Duration = Duration::from_millis(100);
const BEGUN_MS: i64 = 1_700_000_000_000;

fn place(topic: &str, partition: i32, offset: i64) -> String {
    format!("'{topic}' partition {partition} cannot be read from offset {offset} on: ")
}

/// Ten records in each of `batches` batches of a partition.
fn write_batches(kafka: &Kafka, topic: &str, partition: i32, batches: usize) {
    let record = |number: u8| Input {
        partition: Some(partition),
        payload: Some(vec![number; 100]),
        ..Input::default()
    };
    let batch: Vec<Input> = (0..10).map(record).collect();
    (0..batches).for_each(|_| _ = kafka.produce(topic, &batch));
}

#[test]
fn a_reader_gives_all_that_comes_before_and_then_says_where_it_ends() {
    let cluster = Cluster::start(1, 0);
    let settings = Line::on(cluster.kafka(), "unreadable-log").settings();
    let (one, other) = (Kafka::unique("one"), Kafka::unique("other"));
    for topic in [&one, &other] {
        cluster.kafka().create_topic(topic, 2);
        for partition in [0, 1] {
            write_batches(cluster.kafka(), topic, partition, 7);
        }
    }
    let bad = cluster.spoil_batch(0, &other, 1);
    let mut reader = LogReader::new(&settings.kafka, "reader").expect("a reader");
    let all = [(&*one, 0, 0), (&*one, 1, 0), (&*other, 0, 0), (&*other, 1, 0)];
    reader.assign(&all).expect("an assignment");
    let mut given = Vec::new();
    let error = eventually_some(SOON, "the reader fails", || match reader.poll(SLICE) {
        Ok(record) => {
            given.extend(record.filter(|record| *record.topic == *other && record.partition == 1));
            None
        }
        Err(error) => Some(error),
    });
    let message = error.to_string();
    assert!(message.contains(&place(&other, 1, bad.start)), "{message}");
    let offsets: Vec<i64> = given.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..bad.start).collect::<Vec<_>>());

    // Those who read once to the end, and the registry, as everybody else.
    let mut next = 0;
    let each = |record: easq::kafka::Record| next = record.offset + 1;
    let read = read_to_end(&settings.kafka, &other, 1, From::Beginning, &StopToken::new(), each);
    assert!(matches!(&read, Err(ReadError::Unreadable { offset, .. }) if *offset == bad.start), "{read:?}");
    assert_eq!(next, bad.start);
    let topic = settings.topics.registry(&settings.model.name);
    cluster.kafka().create_topic(&topic, 1);
    write_batches(cluster.kafka(), &topic, 0, 5);
    let bad = cluster.spoil_batch(0, &topic, 0);
    let opened = RegistryReader::open(&settings, "registry", &StopToken::new());
    let message = opened.err().expect("a registry with a hole is none").to_string();
    assert!(message.contains(&place(&topic, 0, bad.start)), "{message}");
}

#[test]
fn invariant_7_a_trainer_stops_before_what_it_cannot_read_and_records_the_gap_that_a_person_makes() {
    let cluster = Cluster::start(1, 0);
    let line = trainers::line_on(cluster.kafka(), "unreadable-samples");
    let settings = line.settings();
    let topic = settings.topics.behavior_groups.as_str();
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(100);
    let trainer = Trainer::start(&line);
    production_learns_all(&line);
    trainer.stop();
    samples.write(600);
    let bad = cluster.spoil_batch(0, topic, 1);
    let mut trainer = Trainer::start(&line);
    let status = trainer.process.wait(SOON);
    let output = trainer.process.output();
    assert_eq!(status.code(), Some(1), "{output}");
    let last = output.lines().last().expect("a process that fails says why");
    for part in [&*place(topic, 1, bad.start), "kafka-delete-records", "train.gap"] {
        assert!(last.contains(part), "{last}");
    }
    let claims = || {
        let versions = registry(&settings).versions;
        let newest = versions.values().next_back().expect("a version");
        newest
            .inputs
            .iter()
            .find(|range| range.topic == topic && range.partition == 1)
            .cloned()
            .expect("a range")
    };
    assert!(claims().next_offset <= bad.start, "{:?}", claims());

    let admin = Admin::new(&settings.kafka).expect("a valid configuration");
    admin.delete_records_below(topic, 1, bad.end).expect("deleted");
    let trainer = Trainer::start(&line.clone().set("train.gap", "accept"));
    production_learns_all(&line);
    trainer.stop();
    let versions = History::read(&settings).versions;
    let ranges = versions.iter().flat_map(|version| &version.inputs);
    let ranges = ranges.filter(|range| range.topic == topic && range.partition == 1);
    let gaps: Vec<_> = ranges.flat_map(|range| &range.gaps).collect();
    assert!(gaps.iter().any(|gap| gap.from_offset <= bad.start && gap.to_offset == bad.end), "{gaps:?}");
}

/// A view a second, and in the batch of its number the answers to those of the batch before.
fn records(side: Side, batch: i64) -> Vec<Input> {
    let numbers = batch * 60..(batch + 1) * 60;
    let record = |number: i64| {
        let (user, impression) = (format!("user-{number}"), format!("impression-{number}"));
        let event_time_ms = BEGUN_MS + 1_000 * number;
        let payload = match side {
            Side::Views => view(&user, &impression, event_time_ms).encode_to_vec(),
            Side::Responses => {
                response(&user, &impression, event_time_ms + 500, Answer::Satisfied).encode_to_vec()
            }
        };
        Input::new(user, payload, event_time_ms)
    };
    numbers.map(record).collect()
}

#[test]
fn invariant_11_a_joiner_stops_before_what_it_cannot_read_and_tells_what_a_person_deletes() {
    let cluster = Cluster::start(1, 0);
    for side in [Side::Views, Side::Responses] {
        let line = Line::on(cluster.kafka(), "unreadable-inputs").set("joiner.instance_id", "one");
        line.create_topics(2);
        let write = |batches: std::ops::Range<i64>| {
            for batch in batches {
                for (side, topic) in joiners::inputs(&line) {
                    cluster.kafka().produce(&topic, &records(side, batch));
                }
            }
        };
        write(0..3);
        let service = Supervised::start(&line, &["run", "--role", "joiner"]);
        joiners::consumed_to_the_end(&line, 2);
        service.stop(SOON);
        write(3..9);
        let (_, topic) = joiners::inputs(&line).into_iter().find(|(of, _)| *of == side).expect("an input");
        let bad = cluster.spoil_batch(0, &topic, 1);

        let service = Supervised::start(&line, &["run", "--role", "joiner"]);
        assert_eq!(service.wait_for_end(SOON), Some(1), "a restart does not help");
        let output = service.output();
        let last = output.lines().last().expect("a process that fails says why");
        for part in [&*place(&topic, 1, bad.start), "kafka-delete-records"] {
            assert!(last.contains(part), "{last}");
        }
        let before = joiners::committed(&line, &topic, 1).expect("committed state");
        assert!(before.next_offset <= bad.start, "{before:?}");

        let admin = Admin::new(&line.settings().kafka).expect("a valid configuration");
        admin.delete_records_below(&topic, 1, bad.end).expect("deleted");
        let joiner = Joiner::start(&line, "one");
        joiners::consumed_to_the_end(&line, 2);
        eventually(SOON, "what is lost is told", || {
            let lost = joiner.metric("easq_joiner_lost_offsets_total");
            let of_topic = lost.iter().filter(|(labels, _)| joiners::label(labels, "topic") == Some(&*topic));
            of_topic.map(|(_, lost)| lost).sum::<f64>() >= (bad.end - before.next_offset) as f64
        });
        joiner.stop();
        let (_, end) = cluster.kafka().watermarks(&topic, 1);
        let after = joiners::committed(&line, &topic, 1).expect("committed state");
        let unread = bad.end - before.next_offset;
        assert_eq!(after.outcomes.consumed(), (end - unread) as u64, "what was never read is not counted");
    }
}
