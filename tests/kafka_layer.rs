//! What the stages are promised of Kafka, against a real one.

mod support;

use std::time::Duration;

use easq::contract::partitioner::murmur2_random;
use easq::kafka::identity::TopicObserver;
use easq::kafka::ownership::{Owned, Ownership};
use easq::kafka::producer::{Delivered, Producer};
use easq::kafka::reader::{From, LogReader, ReadError, read_to_end};
use easq::kafka::topics::{self, Admin, CreateOptions, TopicsError};
use easq::kafka::transaction::{TransactionError, TransactionalProducer};
use easq::kafka::{GroupMetadata, NextOffset, Outgoing};
use easq::settings::{Partitioner, Settings};
use easq::supervise::StopToken;
use support::{Kafka, Line, eventually, eventually_some};

const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Settings for the shared broker, and a topic of its own with this many partitions.
fn with_topic(partitions: i32) -> (Settings, String) {
    let settings = Line::new("kafka-layer").settings();
    let topic = Kafka::unique("kafka-layer-log");
    Kafka::shared().create_topic(&topic, partitions);
    (settings, topic)
}

fn transactional(settings: &Settings, id: &str) -> TransactionalProducer {
    let stop = StopToken::new();
    let producer = TransactionalProducer::new(&settings.kafka, id, Duration::from_secs(30), &stop);
    let producer = producer.expect("a producer");
    producer.init().expect("a transactional session");
    producer
}

fn record(topic: &str, partition: i32, payload: impl Into<Vec<u8>>) -> Outgoing {
    Outgoing::to(topic).partition(partition).key("key").payload(payload.into())
}

/// Everything committed from `from` on, as text, and the offset to go on from.
fn read(settings: &Settings, topic: &str, from: From) -> Result<(Vec<String>, i64), ReadError> {
    let mut payloads = Vec::new();
    let next = read_to_end(&settings.kafka, topic, 0, from, &StopToken::new(), |record| {
        let payload = record.payload.expect("a payload");
        payloads.push(String::from_utf8(payload.to_vec()).expect("text"));
    })?;
    Ok((payloads, next))
}

fn until_owned(ownership: &Ownership) {
    eventually(WITHIN, "the model is owned", || ownership.poll(POLL).expect("a membership") == Owned::Yes);
}

/// Invariant 2, and the reader's side of invariant 8.
#[test]
fn a_reader_sees_what_was_committed_and_nothing_that_was_aborted() {
    let (settings, topic) = with_topic(1);
    let producer = transactional(&settings, &topic);
    for (payload, commit) in [("a", true), ("b", false), ("c", true), ("d", false)] {
        producer.begin().expect("a transaction");
        producer.send(&record(&topic, 0, payload)).expect("room");
        if commit { producer.commit_outputs() } else { producer.abort() }.expect("an end");
    }
    // Each of the four has a control record; the last of them is the end of the log.
    Kafka::shared().settle(&topic);
    let (payloads, next) = read(&settings, &topic, From::Beginning).expect("the log");
    assert_eq!(payloads, ["a", "c"]);
    assert_eq!(next, 8);
    assert_eq!(read(&settings, &topic, From::Offset(next)).expect("the end"), (Vec::new(), next));
}

#[test]
fn reading_to_the_end_stops_before_an_open_transaction() {
    let (settings, topic) = with_topic(1);
    let (first, second) =
        (transactional(&settings, &topic), transactional(&settings, &Kafka::unique("other")));
    first.begin().expect("a transaction");
    assert_eq!(first.deliver(&[record(&topic, 0, "a")]).expect("offsets"), [0]);
    first.commit_outputs().expect("a commit");
    Kafka::shared().settle(&topic);
    second.begin().expect("a transaction");
    second.deliver(&[record(&topic, 0, "open")]).expect("offsets");
    assert_eq!(read(&settings, &topic, From::Beginning).expect("the log"), (vec!["a".to_owned()], 2));
    second.commit_outputs().expect("a commit");
    Kafka::shared().settle(&topic);
    assert_eq!(read(&settings, &topic, From::Offset(2)).expect("the log").0, ["open"]);
}

