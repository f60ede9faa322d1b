//! `easq backfill`: a range of the two input topics once more. It gives what the two logs say, the same
//! bytes each time, and nothing that runs beside it notices.

mod isolation;
mod progress;
mod ranges;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use easq::contract::v1::{
    Answer, BehaviorEvent, BehaviorGroup, LabelledView, PreferencePair, QuestionnaireResponse, sample,
};
use serde_json::Value;
use support::folders::{assert_same, contents, names};
use support::oracle::{self, JoinTruth};
use support::replays::{
    self, DEADLINE, PARTITIONS, answered_at, command, interrupted, line, names_in_kafka, of_view,
    partition_of, replayed, resumed, state, text,
};
use support::{Easq, Kafka, Line, Record, world};

const VIEWS: u64 = 30_000;
const SPAN_MS: i64 = 6 * 3_600_000;
const SEED: u64 = 20_260_731;
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// A line with the synthetic world in its inputs, and what a replay of some of it wrote.
struct Run {
    line: Line,
    range: (i64, i64),
    views: Vec<Record>,
    responses: Vec<Record>,
    truth: JoinTruth,
    dir: tempfile::TempDir,
}

static RUN: LazyLock<Run> = LazyLock::new(run);

fn run() -> Run {
    println!("seed {SEED}");
    let line = line("backfill");
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    world::write(&line, &world::deliveries(&settings, VIEWS, SPAN_MS, SEED, PARTITIONS));
    let views = Kafka::shared().read_to_end(&settings.topics.behavior);
    let responses = Kafka::shared().read_to_end(&settings.topics.responses);
    let truth = oracle::join(&settings.topics, &settings.join, &views, &responses);
    let start_ms = views.iter().filter_map(|record| record.timestamp_ms).min().expect("views");
    // It begins with the answer that was longest in coming, long after its view.
    let slowest = truth
        .labelled
        .iter()
        .filter(|label| (start_ms + 2 * HOUR_MS..start_ms + 4 * HOUR_MS).contains(&answered_at(label)));
    let slowest = slowest.max_by_key(|label| answered_at(label) - viewed_at(label)).expect("a label");
    let range = (answered_at(slowest), start_ms + 5 * HOUR_MS);
    println!("a view lies {} s before the range", (range.0 - viewed_at(slowest)) / 1000);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = Run { line, range, views, responses, truth, dir };
    let (model, samples) = (run.path("model"), run.path("samples.pb"));
    // The run-in reaches back to the first record: so pairs are those of the whole log.
    run.replay(&run.line, &["--output", text(&model), "--samples", text(&samples), "--pair-run-in", "6h"]);
    run
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn replay(&self, line: &Line, more: &[&str]) -> String {
        replayed(line, self.range, more)
    }

    fn holds(&self, time_ms: i64) -> bool {
        (self.range.0..self.range.1).contains(&time_ms)
    }

    fn samples(&self) -> Vec<sample::Sample> {
        replays::samples(&self.path("samples.pb"))
    }

    fn pairs(&self) -> Vec<PreferencePair> {
        replays::pairs(&self.path("samples.pb"))
    }

    fn account(&self) -> Value {
        replays::account(&self.path("model/backfill.json"))
    }
}

fn viewed_at(label: &LabelledView) -> i64 {
    label.view.as_ref().expect("a label has its view").event_time_ms
}

#[test]
fn invariant_10_two_replays_of_a_range_write_the_same_bytes_whatever_a_fetch_holds() {
    let run = &*RUN;
    let line = run.line.clone().set("kafka.properties.max.partition.fetch.bytes", 30_000);
    let line = line.set("kafka.properties.queued.max.messages.kbytes", 64);
    let (model, samples) = (run.path("again"), run.path("again.pb"));
    run.replay(&line, &["--output", text(&model), "--samples", text(&samples), "--pair-run-in", "6h"]);
    assert_same(&contents(&run.path("model")), &contents(&model));
    assert!(fs::read(run.path("samples.pb")).expect("samples") == fs::read(&samples).expect("samples"));
    let account = |name: &str| fs::read(run.path(name)).expect("an account beside the samples");
    assert_eq!(account("samples.pb.backfill.json"), account("again.pb.backfill.json"));
    assert_eq!(account("samples.pb.backfill.json"), account("model/backfill.json"));
}

#[test]
fn invariant_10_the_sample_file_teaches_what_the_replay_learned() {
    let run = &*RUN;
    let model = run.path("from-file");
    let samples = run.path("samples.pb");
    let words = ["train", "--samples", text(&samples), "--output", text(&model)];
    let (status, output) = Easq::run(run.line.arguments(&words), DEADLINE);
    assert!(status.success(), "{output}");
    let mut replayed = contents(&run.path("model"));
    assert!(replayed.remove("backfill.json").is_some(), "the account lies beside the model");
    assert_eq!(names(&model).len(), 5, "{:?}", names(&model));
    assert_same(&replayed, &contents(&model));
}

