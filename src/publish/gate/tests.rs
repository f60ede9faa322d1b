use super::*;
use crate::model::HostTensor;
use crate::publish::StreamSuspect;

fn rules() -> Rules {
    let mut settings = Settings::default();
    let gate = &mut settings.gate;
    (gate.warmup_steps, gate.min_answers, gate.tolerance_points) = (10, 100, 2.0);
    (gate.min_rank_correlation, gate.anchor_age_ms) = (0.2, 3_600_000);
    settings.train.behavior_budget_points = 1.0;
    Rules::new(&settings)
}

fn learned(offset: i64) -> Vec<v1::LearnedRange> {
    vec![v1::LearnedRange {
        topic: "groups".to_owned(),
        partition: 1,
        next_offset: offset,
        ..v1::LearnedRange::default()
    }]
}

fn production_at(offset: i64) -> v1::Manifest {
    v1::Manifest { version: 7, inputs: learned(offset), ..v1::Manifest::default() }
}

fn compared(preference: f64, behavior: f64, rank: f64) -> v1::AnchorComparison {
    let figure = |mean| Some(figure(400, mean, 0.005));
    v1::AnchorComparison {
        anchor: 3,
        preference: figure(preference),
        behavior: figure(behavior),
        rank_correlation: figure(rank),
    }
}

fn failed(comparison: &v1::AnchorComparison, step: u64) -> Vec<String> {
    let decision = rules().decide(
        &Candidate { step, comparison: Some(*comparison), ..Candidate::default() },
        None,
        None,
    );
    assert_eq!(decision.promoted, decision.tests.is_empty());
    assert_eq!(decision.tests.len(), decision.reasons.len(), "a reason for each");
    assert_eq!(decision.comparison.as_ref(), Some(comparison), "it stands in the manifest either way");
    decision.tests
}

#[test]
fn a_finite_first_version_becomes_production() {
    let tensors = vec![HostTensor::from_f64("w", vec![1], &[0.5])];
    let decision =
        rules().decide(&Candidate { tensors, inputs: learned(3), ..Candidate::default() }, None, None);
    let promoted = v1::GateDecision { promoted: true, finite: true, ..v1::GateDecision::default() };
    assert_eq!(decision, promoted);
}

#[test]
fn a_value_that_is_not_finite_is_never_production() {
    for value in [f64::NAN, f64::INFINITY] {
        let tensors = vec![HostTensor::from_f64("w", vec![1], &[value])];
        let decision =
            rules().decide(&Candidate { tensors, inputs: learned(3), ..Candidate::default() }, None, None);
        assert!(!decision.promoted && !decision.finite);
        assert_eq!(decision.tests, ["finite"]);
        assert!(decision.reasons[0].contains("'w'"), "{:?}", decision.reasons);
    }
}

#[test]
fn nothing_behind_production_is_promoted() {
    let production = production_at(5);
    let decide = |inputs: Vec<v1::LearnedRange>| {
        rules().decide(&Candidate { inputs, ..Candidate::default() }, Some(&production), None)
    };
    let decision = decide(learned(4));
    assert!(!decision.promoted && decision.finite);
    assert!(decision.reasons[0].contains("version 7"), "{:?}", decision.reasons);
    assert!(decide(learned(5)).promoted);
    assert!(!decide(Vec::new()).promoted, "a partition never read is behind");
}

#[test]
fn a_version_is_refused_when_even_the_upper_bound_lies_below_what_it_may_lose() {
    assert_eq!(failed(&compared(0.0, 0.0, 1.0), 10), [""; 0]);
    // The bound lies 0.01 above the mean; 2 points are allowed, and with the budget 3.
    assert_eq!(failed(&compared(-0.029, -0.039, 0.195), 10), [""; 0]);
    assert_eq!(failed(&compared(-0.031, 0.0, 1.0), 10), ["preference"]);
    assert_eq!(failed(&compared(0.0, -0.041, 1.0), 10), ["behavior"]);
    assert_eq!(failed(&compared(0.0, 0.0, 0.185), 10), ["rank_correlation"]);
    assert_eq!(failed(&compared(-0.5, -0.5, -1.0), 9), [""; 0], "before the warm-up");
}

#[test]
fn a_test_with_too_little_to_rest_on_abstains() {
    let mut comparison = compared(-0.5, -0.5, -1.0);
    for figure in [&mut comparison.preference, &mut comparison.behavior, &mut comparison.rank_correlation] {
        figure.as_mut().expect("a figure").count = 99;
    }
    assert_eq!(failed(&comparison, 10), [""; 0]);
}

