//! The join equals the oracle, whatever the order of reading, the commits and the crashes.

use std::collections::BTreeSet;

use proptest::prelude::*;
use prost::Message;

use super::builders::{
    TestResponse, TestView, config, response_log, response_records, settings, view_log, view_records,
};
use super::driver::{Driver, Step, anything, reads, reads_and_crashes};
use super::oracle::{self, Counts, GroupViews, PairViews};
use crate::contract::v1::{BehaviorGroup, LabelledView, PreferencePair};
use crate::join::{Outcome, Outcomes, OutputKind, Side};
use crate::settings::Settings;

fn labelled_views(driver: &Driver) -> Vec<LabelledView> {
    let payloads = driver.outputs(OutputKind::LabelledView).map(|output| output.payload().unwrap());
    payloads.map(|payload| LabelledView::decode(payload).unwrap()).collect()
}

fn counts(side: Side, outcomes: Outcomes) -> Counts {
    let decided = Outcome::of(side).iter().map(|&outcome| (outcome.as_str(), outcomes.get(outcome)));
    decided.chain([("waiting", outcomes.waiting)]).filter(|(_, records)| *records > 0).collect()
}

fn offset_of(source: &Option<crate::contract::v1::Source>) -> i64 {
    source.as_ref().unwrap().offset
}

fn groups(driver: &Driver, views: &[TestView]) -> BTreeSet<GroupViews> {
    let mut groups = BTreeSet::new();
    for output in driver.outputs(OutputKind::BehaviorGroup) {
        let group = BehaviorGroup::decode(output.payload().unwrap()).unwrap();
        let request_time_ms = group.views[0].request_time_ms;
        // The views of a group come in offset order; an offset is found by the record's bytes.
        let records = view_records(views);
        let mut from = offset_of(&group.first_source);
        let mut offsets = Vec::new();
        for view in &group.views {
            let bytes = view.encode_to_vec();
            let found = records
                .iter()
                .find(|record| record.offset >= from && record.payload.as_deref() == Some(&bytes[..]))
                .unwrap();
            offsets.push(found.offset);
            from = found.offset + 1;
        }
        assert_eq!(group.event_time_ms, group.views.iter().map(|view| view.event_time_ms).max().unwrap());
        assert!(groups.insert((request_time_ms, offsets)), "a group came twice");
    }
    groups
}

fn pairs(driver: &Driver) -> Vec<PairViews> {
    let decode = |payload| PreferencePair::decode(payload).unwrap();
    let pairs = driver.outputs(OutputKind::PreferencePair).map(|output| decode(output.payload().unwrap()));
    pairs
        .map(|pair| {
            let (chosen, rejected) = (pair.chosen.as_ref().unwrap(), pair.rejected.as_ref().unwrap());
            (offset_of(&chosen.view_source), offset_of(&rejected.view_source), pair.scope())
        })
        .collect()
}

fn assert_truth(driver: &Driver, views: &[TestView], responses: &[TestResponse], settings: &Settings) {
    let truth = oracle::truth(views, responses, settings);
    let labelled = labelled_views(driver);
    let matches: Vec<_> = labelled
        .iter()
        .map(|labelled| (offset_of(&labelled.view_source), offset_of(&labelled.response_source)))
        .collect();
    assert_eq!(matches.iter().copied().collect::<BTreeSet<_>>(), truth.matches, "invariant 3");
    assert_eq!(matches.len(), truth.matches.len(), "invariant 2: a labelled view came twice");
    let (view_outcomes, response_outcomes, products) = driver.counts();
    assert_eq!(counts(Side::Views, view_outcomes), truth.views, "invariant 11");
    assert_eq!(counts(Side::Responses, response_outcomes), truth.responses, "invariant 11");
    assert_eq!(groups(driver, views), truth.groups);
    assert_eq!(pairs(driver), oracle::pairs(&labelled, settings), "invariant 5");
    assert_eq!(products.labelled_views, labelled.len() as u64);
    assert_eq!(products.groups, truth.groups.len() as u64);
    let pairs = products.user_pairs + products.scenario_pairs;
    assert_eq!(pairs, driver.outputs(OutputKind::PreferencePair).count() as u64);
}

