//! `easq backfill --source samples`: a range of what the joiner has written, where its inputs are gone.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use easq::contract::v1::{BehaviorGroup, LabelledView, PreferencePair, sample};
use easq::kafka::topics::Admin;
use prost::Message;
use support::folders::{assert_same, contents};
use support::joiners::{self, Joiner};
use support::replays::{
    self, DEADLINE, PARTITIONS, State, answered_at, command, ended_by, groups, line, refused, replayed,
    resumed, state, text,
};
use support::{Easq, Input, Kafka, Line, Record, world};

const SEED: u64 = 20_261_127;
const VIEWS: u64 = 12_000;
const SPAN_MS: i64 = 2 * 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// A line whose joiner has written all that there is to write, and a range of that.
struct Run {
    line: Line,
    range: (i64, i64),
    state: State,
    dir: tempfile::TempDir,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    println!("seed {SEED}");
    let (line, start_ms) = written("samples", VIEWS, SPAN_MS);
    let state = state(&line);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let range = (start_ms + 30 * MINUTE_MS, start_ms + 90 * MINUTE_MS);
    let run = Run { line, range, state, dir };
    run.replay(
        &run.line,
        &["--output", text(&run.path("model")), "--samples", text(&run.path("samples.pb"))],
    );
    run
});

/// A line on which a joiner has worked; when its first record arrived.
fn written(prefix: &str, views: u64, span_ms: i64) -> (Line, i64) {
    let line = line(prefix);
    line.create_topics(PARTITIONS);
    let deliveries = world::deliveries(&line.settings(), views, span_ms, SEED, PARTITIONS);
    world::write(&line, &deliveries);
    let joiner = Joiner::start(&line, "live");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();
    (line, deliveries[0].arrived_ms)
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn replay(&self, line: &Line, more: &[&str]) -> String {
        replayed(line, self.range, &[&["--source", "samples"], more].concat())
    }

    fn holds(&self, time_ms: i64) -> bool {
        (self.range.0..self.range.1).contains(&time_ms)
    }
}

/// A record with its place in the order, and its time.
type Placed<'a> = ((i64, usize, i32, i64), i64, &'a Record);

/// What the service has written to a topic, in the order that a replay has to take it in: the greatest
/// event time of the partition up to the record, the kind, the partition, the offset.
fn placed<'a>(records: &'a [Record], kind: usize, time_ms: impl Fn(&Record) -> i64) -> Vec<Placed<'a>> {
    let mut greatest: BTreeMap<i32, i64> = BTreeMap::new();
    let place = |record: &'a Record| {
        let time_ms = time_ms(record);
        let stream_ms = greatest.entry(record.partition).or_insert(i64::MIN);
        *stream_ms = time_ms.max(*stream_ms);
        ((*stream_ms, kind, record.partition, record.offset), time_ms, record)
    };
    records.iter().map(place).collect()
}

