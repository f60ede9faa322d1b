//! `easq poison`: the gate lets through what is sound and stops what is not, by the program's own figures.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::Easq;

const DEADLINE: Duration = Duration::from_secs(240);

/// Runs of the dense world, 30,000 views of it, by (poison, whether there was a gate).
fn runs() -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("poison.json");
    let arguments = [
        "poison",
        "--seeds",
        "1",
        "--views",
        "30000",
        "--poisons",
        "none,nan-feature,scaled-feature",
        "--ungated",
        "--set",
        "gate.warmup_steps=50",
        "--set",
        "gate.rollback_after=3",
        "--output",
        output.to_str().expect("a path in UTF-8"),
    ];
    let (status, printed) = Easq::run(arguments, DEADLINE);
    assert!(status.success(), "{printed}");
    for word in ["scaled-feature", "noticed after s", "taken in"] {
        assert!(printed.contains(word), "{word}: {printed}");
    }
    let text = std::fs::read_to_string(output).expect("the runs");
    serde_json::from_str(&text).expect("JSON")
}

fn run<'a>(runs: &'a [Value], poison: &str, is_gated: bool) -> &'a Value {
    let found = runs.iter().find(|run| run["poison"] == poison && run["is_gated"] == is_gated);
    found.unwrap_or_else(|| panic!("no run of {poison}, gated: {is_gated}"))
}

fn number(run: &Value, field: &str) -> u64 {
    run[field].as_u64().unwrap_or_else(|| panic!("{field} is a number"))
}

fn refused(run: &Value) -> usize {
    let seconds = run["seconds"].as_array().expect("versions");
    assert!(seconds.len() > 20, "a version a second: {}", seconds.len());
    seconds.iter().filter(|second| second["is_refused"] == true).count()
}

#[test]
fn a_sound_stream_is_let_through_and_a_feature_a_hundred_times_too_large_is_not() {
    let runs = runs();
    let sound = run(&runs, "none", true);
    assert_eq!((refused(sound), number(sound, "false_alarms"), number(sound, "held_out_pairs")), (0, 0, 0));

    let (gated, ungated) = (run(&runs, "scaled-feature", true), run(&runs, "scaled-feature", false));
    let (poisoned, taken) = (number(gated, "poisoned_pairs"), number(gated, "poisoned_pairs_taken"));
    assert!(poisoned > 50 && taken < poisoned / 5, "{taken} of {poisoned} pairs were learned");
    assert!(refused(gated) >= 3 && number(gated, "rollbacks") == 1, "{gated}");
    assert_eq!((refused(ungated), number(ungated, "poisoned_pairs_taken")), (0, poisoned));

    // What is not finite never gets as far as the gate.
    let nan = run(&runs, "nan-feature", true);
    assert_eq!((refused(nan), number(nan, "poisoned_pairs_taken")), (0, 0));
}