#[test]
fn invariant_3_the_labels_are_those_of_a_brute_force_join() {
    let run = &*RUN;
    let expected: Vec<&LabelledView> =
        run.truth.labelled.iter().filter(|label| run.holds(answered_at(label))).collect();
    assert!(expected.len() > 300, "only {} labels: the range proves nothing", expected.len());
    assert!(expected.iter().any(|label| viewed_at(label) < run.range.0 - 1000), "no view lies before");
    let account = run.account();
    assert_eq!(account["labels"], expected.len());
    for side in ["views", "responses"] {
        for exception in ["evicted", "late_after_idle", "lost_to_retention"] {
            assert_eq!(account[side][exception], 0, "{side} {exception}");
        }
    }
    // With so many answers before the range every label is in a pair, unless it is uncertain.
    let is_certain = |label: &&&LabelledView| {
        label.response.as_ref().is_some_and(|response| response.answer() != Answer::Uncertain)
    };
    let mut found: BTreeMap<(i32, i64), LabelledView> = BTreeMap::new();
    for label in run.pairs().into_iter().flat_map(|pair| [pair.chosen, pair.rejected]).flatten() {
        let source = of_view(&label);
        found.insert((source.partition, source.offset), label);
    }
    found.retain(|_, label| run.holds(answered_at(label)));
    for expected in expected.iter().filter(is_certain) {
        let source = of_view(expected);
        match found.remove(&(source.partition, source.offset)) {
            Some(label) => assert_eq!(label, **expected),
            None => panic!("no pair has the label of {source:?}"),
        }
    }
    assert!(found.is_empty(), "{} labels that are none", found.len());
}

#[test]
fn the_groups_are_those_whose_last_view_lies_in_the_range() {
    let run = &*RUN;
    let by_source = |group: &BehaviorGroup| {
        let source = group.first_source.as_ref().expect("a group names its first source");
        (source.partition, source.offset)
    };
    let mut expected: Vec<BehaviorGroup> =
        run.truth.groups.iter().filter(|group| run.holds(group.event_time_ms)).cloned().collect();
    expected.sort_by_key(by_source);
    let group = |sample| match sample {
        sample::Sample::BehaviorGroup(group) => Some(group),
        _ => None,
    };
    let mut found: Vec<BehaviorGroup> = run.samples().into_iter().filter_map(group).collect();
    found.sort_by_key(by_source);
    assert!(expected.len() > 300, "only {} groups: the range proves nothing", expected.len());
    assert!(found == expected, "{} groups, expected {}", found.len(), expected.len());
    assert_eq!(run.account()["behavior_groups"], expected.len());
}

/// For each record of a partition, the greatest event time up to it.
fn stream_times(records: &[Record], event_time_ms: impl Fn(&Record) -> i64) -> BTreeMap<(i32, i64), i64> {
    let mut greatest: BTreeMap<i32, i64> = BTreeMap::new();
    let mut times = BTreeMap::new();
    for record in records.iter().filter(|record| record.header(world::SPOILED).is_none()) {
        let time_ms = greatest.entry(record.partition).or_insert(i64::MIN);
        *time_ms = event_time_ms(record).max(*time_ms);
        times.insert((record.partition, record.offset), *time_ms);
    }
    times
}

/// The order is that of the merge: of two records the one of lower stream time first, of equal ones the
/// view. A label is there when the second of its records is.
#[test]
fn invariant_5_the_pairs_follow_from_the_order_of_the_merge() {
    let run = &*RUN;
    let views = stream_times(&run.views, |record| record.decode::<BehaviorEvent>().event_time_ms);
    let responses = stream_times(&run.responses, |r| r.decode::<QuestionnaireResponse>().event_time_ms);
    let place = |label: &LabelledView| {
        let view = of_view(label);
        let answer = label.response_source.clone().expect("a label names its answer");
        let view = (views[&(view.partition, view.offset)], 0, view.offset);
        view.max((responses[&(answer.partition, answer.offset)], 1, answer.offset))
    };
    let mut expected: BTreeMap<i32, Vec<PreferencePair>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let of_partition = |label: &&LabelledView| of_view(label).partition == partition;
        let mut labels: Vec<LabelledView> = run.truth.labelled.iter().filter(of_partition).cloned().collect();
        labels.sort_by_key(place);
        let newer = |pair: &PreferencePair| {
            let both = [pair.chosen.as_ref(), pair.rejected.as_ref()];
            both.into_iter().flatten().max_by_key(|label| place(label)).cloned().expect("two labels")
        };
        let mut pairs = oracle::pairs(&run.line.settings().join, &labels);
        pairs.retain(|pair| run.holds(answered_at(&newer(pair))));
        expected.insert(partition, pairs);
    }
    let mut found: BTreeMap<i32, Vec<PreferencePair>> = BTreeMap::new();
    for pair in run.pairs() {
        found.entry(partition_of(&pair)).or_default().push(pair);
    }
    assert!(found.values().map(Vec::len).sum::<usize>() > 500, "too few pairs prove nothing");
    assert_eq!(found, expected);
    assert_eq!(run.account()["preference_pairs"], run.pairs().len());
}

