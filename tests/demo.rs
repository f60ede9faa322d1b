//! The demo and the simulator through the real binary, in small.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::terminal::on_a_terminal;
use support::{Easq, Kafka};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(240);

fn demo(output: &Path, more: &[&str]) -> String {
    let output = output.to_str().expect("a path in UTF-8");
    let arguments = [&["demo", "--duration", "4s", "--seed", "3", "--output", output], more].concat();
    let (status, printed) = Easq::run(arguments, DEADLINE);
    assert!(status.success(), "{printed}");
    printed
}

fn report(output: &Path) -> Value {
    let text = fs::read_to_string(output.join("report.json")).expect("report.json is there");
    serde_json::from_str(&text).expect("report.json is JSON")
}

/// The fields that other programs rely on.
fn check_report(report: &Value) {
    let count = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"));
    assert_eq!(count("views"), 10_800, "2,700 views per second");
    assert!(count("answers") > 50 && count("preference_pairs") > 20 && count("versions") >= 2, "{report}");
    assert_eq!(count("labelled_views"), count("answers"), "every answer is joined");
    assert_eq!(report["conservation"]["ok"], true, "{}", report["conservation"]);
    for model in ["production", "behavior_only"] {
        for metric in ["ndcg_at_10", "hr_at_1", "mrr", "behavior_accuracy"] {
            let value = report["held_out"][model][metric].as_f64();
            assert!(value.is_some_and(|value| value > 0.0 && value < 1.0), "{model} {metric}: {value:?}");
        }
    }
}

/// Invariants 7, 8 and 11 on the happy path.
#[test]
fn a_short_demo_ends_with_whole_reports_and_everything_accounted_for() {
    let output = TempDir::new().expect("a temporary folder");
    let printed = demo(output.path(), &[]);
    assert!(
        printed.contains("embedded broker") && printed.contains("proves nothing about failure"),
        "{printed}"
    );
    let report = report(output.path());
    check_report(&report);
    assert_eq!(report["broker"], "embedded");
    let page = fs::read_to_string(output.path().join("report.html")).expect("report.html is there");
    assert!(page.trim_end().ends_with("</html>") && page.matches("<svg").count() == 6);
    for file in ["model.safetensors", "adapter_model.safetensors", "manifest.json"] {
        assert!(output.path().join("model/current").join(file).exists(), "the follower's {file}");
    }
}

/// What is logged while the bar stands comes above it, each line whole, and the bar is never mixed up
/// with it.
#[test]
fn on_a_terminal_log_lines_and_the_bar_leave_each_other_alone() {
    let output = TempDir::new().expect("a temporary folder");
    let folder = output.path().to_str().expect("a path in UTF-8");
    let words =
        ["demo", "--duration", "4s", "--seed", "3", "--output", folder, "--set", "telemetry.log_filter=info"];
    let screens = on_a_terminal(&words.map(str::to_owned));
    let is_bar = |row: &String| row.starts_with(['█', '░']);
    let is_log = |row: &String| row.contains(" INFO easq::");
    let both = screens.iter().filter(|screen| screen.iter().any(is_bar) && screen.iter().any(is_log));
    assert!(both.count() > 5, "nothing was logged beside the bar");
    for screen in &screens {
        let bars = screen.iter().filter(|row| row.contains(['█', '░']));
        assert!(
            bars.clone().count() <= 1 && bars.clone().all(|row| is_bar(row) && !is_log(row)),
            "{screen:#?}"
        );
    }
    // Rows that are full go on in the next one.
    let last = screens.last().expect("a screen").concat();
    assert!(!last.contains(['█', '░']), "the bar stays: {last}");
    let versions = report(output.path())["versions"].as_u64().expect("a number");
    assert_eq!(last.matches("version published").count() as u64, versions, "{last}");
}

