//! What `easq backfill` writes to Kafka when it is asked to: a version of a model of its own, and a topic
//! of pairs. The service beside it notices neither.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use easq::contract::v1::{LearnedRange, PairScope, PreferencePair, ReplayedRange, VersionKind};
use easq::publish::files;
use easq::settings::Settings;
use support::folders::{assert_same, contents, names};
use support::joiners::{self, Joiner};
use support::lineage::registry;
use support::model::{Model, candidate};
use support::replays::{
    self, DEADLINE, PARTITIONS, State, command, ended_by, line, names_in_kafka, partition_of, refused,
    replayed, resumed, state, text,
};
use support::trainers::{self, Trainer};
use support::{Easq, Input, Kafka, Line, Record, eventually, world};

const SEED: u64 = 20_261_126;
const VIEWS: u64 = 16_000;
const SPAN_MS: i64 = 2 * 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// A Ctrl-C in the first half.
const EARLY: &str = "backfill-look=1*return(INT)->sleep(20)";

/// A line that a service has worked on, and what a replay of a part of it gave.
struct Run {
    line: Line,
    range: (i64, i64),
    dir: tempfile::TempDir,
    /// The checkpoint of the live model, in number.
    checkpoint: u64,
}

static RUN: LazyLock<Run> = LazyLock::new(run);

fn run() -> Run {
    println!("seed {SEED}");
    let line = line("outputs")
        .set("publish.checkpoint_interval_ms", 1000)
        .set("train.session_timeout_ms", 3_000)
        .set("train.heartbeat_interval_ms", 500);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, VIEWS, SPAN_MS, SEED, PARTITIONS);
    world::write(&line, &deliveries);
    let joiner = Joiner::start(&line, "live");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();
    let trainer = Trainer::start(&line);
    trainers::production_learns_all(&line);
    trainer.stop();
    let checkpoint = registry(&settings).newest_checkpoint().expect("that of a clean stop").version;
    let start_ms = deliveries[0].arrived_ms;
    let range = (start_ms + 20 * MINUTE_MS, start_ms + 100 * MINUTE_MS);
    let run = Run { line, range, dir: tempfile::tempdir().expect("a temporary folder"), checkpoint };
    run.replay(&["--output", text(&run.path("model")), "--samples", text(&run.path("samples.pb"))]);
    run
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn replay(&self, more: &[&str]) -> String {
        replayed(&self.line, self.range, more)
    }

    /// The model that a replay publishes under this name.
    fn replayed_model(&self, run: &str) -> Line {
        let name = format!("{}.replay-{run}", self.line.settings().model.name);
        self.line.clone().set("model.name", name)
    }

    fn pairs(&self) -> BTreeMap<i32, Vec<PreferencePair>> {
        let mut pairs: BTreeMap<i32, Vec<PreferencePair>> = BTreeMap::new();
        for pair in replays::pairs(&self.path("samples.pb")) {
            pairs.entry(partition_of(&pair)).or_default().push(pair);
        }
        pairs
    }
}

/// Runs a command of the program to its end; what it says.
#[track_caller]
fn said(line: &Line, words: &[&str]) -> String {
    let (status, output) = Easq::run(line.arguments(words), DEADLINE);
    assert!(status.success(), "{output}");
    output
}

/// The topics of a model as they are: pages and registry.
fn topics_of(settings: &Settings) -> [Vec<Record>; 2] {
    let (topics, model) = (&settings.topics, &settings.model.name);
    [topics.model(model), topics.registry(model)].map(|topic| Kafka::shared().read_to_end(&topic))
}

/// The files of a model without the account and the manifest, which differ where a registry has it.
fn tensors(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = contents(dir);
    files.retain(|name, _| name.ends_with(".safetensors") || name == "adapter_config.json");
    files
}

#[track_caller]
fn assert_unchanged(line: &Line, before: &State) {
    assert!(state(line) == *before, "the replay changed something of the service");
}

