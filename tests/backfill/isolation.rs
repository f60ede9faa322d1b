//! A service on the topics that are replayed notices nothing of it: at rest it is as before, byte for byte,
//! and at work it writes what it would have written alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use easq::contract::v1::PreferencePair;
use easq::join::InputState;
use easq::kafka::producer::Producer;
use easq::settings::{Settings, Topics};
use easq::simulate::Delivery;
use prost::Message;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::ranges::minutely;
use crate::support::commits::commits;
use crate::support::folders::{assert_same, contents};
use crate::support::joiners::{self, Joiner};
use crate::support::lineage::{self, History};
use crate::support::replays::{
    self, DEADLINE, PARTITIONS, answered_at, command, committed_by_any_group, groups, line, names_in_kafka,
    of_view, replayed, state, text,
};
use crate::support::trainers::{self, Trainer};
use crate::support::{Easq, Kafka, Line, Record, eventually, oracle, verify, world};
use crate::{HOUR_MS, MINUTE_MS, SEED, SPAN_MS, VIEWS};

/// Where a replay stands still, in this order: before it reads, while it reads, with a transaction of pairs
/// open, and with all learned and nothing published.
const POINTS: [&str; 4] =
    ["backfill-planned", "backfill-look", "backfill-pairs-before-commit", "backfill-publish"];
/// Records that come to the service meanwhile.
const AT_A_POINT: usize = 400;

#[test]
fn invariant_10_a_service_that_runs_notices_nothing_and_its_labels_are_those_of_the_replay() {
    let line = line("backfill-beside").set("publish.checkpoint_interval_ms", 1000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, VIEWS / 5, SPAN_MS / 5, SEED + 1, PARTITIONS);
    let (most, rest) = deliveries.split_at(deliveries.len() - 100);
    world::write(&line, most);
    let joiner = Joiner::start(&line, "live");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let trainer = Trainer::start(&line);
    trainers::production_learns_all(&line);
    let mut before = state(&line);
    eventually(DEADLINE, "the service has nothing left to do", || {
        let now = state(&line);
        std::mem::replace(&mut before, now) == before
    });
    let prefix = settings.model.name.trim_end_matches(".name");
    let names = names_in_kafka(prefix);
    let version = lineage::registry(&settings).newest_checkpoint().expect("a checkpoint").version;

    let start_ms = deliveries[0].arrived_ms;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, samples) = (dir.path().join("model"), dir.path().join("samples.jsonl"));
    let base = version.to_string();
    let more = ["--output", text(&model), "--samples", text(&samples), "--base", &base];
    replayed(&line, (start_ms - HOUR_MS, start_ms + SPAN_MS), &more);

    let after = state(&line);
    assert!(after == before, "the replay changed something of the service");
    let own = own_groups(&settings);
    let expected = own.iter().map(String::as_str).collect();
    assert_eq!(groups(&after.committed), expected, "no other group has offsets in these topics");
    assert_eq!(names_in_kafka(prefix), names);
    world::write(&line, rest);
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();
    trainer.stop();
    compare_with_the_service(&before.records, &settings, &dir);
}

/// The labels are the same; of the pairs most are, since arrival has almost the order of event time.
fn compare_with_the_service(
    records: &BTreeMap<String, Vec<Record>>,
    settings: &Settings,
    dir: &tempfile::TempDir,
) {
    let account = replays::account(&dir.path().join("model/backfill.json"));
    let labels = &records[&settings.topics.labelled_views];
    assert!(labels.len() > 100, "only {} labels", labels.len());
    assert_eq!(account["labels"], labels.len());
    let replayed = replays::pairs(&dir.path().join("samples.jsonl"));
    let replayed: BTreeSet<Vec<u8>> = replayed.iter().map(Message::encode_to_vec).collect();
    let live = &records[&settings.topics.preference_pairs];
    let live: BTreeSet<Vec<u8>> =
        live.iter().map(|record| record.decode::<PreferencePair>().encode_to_vec()).collect();
    let labels_of = |pairs: &BTreeSet<Vec<u8>>| -> BTreeSet<(i32, i64)> {
        let pairs = pairs.iter().map(|pair| PreferencePair::decode(&pair[..]).expect("a pair"));
        let labels = pairs.flat_map(|pair| [pair.chosen, pair.rejected]).flatten();
        labels.map(|label| of_view(&label)).map(|source| (source.partition, source.offset)).collect()
    };
    let (ours, theirs) = (labels_of(&replayed), labels_of(&live));
    let written: BTreeSet<(i32, i64)> = labels
        .iter()
        .map(|record| of_view(&record.decode()))
        .map(|source| (source.partition, source.offset))
        .collect();
    assert!(ours.is_subset(&written) && theirs.is_subset(&written), "a pair of something that is no label");
    let equal = replayed.intersection(&live).count();
    println!("pairs: {} of the service, {} of the replay, {equal} of both", live.len(), replayed.len());
    assert!(equal * 10 >= live.len() * 9, "{equal} of {} pairs are the same", live.len());
}