/// Manifests name pages by offset, so delivery must say where each page lies.
#[test]
fn deliver_gives_the_offset_of_each_record_in_order() {
    let (settings, topic) = with_topic(3);
    let producer = transactional(&settings, &topic);
    let payload = |number: i32| format!("{number:03}");
    let mut expected = Vec::new();
    for round in 0..3 {
        producer.begin().expect("a transaction");
        producer.send(&record(&topic, round % 3, "not asked about")).expect("room");
        let numbers: Vec<i32> = (0..200).map(|index| round * 200 + index).collect();
        let records: Vec<_> =
            numbers.iter().map(|number| record(&topic, number % 3, payload(*number))).collect();
        let offsets = producer.deliver(&records).expect("offsets");
        assert_eq!(offsets.len(), records.len());
        expected.extend(numbers.into_iter().zip(offsets));
        producer.commit_outputs().expect("a commit");
    }
    Kafka::shared().settle(&topic);
    let log = Kafka::shared().read_to_end(&topic);
    for (number, offset) in expected {
        let found = log.iter().find(|found| (found.partition, found.offset) == (number % 3, offset));
        let found = found.unwrap_or_else(|| panic!("no record at offset {offset}"));
        assert_eq!(found.payload.as_deref(), Some(payload(number).as_bytes()));
    }
}

/// Invariant 2: offsets and metadata go with the outputs or not at all.
#[test]
fn offsets_and_their_metadata_commit_with_the_outputs() {
    let (settings, topic) = with_topic(1);
    let group = Kafka::unique("kafka-layer-group");
    let ownership = Ownership::join(&settings, &group, &topic).expect("a member");
    assert!(ownership.group_metadata().is_none());
    until_owned(&ownership);
    let metadata = ownership.group_metadata().expect("an owner has group metadata");
    let producer = transactional(&settings, &topic);
    let next = |offset, metadata: &str| NextOffset {
        topic: topic.as_str().into(),
        partition: 0,
        offset,
        metadata: metadata.to_owned(),
    };
    let committed = || Kafka::shared().committed(&group, &topic, 0);

    producer.begin().expect("a transaction");
    producer.send(&record(&topic, 0, "a")).expect("room");
    producer.commit(&[next(7, "seven")], &metadata).expect("a commit");
    assert_eq!(committed(), Some((7, "seven".to_owned())));

    producer.begin().expect("a transaction");
    producer.send(&record(&topic, 0, "b")).expect("room");
    let error = producer.commit(&[next(8, &"m".repeat(4097))], &metadata).expect_err("too long");
    assert!(error.to_string().contains("4097 bytes") && error.to_string().contains(&topic), "{error}");
    producer.abort().expect("an abort");
    assert_eq!(committed(), Some((7, "seven".to_owned())));

    producer.begin().expect("a transaction");
    producer.send(&record(&topic, 0, "c")).expect("room");
    producer.commit(&[next(9, "")], &metadata).expect("a commit");
    assert_eq!(committed(), Some((9, String::new())));
    assert_eq!(read(&settings, &topic, From::Beginning).expect("the log").0, ["a", "c"]);
}

/// Invariant 9: the transactional id is the second line.
#[test]
fn a_twin_with_the_same_transactional_id_fences_the_first() {
    let (settings, topic) = with_topic(1);
    let first = transactional(&settings, &topic);
    first.begin().expect("a transaction");
    first.deliver(&[record(&topic, 0, "first")]).expect("offsets");
    let second = transactional(&settings, &topic);
    let error = first.commit_outputs().expect_err("fenced");
    assert!(error.is_fenced(), "{error}");
    second.begin().expect("a transaction");
    second.send(&record(&topic, 0, "second")).expect("room");
    second.commit_outputs().expect("a commit");
    Kafka::shared().settle(&topic);
    assert_eq!(read(&settings, &topic, From::Beginning).expect("the log").0, ["second"]);
}

/// Invariant 9: ownership is the first line. A publish of a former owner is refused as a whole.
#[test]
fn who_has_lost_the_model_cannot_commit_and_its_successor_can() {
    let (settings, topic) = with_topic(1);
    let group = Kafka::unique("kafka-layer-group");
    let former = Ownership::join(&settings, &group, &topic).expect("a member");
    until_owned(&former);
    let outdated = former.group_metadata().expect("an owner has group metadata");
    drop(former);
    let owner = Ownership::join(&settings, &group, &topic).expect("a member");
    until_owned(&owner);

    let producer = transactional(&settings, &topic);
    let next =
        || NextOffset { topic: topic.as_str().into(), partition: 0, offset: 1, metadata: String::new() };
    producer.begin().expect("a transaction");
    producer.send(&record(&topic, 0, "former")).expect("room");
    let error = producer.commit(&[next()], &outdated).expect_err("refused");
    assert!(matches!(error, TransactionError::GroupMoved { .. }) && error.must_abort(), "{error}");
    producer.abort().expect("an abort");
    let metadata = owner.group_metadata().expect("an owner has group metadata");
    producer.begin().expect("a transaction");
    producer.send(&record(&topic, 0, "owner")).expect("room");
    producer.commit(&[next()], &metadata).expect("a commit");
    Kafka::shared().settle(&topic);
    assert_eq!(read(&settings, &topic, From::Beginning).expect("the log").0, ["owner"]);
}

