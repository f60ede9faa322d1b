//! Joiner processes that are killed, restarted, doubled and added in the middle of their work leave
//! every effect of every input record exactly once (invariants 1 and 2).

mod support;

use std::collections::HashSet;
use std::time::Duration;

use easq::contract::v1::{BehaviorGroup, LabelledView, PreferencePair};
use rdkafka::consumer::{BaseConsumer, Consumer};
use support::joiners::{self, Joiner, SOON};
use support::{Kafka, Line, eventually, oracle, world};

const PARTITIONS: i32 = 4;
const SPAN_MS: i64 = 3 * 3_600_000;

/// A message without the address of its sources would compare equal to another one: what is said
/// of it is said by its bytes.
fn all_different(line: &Line, topic: &str) -> usize {
    let records = Kafka::shared().read_to_end(topic);
    let mut seen = HashSet::new();
    for record in &records {
        assert!(seen.insert(record.payload.clone()), "{topic} holds a record twice: {record:?} on {line:?}");
    }
    records.len()
}

#[test]
fn killed_at_any_moment_every_effect_is_there_exactly_once() {
    const SEED: u64 = 7;
    println!("seed {SEED}");
    let line = Line::new("killed");
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 40_000, SPAN_MS, SEED, PARTITIONS);
    let mut malformed = Default::default();
    let mut joiner = Joiner::start(&line, "one");
    for (round, part) in deliveries.chunks(deliveries.len().div_ceil(5)).enumerate() {
        let before = joiners::consumed_records(&line, PARTITIONS);
        let mut written = world::write(&line, part);
        std::collections::BTreeSet::append(&mut malformed, &mut written);
        // Killed while it has begun, and not finished, what was just written; another time a
        // different share of it.
        let share = part.len() as u64 * (round as u64 + 1) / 8;
        eventually(SOON, "a part of the new records is consumed", || {
            joiners::consumed_records(&line, PARTITIONS) > before + share
        });
        joiner.process.kill();
        joiner = Joiner::start(&line, "one");
    }
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();

    let topics = &settings.topics;
    let views = Kafka::shared().read_to_end(&topics.behavior);
    let responses = Kafka::shared().read_to_end(&topics.responses);
    let truth = oracle::join(topics, &settings.join, &views, &responses, &malformed);
    let labels: Vec<LabelledView> = joiners::messages(&topics.labelled_views);
    assert_eq!(labels.len(), truth.labelled.len());
    assert!(truth.labelled.iter().all(|label| labels.contains(label)), "a label is missing");
    let groups: Vec<BehaviorGroup> = joiners::messages(&topics.behavior_groups);
    assert_eq!(groups.len(), truth.groups.len());
    assert_eq!(all_different(&line, &topics.behavior_groups), groups.len());
    all_different(&line, &topics.preference_pairs);
    assert_eq!(joiners::origins(&Kafka::shared().read_to_end(&topics.late)), truth.late);
    assert_eq!(joiners::origins(&Kafka::shared().read_to_end(&topics.dead_letters)), malformed);
}

#[test]
fn members_that_come_and_go_hand_their_partitions_over_without_loss_or_doubling() {
    const SEED: u64 = 8;
    println!("seed {SEED}");
    // Dynamic members hand over at once; the session of a killed one has to time out.
    let line = Line::new("handed-over").set("joiner.session_timeout_ms", 6_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 30_000, SPAN_MS, SEED, PARTITIONS);
    let parts: Vec<_> = deliveries.chunks(deliveries.len().div_ceil(3)).collect();
    let mut malformed = world::write(&line, parts[0]);
    let first = Joiner::start(&line, "");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let second = Joiner::start(&line, "");
    malformed.extend(world::write(&line, parts[1]));
    eventually(SOON, "both members own partitions", || {
        [&first, &second].iter().all(|joiner| !joiner.metric("easq_join_consumed_records_total").is_empty())
    });
    joiners::consumed_to_the_end(&line, PARTITIONS);
    first.stop();
    malformed.extend(world::write(&line, parts[2]));
    joiners::consumed_to_the_end(&line, PARTITIONS);
    second.stop();

    let topics = &settings.topics;
    let views = Kafka::shared().read_to_end(&topics.behavior);
    let responses = Kafka::shared().read_to_end(&topics.responses);
    let truth = oracle::join(topics, &settings.join, &views, &responses, &malformed);
    let labels: Vec<LabelledView> = joiners::messages(&topics.labelled_views);
    assert_eq!(labels.len(), truth.labelled.len());
    assert!(truth.labelled.iter().all(|label| labels.contains(label)), "a label is missing");
    for partition in 0..PARTITIONS {
        let of_partition = |topic: &str| {
            let records = Kafka::shared().read_to_end(topic);
            records.into_iter().filter(|record| record.partition == partition).collect::<Vec<_>>()
        };
        let labels: Vec<LabelledView> =
            of_partition(&topics.labelled_views).iter().map(|r| r.decode()).collect();
        let pairs: Vec<PreferencePair> =
            of_partition(&topics.preference_pairs).iter().map(|r| r.decode()).collect();
        assert_eq!(pairs, oracle::pairs(&settings.join, &labels), "partition {partition}");
    }
}

#[test]
fn a_twin_with_the_same_instance_id_ends_the_first_with_exit_code_3() {
    let line = Line::new("twin");
    line.create_topics(1);
    let settings = line.settings();
    world::write(&line, &world::deliveries(&settings, 1_000, SPAN_MS, 9, 1));
    let mut first = Joiner::start(&line, "same");
    joiners::consumed_to_the_end(&line, 1);
    let second = Joiner::start(&line, "same");
    let status = first.process.wait(SOON);
    assert_eq!(status.code(), Some(3), "{}", first.process.output());
    second.stop();
}

#[test]
fn an_open_transaction_of_a_killed_process_holds_its_successor_up_for_moments_only() {
    let line = Line::new("successor").set("joiner.transaction_timeout_ms", 60_000);
    line.create_topics(1);
    let settings = line.settings();
    world::write(&line, &world::deliveries(&settings, 5_000, SPAN_MS, 10, 1));
    let mut killed = Joiner::start(&line.clone().set("joiner.commit_interval_ms", 15_000), "one");
    let client: BaseConsumer = Kafka::shared()
        .client()
        .set("isolation.level", "read_uncommitted")
        .create()
        .expect("a valid configuration");
    eventually(SOON, "the first has written outputs that it has not committed", || {
        client.fetch_watermarks(&settings.topics.behavior_groups, 0, SOON).is_ok_and(|(_, end)| end > 0)
    });
    killed.process.kill();
    let successor = Joiner::start(&line, "one");
    // Far below the transaction timeout. With another transactional id, the records left open would
    // hide all later ones from readers for that long.
    let deadline = Duration::from_secs(30);
    eventually(deadline, "readers see outputs of the successor", || {
        let (_, stable_end) = Kafka::shared().watermarks(&settings.topics.behavior_groups, 0);
        stable_end > 0
    });
    joiners::consumed_to_the_end(&line, 1);
    successor.stop();
}
