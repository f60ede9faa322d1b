//! What a follower leaves on disk is read by a program other than easq: Python with NumPy and plain
//! safetensors finds the digests of the manifest, and its forward pass gives the scores of
//! `easq score`.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use easq::contract::v1;
use support::lineage::registry;
use support::{Easq, Line, Samples, eventually, group, python};

const DEADLINE: Duration = Duration::from_secs(90);

/// Ten views that the model has not seen.
fn views() -> Vec<v1::BehaviorEvent> {
    (0..3).flat_map(|number| group(10_000 + number).views).take(10).collect()
}

fn as_lines(views: &[v1::BehaviorEvent]) -> String {
    views.iter().map(|view| serde_json::to_string(view).expect("JSON") + "\n").collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn numpy_reads_what_was_published_and_scores_as_easq_does_to_a_hundred_thousandth() {
    let line = Line::new("interop").set("publish.interval_ms", 200).set("train.batch_age_ms", 20);
    line.create_topics(1);
    let settings = line.settings();
    Samples::new(&settings, 1).write(300);
    let mut trainer = line.start(&["run", "--role", "trainer"]);
    eventually(DEADLINE, "300 groups are learned by production", || {
        let registry = registry(&settings);
        let production = registry.production_manifest();
        production.is_some_and(|manifest| {
            manifest.behavior_groups_learned == 300 && manifest.preference_pairs_learned > 0
        })
    });
    trainer.terminate();
    assert!(trainer.wait(DEADLINE).success());

    let dir = tempfile::tempdir().expect("a temporary folder");
    let followed = dir.path().join("model");
    let (status, output) =
        Easq::run(line.arguments(&["follow", "--once", "--dir", path(&followed)]), DEADLINE);
    assert!(status.success(), "{output}");
    let input = dir.path().join("views.jsonl");
    fs::write(&input, as_lines(&views())).expect("written");
    let arguments = ["score", "--dir", path(&followed), "--views", path(&input)];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_easq")).args(arguments).output();
    let output = output.expect("the binary that cargo built starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scores = dir.path().join("scores.jsonl");
    fs::write(&scores, &output.stdout).expect("written");

    fs::write(&input, as_lines(&views()) + "{\"impressionId\": 3}\n").expect("written");
    let (status, output) = Easq::run(arguments, DEADLINE);
    assert_eq!(status.code(), Some(1));
    assert!(output.contains("views.jsonl line 11"), "{output}");

    fs::write(&input, as_lines(&views())).expect("written");
    let current = followed.join("current");
    let said = python(include_str!("interop_numpy.py"), &[path(&current), path(&input), path(&scores)]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["views"], 10);
    assert_eq!(said["digests_that_differ"], serde_json::json!([]));
    assert_eq!(said["tensors_missing"], serde_json::json!([]));
    assert!(said["tensors"].as_u64().is_some_and(|tensors| tensors > 10), "{said}");
    let difference = said["greatest_difference"].as_f64().expect("a number");
    assert!(difference <= 1e-5, "{said}");
    assert!(said["lora_share"].as_f64().is_some_and(|share| share > 0.0), "LoRA moves no score: {said}");
}

#[test]
fn score_names_the_file_that_is_absent_and_refuses_to_run_without_weights() {
    let score = |arguments: &[&str]| Easq::run(arguments, DEADLINE);
    let (status, output) = score(&["score", "--model", "absent.safetensors", "--views", "views.jsonl"]);
    assert_eq!(status.code(), Some(1));
    assert!(output.contains("absent.safetensors"), "{output}");
    let (status, output) = score(&["score", "--views", "views.jsonl"]);
    assert_eq!(status.code(), Some(2));
    assert!(output.contains("--model"), "{output}");
}