/// Invariant 9: one owner at a time. Whoever comes to stand by takes nothing from it, and its
/// commits count in the group as it is then.
#[test]
fn an_owner_keeps_the_model_while_others_join_and_hands_it_over_when_it_leaves() {
    let (settings, topic) = with_topic(1);
    let group = Kafka::unique("kafka-layer-group");
    let owner = Ownership::join(&settings, &group, &topic).expect("a member");
    until_owned(&owner);
    let before = owner.group_metadata().expect("an owner has group metadata");
    let standby = Ownership::join(&settings, &group, &topic).expect("a member");
    let producer = transactional(&settings, &topic);
    let next =
        || NextOffset { topic: topic.as_str().into(), partition: 0, offset: 1, metadata: String::new() };
    let commit = |group: &GroupMetadata| {
        producer.begin().expect("a transaction");
        producer.send(&record(&topic, 0, "version")).expect("room");
        let outcome = producer.commit(&[next()], group);
        outcome.inspect_err(|_| producer.abort().expect("an abort"))
    };
    eventually(WITHIN, "the group has taken the other in", || {
        assert_eq!(standby.poll(POLL).expect("a membership"), Owned::No);
        assert_eq!(owner.poll(POLL).expect("a membership"), Owned::Yes);
        commit(&before).is_err()
    });
    let now = || owner.group_metadata().expect("it still owns the model");
    eventually(WITHIN, "the owner commits", || {
        assert_eq!(owner.poll(POLL).expect("a membership"), Owned::Yes);
        commit(&now()).is_ok()
    });
    drop(owner);
    until_owned(&standby);
}

#[test]
fn a_session_that_the_brokers_do_not_allow_is_an_error_that_names_the_setting() {
    let (mut settings, topic) = with_topic(1);
    settings.train.session_timeout_ms = 3;
    settings.train.heartbeat_interval_ms = 1;
    let member = Ownership::join(&settings, &Kafka::unique("kafka-layer-group"), &topic).expect("a member");
    let error = eventually_some(WITHIN, "the session is refused", || member.poll(POLL).err());
    assert!(error.to_string().contains("3 ms (train.session_timeout_ms)"), "{error}");
}

/// Invariant 2: a delivery that fails takes its whole transaction with it.
#[test]
fn a_record_that_the_broker_refuses_keeps_its_transaction_from_committing() {
    let settings = Line::new("kafka-layer").settings();
    let topic = Kafka::unique("kafka-layer-log");
    Kafka::shared().create_topic_with(&topic, 1, &[("max.message.bytes", "10000")]);
    let producer = transactional(&settings, &topic);
    // The bytes must not compress below the limit.
    let mut state = 7_u64;
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect();
    producer.begin().expect("a transaction");
    producer.send(&record(&topic, 0, "small")).expect("room");
    producer.send(&record(&topic, 0, noise)).expect("room");
    let error = producer.commit_outputs().expect_err("a failed delivery");
    assert!(matches!(error, TransactionError::MustAbort { .. }), "{error}");
    assert!(error.to_string().contains(&topic) && error.to_string().contains("max.message.bytes"), "{error}");
    producer.abort().expect("an abort");
    assert_eq!(read(&settings, &topic, From::Beginning).expect("the log").0, [""; 0]);
}

#[test]
fn waiting_for_brokers_ends_with_the_stop() {
    let mut settings = Settings::default();
    settings.kafka.bootstrap_servers = "127.0.0.1:1".to_owned();
    let stop = StopToken::new();
    let producer = TransactionalProducer::new(&settings.kafka, "id", Duration::from_secs(30), &stop);
    let producer = producer.expect("a producer");
    stop.stop();
    let error = producer.init().expect_err("no broker");
    assert!(matches!(error, TransactionError::Stopped { .. }), "{error}");
    let mut reader = LogReader::new(&settings.kafka, "reader").expect("a reader");
    reader.assign(&[("log", 0, 0)]).expect("an assignment");
    for _ in 0..10 {
        assert!(reader.poll(POLL).expect("an outage is no error").is_none());
    }
}