proptest! {
    #[test]
    fn invariants_3_4_and_11_hold_for_any_interleaving(
        views in view_log(60),
        responses in response_log(60),
        steps in prop::collection::vec(reads(), 0..120),
    ) {
        let settings = settings();
        let records = (view_records(&views), response_records(&responses));
        let mut driver = Driver::new(config(&settings), records.0, records.1);
        driver.run(&steps);
        driver.finish();
        assert_truth(&driver, &views, &responses, &settings);
    }

    #[test]
    fn invariants_2_to_5_and_11_hold_for_any_commits_and_crashes(
        views in view_log(60),
        responses in response_log(60),
        steps in prop::collection::vec(reads_and_crashes(), 0..200),
    ) {
        let settings = settings();
        let records = (view_records(&views), response_records(&responses));
        let mut driver = Driver::new(config(&settings), records.0, records.1);
        driver.run(&steps);
        driver.finish();
        driver.crash(0b0110_1001);
        driver.commit();
        assert_truth(&driver, &views, &responses, &settings);
    }

    /// Idleness is a matter of clocks, so it belongs to the run and not to the logs; but what a run
    /// committed of it, a replay repeats. A crash right after a commit loses nothing, so it must
    /// change nothing.
    #[test]
    fn a_crash_after_a_commit_changes_nothing_also_after_idleness(
        views in view_log(60),
        responses in response_log(60),
        steps in prop::collection::vec(anything(), 0..200),
    ) {
        let settings = settings();
        let records = (view_records(&views), response_records(&responses));
        let steps: Vec<Step> = steps
            .into_iter()
            .flat_map(|step| match step {
                Step::Crash(bits) => vec![Step::Commit, Step::Crash(bits)],
                step => vec![step],
            })
            .collect();
        let mut crashing = Driver::new(config(&settings), records.0.clone(), records.1.clone());
        crashing.run(&steps);
        crashing.finish();
        let mut steady = Driver::new(config(&settings), records.0, records.1);
        steady.run(&steps.into_iter().filter(|step| !matches!(step, Step::Crash(_))).collect::<Vec<_>>());
        steady.finish();
        prop_assert_eq!(crashing.committed, steady.committed);
        prop_assert_eq!(crashing.join.outcomes(Side::Views), steady.join.outcomes(Side::Views));
        prop_assert_eq!(crashing.join.outcomes(Side::Responses), steady.join.outcomes(Side::Responses));
        prop_assert_eq!(crashing.join.products(), steady.join.products());
    }

    /// What is evicted is not matched, and after a restart the counts are those of what could be
    /// rebuilt; but every record consumed has one outcome, whatever happens (the driver looks
    /// after every record).
    #[test]
    fn invariants_11_and_12_hold_at_the_memory_bound(
        views in view_log(60),
        responses in response_log(60),
        steps in prop::collection::vec(anything(), 0..200),
        bound in 1usize..12,
    ) {
        let mut settings = settings();
        settings.join.max_waiting_records = bound;
        let records = (view_records(&views), response_records(&responses));
        let truth = oracle::truth(&views, &responses, &settings);
        let mut driver = Driver::new(config(&settings), records.0, records.1);
        for step in steps {
            let Step::Read(side) = step else {
                driver.run(&[step]);
                continue;
            };
            if driver.read(side) {
                let gauges = driver.join.gauges();
                let held = match side {
                    Side::Views => gauges.held_views + gauges.grouped_views,
                    Side::Responses => gauges.held_responses,
                };
                prop_assert!(held <= bound);
            }
        }
        driver.finish();
        let outcomes = [driver.join.outcomes(Side::Views), driver.join.outcomes(Side::Responses)];
        let exceptions = [Outcome::Evicted, Outcome::LateAfterIdle, Outcome::LostToRetention];
        let exceptions = exceptions.map(|exception| outcomes[0].get(exception) + outcomes[1].get(exception));
        if exceptions.iter().sum::<u64>() + driver.join.products().forgotten_views == 0 {
            prop_assert_eq!(labelled_views(&driver).len(), truth.matches.len());
        }
    }
}
