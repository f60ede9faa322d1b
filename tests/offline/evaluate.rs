//! `easq evaluate`: its figures, computed once more.

use std::fs;
use std::path::Path;

use easq::contract::v1::{self, Features, Sample, sample};
use easq::model::{Architecture, Scorer, reward};
use easq::publish::files;
use easq::settings::Settings;
use easq::train::behavior_only_tensors;
use serde_json::Value;

use crate::support::Easq;
use crate::{DEADLINE, read, settings, text, train, world, write};

#[derive(Debug, Default)]
struct Figures {
    lists: f64,
    hits: [f64; 3],
    ndcg: [f64; 3],
    reciprocal: f64,
    behavior: (f64, f64),
    stream_behavior: (f64, f64),
    preference: (f64, f64),
}

/// Pairs in the order that people gave them, in the order that the scores give them.
fn ordered(scores: &[f64], rewards: &[f64], margin: f64) -> (f64, f64) {
    let (mut right, mut pairs) = (0.0, 0.0);
    for i in 0..scores.len() {
        for j in (0..scores.len()).filter(|&j| rewards[i] - rewards[j] > margin) {
            pairs += 1.0;
            right += if scores[i] > scores[j] { 1.0 } else { 0.0 };
            right += if scores[i] == scores[j] { 0.5 } else { 0.0 };
        }
    }
    (right, pairs)
}

fn measure(scorer: &Scorer, settings: &Settings, samples: &[Sample]) -> Figures {
    let mut figures = Figures::default();
    let score = |views: &[v1::BehaviorEvent]| {
        let features: Vec<&Features> = views.iter().map(|view| view.features.as_ref().unwrap()).collect();
        scorer.score(&features).unwrap()
    };
    let rewards = |views: &[v1::BehaviorEvent]| -> Vec<f64> {
        let of =
            |view: &v1::BehaviorEvent| reward(&settings.reward, view.engagement.as_ref().unwrap()).unwrap();
        views.iter().map(of).collect()
    };
    let add = |sum: &mut (f64, f64), (right, pairs)| *sum = (sum.0 + right, sum.1 + pairs);
    for sample in samples {
        match sample.sample.as_ref().unwrap() {
            sample::Sample::HeldOutList(list) => {
                let scores = score(&list.views);
                let own = scores[list.relevant as usize];
                let rank = 1 + scores.iter().filter(|score| **score > own).count();
                figures.lists += 1.0;
                for (sum, k) in figures.hits.iter_mut().zip([1, 5, 10]) {
                    *sum += f64::from(u8::from(rank <= k));
                }
                for (sum, k) in figures.ndcg.iter_mut().zip([5, 10, 20]) {
                    *sum += if rank <= k { 2_f64.ln() / ((1 + rank) as f64).ln() } else { 0.0 };
                }
                figures.reciprocal += 1.0 / rank as f64;
                let pairs = ordered(&scores, &rewards(&list.views), settings.reward.margin);
                add(&mut figures.behavior, pairs);
            }
            sample::Sample::BehaviorGroup(group) if group.views.len() > 1 => {
                let pairs = ordered(&score(&group.views), &rewards(&group.views), settings.reward.margin);
                add(&mut figures.stream_behavior, pairs);
            }
            sample::Sample::BehaviorGroup(_) => {}
            sample::Sample::PreferencePair(pair) => {
                let views = [&pair.chosen, &pair.rejected].map(|v| v.clone().unwrap().view.unwrap());
                add(&mut figures.preference, ordered(&score(&views), &[1.0, 0.0], 0.0));
            }
        }
    }
    figures
}

fn assert_close(said: &Value, expected: f64, what: &str) {
    let said = said.as_f64().unwrap_or_else(|| panic!("no {what}"));
    assert!((said - expected).abs() < 1e-12, "{what}: {said}, computed here: {expected}");
}

fn evaluate(model: &Path, samples: &Path, more: &[&str]) -> String {
    let words = ["evaluate", "--model", text(model), "--samples", text(samples)];
    let (status, output) = Easq::run([&words[..], more].concat(), DEADLINE);
    assert!(status.success(), "{output}");
    output
}

fn json(output: &str) -> Value {
    let line = output.lines().find(|line| line.starts_with('{')).expect("a JSON object");
    serde_json::from_str(line).expect("JSON")
}