#[test]
fn an_offset_that_is_gone_is_an_error_that_says_what_is_there() {
    let (settings, topic) = with_topic(2);
    let producer = transactional(&settings, &topic);
    producer.begin().expect("a transaction");
    for number in 0..10 {
        producer.send(&record(&topic, 0, number.to_string())).expect("room");
        producer.send(&record(&topic, 1, number.to_string())).expect("room");
    }
    producer.commit_outputs().expect("a commit");
    let admin = Admin::new(&settings.kafka).expect("a client");
    assert_eq!(admin.delete_records_below(&topic, 0, 5).expect("a trim"), 5);

    let gone = |error: ReadError, wanted: i64| match error {
        ReadError::OffsetGone { topic: named, partition, offset, low, high } => {
            assert_eq!((&*named, partition, offset, low, high), (topic.as_str(), 0, wanted, 5, 11));
        }
        other => panic!("{other}"),
    };
    for wanted in [2, 99] {
        let mut reader = LogReader::new(&settings.kafka, "reader").expect("a reader");
        reader.assign(&[(&topic, 1, 0), (&topic, 0, wanted)]).expect("an assignment");
        gone(eventually_some(WITHIN, "the offset is gone", || reader.poll(POLL).err()), wanted);
        gone(read(&settings, &topic, From::Offset(wanted)).expect_err("a gone offset"), wanted);
    }
    assert_eq!(read(&settings, &topic, From::Offset(5)).expect("the log").0, ["5", "6", "7", "8", "9"]);
    assert_eq!(read(&settings, &topic, From::Beginning).expect("the log").0.len(), 5);
}

#[test]
fn a_topic_that_does_not_exist_is_an_error_that_names_it() {
    let settings = Line::new("kafka-layer").settings();
    let reader = LogReader::new(&settings.kafka, "reader").expect("a reader");
    let missing = |error: ReadError| {
        assert!(matches!(&error, ReadError::UnknownTopic { topic } if topic == "nowhere"), "{error}")
    };
    missing(reader.partitions("nowhere").expect_err("no topic"));
    missing(read(&settings, "nowhere", From::Beginning).expect_err("no topic"));
}

#[test]
fn a_topic_that_is_created_again_has_another_id_and_one_that_is_not_there_is_an_error() {
    let (settings, topic) = with_topic(1);
    let observer = TopicObserver::new(&settings.kafka, "test observer").expect("a client");
    let id = || observer.topic_ids(&[&topic]).map(|mut ids| ids.remove(0));
    let first = id().expect("an answer");
    assert!(first.is_some());
    assert_eq!(id(), Ok(first.clone()));
    Kafka::shared().delete_topic(&topic);
    eventually(WITHIN, "the topic is gone", || id().is_err());
    Kafka::shared().create_topic(&topic, 1);
    let second = eventually_some(WITHIN, "the topic is there again", || id().ok());
    assert_ne!(second, first);
}

#[test]
fn a_paused_topic_is_read_on_where_it_stopped() {
    let (settings, first) = with_topic(2);
    let second = Kafka::unique("kafka-layer-log");
    Kafka::shared().create_topic(&second, 1);
    let producer = transactional(&settings, &first);
    producer.begin().expect("a transaction");
    for number in 0..300 {
        producer.send(&record(&first, number % 2, number.to_string())).expect("room");
        producer.send(&record(&second, 0, number.to_string())).expect("room");
    }
    producer.commit_outputs().expect("a commit");

    let mut reader = LogReader::new(&settings.kafka, "reader").expect("a reader");
    assert_eq!(reader.partitions(&first).expect("partitions"), 2);
    // The high one counts the control record, which comes somewhat after the commit returns.
    eventually(WITHIN, "the transaction is visible", || {
        reader.watermarks(&first, 1).expect("watermarks") == (0, 151)
    });
    reader.assign(&[(&first, 0, 10), (&first, 1, 0), (&second, 0, 0)]).expect("an assignment");
    let mut offsets = [Vec::new(), Vec::new(), Vec::new()];
    let mut take = |reader: &LogReader, wanted: [usize; 3]| {
        eventually(WITHIN, "the records arrive", || {
            if let Some(record) = reader.poll(POLL).expect("a log") {
                let log = if *record.topic == *second { 2 } else { record.partition as usize };
                offsets[log].push(record.offset);
            }
            wanted.iter().zip(&offsets).all(|(wanted, read)| read.len() >= *wanted)
        });
        offsets.iter().map(Vec::len).collect::<Vec<_>>()
    };
    reader.pause(&first).expect("a pause");
    assert_eq!(take(&reader, [0, 0, 300]), [0, 0, 300]);
    reader.resume_partition(&first, 1).expect("one partition goes on");
    assert_eq!(take(&reader, [0, 20, 300]), [0, 20, 300]);
    reader.pause_partition(&first, 1).expect("a pause");
    reader.resume(&first).expect("all go on");
    assert_eq!(take(&reader, [140, 150, 300]), [140, 150, 300]);
    assert_eq!(offsets, [(10..150).collect::<Vec<_>>(), (0..150).collect(), (0..300).collect()]);
    assert_eq!(reader.position(&first, 0), Some(150));
}

