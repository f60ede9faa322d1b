//! The joiner's outputs are what the two logs say, whoever read what first: two processes, one of
//! them with two instances, join a stream with every fault of a log, one is killed and restarted on
//! the way, and everything is compared with the same join written a second time, by brute force
//! over whole topics.

mod support;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::thread;

use easq::contract::Side;
use easq::contract::v1::{BehaviorGroup, LabelledView, PreferencePair};
use easq::join::{InputState, Outcome};
use support::joiners::{self, Joiner, SOON};
use support::oracle::{self, JoinTruth};
use support::{Kafka, Line, Record, eventually, verify, world};

const PARTITIONS: i32 = 4;
const VIEWS: u64 = 200_000;
const SPAN_MS: i64 = 6 * 3_600_000;
const SEED: u64 = 20_260_315;
/// Those of invariant 3, of which no log tells.
const EXCEPTIONS: [Outcome; 3] = [Outcome::LateAfterIdle, Outcome::Evicted, Outcome::LostToRetention];

/// One run that every test of this file looks at.
struct Run {
    line: Line,
    views: Vec<Record>,
    responses: Vec<Record>,
    truth: JoinTruth,
    /// `easq_join_records_total` and `easq_join_consumed_records_total` of both processes at the end.
    outcome_metrics: Vec<(String, f64)>,
    consumed_metrics: Vec<(String, f64)>,
}

static RUN: LazyLock<Run> = LazyLock::new(run);

fn run() -> Run {
    println!("seed {SEED}");
    // No stall of the machine moves a partition.
    let line = Line::new("join-truth").set("joiner.session_timeout_ms", 60_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, VIEWS, SPAN_MS, SEED, PARTITIONS);
    let parts: Vec<_> = deliveries.chunks(deliveries.len().div_ceil(4)).collect();
    // Both begin with a backlog.
    world::write(&line, parts[0]);
    let first = Joiner::start(&line.clone().set("joiner.instances", 2), "first");
    let mut second = Joiner::start(&line, "second");
    let owned = |joiner: &Joiner| joiner.metric("easq_joiner_partitions").values().sum::<f64>();
    eventually(SOON, "all instances own partitions", || {
        let instances = first.metric("easq_joiner_partitions");
        instances.len() == 2 && instances.values().all(|&owned| owned > 0.0) && owned(&second) > 0.0
    });
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let consumed = || joiners::consumed_records(&line, PARTITIONS);
    let before = consumed();
    // The victim freezes on its way through the first half and dies with all of the second before it.
    let (first_half, second_half) = parts[1].split_at(parts[1].len() / 2);
    thread::scope(|scope| {
        let writing = scope.spawn(|| world::write(&line, first_half));
        eventually(SOON, "some of the next part is consumed", || consumed() > before);
        assert!(owned(&second) > 0.0, "the one to be killed owns nothing");
        second.process.signal("STOP");
        writing.join().expect("all is written");
    });
    world::write(&line, second_half);
    assert!(!joiners::is_consumed_to_the_end(&line, PARTITIONS), "the victim has nothing left to do");
    second.process.kill();
    world::write(&line, parts[2]);
    let second = Joiner::start(&line, "second");
    world::write(&line, parts[3]);
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let metrics = |name: &str| first.metric(name).into_iter().chain(second.metric(name)).collect();
    let counted = |joiner: &Joiner| joiner.metric("easq_join_consumed_records_total").values().sum::<f64>();
    eventually(SOON, "what is committed is shown", || {
        counted(&first) + counted(&second) >= consumed() as f64
    });
    let outcome_metrics = metrics("easq_join_records_total");
    let consumed_metrics = metrics("easq_join_consumed_records_total");
    first.stop();
    second.stop();
    let views = Kafka::shared().read_to_end(&settings.topics.behavior);
    let responses = Kafka::shared().read_to_end(&settings.topics.responses);
    let truth = oracle::join(&settings.topics, &settings.join, &views, &responses);
    Run { line, views, responses, truth, outcome_metrics, consumed_metrics }
}

impl Run {
    fn records(&self, side: Side) -> &[Record] {
        match side {
            Side::Views => &self.views,
            Side::Responses => &self.responses,
        }
    }

    fn states(&self, side: Side) -> Vec<InputState> {
        let [(_, behavior), (_, responses)] = joiners::inputs(&self.line);
        let topic = if side == Side::Views { behavior } else { responses };
        let state = |partition| joiners::committed(&self.line, &topic, partition).expect("committed state");
        (0..PARTITIONS).map(state).collect()
    }

    fn count(&self, side: Side, outcome: Outcome) -> u64 {
        self.states(side).iter().map(|state| state.outcomes.get(outcome)).sum()
    }
}

fn label_order(label: &LabelledView) -> (i32, i64) {
    let source = label.view_source.as_ref().expect("a labelled view names its source");
    (source.partition, source.offset)
}

fn group_order(group: &BehaviorGroup) -> (i32, i64) {
    let source = group.first_source.as_ref().expect("a group names its first source");
    (source.partition, source.offset)
}

