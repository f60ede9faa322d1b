use super::*;

#[test]
fn training_goes_back_to_the_newest_checkpoint_that_passed_before_the_suspect_samples() {
    let mut registry = Registry::default();
    let mut add = |version: u64, kind: v1::VersionKind, promoted| {
        registry.add(v1::Manifest {
            version,
            kind: kind.into(),
            step: 10 * version,
            event_time_watermark_ms: 1_000 * version.cast_signed(),
            gate: Some(v1::GateDecision { promoted, finite: true, ..v1::GateDecision::default() }),
            ..v1::Manifest::default()
        });
    };
    add(1, v1::VersionKind::Checkpoint, true);
    add(2, v1::VersionKind::Checkpoint, true);
    add(3, v1::VersionKind::Serving, true);
    add(4, v1::VersionKind::Checkpoint, false);
    let to = |step, since_ms| way_back(&registry, step, since_ms).map(|manifest| manifest.version);
    assert_eq!(to(99, None), Some(2), "neither a serving version nor one that was refused");
    assert_eq!(to(99, Some(2_001)), Some(2));
    assert_eq!(to(99, Some(2_000)), Some(1), "it may have learned the first suspect sample");
    assert_eq!(to(99, Some(500)), Some(1), "nothing is old enough: the oldest that passed");
    assert_eq!(to(20, None), None, "it would take nothing back");
    assert_eq!(to(20, Some(2_001)), Some(2), "nothing suspect was learned: versions pass again");
    assert_eq!(way_back(&Registry::default(), 99, None), None);
}

#[test]
fn refusals_are_counted_on_after_a_restart_but_for_versions_on_their_way_to_production() {
    let in_a_row = |registry: &Registry| Refusals::resume(registry, 30).in_a_row;
    let mut registry = Registry::default();
    assert_eq!(in_a_row(&registry), 0);
    for (version, tests) in
        [(1, vec!["stream"]), (2, vec![]), (3, vec!["stream", "offsets"]), (4, vec!["finite"])]
    {
        let tests = tests.into_iter().map(str::to_owned).collect();
        let gate = v1::GateDecision { tests, ..v1::GateDecision::default() };
        registry.add(v1::Manifest { version, gate: Some(gate), ..v1::Manifest::default() });
    }
    assert_eq!(in_a_row(&registry), 2);
    let gate = v1::GateDecision { tests: vec!["offsets".to_owned()], ..v1::GateDecision::default() };
    registry.add(v1::Manifest { version: 5, gate: Some(gate), ..v1::Manifest::default() });
    assert_eq!(in_a_row(&registry), 0);
}

#[test]
fn training_goes_back_after_so_many_refusals_in_a_row_and_then_they_are_counted_anew() {
    let version = |version: u64, tests: &[&str]| v1::Manifest {
        version,
        step: version,
        kind: v1::VersionKind::Checkpoint.into(),
        gate: Some(v1::GateDecision {
            promoted: tests.is_empty(),
            tests: tests.iter().map(|&test| test.to_owned()).collect(),
            ..v1::GateDecision::default()
        }),
        ..v1::Manifest::default()
    };
    let mut registry = Registry::default();
    registry.add(version(1, &[]));
    let mut refusals = Refusals::resume(&registry, 2);
    let mut back = |tests: &[&str]| {
        let found = refusals.count(&registry, &version(9, tests), None).map(|manifest| manifest.version);
        found.inspect(|_| refusals.went_back())
    };
    assert_eq!([back(&["behavior"]), back(&["offsets"]), back(&["behavior"])], [None; 3], "not in a row");
    assert_eq!(
        [back(&["stream", "offsets"]), back(&["stream"]), back(&["stream"])],
        [Some(1), None, Some(1)]
    );
}