#[test]
fn a_reason_names_the_anchor_what_was_found_and_what_is_allowed() {
    let comparison = Some(compared(-0.05, 0.0, 1.0));
    let decision = rules().decide(&Candidate { step: 10, comparison, ..Candidate::default() }, None, None);
    let reason = &decision.reasons[0];
    for part in ["preference", "5.0 points below", "version 3", "at best 4.0 over 400", "2.0 are allowed"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn anchors_are_checkpoints_chosen_every_half_age_and_two_are_kept() {
    let rules = rules();
    let anchor = |version, minutes: i64| v1::GateAnchor { version, chosen_at_ms: minutes * 60_000 };
    let production = |version, kind: v1::VersionKind| v1::Manifest {
        version,
        kind: kind.into(),
        ..v1::Manifest::default()
    };
    let next = |before: &[v1::GateAnchor], version, minutes: i64| {
        let production = production(version, v1::VersionKind::Checkpoint);
        rules.anchors(before, Some(&production), 10, minutes * 60_000)
    };
    let checkpoint = production(1, v1::VersionKind::Checkpoint);
    assert_eq!(rules.anchors(&[], Some(&checkpoint), 9, 0), [], "before the warm-up");
    assert_eq!(rules.anchors(&[], None, 10, 0), [], "there is no production yet");
    let serving = production(1, v1::VersionKind::Serving);
    assert_eq!(rules.anchors(&[], Some(&serving), 10, 0), [], "training could not go back to it");
    let first = next(&[], 5, 1);
    assert_eq!(first, [anchor(5, 1)]);
    assert_eq!(next(&first, 9, 30), first, "29 minutes old");
    let two = next(&first, 9, 31);
    assert_eq!(two, [anchor(5, 1), anchor(9, 31)]);
    assert_eq!(next(&two, 12, 61), [anchor(9, 31), anchor(12, 61)]);
    assert_eq!(next(&two, 9, 61), two, "nothing was promoted since");
}

#[test]
fn what_was_learned_from_a_suspect_stream_is_refused_with_its_reasons_also_before_the_warm_up() {
    let suspicion = StreamSuspect { reasons: vec!["answers turned".to_owned()], since_ms: 7 };
    let candidate = Candidate { suspicion: Some(suspicion), ..Candidate::default() };
    let decision = rules().decide(&candidate, None, None);
    assert!(!decision.promoted && decision.finite);
    assert_eq!(decision.tests, ["stream"]);
    assert_eq!(decision.reasons, ["the stream is suspect: answers turned"]);
}

#[test]
fn anchors_are_handed_on_from_the_version_that_training_goes_on_from() {
    let anchor = |version| v1::GateAnchor { version, chosen_at_ms: 0 };
    let version = |version, anchors: &[u64]| v1::Manifest {
        version,
        anchors: anchors.iter().map(|version| anchor(*version)).collect(),
        ..v1::Manifest::default()
    };
    let mut registry = Registry::default();
    for manifest in [version(1, &[]), version(2, &[1]), version(3, &[1, 2]), version(4, &[2, 3])] {
        registry.add(manifest);
    }
    assert_eq!(anchors_before(&registry, Some(4)), [anchor(2), anchor(3)]);
    assert_eq!(anchors_before(&registry, Some(2)), [anchor(1)], "training went back to it");
    registry.versions.remove(&1);
    assert_eq!(anchors_before(&registry, Some(3)), [anchor(2)], "one that is gone is none");
    assert_eq!(anchors_before(&registry, None), []);
    assert_eq!(anchors_before(&registry, Some(9)), []);
}

#[test]
fn a_version_that_was_refused_beside_its_anchor_passes_no_sooner_for_a_restart() {
    let rules = rules();
    let unknown = |mean, count| Some(v1::ComparedFigure { count, ..figure(count, mean, 0.001) });
    let compared = |count| v1::AnchorComparison {
        anchor: 3,
        preference: unknown(0.0, count),
        behavior: unknown(0.0, count),
        rank_correlation: unknown(1.0, count),
    };
    let failed = |tests: &[Test]| {
        let tests = tests.iter().map(|test| test.as_str().to_owned()).collect();
        let gate = v1::GateDecision { tests, finite: true, ..v1::GateDecision::default() };
        v1::Manifest { version: 8, gate: Some(gate), ..v1::Manifest::default() }
    };
    let decide = |comparison, parent: &v1::Manifest| {
        let candidate = Candidate { step: 10, comparison: Some(comparison), ..Candidate::default() };
        rules.decide(&candidate, None, Some(parent))
    };
    let refused = failed(&[Test::Behavior, Test::Stream]);
    let decision = decide(compared(99), &refused);
    assert_eq!(decision.tests, ["behavior"]);
    assert!(decision.reasons[0].contains("version 8"), "{:?}", decision.reasons);
    assert!(decide(compared(100), &refused).promoted, "by now it is known to be no worse");
    assert!(decide(compared(99), &failed(&[])).promoted, "the version before had passed");
}

#[test]
fn once_the_stream_is_accepted_nothing_from_before_is_an_anchor() {
    let anchor = |version, chosen_at_ms| v1::GateAnchor { version, chosen_at_ms };
    let mut registry = Registry::default();
    for (version, created_at_ms) in [(1, 10), (2, 20), (3, 30)] {
        registry.add(v1::Manifest { version, created_at_ms, ..v1::Manifest::default() });
    }
    let anchors = vec![anchor(1, 15), anchor(2, 25)];
    registry.add(v1::Manifest {
        version: 4,
        created_at_ms: 40,
        anchors: anchors.clone(),
        ..v1::Manifest::default()
    });
    registry.production = Some(v1::VersionPointer { version: 4, ..v1::VersionPointer::default() });
    let version = |registry: &Registry| next_anchor(registry).map(|manifest| manifest.version);
    assert_eq!((anchors_before(&registry, Some(4)), version(&registry)), (anchors, Some(4)));
    registry.accept = Some(v1::StreamAcceptance { written_at_ms: 20, ..v1::StreamAcceptance::default() });
    assert_eq!((anchors_before(&registry, Some(4)), version(&registry)), (vec![anchor(2, 25)], Some(4)));
    registry.accept = Some(v1::StreamAcceptance { written_at_ms: 50, ..v1::StreamAcceptance::default() });
    assert_eq!((anchors_before(&registry, Some(4)), version(&registry)), (vec![], None));
}