#[test]
fn the_samples_are_those_that_the_service_wrote_in_the_order_that_is_documented() {
    let run = &*RUN;
    let topics = run.line.settings().topics;
    let records = |topic: &str| -> &[Record] { &run.state.records[topic] };
    let pairs = placed(records(&topics.preference_pairs), 1, |r| r.decode::<PreferencePair>().event_time_ms);
    let behavior = placed(records(&topics.behavior_groups), 2, |r| r.decode::<BehaviorGroup>().event_time_ms);
    let mut expected: Vec<_> = pairs.into_iter().chain(behavior).collect();
    expected.retain(|(_, time_ms, _)| run.holds(*time_ms));
    expected.sort_by_key(|(place, ..)| *place);
    let of_kind = |kind| expected.iter().filter(|((_, found, ..), ..)| *found == kind).count();
    assert!(of_kind(1) > 500 && of_kind(2) > 300, "{} pairs, {} groups", of_kind(1), of_kind(2));
    let encoded = |sample: &sample::Sample| match sample {
        sample::Sample::PreferencePair(pair) => pair.encode_to_vec(),
        sample::Sample::BehaviorGroup(group) => group.encode_to_vec(),
        sample::Sample::HeldOutList(_) => panic!("the service writes none"),
    };
    let decoded = |((_, kind, ..), _, record): &Placed<'_>| match kind {
        1 => record.decode::<PreferencePair>().encode_to_vec(),
        _ => record.decode::<BehaviorGroup>().encode_to_vec(),
    };
    let found: Vec<Vec<u8>> = replays::samples(&run.path("samples.pb")).iter().map(encoded).collect();
    let expected_bytes: Vec<Vec<u8>> = expected.iter().map(decoded).collect();
    assert!(found == expected_bytes, "{} samples, expected {}", found.len(), expected_bytes.len());

    let labels =
        records(&topics.labelled_views).iter().map(|record| answered_at(&record.decode::<LabelledView>()));
    let account = replays::account(&run.path("model/backfill.json"));
    assert_eq!(account["labels"], labels.filter(|&time_ms| run.holds(time_ms)).count());
    assert_eq!(account["preference_pairs"], of_kind(1));
    assert_eq!(account["behavior_groups"], of_kind(2));
    assert_eq!(account["source"], "samples");
    assert!(account.get("pair_run_in_ms").is_none());
    // It has read past the end of the range, and not all there is.
    let read =
        |kind: &str| account[kind].as_object().expect("counts").values().map(|n| n.as_u64().expect("one"));
    let pairs_read: u64 = read("stored_pairs").sum();
    assert!(pairs_read > of_kind(1) as u64, "{pairs_read}");
}

#[test]
fn invariant_10_two_replays_write_the_same_bytes_and_the_service_notices_nothing() {
    let run = &*RUN;
    let line = run.line.clone().set("kafka.properties.max.partition.fetch.bytes", 30_000);
    let line = line.set("kafka.properties.queued.max.messages.kbytes", 64);
    let (model, samples) = (run.path("again"), run.path("again.pb"));
    run.replay(&line, &["--output", text(&model), "--samples", text(&samples)]);
    assert_same(&contents(&run.path("model")), &contents(&model));
    assert!(fs::read(run.path("samples.pb")).expect("samples") == fs::read(&samples).expect("samples"));
    let after = state(&run.line);
    assert!(after == run.state, "a replay changed something of the service");
    let group = run.line.settings().joiner.group;
    assert_eq!(groups(&after.committed), BTreeSet::from([group.as_str()]));
}

#[test]
fn its_pairs_in_a_topic_are_the_records_of_the_joiner_and_go_on_after_an_interruption() {
    let run = &*RUN;
    let topic = Kafka::unique("samples-pairs");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    let words = ["--output", text(&model), "--pairs-topic", &topic];
    let arguments = command(&run.line, run.range, &[&["--source", "samples"], &words[..]].concat());
    let after_one = "backfill-pairs-before-commit=1*return(INT);backfill-pairs-committed=1*sleep(1000)";
    let (code, says) = ended_by(arguments, after_one);
    assert!(code == Some(4) && says.contains("--resume goes on"), "{says}");
    Kafka::shared().settle(&topic);
    let first = Kafka::shared().read_to_end(&topic).len();
    resumed(&run.line, &words);
    assert_same(&contents(&run.path("model")), &contents(&model));
    let live = &run.state.records[&run.line.settings().topics.preference_pairs];
    let in_range = |record: &&Record| run.holds(record.decode::<PreferencePair>().event_time_ms);
    let bare = |record: &Record| {
        let Record { partition, key, payload, headers, .. } = record.clone();
        (partition, key, payload, headers)
    };
    let expected: Vec<_> = live.iter().filter(in_range).map(bare).collect();
    let found: Vec<_> = Kafka::shared().read_to_end(&topic).iter().map(bare).collect();
    assert!(0 < first && first < expected.len(), "{first} of {} pairs", expected.len());
    assert!(found == expected, "{} records, expected {}", found.len(), expected.len());
}

