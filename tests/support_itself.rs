//! What the other tests build on, the broker above all, does what they rely on.

mod support;

use std::fs;
use std::time::Duration;

use easq::contract::v1::{Answer, BehaviorEvent};
use prost::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::{Easq, Input, Kafka, Line, eventually, python, response, view};

#[test]
fn records_come_back_with_their_partition_offset_timestamp_key_and_headers() {
    let kafka = Kafka::shared();
    let topic = Kafka::unique("support");
    kafka.create_topic(&topic, 2);
    let sent = view("user-1", "impression-1", 1_000_000);
    let mut input = Input::new("user-1", sent.encode_to_vec(), 1_000_000);
    input.partition = Some(1);
    input.headers.push(("reason".to_owned(), b"none".to_vec()));
    assert_eq!(kafka.produce(&topic, &[input]), [(1, 0)]);

    let read = kafka.read_to_end(&topic);
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].partition, read[0].offset, read[0].timestamp_ms), (1, 0, Some(1_000_000)));
    assert_eq!(read[0].key.as_deref(), Some(&b"user-1"[..]));
    assert_eq!(read[0].header("reason").as_deref(), Some("none"));
    assert_eq!(read[0].decode::<BehaviorEvent>(), sent);
    assert_eq!(kafka.watermarks(&topic, 1), (0, 1));
}

#[test]
fn reading_to_the_end_sees_what_was_committed_and_nothing_else() {
    let kafka = Kafka::shared();
    let topic = Kafka::unique("support-transactions");
    kafka.create_topic(&topic, 1);
    let producer: BaseProducer =
        kafka.client().set("transactional.id", &topic).create().expect("a transactional producer");
    let within = Duration::from_secs(30);
    producer.init_transactions(within).expect("a transactional id of our own");
    for (payload, commit) in [("committed", true), ("aborted", false), ("committed too", true)] {
        producer.begin_transaction().expect("no open transaction");
        producer.send(BaseRecord::<(), str>::to(&topic).payload(payload)).expect("room in the queue");
        if commit {
            producer.commit_transaction(within).expect("a commit");
        } else {
            producer.flush(within).expect("a delivery");
            producer.abort_transaction(within).expect("an abort");
        }
    }
    kafka.settle(&topic);
    let payloads: Vec<_> =
        kafka.read_to_end(&topic).into_iter().filter_map(|record| record.payload).collect();
    assert_eq!(payloads, [&b"committed"[..], b"committed too"]);
}

#[test]
fn a_line_has_topics_of_its_own_and_the_settings_that_name_them() {
    let line = Line::new("support-line").set("join.window_ms", 60_000);
    line.create_topics(2);
    let settings = line.settings();
    assert_eq!(settings.join.window_ms, 60_000);
    assert_eq!(Kafka::shared().partitions(&settings.topics.behavior), 2);
    let answer = response("user-1", "impression-1", 1_000_000, Answer::Satisfied);
    let input = Input::new("user-1", answer.encode_to_vec(), 1_000_000);
    Kafka::shared().produce(&settings.topics.responses, &[input]);
    assert_eq!(Kafka::shared().read_to_end(&settings.topics.responses).len(), 1);
}

#[test]
fn python_comes_with_numpy_and_safetensors() {
    let program = "import sys, numpy, safetensors; print(numpy.float32(2) + int(sys.argv[1]))";
    assert_eq!(python(program, &["3"]).trim(), "5.0");
}

#[test]
fn a_process_that_ended_before_it_was_frozen_is_not_waited_for() {
    let within = Duration::from_secs(30);
    let mut easq = Easq::start(["--version"]);
    let state = format!("/proc/{}/stat", easq.id());
    eventually(within, "it has ended, and nobody has asked how", || {
        fs::read_to_string(&state).expect("a child of this process").contains(") Z ")
    });
    easq.signal("STOP");
    assert!(!easq.is_frozen());
    assert_eq!(easq.wait(within).code(), Some(0));
}