/// The groups of a service: of its joiners, and of its trainers.
fn own_groups(settings: &Settings) -> [String; 2] {
    [settings.joiner.group.clone(), format!("easq-trainer-{}", settings.model.name)]
}

/// A service at work.
struct Service<'a> {
    joiner: Joiner,
    trainer: Trainer,
    topics: Topics,
    producer: Producer,
    written: usize,
    /// What comes to it, a little at a time.
    traffic: &'a [Delivery],
}

impl Service<'_> {
    fn write(&mut self, deliveries: usize) {
        let (now, later) = self.traffic.split_at(deliveries.min(self.traffic.len()));
        for delivery in now {
            self.producer.send(&world::outgoing(&self.topics, delivery)).expect("a record that is taken");
        }
        self.producer.flush(DEADLINE).expect("all records delivered");
        self.written += now.len();
        self.traffic = later;
    }

    /// Writes that many, and waits until all there is has been joined, and something more published.
    fn works_on(&mut self, deliveries: usize) {
        let published = self.trainer.published();
        self.write(deliveries);
        eventually(DEADLINE, "all is joined, and something of it published", || {
            let consumed = self.joiner.metric("easq_join_consumed_records_total");
            consumed.values().sum::<f64>() == self.written as f64 && self.trainer.published() > published
        });
    }

    fn rebalances(&self) -> BTreeMap<String, f64> {
        self.joiner.metric("easq_joiner_rebalances_total")
    }
}

/// While a replay stands still at any of [`POINTS`], and from one to the next, traffic comes and the service
/// works on it.
#[test]
fn invariant_10_a_service_at_work_writes_what_it_would_have_written_alone() {
    let line = line("backfill-traffic")
        .set("publish.interval_ms", 200)
        .set("publish.checkpoint_interval_ms", 1000)
        // No version is refused, no session is lost to a busy machine, and no replay that stands still is fenced.
        .set("gate.warmup_steps", 1_000_000)
        .set("joiner.session_timeout_ms", 60_000)
        .set("train.session_timeout_ms", 60_000)
        .set("joiner.transaction_timeout_ms", 120_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, VIEWS / 3, SPAN_MS / 3, SEED + 2, PARTITIONS);
    let past = deliveries.len() * 7 / 10;
    let mut service = Service {
        joiner: Joiner::start(&line, "live"),
        trainer: Trainer::start(&line),
        topics: settings.topics.clone(),
        producer: Producer::new(&settings.kafka, settings.input.partitioner).expect("a producer"),
        written: 0,
        traffic: &deliveries,
    };
    service.works_on(past);
    let prefix = settings.model.name.trim_end_matches(".name");
    let (names, rebalances) = (names_in_kafka(prefix), service.rebalances());
    assert!(!rebalances.is_empty());

    // Every partition is past all that is read for it.
    let start_ms = deliveries[0].arrived_ms;
    let range = (start_ms + 10 * MINUTE_MS, start_ms + 40 * MINUTE_MS);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (beside, pairs) = (dir.path().join("beside"), Kafka::unique("pairs-beside"));
    let outputs = ["--output", text(&beside), "--publish", "beside", "--pairs-topic", &pairs];
    let stops = POINTS.map(|point| format!("{point}=1*return(STOP)")).join(";");
    let mut replay = Easq::start_with(command(&line, range, &outputs), [("FAILPOINTS", &*stops)]);
    for (point, left) in POINTS.iter().zip((1..=POINTS.len()).rev()) {
        eventually(DEADLINE, &format!("the replay stands still at {point}"), || {
            if service.traffic.len() > left * AT_A_POINT {
                service.write(5);
            }
            replay.is_frozen()
        });
        service.works_on(AT_A_POINT);
        replay.signal("CONT");
    }
    assert!(replay.wait(DEADLINE).success(), "{}", replay.output());
    service.write(deliveries.len());
    joiners::consumed_to_the_end(&line, PARTITIONS);
    trainers::production_learns_all(&line);
    assert_eq!(service.rebalances(), rebalances);
    service.joiner.stop();
    service.trainer.stop();

    let [_, group] = own_groups(&settings);
    let replayed_model = format!("{}.replay-beside", settings.model.name);
    let of_replay = [
        settings.topics.model(&replayed_model),
        settings.topics.registry(&replayed_model),
        group.replace(&settings.model.name, &replayed_model),
    ];
    assert_eq!(&names_in_kafka(prefix) - &names, BTreeSet::from(of_replay));
    all_is_the_services_own(&line, deliveries.len());
    is_what_a_replay_at_rest_gives(&line, range, &beside, &pairs);
}

