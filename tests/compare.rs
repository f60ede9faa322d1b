//! `easq evaluate --compare`: everyone learns the same streams, and what is written is what was measured.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::Easq;

const DEADLINE: Duration = Duration::from_secs(240);
const SMALL: [&str; 8] = [
    "evaluate",
    "--compare",
    "--views",
    "12000",
    "--seeds",
    "2",
    "--contenders",
    "budget 1,same-path-pairs,no-dpo",
];

fn compare(output: &Path, more: &[&str]) -> (std::process::ExitStatus, String) {
    let mut arguments = SMALL.to_vec();
    arguments.extend(more);
    arguments.extend(["--output", output.to_str().expect("a path in UTF-8")]);
    Easq::run(arguments, DEADLINE)
}

fn report(output: &Path) -> Value {
    let text = fs::read_to_string(output.join("comparison.json")).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

fn summary<'a>(report: &'a Value, contender: &str) -> &'a Value {
    let summaries = report["summaries"].as_array().expect("rows");
    summaries.iter().find(|row| row["contender"] == contender).unwrap_or_else(|| panic!("no row {contender}"))
}

/// Clock time apart, runs are functions of their seeds.
fn without_seconds(mut report: Value) -> Value {
    for run in report["runs"].as_array_mut().expect("runs") {
        assert!(run.as_object_mut().expect("a run").remove("seconds").is_some());
    }
    report
}

#[test]
fn every_contender_learns_the_same_streams_and_the_report_says_what_each_came_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("first");
    let (status, printed) = compare(&output, &["--worlds", "dense", "--jobs", "2"]);
    assert!(status.success(), "{printed}");
    let report = report(&output);
    assert_eq!(report["streams"].as_array().map(Vec::len), Some(2));
    let (alone, easq) = (summary(&report, "behavior-only"), summary(&report, "easq, budget 1"));
    let mean = |row: &Value, figure: &str| row[figure]["mean"].as_f64().expect("a number");
    assert!(mean(easq, "ndcg_at_10") > mean(alone, "ndcg_at_10"), "alignment shows in 12,000 views");
    assert_eq!(mean(alone, "cost_points"), 0.0);
    assert!(alone["stream_cost_points"].is_null() && easq["dpo_weight"]["mean"].as_f64() > Some(0.0));
    // Without L_DPO and with a budget the twin is the same, so the price in the stream is that of alignment.
    assert!(mean(easq, "stream_cost_points") > mean(summary(&report, "no-dpo"), "stream_cost_points"));
    // A mean is that of its runs.
    let runs = report["runs"].as_array().expect("runs");
    let of_easq: Vec<f64> = runs
        .iter()
        .filter(|run| run["contender"] == "easq, budget 1")
        .map(|run| run["held_out"]["ndcg_at_10"].as_f64().expect("a number"))
        .collect();
    assert_eq!(of_easq.len(), 2);
    assert!((of_easq.iter().sum::<f64>() / 2.0 - mean(easq, "ndcg_at_10")).abs() < 1e-12);
    assert!(printed.contains("easq, budget 1") && printed.contains("t best baseline"), "{printed}");
    let page = fs::read_to_string(output.join("comparison.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("same-path-pairs, weight 2"));
    for outside in ["http://", "https://", "src="] {
        let named = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!named.contains(outside), "the page needs {outside}");
    }

    let again = folder.path().join("again");
    let (status, printed) = compare(&again, &["--worlds", "dense", "--jobs", "1"]);
    assert!(status.success(), "{printed}");
    assert_eq!(without_seconds(report), without_seconds(self::report(&again)), "whatever runs beside");
}

#[test]
fn what_is_not_there_to_compare_is_named_with_what_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (status, printed) = compare(folder.path(), &["--worlds", "flat"]);
    assert_eq!(status.code(), Some(2), "{printed}");
    assert!(printed.contains("'flat'") && printed.contains("dense, sparse, mild, drift"), "{printed}");
    let (status, printed) = compare(folder.path(), &["--contenders", "nobody"]);
    assert_eq!(status.code(), Some(2), "{printed}");
    assert!(printed.contains("'nobody'"), "{printed}");
}

/// The seed decides the world and the initial values: this is one run of the control, and what it must
/// come to.
#[test]
fn the_price_that_is_stated_is_paid_in_the_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        ["--views", "150000"],
        ["--seeds", "1"],
        ["--worlds", "dense"],
        ["--contenders", "budget"],
        ["--output", folder.path().to_str().expect("a path in UTF-8")],
    ];
    let arguments = ["evaluate", "--compare"].into_iter().chain(arguments.into_iter().flatten());
    let (status, printed) = Easq::run(arguments, DEADLINE);
    assert!(status.success(), "{printed}");
    let report = report(folder.path());
    let mut weights = Vec::new();
    for budget in [0.5, 1.0, 2.0] {
        let row = summary(&report, &format!("easq, budget {budget}"));
        let paid = row["stream_cost_points"]["mean"].as_f64().expect("a number");
        assert!((paid - budget).abs() < 0.25, "budget {budget}: {paid} points paid in the stream");
        weights.push(row["dpo_weight"]["mean"].as_f64().expect("a number"));
    }
    assert!(weights.is_sorted() && weights[0] < 0.3 && weights[2] > 0.3, "{weights:?}");
}