/// Invariants 2, 3 and 4.
#[test]
fn labelled_views_are_those_of_a_brute_force_join_each_exactly_once() {
    let run = &*RUN;
    let mut expected = run.truth.labelled.clone();
    assert!(expected.len() > 1_000, "only {} labels: the stream proves nothing", expected.len());
    expected.sort_by_key(label_order);
    let mut found: Vec<LabelledView> = joiners::messages(&run.line.settings().topics.labelled_views);
    found.sort_by_key(label_order);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

/// Invariant 3: without these the matched set is exact, with them it could not be.
#[test]
fn none_of_the_counted_exceptions_occurred() {
    for side in [Side::Views, Side::Responses] {
        for outcome in EXCEPTIONS {
            assert_eq!(RUN.count(side, outcome), 0, "{side:?} {outcome:?}");
        }
    }
}

#[test]
fn late_records_are_those_behind_their_partitions_stream_time_each_exactly_once() {
    let run = &*RUN;
    assert!(!run.truth.late.is_empty(), "the stream has no late records");
    let late = Kafka::shared().read_to_end(&run.line.settings().topics.late);
    assert_eq!(joiners::origins(&late), run.truth.late);
}

#[test]
fn dead_letters_are_exactly_the_malformed_records_with_their_original_bytes() {
    let run = &*RUN;
    let settings = run.line.settings();
    assert!(!run.truth.malformed.is_empty(), "the stream has no malformed records");
    let dead = Kafka::shared().read_to_end(&settings.topics.dead_letters);
    assert_eq!(joiners::origins(&dead), run.truth.malformed);
    for letter in &dead {
        let topic = letter.header("topic").expect("a topic");
        let side = if topic == settings.topics.behavior { Side::Views } else { Side::Responses };
        let offset = letter.header("offset").expect("an offset");
        let original = run
            .records(side)
            .iter()
            .find(|record| record.partition == letter.partition && record.offset.to_string() == offset)
            .expect("the original in the partition of the same number");
        let kept = |bytes: &Option<Vec<u8>>| {
            bytes.as_deref().map(|bytes| bytes[..bytes.len().min(settings.input.max_record_bytes)].to_vec())
        };
        assert_eq!((&letter.key, &letter.payload), (&kept(&original.key), &kept(&original.payload)));
    }
}

/// Invariant 11, across the kill and the restart: each outcome by itself, and so their sum.
#[test]
fn the_committed_counts_are_those_of_the_brute_force_join_outcome_by_outcome() {
    let run = &*RUN;
    let mut seen = BTreeSet::new();
    for side in [Side::Views, Side::Responses] {
        for (partition, state) in (0..).zip(run.states(side)) {
            let found = verify::counted(side, &state);
            assert_eq!(found, run.truth.counts[&(partition, side)], "{side:?} of partition {partition}");
            let records = run.records(side).iter().filter(|record| record.partition == partition).count();
            assert_eq!(state.outcomes.consumed(), records as u64, "{side:?} of partition {partition}");
            seen.extend(found.outcomes.into_keys().map(|outcome| (side, outcome)));
        }
    }
    for side in [Side::Views, Side::Responses] {
        for outcome in Outcome::of(side).iter().filter(|outcome| !EXCEPTIONS.contains(outcome)) {
            assert!(seen.contains(&(side, outcome.as_str())), "the stream has no {side:?} {outcome:?}");
        }
    }
}

/// Invariant 11: what is exported is what was committed.
#[test]
fn the_metrics_of_both_processes_together_show_the_committed_counts() {
    let run = &*RUN;
    for (side, topic) in joiners::inputs(&run.line) {
        for (partition, state) in (0..).zip(run.states(side)) {
            let of_partition = |labels: &str| {
                joiners::label(labels, "topic") == Some(&topic)
                    && joiners::label(labels, "partition") == Some(&format!("{partition}"))
            };
            let consumed: Vec<f64> = run
                .consumed_metrics
                .iter()
                .filter(|(l, _)| of_partition(l))
                .map(|&(_, value)| value)
                .collect();
            assert_eq!(consumed, [state.outcomes.consumed() as f64], "shown once, by the owner");
            for &outcome in Outcome::of(side) {
                let shown: Vec<f64> = run
                    .outcome_metrics
                    .iter()
                    .filter(|(labels, _)| {
                        of_partition(labels) && joiners::label(labels, "outcome") == Some(outcome.as_str())
                    })
                    .map(|&(_, value)| value)
                    .collect();
                assert_eq!(shown, [state.outcomes.get(outcome) as f64], "{topic} {partition} {outcome:?}");
            }
        }
    }
}

/// Invariant 5: pairs follow from the labelled views of their partition alone.
#[test]
fn preference_pairs_recomputed_from_the_labelled_views_are_identical() {
    let run = &*RUN;
    let settings = run.line.settings();
    let labelled = Kafka::shared().read_to_end(&settings.topics.labelled_views);
    let found = Kafka::shared().read_to_end(&settings.topics.preference_pairs);
    assert!(!found.is_empty(), "the stream has no pairs");
    for partition in 0..PARTITIONS {
        let of_partition = |records: &[Record]| -> Vec<Record> {
            records.iter().filter(|record| record.partition == partition).cloned().collect()
        };
        let labelled: Vec<LabelledView> = of_partition(&labelled).iter().map(Record::decode).collect();
        let expected = oracle::pairs(&settings.join, &labelled);
        let found: Vec<PreferencePair> = of_partition(&found).iter().map(Record::decode).collect();
        assert_eq!(found.len(), expected.len(), "partition {partition}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn behavior_groups_recomputed_from_the_views_are_identical() {
    let run = &*RUN;
    let mut expected = run.truth.groups.clone();
    assert!(expected.len() > 1_000, "only {} groups: the stream proves nothing", expected.len());
    expected.sort_by_key(group_order);
    let mut found: Vec<BehaviorGroup> = joiners::messages(&run.line.settings().topics.behavior_groups);
    found.sort_by_key(group_order);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}