#[test]
fn the_figures_are_those_of_an_independent_computation_for_the_model_and_for_its_twin() {
    let (_, stream, lists) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    train(stream, &model, &["--set", "train.price_control=off", "--set", "train.dpo_weight=3"]);
    // The place of the relevant view must not matter.
    let mut held_out = read(lists);
    for (index, sample) in held_out.iter_mut().enumerate() {
        let Some(sample::Sample::HeldOutList(list)) = &mut sample.sample else { panic!("a list") };
        list.views.swap(0, index % 21);
        list.relevant = (index % 21) as u32;
    }
    let mixed = dir.path().join("mixed.pb");
    let samples = [held_out, read(stream)[..600].to_vec()].concat();
    write(&mixed, &samples);
    let said = json(&evaluate(&model, &mixed, &["--json"]));

    let settings = settings();
    let architecture = Architecture::from_settings(&settings);
    let tensors = files::read_folder(&model).expect("a folder of files");
    let twin = behavior_only_tensors(&tensors).expect("a twin");
    let mut differences = Vec::new();
    for (name, tensors) in [("model", tensors), ("behavior_only", twin)] {
        let scorer = Scorer::from_tensors(&architecture, tensors).expect("a model");
        let expected = measure(&scorer, &settings, &samples);
        let (lists, stream) = (&said[name]["held_out"], &said[name]["stream"]);
        assert_close(&lists["lists"], expected.lists, "lists");
        for (key, sum) in ["hr_at_1", "hr_at_5", "hr_at_10"].iter().zip(expected.hits) {
            assert_close(&lists[key], sum / expected.lists, key);
        }
        for (key, sum) in ["ndcg_at_5", "ndcg_at_10", "ndcg_at_20"].iter().zip(expected.ndcg) {
            assert_close(&lists[key], sum / expected.lists, key);
        }
        assert_close(&lists["mrr"], expected.reciprocal / expected.lists, "mrr");
        let shares = [
            (lists, "behavior", expected.behavior),
            (stream, "behavior", expected.stream_behavior),
            (stream, "preference", expected.preference),
        ];
        for (object, kind, (right, pairs)) in shares {
            assert!(pairs > 10.0, "{kind}");
            assert_close(&object[format!("{kind}_pairs")], pairs, kind);
            assert_close(&object[format!("{kind}_accuracy")], right / pairs, kind);
        }
        differences.push(expected.preference.0 / expected.preference.1);
    }
    let difference = differences[0] - differences[1];
    assert_close(&said["difference"]["preference accuracy, stream"], difference, "difference");
    assert!(difference > 0.0, "the model has learned the answers, its twin has not: {difference}");
    assert!(said["notes"][0].as_str().is_some_and(|note| note.contains("optimistic")), "{said}");

    let table = evaluate(&model, lists, &[]);
    for part in ["NDCG@20", "behavior-only twin", "difference", "60 lists"] {
        assert!(table.contains(part), "no {part}: {table}");
    }
    assert!(!table.contains("optimistic"), "held-out lists are not: {table}");
}

#[test]
fn a_folder_without_training_state_is_evaluated_alone_and_scored() {
    let (_, stream, lists) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    let part = dir.path().join("part.pb");
    write(&part, &read(stream)[..100]);
    train(&part, &model, &[]);
    let beside = json(&evaluate(&model, lists, &["--json"]));
    fs::remove_file(model.join(files::TRAINING)).expect("it was there");
    let alone = json(&evaluate(&model, lists, &["--json"]));
    assert_eq!(alone["behavior_only"], Value::Null);
    assert_eq!((&alone["model"], &alone["model"]["stream"]), (&beside["model"], &Value::Null));
    let words = ["score", "--dir", text(&model), "--samples", text(lists)];
    let (status, output) = Easq::run(words, DEADLINE);
    assert!(status.success(), "{output}");
    assert_eq!(output.lines().filter(|line| line.contains("\"score\"")).count(), 60 * 21);

    let empty = dir.path().join("empty.pb");
    write(&empty, &[]);
    let words = ["evaluate", "--model", text(&model), "--samples", text(&empty)];
    let (status, output) = Easq::run(words, DEADLINE);
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("nothing to evaluate on"), "{output}");
}

#[test]
fn lists_do_not_share_a_file_with_the_stream() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("both.pb");
    let words = ["simulate", "--views", "10", "--samples", text(&path), "--held-out", text(&path)];
    let (status, output) = Easq::run(words, DEADLINE);
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(!path.exists() && output.contains("--held-out and --samples"), "{output}");
}
