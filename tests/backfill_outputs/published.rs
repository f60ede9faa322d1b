//! A version of a model of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use easq::contract::v1::{LearnedRange, ReplayedRange, VersionKind};
use easq::publish::files;
use easq::settings::Settings;

use crate::support::folders::{assert_same, contents, names};
use crate::support::lineage::registry;
use crate::support::model::{Model, candidate};
use crate::support::replays::{
    self, DEADLINE, PARTITIONS, command, ended_by, names_in_kafka, refused, resumed, state, text,
};
use crate::support::{Easq, Kafka, Line, Record, eventually};
use crate::{EARLY, RUN, assert_unchanged};

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
    let mut model = Model::take_over(&taken);
    model.publish(candidate(10));
    model.settle();
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