#[test]
fn a_plain_producer_partitions_as_the_joiner_expects_and_keeps_timestamps() {
    let (settings, topic) = with_topic(4);
    let producer = Producer::new(&settings.kafka, Partitioner::Murmur2Random).expect("a producer");
    for number in 0..200_i64 {
        let record = Outgoing::to(&*topic).key(number.to_string()).payload("p").timestamp_ms(1_000 + number);
        producer.send(&record).expect("room");
    }
    producer.flush(WITHIN).expect("deliveries");
    assert_eq!(producer.delivered(), Delivered { acknowledged: 200, failed: 0 });
    let log = Kafka::shared().read_to_end(&topic);
    assert_eq!(log.len(), 200);
    for record in log {
        let key = record.key.expect("a key");
        assert_eq!(record.partition, murmur2_random(&key, 4));
        let number: i64 = String::from_utf8(key).expect("text").parse().expect("a number");
        assert_eq!(record.timestamp_ms, Some(1_000 + number));
    }
}

#[test]
fn topics_are_created_once_and_are_then_as_they_should_be() {
    let settings = Line::new("kafka-layer").settings();
    let error = topics::create(&settings, &CreateOptions::default()).expect_err("no inputs");
    assert!(matches!(error, TopicsError::NoInputs { .. }), "{error}");
    assert_eq!(topics::check(&settings).expect("findings").len(), 9);

    let options = CreateOptions { inputs: true, partitions: Some(3), replicas: None };
    let created = topics::create(&settings, &options).expect("topics");
    assert!(created.len() == 9 && created.iter().all(|topic| topic.created), "{created:?}");
    assert_eq!(topics::check(&settings).expect("findings"), []);
    let again = topics::create(&settings, &options).expect("topics");
    assert!(again.iter().all(|topic| !topic.created), "{again:?}");
    assert_eq!(Kafka::shared().partitions(&settings.topics.labelled_views), 3);
    assert_eq!(Kafka::shared().partitions(&settings.topics.model(&settings.model.name)), 1);
}

#[test]
fn topics_that_would_lose_records_are_found_with_a_remedy() {
    let settings = Line::new("kafka-layer").settings();
    let kafka = Kafka::shared();
    let topics = &settings.topics;
    kafka.create_topic_with(&topics.behavior, 4, &[("retention.ms", "60000")]);
    kafka.create_topic_with(&topics.responses, 2, &[]);
    kafka.create_topic_with(&topics.preference_pairs, 4, &[("retention.ms", "3600000")]);
    kafka.create_topic_with(&topics.behavior_groups, 4, &[("max.message.bytes", "100000")]);
    let pages = topics.model(&settings.model.name);
    kafka.create_topic_with(&pages, 1, &[]);
    let registry = topics.registry(&settings.model.name);
    kafka.create_topic_with(&registry, 1, &[("cleanup.policy", "delete")]);

    let findings = topics::check(&settings).expect("findings");
    let expected = [
        (&topics.behavior, "retention.ms=1860000"),
        (&topics.responses, "create it anew"),
        (&topics.behavior_groups, "max.message.bytes=589824"),
        (&topics.labelled_views, "easq topics create"),
        (&topics.preference_pairs, "retention.ms=604800000"),
        (&topics.late, "easq topics create"),
        (&topics.dead_letters, "easq topics create"),
        (&pages, "retention.ms=-1"),
        (&registry, "cleanup.policy=compact"),
    ];
    assert_eq!(findings.len(), expected.len(), "{findings:#?}");
    for (finding, (topic, remedy)) in findings.iter().zip(expected) {
        assert_eq!(&finding.topic, topic);
        assert!(finding.to_string().contains(remedy), "{finding}");
    }
    let error = topics::create(&settings, &CreateOptions::default()).expect_err("unequal inputs");
    assert!(matches!(error, TopicsError::UnequalInputs { .. }), "{error}");
}