#[test]
fn a_replay_goes_on_from_a_folder_as_training_from_a_file_does() {
    let run = &*RUN;
    let (replayed, from_file) = (run.path("on-replayed"), run.path("on-from-file"));
    let (first, samples) = (run.path("model"), run.path("samples.pb"));
    run.replay(&run.line, &["--output", text(&replayed), "--base", text(&first), "--pair-run-in", "6h"]);
    let words = ["train", "--samples", text(&samples), "--init", text(&first), "--output", text(&from_file)];
    let (status, output) = Easq::run(run.line.arguments(&words), DEADLINE);
    assert!(status.success(), "{output}");
    let mut written = contents(&replayed);
    written.remove("backfill.json");
    assert_same(&written, &contents(&from_file));
}

#[test]
fn ctrl_c_ends_a_replay_with_exit_code_4_and_no_sample_file_is_written() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let samples = dir.path().join("samples.pb");
    let output = interrupted(command(&run.line, run.range, &["--samples", text(&samples)]));
    assert!(output.contains("interrupted before the end of the range: nothing was written"), "{output}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn invariant_10_an_interrupted_replay_goes_on_to_the_same_bytes() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, samples) = (dir.path().join("model"), dir.path().join("samples.pb"));
    let outputs = ["--output", text(&model), "--samples", text(&samples)];
    let output =
        interrupted(command(&run.line, run.range, &[&outputs[..], &["--pair-run-in", "6h"]].concat()));
    assert!(output.contains("--resume goes on"), "{output}");
    assert_eq!(names(dir.path()), ["model.partial"]);
    let progress = fs::read(dir.path().join("model.partial/resume.json")).expect("what was learned");
    let progress: Value = serde_json::from_slice(&progress).expect("JSON");
    let (learned, all) = (progress["samples"].as_u64().expect("a number"), run.samples().len() as u64);
    assert!(0 < learned && learned < all, "{learned} of {all} samples were learned");

    let resume = [&["backfill", "--resume"], &outputs[..]].concat();
    let other = run.line.clone().set("train.batch_groups", 9).arguments(&resume);
    let (status, output) = Easq::run(other, DEADLINE);
    assert!(status.code() == Some(2) && output.contains("other settings"), "{output}");
    resumed(&run.line, &outputs);
    assert_same(&contents(&run.path("model")), &contents(&model));
    assert!(fs::read(run.path("samples.pb")).expect("samples") == fs::read(&samples).expect("samples"));
    assert_eq!(names(dir.path()), ["model", "samples.pb", "samples.pb.backfill.json"]);
    let anew = dir.path().join("anew");
    let (status, output) =
        Easq::run(run.line.arguments(&["backfill", "--resume", "--output", text(&anew)]), DEADLINE);
    assert!(status.code() == Some(2) && output.contains("nothing was interrupted"), "{output}");
}

/// What the table on standard output says, without its lines.
fn said(output: &str) -> String {
    output.replace(['│', '┆'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn only_joining_writes_nothing_and_says_what_the_run_with_outputs_does() {
    let run = &*RUN;
    let (model, samples) = (run.path("to-compare"), run.path("to-compare.pb"));
    let written = run.replay(&run.line, &["--output", text(&model), "--samples", text(&samples)]);
    let prefix = run.line.settings().model.name;
    let prefix = prefix.trim_end_matches(".name");
    let (before, names_before) = (state(&run.line), names_in_kafka(prefix));
    let empty = tempfile::tempdir().expect("an empty disk");
    let mut program = Command::new(env!("CARGO_BIN_EXE_easq"));
    program.current_dir(&empty).env("HOME", empty.path()).env("TMPDIR", empty.path());
    let only = program.args(command(&run.line, run.range, &["--join-only"])).output().expect("it starts");
    assert!(only.status.success(), "{}", String::from_utf8_lossy(&only.stderr));
    let shown = String::from_utf8(only.stderr).expect("output is UTF-8");
    let only = String::from_utf8(only.stdout).expect("output is UTF-8");
    assert!(state(&run.line) == before && names_in_kafka(prefix) == names_before);
    assert_eq!(names(empty.path()), [""; 0]);
    let table = |output: &str| {
        let said = said(output);
        let from = said.find("range").expect("a table");
        let to = said.find("event time reached").expect("its end");
        said[from..to].to_owned()
    };
    assert_eq!(table(&only), table(&written));
    let account = replays::account(&model.join("backfill.json"));
    for part in [
        format!("labels {} ({} before", account["labels"], account["run_in_labels"]),
        format!("preference pairs {} ", account["preference_pairs"]),
        format!("behavior groups {} ", account["behavior_groups"]),
    ] {
        assert!(table(&only).contains(&part), "{part}: {only}");
    }
    progress::is_in_plain_lines(&shown, &account);
}