/// Of records, offsets and pointers nothing was ever there that the service alone would not have written.
fn all_is_the_services_own(line: &Line, inputs: usize) {
    let settings = line.settings();
    let verdict = verify::joiner(line);
    assert_eq!(verdict.inputs, inputs as u64);
    assert!(verdict.effects > 3_000, "the stream proves nothing: {verdict:?}");
    assert!(verdict.is_exactly_once(), "{verdict:#?}");
    let [joiners, trainers] = own_groups(&settings);
    let mut positions: BTreeMap<(String, i32), i64> = BTreeMap::new();
    let commits = commits(line.kafka(), &replays::topics(&settings));
    for commit in &commits {
        if commit.group != trainers {
            assert_eq!(commit.group, joiners, "{commit:?}");
            let state = InputState::decode(commit.offset, &commit.metadata).expect("state of a joiner");
            // The inputs are without holes, and read from their beginning.
            assert_eq!(state.outcomes.consumed().cast_signed(), commit.offset, "{commit:?}");
        }
        let position = positions.entry((commit.topic.clone(), commit.partition)).or_default();
        assert!(*position <= commit.offset, "back from {position}: {commit:?}");
        *position = commit.offset;
    }
    let found: BTreeSet<&str> = commits.iter().map(|commit| &*commit.group).collect();
    assert_eq!(found, BTreeSet::from([&*joiners, &trainers]));

    let history = History::read(&settings);
    history.assert_lineage();
    assert_eq!(history.assert_order(), 0, "the trainer has begun anew");
    let registry = lineage::registry(&settings);
    assert!(registry.pin.is_none() && registry.accept.is_none() && registry.unusable.is_empty());
}

/// And what it replayed is what it is without traffic: the labels of the service, the same bytes.
fn is_what_a_replay_at_rest_gives(line: &Line, range: (i64, i64), beside: &Path, pairs: &str) {
    let settings = line.settings();
    let [views, responses] =
        [&settings.topics.behavior, &settings.topics.responses].map(|topic| line.kafka().read_to_end(topic));
    let truth = oracle::join(&settings.topics, &settings.join, &views, &responses);
    let answers = truth.labelled.iter().map(answered_at);
    let labels = answers.filter(|time_ms| (range.0..range.1).contains(time_ms)).count();
    assert!(labels > 100, "only {labels} labels");
    assert_eq!(replays::account(&beside.join("backfill.json"))["labels"], labels);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, samples) = (dir.path().join("model"), dir.path().join("samples.pb"));
    replayed(line, range, &["--output", text(&model), "--samples", text(&samples)]);
    let [at_rest, beside] = [&*model, beside].map(|dir| {
        let mut files = contents(dir);
        files.remove("backfill.json").expect("an account, with the name of a model");
        files
    });
    assert_same(&at_rest, &beside);
    line.kafka().settle(pairs);
    let written = line.kafka().read_to_end(pairs).len();
    assert_eq!(replays::pairs(&samples).len(), written);
}

/// No service is there that could have committed something: whatever there is, is the replay's.
#[test]
fn invariant_10_a_replay_leaves_no_offsets_to_any_group() {
    let (line, start_ms) = minutely("backfill-no-group", 60);
    let settings = line.settings();
    let inputs = [settings.topics.behavior, settings.topics.responses];
    replayed(&line, (start_ms, start_ms + 5 * HOUR_MS), &["--join-only"]);
    let committed = committed_by_any_group(&inputs);
    assert!(committed.is_empty(), "{committed:?}");
    // One that commits is seen.
    let consumer: BaseConsumer = Kafka::shared()
        .client()
        .set("group.id", Kafka::unique("backfill-commits"))
        .create()
        .expect("a valid configuration");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&inputs[0], 0, Offset::Offset(1)).expect("an offset");
    consumer.commit(&offsets, CommitMode::Sync).expect("committed");
    assert_eq!(groups(&committed_by_any_group(&inputs)).len(), 1);
}