#[test]
fn invariant_10_what_is_published_is_a_model_of_its_own_and_the_live_one_is_as_before() {
    let run = &*RUN;
    let before = state(&run.line);
    let prefix = run.line.settings().model.name;
    let prefix = prefix.trim_end_matches(".name");
    let names_before = names_in_kafka(prefix);
    let output = run.path("published");
    let said_at_the_end = run.replay(&["--publish", "one", "--output", text(&output)]);
    assert_unchanged(&run.line, &before);
    let model = run.replayed_model("one");
    let settings = model.settings();
    let name = &settings.model.name;
    assert!(said_at_the_end.contains(&format!("version 1 of model '{name}'")), "{said_at_the_end}");
    let (topics, group) = (&settings.topics, format!("easq-trainer-{name}"));
    let mut new = &names_in_kafka(prefix) - &names_before;
    // Other tests publish other runs meanwhile.
    new.retain(|found| !found.contains(".replay-") || found.contains(name));
    assert_eq!(new, BTreeSet::from([topics.model(name), topics.registry(name), group]));

    // The folder is that of a replay that publishes nothing, but for the name in the account.
    let (mut with, mut without) = (contents(&output), contents(&run.path("model")));
    let account = with.remove("backfill.json").expect("the account");
    assert!(String::from_utf8_lossy(&account).contains(&format!("\"model\": \"{name}\"")));
    without.remove("backfill.json").expect("the account");
    assert_same(&with, &without);

    is_what_the_folder_is(&model, &output);
    let manifest = files::read_manifest(&run.path("followed/current")).expect("a manifest");
    assert_eq!(manifest.kind(), VersionKind::Checkpoint);
    assert!(manifest.gate.as_ref().is_some_and(|gate| gate.promoted && gate.finite));
    let account = replays::account(&output.join("backfill.json"));
    let read_there = inputs_replayed(&manifest.inputs);
    assert!(read_there.iter().all(|read| (read.from_ms, read.to_ms) == run.range));
    let offsets = |key: &str| -> Vec<i64> {
        account["inputs"].as_array().expect("a list").iter().map(|i| i[key].as_i64().expect("one")).collect()
    };
    let inputs = &manifest.inputs;
    assert_eq!(inputs.iter().map(|range| range.next_offset).collect::<Vec<_>>(), offsets("next_offset"));
    let read: u64 = inputs.iter().map(|range| range.samples).sum();
    let total = |side: &str| -> u64 {
        account[side].as_object().expect("counts").values().map(|count| count.as_u64().expect("one")).sum()
    };
    assert_eq!(read, total("views") + total("responses"));
    assert_eq!(read_there.iter().map(|read| read.from_offset).collect::<Vec<_>>(), offsets("from_offset"));
    assert_eq!(read_there.iter().map(|read| read.records).sum::<u64>(), read);
    let gaps = inputs.iter().map(|range| range.gaps.first().map_or(0, |gap| gap.to_offset));
    assert_eq!(gaps.collect::<Vec<_>>(), offsets("from_offset"));
    let raw = [&topics.behavior, &topics.responses];
    assert!(inputs.iter().all(|range| raw.contains(&&range.topic) && !range.topic_id.is_empty()));

    // A trainer of that name does not begin somewhere.
    let (status, output) = Easq::run(model.arguments(&["run", "--role", "trainer"]), DEADLINE);
    assert!(status.code() == Some(1) && output.contains("easq backfill"), "{output}");
    assert_unchanged(&run.line, &before);
}

/// What a replay without a base has read, of each partition.
fn inputs_replayed(inputs: &[LearnedRange]) -> Vec<ReplayedRange> {
    inputs.iter().flat_map(|range| range.replayed.clone()).collect()
}

/// Followed, exported and listed, it is the model that lies in `folder`, to the byte and to the score.
fn is_what_the_folder_is(model: &Line, folder: &Path) {
    let run = &*RUN;
    let (followed, exported) = (run.path("followed"), run.path("exported"));
    said(model, &["follow", "--dir", text(&followed), "--once"]);
    said(model, &["model", "export", "production", "--checkpoint", "--output", text(&exported)]);
    assert_same(&tensors(&exported), &tensors(folder));
    let mut served = tensors(folder);
    served.remove(files::TRAINING).expect("the training state");
    assert_same(&tensors(&followed.join("current")), &served);
    let samples = run.path("samples.pb");
    let scores = |dir: &Path| said(model, &["score", "--dir", text(dir), "--samples", text(&samples)]);
    assert!(scores(&followed).lines().count() > 1000);
    assert_eq!(scores(&followed), scores(folder));
    let listed = said(model, &["model", "list"]);
    assert!(listed.contains("production") && listed.contains("checkpoint"), "{listed}");
}

