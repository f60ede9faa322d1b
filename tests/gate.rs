//! Poison does not reach production: on the way through a real broker, a trainer and its restart.

mod support;

use easq::contract::v1;
use easq::publish::manifest::to_json;
use support::lineage::{History, registry};
use support::trainers::{PARTITIONS, SOON, Trainer, line, production_learns_all};
use support::{Easq, Line, Samples, eventually, eventually_some, get};

fn production(line: &Line) -> v1::Manifest {
    let registry = registry(&line.settings());
    registry.production_manifest().expect("production").as_ref().clone()
}

/// What readers get, by the digests of its tensors.
fn serving(manifest: &v1::Manifest) -> Vec<(String, Vec<u8>)> {
    let tensors = manifest.tensors.iter().filter(|tensor| !tensor.name.starts_with("training."));
    tensors.map(|tensor| (tensor.name.clone(), tensor.sha256.to_vec())).collect()
}

/// Whether the newest version has read everything, learned or not.
#[track_caller]
fn everything_is_read(line: &Line) {
    let settings = line.settings();
    let logs = support::lineage::Logs::read(&settings);
    eventually(SOON, "the newest version has read everything", || {
        registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
    });
}

#[test]
fn poison_is_refused_taken_back_and_forgotten_and_a_person_may_accept_it() {
    let line = line("poisoned")
        .set("train.instance_id", "the-only-one")
        .set("publish.keep_versions", 500)
        .set("train.normalizer_views", 1_000)
        .set("gate.warmup_steps", 5)
        .set("gate.min_rank_correlation", -1)
        .set("gate.tolerance_points", 100)
        .set("gate.rollback_after", 3)
        .set("telemetry.listen", "127.0.0.1:0");
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    let mut trainer = Trainer::start(&line);
    samples.write(1_500);
    production_learns_all(&line);

    samples.scale_feature(100.0);
    let refused = eventually_some(SOON, "a version is refused", || {
        samples.write(50);
        let registry = registry(&line.settings());
        let is_refused = |manifest: &&std::sync::Arc<v1::Manifest>| {
            manifest.gate.as_ref().is_some_and(|gate| !gate.promoted)
        };
        registry.versions.values().find(is_refused).cloned()
    });
    let gate = refused.gate.as_ref().expect("a decision");
    assert!(gate.reasons[0].starts_with("the stream is suspect: feature '"), "{:?}", gate.reasons);

    // Three refusals in a row: what was learned of it is taken back.
    let is_back = |manifest: &v1::Manifest| {
        manifest.version > refused.version && manifest.inputs.iter().any(|input| !input.gaps.is_empty())
    };
    let back = eventually_some(SOON, "training goes back", || {
        samples.write(50);
        registry(&line.settings()).versions.values().find(|manifest| is_back(manifest)).cloned()
    });
    let versions = registry(&line.settings()).versions;
    let parent = &versions[&back.parent.expect("a parent")];
    assert!(parent.gate.as_ref().is_some_and(|gate| gate.promoted), "{}", to_json(parent));
    assert_eq!((back.kind(), back.step), (v1::VersionKind::Checkpoint, parent.step));
    assert_eq!(serving(&back), serving(parent));
    let reason = format!("passed over: training went back to version {}", parent.version);
    let gaps = back.inputs.iter().flat_map(|input| &input.gaps);
    assert!(gaps.clone().count() > 0 && gaps.clone().all(|gap| gap.reason == reason), "{}", to_json(&back));
    assert!(back.gate.as_ref().is_some_and(|gate| gate.promoted), "readers get it: {}", to_json(&back));

    let text = get(&trainer.process.address(), "/metrics").expect("metrics while it runs");
    let metric = |series: &str| -> f64 {
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    assert!(metric("easq_gate_refusals_total{test=\"stream\"}") >= 3.0);
    assert!(metric("easq_gate_held_out_samples_total{kind=\"group\"}") > 0.0);
    assert_eq!(metric("easq_gate_stream_suspect{signal=\"features\"}"), 1.0);
    assert_eq!(metric("easq_gate_rollbacks_total"), 1.0);
    assert!(metric("easq_gate_feature_shift_deviations") > 1.0);
    let output = trainer.process.output();
    for part in ["the stream is suspect, nothing is learned", "version not promoted", "training went back"] {
        assert!(output.contains(part), "{part}: {output}");
    }

    // Another process knows it too.
    trainer.process.kill();
    let mut trainer = Trainer::start(&line);
    samples.write(200);
    everything_is_read(&line);
    assert_eq!(serving(&production(&line)), serving(parent), "nothing is learned of it");
    let registered = registry(&line.settings());
    let newest = registered.versions.keys().next_back().copied();
    assert_eq!(registered.followed(), newest, "what has learned nothing of it goes on passing");
    let skipped = History::read(&line.settings()).versions;
    let held_out = skipped.iter().flat_map(|manifest| &manifest.inputs).flat_map(|input| &input.skipped);
    assert!(held_out.clone().any(|range| range.reason == "held out: the stream was suspect"));

    let words = ["model", "accept-stream", "--reason", "the unit of the feature has changed"];
    let (status, output) = Easq::run(line.arguments(&words), SOON);
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("accepted"), "{output}");
    let accept = registry(&line.settings()).accept.expect("what was said");
    assert_eq!(accept.reason, "the unit of the feature has changed");
    eventually(SOON, "it is learned", || {
        samples.write(50);
        production(&line).step > parent.step
    });
    production_learns_all(&line);
    History::read(&line.settings()).assert_lineage_but_for_gaps();
    assert!(trainer.process.is_running());
    trainer.stop();
}

#[test]
fn a_stream_of_a_model_that_is_not_there_cannot_be_accepted() {
    let line = line("nothing-to-accept");
    let words = ["model", "accept-stream", "--reason", "too early"];
    let (status, output) = Easq::run(line.arguments(&words), SOON);
    assert_eq!((status.code(), output.contains("has no version yet")), (Some(1), true), "{output}");
}
