//! Whether everything that was written can be accounted for (invariant 11).

use std::collections::BTreeMap;

use super::report::{Conservation, Outcomes};
use super::watch::Counts;
use crate::simulate::Produced;
use crate::telemetry::partitions::{InputReport, PartitionReport};

/// Outcomes in which the joined set is not exact; on a stream without faults there are none.
const EXCEPTIONS: [&str; 3] = ["late_after_idle", "evicted", "lost_to_retention"];
const MATCHED: &str = "matched";

/// Compares what the world wrote, what the joiner counted, and what a reader found in its outputs.
pub(super) fn account(
    produced: &Produced,
    reports: &BTreeMap<i32, PartitionReport>,
    counts: Counts,
) -> Conservation {
    let views = outcomes(produced.behavior_records, reports.values().map(|report| &report.behavior));
    let responses = outcomes(produced.response_records, reports.values().map(|report| &report.responses));
    let mut faults = Vec::new();
    for (name, input) in [("views", &views), ("answers", &responses)] {
        let ended: u64 = input.outcomes.values().sum();
        expect(&mut faults, &format!("{name} read"), input.consumed, "written", input.produced);
        expect(
            &mut faults,
            &format!("{name} ended or waiting"),
            ended + input.waiting,
            "read",
            input.consumed,
        );
        for exception in EXCEPTIONS {
            let count = input.outcomes.get(exception).copied().unwrap_or_default();
            expect(&mut faults, &format!("{name} {exception}"), count, "allowed", 0);
        }
        let matched = input.outcomes.get(MATCHED).copied().unwrap_or_default();
        expect(&mut faults, &format!("{name} matched"), matched, "labelled views", counts.labelled_views);
    }
    expect(&mut faults, "labelled views", counts.labelled_views, "answers given", produced.responses);
    let pairs = reports.values().flat_map(|report| &report.pairs).map(|(_, count)| count).sum();
    expect(&mut faults, "preference pairs read", counts.preference_pairs, "counted", pairs);
    Conservation { ok: faults.is_empty(), faults, views, responses }
}

fn expect(faults: &mut Vec<String>, what: &str, count: u64, other: &str, expected: u64) {
    if count != expected {
        faults.push(format!("{count} {what}, but {expected} {other}"));
    }
}

fn outcomes<'a>(produced: u64, inputs: impl Iterator<Item = &'a InputReport>) -> Outcomes {
    let mut sum = Outcomes { produced, ..Outcomes::default() };
    for input in inputs {
        sum.consumed += input.consumed_records;
        sum.waiting += input.waiting_records;
        for (outcome, count) in &input.outcomes {
            *sum.outcomes.entry((*outcome).to_owned()).or_default() += count;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn produced() -> Produced {
        Produced { views: 10, responses: 2, behavior_records: 10, response_records: 2, ..Produced::default() }
    }

    fn reports() -> BTreeMap<i32, PartitionReport> {
        let input = |outcomes: &[(&'static str, u64)], waiting_records| InputReport {
            outcomes: outcomes.to_vec(),
            consumed_records: outcomes.iter().map(|(_, count)| count).sum::<u64>() + waiting_records,
            waiting_records,
            ..InputReport::default()
        };
        let report = |views, waiting| PartitionReport {
            behavior: input(views, waiting),
            responses: input(&[("matched", 1)], 0),
            pairs: vec![("same_user", 1)],
            ..PartitionReport::default()
        };
        BTreeMap::from([
            (0, report(&[("matched", 1), ("ineligible", 4)], 0)),
            (1, report(&[("matched", 1), ("ineligible", 3)], 1)),
        ])
    }

    const COUNTS: Counts = Counts { labelled_views: 2, preference_pairs: 2, paired: 2 };

    #[test]
    fn counts_that_add_up_are_conserved() {
        let conservation = account(&produced(), &reports(), COUNTS);
        assert_eq!(conservation.faults, Vec::<String>::new());
        assert!(conservation.ok);
        assert_eq!((conservation.views.consumed, conservation.views.waiting), (10, 1));
    }

    #[test]
    fn a_record_without_an_outcome_is_a_fault() {
        let mut reports = reports();
        if let Some(report) = reports.get_mut(&0) {
            report.behavior.consumed_records += 1;
        }
        let faults = account(&produced(), &reports, COUNTS).faults;
        assert_eq!(faults, ["11 views read, but 10 written", "10 views ended or waiting, but 11 read"]);
    }

    #[test]
    fn an_exception_is_a_fault_also_when_it_is_counted() {
        let mut reports = reports();
        if let Some(report) = reports.get_mut(&1) {
            report.behavior.outcomes = vec![("matched", 1), ("ineligible", 2), ("evicted", 1)];
        }
        assert_eq!(account(&produced(), &reports, COUNTS).faults, ["1 views evicted, but 0 allowed"]);
    }

    #[test]
    fn an_answer_that_was_not_joined_is_a_fault() {
        let conservation = account(&produced(), &reports(), Counts { labelled_views: 1, ..COUNTS });
        assert!(!conservation.ok && conservation.faults.len() == 3, "{:?}", conservation.faults);
    }
}