#[test]
fn a_run_is_published_once_and_without_a_name_it_is_called_after_the_time() {
    let run = &*RUN;
    run.replay(&["--publish", "twice"]);
    let model = run.replayed_model("twice").settings();
    let before = topics_of(&model);
    let (status, output) = Easq::run(command(&run.line, run.range, &["--publish", "twice"]), DEADLINE);
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("version 1") && output.contains("another RUN"), "{output}");
    assert!(!output.contains("replay begins"), "something was read: {output}");
    assert!(topics_of(&model) == before);
    let says = refused(&run.line, run.range, &["--publish", "no/name"], 2);
    assert!(says.contains("replay-no/name"), "{says}");
    refused(&run.line, run.range, &["--publish", "one", "--join-only"], 2);

    let output = run.path("by-time");
    let says = run.replay(&["--output", text(&output), "--publish"]);
    let (_, after) = says.split_once(".replay-20").expect("the model's name");
    let digits = |c: char| c.is_ascii_digit() || "TZ".contains(c);
    let time: String = after.chars().take_while(|&c| digits(c)).collect();
    assert_eq!(time.len(), "260131T060000Z".len(), "{says}");
    assert_same(&contents(&run.path("model")), &contents(&output));
}

#[test]
fn what_is_interrupted_is_not_published_and_goes_on_to_the_same_version() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = dir.path().join("model");
    let model = run.replayed_model("interrupted");
    let words = ["--publish", "interrupted", "--output", text(&output)];
    let (code, says) = ended_by(command(&run.line, run.range, &words[..2]), EARLY);
    assert!(code == Some(4) && says.contains("nothing was written"), "{says}");
    let (code, says) = ended_by(command(&run.line, run.range, &words), EARLY);
    assert!(code == Some(4) && says.contains("--resume goes on"), "{says}");
    assert_eq!(topics_of(&model.settings()), [Vec::new(), Vec::new()]);
    resumed(&run.line, &words);
    assert_same(&tensors(&run.path("model")), &tensors(&output));
    let exported = dir.path().join("exported");
    said(&model, &["model", "export", "--checkpoint", "--output", text(&exported)]);
    assert_same(&tensors(&exported), &tensors(&output));
    assert_eq!(names(dir.path()), ["exported", "model"]);
}

/// Invariant 8.
#[test]
fn what_dies_in_its_transaction_is_not_published_and_another_replay_publishes_that_run() {
    let run = &*RUN;
    let model = run.replayed_model("killed");
    let command = command(&run.line, run.range, &["--publish", "killed"]);
    let (code, _) = ended_by(command.clone(), "publish-before-commit=return");
    assert_eq!(code, None, "it was killed");
    assert_eq!(topics_of(&model.settings()), [Vec::new(), Vec::new()]);
    let (status, output) = Easq::run(command, DEADLINE);
    assert!(status.success(), "{output}");
    assert_eq!(registry(&model.settings()).versions.len(), 1);
}

#[test]
fn what_could_not_be_published_is_kept_and_published_as_another_run() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = dir.path().join("model");
    let words = ["--publish", "taken", "--output", text(&output)];
    let mut replay = Easq::start_with(
        command(&run.line, run.range, &words),
        [("FAILPOINTS", "backfill-publish=return(STOP)")],
    );
    eventually(DEADLINE, "the range has been replayed", || replay.is_frozen());
    let taken = run.replayed_model("taken");
    Model::take_over(&taken).publish(candidate(10));
    let before = topics_of(&taken.settings());
    replay.signal("CONT");
    assert_eq!(replay.wait(DEADLINE).code(), Some(1), "{}", replay.output());
    let says = replay.output();
    assert!(says.contains("not published") && says.contains("--resume goes on"), "{says}");
    assert!(topics_of(&taken.settings()) == before);
    assert_eq!(names(dir.path()), ["model.partial"]);
    resumed(&run.line, &["--publish", "not-taken", "--output", text(&output)]);
    assert_same(&tensors(&run.path("model")), &tensors(&output));
    assert_eq!(registry(&run.replayed_model("not-taken").settings()).followed(), Some(1));
}

#[test]
fn a_version_and_the_folder_of_it_are_the_same_base() {
    let run = &*RUN;
    let version = run.checkpoint.to_string();
    let exported = run.path("base");
    said(&run.line, &["model", "export", &version, "--checkpoint", "--output", text(&exported)]);
    let (by_version, by_folder) = (run.path("by-version"), run.path("by-folder"));
    run.replay(&["--output", text(&by_version), "--publish", "based", "--base", &version]);
    run.replay(&["--output", text(&by_folder), "--publish", "based-too", "--base", text(&exported)]);
    let without_account = |dir: &Path| {
        let mut files = contents(dir);
        files.remove("backfill.json").expect("the account");
        files
    };
    assert_same(&without_account(&by_version), &without_account(&by_folder));
    let (based, anew) = (tensors(&by_version), tensors(&run.path("model")));
    assert!(based.iter().all(|(name, bytes)| name == "adapter_config.json" || anew[name] != *bytes));

    // Its lineage names what the base had learned, too.
    let live = registry(&run.line.settings());
    let base = &live.versions[&run.checkpoint].inputs;
    for name in ["based", "based-too"] {
        let manifest = registry(&run.replayed_model(name).settings()).versions[&1].clone();
        assert_eq!(manifest.inputs.len(), base.len() + 2 * PARTITIONS as usize);
        assert_eq!(&manifest.inputs[..base.len()], &base[..]);
    }
}