#[test]
fn the_demo_runs_on_a_real_kafka_too() {
    let output = TempDir::new().expect("a temporary folder");
    demo(output.path(), &["--kafka", Kafka::shared().bootstrap()]);
    let report = report(output.path());
    check_report(&report);
    assert!(report["broker"].as_str().is_some_and(|broker| broker.starts_with("Apache Kafka")), "{report}");
    // Which topics it leaves there is said.
    let note = report["broker_note"].as_str().expect("a note");
    let run = note.split('\'').nth(1).expect("the name of the run");
    let own = Kafka::shared().topics().into_iter().filter(|topic| topic.contains(run));
    assert_eq!(own.count(), 9, "seven topics of the line, two of the model: {note}");
}

#[test]
fn simulate_writes_what_its_truth_tells() {
    let kafka = Kafka::shared();
    let (behavior, responses) = (Kafka::unique("behavior"), Kafka::unique("responses"));
    kafka.create_topic(&behavior, 4);
    kafka.create_topic(&responses, 4);
    let folder = TempDir::new().expect("a temporary folder");
    let truth = folder.path().join("truth.jsonl");
    let options = "simulate --views 3000 --exposure 0.5 --answer-rate 0.5 --duplicates 0.02 --late 0.02 \
                   --orphans 0.2 --malformed 0.02 --truth";
    let arguments: Vec<String> = options
        .split_whitespace()
        .map(ToOwned::to_owned)
        .chain([truth.display().to_string()])
        .chain(["--set".to_owned(), format!("kafka.bootstrap_servers={}", kafka.bootstrap())])
        .chain(["--set".to_owned(), format!("topics.behavior={behavior}")])
        .chain(["--set".to_owned(), format!("topics.responses={responses}")])
        .collect();
    let (status, printed) = Easq::run(&arguments, DEADLINE);
    assert!(status.success(), "{printed}");

    let lines: Vec<Value> = fs::read_to_string(&truth)
        .expect("the truth is there")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let views = lines.iter().filter(|line| line["satisfied"].is_boolean());
    let answered = views.clone().filter(|line| line["answered"] == true).count();
    assert_eq!(views.count(), 3000);
    let added = |topic: &str| {
        let faults = lines.iter().filter(|line| line["topic"] == topic);
        faults.filter(|line| line["fault"] != "late").count()
    };
    assert_eq!(kafka.read_to_end(&behavior).len(), 3000 + added("behavior"));
    assert_eq!(kafka.read_to_end(&responses).len(), answered + added("responses"));
    assert!(added("behavior") > 50 && added("responses") > 20, "{printed}");
}

#[test]
fn simulate_joins_samples_into_a_file_that_is_the_same_every_time() {
    let folder = TempDir::new().expect("a temporary folder");
    let write = |name: &str, seed: &str| {
        let path = folder.path().join(name);
        let samples = path.to_str().expect("a path in UTF-8");
        let arguments =
            ["simulate", "--views", "8000", "--start", "2026-01-01T00:00:00Z", "--exposure", "0.5"];
        let (status, printed) =
            Easq::run([&arguments[..], &["--seed", seed, "--samples", samples]].concat(), DEADLINE);
        assert!(status.success(), "{printed}");
        fs::read(&path).expect("the samples are there")
    };
    let samples = write("a.jsonl", "1");
    assert_eq!(samples, write("b.jsonl", "1"));
    // Names hold the seed, so that bytes differ anyway.
    assert_ne!(engagements(&samples), engagements(&write("c.jsonl", "2")));
    let text = String::from_utf8(samples).expect("JSON lines are text");
    let count = |kind: &str| text.lines().filter(|line| line.contains(&format!("{{\"{kind}\":"))).count();
    assert!((1400..1700).contains(&count("preferencePair")), "{} pairs", count("preferencePair"));
    assert!((850..1100).contains(&count("behaviorGroup")), "{} groups", count("behaviorGroup"));
}

/// What was done with each view of the groups in a sample file of JSON lines.
fn engagements(samples: &[u8]) -> Vec<String> {
    let lines = std::str::from_utf8(samples).expect("JSON lines are text").lines();
    let samples = lines.map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let views = samples.filter_map(|sample| sample["behaviorGroup"]["views"].as_array().cloned()).flatten();
    views.map(|view| view["engagement"].to_string()).collect()
}