#[test]
fn what_it_learned_is_published_with_the_offsets_of_what_it_read() {
    let run = &*RUN;
    run.replay(&run.line, &["--publish", "stored"]);
    let name = format!("{}.replay-stored", run.line.settings().model.name);
    let line = run.line.clone().set("model.name", name);
    let registry = support::lineage::registry(&line.settings());
    let manifest = registry.production_manifest().expect("production").clone();
    let account = replays::account(&run.path("model/backfill.json"));
    let inputs = account["inputs"].as_array().expect("a list");
    assert_eq!(manifest.inputs.len(), 3 * PARTITIONS as usize);
    for (range, input) in manifest.inputs.iter().zip(inputs) {
        assert_eq!(input["topic"], range.topic);
        assert_eq!(input["next_offset"], range.next_offset);
    }
    let read: u64 = manifest.inputs.iter().map(|range| range.samples).sum();
    let counts = ["stored_labels", "stored_pairs", "stored_groups"].map(|kind| account[kind].as_object());
    let counted = counts.into_iter().flatten().flat_map(|counts| counts.values());
    assert_eq!(read, counted.map(|count| count.as_u64().expect("one")).sum::<u64>());
    let (status, output) = Easq::run(line.arguments(&["run", "--role", "trainer"]), DEADLINE);
    assert!(status.code() == Some(1) && output.contains("easq backfill"), "{output}");
}

#[test]
fn a_run_in_of_pairs_that_are_made_is_wrong_usage() {
    let run = &*RUN;
    let says =
        refused(&run.line, run.range, &["--source", "samples", "--join-only", "--pair-run-in", "1h"], 2);
    assert!(says.contains("--pair-run-in") && says.contains("--source samples"), "{says}");
}

#[test]
fn a_hole_is_refused_and_what_cannot_be_decoded_is_passed_over_and_counted() {
    let (line, start_ms) = written("samples-gone", 3_000, SPAN_MS / 2);
    let settings = line.settings();
    let range = (start_ms, start_ms + SPAN_MS);
    let topic = &settings.topics.preference_pairs;
    let strange = Input { partition: Some(0), payload: Some(b"\xff\xff".to_vec()), ..Input::default() };
    let tombstone = Input { partition: Some(0), key: Some(b"u".to_vec()), ..Input::default() };
    // As if its partition were past every range; what follows must be there all the same.
    let mut ahead: PreferencePair = Kafka::shared().read_to_end(topic)[0].decode();
    let good = Input { payload: Some(ahead.encode_to_vec()), partition: Some(0), ..Input::default() };
    ahead.event_time_ms = 4_000_000_000_000;
    let ahead = Input { payload: Some(ahead.encode_to_vec()), ..good.clone() };
    line.kafka().produce(topic, &[strange, tombstone, ahead, good]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let account = |name: &str, more: &[&str]| {
        let file = dir.path().join(name);
        replayed(&line, range, &[&["--source", "samples", "--samples", text(&file)], more].concat());
        (replays::account(&dir.path().join(format!("{name}.backfill.json"))), replays::pairs(&file).len())
    };
    let (whole, pairs) = account("whole.pb", &[]);
    assert_eq!(whole["stored_pairs"]["undecodable"], 2);
    assert_eq!(whole["stored_pairs"]["time_ahead"], 1);
    assert_eq!(whole["stored_pairs"]["given"], pairs);
    let there = Kafka::shared().read_to_end(topic).len();
    assert_eq!(pairs, there - 3, "the whole topic is in the range");

    let admin = Admin::new(&settings.kafka).expect("a valid configuration");
    let (_, end) = Kafka::shared().watermarks(topic, 1);
    admin.delete_records_below(topic, 1, end / 2).expect("deleted");
    let says = refused(&line, range, &["--source", "samples", "--join-only"], 1);
    for part in [topic.as_str(), "partition 1", "lost what lay before", "--accept-gap"] {
        assert!(says.contains(part), "{part}: {says}");
    }
    let left = Kafka::shared().read_to_end(topic).len();
    assert!(left < there);
    let (rest, pairs) = account("rest.pb", &["--accept-gap"]);
    assert_eq!(pairs, left - 3);
    let lacks: Vec<bool> = rest["inputs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|input| input["lacks_records"].as_bool().expect("yes or no"))
        .collect();
    assert_eq!(lacks, [false, false, false, false, true, false, false, false, false]);

    admin.delete_records_below(topic, 1, end).expect("deleted");
    let says = refused(&line, range, &["--source", "samples", "--join-only"], 1);
    assert!(says.contains("holds nothing any more") && says.contains("--accept-gap"), "{says}");
}