/// A topic of pairs by partition, each record with its key, payload and headers.
type Written = BTreeMap<i32, Vec<Record>>;

fn written(topic: &str) -> Written {
    let mut written = Written::new();
    for record in Kafka::shared().read_to_end(topic) {
        written.entry(record.partition).or_default().push(record);
    }
    written
}

/// Every pair of the range is there once, in the order of the replay.
#[track_caller]
fn assert_all_pairs(topic: &str) {
    let expected = RUN.pairs();
    assert!(expected.values().map(Vec::len).sum::<usize>() > 1500, "too few pairs prove nothing");
    let decoded =
        |records: Vec<Record>| -> Vec<PreferencePair> { records.iter().map(Record::decode).collect() };
    let found: BTreeMap<i32, Vec<PreferencePair>> =
        written(topic).into_iter().map(|(partition, records)| (partition, decoded(records))).collect();
    let count = |pairs: &BTreeMap<i32, Vec<PreferencePair>>| pairs.values().map(Vec::len).sum::<usize>();
    assert!(found == expected, "{} pairs, expected {}", count(&found), count(&expected));
}

fn topic_of_pairs(name: &str) -> String {
    Kafka::unique(&format!("pairs-again-{name}"))
}

#[test]
fn the_pairs_of_the_range_lie_in_their_topic_as_the_joiner_writes_them() {
    let run = &*RUN;
    let before = state(&run.line);
    let topic = topic_of_pairs("all");
    let says = run.replay(&["--pairs-topic", &topic]);
    assert_unchanged(&run.line, &before);
    assert_all_pairs(&topic);
    assert_eq!(Kafka::shared().partitions(&topic), PARTITIONS);
    assert!(says.contains(&format!("pairs in topic '{topic}'")), "{says}");
    let live = written(&run.line.settings().topics.preference_pairs);
    let mut equal = 0;
    for (partition, records) in written(&topic) {
        let theirs: BTreeMap<&[u8], &Record> = live[&partition]
            .iter()
            .map(|record| (record.payload.as_deref().expect("a pair"), record))
            .collect();
        for record in &records {
            // Those that the order of arrival made otherwise have no record to compare with.
            let Some(live) = theirs.get(record.payload.as_deref().expect("a pair")) else { continue };
            assert_eq!(record.headers, live.headers);
            let pair: PreferencePair = record.decode();
            // Of two users it is that of the label that was there last, here or there.
            if pair.scope() == PairScope::SameUser {
                assert_eq!(record.key, live.key);
            }
            let users =
                [pair.chosen, pair.rejected].map(|label| label?.view.map(|view| view.user_id.into_bytes()));
            assert!(users.contains(&record.key));
            equal += 1;
        }
        let headers = &live[&partition][0].headers;
        assert!(!headers.is_empty() && records.iter().all(|record| record.headers == *headers));
    }
    assert!(equal > 1000, "only {equal} pairs are those of the service");
}

#[test]
fn pairs_that_were_interrupted_go_on_where_they_ended_and_none_is_there_twice() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (output, topic) = (dir.path().join("model"), topic_of_pairs("interrupted"));
    let words = ["--output", text(&output), "--pairs-topic", &topic];
    let after_one = "backfill-pairs-before-commit=1*return(INT);backfill-pairs-committed=1*sleep(1000)";
    let (code, says) = ended_by(command(&run.line, run.range, &words), after_one);
    assert!(code == Some(4) && says.contains("--resume goes on"), "{says}");
    let first = Kafka::shared().read_to_end(&topic).len();
    assert!(0 < first && first < run.pairs().values().map(Vec::len).sum(), "{first} pairs");
    // Each partition has the beginning of what it is to have.
    for (partition, records) in written(&topic) {
        let expected = &run.pairs()[&partition][..records.len()];
        assert!(
            records.iter().zip(expected).all(|(record, pair)| record.decode::<PreferencePair>() == *pair)
        );
    }
    let says = refused(&run.line, run.range, &["--pairs-topic", &topic], 1);
    assert!(says.contains("holds records already"), "{says}");
    resumed(&run.line, &words);
    assert_all_pairs(&topic);
    assert_same(&contents(&run.path("model")), &contents(&output));

    // Without a folder there is nothing to go on from, and what is there is said.
    let topic = topic_of_pairs("left");
    let (code, says) = ended_by(command(&run.line, run.range, &["--pairs-topic", &topic]), after_one);
    assert_eq!(code, Some(4), "{says}");
    let first = Kafka::shared().read_to_end(&topic).len();
    let left = format!("the range; '{topic}' holds the first {first} pairs");
    assert!(says.contains(&left) && !says.contains("nothing was written"), "{says}");
}

#[test]
fn a_topic_that_gets_other_records_is_not_gone_on_with() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (output, topic) = (dir.path().join("model"), topic_of_pairs("strange"));
    let words = ["--output", text(&output), "--pairs-topic", &topic];
    let (code, says) = ended_by(command(&run.line, run.range, &words), EARLY);
    assert!(code == Some(4) && says.contains("--resume goes on"), "{says}");
    let strange = Input { partition: Some(1), payload: Some(b"strange".to_vec()), ..Input::default() };
    Kafka::shared().produce(&topic, &[strange]);
    let before = written(&topic)[&1].len();
    let arguments = run.line.arguments(&[&["backfill", "--resume"], &words[..]].concat());
    let (status, says) = Easq::run(arguments, DEADLINE);
    assert_eq!(status.code(), Some(1), "{says}");
    assert!(says.contains("partition 1 is no pair of this range"), "{says}");
    assert_eq!(written(&topic)[&1].len(), before);
}

/// Invariant 2.
#[test]
fn what_dies_in_a_transaction_of_pairs_leaves_none_of_it() {
    let run = &*RUN;
    let topic = topic_of_pairs("killed");
    let command = command(&run.line, run.range, &["--pairs-topic", &topic]);
    let (code, _) = ended_by(command.clone(), "backfill-pairs-before-commit=return");
    assert_eq!(code, None, "it was killed");
    assert_eq!(Kafka::shared().read_to_end(&topic), Vec::new());
    let (status, output) = Easq::run(command, DEADLINE);
    assert!(status.success(), "{output}");
    assert_all_pairs(&topic);
}

#[test]
fn a_second_replay_into_a_topic_takes_it_from_the_first() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, topic) = (dir.path().join("model"), topic_of_pairs("two"));
    let words = ["--output", text(&model), "--pairs-topic", &topic];
    let mut first = Easq::start_with(
        command(&run.line, run.range, &words),
        [("FAILPOINTS", "backfill-pairs-before-commit=1*return(STOP)")],
    );
    eventually(DEADLINE, "the first has a transaction open", || first.is_frozen());
    run.replay(&["--pairs-topic", &topic]);
    first.signal("CONT");
    assert_eq!(first.wait(DEADLINE).code(), Some(1), "{}", first.output());
    assert!(first.output().contains("another replay writes to it now"), "{}", first.output());
    assert_all_pairs(&topic);

    // What it had learned is not lost, in whichever place of a batch it was.
    assert!(first.output().contains("--resume goes on"), "{}", first.output());
    assert_eq!(names(dir.path()), ["model.partial"]);
    let progress = std::fs::read(dir.path().join("model.partial/resume.json")).expect("what was learned");
    let progress: serde_json::Value = serde_json::from_slice(&progress).expect("JSON");
    assert_ne!(progress["open"].as_array().expect("a list").len(), 0, "it ended between two batches");
    resumed(&run.line, &words[..2]);
    assert_same(&contents(&run.path("model")), &contents(&model));
}

#[test]
fn no_topic_of_the_service_and_none_of_another_shape_is_written_to() {
    let run = &*RUN;
    let before = state(&run.line);
    let settings = run.line.settings();
    let (topics, model) = (&settings.topics, &settings.model.name);
    let of_models = [topics.model(model), topics.registry(model), topics.registry("another")];
    let of_the_service = topics.partitioned().map(|(_, topic)| topic);
    let others = of_models.iter().map(String::as_str).chain(["__consumer_offsets", "no topic"]);
    for topic in of_the_service.into_iter().chain(others) {
        let says = refused(&run.line, run.range, &["--pairs-topic", topic], 2);
        assert!(says.contains(topic) && says.contains("--pairs-topic"), "{says}");
    }
    refused(&run.line, run.range, &["--pairs-topic", "pairs", "--join-only"], 2);
    let narrow = topic_of_pairs("narrow");
    Kafka::shared().create_topic(&narrow, PARTITIONS - 1);
    let says = refused(&run.line, run.range, &["--pairs-topic", &narrow], 1);
    assert!(says.contains("has 2 partitions") && says.contains("written to 3"), "{says}");
    assert_unchanged(&run.line, &before);
}
